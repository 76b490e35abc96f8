//! Does what administrators and joining nodes ask for: here, if this node leads, else at the leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::driver::Handle;
use crate::membership::{
    AdminError, AdminReason, AdminRequest, ClusterView, JoinStep, is_done, on_join, on_join_without_leader,
    removed_by,
};
use crate::raft::NewMember;
use crate::transport::{AdminFuture, AdminOutcome, Administrator, Peers};
use crate::types::{LogIndex, NodeId};

/// Pause before a refused attempt is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Changes that joining may take: the old node out, the new one in; once more if others change the members meanwhile.
const JOIN_STEPS_MAX: usize = 4;

/// A running replica, to be administered. Clones share it.
#[derive(Clone)]
pub(super) struct Administration(Arc<Parts>);

struct Parts {
    handle: Handle,
    peers: Peers,
    election_timeout: Duration,
}

impl Administration {
    pub(super) fn new(handle: Handle, peers: Peers, election_timeout: Duration) -> Self {
        Self(Arc::new(Parts { handle, peers, election_timeout }))
    }
}

impl Administrator for Administration {
    fn at_leader(&self, request: AdminRequest, again: bool, timeout: Duration) -> AdminFuture {
        let parts = Arc::clone(&self.0);
        Box::pin(async move { parts.at_leader(request, again, timeout).await })
    }

    fn anywhere(&self, request: AdminRequest, timeout: Duration) -> AdminFuture {
        let parts = Arc::clone(&self.0);
        Box::pin(async move { parts.anywhere(request, timeout).await })
    }

    fn removed_by(&self, id: NodeId) -> Option<LogIndex> {
        let status = self.0.handle.status();
        removed_by(&status.configuration, status.configuration_index, status.commit_index, id)
    }
}

impl Parts {
    /// Repeats what may succeed a moment later, until `timeout`.
    async fn anywhere(&self, request: AdminRequest, timeout: Duration) -> AdminOutcome {
        let deadline = Instant::now() + timeout;
        let mut again = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.attempt(&request, again, left).await {
                Ok(index) => return Ok(index),
                Err(error) => error,
            };
            // Joining nodes ask again by themselves, and know better what has changed.
            let is_over =
                matches!(request, AdminRequest::Join(_)) || Instant::now() + RETRY_PAUSE >= deadline;
            if is_over || !error.reason.is_retryable() {
                return Err(error);
            }
            again |= error.reason.may_be_done();
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Once, at whoever leads now.
    async fn attempt(&self, request: &AdminRequest, again: bool, timeout: Duration) -> AdminOutcome {
        let status = self.handle.status();
        match (status.leader, request) {
            (Some(leader), _) if leader == status.node_id => {
                self.at_leader(request.clone(), again, timeout).await
            }
            (Some(leader), _) => self.peers.ask_leader(leader, request.clone(), again, timeout).await,
            (None, AdminRequest::Join(new)) => Err(on_join_without_leader(&status.configuration, new)),
            (None, _) => Err(AdminError::new(AdminReason::NoLeader, "no leader is known")),
        }
    }

    async fn at_leader(&self, request: AdminRequest, again: bool, timeout: Duration) -> AdminOutcome {
        match request {
            AdminRequest::Change { change, expected } => {
                let status = self.handle.status();
                if again && is_done(&change, &status.configuration) {
                    return Ok(status.configuration_index);
                }
                Ok(self.handle.change_members(change, expected, timeout).await?)
            }
            AdminRequest::Transfer { to } => {
                let status = self.handle.status();
                if again && (to.is_none() || to == status.leader) {
                    return Ok(status.commit_index);
                }
                Ok(self.handle.transfer_leadership(to, timeout).await?)
            }
            AdminRequest::Join(new) => self.join(&new, timeout).await,
        }
    }

    async fn join(&self, new: &NewMember, timeout: Duration) -> AdminOutcome {
        let deadline = Instant::now() + timeout;
        for _ in 0..JOIN_STEPS_MAX {
            let status = self.handle.status();
            if status.leader != Some(status.node_id) {
                return Err(AdminError::new(AdminReason::NoLeader, "this node does not lead any more"));
            }
            let silent: BTreeMap<NodeId, Duration> =
                status.peers.iter().map(|peer| (peer.id, peer.silent_for)).collect();
            let view = ClusterView {
                own: status.node_id,
                configuration: &status.configuration,
                silent: &silent,
                election_timeout: self.election_timeout,
            };
            let change = match on_join(&view, new) {
                JoinStep::Done => return Ok(status.configuration_index),
                JoinStep::Refuse(error) => return Err(error),
                JoinStep::Change(change) => change,
            };
            tracing::info!(
                name = new.name,
                node_id = %new.id,
                replaces = change.remove.first().map(ToString::to_string),
                "a node joins"
            );
            let left = deadline.saturating_duration_since(Instant::now());
            match self.handle.change_members(change, Some(status.configuration_index), left).await {
                Ok(_) => {}
                Err(refusal) => {
                    let error = AdminError::from(refusal);
                    // The members changed meanwhile: look again.
                    if error.reason != AdminReason::Unexpected {
                        return Err(error);
                    }
                }
            }
        }
        Err(AdminError::new(AdminReason::InProgress, "the members change too fast; ask again"))
    }
}
