//! Clients' writes from arrival to outcome, on whichever node the client asked.
//!
//! A write is queued until a leader is known, then appended (on the leader) or forwarded (elsewhere). Once its
//! (index, term) is known it is followed through the log: applied there, or certainly not applied when another
//! term's entry is committed there, whoever leads by then.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{Entry, Outcome, Proposal, Refusal, RefusalReason};
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
    Queued,
    /// Sent to the leader; the command is kept in case the leader refuses it.
    Forwarded(Bytes),
    Appended(LogPosition),
}

#[derive(Default)]
pub(super) struct Proposals {
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Bytes of commands kept while they are forwarded.
    forwarded_bytes: usize,
    /// Local clients' writes that have no outcome yet.
    waiting: BTreeMap<ProposalId, Stage>,
    /// Those of `waiting` whose place in the log is known; of several with one index, at most one is committed.
    appended: BTreeMap<LogPosition, ProposalId>,
    /// In order of arrival; deadlines never fall, since each is raised to the one before it.
    deadlines: VecDeque<(Instant, ProposalId)>,
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
        let slot = self.waiting.get_mut(&id)?;
        if let Stage::Forwarded(command) = &stage {
            self.forwarded_bytes += command.len();
        }
        let before = std::mem::replace(slot, stage);
        self.leave(&before);
        Some(before)
    }

    fn leave(&mut self, stage: &Stage) {
        if let Stage::Forwarded(command) = stage {
            self.forwarded_bytes -= command.len();
        }
    }

    pub(super) fn add_local(&mut self, proposal: Proposal) {
        let deadline =
            self.deadlines.back().map_or(proposal.deadline, |(last, _)| proposal.deadline.max(*last));
        self.deadlines.push_back((deadline, proposal.id));
        self.waiting.insert(proposal.id, Stage::Queued);
        self.enqueue(Queued { origin: Origin::Local, id: proposal.id, command: proposal.command });
    }

    pub(super) fn enqueue(&mut self, queued: Queued) {
        self.queue_bytes += queued.command.len();
        self.queue.push_back(queued);
    }

    /// The next queued write whose client still waits.
    pub(super) fn dequeue(&mut self) -> Option<Queued> {
        while let Some(queued) = self.queue.pop_front() {
            self.queue_bytes -= queued.command.len();
            if queued.origin != Origin::Local || self.waiting.contains_key(&queued.id) {
                return Some(queued);
            }
        }
        None
    }

    /// Takes all queued writes of local clients, to forward them.
    pub(super) fn take_for_forwarding(&mut self) -> Vec<(ProposalId, Bytes)> {
        let mut taken = Vec::with_capacity(self.queue.len());
        while let Some(queued) = self.dequeue() {
            if self.advance(queued.id, Stage::Forwarded(queued.command.clone())).is_some() {
                taken.push((queued.id, queued.command));
            }
        }
        taken
    }

    /// Takes other nodes' writes out of the queue: only a leader holds those.
    pub(super) fn take_remote(&mut self) -> BTreeMap<NodeId, Vec<ProposalId>> {
        let mut remote: BTreeMap<NodeId, Vec<ProposalId>> = BTreeMap::new();
        let queue = std::mem::take(&mut self.queue);
        self.queue_bytes = 0;
        for queued in queue {
            match queued.origin {
                Origin::Local => self.enqueue(queued),
                Origin::Peer(peer) => remote.entry(peer).or_default().push(queued.id),
            }
        }
        remote
    }

    /// A local client's write is in the log (of this node or of the leader) at this position.
    pub(super) fn on_appended(&mut self, id: ProposalId, position: LogPosition) {
        if self.advance(id, Stage::Appended(position)).is_some() {
            self.appended.insert(position, id);
        }
    }

    /// Whether the client of a forwarded write still waits.
    pub(super) fn is_forwarded(&self, id: ProposalId) -> bool {
        matches!(self.waiting.get(&id), Some(Stage::Forwarded(_)))
    }

    /// The leader refused a forwarded write before it appended it: it may be sent again.
    pub(super) fn requeue(&mut self, id: ProposalId) {
        if self.is_forwarded(id)
            && let Some(Stage::Forwarded(command)) = self.advance(id, Stage::Queued)
        {
            self.enqueue(Queued { origin: Origin::Local, id, command });
        }
    }

    /// Sends all forwarded writes again, whatever became of them: a bug to plant.
    pub(super) fn requeue_forwarded(&mut self) {
        let ids: Vec<ProposalId> = self.waiting.keys().copied().collect();
        for id in ids {
            self.requeue(id);
        }
    }

    /// Ends a write's wait.
    pub(super) fn finish(&mut self, id: ProposalId) {
        if let Some(stage) = self.waiting.remove(&id) {
            self.leave(&stage);
            if let Stage::Appended(position) = stage {
                self.appended.remove(&position);
            }
        }
        self.trim();
    }

    /// Forgets deadlines and queued commands of writes that no longer wait, from the front.
    fn trim(&mut self) {
        while self.deadlines.front().is_some_and(|(_, id)| !self.waiting.contains_key(id)) {
            self.deadlines.pop_front();
        }
        while self
            .queue
            .front()
            .is_some_and(|q| q.origin == Origin::Local && !self.waiting.contains_key(&q.id))
        {
            if let Some(queued) = self.queue.pop_front() {
                self.queue_bytes -= queued.command.len();
            }
        }
    }

    /// The leader that these writes were forwarded to leads no longer: whether it appended them is not known.
    pub(super) fn take_forwarded(&mut self) -> Vec<ProposalId> {
        let forwarded = self.waiting.iter().filter(|(_, stage)| matches!(stage, Stage::Forwarded(_)));
        let ids: Vec<ProposalId> = forwarded.map(|(id, _)| *id).collect();
        for id in &ids {
            self.finish(*id);
        }
        ids
    }

    /// Takes the writes that wait for the entry at this index, which is now committed: the one that it is, and
    /// those whose place went to it.
    pub(super) fn resolve(&mut self, entry: &Entry) -> (Option<ProposalId>, Vec<ProposalId>) {
        let first = LogPosition { index: entry.index, term: Term(0) };
        let waiting = self.appended.range(first..).take_while(|(position, _)| position.index == entry.index);
        let (mut applied, mut superseded) = (None, Vec::new());
        for (position, id) in waiting {
            if position.term == entry.term {
                applied = Some(*id);
            } else {
                superseded.push(*id);
            }
        }
        for id in applied.iter().chain(&superseded) {
            self.finish(*id);
        }
        (applied, superseded)
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

    /// When the oldest waiting write gives up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// Takes the writes whose deadline has come, with whether they may still be applied.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<(ProposalId, Outcome)> {
        let mut expired = Vec::new();
        while let Some((deadline, id)) = self.deadlines.front().copied() {
            if deadline > now {
                break;
            }
            let outcome = match self.waiting.get(&id) {
                Some(Stage::Queued) | None => Outcome::NotApplied,
                Some(Stage::Forwarded(_) | Stage::Appended(_)) => Outcome::Unknown,
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
