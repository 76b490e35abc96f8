//! The log's rules with a bug that is chosen when the program runs: they take the place of `rules.rs` with the cargo
//! feature `planted-bugs`. Here are the rules that some bug answers wrongly; the sound ones answer everything else.

#[path = "../rules.rs"]
mod sound;

use std::io;
use std::ops::Deref;

use crate::plant::{Plant, Planted};
use crate::raft::HardState;
use crate::storage::files::File;
use crate::storage::wal::Pending;
use crate::storage::wal::format::{RecordContent, SegmentHeader};
use crate::types::{LogIndex, LogPosition};

const SOUND: sound::Rules = sound::Rules::SOUND;

/// The sound rules but for one bug, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    planted: Planted,
}

impl Deref for Rules {
    type Target = sound::Rules;

    fn deref(&self) -> &sound::Rules {
        &SOUND
    }
}

impl From<Planted> for Rules {
    fn from(planted: Planted) -> Self {
        Self { planted }
    }
}

impl Rules {
    /// The rules of a correct log.
    pub const SOUND: Self = Self { planted: Planted::NONE };

    pub(in crate::storage::wal) fn record(
        self,
        waiting: &Pending,
        hard_state: HardState,
        commit_index: LogIndex,
        number: u64,
        previous: u32,
    ) -> RecordContent<'_> {
        let mut record = SOUND.record(waiting, hard_state, commit_index, number, previous);
        if self.planted.is(Plant::TruncationNotWritten) {
            record.truncate_from = None;
        }
        record
    }

    pub(in crate::storage::wal) fn flush(self, file: &impl File) -> io::Result<()> {
        if self.planted.is(Plant::NoFlush) {
            return Ok(());
        }
        let flushed = SOUND.flush(file);
        if self.planted.is(Plant::RetriedFlush) { flushed.or(Ok(())) } else { flushed }
    }

    pub(in crate::storage::wal) fn beginning(
        self,
        next: SegmentHeader,
        before: LogPosition,
        mut hard_state: HardState,
    ) -> SegmentHeader {
        if self.planted.is(Plant::ResetDropsVote) {
            hard_state.voted_for = None;
        }
        SOUND.beginning(next, before, hard_state)
    }
}
