//! What a leader knows of one follower.

use std::collections::VecDeque;
use std::time::Duration;

use super::timing::Samples;
use crate::types::{Instant, LogIndex, Session};

/// How far the leader's log reached one election timeout ago: a follower that holds all of that can catch up within
/// about that time (thesis, 4.2.1). Under load no fixed number of entries would tell: a healthy one lacks thousands.
#[derive(Debug)]
pub(super) struct Recent {
    /// Where the log ended and when, at each heartbeat, oldest first; never empty.
    ends: VecDeque<(Instant, LogIndex)>,
}

impl Recent {
    /// Begins with a new leader's no-op.
    pub(super) fn new(now: Instant, noop: LogIndex) -> Self {
        Self { ends: VecDeque::from([(now, noop)]) }
    }

    /// Takes where the log ends now, and forgets what is not needed to tell where it ended `ago`.
    pub(super) fn note(&mut self, now: Instant, last: LogIndex, ago: Duration) {
        self.ends.push_back((now, last));
        while self.ends.get(1).is_some_and(|(at, _)| now.since(*at) >= ago) {
            self.ends.pop_front();
        }
    }

    pub(super) fn index(&self) -> LogIndex {
        self.ends.front().map_or(LogIndex(0), |(_, index)| *index)
    }
}

/// A follower as its leader sees it.
///
/// Invariants: `match_index < next_index`; entries up to `match_index` are durable at the follower; unless it is to get
/// a snapshot, `next_index` is in the leader's log or right behind it.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) session: Session,
    /// Last index known to be durable at the follower and equal to the leader's.
    pub(super) match_index: LogIndex,
    /// First index not sent yet (paper, figure 2).
    pub(super) next_index: LogIndex,
    pub(super) flow: Flow,
    /// Latest read round that the follower has echoed.
    pub(super) echoed_round: u64,
    /// When the follower was last heard.
    pub(super) last_contact: Instant,
    /// Whether it was not heard for an election timeout, as of the latest heartbeat. It is told so.
    pub(super) lost: bool,
    /// Times from a heartbeat to its echo.
    pub(super) round_trips: Samples,
    /// Commit index last sent.
    pub(super) commit_sent: LogIndex,
    /// Of a learner: since when it has kept up with the leader.
    pub(super) caught_up_since: Option<Instant>,
    /// Last entry that the leader appended on this follower's behalf: its client waits for the commit.
    pub(super) forwarded_through: LogIndex,
    /// Until when, by the leader's clock, it has promised to ignore other candidates (thesis, 6.4.1).
    pub(super) lease_until: Instant,
}

/// How entries are sent.
#[derive(Debug)]
pub(super) enum Flow {
    /// Where the logs agree is not known: empty appends until one is accepted.
    Probe,
    /// Entries are sent ahead of their acknowledgement, within the window.
    Replicate(Window),
    /// The log no longer holds the entries that it needs next: it gets a snapshot, and heartbeats meanwhile.
    Snapshot(Transfer),
}

/// A snapshot's way to one follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// To be started with the next heartbeat that finds the follower in touch.
    Due,
    /// Under way. The snapshot covers at least the entries up to `from`; those behind it will be needed.
    Running { from: LogIndex },
}

/// Appends on their way to one follower.
#[derive(Debug, Default)]
pub(super) struct Window {
    sent: VecDeque<(LogIndex, usize)>,
    bytes: usize,
    /// Entries older than the leader's memory have been asked for from disk.
    pub(super) loading: bool,
}

impl Progress {
    /// A follower whose log is taken to agree up to `last`, until it says otherwise.
    pub(super) fn new(now: Instant, session: Session, last: LogIndex) -> Self {
        Self {
            session,
            match_index: LogIndex(0),
            next_index: last.next(),
            flow: Flow::Replicate(Window::default()),
            echoed_round: 0,
            last_contact: now,
            lost: false,
            round_trips: Samples::default(),
            commit_sent: LogIndex(0),
            caught_up_since: None,
            forwarded_through: LogIndex(0),
            lease_until: Instant(0),
        }
    }

    /// Whether it was heard within an election timeout.
    pub(super) fn is_active(&self, now: Instant, election_timeout: Duration) -> bool {
        now.since(self.last_contact) <= election_timeout
    }

    /// How many entries of a log that ends at `last` it lacks, as far as it has said.
    pub(super) fn lacks(&self, last: LogIndex) -> u64 {
        last.0.saturating_sub(self.match_index.0)
    }

    /// Messages and bytes in the window.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        match &self.flow {
            Flow::Probe | Flow::Snapshot(_) => (0, 0),
            Flow::Replicate(window) => (window.sent.len(), window.bytes),
        }
    }

    /// Moves `match_index` up; everything up to it has left the window. `before` is where the leader's log begins.
    pub(super) fn on_match(&mut self, match_index: LogIndex, before: LogIndex) {
        self.match_index = self.match_index.max(match_index);
        self.next_index = self.next_index.max(self.match_index.next());
        match &mut self.flow {
            Flow::Replicate(window) => window.release(self.match_index),
            // It does not need the snapshot (any more) once the log continues where it is.
            Flow::Snapshot(_) if self.match_index < before => {}
            Flow::Probe | Flow::Snapshot(_) => {
                self.next_index = self.match_index.next();
                self.flow = Flow::Replicate(Window::default());
                self.on_compacted(before);
            }
        }
    }

    /// What was sent is lost. Of a follower that this leader has not heard yet nothing is known: it is asked about what
    /// would come next, and its rejection leads back, seldom to the log's first entry.
    pub(super) fn on_send_dropped(&mut self, before: LogIndex) {
        let is_known = self.match_index > LogIndex(0);
        self.probe_from(if is_known { self.match_index.next() } else { self.next_index }, before);
    }

    /// What was sent may be lost: find out where the logs agree, from `next_index` down.
    pub(super) fn probe_from(&mut self, next_index: LogIndex, before: LogIndex) {
        self.next_index = next_index.max(self.match_index.next());
        self.flow = Flow::Probe;
        self.on_compacted(before);
    }

    /// The leader's log begins behind `before`: if that is past what the follower needs next, it needs a snapshot.
    pub(super) fn on_compacted(&mut self, before: LogIndex) {
        if self.next_index <= before && !self.gets_snapshot() {
            self.flow = Flow::Snapshot(Transfer::Due);
        }
    }

    pub(super) fn gets_snapshot(&self) -> bool {
        matches!(self.flow, Flow::Snapshot(_))
    }
}

impl Window {
    pub(super) fn is_full(&self, messages_max: usize, bytes_max: usize) -> bool {
        self.sent.len() >= messages_max || self.bytes >= bytes_max
    }

    pub(super) fn push(&mut self, last: LogIndex, bytes: usize) {
        self.sent.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn release(&mut self, match_index: LogIndex) {
        while let Some((last, bytes)) = self.sent.front().copied() {
            if last > match_index {
                break;
            }
            self.sent.pop_front();
            self.bytes -= bytes;
        }
    }
}
