//! Opens the data directory of a member and makes a replica of it.

use std::io;

use super::ServerError;
use crate::driver;
use crate::raft;
use crate::replica::recovery::{self, Disk, Recovered, RecoveryError};
use crate::storage::files::OsFiles;
use crate::storage::state::SledState;
use crate::storage::wal::TornTail;
use crate::storage::{DataDir, Lock, Opened};

/// The replica, and what keeps other processes out of its data directory.
pub(super) fn recover(
    data: DataDir,
    settings: raft::Settings,
) -> Result<(Recovered<OsFiles, SledState>, Lock), ServerError> {
    let Opened { lock, identity, wal, recovered: found, state } = data.into_parts()?;
    if let Some(torn) = &found.torn_tail {
        report_torn_tail(torn);
    }
    let (term, last) = (found.hard_state.term, found.last);
    let seed = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let disk = Disk { node_id: identity.node_id, wal, found, state };
    let replica = recovery::recover(disk, settings, seed, driver::now()).map_err(|error| match error {
        RecoveryError::Storage(error) => ServerError::Storage(error),
        RecoveryError::Outdated(error) => ServerError::Outdated(error),
        RecoveryError::Unappliable(error) => ServerError::Unappliable(error),
        RecoveryError::Settings(error) => ServerError::System(io::Error::other(error)),
    })?;
    tracing::info!(
        term = term.0,
        %last,
        checkpoint = replica.checkpoint.0,
        applied = replica.applied.0,
        keys = replica.keys(),
        "recovered"
    );
    Ok((replica, lock))
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
