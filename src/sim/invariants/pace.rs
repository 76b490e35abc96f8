//! How far a leader's log reached a while ago: what a follower that keeps up holds.

use std::collections::VecDeque;
use std::time::Duration;

use crate::raft::{Settings, Status};
use crate::types::{Instant, LogIndex};

/// The past of one node's log since it last won an election, by the time in which the node ran: pauses are left out,
/// since a leader's heartbeats, which is when it looks, stop with it.
#[derive(Default)]
pub(super) struct Pace {
    ran: Duration,
    turned_at: Instant,
    /// Where the log ended from when on, oldest first.
    ends: VecDeque<(Duration, LogIndex)>,
}

impl Pace {
    /// The node won an election; its log ended here before.
    pub(super) fn begin(&mut self, last: LogIndex) {
        self.ends = VecDeque::from([(self.ran, last)]);
    }

    /// The node has taken a turn at this time by its own clock.
    pub(super) fn note(&mut self, local: Instant, last: LogIndex, status: &Status, raft: &Settings) {
        self.ran += local.since(self.turned_at).min(raft.heartbeat_interval * 2);
        self.turned_at = local;
        if self.ends.back().is_none_or(|(_, end)| *end != last) {
            self.ends.push_back((self.ran, last));
        }
        // A heartbeat may come late, and the leader looks at what was there at the one before that.
        let ago = status.election_timeout * 2;
        while self.ends.get(1).is_some_and(|(at, _)| self.ran.saturating_sub(*at) >= ago) {
            self.ends.pop_front();
        }
    }

    /// Where the log ended two election timeouts ago, or when it won.
    pub(super) fn earlier(&self) -> LogIndex {
        self.ends.front().map_or(LogIndex(0), |(_, index)| *index)
    }
}
