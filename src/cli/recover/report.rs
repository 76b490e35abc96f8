//! What `recover -o json` prints.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use super::super::place::{LatchBefore, LatchReport};
use super::{MAY_BE_LOST, Recover};
use crate::server::{Majority, Presence, Recovery};
use crate::storage::Place;
use crate::types::{ClusterId, LogIndex, LogPosition, NodeId, Revision};

/// What there is, what was done or would be.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether it was done; otherwise nothing was changed.
    pub(super) done: bool,
    /// Why it was not, as standard error has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
    data_dir: PathBuf,
    /// Where the data is as it was before.
    pub(super) kept_in: Option<PathBuf>,
    node_id: NodeId,
    old_name: String,
    name: String,
    old_place: Option<Place>,
    place: Option<Place>,
    adopted: bool,
    old_cluster_id: ClusterId,
    /// Another one each time, until it is done.
    cluster_id: ClusterId,
    /// The last entry that the node holds.
    last: LogPosition,
    /// Entries up to here are known to be committed.
    commit_index: LogIndex,
    /// Entries above, which count as committed from now on.
    uncommitted_entries: u64,
    /// Entries that are left out.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    skipped_entries: BTreeSet<LogIndex>,
    revision: Revision,
    keys: usize,
    may_be_lost: &'static str,
    /// Whether a majority of the old cluster's voters is there.
    majority: Majority,
    /// The other members that were asked, and what came of it.
    asked: Vec<Asked>,
    /// The entry that makes the node the only voter.
    founding_entry: LogPosition,
    /// Members that are none any more.
    dropped: Vec<Dropped>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latch: Option<LatchReport>,
}

#[derive(Debug, Serialize)]
struct Asked {
    node_id: NodeId,
    name: String,
    presence: Presence,
}

#[derive(Debug, Serialize)]
struct Dropped {
    node_id: NodeId,
    name: String,
}

impl Report {
    /// Of what is not done yet.
    pub(super) fn new(args: &Recover, recovery: &Recovery, latch: Option<&LatchBefore<'_>>) -> Self {
        let Recovery { identity, survivor, plan, .. } = recovery;
        let asked = recovery.others.iter().map(|(id, other)| Asked {
            node_id: *id,
            name: other.name.clone(),
            presence: other.presence,
        });
        let dropped = plan.dropped.iter().map(|(id, name)| Dropped { node_id: *id, name: name.clone() });
        Self {
            done: false,
            problem: None,
            data_dir: args.data_dir.clone(),
            kept_in: None,
            node_id: identity.node_id,
            old_name: identity.name.clone(),
            name: recovery.name.clone(),
            old_place: identity.place.clone(),
            place: recovery.place.clone(),
            adopted: args.adopt,
            old_cluster_id: recovery.old_cluster_id,
            cluster_id: recovery.cluster_id,
            last: survivor.snapshot.position,
            commit_index: survivor.commit_index,
            uncommitted_entries: survivor.uncommitted(),
            skipped_entries: recovery.skipped.clone(),
            revision: survivor.view.revision(),
            keys: survivor.view.len(),
            may_be_lost: MAY_BE_LOST,
            majority: recovery.majority,
            asked: asked.collect(),
            founding_entry: plan.position,
            dropped: dropped.collect(),
            latch: latch.map(LatchBefore::report),
        }
    }
}
