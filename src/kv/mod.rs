//! The key-value state machine: pure, deterministic, driven by committed commands.

mod command;
mod digest;
mod store;

pub use command::{Answer, Command, CommandError, Condition};
pub use store::{KeyValue, Row, Store};
