//! All that a node's disk holds, for a cluster that is to be made of it. The disk is only read.

use std::sync::{Arc, RwLock};

use super::{Disk, PIECE_BYTES};
use crate::kv::{Store, View};
use crate::raft::{Committed, HardState, Snapshot};
use crate::replica::snapshot::Shelf;
use crate::replica::{Apply, ApplyInput, ApplyOutput};
use crate::storage::files::Files;
use crate::storage::{Fit, StateStore, StorageError, check_fit};
use crate::types::LogIndex;

/// The state after the log's last entry, be that known to be committed or not.
pub struct Survivor {
    /// Where it stands in the log.
    pub snapshot: Snapshot,
    /// The state.
    pub view: View,
    /// The newest term that the node knows, and its vote.
    pub hard_state: HardState,
    /// Entries up to here are known to be committed; those above may never have been.
    pub commit_index: LogIndex,
}

impl Survivor {
    /// How many entries it has of which it is not known whether they were committed.
    #[must_use]
    pub fn uncommitted(&self) -> u64 {
        self.snapshot.position.index.0.saturating_sub(self.commit_index.0)
    }
}

/// Applies everything in the log to the state, in memory.
///
/// # Errors
/// The disk failed or is damaged.
pub fn survivor<F: Files, S: StateStore>(disk: Disk<F, S>) -> Result<Survivor, StorageError> {
    let Disk { wal, found, state, .. } = disk;
    let covered = state.checkpoint();
    // If the log has not begun anew behind an installed snapshot yet, it holds nothing that counts.
    let last = match check_fit(wal.directory(), &found, covered)? {
        Fit::Joined => found.last.index,
        Fit::BeginsAnew => covered.applied.index,
    };
    let mut store = Store::default();
    state.restore(&mut |record| store.restore(record))?;
    let staged: Shelf<S::Staging> = Shelf::default();
    let mut apply = Apply::new(Arc::new(RwLock::new(store)), staged.stores(), covered);
    while apply.applied() < last {
        let entries = wal.read(apply.applied().next(), last, PIECE_BYTES)?;
        let entries = entries.into_iter().map(|entry| Committed { entry, proposal: None });
        apply.handle(vec![ApplyInput::Entries(entries.collect())], &mut ApplyOutput::default());
    }
    let cut = apply.cut();
    let mut snapshot = cut.snapshot;
    // As at any start: the log may no longer hold the entry that carried the newest time.
    snapshot.time = snapshot.time.max(found.time);
    let hard_state = found.hard_state;
    let commit_index = found.commit_index.max(covered.applied.index);
    Ok(Survivor { snapshot, view: cut.view, hard_state, commit_index })
}
