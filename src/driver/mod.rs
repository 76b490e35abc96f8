//! Runs a replica: a thread for the core, one for the log, one for apply, bounded queues between them.

mod handle;

pub use handle::{Handle, ReadError, Status, WriteError};
