//! Leaps: terms, and times of entries, that are implausibly far ahead. A term only ever rises and so does the log's
//! clock, so a cluster could never undo one wrong number. A correct cluster counts one term an election: it leaps
//! only where its members already did.
//!
//! - **Terms.** A message whose term is more than 2³² above the own is ignored, unless a majority of the voters, this
//!   node not counted, has insisted on such a term for three election timeouts. So no minority of the members can raise
//!   the term of the others to its ceiling, and a node that was away while its cluster leaped follows it.
//! - **Times.** Entries that are more than a day ahead of the log are ignored until their leader, a member, has sent
//!   them for three election timeouts. The log's clock stands still while nobody writes, so the time since this node
//!   last took an entry is allowed in addition.
//!
//! A node that knows no configuration has no members to ask and believes its first contact.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Entry, Observation, Raft, Snapshot};
use crate::types::{Instant, LogIndex, LogTime, NodeId, Term};

/// The largest rise of the term that any one peer can cause.
const TERM_LEAP: u64 = 1 << 32;
/// How far the log's clock may be ahead, in microseconds: one day.
const TIME_LEAP_MICROS: u64 = 24 * 60 * 60 * 1_000_000;
/// Election timeouts for which members must insist.
const INSISTS: u32 = 3;
/// Election timeouts of silence after which a member no longer insists.
const FORGOTTEN: u32 = 10;
/// Reports of ignored messages: at most one in this time.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// A member that says the same implausible thing again and again.
#[derive(Clone, Copy, Debug)]
struct Insists {
    since: Instant,
    last: Instant,
}

impl Insists {
    /// It says so at `now`, and said so before as `earlier` tells.
    fn again(earlier: Option<Self>, now: Instant, forgotten: Duration) -> Self {
        let earlier = earlier.filter(|earlier| now.since(earlier.last) < forgotten);
        Self { since: earlier.map_or(now, |earlier| earlier.since), last: now }
    }
}

/// What members insist on.
#[derive(Debug, Default)]
pub(super) struct Leaps {
    /// By member: the term that it says, and since when it says such terms. No more than the configuration has members.
    terms: BTreeMap<NodeId, (Term, Insists)>,
    /// The leader whose entries are ahead.
    time: Option<(NodeId, Insists)>,
    /// When an entry was last taken; at first, when the node started.
    taken_at: Instant,
    reported_at: Option<Instant>,
}

impl Leaps {
    pub(super) fn new(now: Instant) -> Self {
        Self { taken_at: now, ..Self::default() }
    }

    /// Takes note that the log holds new entries.
    pub(super) fn on_taken(&mut self, now: Instant) {
        (self.taken_at, self.time) = (now, None);
    }

    /// Whether to report an ignored message now.
    pub(super) fn may_report(&mut self, now: Instant) -> bool {
        let may = self.reported_at.is_none_or(|at| now.since(at) >= REPORT_INTERVAL);
        if may {
            self.reported_at = Some(now);
        }
        may
    }
}

impl Raft {
    /// Whether a message of `term` is to be ignored, since its term leaps.
    pub(super) fn term_leaps(&mut self, now: Instant, from: NodeId, term: Term) -> bool {
        if term.0.saturating_sub(self.hard_state.term.0) <= TERM_LEAP {
            return false;
        }
        let Some(configuration) = self.log.configuration() else { return false };
        if configuration.member(from).is_none() {
            return true;
        }
        let (timeout, own) = (self.settings.election_timeout, self.hard_state.term);
        let is_ahead = |said: Term| said.0.saturating_sub(own.0) > TERM_LEAP;
        let terms = &mut self.leaps.terms;
        terms.retain(|id, (said, _)| configuration.member(*id).is_some() && is_ahead(*said));
        let earlier = terms.get(&from).map(|(_, insists)| *insists);
        terms.insert(from, (term, Insists::again(earlier, now, timeout * FORGOTTEN)));
        let insists = |id: NodeId| {
            id != self.id
                && terms.get(&id).is_some_and(|(said, insists)| {
                    *said >= term
                        && now.since(insists.since) >= timeout * INSISTS
                        && now.since(insists.last) < timeout * FORGOTTEN
                })
        };
        !self.settings.rules.has_quorum(configuration, insists)
    }

    /// Whether new entries from the leader `from` are to be ignored, since their times leap.
    pub(super) fn time_leaps(&mut self, now: Instant, from: NodeId, new: &[Entry]) -> bool {
        let Some(configuration) = self.log.configuration() else { return false };
        if self.log.last().index == LogIndex(0) || !self.log_clock_leaps(now, new) {
            return false;
        }
        if configuration.member(from).is_none() {
            return true;
        }
        let timeout = self.settings.election_timeout;
        let earlier = self.leaps.time.filter(|(leader, _)| *leader == from).map(|(_, insists)| insists);
        let insists = Insists::again(earlier, now, timeout * FORGOTTEN);
        self.leaps.time = Some((from, insists));
        now.since(insists.since) < timeout * INSISTS
    }

    /// Whether a snapshot is to be dropped for its time. It may be much later than the log of a node that was away; so
    /// it counts if it comes from a member.
    pub(super) fn snapshot_time_leaps(&self, from: NodeId, snapshot: &Snapshot) -> bool {
        let Some(configuration) = self.log.configuration() else { return false };
        let ahead = snapshot.time.0.saturating_sub(self.log.time().0);
        ahead > TIME_LEAP_MICROS && configuration.member(from).is_none()
    }

    fn log_clock_leaps(&self, now: Instant, new: &[Entry]) -> bool {
        let idle = u64::try_from(now.since(self.leaps.taken_at).as_micros()).unwrap_or(u64::MAX);
        let allowed = TIME_LEAP_MICROS.saturating_add(idle);
        let mut before: LogTime = self.log.time();
        for entry in new {
            if entry.time.0.saturating_sub(before.0) > allowed {
                return true;
            }
            before = before.max(entry.time);
        }
        false
    }

    /// What is reported of a message that is ignored, at most once a second.
    pub(super) fn ignored(&mut self, now: Instant, from: NodeId, why: &'static str) -> Option<Observation> {
        self.leaps.may_report(now).then_some(Observation::MessageIgnored { from, why })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::check::TIME_MAX;
    use super::super::{
        Append, Configuration, Effect, Event, HardState, Member, Payload, Promise, Recovered, Settings,
        Signal,
    };
    use super::*;
    use crate::types::{LogPosition, Session};

    const DAY: u64 = TIME_LEAP_MICROS;
    const LEADER: NodeId = NodeId(2);

    /// Node 1 of three, with a log of one entry, that was made at `time`.
    fn follower(time: u64) -> Raft {
        let member = |id: u64| (NodeId(id), Member { name: format!("n{id}"), ..Member::default() });
        let voters = (1..=3).map(member).collect();
        let configuration = Arc::new(Configuration { voters, ..Configuration::default() });
        let last = LogPosition { index: LogIndex(1), term: Term(1) };
        let recovered = Recovered {
            last,
            time: LogTime(time),
            runs: vec![last],
            configurations: vec![(LogIndex(1), configuration)],
            applied: LogIndex(1),
            ..Recovered::default()
        };
        let hard_state = HardState { term: Term(1), voted_for: None };
        Raft::new(Instant(0), NodeId(1), Settings::default(), 1, hard_state, recovered).unwrap()
    }

    /// What the node does with an entry of this time from `from`, `ms` after its start: takes it, or not.
    fn takes(raft: &mut Raft, ms: u64, from: NodeId, time: u64) -> bool {
        let (term, index) = (Term(1), LogIndex(2));
        let prev = LogPosition { index: LogIndex(1), term };
        let entries = vec![Entry { term, index, time: LogTime(time), payload: Payload::Noop }];
        let append = Append {
            term,
            session: Session(0),
            prev,
            entries,
            commit_index: prev.index,
            round: 0,
            unheard: false,
            election_timeout_ms: 0,
        };
        let mut out = Vec::new();
        let message = Signal::Append(append).into();
        raft.step(Instant(ms * 1000), Event::Message { from, message }, &mut out);
        let acknowledges = |effect: &Effect| {
            matches!(effect, Effect::Acknowledge { promise: Promise::Appended { match_index, .. }, .. }
                if *match_index == index)
        };
        out.iter().any(acknowledges)
    }

    #[test]
    fn the_clock_of_the_log_leaps_only_if_the_leader_insists() {
        assert!(takes(&mut follower(5), 10, LEADER, 5 + DAY), "a day is no leap");
        let mut raft = follower(5);
        let late = TIME_MAX.0;
        assert!(!takes(&mut raft, 10, LEADER, late));
        assert!(!takes(&mut raft, 500, LEADER, late));
        assert!(!takes(&mut raft, 909, LEADER, late));
        assert!(takes(&mut raft, 910, LEADER, late), "for three election timeouts");
    }

    #[test]
    fn a_leader_that_fell_silent_begins_to_insist_again() {
        let mut raft = follower(5);
        assert!(!takes(&mut raft, 10, LEADER, 2 * DAY));
        assert!(!takes(&mut raft, 3_010, LEADER, 2 * DAY));
        assert!(takes(&mut raft, 3_910, LEADER, 2 * DAY));
    }

    #[test]
    fn time_may_pass_without_entries() {
        // Nobody wrote for three days while this node ran.
        let days = 3 * DAY / 1000;
        assert!(takes(&mut follower(5), days, LEADER, 5 + 3 * DAY + 1000));
    }

    #[test]
    fn nobody_but_a_member_can_insist() {
        let mut raft = follower(5);
        for ms in [10, 500, 1_000, 2_000] {
            assert!(!takes(&mut raft, ms, NodeId(9), 2 * DAY));
        }
    }

    #[test]
    fn a_leader_stamps_no_entry_beyond_the_last_time() {
        let mut raft = follower(TIME_MAX.0);
        let mut out = Vec::new();
        raft.become_leader(Instant(1_000), &mut out);
        raft.append_batch(Instant(9_000_000), vec![Payload::Noop], &mut out);
        assert_eq!(raft.log.time(), TIME_MAX);
    }
}
