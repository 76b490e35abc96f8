//! Reads by lease (thesis, 6.4.1): a leader need not ask whether it still leads while a majority has promised not to
//! vote for anybody else.
//!
//! A follower that hears its leader ignores other candidates for an election timeout, and says so in its echo. By the
//! leader's clock that promise begins no earlier than when the echoed round was *sent*, and it is taken to end early,
//! in case the follower's clock runs faster. Two things could break it: a follower that forgets it, because it
//! restarts or because its term changes, and an election that overrides it. So with leases on a node keeps the promise
//! through changes of term, votes for nobody for some time after its start, and a leader that asked another to take
//! over has no lease for the rest of its term.

use std::time::Duration;

use super::role::Role;
use super::{Effect, Raft, Settings, Signal};
use crate::types::{Instant, NodeId};

/// What a follower says of a read round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Echo {
    pub(super) round: u64,
    /// For how long it ignores other candidates since then, in milliseconds.
    pub(super) stickiness_ms: u32,
}

/// A read round's way to a follower and back, by the leader's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    pub(super) sent_at: Instant,
    pub(super) received_at: Instant,
}

impl RoundTrip {
    pub(super) fn took(self) -> Duration {
        self.received_at.since(self.sent_at)
    }
}

impl Settings {
    /// Until when a follower keeps a promise that it gave for `stickiness_ms` in its echo.
    pub(super) fn lease_until(&self, trip: RoundTrip, stickiness_ms: u32) -> Instant {
        let promised = Duration::from_millis(u64::from(stickiness_ms));
        self.rules.lease_end(trip, promised, self.clock_drift_ppm)
    }

    /// Until when a node that starts at `now` votes for nobody: it may have promised so before it ended. The largest
    /// election timeout, so that it holds for what it promised with a clock of another pace, too.
    pub(super) fn first_vote_at(&self, now: Instant) -> Instant {
        let longest_promise = if self.lease_reads { self.election_timeout * 2 } else { Duration::ZERO };
        self.rules.first_vote_at(now, longest_promise)
    }
}

impl Raft {
    /// For how long this node promises to ignore other candidates after it heard its leader, in milliseconds. Nothing is
    /// promised without leases: then a restart would break it.
    pub(super) fn stickiness_ms(&self) -> u32 {
        if self.settings.lease_reads {
            u32::try_from(self.settings.election_timeout.as_millis()).unwrap_or(u32::MAX)
        } else {
            0
        }
    }

    /// A leader was heard: what this node says to it promises no vote for a while.
    pub(super) fn promise_no_vote(&mut self, now: Instant) {
        if self.settings.lease_reads {
            self.no_vote_until = self.no_vote_until.max(now.after(self.settings.election_timeout));
        }
    }

    /// Whether some leader, maybe of an earlier term, may rely on this node to vote for nobody.
    pub(super) fn has_promised_no_vote(&self, now: Instant) -> bool {
        self.settings.rules.keeps_promise(now, self.no_vote_until)
    }

    /// Whether this node certainly leads at this moment: a quorum ignores all other candidates.
    pub(crate) fn has_lease(&self, now: Instant) -> bool {
        let (Role::Leader(leader), Some(configuration)) = (&self.role, self.log.configuration()) else {
            return false;
        };
        let promised_until = |id: NodeId| match leader.progress.get(&id) {
            _ if id == self.id => Instant(u64::MAX),
            progress => progress.map_or(Instant(0), |progress| progress.lease_until),
        };
        let (rules, given_up) = (self.settings.rules, leader.lease_given_up);
        self.settings.lease_reads && rules.has_lease(configuration, given_up, now, promised_until)
    }

    /// Serves all reads that wait, the followers' included, at the commit index, if the lease allows it. The caller
    /// has made sure that this term's no-op is committed.
    pub(super) fn serve_by_lease(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !self.has_lease(now) {
            return;
        }
        let (local, remote) = self.reads.take_waiting();
        let (index, term) = (self.log.commit(), self.hard_state.term);
        self.reads.add_ready(index, local);
        for (to, id) in remote {
            out.push(Effect::Send { to, signal: Signal::ReadIndexAt { id, term, index } });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::SettingsError;

    fn settings() -> Settings {
        Settings { lease_reads: true, ..Settings::default() }
    }

    #[test]
    fn a_lease_starts_when_the_round_was_sent_and_ends_early() {
        let trip = RoundTrip { sent_at: Instant(1_000), received_at: Instant(90_000) };
        let lease = |settings: &Settings, ms| settings.lease_until(trip, ms);
        assert_eq!(lease(&settings(), 300), Instant(271_000));
        assert_eq!(lease(&settings(), 0), Instant(1_000));
        let exact = Settings { clock_drift_ppm: 0, ..settings() };
        assert_eq!(lease(&exact, 300), Instant(301_000));
    }

    #[test]
    fn a_node_without_leases_votes_at_once() {
        assert_eq!(settings().first_vote_at(Instant(5)), Instant(600_005));
        assert_eq!(Settings::default().first_vote_at(Instant(5)), Instant(5));
    }

    #[test]
    fn leases_need_check_quorum_and_a_bound_on_drift() {
        assert_eq!(settings().check(), Ok(()));
        let refused = Settings { check_quorum: false, ..settings() }.check();
        assert_eq!(refused, Err(SettingsError::LeaseWithoutCheckQuorum));
        let refused = Settings { clock_drift_ppm: 1_000_000, ..settings() }.check();
        assert_eq!(refused, Err(SettingsError::ClockDrift(1_000_000)));
    }
}
