//! Reads a data directory without changing it, for `kuberaft debug log` and `kuberaft debug verify`.
//!
//! The log is only read. sled writes whenever it opens, so it is opened on a copy.

use std::fs;
use std::path::{Path, PathBuf};

use super::StorageError;
use super::data_dir::{Identity, exists, read_identity};
use super::files::OsFiles;
use super::lock::Lock;
use super::state::{Checkpoint, Database, SledState, StateStore};
use super::wal::{Inspected, LogRecord, Owner, inspect};
use crate::kv::Record;

/// What a data directory holds.
#[derive(Debug)]
pub struct Report {
    /// Who the node is.
    pub identity: Identity,
    /// What its log holds; `None` before it belongs to a cluster.
    pub log: Option<Inspected>,
    /// The newest checkpoint of its state.
    pub checkpoint: Checkpoint,
    /// Rows in that checkpoint, all of them verified.
    pub rows: u64,
}

/// Calls `see` with every record of the log in the data directory `root`, in order; those before damage, too.
///
/// # Errors
/// [`StorageError::Damaged`] where the log is; [`StorageError::Locked`] while a node runs on the directory.
pub fn log(root: &Path, see: &mut dyn FnMut(&LogRecord)) -> Result<Inspected, StorageError> {
    let _lock = Lock::acquire_to_read(root)?;
    inspect(&OsFiles, &root.join("data").join("wal"), None, see)
}

/// Reads everything in the data directory `root` and verifies it.
///
/// # Errors
/// The first thing that is wrong; [`StorageError::Locked`] while a node runs on the directory.
pub fn verify(root: &Path) -> Result<Report, StorageError> {
    let _lock = Lock::acquire_to_read(root)?;
    let data = root.join("data");
    let sled = data.join("sled");
    if !exists(&sled.join("db"))? {
        return Err(StorageError::damaged(&sled, "there is no state: not a data directory, or an empty one"));
    }
    let copy = Copy::of(&sled)?;
    let database = Database::open(&copy.path)?;
    let identity = read_identity(&database, &data)?;
    let log = match identity.cluster_id {
        None => None,
        Some(cluster_id) => {
            let owner = Owner { node_id: identity.node_id, cluster_id };
            Some(inspect(&OsFiles, &data.join("wal"), Some(owner), &mut |_| {})?)
        }
    };
    let state = SledState::open(database)?;
    let mut rows = 0;
    state.restore(&mut |record| rows += u64::from(matches!(record, Record::Row(_))))?;
    let checkpoint = state.checkpoint().clone();
    if let Some(log) = &log {
        super::check_fit(&data, &log.recovered, &checkpoint)?;
    }
    Ok(Report { identity, log, checkpoint, rows })
}

/// A copy of sled's directory, removed when dropped.
struct Copy {
    path: PathBuf,
}

impl Copy {
    fn of(sled: &Path) -> Result<Self, StorageError> {
        let number = getrandom::u64()
            .map_err(|error| StorageError::disk("draw a name for", sled)(std::io::Error::other(error)))?;
        let path = std::env::temp_dir().join(format!("kuberaft-verify-{number:016x}"));
        fs::create_dir(&path).map_err(StorageError::disk("create", &path))?;
        let copy = Self { path };
        for entry in fs::read_dir(sled).map_err(StorageError::disk("list", sled))? {
            let entry = entry.map_err(StorageError::disk("list", sled))?;
            let from = entry.path();
            if from.is_file() {
                fs::copy(&from, copy.path.join(entry.file_name()))
                    .map_err(StorageError::disk("copy", &from))?;
            }
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What cannot be removed stays in the temporary directory, which is what that is for.
        let _ = fs::remove_dir_all(&self.path);
    }
}
