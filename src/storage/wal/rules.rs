//! The log's rules: what must be written and flushed before anybody may be told, and what must survive. As in
//! `raft/rules.rs`, each is a small function that decides, and the log is the mechanism that carries it out.
//!
//! With the cargo feature `planted-bugs`, `rules/planted.rs` takes the place of this file. It holds the same functions,
//! of which one gives a wrong answer, to show that the simulator notices.

use std::io;

use crate::plant::Planted;
use crate::raft::{AppendEntries, HardState};
use crate::storage::files::File;
use crate::storage::wal::Pending;
use crate::storage::wal::format::{RecordContent, SegmentHeader};
use crate::types::{LogIndex, LogPosition};

/// The rules of a correct log. A value, so that options can carry other ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {}

impl Rules {
    /// The rules of a correct log.
    pub const SOUND: Self = Self {};
}

#[expect(clippy::unused_self, reason = "the rules that options carry may be other ones")]
impl Rules {
    /// Whether an append needs a write: it changes entries, term or vote. A commit index alone is a hint for the next
    /// start, which the next record carries.
    pub(in crate::storage::wal) fn must_write(self, append: &AppendEntries, hard_state: HardState) -> bool {
        append.truncate_from.is_some() || !append.entries.is_empty() || append.hard_state != hard_state
    }

    /// The record of all that waits: term and vote, the truncation, the entries behind it. After a crash there is the
    /// whole of it or none.
    pub(in crate::storage::wal) fn record(
        self,
        waiting: &Pending,
        hard_state: HardState,
        commit_index: LogIndex,
        number: u64,
        previous: u32,
    ) -> RecordContent<'_> {
        RecordContent {
            number,
            hard_state,
            commit_index,
            truncate_from: waiting.truncate_from,
            entries: &waiting.entries,
            previous,
        }
    }

    /// Makes what was written durable. If that fails, what is durable is unknown, and a second attempt would find
    /// nothing to write and report success (rostam #94): the log is poisoned, and the process ends.
    pub(in crate::storage::wal) fn flush(self, file: &impl File) -> io::Result<()> {
        file.sync_data()
    }

    /// The header of a segment with which the log begins again, behind a snapshot. It repeats term and vote: the records
    /// that carried them are void from then on.
    pub(in crate::storage::wal) fn beginning(
        self,
        next: SegmentHeader,
        before: LogPosition,
        hard_state: HardState,
    ) -> SegmentHeader {
        SegmentHeader { begins_anew: true, before, hard_state, ..next }
    }

    /// Whether the log may begin with the segment behind `before`, so that all earlier ones may go: a durable checkpoint
    /// covers what they hold, no truncation from there on reaches back beyond its begin, and it repeats their term and
    /// vote.
    pub(in crate::storage::wal) fn may_begin(
        self,
        before: LogIndex,
        covered: LogIndex,
        truncated_from: Option<LogIndex>,
        repeats_hard_state: bool,
    ) -> bool {
        before <= covered && truncated_from.is_none_or(|from| before < from) && repeats_hard_state
    }
}

impl From<Planted> for Rules {
    /// These are the only rules of this program, whose [`Planted`] can name no bug.
    fn from(_: Planted) -> Self {
        Self::SOUND
    }
}
