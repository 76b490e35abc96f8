//! What survives a restart: a write-ahead log for term, vote and entries; sled for identity and applied state.
//!
//! The log is a file format of its own because sled cuts its own log silently at the first bad byte: harmless
//! for state that the log can rebuild, fatal for a vote. Nothing here retries a failed flush: after one, what
//! the kernel still holds of the file is unknown, so the store is poisoned and the process ends.

mod error;
pub mod files;
pub mod wal;

pub use error::{Damage, StorageError};
