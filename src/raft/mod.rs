//! The consensus core: a pure state machine. Time and events go in, effects come out; the same inputs
//! give the same outputs. It does no I/O, reads no clock and draws no random numbers but from its seed.
//!
//! `rules` answers each question that safety depends on. The other files are the mechanism that asks.

mod change;
mod check;
mod compaction;
mod configuration;
mod divergence;
mod election;
mod entry;
mod event;
mod follower;
mod install;
mod leader;
mod leap;
mod lease;
mod log;
mod members;
mod message;
mod node;
mod observation;
mod progress;
mod promotion;
mod proposals;
mod random;
mod reach;
mod read_index;
mod reads;
mod reconfiguration;
mod removal;
mod replication;
mod role;
#[cfg_attr(feature = "planted-bugs", path = "rules/planted.rs")]
mod rules;
mod settings;
mod snapshot;
#[cfg(test)]
mod testing;
mod timing;
mod transfer;
mod trouble;

pub use change::{AdminRefusal, Change, NewMember};
pub use check::{NUMBER_MAX, Unfit};
pub use configuration::{Configuration, FEATURE_LEVEL, MEMBERS_MAX, Member};
pub use divergence::STATE_DIGESTS_MAX;
pub use entry::{Entry, EntryKind, HardState, Payload, PayloadError};
pub use event::{
    AppendEntries, Committed, Effect, Event, HaltReason, Outcome, Proposal, Refusal, RefusalReason,
};
pub use log::Recovered;
pub use message::{Append, ForwardAnswer, Load, Message, Promise, Signal, VoteRequest};
pub use node::{PeerStatus, Raft, Status};
pub use observation::{Observation, RoleName, VoteAnswer};
pub use rules::Rules;
pub use settings::{Settings, SettingsError};
pub use snapshot::Snapshot;
