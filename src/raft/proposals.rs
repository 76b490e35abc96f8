//! Clients' writes from arrival to outcome, on whichever node the client asked.
//!
//! A write is queued until a leader is known, then appended (on the leader) or forwarded (elsewhere). Once its
//! (index, term) is known it is followed through the log: applied there, or certainly not applied when another
//! term's entry is committed there, under any leader.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Entry, Outcome, Payload, Proposal, Refusal, RefusalReason};
use crate::types::{Instant, LogIndex, LogPosition, NodeId, ProposalId, Term};

/// Who asked for a queued write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client of this node.
    Local,
    /// A follower, for its client.
    Peer(NodeId),
}

/// A write that is not in any log yet.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) origin: Origin,
    pub(super) id: ProposalId,
    pub(super) command: Bytes,
}

/// Where a local client's write is.
#[derive(Debug)]
enum Stage {
    /// At this place of the queue.
    Queued(u64),
    /// Sent to the leader; the command is kept in case the leader refuses it.
    Forwarded(Bytes),
    /// In a log at this position. The command of one that was forwarded is kept: the leader's word for the position is
    /// believed only if the entry there holds it.
    Appended(LogPosition, Option<Bytes>),
}

/// A local client's write that has no outcome yet.
#[derive(Debug)]
struct Waiting {
    stage: Stage,
    deadline: Instant,
}

/// The writes that waited for an entry which is committed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The one that the entry is.
    pub(super) applied: Option<ProposalId>,
    /// Those whose place went to the entry of another term: they are not applied.
    pub(super) superseded: Vec<ProposalId>,
    /// Those that the leader said to be here, and that are not: where they are, nobody knows. No correct leader does so.
    pub(super) misplaced: Vec<ProposalId>,
}

#[derive(Default)]
pub(super) struct Proposals {
    /// By order of arrival. A write that is finished leaves it at once, wherever it is, so that it takes up no room.
    queue: BTreeMap<u64, Queued>,
    /// The next one's place in the queue.
    next_place: u64,
    queue_bytes: usize,
    /// Bytes of commands kept while they are forwarded.
    forwarded_bytes: usize,
    /// Of those, the ones that the leader has not answered.
    unanswered_bytes: usize,
    waiting: BTreeMap<ProposalId, Waiting>,
    /// Those of `waiting` whose place in the log is known; of several with one index, at most one is committed.
    appended: BTreeMap<LogPosition, ProposalId>,
    /// Those of `waiting`, the first to expire first.
    deadlines: BTreeSet<(Instant, ProposalId)>,
}

impl Proposals {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn queue_len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Bytes of commands that are kept here: those that wait, and those that the leader has not answered.
    pub(super) fn kept_bytes(&self) -> usize {
        self.queue_bytes + self.forwarded_bytes
    }

    /// Moves a write that waits on to its next stage; returns the one before.
    fn advance(&mut self, id: ProposalId, stage: Stage) -> Option<Stage> {
        let waiting = self.waiting.get_mut(&id)?;
        if let Stage::Forwarded(command) | Stage::Appended(_, Some(command)) = &stage {
            self.forwarded_bytes += command.len();
        }
        if let Stage::Forwarded(command) = &stage {
            self.unanswered_bytes += command.len();
        }
        let before = std::mem::replace(&mut waiting.stage, stage);
        self.leave(&before);
        Some(before)
    }

    fn leave(&mut self, stage: &Stage) {
        match stage {
            // Not there if it was taken out to be moved on.
            Stage::Queued(place) => {
                self.queue_bytes -= self.queue.remove(place).map_or(0, |queued| queued.command.len());
            }
            Stage::Forwarded(command) => {
                self.forwarded_bytes -= command.len();
                self.unanswered_bytes -= command.len();
            }
            Stage::Appended(position, command) => {
                self.appended.remove(position);
                self.forwarded_bytes -= command.as_ref().map_or(0, Bytes::len);
            }
        }
    }

    pub(super) fn add_local(&mut self, proposal: Proposal) {
        let Proposal { id, command, deadline } = proposal;
        let place = self.enqueue(Queued { origin: Origin::Local, id, command });
        self.deadlines.insert((deadline, id));
        self.waiting.insert(id, Waiting { stage: Stage::Queued(place), deadline });
    }

    /// Puts a write behind the others; returns its place.
    pub(super) fn enqueue(&mut self, queued: Queued) -> u64 {
        let place = self.next_place;
        self.next_place += 1;
        self.queue_bytes += queued.command.len();
        self.queue.insert(place, queued);
        place
    }

    /// The next queued write.
    pub(super) fn dequeue(&mut self) -> Option<Queued> {
        let (_, queued) = self.queue.pop_first()?;
        self.queue_bytes -= queued.command.len();
        Some(queued)
    }

    /// Takes queued writes of local clients, to forward them: until those that the leader has not answered reach
    /// `bytes_max`. What is on the stream to the leader delays the answers to its appends.
    pub(super) fn take_for_forwarding(&mut self, bytes_max: usize) -> Vec<(ProposalId, Bytes)> {
        let mut taken = Vec::new();
        while self.unanswered_bytes < bytes_max
            && let Some(queued) = self.dequeue()
        {
            if self.advance(queued.id, Stage::Forwarded(queued.command.clone())).is_some() {
                taken.push((queued.id, queued.command));
            }
        }
        taken
    }

    /// Takes other nodes' writes out of the queue: only a leader holds those.
    pub(super) fn take_remote(&mut self) -> BTreeMap<NodeId, Vec<ProposalId>> {
        let mut remote: BTreeMap<NodeId, Vec<ProposalId>> = BTreeMap::new();
        let mut bytes = 0;
        self.queue.retain(|_, queued| {
            if let Origin::Peer(peer) = queued.origin {
                remote.entry(peer).or_default().push(queued.id);
                bytes += queued.command.len();
            }
            queued.origin == Origin::Local
        });
        self.queue_bytes -= bytes;
        remote
    }

    /// A local client's write is in the log (of this node or of the leader) at this position.
    pub(super) fn on_appended(&mut self, id: ProposalId, position: LogPosition) {
        let command = match self.waiting.get(&id) {
            Some(Waiting { stage: Stage::Forwarded(command), .. }) => Some(command.clone()),
            _ => None,
        };
        if self.advance(id, Stage::Appended(position, command)).is_some() {
            self.appended.insert(position, id);
        }
    }

    /// Whether the client of a forwarded write still waits.
    pub(super) fn is_forwarded(&self, id: ProposalId) -> bool {
        matches!(self.waiting.get(&id), Some(Waiting { stage: Stage::Forwarded(_), .. }))
    }

    /// The leader refused a forwarded write before it appended it: it may be sent again.
    pub(super) fn requeue(&mut self, id: ProposalId) {
        if let Some(Waiting { stage: Stage::Forwarded(command), .. }) = self.waiting.get(&id) {
            let command = command.clone();
            let place = self.enqueue(Queued { origin: Origin::Local, id, command });
            self.advance(id, Stage::Queued(place));
        }
    }

    /// Ends a write's wait.
    pub(super) fn finish(&mut self, id: ProposalId) {
        if let Some(Waiting { stage, deadline }) = self.waiting.remove(&id) {
            self.leave(&stage);
            self.deadlines.remove(&(deadline, id));
        }
    }

    /// The writes that were sent to the leader and are not answered: whether it appended them is not known.
    pub(super) fn forwarded(&self) -> Vec<ProposalId> {
        let forwarded =
            self.waiting.iter().filter(|(_, waiting)| matches!(waiting.stage, Stage::Forwarded(_)));
        forwarded.map(|(id, _)| *id).collect()
    }

    /// Takes the writes that wait for the entry at this index, which is now committed.
    pub(super) fn resolve(&mut self, entry: &Entry) -> Resolved {
        let first = LogPosition { index: entry.index, term: Term(0) };
        let waiting = self.appended.range(first..).take_while(|(position, _)| position.index == entry.index);
        let mut resolved = Resolved::default();
        for (position, id) in waiting {
            if position.term != entry.term {
                resolved.superseded.push(*id);
            } else if self.is_content(*id, &entry.payload) {
                resolved.applied = Some(*id);
            } else {
                resolved.misplaced.push(*id);
            }
        }
        for id in resolved.applied.iter().chain(&resolved.superseded).chain(&resolved.misplaced) {
            self.finish(*id);
        }
        resolved
    }

    /// Whether an entry with this payload holds the write. What this node appended itself is not looked at.
    fn is_content(&self, id: ProposalId, payload: &Payload) -> bool {
        match self.waiting.get(&id) {
            Some(Waiting { stage: Stage::Appended(_, Some(command)), .. }) => {
                matches!(payload, Payload::Command(committed) if committed == command)
            }
            _ => true,
        }
    }

    /// Takes the writes whose place in the log is at or below `through`.
    pub(super) fn take_appended(&mut self, through: LogIndex) -> Vec<ProposalId> {
        let appended = self.appended.iter().take_while(|(position, _)| position.index <= through);
        let ids: Vec<ProposalId> = appended.map(|(_, id)| *id).collect();
        for id in &ids {
            self.finish(*id);
        }
        ids
    }

    /// When the first of the waiting writes expires.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes the writes whose deadline has come, with whether they may still be applied.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<(ProposalId, Outcome)> {
        let mut expired = Vec::new();
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            let outcome = match self.waiting.get(&id).map(|waiting| &waiting.stage) {
                Some(Stage::Queued(_)) | None => Outcome::NotApplied,
                Some(Stage::Forwarded(_) | Stage::Appended(..)) => Outcome::Unknown,
            };
            self.finish(id);
            expired.push((id, outcome));
        }
        expired
    }
}

impl Refusal {
    /// A refusal of a write that is certainly not applied.
    #[must_use]
    pub fn not_applied(reason: RefusalReason) -> Self {
        Self { reason, outcome: Outcome::NotApplied }
    }

    /// A refusal of a write that may have been, or may still be, applied.
    #[must_use]
    pub fn unknown(reason: RefusalReason) -> Self {
        Self { reason, outcome: Outcome::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LogTime;

    fn write(id: u64, deadline: u64) -> Proposal {
        let command = Bytes::from_static(b"1234567890");
        Proposal { id: ProposalId(id), command, deadline: Instant(deadline) }
    }

    #[test]
    fn a_short_write_behind_a_long_one_keeps_its_deadline_and_its_outcome() {
        let mut proposals = Proposals::default();
        proposals.add_local(write(1, 2_000));
        proposals.add_local(write(2, 200));
        assert_eq!(proposals.next_deadline(), Some(Instant(200)));
        assert_eq!(proposals.take_expired(Instant(199)), []);
        assert_eq!(proposals.take_expired(Instant(200)), [(ProposalId(2), Outcome::NotApplied)]);
        assert_eq!(proposals.next_deadline(), Some(Instant(2_000)));
        let position = LogPosition { index: LogIndex(7), term: Term(1) };
        proposals.dequeue();
        proposals.on_appended(ProposalId(1), position);
        assert_eq!(proposals.take_expired(Instant(2_000)), [(ProposalId(1), Outcome::Unknown)]);
        assert_eq!((proposals.len(), proposals.next_deadline()), (0, None));
    }

    #[test]
    fn a_write_that_expires_takes_no_room_wherever_it_was() {
        let mut proposals = Proposals::default();
        for (id, deadline) in [(1, 2_000), (2, 200), (3, 2_000), (4, 100)] {
            proposals.add_local(write(id, deadline));
        }
        proposals.enqueue(Queued {
            origin: Origin::Peer(NodeId(2)),
            id: ProposalId(5),
            command: "12345".into(),
        });
        assert_eq!((proposals.queue_len(), proposals.kept_bytes()), (5, 45));
        let expired = proposals.take_expired(Instant(200));
        assert_eq!(expired, [4, 2].map(|id| (ProposalId(id), Outcome::NotApplied)));
        assert_eq!((proposals.queue_len(), proposals.kept_bytes()), (3, 25));
        assert_eq!(proposals.take_remote(), BTreeMap::from([(NodeId(2), vec![ProposalId(5)])]));
        let forwarded: Vec<ProposalId> =
            proposals.take_for_forwarding(usize::MAX).into_iter().map(|(id, _)| id).collect();
        assert_eq!(forwarded, [ProposalId(1), ProposalId(3)]);
        assert_eq!((proposals.queue_bytes(), proposals.kept_bytes()), (0, 20));
        proposals.requeue(ProposalId(3));
        assert_eq!((proposals.queue_bytes(), proposals.kept_bytes()), (10, 20));
        proposals.finish(ProposalId(1));
        proposals.finish(ProposalId(3));
        assert_eq!((proposals.queue_len(), proposals.kept_bytes(), proposals.len()), (0, 0, 0));
    }

    /// Seed 2652: a client was told that its write was done, and the entry there was another client's.
    #[test]
    fn a_place_that_the_leader_names_is_believed_only_if_the_write_is_there() {
        let mut proposals = Proposals::default();
        let position = LogPosition { index: LogIndex(7), term: Term(1) };
        let entry = |command: &'static str| {
            let payload = Payload::Command(Bytes::from_static(command.as_bytes()));
            Entry { index: position.index, term: position.term, time: LogTime(1), payload }
        };
        for (command, resolved) in [
            ("1234567890", Resolved { applied: Some(ProposalId(1)), ..Resolved::default() }),
            ("another", Resolved { misplaced: vec![ProposalId(1)], ..Resolved::default() }),
        ] {
            proposals.add_local(write(1, 2_000));
            proposals.take_for_forwarding(usize::MAX);
            proposals.on_appended(ProposalId(1), position);
            assert_eq!(proposals.resolve(&entry(command)), resolved);
            assert_eq!((proposals.len(), proposals.kept_bytes()), (0, 0));
        }
    }

    #[test]
    fn a_snapshot_ends_the_wait_of_all_writes_that_it_covers() {
        let mut proposals = Proposals::default();
        for id in 1..=3 {
            proposals.add_local(write(id, 2_000));
            proposals.dequeue();
            let position = LogPosition { index: LogIndex(id + 5), term: Term(1) };
            proposals.on_appended(ProposalId(id), position);
        }
        assert_eq!(proposals.take_appended(LogIndex(7)), [ProposalId(1), ProposalId(2)]);
        assert_eq!((proposals.take_appended(LogIndex(7)), proposals.len()), (vec![], 1));
    }
}
