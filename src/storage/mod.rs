//! What survives a restart: a write-ahead log for term, vote and entries; sled for identity and applied state.
//!
//! The log is a file format of its own because sled cuts its own log silently at the first bad byte: harmless
//! for state that the log can rebuild, fatal for a vote. Nothing here retries a failed flush: after one, what
//! the kernel still holds of the file is unknown, so the store is poisoned and the process ends.
//!
//! # A start, in order
//! 1. [`DataDir::open`]: lock, identity; an empty directory gets one.
//! 2. Not in a cluster yet: [`DataDir::record_intent`], [`DataDir::join`].
//! 3. [`DataDir::into_parts`]: the log is read forward and its torn tail cut; the state's newest checkpoint found.
//!    [`check_fit`] says whether they belong together, and whether the log must restart behind the state first.
//! 4. [`StateStore::restore`] into the state machine, then the entries above the checkpoint up to the known
//!    commit index from [`wal::Wal::read`].
//!
//! Whatever is wrong is a [`StorageError`], whose [`StorageError::exit_code`] tells damage (3), a failed disk (4)
//! and another's directory (5) apart.

mod ballast;
pub mod data_dir;
pub mod descriptors;
mod error;
pub mod files;
mod fit;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod inspect;
mod lock;
pub mod space;
pub mod state;
mod sync_file_range;
pub mod wal;

pub use ballast::Ballast;
pub use data_dir::{
    AuditRecord, BootstrapIntent, Cause, DataDir, Identity, NewData, Opened, Place, Remake, Tombstone,
    claim_empty, kept_aside, set_aside,
};
pub use error::{Damage, Elsewhere, StorageError};
pub use fit::{Fit, check_fit};
pub use lock::Lock;
pub use state::{Checkpoint, Staging, StateStore};
