//! A member that lies: now and then one field of one kind of its messages says something else than it should.
//!
//! Raft is made for members that fail by stopping, not for members that lie. Some lies break it on principle: a vote or
//! an acknowledgement that nothing supports, a log that differs from one receiver to the next. [`Lie::is_survivable`]
//! tells them apart. Of the others nothing may be lost; no lie at all may make a node panic.

use super::random::Random;
use crate::raft::{Append, Message, Payload, Promise, Signal};
use crate::types::LogPosition;

/// Further than anything in a run, and nearer than what is refused for its size alone.
const FAR: u64 = 1 << 20;

/// How a field is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bend {
    /// A little less.
    Lower,
    /// One more.
    Next,
    /// Far more: beyond all that is in use.
    Far,
}

/// What is lied about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The term of a pre-vote request.
    PreVoteTerm(Bend),
    /// The end of the log in a pre-vote request.
    PreVoteLast(Bend),
    /// The term of a pre-vote.
    PreVoteGrantedTerm(Bend),
    /// The term of a vote request.
    VoteTerm(Bend),
    /// The end of the log in a vote request.
    VoteLast(Bend),
    /// Whether the leader asked for the vote request.
    VoteTransfer,
    /// The term of a refusal.
    VoteRefusedTerm(Bend),
    /// The term of a vote.
    VoteGrantedTerm(Bend),
    /// The term of an append.
    AppendTerm(Bend),
    /// The session of an append.
    AppendSession,
    /// What entries of an append follow.
    AppendPrev(Bend),
    /// The term of what entries of an append follow.
    AppendPrevTerm(Bend),
    /// The commit index of an append.
    AppendCommit(Bend),
    /// The read round of an append.
    AppendRound(Bend),
    /// The term of an entry.
    EntryTerm(Bend),
    /// The index of an entry.
    EntryIndex(Bend),
    /// The log's clock at an entry.
    EntryTime(Bend),
    /// The payload of an entry.
    EntryPayload,
    /// Whether the receiver is heard.
    Unheard,
    /// The election timeout of an append.
    Timeout,
    /// The term of a rejected append.
    RejectedTerm(Bend),
    /// What was rejected.
    RejectedPrev(Bend),
    /// Where the logs may agree.
    RejectedHint(Bend),
    /// The round of an echo.
    EchoRound(Bend),
    /// The session of an echo or an acknowledgement.
    AnswerSession,
    /// The promise to vote for nobody else.
    Stickiness,
    /// What was acknowledged.
    Match(Bend),
    /// The round of an acknowledgement.
    AppendedRound(Bend),
    /// The id of a forwarded write.
    ForwardId(Bend),
    /// The id of an answer to a forwarded write.
    ForwardedId(Bend),
    /// Where a forwarded write was appended.
    ForwardedPosition(Bend),
    /// The id of a question for a read index.
    ReadId(Bend),
    /// The id of an answer to one.
    ReadAtId(Bend),
    /// The read index.
    ReadAtIndex(Bend),
    /// The term of a read index.
    ReadAtTerm(Bend),
    /// The term of a request to take over.
    TimeoutNowTerm(Bend),
    /// What the receiver is said to have lost.
    LostMatch(Bend),
}

/// A member that lies.
pub(super) struct Liar {
    node: usize,
    lie: Lie,
    /// Of a thousand messages that have the field.
    chance: u32,
    random: Random,
    wire: Wire,
}

impl Lie {
    /// What the seed says.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed, 14);
        let bend = random.pick(&[Bend::Lower, Bend::Next, Bend::Far]);
        let lies: [fn(Bend) -> Self; 37] = [
            Self::PreVoteTerm,
            Self::PreVoteLast,
            Self::PreVoteGrantedTerm,
            Self::VoteTerm,
            Self::VoteLast,
            |_| Self::VoteTransfer,
            Self::VoteRefusedTerm,
            Self::VoteGrantedTerm,
            Self::AppendTerm,
            |_| Self::AppendSession,
            Self::AppendPrev,
            Self::AppendPrevTerm,
            Self::AppendCommit,
            Self::AppendRound,
            Self::EntryTerm,
            Self::EntryIndex,
            Self::EntryTime,
            |_| Self::EntryPayload,
            |_| Self::Unheard,
            |_| Self::Timeout,
            Self::RejectedTerm,
            Self::RejectedPrev,
            Self::RejectedHint,
            Self::EchoRound,
            |_| Self::AnswerSession,
            |_| Self::Stickiness,
            Self::Match,
            Self::AppendedRound,
            Self::ForwardId,
            Self::ForwardedId,
            Self::ForwardedPosition,
            Self::ReadId,
            Self::ReadAtId,
            Self::ReadAtIndex,
            Self::ReadAtTerm,
            Self::TimeoutNowTerm,
            Self::LostMatch,
        ];
        random.pick(&lies)(bend)
    }

    /// Whether a cluster in which one member tells this lie still owes its clients and members everything.
    ///
    /// Not so where a majority is built on the lie (a vote, an acknowledgement, the echo of a read round), where it makes
    /// the logs or states of its receivers differ (an append's term, place, entries and commit index), or where it is an
    /// answer to a client. A read index is the leader's commit index, too.
    #[must_use]
    pub fn is_survivable(self) -> bool {
        !matches!(
            self,
            // It wins without the entries that are committed.
            Self::VoteLast(Bend::Next | Bend::Far)
            // A vote that was not given.
            | Self::VoteGrantedTerm(Bend::Lower | Bend::Next)
            // Entries in the name of a leader that is another node.
            | Self::AppendTerm(Bend::Next | Bend::Far)
            | Self::AppendPrev(_)
            | Self::AppendPrevTerm(_)
            | Self::EntryTerm(_)
            | Self::EntryIndex(_)
            // Members' clocks, and so what is forgotten when, differ.
            | Self::EntryTime(_)
            | Self::EntryPayload
            // What no majority holds is applied.
            | Self::AppendCommit(Bend::Next | Bend::Far)
            | Self::ReadAtIndex(_)
            | Self::Match(Bend::Next | Bend::Far)
            // A leader that was replaced serves reads.
            | Self::EchoRound(Bend::Next | Bend::Far)
            | Self::AppendedRound(Bend::Next | Bend::Far)
            | Self::Stickiness
            | Self::VoteTransfer
            | Self::ReadAtId(_)
            // A client is told of another's write.
            | Self::ForwardedId(_)
            | Self::ForwardedPosition(_)
            // A node that believes that it lost data stops.
            | Self::LostMatch(Bend::Next | Bend::Far)
        )
    }

    /// Puts the lie into a message; false if that has no such field.
    fn bend(self, message: &mut Message, random: &mut Random) -> bool {
        match message {
            Message::Promise(Promise::VoteGranted { term }) => match self {
                Self::VoteGrantedTerm(by) => by.bend(&mut term.0),
                _ => return false,
            },
            Message::Promise(Promise::Appended { session, match_index, round, stickiness_ms, .. }) => {
                match self {
                    Self::AnswerSession => session.0 += 1,
                    Self::Match(by) => by.bend(&mut match_index.0),
                    Self::AppendedRound(by) => by.bend(round),
                    Self::Stickiness => *stickiness_ms = stickiness_ms.saturating_add(100_000),
                    _ => return false,
                }
            }
            Message::Signal(Signal::PreVote(request)) => match self {
                Self::PreVoteTerm(by) => by.bend(&mut request.term.0),
                Self::PreVoteLast(by) => by.bend_position(&mut request.last),
                _ => return false,
            },
            Message::Signal(Signal::RequestVote(request)) => match self {
                Self::VoteTerm(by) => by.bend(&mut request.term.0),
                Self::VoteLast(by) => by.bend_position(&mut request.last),
                Self::VoteTransfer => request.transfer = !request.transfer,
                _ => return false,
            },
            Message::Signal(Signal::Append(append)) => return self.bend_append(append, random),
            Message::Signal(signal) => return self.bend_signal(signal, random),
        }
        true
    }

    fn bend_append(self, append: &mut Append, random: &mut Random) -> bool {
        let place = random.index(append.entries.len().max(1));
        match (self, append.entries.get_mut(place)) {
            (Self::AppendTerm(by), _) => by.bend(&mut append.term.0),
            (Self::AppendSession, _) => append.session.0 += 1,
            (Self::AppendPrev(by), _) => by.bend_position(&mut append.prev),
            (Self::AppendPrevTerm(by), _) => by.bend(&mut append.prev.term.0),
            (Self::AppendCommit(by), _) => by.bend(&mut append.commit_index.0),
            (Self::AppendRound(by), _) => by.bend(&mut append.round),
            (Self::Unheard, _) => append.unheard = !append.unheard,
            (Self::Timeout, _) => append.election_timeout_ms = u32::MAX,
            (Self::EntryTerm(by), Some(entry)) => by.bend(&mut entry.term.0),
            (Self::EntryIndex(by), Some(entry)) => by.bend(&mut entry.index.0),
            (Self::EntryTime(by), Some(entry)) => by.bend(&mut entry.time.0),
            (Self::EntryPayload, Some(entry)) => entry.payload = Payload::Noop,
            _ => return false,
        }
        true
    }

    fn bend_signal(self, signal: &mut Signal, random: &mut Random) -> bool {
        match (self, signal) {
            (Self::PreVoteGrantedTerm(by), Signal::PreVoteGranted { term })
            | (Self::VoteRefusedTerm(by), Signal::VoteRefused { term, .. })
            | (Self::RejectedTerm(by), Signal::AppendRejected { term, .. })
            | (Self::ReadAtTerm(by), Signal::ReadIndexAt { term, .. })
            | (Self::TimeoutNowTerm(by), Signal::TimeoutNow { term }) => by.bend(&mut term.0),
            (
                Self::AnswerSession,
                Signal::AppendRejected { session, .. } | Signal::RoundEcho { session, .. },
            ) => {
                session.0 += 1;
            }
            (Self::RejectedPrev(by), Signal::AppendRejected { prev, .. }) => by.bend_position(prev),
            (Self::RejectedHint(by), Signal::AppendRejected { hint, .. }) => by.bend_position(hint),
            (Self::EchoRound(by), Signal::RoundEcho { round, .. }) => by.bend(round),
            (Self::Stickiness, Signal::RoundEcho { stickiness_ms, .. }) => {
                *stickiness_ms = stickiness_ms.saturating_add(100_000);
            }
            (Self::ForwardId(by), Signal::Forward { proposals }) => {
                let place = random.index(proposals.len().max(1));
                let Some((id, _)) = proposals.get_mut(place) else { return false };
                by.bend(&mut id.0);
            }
            (Self::ForwardedId(_) | Self::ForwardedPosition(_), Signal::Forwarded { answers }) => {
                let place = random.index(answers.len().max(1));
                match (self, answers.get_mut(place)) {
                    (Self::ForwardedId(by), Some((id, _))) => by.bend(&mut id.0),
                    (Self::ForwardedPosition(by), Some((_, Ok(position)))) => by.bend_position(position),
                    _ => return false,
                }
            }
            (Self::ReadId(by), Signal::ReadIndex { id })
            | (Self::ReadAtId(by), Signal::ReadIndexAt { id, .. }) => {
                by.bend(&mut id.0);
            }
            (Self::ReadAtIndex(by), Signal::ReadIndexAt { index, .. }) => by.bend(&mut index.0),
            (Self::LostMatch(by), Signal::LostData { match_index, .. }) => by.bend(&mut match_index.0),
            _ => return false,
        }
        true
    }
}

impl Bend {
    fn bend(self, number: &mut u64) {
        *number = match self {
            Self::Lower => number.saturating_sub(1),
            Self::Next => number.saturating_add(1),
            Self::Far => number.saturating_add(FAR),
        };
    }

    fn bend_position(self, position: &mut LogPosition) {
        self.bend(&mut position.index.0);
        if position.index.0 == 0 {
            position.term.0 = 0;
        } else {
            position.term.0 = position.term.0.max(1);
        }
    }
}

/// What the network carries of a message: encoded, decoded and checked as production does it. `None`: it is refused.
#[derive(Clone, Copy)]
pub struct Wire(pub fn(Message) -> Option<Message>);

impl Default for Wire {
    fn default() -> Self {
        Self(Some)
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl PartialEq for Wire {
    /// Part of the program, and not of a plan.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Wire {}

impl Liar {
    /// Some node of a seed, which tells one kind of lie.
    pub(super) fn of(seed: u64, nodes: usize, wire: Wire) -> Self {
        let mut random = Random::new(seed, 15);
        let (node, chance) = (random.index(nodes), random.pick(&[2, 20, 200]));
        Self { node, lie: Lie::of(seed), chance, random, wire }
    }

    /// What arrives of what `from` sends, and whether it is a lie.
    pub(super) fn tell(&mut self, from: usize, message: &Message) -> Option<Told> {
        if from != self.node || !self.random.chance(self.chance) {
            return None;
        }
        let mut told = message.clone();
        if !self.lie.bend(&mut told, &mut self.random) {
            return None;
        }
        Some((self.wire.0)(told).map_or(Told::Refused, Told::Lie))
    }
}

/// What became of a lie.
pub(super) enum Told {
    /// The receiver's checks let it pass.
    Lie(Message),
    /// They did not: the stream ends, and the message with it.
    Refused,
}
