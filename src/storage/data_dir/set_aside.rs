//! The data of a node that was removed from its cluster: kept beside the new one, never used again.
//!
//! ```text
//! <data-dir>/data.new/      the new node's directory, being made
//! <data-dir>/data.next/     the same, whole: as long as it is here, it is to become `data`
//! <data-dir>/data.removed/  the removed node's data; only the newest is kept
//! ```
//! A recovery ([`super::Remake`]) puts its directory in the place of the old one in the same way, by other names.
//!
//! First the removal is recorded in the old data, so that whatever happens next, that node never runs again. Then the
//! new directory, which remembers the cluster, takes its place; an opening finishes what a crash cut short.

use std::fs;
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
                fs::remove_dir_all(&aside).map_err(StorageError::disk("remove", &aside))?;
            }
            rename(&data, &aside)?;
            sync(root)?;
        }
        rename(&next, &data)?;
        sync(root)?;
    }
    Ok(())
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    fs::rename(from, to).map_err(StorageError::disk("rename", from))
}
