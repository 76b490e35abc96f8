//! What the transport tells the core and asks of it, once there is one.

use std::sync::{Arc, OnceLock};

use crate::driver::{Handle, Inbox};
use crate::transport::{OnLost, OnSnapshotEnd, StillLeads};

/// Tells the core that messages it believes sent may be lost.
pub(super) fn on_lost(inbox: Arc<OnceLock<Inbox>>) -> OnLost {
    Arc::new(move |to, unsent| {
        if let Some(inbox) = inbox.get()
            && !inbox.send_dropped(to, unsent)
        {
            // The next heartbeat finds the loss, too.
            tracing::debug!(%to, "the core is too busy to be told of a lost stream");
        }
    })
}

/// Tells the core what became of a snapshot for a peer.
pub(super) fn on_snapshot_end(inbox: Arc<OnceLock<Inbox>>) -> OnSnapshotEnd {
    Arc::new(move |outcome| {
        if let Some(inbox) = inbox.get() {
            inbox.snapshot_sent(outcome);
        }
    })
}

/// Whether this node leads in a term, as far as the transport may act on it.
pub(super) fn still_leads(handle: Arc<OnceLock<Handle>>) -> StillLeads {
    Arc::new(move |term| handle.get().is_some_and(|handle| handle.leads(term)))
}
