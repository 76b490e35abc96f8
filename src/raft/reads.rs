//! Linearizable reads by read index (thesis, 6.4), on the leader and on followers.
//!
//! All reads that wait are served by one heartbeat round. A round's index is taken when it starts, and only
//! echoes of that round or later ones confirm it.
//!
//! A follower asks again when an answer is overdue, and still accepts the answer to each earlier question: on a link
//! whose round trip is longer than the follower's patience, no other would ever arrive in time. An answer serves the
//! reads that waited when its question was asked. Ids of questions are used once, and a change of leader or term
//! discards them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::{Instant, LogIndex, NodeId, ReadId};

/// Reads of this node's clients that arrived together.
#[derive(Debug)]
pub(super) struct LocalReads {
    pub(super) ids: Vec<ReadId>,
    pub(super) deadline: Instant,
}

/// What a leader is confirming in one round.
#[derive(Debug)]
pub(super) struct Confirming {
    pub(super) round: u64,
    pub(super) index: LogIndex,
    pub(super) local: Vec<LocalReads>,
    pub(super) remote: Vec<(NodeId, ReadId)>,
}

/// Unanswered questions of a follower. Past this, the oldest one's reads wait for the answer to the next one.
const QUESTIONS_MAX: usize = 16;

/// A follower's question to its leader.
#[derive(Debug)]
struct Question {
    id: ReadId,
    asked_at: Instant,
    /// Those that waited when it was asked, and that no earlier question was asked for.
    local: Vec<LocalReads>,
}

#[derive(Default)]
pub(super) struct Reads {
    /// Not yet part of a round or a question.
    waiting: VecDeque<LocalReads>,
    /// Followers' questions, at the leader.
    remote: Vec<(NodeId, ReadId)>,
    confirming: Option<Confirming>,
    /// Questions to the current leader that it has not answered, oldest first; none if no read waits for them.
    questions: VecDeque<Question>,
    /// The latest question may be lost.
    asks_again: bool,
    /// How long this leader took to answer the question that it answered last.
    answer_took: Duration,
    /// Confirmed; they wait until everything up to the index has been handed to apply.
    ready: VecDeque<(LogIndex, Vec<LocalReads>)>,
}

impl Reads {
    pub(super) fn add(&mut self, reads: LocalReads) {
        self.waiting.push_back(reads);
    }

    pub(super) fn add_remote(&mut self, from: NodeId, id: ReadId) {
        // The answer to a follower's latest question serves the reads of its earlier ones, too.
        self.remote.retain(|(asker, _)| *asker != from);
        self.remote.push((from, id));
    }

    /// Whether the leader should start a round for those that wait.
    pub(super) fn wants_round(&self) -> bool {
        self.confirming.is_none() && !(self.waiting.is_empty() && self.remote.is_empty())
    }

    pub(super) fn start_round(&mut self, round: u64, index: LogIndex) {
        let (local, remote) = self.take_waiting();
        self.confirming = Some(Confirming { round, index, local, remote });
    }

    /// Takes what waits for a round; what a round is under way for stays.
    pub(super) fn take_waiting(&mut self) -> (Vec<LocalReads>, Vec<(NodeId, ReadId)>) {
        (self.waiting.drain(..).collect(), std::mem::take(&mut self.remote))
    }

    /// What is being confirmed.
    pub(super) fn confirming(&self) -> Option<&Confirming> {
        self.confirming.as_ref()
    }

    pub(super) fn take_confirmed(&mut self) -> Option<Confirming> {
        self.confirming.take()
    }

    /// Whether a follower should ask its leader now: reads wait, and no question is under way or its answer is
    /// overdue. An answer is overdue after `patience`, or twice the time that the last one took if that is longer.
    pub(super) fn wants_to_ask(&self, now: Instant, patience: Duration) -> bool {
        let Some(latest) = self.questions.back() else { return !self.waiting.is_empty() };
        self.asks_again || now.since(latest.asked_at) > patience.max(self.answer_took.saturating_mul(2))
    }

    /// Notes a question for all reads that wait.
    pub(super) fn ask(&mut self, now: Instant, id: ReadId) {
        self.asks_again = false;
        self.questions.push_back(Question { id, asked_at: now, local: self.waiting.drain(..).collect() });
        if self.questions.len() > QUESTIONS_MAX
            && let Some(oldest) = self.questions.pop_front()
        {
            self.pass_on(0, oldest.local);
        }
    }

    /// Takes the reads that an answer serves: those that waited when the question that it `answers` was asked, so those
    /// of all earlier questions, too. `None` if no such question is open.
    pub(super) fn take_answered(
        &mut self,
        now: Instant,
        answers: impl Fn(ReadId) -> bool,
    ) -> Option<Vec<LocalReads>> {
        let place = self.questions.iter().rposition(|question| answers(question.id))?;
        self.answer_took = now.since(self.questions[place].asked_at);
        let served = self.questions.drain(..=place).flat_map(|question| question.local).collect();
        self.drop_idle_questions();
        Some(served)
    }

    /// Drops the questions if nobody waits for an answer any more, so that the next read need not wait for theirs.
    fn drop_idle_questions(&mut self) {
        if self.questions.iter().all(|question| question.local.is_empty()) {
            self.questions.clear();
        }
    }

    /// A message to the leader was dropped, maybe the latest question: it is asked again with the next occasion.
    pub(super) fn doubt_question(&mut self) {
        self.asks_again = true;
    }

    /// The leader will not answer question `id`.
    pub(super) fn on_refused(&mut self, id: ReadId) {
        let place = self.questions.iter().position(|question| question.id == id);
        if let Some((place, refused)) = place.and_then(|place| Some((place, self.questions.remove(place)?))) {
            self.pass_on(place, refused.local);
        }
    }

    /// Forgets all questions under way: their reads wait again, and late answers no longer count.
    pub(super) fn forget_questions(&mut self) {
        let questions = std::mem::take(&mut self.questions);
        self.asks_again = false;
        self.wait_again(questions.into_iter().flat_map(|question| question.local).collect());
    }

    /// Takes all reads that wait for a leader's word.
    pub(super) fn take_unconfirmed(&mut self) -> Vec<ReadId> {
        self.forget_questions();
        self.waiting.drain(..).flat_map(|reads| reads.ids).collect()
    }

    /// Gives reads to the question at `place`, which was asked while they waited; if there is none, they wait.
    fn pass_on(&mut self, place: usize, mut reads: Vec<LocalReads>) {
        match self.questions.get_mut(place) {
            Some(later) => {
                reads.append(&mut later.local);
                later.local = reads;
            }
            None => self.wait_again(reads),
        }
    }

    /// Leadership ended: what was being confirmed waits again. Returns the followers' questions to refuse.
    pub(super) fn reset(&mut self) -> Vec<(NodeId, ReadId)> {
        self.forget_questions();
        self.answer_took = Duration::ZERO;
        let mut refused = std::mem::take(&mut self.remote);
        if let Some(confirming) = self.confirming.take() {
            refused.extend(confirming.remote);
            self.wait_again(confirming.local);
        }
        refused
    }

    fn wait_again(&mut self, reads: Vec<LocalReads>) {
        for reads in reads.into_iter().rev() {
            self.waiting.push_front(reads);
        }
    }

    pub(super) fn add_ready(&mut self, index: LogIndex, local: Vec<LocalReads>) {
        if !local.is_empty() {
            self.ready.push_back((index, local));
        }
    }

    /// Takes confirmed reads whose index is at most `handed`.
    pub(super) fn take_ready(&mut self, handed: LogIndex) -> Option<(LogIndex, Vec<ReadId>)> {
        let position = self.ready.iter().position(|(index, _)| *index <= handed)?;
        let (index, local) = self.ready.remove(position)?;
        Some((index, local.into_iter().flat_map(|reads| reads.ids).collect()))
    }

    /// When the oldest read expires.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pending().map(|reads| reads.deadline).min()
    }

    fn pending(&self) -> impl Iterator<Item = &LocalReads> {
        let confirming = self.confirming.iter().flat_map(|confirming| &confirming.local);
        let asking = self.questions.iter().flat_map(|question| &question.local);
        let ready = self.ready.iter().flat_map(|(_, local)| local);
        self.waiting.iter().chain(confirming).chain(asking).chain(ready)
    }

    /// Takes reads whose deadline has come.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<ReadId> {
        let mut expired = Vec::new();
        let mut keep = |reads: &mut LocalReads| {
            let keep = reads.deadline > now;
            if !keep {
                expired.append(&mut reads.ids);
            }
            keep
        };
        self.waiting.retain_mut(&mut keep);
        if let Some(confirming) = &mut self.confirming {
            confirming.local.retain_mut(&mut keep);
        }
        for question in &mut self.questions {
            question.local.retain_mut(&mut keep);
        }
        self.drop_idle_questions();
        for (_, local) in &mut self.ready {
            local.retain_mut(&mut keep);
        }
        self.ready.retain(|(_, local)| !local.is_empty());
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads_of(asked: &[u64]) -> Reads {
        let mut reads = Reads::default();
        for id in asked {
            reads.add(LocalReads { ids: vec![ReadId(*id)], deadline: Instant(u64::MAX) });
            reads.ask(Instant(*id), ReadId(100 + id));
        }
        reads
    }

    fn answered(reads: &mut Reads, id: u64) -> Vec<u64> {
        let taken =
            reads.take_answered(Instant(1_000), |question| question == ReadId(id)).unwrap_or_default();
        taken.into_iter().flat_map(|reads| reads.ids).map(|id| id.0).collect()
    }

    #[test]
    fn an_answer_serves_its_own_question_and_earlier_ones_and_never_later_ones() {
        let mut reads = reads_of(&[1, 2, 3]);
        assert_eq!(answered(&mut reads, 102), [1, 2]);
        assert_eq!(answered(&mut reads, 101), [0_u64; 0], "a late answer to a question that is settled");
        assert_eq!(answered(&mut reads, 999), [0_u64; 0], "an answer to no question");
        assert_eq!(answered(&mut reads, 103), [3]);
    }

    #[test]
    fn a_refused_question_leaves_its_reads_to_the_next_one_or_to_wait() {
        let mut reads = reads_of(&[1, 2]);
        reads.on_refused(ReadId(101));
        assert_eq!(answered(&mut reads, 101), [0_u64; 0]);
        assert_eq!(answered(&mut reads, 102), [1, 2]);
        let mut reads = reads_of(&[1]);
        reads.on_refused(ReadId(101));
        reads.ask(Instant(9), ReadId(109));
        assert_eq!(answered(&mut reads, 109), [1]);
    }

    #[test]
    fn a_leader_that_answers_nothing_is_asked_a_bounded_number_of_questions_at_once() {
        let asked: Vec<u64> = (1..=100).collect();
        let mut reads = reads_of(&asked);
        assert_eq!(reads.questions.len(), QUESTIONS_MAX);
        assert_eq!(answered(&mut reads, 200), asked, "no read is lost");
    }

    #[test]
    fn questions_are_repeated_less_often_where_answers_take_long() {
        let patience = Duration::from_millis(120);
        let mut reads = reads_of(&[0]);
        assert!(!reads.wants_to_ask(Instant(100_000), patience));
        assert!(reads.wants_to_ask(Instant(130_000), patience));
        reads.take_answered(Instant(300_000), |question| question == ReadId(100));
        reads.add(LocalReads { ids: vec![ReadId(5)], deadline: Instant(u64::MAX) });
        reads.ask(Instant(300_000), ReadId(105));
        assert!(!reads.wants_to_ask(Instant(800_000), patience));
        reads.doubt_question();
        assert!(reads.wants_to_ask(Instant(800_000), patience));
        reads.ask(Instant(800_000), ReadId(106));
        assert!(reads.wants_to_ask(Instant(1_500_000), patience));
    }
}
