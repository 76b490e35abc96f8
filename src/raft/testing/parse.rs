//! How scripts write nodes, times, positions, entries and messages.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::ArgumentConsumer;

use super::super::{
    Append, Change, Configuration, Entry, ForwardAnswer, Member, Message, Payload, Promise, Refusal,
    RefusalReason, Signal, VoteRequest,
};
use super::members::new_member;
use crate::types::{LogIndex, LogPosition, LogTime, NodeId, ProposalId, ReadId, Session, Term};

pub(super) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// `n1`
pub(super) fn node(text: &str) -> Result<NodeId> {
    let number = text.strip_prefix('n').and_then(|number| number.parse().ok());
    number.map(NodeId).ok_or_else(|| format!("'{text}' is not a node, such as n1").into())
}

/// `n1 n2 n3`
pub(super) fn nodes(text: &str) -> Result<Vec<NodeId>> {
    text.split_whitespace().map(node).collect()
}

/// `300ms` or `2s`
pub(super) fn duration(text: &str) -> Result<Duration> {
    let millis = text.strip_suffix("ms").and_then(|number| number.parse().ok()).map(Duration::from_millis);
    let seconds = text.strip_suffix('s').and_then(|number| number.parse().ok()).map(Duration::from_secs);
    millis.or(seconds).ok_or_else(|| format!("'{text}' is not a time, such as 300ms or 2s").into())
}

/// `3@2`: index 3, term 2
pub(super) fn position(text: &str) -> Result<LogPosition> {
    let (index, term) =
        text.split_once('@').ok_or_else(|| format!("'{text}' is not a position, such as 3@2"))?;
    Ok(LogPosition { index: LogIndex(index.parse()?), term: Term(term.parse()?) })
}

/// `1 1 2`: the terms of a log, from its first entry on
pub(super) fn log(text: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for term in text.split_whitespace() {
        let index = LogIndex(entries.len() as u64 + 1);
        entries.push(Entry {
            term: Term(term.parse()?),
            index,
            time: LogTime(0),
            payload: Payload::Command(Bytes::new()),
        });
    }
    Ok(entries)
}

/// `4@2 x=1, 5@2 no-op, 6@2 voters n1 n2`: entries as traces show them
fn entries(text: &str) -> Result<Vec<Entry>> {
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(entry).collect()
}

fn entry(text: &str) -> Result<Entry> {
    let (place, content) = text.split_once(' ').unwrap_or((text, ""));
    let LogPosition { index, term } = position(place)?;
    let payload = match content.split_once(' ') {
        _ if content == "no-op" => Payload::Noop,
        Some(("voters" | "joint", _)) => Payload::Configuration(Arc::new(any_configuration(content, index)?)),
        _ => Payload::Command(Bytes::from(content.to_owned())),
    };
    Ok(Entry { term, index, time: LogTime(0), payload })
}

/// `joint voters n1 n2 outgoing n1 n2 n3 learners n4 lasting-learners n5 removed n6`, in the entry at `index`; all sessions are 0.
fn any_configuration(text: &str, index: LogIndex) -> Result<Configuration> {
    let mut parsed = configuration(&[]);
    let mut part = "joint";
    for word in text.split_whitespace() {
        let Ok(id) = node(word) else {
            part = word;
            continue;
        };
        let mut member = member(id);
        match part {
            "voters" => parsed.voters.insert(id, member),
            "outgoing" => parsed.outgoing.insert(id, member),
            "learners" => parsed.learners.insert(id, member),
            "lasting-learners" => {
                member.stays_learner = true;
                parsed.learners.insert(id, member)
            }
            "removed" => {
                parsed.removed.insert(id, index);
                None
            }
            other => return Err(format!("no part of a configuration is called {other}").into()),
        };
    }
    Ok(parsed)
}

fn member(id: NodeId) -> Member {
    Member { name: format!("n{}", id.0), ..Member::default() }
}

/// `add='n4 n5' add-learner=n6 promote=n4 demote=n2 remove='n1 n3'`: what an administrator wants to change
pub(super) fn change(args: &mut ArgumentConsumer) -> Result<Change> {
    let mut ids = |key: &str| args.take_key(key).map_or(Ok(Vec::new()), nodes);
    let mut change = Change {
        add: ids("add")?.into_iter().map(|id| new_member(id, false)).collect(),
        promote: ids("promote")?,
        demote: ids("demote")?,
        remove: ids("remove")?,
        feature_level: None,
    };
    change.add.extend(ids("add-learner")?.into_iter().map(|id| new_member(id, true)));
    if let Some(name) = args.take_key("name")
        && let Some(new) = change.add.first_mut()
    {
        name.clone_into(&mut new.name);
    }
    Ok(change)
}

/// Members of the first configuration have session 0.
pub(super) fn configuration(voters: &[NodeId]) -> Configuration {
    let voters = voters.iter().map(|id| (*id, member(*id))).collect();
    Configuration { voters, ..Configuration::default() }
}

/// A message as traces show it: its kind, then `name=value` for its parts, all of which default to 0.
pub(super) fn message(args: &mut ArgumentConsumer) -> Result<Message> {
    let kind = args.next_pos().ok_or("what message?")?;
    let mut number = |name: &str| -> Result<u64> {
        Ok(args.take_key(name).map(str::parse).transpose()?.unwrap_or_default())
    };
    let term = Term(number("term")?);
    let session = Session(number("session")?);
    let round = number("round")?;
    let index = LogIndex(number("index")?);
    let match_index = LogIndex(number("match")?);
    let commit_index = LogIndex(number("commit")?);
    let id = number("id")?;
    let transfer = number("transfer")? == 1;
    let unheard = number("unheard")? == 1;
    let election_timeout_ms = u32::try_from(number("timeout")?)?;
    let stickiness_ms = u32::try_from(number("stickiness")?)?;
    let mut place = |name: &str| -> Result<LogPosition> {
        Ok(args.take_key(name).map(position).transpose()?.unwrap_or_default())
    };
    let (last, prev, hint, at) = (place("last")?, place("prev")?, place("hint")?, place("at")?);
    let signal = match kind {
        "PreVote" => Signal::PreVote(VoteRequest { term, last, transfer: false, election_timeout_ms }),
        "RequestVote" => Signal::RequestVote(VoteRequest { term, last, transfer, election_timeout_ms }),
        "PreVoteGranted" => Signal::PreVoteGranted { term },
        "PreVoteRefused" => Signal::VoteRefused { term, pre_vote: true },
        "VoteRefused" => Signal::VoteRefused { term, pre_vote: false },
        "Append" => {
            let entries = args.take_key("entries").map(entries).transpose()?.unwrap_or_default();
            Signal::Append(Append {
                term,
                session,
                prev,
                entries,
                commit_index,
                round,
                unheard,
                election_timeout_ms,
            })
        }
        "AppendRejected" => Signal::AppendRejected { term, session, prev, hint },
        "RoundEcho" => Signal::RoundEcho { term, session, round, stickiness_ms },
        "Forwarded" => {
            let refused = args.take_key("refused").map(refusal).transpose()?;
            let answer: ForwardAnswer = (ProposalId(id), refused.map_or(Ok(at), Err));
            Signal::Forwarded { answers: vec![answer] }
        }
        "ReadIndex" => Signal::ReadIndex { id: ReadId(id) },
        "ReadIndexAt" => Signal::ReadIndexAt { id: ReadId(id), term, index },
        "VoteGranted" => return Ok(Promise::VoteGranted { term }.into()),
        "TimeoutNow" => Signal::TimeoutNow { term },
        "Removed" => Signal::Removed { index },
        "LostData" => Signal::LostData { term, session, match_index },
        "Appended" => {
            return Ok(Promise::Appended { term, session, match_index, round, stickiness_ms }.into());
        }
        other => return Err(format!("no message is called {other}").into()),
    };
    Ok(signal.into())
}

fn refusal(reason: &str) -> Result<Refusal> {
    match reason {
        "no-leader" => Ok(Refusal::not_applied(RefusalReason::NoLeader)),
        "unknown" => Ok(Refusal::unknown(RefusalReason::LeadershipLost)),
        "overloaded" => Ok(Refusal::not_applied(RefusalReason::Overloaded)),
        other => Err(format!("no refusal is called {other}").into()),
    }
}
