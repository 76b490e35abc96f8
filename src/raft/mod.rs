//! The consensus core: a pure state machine. Time and events go in, effects come out; the same inputs
//! give the same outputs. It does no I/O, reads no clock and draws no random numbers but from its seed.

mod configuration;
mod entry;
mod event;
mod message;
mod observation;
mod settings;

pub use configuration::{Configuration, Member};
pub use entry::{Entry, EntryKind, HardState, Payload, PayloadError};
pub use event::{
    AppendEntries, Committed, Effect, Event, HaltReason, Outcome, Proposal, Refusal, RefusalReason,
};
pub use message::{Append, Message, Promise, Signal, VoteRequest};
pub use observation::{Observation, RoleName, VoteAnswer};
pub use settings::{Settings, SettingsError};
