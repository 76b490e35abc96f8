//! What was done to a node's data other than by a running node: recorded in the data itself.

use serde::{Deserialize, Serialize};

use super::super::StorageError;
use super::super::state::Database;
use super::Place;
use crate::types::{ClusterId, LogPosition, NodeId};

/// Item of sled's tree `meta`.
const AUDIT: &str = "audit";

/// One deed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When, in milliseconds of Unix time, by the clock of the machine.
    pub unix_ms: u64,
    /// Version of the program that did it.
    pub version: String,
    /// Why there is a new cluster.
    pub cause: Cause,
    /// The cluster that the data was of.
    pub old_cluster_id: ClusterId,
    /// The cluster that it is of since.
    pub cluster_id: ClusterId,
    /// The last entry of the old cluster that counts.
    pub last: LogPosition,
    /// The members that the old cluster had, but for this node.
    pub dropped: Vec<(NodeId, String)>,
    /// Where in Kubernetes the data was at home, if that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Place>,
    /// Where it is at home since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Place>,
}

/// Why a new cluster was made of an old one's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// `kuberaft recover`: a survivor of a lost quorum continues alone.
    Recovered,
    /// `kuberaft snapshot restore`.
    Restored,
    /// `kuberaft recover --adopt`: a copy, or a moved volume, becomes a cluster of its own.
    Adopted,
}

pub(in crate::storage) fn read(database: &Database) -> Result<Vec<AuditRecord>, StorageError> {
    Ok(database.get(AUDIT)?.unwrap_or_default())
}

pub(super) fn write(database: &Database, records: &[AuditRecord]) -> Result<(), StorageError> {
    if records.is_empty() { Ok(()) } else { database.put(AUDIT, &records) }
}
