//! A member's data made again from a state: by `kuberaft recover` from the node's own, by `kuberaft snapshot restore`
//! from a backup.
//!
//! ```text
//! <data-dir>/data.new/              the directory, being made
//! <data-dir>/data.recovered/        the same, whole: as long as it is here, it is to become `data`
//! <data-dir>/data.before-recovery/  what was `data`; see `set_aside.rs` for what was there before
//! ```
//!
//! The old data is only read. Until the new one has its second name, a crash leaves the old one in force; from then on,
//! the next process that opens the directory completes the exchange. Nothing is ever both.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::descriptors::wait_for;
use super::super::files::OsFiles;
use super::super::state::{Checkpoint, Database, SledStaging, SledState, StateStore};
use super::super::wal::{Options, Owner, Wal};
use super::super::{Lock, StorageError};
use super::set_aside::{finish, rename};
use super::{AuditRecord, FORMAT, Identity, Place, exists, prepare, sync, sync_with_parents};
use crate::raft::AppendEntries;
use crate::types::{ClusterId, NodeId};

pub(super) const WHOLE: &str = "data.recovered";
pub(super) const BEFORE: &str = "data.before-recovery";

/// Whose data it will be.
#[derive(Clone, Debug)]
pub struct Remake {
    /// The node.
    pub node_id: NodeId,
    /// The node's name.
    pub name: String,
    /// The new cluster.
    pub cluster_id: ClusterId,
    /// Where in Kubernetes it will be at home.
    pub place: Option<Place>,
    /// What is to be told of it later, the oldest first.
    pub audit: Vec<AuditRecord>,
}

/// Data that is being made. Dropping it removes it, as long as it is not whole.
pub struct NewData {
    root: PathBuf,
    new: PathBuf,
    owner: Owner,
    state: Option<SledState>,
    options: Options,
}

/// Takes the directory `root` for a node that is new, and makes it if it is not there.
///
/// # Errors
/// [`StorageError::Identity`] unless it is empty, [`StorageError::Locked`], [`StorageError::Disk`].
pub fn claim_empty(root: &Path) -> Result<Lock, StorageError> {
    /// What an empty directory may hold: the lock, a ballast, an attempt that failed, what file systems put there.
    const NOTHING: [&str; 4] = ["lock", "ballast", "data.new", "lost+found"];
    fs::create_dir_all(root).map_err(StorageError::disk("create", root))?;
    for entry in wait_for(root, || fs::read_dir(root)).map_err(StorageError::disk("list", root))? {
        let name = entry.map_err(StorageError::disk("list", root))?.file_name();
        if !NOTHING.iter().any(|nothing| *nothing == name) {
            let what = format!("it is not empty: there is {:?} in it", name.display().to_string());
            return Err(StorageError::Identity { path: root.to_owned(), what });
        }
    }
    Lock::acquire(root, &mut |_| std::ops::ControlFlow::Break(()))
}

/// Whether an exchange was cut short.
pub(super) fn is_unfinished(root: &Path) -> Result<bool, StorageError> {
    exists(&root.join(WHOLE))
}

impl NewData {
    /// Begins next to what is in `root`, whose lock is held.
    ///
    /// # Errors
    /// As any write.
    pub fn begin(root: &Path, _lock: &Lock, remake: Remake, options: Options) -> Result<Self, StorageError> {
        let Remake { node_id, name, cluster_id, place, audit } = remake;
        let identity =
            Identity { format: FORMAT, node_id, name, cluster_id: Some(cluster_id), retired: None, place };
        let new = prepare(root, &identity, &audit)?;
        let state = SledState::open(Database::open_existing(&new.join("sled"))?, &new)?;
        let owner = Owner { node_id, cluster_id };
        Ok(Self { root: root.to_owned(), new, owner, state: Some(state), options })
    }

    /// Where the state is to be written.
    ///
    /// # Errors
    /// As any write.
    ///
    /// # Panics
    /// Never: the state is there until it is installed.
    pub fn stage(&self) -> Result<SledStaging, StorageError> {
        self.state.as_ref().expect("it is there until it is installed").stage()
    }

    /// Makes it the node's data: `staging` is the state as of `checkpoint`, behind which the log begins with `first`.
    /// Durable. Returns where the data is that was there before.
    ///
    /// # Errors
    /// As any write, whereupon the data from before is in force.
    ///
    /// # Panics
    /// Never: the state is there until it is installed, here.
    pub fn install(
        mut self,
        staging: SledStaging,
        checkpoint: Checkpoint,
        first: &AppendEntries,
    ) -> Result<Option<PathBuf>, StorageError> {
        let before = checkpoint.applied;
        let mut state = self.state.take().expect("it is there until it is installed");
        state.install(staging, checkpoint)?;
        drop(state);
        let mut wal = Wal::create(OsFiles, &self.new.join("wal"), self.owner, self.options, None)?;
        wal.reset(before, first.hard_state)?;
        wal.append(first);
        wal.flush()?;
        drop(wal);
        sync(&self.new)?;
        let had_data = exists(&self.root.join("data"))?;
        rename(&self.new, &self.root.join(WHOLE))?;
        sync_with_parents(&self.root)?;
        finish(&self.root)?;
        Ok(had_data.then(|| self.root.join(BEFORE)))
    }
}

impl Drop for NewData {
    fn drop(&mut self) {
        self.state = None;
        // What cannot be removed now is removed by the next attempt.
        let _ = fs::remove_dir_all(&self.new);
    }
}
