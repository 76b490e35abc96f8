//! Reads a data directory without changing it, for `kuberaft debug log` and `kuberaft debug verify`.
//!
//! The log is only read. sled writes whenever it opens, so it is opened on a copy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::StorageError;
use super::data_dir::{AuditRecord, Identity, exists, read_audit, read_identity};
use super::files::OsFiles;
use super::lock::Lock;
use super::state::{Checkpoint, Database, SledState, StateStore, generation_path, generations};
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
    /// The generation that holds it.
    pub generation: u64,
    /// Generations that do not count: unfinished, or not yet removed. The next start removes them.
    pub others: Vec<u64>,
    /// Rows in that checkpoint, all of them verified.
    pub rows: u64,
    /// Outcomes of requests with idempotency keys in it, likewise.
    pub outcomes: u64,
    /// What was done to the data other than by a running node, the oldest first.
    pub audit: Vec<AuditRecord>,
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
    let copy = Copy::new(&data)?;
    copy.take(&sled)?;
    let database = Database::open_existing(&copy.path.join("sled"))?;
    let identity = read_identity(&database, &data)?;
    let audit = read_audit(&database)?;
    let log = match identity.cluster_id {
        None => None,
        Some(cluster_id) => {
            let owner = Owner { node_id: identity.node_id, cluster_id };
            Some(inspect(&OsFiles, &data.join("wal"), Some(owner), &mut |_| {})?)
        }
    };
    let generation = SledState::current_generation(&database)?;
    let others = generations(&data)?.into_iter().filter(|other| *other != generation).collect();
    copy.take(&generation_path(&data, generation))?;
    let state = SledState::open(database, &copy.path)?;
    let (mut rows, mut outcomes) = (0, 0);
    state.restore(&mut |record| match record {
        Record::Row(_) => rows += 1,
        Record::Outcome(_) => outcomes += 1,
    })?;
    let checkpoint = state.checkpoint().clone();
    if let Some(log) = &log {
        super::check_fit(&data, &log.recovered, &checkpoint)?;
    }
    Ok(Report { identity, log, checkpoint, generation, others, rows, outcomes, audit })
}

/// The folder for temporary files is of no use; that says nothing of the data directory.
fn no_copy(operation: &'static str, path: &Path, source: io::Error) -> StorageError {
    let hint = "The state is verified on a copy: set TMPDIR to a folder with enough room for one";
    StorageError::Unusable { operation, path: path.to_owned(), source, hint }
}

/// Copies of sled's directories, removed when dropped.
struct Copy {
    path: PathBuf,
}

impl Copy {
    fn new(data: &Path) -> Result<Self, StorageError> {
        let number = getrandom::u64()
            .map_err(|error| StorageError::disk("draw a name for", data)(std::io::Error::other(error)))?;
        let path = std::env::temp_dir().join(format!("kuberaft-verify-{number:016x}"));
        fs::create_dir(&path).map_err(|error| no_copy("create", &path, error))?;
        Ok(Self { path })
    }

    /// Copies a directory to one of the same name in here.
    fn take(&self, directory: &Path) -> Result<(), StorageError> {
        if !exists(directory)? {
            return Err(StorageError::damaged(directory, "the directory is missing"));
        }
        let name = directory.file_name().expect("a directory in the data directory");
        let target = self.path.join(name);
        fs::create_dir(&target).map_err(|error| no_copy("create", &target, error))?;
        for entry in fs::read_dir(directory).map_err(StorageError::disk("list", directory))? {
            let entry = entry.map_err(StorageError::disk("list", directory))?;
            let from = entry.path();
            if from.is_file() {
                let to = target.join(entry.file_name());
                fs::copy(&from, &to).map_err(|error| match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        no_copy("copy to", &to, error)
                    }
                    _ => StorageError::disk("copy", &from)(error),
                })?;
            }
        }
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What cannot be removed stays in the temporary directory, which is what that is for.
        let _ = fs::remove_dir_all(&self.path);
    }
}
