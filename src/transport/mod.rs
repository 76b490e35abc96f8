//! Peers over gRPC: one long-lived stream from each node to each other node, and the questions that
//! come before it.
//!
//! Order of use at start: [`PeerService::new`] and [`serve`]; [`bootstrap`] until this node belongs to a
//! cluster; [`Peers::new`] and [`PeerService::run`] once there is something to hand messages to.
//!
//! What goes out: [`Peers::send`] never blocks; a message that cannot be queued, or that is lost with its
//! stream, is reported. What comes in is checked as it is decoded and goes to a [`Sink`]. Addresses are looked up
//! again at each dial.

mod administration;
mod bootstrap;
mod convert;
mod deliver;
mod dial;
mod directory;
mod elsewhere;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hello;
mod incoming;
mod log_limit;
mod outbox;
mod peers;
mod proto;
mod question;
mod senders;
mod service;
mod settings;
mod snapshot_convert;
mod snapshot_sender;
mod snapshot_service;

pub use administration::{AdminFuture, AdminOutcome, Administrator};
pub use bootstrap::{Answer, BootstrapError, BootstrapStore, Entrance, StoreError, Surroundings, bootstrap};
pub use convert::{ENTRY_BYTES_MAX, GRPC_BYTES_MAX, ITEMS_MAX, Malformed};
pub use dial::{Resolver, Silence};
pub use directory::{PeerDirectory, PeerInfo};
pub use elsewhere::{Asked, Elsewhere, Trouble, Watched};
pub use outbox::Dropped;
pub use peers::{OnLost, Peers, PeersContext};
pub use question::who_answers;
pub use senders::Neighbours;
pub use service::{PeerService, Sink, serve};
pub use settings::Settings;
pub use snapshot_sender::{OnSnapshotEnd, StillLeads};

/// What a peer makes of a message: encoded, decoded and checked; `None` if its checks refuse it. For the simulator.
#[must_use]
pub fn carried(message: crate::raft::Message) -> Option<crate::raft::Message> {
    convert::from_wire(convert::to_wire(message)).ok()
}

#[cfg(test)]
mod tests;
