//! The data directory: whose it is, and opening its parts in the right order.
//!
//! ```text
//! <data-dir>/lock         held while a node runs on it
//! <data-dir>/ballast      space for a start on a full disk: see `ballast.rs`
//! <data-dir>/data/        0700; absent: empty. Appears whole, with an identity in it
//! <data-dir>/data/sled/   identity, and which generation of the state counts
//! <data-dir>/data/state-<number>/   the applied state, a generation each
//! <data-dir>/data/wal/    the log; there once the node belongs to a cluster
//! <data-dir>/data.removed/  the data of the node before, which its cluster removed: see `set_aside.rs`
//! <data-dir>/data.before-recovery/  the data as it was before `kuberaft recover`: see `remade.rs`
//! ```
//!
//! # Joining a cluster, and a crash in between
//! The log is made first, whole, with the cluster's id in it; then the id is recorded. A log without a recorded
//! id is that crash, and opening records the id. (Or sled lost its end: then the log holds all, or begins above
//! the state, which is damage.) A recorded id without a log is damage.

mod audit;
mod place;
mod remade;
mod set_aside;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::descriptors::wait_for;
use super::files::OsFiles;
use super::fit::check_fit;
use super::state::{Database, SledState, StateStore};
use super::wal::{Options, Owner, Recovered, Wal};
use super::{Lock, StorageError};
use crate::raft::{AppendEntries, Configuration};
use crate::types::{ClusterId, NodeId};

pub(super) use audit::read as read_audit;
pub use audit::{AuditRecord, Cause};
pub use place::Place;
pub use remade::{NewData, Remake, claim_empty};
pub use set_aside::{Tombstone, kept_aside, set_aside};

/// The layout of the directory that this version reads and writes.
const FORMAT: u32 = 2;
const IDENTITY: &str = "identity";
const INTENT: &str = "bootstrap_intent";

/// Who the node is that a data directory belongs to. One item of sled's tree `meta`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Layout of the directory.
    format: u32,
    /// Drawn when the directory was first used.
    pub node_id: NodeId,
    /// The name it was first used with.
    pub name: String,
    /// The cluster it belongs to, once it does.
    pub cluster_id: Option<ClusterId>,
    /// The node that was here before, until its cluster removed it: this one may join that cluster, never form one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Tombstone>,
    /// Where in Kubernetes it is at home, if it ever was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// The cluster that this node is about to form: recorded before anyone is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapIntent {
    /// The id that the cluster will have.
    pub cluster_id: ClusterId,
    /// Its first configuration.
    pub configuration: Configuration,
}

/// A locked data directory with an identity.
pub struct DataDir {
    data: PathBuf,
    lock: Lock,
    database: Database,
    identity: Identity,
    intent: Option<BootstrapIntent>,
    options: Options,
}

/// The parts of a member's data directory, for the threads that own them.
pub struct Opened {
    /// Keep it as long as any of the others.
    pub lock: Lock,
    /// Who this is.
    pub identity: Identity,
    /// The log.
    pub wal: Wal<OsFiles>,
    /// What the log holds.
    pub recovered: Recovered,
    /// The applied state as of its newest checkpoint, not yet read.
    pub state: SledState,
}

impl DataDir {
    /// Opens the data directory `root` of the node `name`, and makes it if it is not there. `wait` is called
    /// while another process holds the lock: see [`Lock::acquire`]. Afterwards [`DataDir::identity`] is durable.
    ///
    /// # Errors
    /// Any [`StorageError`]; [`StorageError::Identity`] if the directory was first used under another name.
    pub fn open(
        root: &Path,
        name: &str,
        options: Options,
        wait: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Self, StorageError> {
        fs::create_dir_all(root).map_err(StorageError::disk("create", root))?;
        let lock = Lock::acquire(root, wait)?;
        let data = root.join("data");
        set_aside::finish(root)?;
        if !exists(&data)? {
            create(root, &data, name)?;
        }
        // Also if it was there: the process that made it may have been killed right before this.
        sync_with_parents(root)?;
        let mut database = Database::open_existing(&data.join("sled"))?;
        let mut identity = read_identity(&database, &data)?;
        if identity.name != name {
            let what = format!("it was first used as {:?}, not {name:?}", identity.name);
            return Err(StorageError::Identity { path: root.to_owned(), what });
        }
        if let Some(tombstone) = database.get(set_aside::TOMBSTONE)? {
            drop(database);
            set_aside::replace(root, name, tombstone)?;
            database = Database::open_existing(&data.join("sled"))?;
            identity = read_identity(&database, &data)?;
        }
        Self::opened(data, lock, database, identity, options)
    }

    /// Opens the data directory `root` of whatever node, which must not be running.
    ///
    /// # Errors
    /// Any [`StorageError`]; [`StorageError::Locked`] while a node runs on it; [`StorageError::NoData`] if there is none;
    /// [`StorageError::Identity`] if its node was removed from its cluster.
    pub fn open_existing(root: &Path, options: Options) -> Result<Self, StorageError> {
        let refused = |what: &str| StorageError::Identity { path: root.to_owned(), what: what.to_owned() };
        let data = root.join("data");
        if !exists(&data)? && !remade::is_unfinished(root)? {
            return Err(StorageError::NoData(root.to_owned()));
        }
        let lock = Lock::acquire(root, &mut |_| ControlFlow::Break(()))?;
        set_aside::finish(root)?;
        let database = Database::open_existing(&data.join("sled"))?;
        let identity = read_identity(&database, &data)?;
        if database.get::<Tombstone>(set_aside::TOMBSTONE)?.is_some() {
            return Err(refused("its node was removed from its cluster"));
        }
        Self::opened(data, lock, database, identity, options)
    }

    /// Whether the node whose data directory is `root` has made its log.
    ///
    /// # Errors
    /// [`StorageError::Disk`].
    pub fn has_log(root: &Path) -> Result<bool, StorageError> {
        Wal::exists(&OsFiles, &root.join("data").join("wal"))
    }

    fn opened(
        data: PathBuf,
        lock: Lock,
        database: Database,
        identity: Identity,
        options: Options,
    ) -> Result<Self, StorageError> {
        let intent = database.get(INTENT)?;
        let mut opened = Self { data, lock, database, identity, intent, options };
        opened.settle_cluster()?;
        Ok(opened)
    }

    /// What was done to the data other than by a running node, the oldest first.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], [`StorageError::Disk`].
    pub fn audit(&self) -> Result<Vec<AuditRecord>, StorageError> {
        audit::read(&self.database)
    }

    /// Who the node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The cluster that this node was about to form, if it was.
    #[must_use]
    pub fn intent(&self) -> Option<&BootstrapIntent> {
        self.intent.as_ref()
    }

    /// Records durably what is about to be formed; replaces an earlier intent.
    ///
    /// # Errors
    /// As any write: [`StorageError::Disk`], [`StorageError::Damaged`].
    pub fn record_intent(&mut self, intent: BootstrapIntent) -> Result<(), StorageError> {
        self.database.put(INTENT, &intent)?;
        self.database.flush()?;
        self.intent = Some(intent);
        Ok(())
    }

    /// Makes the node a member of `cluster_id`, durably and for good: makes its log, with `first` in it if given.
    /// Again with the same id it does nothing.
    ///
    /// # Errors
    /// [`StorageError::Identity`] if it belongs to another cluster; as any write.
    pub fn join(&mut self, cluster_id: ClusterId, first: Option<&AppendEntries>) -> Result<(), StorageError> {
        match self.identity.cluster_id {
            Some(recorded) if recorded == cluster_id => return Ok(()),
            Some(recorded) => {
                let what = format!("it is of cluster {recorded}, not {cluster_id}");
                return Err(StorageError::Identity { path: self.data.clone(), what });
            }
            None => {}
        }
        let owner = Owner { node_id: self.identity.node_id, cluster_id };
        drop(Wal::create(OsFiles, &self.wal_path(), owner, self.options, first)?);
        sync(&self.data)?;
        self.record_cluster(cluster_id)
    }

    /// Opens log and state of a member.
    ///
    /// # Errors
    /// Any [`StorageError`]; [`StorageError::Damaged`] also if log and state do not fit together.
    ///
    /// # Panics
    /// If the node does not belong to a cluster yet: see [`Identity::cluster_id`].
    pub fn into_parts(self) -> Result<Opened, StorageError> {
        let cluster_id = self.identity.cluster_id.expect("only a member has a log");
        let owner = Owner { node_id: self.identity.node_id, cluster_id };
        let state = SledState::open(self.database.clone(), &self.data)?;
        let (wal, recovered) = Wal::open(OsFiles, &self.wal_path(), owner, self.options)?;
        check_fit(&self.data, &recovered, state.checkpoint())?;
        state.remove_others()?;
        Ok(Opened { lock: self.lock, identity: self.identity, wal, recovered, state })
    }

    fn wal_path(&self) -> PathBuf {
        self.data.join("wal")
    }

    fn record_cluster(&mut self, cluster_id: ClusterId) -> Result<(), StorageError> {
        let identity = Identity { cluster_id: Some(cluster_id), ..self.identity.clone() };
        self.database.put(IDENTITY, &identity)?;
        self.database.flush()?;
        self.identity = identity;
        Ok(())
    }

    fn settle_cluster(&mut self) -> Result<(), StorageError> {
        let wal = self.wal_path();
        match (self.identity.cluster_id, Wal::exists(&OsFiles, &wal)?) {
            (Some(_), true) | (None, false) => Ok(()),
            (Some(cluster_id), false) => {
                let what =
                    format!("the log is missing, although the node is a member of cluster {cluster_id}");
                Err(StorageError::damaged(&wal, what))
            }
            (None, true) => {
                let owner = Wal::owner(&OsFiles, &wal)?;
                if owner.node_id != self.identity.node_id {
                    let what = format!("the log is of {owner}, the directory of {}", self.identity.node_id);
                    return Err(StorageError::Identity { path: wal, what });
                }
                self.record_cluster(owner.cluster_id)
            }
        }
    }
}

/// Makes `data` with an identity in it, whole or not at all; durable once its name is.
fn create(root: &Path, data: &Path, name: &str) -> Result<(), StorageError> {
    let new = prepare(root, &Identity::new(root, name)?, &[])?;
    fs::rename(&new, data).map_err(StorageError::disk("rename", data))
}

/// Makes the names in a directory durable, and those that lead to it, as far up as its file system goes: the process
/// that made it, and the ones above it, need not have done that.
fn sync_with_parents(root: &Path) -> Result<(), StorageError> {
    sync(root)?;
    let absolute = fs::canonicalize(root).map_err(StorageError::disk("resolve", root))?;
    let disk = device(&absolute)?;
    for directory in absolute.ancestors().skip(1) {
        if device(directory)? != disk {
            break;
        }
        match sync(directory) {
            // One that this user may not even list is not one that this user made.
            Err(StorageError::Disk { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                break;
            }
            done => done?,
        }
    }
    Ok(())
}

/// Which file system a directory is on.
fn device(path: &Path) -> Result<u64, StorageError> {
    fs::metadata(path).map(|found| found.dev()).map_err(StorageError::disk("stat", path))
}

impl Identity {
    /// A new node's.
    fn new(root: &Path, name: &str) -> Result<Self, StorageError> {
        let node_id = NodeId(random(root)?);
        Ok(Self {
            format: FORMAT,
            node_id,
            name: name.to_owned(),
            cluster_id: None,
            retired: None,
            place: None,
        })
    }
}

/// Makes a node's directory without a log, durable but for its name, which is returned.
fn prepare(root: &Path, identity: &Identity, audit: &[AuditRecord]) -> Result<PathBuf, StorageError> {
    let new = root.join("data.new");
    if exists(&new)? {
        fs::remove_dir_all(&new).map_err(StorageError::disk("remove", &new))?;
    }
    fs::DirBuilder::new().mode(0o700).create(&new).map_err(StorageError::disk("create", &new))?;
    let sled = new.join("sled");
    let database = Database::open(&sled)?;
    database.put(IDENTITY, identity)?;
    audit::write(&database, audit)?;
    SledState::create(&database, &new)?;
    drop(database);
    // sled itself never flushes `conf`, without which it cannot read the rest.
    for file in ["conf", "db"].map(|name| sled.join(name)) {
        sync(&file)?;
    }
    sync(&sled)?;
    sync(&new)?;
    Ok(new)
}

fn random(path: &Path) -> Result<u64, StorageError> {
    getrandom::u64().map_err(|error| StorageError::disk("draw a node id for", path)(io::Error::other(error)))
}

pub(super) fn read_identity(database: &Database, data: &Path) -> Result<Identity, StorageError> {
    #[derive(Deserialize)]
    struct Layout {
        format: u32,
    }
    let layout: Option<Layout> = database.get(IDENTITY)?;
    let Some(Layout { format }) = layout else {
        return Err(StorageError::damaged(&data.join("sled"), "the node's identity is missing"));
    };
    if format != FORMAT {
        return Err(StorageError::Format { path: data.to_owned(), found: format, supported: FORMAT });
    }
    Ok(database.get(IDENTITY)?.expect("read a moment ago"))
}

pub(super) fn exists(path: &Path) -> Result<bool, StorageError> {
    path.try_exists().map_err(StorageError::disk("stat", path))
}

/// Makes a file's content, or a directory's names, durable.
pub(super) fn sync(path: &Path) -> Result<(), StorageError> {
    wait_for(path, || fs::File::open(path))
        .and_then(|file| file.sync_all())
        .map_err(StorageError::disk("fsync", path))
}

#[cfg(test)]
mod tests;
