//! Whether log and state belong together: the rule of a start.

use std::path::Path;

use super::wal::Recovered;
use super::{Checkpoint, StorageError};

/// How log and state stand to each other, when neither lost anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The log holds the last entry that the state covers, or begins right behind it.
    Joined,
    /// The state is an installed snapshot, and a crash came before the log restarted behind it
    /// ([`Wal::reset`](super::wal::Wal::reset)): a start must do that first.
    BeginsAnew,
}

/// The log must reach from the state's last entry on without a gap, and agree with it on that entry's term, unless the
/// state was installed and the log still is the one from before.
///
/// # Errors
/// [`StorageError::Damaged`]: one of the two lost its end. `path` is what to name.
pub fn check_fit(path: &Path, log: &Recovered, state: &Checkpoint) -> Result<Fit, StorageError> {
    let applied = state.applied;
    if applied.index < log.before.index {
        let what = format!(
            "the log begins behind entry {}, the state covers entries up to {} only: the state lost its end",
            log.before, applied
        );
        return Err(StorageError::damaged(path, what));
    }
    let run = log.runs.iter().rev().find(|run| run.index <= applied.index).unwrap_or(&log.before);
    if applied.index <= log.last.index && run.term == applied.term {
        return Ok(Fit::Joined);
    }
    // A log that restarted would begin behind the snapshot, so this is the one from before.
    if state.installed {
        return Ok(Fit::BeginsAnew);
    }
    let what = if applied.index > log.last.index {
        format!("the log ends at entry {}, the state covers {applied}: the log lost its end", log.last)
    } else {
        format!("entry {} has term {} in the log, {} in the state", applied.index, run.term, applied.term)
    };
    Err(StorageError::damaged(path, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogIndex, LogPosition, Term};

    fn position(index: u64, term: u64) -> LogPosition {
        LogPosition { index: LogIndex(index), term: Term(term) }
    }

    /// A log of entries 11 to 20, in terms 2 and, from 15 on, 4; before it term 2.
    fn fit(applied: LogPosition, installed: bool) -> Result<Fit, String> {
        let log = Recovered {
            before: position(10, 2),
            last: position(20, 4),
            runs: vec![position(11, 2), position(15, 4)],
            ..Recovered::default()
        };
        let state = Checkpoint { applied, installed, ..Checkpoint::default() };
        check_fit(Path::new("data"), &log, &state).map_err(|error| {
            assert_eq!(error.exit_code(), 3);
            error.to_string()
        })
    }

    #[test]
    fn a_state_within_the_log_fits() {
        for (index, term) in [(10, 2), (11, 2), (14, 2), (15, 4), (20, 4)] {
            for installed in [false, true] {
                assert_eq!(fit(position(index, term), installed), Ok(Fit::Joined));
            }
        }
    }

    #[test]
    fn a_state_that_the_log_does_not_reach_is_damage() {
        for installed in [false, true] {
            let text = fit(position(9, 2), installed).unwrap_err();
            assert!(
                text.contains("begins behind entry 10 of term 2") || text.contains("lost its end"),
                "{text}"
            );
            assert!(text.contains("the state lost its end"), "{text}");
        }
    }

    #[test]
    fn a_state_beyond_the_log_is_damage_unless_it_was_installed() {
        let text = fit(position(21, 4), false).unwrap_err();
        assert!(text.contains("the log lost its end"), "{text}");
        assert_eq!(fit(position(21, 4), true), Ok(Fit::BeginsAnew));
    }

    #[test]
    fn another_term_is_damage_unless_it_was_installed() {
        for (index, term) in [(10, 1), (14, 4), (20, 5)] {
            let text = fit(position(index, term), false).unwrap_err();
            assert!(text.contains("in the state"), "{text}");
            assert_eq!(fit(position(index, term), true), Ok(Fit::BeginsAnew));
        }
    }
}
