//! The data of a node that was removed from its cluster: kept next to the new one, never used again.
//!
//! ```text
//! <data-dir>/data.new/      the new node's directory, being made
//! <data-dir>/data.next/     the same, whole: as long as it is here, it is to become `data`
//! <data-dir>/data.removed/  the removed node's data
//! <data-dir>/data.removed.1/, …  what was there before, if it is of another cluster or cannot be read
//! ```
//! A recovery ([`super::Remake`]) puts its directory in the place of the old one in the same way, by other names.
//!
//! First the removal is recorded in the old data, so that whatever happens next, that node never runs again. Then the
//! new directory, which remembers the cluster, takes its place; an opening finishes what a crash cut short.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::{Lock, StorageError};
use super::{Database, Identity, exists, prepare, read_identity, remade, sync};
use crate::types::{ClusterId, LogIndex, NodeId};

/// Item of sled's tree `meta`.
pub(super) const TOMBSTONE: &str = "tombstone";

/// A node that was removed from its cluster, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node that was removed.
    pub node_id: NodeId,
    /// The entry that removed it.
    pub removed_by: LogIndex,
}

/// Gives up the identity and the data of the member whose data directory is `root`: entry `removed_by` removed it from
/// its cluster. Nothing may use the directory any more. Returns where the data is now; in its place is the directory
/// of a new node that remembers the cluster.
///
/// # Errors
/// [`StorageError::Identity`] if the directory is of no member; as any write. The next opening tries again.
pub fn set_aside(root: &Path, _lock: &Lock, removed_by: LogIndex) -> Result<PathBuf, StorageError> {
    let data = root.join("data");
    let database = Database::open_existing(&data.join("sled"))?;
    let identity = read_identity(&database, &data)?;
    let Some(cluster_id) = identity.cluster_id else {
        let what = "its node belongs to no cluster".to_owned();
        return Err(StorageError::Identity { path: root.to_owned(), what });
    };
    let tombstone = Tombstone { cluster_id, node_id: identity.node_id, removed_by };
    database.put(TOMBSTONE, &tombstone)?;
    database.flush()?;
    drop(database);
    replace(root, &identity.name, tombstone)?;
    Ok(root.join("data.removed"))
}

/// What is to become `data`, and where `data` goes then.
const REPLACEMENTS: [(&str, &str); 2] = [("data.next", "data.removed"), (remade::WHOLE, remade::BEFORE)];

/// Puts a new node's directory in the place of `data`, whose tombstone is durable.
pub(super) fn replace(root: &Path, name: &str, tombstone: Tombstone) -> Result<(), StorageError> {
    let identity = Identity { retired: Some(tombstone), ..Identity::new(root, name)? };
    let new = prepare(root, &identity, &[])?;
    rename(&new, &root.join("data.next"))?;
    sync(root)?;
    finish(root)
}

/// Finishes what a crash cut short.
pub(super) fn finish(root: &Path) -> Result<(), StorageError> {
    let data = root.join("data");
    for (next, aside) in REPLACEMENTS.map(|(next, aside)| (root.join(next), root.join(aside))) {
        if !exists(&next)? {
            continue;
        }
        if exists(&data)? {
            if exists(&aside)? {
                make_way(root, &aside, &data)?;
            }
            rename(&data, &aside)?;
            sync(root)?;
        }
        rename(&next, &data)?;
        sync(root)?;
    }
    Ok(())
}

/// Frees the name `aside` for `data`. What is there is removed only if it certainly is of the same cluster as what comes:
/// then that is a later state of it. Data of another cluster may be all that is left of it, so it keeps a name of its own.
fn make_way(root: &Path, aside: &Path, data: &Path) -> Result<(), StorageError> {
    let (there, comes) = (cluster_of(aside), cluster_of(data));
    if there.is_some() && there == comes {
        return fs::remove_dir_all(aside).map_err(StorageError::disk("remove", aside));
    }
    let mut number = 1_u64;
    let numbered = loop {
        let mut name = aside.as_os_str().to_owned();
        name.push(format!(".{number}"));
        let path = PathBuf::from(name);
        if !exists(&path)? {
            break path;
        }
        number += 1;
    };
    rename(aside, &numbered)?;
    sync(root)
}

/// The cluster of a data directory; `None` if it has none or cannot be read.
fn cluster_of(data: &Path) -> Option<ClusterId> {
    let database = Database::open_existing(&data.join("sled")).ok()?;
    read_identity(&database, data).ok()?.cluster_id
}

/// Data in the data directory `root` that no node uses any more, and its size in bytes: what was set aside. The node
/// keeps it for as long as nobody removes it.
///
/// # Errors
/// [`StorageError::Disk`].
pub fn kept_aside(root: &Path) -> Result<Vec<(PathBuf, u64)>, StorageError> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(root).map_err(StorageError::disk("list", root))? {
        let path = entry.map_err(StorageError::disk("list", root))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_aside = |aside: &str| name == aside || name.starts_with(&format!("{aside}."));
        if REPLACEMENTS.iter().any(|(_, aside)| is_aside(aside)) {
            let bytes = size_bytes(&path)?;
            kept.push((path, bytes));
        }
    }
    kept.sort();
    Ok(kept)
}

/// What the files below a directory take on the disk.
fn size_bytes(directory: &Path) -> Result<u64, StorageError> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).map_err(StorageError::disk("list", directory))? {
        let entry = entry.map_err(StorageError::disk("list", directory))?;
        let found = entry.metadata().map_err(StorageError::disk("stat", &entry.path()))?;
        bytes += if found.is_dir() { size_bytes(&entry.path())? } else { found.blocks() * 512 };
    }
    Ok(bytes)
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    fs::rename(from, to).map_err(StorageError::disk("rename", from))
}
