//! From what is on disk to a replica that is ready to run: the checkpoint, then the log.

mod survivor;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::snapshot::Shelf;
use super::{Apply, ApplyInput, ApplyOutput, Core, Log, Unappliable};
use crate::kv::{Record, Store};
use crate::plant::{Plant, Planted};
use crate::raft::{self, Committed, Configuration, Entry, HardState, Raft, SettingsError};
use crate::storage::files::Files;
use crate::storage::wal::{self, Wal};
use crate::storage::{Checkpoint, Fit, StateStore, StorageError, check_fit};
use crate::types::{FeatureLevel, Instant, LogIndex, LogPosition, NodeId};

type Configurations = Vec<(LogIndex, Arc<Configuration>)>;

pub use survivor::{Survivor, SurvivorError, survivor};

/// Entries are read from the log in pieces of this size.
const PIECE_BYTES: usize = 4 << 20;

/// The cluster's feature level is above that of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this program understands feature level {understood}, and the cluster has feature level {needed}: use a version \
     that is at least as new as the other members'"
)]
pub struct Outdated {
    /// The cluster's level.
    pub needed: FeatureLevel,
    /// The level of this program.
    pub understood: FeatureLevel,
}

/// Why a replica could not be made of what is on disk.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An entry that this program cannot apply.
    #[error(transparent)]
    Unappliable(#[from] Unappliable),
    /// The cluster writes what this program does not understand.
    #[error(transparent)]
    Outdated(#[from] Outdated),
    /// The core's settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// What is on disk, opened: see [`DataDir::into_parts`](crate::storage::DataDir::into_parts).
pub struct Disk<F: Files, S> {
    /// Whose it is.
    pub node_id: NodeId,
    /// The log.
    pub wal: Wal<F>,
    /// What the log holds.
    pub found: wal::Recovered,
    /// The applied state as of its newest checkpoint, not yet read.
    pub state: S,
}

/// The parts of a replica, up to date with the disk.
pub struct Recovered<F: Files, S: StateStore> {
    /// Part one.
    pub core: Core,
    /// Part two.
    pub log: Log<F, S>,
    /// Part three.
    pub apply: Apply,
    /// The state that apply changes.
    pub store: Arc<RwLock<Store>>,
    /// Where checkpoints go; the log's part shares it.
    pub state: Arc<Mutex<S>>,
    /// Where received snapshots wait; log and apply take them from there.
    pub shelf: Shelf<S::Staging>,
    /// Last entry that the checkpoint on disk covered.
    pub checkpoint: LogIndex,
    /// Last entry applied now: those known to be committed.
    pub applied: LogIndex,
}

/// Loads the checkpoint and applies the log's entries that are known to be committed. If the checkpoint was installed
/// and a crash came before the log began anew behind it, that is done first.
///
/// `seed` is the core's randomness and must differ between nodes and between starts; `now` is the time of the
/// clock that the core is driven by.
///
/// # Errors
/// The disk failed or is damaged, or the settings cannot work.
pub fn recover<F: Files, S: StateStore>(
    disk: Disk<F, S>,
    settings: raft::Settings,
    seed: u64,
    now: Instant,
) -> Result<Recovered<F, S>, RecoveryError> {
    let Disk { node_id, mut wal, mut found, mut state } = disk;
    if check_fit(wal.directory(), &found, state.checkpoint())? == Fit::BeginsAnew {
        found = begin_anew(&mut wal, &found, state.checkpoint().applied)?;
    }
    found.configurations = with_covered(found.configurations, found.before.index, state.checkpoint());
    let levels = found.configurations.iter().map(|(_, configuration)| configuration.feature_level);
    let (needed, understood) = (levels.max().unwrap_or_default(), settings.feature_level);
    if needed > understood {
        return Err(Outdated { needed, understood }.into());
    }
    let mut store = Store::default();
    let forgets = Planted::from(settings.rules).is(Plant::ForgetOutcomes);
    state.restore(&mut |record| {
        if !(forgets && matches!(record, Record::Outcome(_))) {
            store.restore(record);
        }
    })?;
    let store = Arc::new(RwLock::new(store));
    let shelf = Shelf::default();
    let mut apply = Apply::new(Arc::clone(&store), shelf.stores(), state.checkpoint());
    let checkpoint = apply.applied();
    replay(&mut wal, &mut apply, found.commit_index, &mut state)?;
    let applied = apply.applied();
    let log = raft::Recovered {
        before: found.before,
        last: found.last,
        // The log may no longer hold the entry that carried it.
        time: found.time.max(state.checkpoint().time),
        runs: found.runs,
        configurations: found.configurations,
        applied,
        digest: Some(store.read().unwrap_or_else(PoisonError::into_inner).digest()),
        tail: read_all(&mut wal, applied, found.last.index)?,
    };
    let state = Arc::new(Mutex::new(state));
    let raft = Raft::new(now, node_id, settings, seed, found.hard_state, log)?;
    Ok(Recovered {
        core: Core::new(raft, applied),
        log: Log::new(wal, Arc::clone(&state), shelf.clone()),
        apply,
        store,
        state,
        shelf,
        checkpoint,
        applied,
    })
}

/// Finishes the installation of a snapshot that a crash cut short. The term that the installation would have recorded may
/// be lost, promised to nobody; the snapshot's own is the least that a node with its entries has seen.
fn begin_anew<F: Files>(
    wal: &mut Wal<F>,
    found: &wal::Recovered,
    before: LogPosition,
) -> Result<wal::Recovered, StorageError> {
    let hard_state = match found.hard_state {
        HardState { term, .. } if term < before.term => HardState { term: before.term, voted_for: None },
        hard_state => hard_state,
    };
    wal.reset(before, hard_state)?;
    Ok(wal::Recovered {
        hard_state,
        commit_index: found.commit_index.max(before.index),
        before,
        last: before,
        time: found.time,
        ..wal::Recovered::default()
    })
}

/// The configurations of a log that begins behind `before`: the one that the state covers, if the log does not hold
/// it, and those in the log.
fn with_covered(mut in_log: Configurations, before: LogIndex, covered: &Checkpoint) -> Configurations {
    let index = covered.configuration_index;
    if index > LogIndex(0) && index <= before {
        in_log.insert(0, (index, Arc::clone(&covered.configuration)));
    }
    in_log
}

/// Applies entries up to `through`, and brings the checkpoint up to there.
fn replay<F: Files, S: StateStore>(
    wal: &mut Wal<F>,
    apply: &mut Apply,
    through: LogIndex,
    state: &mut S,
) -> Result<(), RecoveryError> {
    while apply.applied() < through {
        let entries = wal.read(apply.applied().next(), through, PIECE_BYTES)?;
        let committed = entries.into_iter().map(|entry| Committed { entry, proposal: None });
        let mut out = ApplyOutput::default();
        apply.handle(vec![ApplyInput::Entries(committed.collect())], &mut out)?;
        state.write(&out.records)?;
        state.commit(apply.checkpoint())?;
    }
    Ok(())
}

fn read_all<F: Files>(
    wal: &mut Wal<F>,
    after: LogIndex,
    through: LogIndex,
) -> Result<Vec<Entry>, StorageError> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let from = entries.last().map_or(after, |entry| entry.index).next();
        if from > through {
            return Ok(entries);
        }
        entries.extend(wal.read(from, through, PIECE_BYTES)?);
    }
}

impl<F: Files, S: StateStore> Recovered<F, S> {
    /// Keys that the recovered state holds.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.store.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests;
