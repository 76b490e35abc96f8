//! The key-value state machine: pure, deterministic, driven by committed commands.

mod command;
mod digest;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod outcomes;
mod record;
mod store;
mod view;

pub use command::{Answer, Command, CommandError, Condition, IdempotencyKey, IdempotencyKeyError, Operation};
pub use record::{Record, Remembered, Row};
pub use store::Store;
pub use view::{KeyValue, View};
