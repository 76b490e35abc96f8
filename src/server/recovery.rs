//! From what is on disk to a replica that is ready to run: the checkpoint, then the log.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use super::ServerError;
use crate::driver;
use crate::kv::Store;
use crate::raft::{self, Committed, Entry, Raft};
use crate::replica::{Apply, ApplyInput, ApplyOutput, Core, Log};
use crate::storage::files::OsFiles;
use crate::storage::state::SledState;
use crate::storage::wal::{TornTail, Wal};
use crate::storage::{DataDir, Lock, Opened, StateStore as _, StorageError};
use crate::types::LogIndex;

/// Entries are read from the log in pieces of this size.
const PIECE_BYTES: usize = 4 << 20;

/// The parts of a replica, up to date with the disk.
pub(super) struct Recovered {
    pub(super) core: Core,
    pub(super) log: Log<OsFiles>,
    pub(super) apply: Apply,
    pub(super) store: Arc<RwLock<Store>>,
    pub(super) state: SledState,
    /// Keeps other processes out of the data directory.
    pub(super) lock: Lock,
}

/// Loads the checkpoint and applies the log's entries that are known to be committed.
pub(super) fn recover(data: DataDir, settings: raft::Settings) -> Result<Recovered, ServerError> {
    let Opened { lock, identity, mut wal, recovered: found, mut state } = data.into_parts()?;
    if let Some(torn) = &found.torn_tail {
        report_torn_tail(torn);
    }
    let mut store = Store::default();
    state.restore(&mut |row| store.restore(row))?;
    let store = Arc::new(RwLock::new(store));
    let checkpoint = state.checkpoint();
    let configuration = (checkpoint.configuration_index, Arc::clone(&checkpoint.configuration));
    let mut apply = Apply::new(Arc::clone(&store), checkpoint.applied, configuration);
    let from_checkpoint = apply.applied();
    replay(&mut wal, &mut apply, found.commit_index, &mut state)?;
    let applied = apply.applied();
    let keys = store.read().unwrap_or_else(PoisonError::into_inner).len();
    tracing::info!(
        term = found.hard_state.term.0,
        last = %found.last,
        checkpoint = from_checkpoint.0,
        applied = applied.0,
        keys,
        "recovered"
    );
    let log = raft::Recovered {
        last: found.last,
        runs: found.runs,
        configurations: found.configurations,
        applied,
        tail: read_all(&mut wal, applied, found.last.index)?,
    };
    let seed = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let raft = Raft::new(driver::now(), identity.node_id, settings, seed, found.hard_state, log)
        .map_err(io::Error::other)?;
    Ok(Recovered { core: Core::new(raft, applied), log: Log::new(wal), apply, store, state, lock })
}

fn report_torn_tail(torn: &TornTail) {
    tracing::warn!(
        file = %torn.path.display(),
        offset = torn.offset,
        bytes = torn.bytes,
        after = %torn.after,
        "cut the unfinished last record off the log; it was never acknowledged"
    );
}

/// Applies entries up to `through`, and brings the checkpoint up to there.
fn replay(
    wal: &mut Wal<OsFiles>,
    apply: &mut Apply,
    through: LogIndex,
    state: &mut SledState,
) -> Result<(), StorageError> {
    while apply.applied() < through {
        let entries = wal.read(apply.applied().next(), through, PIECE_BYTES)?;
        let committed = entries.into_iter().map(|entry| Committed { entry, proposal: None });
        let mut out = ApplyOutput::default();
        apply.handle(vec![ApplyInput::Entries(committed.collect())], &mut out);
        state.write(&out.rows)?;
        state.commit(apply.checkpoint())?;
    }
    Ok(())
}

fn read_all(wal: &mut Wal<OsFiles>, after: LogIndex, through: LogIndex) -> Result<Vec<Entry>, StorageError> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let from = entries.last().map_or(after, |entry| entry.index).next();
        if from > through {
            return Ok(entries);
        }
        entries.extend(wal.read(from, through, PIECE_BYTES)?);
    }
}
