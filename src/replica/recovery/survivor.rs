//! All that a node's disk holds, for a cluster that is to be made of it. The disk is only read.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use super::{Disk, PIECE_BYTES};
use crate::kv::{Command, Store, View};
use crate::raft::{Committed, Entry, HardState, Payload, Snapshot};
use crate::replica::snapshot::Shelf;
use crate::replica::{Apply, ApplyInput, ApplyOutput, Unappliable};
use crate::storage::files::Files;
use crate::storage::{Fit, StateStore, StorageError, check_fit};
use crate::types::LogIndex;

/// Why nothing could be made of a disk.
#[derive(Debug, thiserror::Error)]
pub enum SurvivorError {
    /// The disk failed or is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An entry that this program cannot apply, and that is not to be skipped.
    #[error(transparent)]
    Unappliable(#[from] Unappliable),
    /// An entry that is to be skipped, and need not be.
    #[error("nothing was changed: entry {index} is not to be skipped, {why}")]
    NotSkipped {
        /// The entry.
        index: LogIndex,
        /// Why not.
        why: &'static str,
    },
}

/// The state after the log's last entry, be that known to be committed or not.
pub struct Survivor {
    /// Its position in the log.
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

/// Applies everything in the log to the state, in memory, but for the entries to `skip`, which nobody can apply.
///
/// # Errors
/// [`SurvivorError`]
pub fn survivor<F: Files, S: StateStore>(
    disk: Disk<F, S>,
    skip: &BTreeSet<LogIndex>,
) -> Result<Survivor, SurvivorError> {
    let Disk { wal, found, state, .. } = disk;
    let covered = state.checkpoint();
    // If the log has not restarted behind an installed snapshot yet, it holds nothing that counts.
    let last = match check_fit(wal.directory(), &found, covered)? {
        Fit::Joined => found.last.index,
        Fit::BeginsAnew => covered.applied.index,
    };
    let mut store = Store::default();
    state.restore(&mut |record| store.restore(record))?;
    let staged: Shelf<S::Staging> = Shelf::default();
    let mut apply = Apply::new(Arc::new(RwLock::new(store)), staged.stores(), covered);
    let outside = |index: &&LogIndex| **index <= apply.applied() || **index > last;
    if let Some(index) = skip.iter().find(outside) {
        let why = "the log holds no such entry that is not part of the saved state";
        return Err(SurvivorError::NotSkipped { index: *index, why });
    }
    while apply.applied() < last {
        let entries = wal.read(apply.applied().next(), last, PIECE_BYTES)?;
        let entries = entries.into_iter().map(|entry| without(entry, skip));
        let entries = entries.map(|entry| Ok(Committed { entry: entry?, proposal: None }));
        let entries = entries.collect::<Result<_, SurvivorError>>()?;
        apply.handle(vec![ApplyInput::Entries(entries)], &mut ApplyOutput::default())?;
    }
    let cut = apply.cut();
    let mut snapshot = cut.snapshot;
    // As at any start: the log may no longer hold the entry that carried the newest time.
    snapshot.time = snapshot.time.max(found.time);
    let hard_state = found.hard_state;
    let commit_index = found.commit_index.max(covered.applied.index);
    Ok(Survivor { snapshot, view: cut.view, hard_state, commit_index })
}

/// The entry; without its command if that is to be skipped.
fn without(entry: Entry, skip: &BTreeSet<LogIndex>) -> Result<Entry, SurvivorError> {
    if !skip.contains(&entry.index) {
        return Ok(entry);
    }
    match &entry.payload {
        Payload::Command(data) if Command::decode(data).is_err() => {
            Ok(Entry { payload: Payload::Noop, ..entry })
        }
        Payload::Command(_) | Payload::Noop | Payload::Configuration(_) => {
            Err(SurvivorError::NotSkipped { index: entry.index, why: "it can be applied" })
        }
    }
}
