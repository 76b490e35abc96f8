//! The election timeout that is in force: the configured one, or a longer one where links or disks are slow.
//!
//! An election needs a flush and a round trip at the least, and so does the first sign of life of a new leader. Where
//! these take longer than the timeout, no leader would ever be found, or none would last. So a candidate measures how
//! long the first answer to its request took, and a leader how long its heartbeats' echoes take. The timeout is twice
//! that, and no less than configured. A candidate's request and a leader's append tell it to their receivers.
//!
//! Load makes links slow, too: behind megabytes of entries, on a busy disk and a busy processor, a heartbeat that took
//! one millisecond takes hundreds. So the slow echoes of the last two seconds count, not the quick ones. Otherwise a
//! leader that is only busy would lose its leadership, and the next one after it.

use std::collections::VecDeque;
use std::time::Duration;

use super::role::Role;
use super::{Raft, Settings};
use crate::types::{Instant, Term};

/// Measurements that are needed before they count.
const SAMPLES_LEAST: usize = 4;
/// Measurements that are kept: about two seconds of heartbeats.
const SAMPLES: usize = 32;
/// The timeout in force is at most this many times the configured one: a member may say anything.
const FACTOR_MAX: u32 = 10;

/// The latest measurements.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<Duration>);

impl Samples {
    pub(super) fn add(&mut self, took: Duration) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    /// The smallest of the latest few; `None` while there are too few. A pause or a lost message lengthens one of them.
    fn least(&self) -> Option<Duration> {
        let latest = self.0.iter().rev().take(SAMPLES_LEAST);
        (self.0.len() >= SAMPLES_LEAST).then(|| latest.min().copied()).flatten()
    }

    /// The largest but one; `None` while there are too few. One message that was late says nothing; two say that such
    /// delays belong to the present load.
    fn slow(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        (sorted.len() >= SAMPLES_LEAST).then(|| sorted[sorted.len() - 2])
    }
}

/// The timeout in force, and what it depends on.
#[derive(Debug)]
pub(super) struct Timing {
    timeout: Duration,
    flushes: Samples,
    /// This node's latest election, and when it began, until somebody answers.
    election: Option<(Term, Instant)>,
}

impl Timing {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { timeout: settings.election_timeout, flushes: Samples::default(), election: None }
    }

    pub(super) fn note_flush(&mut self, took: Duration) {
        self.flushes.add(took);
    }

    pub(super) fn note_election(&mut self, now: Instant, term: Term) {
        self.election = Some((term, now));
    }

    fn set(&mut self, timeout: Duration, settings: &Settings) {
        let least = settings.election_timeout;
        self.timeout = timeout.clamp(least, least * FACTOR_MAX);
    }
}

impl Raft {
    /// The election timeout in force; each is drawn between this and twice this.
    pub(super) fn election_timeout(&self) -> Duration {
        self.timing.timeout
    }

    /// What others are told of it, in milliseconds; 0: theirs will do.
    pub(super) fn told_timeout_ms(&self) -> u32 {
        let timeout = self.timing.timeout;
        if timeout <= self.settings.election_timeout {
            return 0;
        }
        u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)
    }

    /// Takes over the timeout of the leader.
    pub(super) fn follow_timeout(&mut self, told_ms: u32) {
        self.timing.set(Duration::from_millis(u64::from(told_ms)), &self.settings);
    }

    /// Waits for the candidate that it voted for at least as long as that waits for votes.
    pub(super) fn await_candidate(&mut self, told_ms: u32) {
        let told = Duration::from_millis(u64::from(told_ms));
        self.timing.set(self.timing.timeout.max(told), &self.settings);
    }

    /// Somebody answered this node's request for votes in `term`, maybe too late to be of use. At most doubles the
    /// timeout: the one who answered may have been away.
    pub(super) fn note_vote_answer(&mut self, now: Instant, term: Term) {
        let Some((_, began)) = self.timing.election.take_if(|(asked, _)| *asked == term) else { return };
        let timeout = self.timing.timeout;
        let needed = now.since(began).saturating_mul(2).min(timeout * 2);
        self.timing.set(timeout.max(needed), &self.settings);
    }

    /// With each heartbeat: takes the time in which a majority answers, and the time that the own disk takes.
    pub(super) fn measure_timeout(&mut self) {
        let (Role::Leader(leader), Some(configuration)) = (&self.role, self.log.configuration()) else {
            return;
        };
        let took = |id| leader.progress.get(&id).and_then(|progress| progress.round_trips.slow());
        let mut steps: Vec<Duration> = configuration.voters.keys().filter_map(|id| took(*id)).collect();
        steps.push(Duration::ZERO);
        steps.sort_unstable();
        let answers_in = |limit: Duration| {
            self.is_quorum(|id| id == self.id || took(id).is_some_and(|took| took <= limit))
        };
        let Some(round_trip) = steps.into_iter().find(|step| answers_in(*step)) else { return };
        let flush = self.timing.flushes.least().unwrap_or_default();
        let needed = round_trip.saturating_add(flush).saturating_mul(2);
        self.timing.set(needed, &self.settings);
    }
}
