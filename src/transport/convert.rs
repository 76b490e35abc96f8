//! Raft messages to and from the wire. This module checks the form of what comes in and [`Message::check`] its content:
//! a message that passes cannot break an assumption of the core.

use bytes::Bytes;

use super::proto::{self, forwarded_answer, message::Body, refusal};
use crate::raft::{
    Append, Entry, Load, Message, NUMBER_MAX, Outcome, Payload, PayloadError, Promise, Refusal,
    RefusalReason, STATE_DIGESTS_MAX, Signal, Unfit, VoteRequest,
};
use crate::types::{LogIndex, LogPosition, LogTime, ProposalId, ReadId, Session, StateDigest, Term};

/// Largest gRPC message, in bytes, either way.
pub const GRPC_BYTES_MAX: usize = 4 << 20;
/// Largest content of one log entry or one forwarded command, in bytes: the most that `--request-bytes-max` may let in,
/// or a member would send what no other takes.
pub const ENTRY_BYTES_MAX: usize = 3 << 20;
/// Entries of one append, and items of one forwarded batch. Small items reach it before any limit in bytes.
pub const ITEMS_MAX: usize = 1 << 16;

/// What an item of a batch costs on the wire in addition to its content, at most, in bytes.
const ITEM_OVERHEAD_BYTES: usize = 32;

/// Why a message from a peer was refused.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// A part that must be there is not, or is of a kind unknown to this version.
    #[error("{0} is missing or unknown")]
    Missing(&'static str),
    /// No correct peer sends it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// A number out of range.
    #[error("{name} {value} is out of range")]
    Number {
        /// Which number.
        name: &'static str,
        /// As received.
        value: u64,
    },
    /// An entry's bytes do not fit its kind.
    #[error("entry {index}: {source}")]
    Payload {
        /// The entry.
        index: LogIndex,
        /// What is wrong.
        source: PayloadError,
    },
    /// No configuration.
    #[error("bad configuration: {source}")]
    Configuration {
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Larger than any node may send.
    #[error("{name} of {size}, the limit is {limit}")]
    TooLarge {
        /// What.
        name: &'static str,
        /// As received.
        size: usize,
        /// The most allowed.
        limit: usize,
    },
}

/// What the message takes on the wire at most, in bytes; exact within a few bytes an item.
pub(super) fn size_bytes(message: &Message) -> usize {
    let Load { items, bytes } = message.load();
    bytes + (items + 2) * ITEM_OVERHEAD_BYTES
}

/// What a forwarded command takes on the wire at most, in bytes.
pub(super) fn proposal_bytes(command: &Bytes) -> usize {
    command.len() + ITEM_OVERHEAD_BYTES
}

/// For the wire. Payloads are shared, not copied.
pub(super) fn to_wire(message: Message) -> proto::Message {
    let body = match message {
        Message::Signal(signal) => signal_to_wire(signal),
        Message::Promise(Promise::VoteGranted { term }) => {
            Body::VoteGranted(proto::VoteGranted { term: term.0 })
        }
        Message::Promise(Promise::Appended { term, session, match_index, round, stickiness_ms }) => {
            Body::Appended(proto::Appended {
                term: term.0,
                session: session.0,
                match_index: match_index.0,
                round,
                stickiness_ms,
            })
        }
    };
    proto::Message { body: Some(body) }
}

fn signal_to_wire(signal: Signal) -> Body {
    match signal {
        Signal::PreVote(request) => Body::PreVote(vote_to_wire(&request)),
        Signal::RequestVote(request) => Body::RequestVote(vote_to_wire(&request)),
        Signal::PreVoteGranted { term } => Body::PreVoteGranted(proto::PreVoteGranted { term: term.0 }),
        Signal::VoteRefused { term, pre_vote } => {
            Body::VoteRefused(proto::VoteRefused { term: term.0, pre_vote })
        }
        Signal::Append(append) => Body::Append(append_to_wire(&append)),
        Signal::AppendRejected { term, session, prev, hint } => Body::AppendRejected(proto::AppendRejected {
            term: term.0,
            session: session.0,
            prev: Some(position_to_wire(prev)),
            hint: Some(position_to_wire(hint)),
        }),
        Signal::RoundEcho { term, session, round, stickiness_ms } => {
            Body::RoundEcho(proto::RoundEcho { term: term.0, session: session.0, round, stickiness_ms })
        }
        Signal::Forward { proposals } => Body::Forward(proto::Forward {
            proposals: proposals
                .into_iter()
                .map(|(id, command)| proto::ForwardedProposal { id: id.0, command })
                .collect(),
        }),
        Signal::Forwarded { answers } => Body::Forwarded(proto::Forwarded {
            answers: answers.into_iter().map(|(id, answer)| answer_to_wire(id, answer)).collect(),
        }),
        Signal::ReadIndex { id } => Body::ReadIndex(proto::ReadIndex { id: id.0 }),
        Signal::ReadIndexAt { id, term, index } => {
            Body::ReadIndexAt(proto::ReadIndexAt { id: id.0, term: term.0, index: index.0 })
        }
        Signal::ReadIndexRefused { id } => Body::ReadIndexRefused(proto::ReadIndexRefused { id: id.0 }),
        Signal::TimeoutNow { term } => Body::TimeoutNow(proto::TimeoutNow { term: term.0 }),
        Signal::Removed { index } => Body::Removed(proto::Removed { index: index.0 }),
        Signal::LostData { term, session, match_index } => {
            Body::LostData(proto::LostData { term: term.0, session: session.0, match_index: match_index.0 })
        }
        Signal::StateDigests { digests } => {
            let digests = digests.into_iter().map(|(index, digest)| proto::StateDigest {
                index: index.0,
                scheme: digest.scheme,
                digest: digest.value,
            });
            Body::StateDigests(proto::StateDigests { digests: digests.collect() })
        }
    }
}

fn position_to_wire(position: LogPosition) -> proto::Position {
    proto::Position { index: position.index.0, term: position.term.0 }
}

fn vote_to_wire(request: &VoteRequest) -> proto::VoteRequest {
    let VoteRequest { term, last, transfer, election_timeout_ms } = *request;
    proto::VoteRequest { term: term.0, last: Some(position_to_wire(last)), transfer, election_timeout_ms }
}

fn append_to_wire(append: &Append) -> proto::Append {
    let entries = append.entries.iter().map(|entry| proto::Entry {
        term: entry.term.0,
        index: entry.index.0,
        time: entry.time.0,
        kind: u32::from(entry.payload.kind() as u8),
        data: entry.payload.data(),
    });
    proto::Append {
        term: append.term.0,
        session: append.session.0,
        prev: Some(position_to_wire(append.prev)),
        entries: entries.collect(),
        commit_index: append.commit_index.0,
        round: append.round,
        unheard: append.unheard,
        election_timeout_ms: append.election_timeout_ms,
    }
}

fn answer_to_wire(id: ProposalId, answer: Result<LogPosition, Refusal>) -> proto::ForwardedAnswer {
    let outcome = match answer {
        Ok(position) => forwarded_answer::Outcome::Appended(position_to_wire(position)),
        Err(Refusal { reason, outcome }) => {
            let reason = match reason {
                // A leader is heard by itself: nobody forwards that it is not.
                RefusalReason::NoLeader | RefusalReason::NotHeard => refusal::Reason::NoLeader,
                RefusalReason::NoQuorum => refusal::Reason::NoQuorum,
                RefusalReason::Overloaded => refusal::Reason::Overloaded,
                RefusalReason::LeadershipLost => refusal::Reason::LeadershipLost,
                RefusalReason::Timeout => refusal::Reason::Timeout,
                RefusalReason::SpaceLow => refusal::Reason::SpaceLow,
                RefusalReason::ClusterVersion => refusal::Reason::ClusterVersion,
            };
            let outcome = match outcome {
                Outcome::NotApplied => refusal::Outcome::NotApplied,
                Outcome::Unknown => refusal::Outcome::Unknown,
            };
            forwarded_answer::Outcome::Refused(proto::Refusal {
                reason: reason.into(),
                outcome: outcome.into(),
            })
        }
    };
    proto::ForwardedAnswer { id: id.0, outcome: Some(outcome) }
}

/// From the wire, checked.
///
/// # Errors
/// The first rule that the message breaks.
pub(super) fn from_wire(message: proto::Message) -> Result<Message, Malformed> {
    let message = decoded(message)?;
    message.check()?;
    Ok(message)
}

fn decoded(message: proto::Message) -> Result<Message, Malformed> {
    let signal = match message.body.ok_or(Malformed::Missing("message"))? {
        Body::PreVote(request) => Signal::PreVote(vote_from_wire(&request)?),
        Body::RequestVote(request) => Signal::RequestVote(vote_from_wire(&request)?),
        Body::PreVoteGranted(m) => Signal::PreVoteGranted { term: Term(m.term) },
        Body::VoteRefused(m) => Signal::VoteRefused { term: Term(m.term), pre_vote: m.pre_vote },
        Body::Append(append) => Signal::Append(append_from_wire(append)?),
        Body::AppendRejected(m) => Signal::AppendRejected {
            term: Term(m.term),
            session: Session(m.session),
            prev: position("prev", m.prev.as_ref())?,
            hint: position("hint", m.hint.as_ref())?,
        },
        Body::RoundEcho(m) => Signal::RoundEcho {
            term: Term(m.term),
            session: Session(m.session),
            round: m.round,
            stickiness_ms: m.stickiness_ms,
        },
        Body::Forward(forward) => forward_from_wire(forward)?,
        Body::Forwarded(forwarded) => {
            check_size("forwarded answers", forwarded.answers.len(), ITEMS_MAX)?;
            let answers = forwarded.answers.into_iter().map(answer_from_wire).collect::<Result<_, _>>()?;
            Signal::Forwarded { answers }
        }
        Body::ReadIndex(m) => Signal::ReadIndex { id: ReadId(m.id) },
        Body::ReadIndexAt(m) => {
            Signal::ReadIndexAt { id: ReadId(m.id), term: Term(m.term), index: LogIndex(m.index) }
        }
        Body::ReadIndexRefused(m) => Signal::ReadIndexRefused { id: ReadId(m.id) },
        Body::TimeoutNow(m) => Signal::TimeoutNow { term: Term(m.term) },
        Body::Removed(m) => Signal::Removed { index: LogIndex(m.index) },
        Body::LostData(m) => Signal::LostData {
            term: Term(m.term),
            session: Session(m.session),
            match_index: LogIndex(m.match_index),
        },
        Body::StateDigests(m) => {
            check_size("state digests", m.digests.len(), STATE_DIGESTS_MAX)?;
            let digests = m.digests.into_iter().map(|wire| {
                let digest = StateDigest { scheme: wire.scheme, value: wire.digest };
                (LogIndex(wire.index), digest)
            });
            Signal::StateDigests { digests: digests.collect() }
        }
        Body::VoteGranted(m) => return Ok(Promise::VoteGranted { term: Term(m.term) }.into()),
        Body::Appended(m) => {
            return Ok(Promise::Appended {
                term: Term(m.term),
                session: Session(m.session),
                match_index: LogIndex(m.match_index),
                round: m.round,
                stickiness_ms: m.stickiness_ms,
            }
            .into());
        }
    };
    Ok(signal.into())
}

pub(super) fn number(name: &'static str, value: u64) -> Result<u64, Malformed> {
    if value < NUMBER_MAX { Ok(value) } else { Err(Malformed::Number { name, value }) }
}

pub(super) fn check_size(name: &'static str, size: usize, limit: usize) -> Result<(), Malformed> {
    if size > limit { Err(Malformed::TooLarge { name, size, limit }) } else { Ok(()) }
}

pub(super) fn position(name: &'static str, wire: Option<&proto::Position>) -> Result<LogPosition, Malformed> {
    let wire = wire.ok_or(Malformed::Missing(name))?;
    Ok(LogPosition { index: LogIndex(wire.index), term: Term(wire.term) })
}

fn vote_from_wire(wire: &proto::VoteRequest) -> Result<VoteRequest, Malformed> {
    let last = position("last", wire.last.as_ref())?;
    let (term, election_timeout_ms) = (Term(wire.term), wire.election_timeout_ms);
    Ok(VoteRequest { term, last, transfer: wire.transfer, election_timeout_ms })
}

fn append_from_wire(wire: proto::Append) -> Result<Append, Malformed> {
    check_size("append in entries", wire.entries.len(), ITEMS_MAX)?;
    Ok(Append {
        term: Term(wire.term),
        session: Session(wire.session),
        prev: position("prev", wire.prev.as_ref())?,
        entries: wire.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?,
        commit_index: LogIndex(wire.commit_index),
        round: wire.round,
        unheard: wire.unheard,
        election_timeout_ms: wire.election_timeout_ms,
    })
}

fn entry_from_wire(wire: proto::Entry) -> Result<Entry, Malformed> {
    let index = LogIndex(wire.index);
    check_size("entry in bytes", wire.data.len(), ENTRY_BYTES_MAX)?;
    let kind = u8::try_from(wire.kind).map_err(|_| Malformed::Missing("entry kind"))?;
    let payload =
        Payload::from_parts(kind, wire.data).map_err(|source| Malformed::Payload { index, source })?;
    Ok(Entry { term: Term(wire.term), index, time: LogTime(wire.time), payload })
}

fn forward_from_wire(wire: proto::Forward) -> Result<Signal, Malformed> {
    check_size("forwarded writes", wire.proposals.len(), ITEMS_MAX)?;
    let mut proposals = Vec::with_capacity(wire.proposals.len());
    for proposal in wire.proposals {
        check_size("forwarded command in bytes", proposal.command.len(), ENTRY_BYTES_MAX)?;
        proposals.push((ProposalId(proposal.id), proposal.command));
    }
    Ok(Signal::Forward { proposals })
}

fn answer_from_wire(
    wire: proto::ForwardedAnswer,
) -> Result<(ProposalId, Result<LogPosition, Refusal>), Malformed> {
    let answer = match wire.outcome.ok_or(Malformed::Missing("outcome"))? {
        forwarded_answer::Outcome::Appended(at) => Ok(position("appended", Some(&at))?),
        forwarded_answer::Outcome::Refused(refused) => Err(refusal_from_wire(refused)?),
    };
    Ok((ProposalId(wire.id), answer))
}

fn refusal_from_wire(wire: proto::Refusal) -> Result<Refusal, Malformed> {
    let reason = match wire.reason() {
        refusal::Reason::Unspecified => return Err(Malformed::Missing("reason")),
        refusal::Reason::NoLeader => RefusalReason::NoLeader,
        refusal::Reason::NoQuorum => RefusalReason::NoQuorum,
        refusal::Reason::Overloaded => RefusalReason::Overloaded,
        refusal::Reason::LeadershipLost => RefusalReason::LeadershipLost,
        refusal::Reason::Timeout => RefusalReason::Timeout,
        refusal::Reason::SpaceLow => RefusalReason::SpaceLow,
        refusal::Reason::ClusterVersion => RefusalReason::ClusterVersion,
    };
    let outcome = match wire.outcome() {
        refusal::Outcome::Unspecified => return Err(Malformed::Missing("outcome")),
        refusal::Outcome::NotApplied => Outcome::NotApplied,
        refusal::Outcome::Unknown => Outcome::Unknown,
    };
    Ok(Refusal { reason, outcome })
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
