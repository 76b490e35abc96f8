//! Raft's messages and entries in plain words.

use crate::kv::{Command, Operation};
use crate::raft::{Append, Entry, Message, Outcome, Payload, Promise, Refusal, RefusalReason, Signal};
use crate::types::{LogIndex, LogPosition, Term};

/// What a message is called, what it says, and which term and index it is about.
pub(super) struct Said {
    pub(super) kind: &'static str,
    pub(super) text: String,
    pub(super) term: Option<Term>,
    pub(super) index: Option<LogIndex>,
}

impl Said {
    fn new(kind: &'static str, text: String, term: Option<Term>, index: Option<LogIndex>) -> Self {
        Self { kind, text, term, index }
    }
}

/// Puts a message into words.
pub(super) fn said(message: &Message) -> Said {
    let signal = match message {
        Message::Promise(Promise::VoteGranted { term }) => {
            return Said::new("VoteGranted", format!("you have my vote for term {term}"), Some(*term), None);
        }
        Message::Promise(Promise::Appended { term, match_index, .. }) => {
            let text = format!("done, my disk holds your log up to entry {match_index}");
            return Said::new("Appended", text, Some(*term), Some(*match_index));
        }
        Message::Signal(signal) => signal,
    };
    match signal {
        Signal::PreVote(request) => {
            let text = format!("PreVote: would you vote for me in term {}?", request.term);
            Said::new("PreVote", text, Some(request.term), None)
        }
        Signal::RequestVote(request) => {
            let last = position(request.last);
            let text = format!("RequestVote: vote for me in term {}, my log ends at {last}", request.term);
            Said::new("RequestVote", text, Some(request.term), None)
        }
        Signal::PreVoteGranted { term } => {
            Said::new("PreVoteGranted", format!("I would vote for you in term {term}"), Some(*term), None)
        }
        Signal::VoteRefused { term, pre_vote } => {
            let what = if *pre_vote { "I would not vote for you" } else { "no vote for you" };
            Said::new("VoteRefused", format!("{what} (my term is {term})"), Some(*term), None)
        }
        Signal::Append(append) => appended(append),
        Signal::AppendRejected { term, prev, .. } => {
            let text = format!("AppendEntries refused at {}, my term is {term}", position(*prev));
            Said::new("AppendRejected", text, Some(*term), Some(prev.index))
        }
        Signal::RoundEcho { term, .. } => {
            Said::new("HeartbeatReply", "heartbeat heard".to_owned(), Some(*term), None)
        }
        Signal::Forward { proposals } => {
            let text = format!("I forward {} write to you, the leader", proposals.len());
            Said::new("Forward", text, None, None)
        }
        Signal::Forwarded { .. } => {
            Said::new("Forwarded", "what became of your forwarded write".to_owned(), None, None)
        }
        Signal::ReadIndex { .. } => {
            let text = "ReadIndex: up to which entry must I apply to serve a read?".to_owned();
            Said::new("ReadIndex", text, None, None)
        }
        Signal::ReadIndexAt { term, index, .. } => {
            Said::new("ReadIndexAt", format!("read at entry {index}"), Some(*term), Some(*index))
        }
        Signal::ReadIndexRefused { .. } => {
            Said::new("ReadIndexRefused", "I cannot confirm that I lead".to_owned(), None, None)
        }
        Signal::TimeoutNow { term } => {
            Said::new("TimeoutNow", "take over: start an election at once".to_owned(), Some(*term), None)
        }
        Signal::Removed { index } => {
            Said::new("Removed", "you are no longer a member".to_owned(), None, Some(*index))
        }
        Signal::LostData { term, match_index, .. } => {
            let text = format!("you had entries up to {match_index} and lost them");
            Said::new("LostData", text, Some(*term), Some(*match_index))
        }
        Signal::StateDigests { digests } => {
            let newest = digests.first().map(|(index, _)| *index);
            Said::new("StateDigests", "this is the digest of my state".to_owned(), None, newest)
        }
    }
}

fn appended(append: &Append) -> Said {
    let Append { term, prev, entries, commit_index, .. } = append;
    let Some(last) = entries.last() else {
        let text = format!("heartbeat of term {term}, committed up to entry {commit_index}");
        return Said::new("Heartbeat", text, Some(*term), Some(*commit_index));
    };
    let entries = match &entries[..] {
        [entry] => format!("comes entry {} ({})", entry.position().index, payload(&entry.payload)),
        entries => format!("come entries {} to {}", entries[0].index, last.index),
    };
    let text = format!("AppendEntries of term {term}: after {} {entries}", position(*prev));
    Said::new("AppendEntries", text, Some(*term), Some(last.index))
}

/// An entry's place as a reader says it.
pub(super) fn position(position: LogPosition) -> String {
    if position.index.0 == 0 {
        return "the start of the log".to_owned();
    }
    format!("entry {} of term {}", position.index, position.term)
}

/// What an entry is for.
pub(super) fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Noop => "no-op".to_owned(),
        Payload::Configuration(_) => "configuration".to_owned(),
        Payload::Command(data) => match Command::decode(data).map(|command| command.operation) {
            Ok(Operation::Put { key, value, .. }) => {
                format!("{} = {}", key.escape_ascii(), value.escape_ascii())
            }
            Ok(Operation::Delete { key, .. }) => format!("delete {}", key.escape_ascii()),
            Err(error) => error.to_string(),
        },
    }
}

/// The entries of an append, if the message is one.
pub(super) fn entries(message: &Message) -> &[Entry] {
    match message {
        Message::Signal(Signal::Append(append)) => &append.entries,
        _ => &[],
    }
}

/// Why a request was refused, and what that means for the client.
pub(super) fn refused(refusal: Refusal) -> String {
    let reason = match refusal.reason {
        RefusalReason::NoLeader => "no leader is known",
        RefusalReason::NoQuorum => "no majority answers the leader",
        RefusalReason::Overloaded => "too much waits already",
        RefusalReason::LeadershipLost => "leadership moved before it was committed",
        RefusalReason::Timeout => "its time is up",
        RefusalReason::SpaceLow => "the leader's disk is nearly full",
        RefusalReason::NotHeard => "the leader does not hear this node",
        RefusalReason::ClusterVersion => "a member's program does not know the command",
    };
    let outcome = match refusal.outcome {
        Outcome::NotApplied => "it certainly has no effect, now or later",
        Outcome::Unknown => "it may still take effect: the outcome is unknown",
    };
    format!("{reason}; {outcome}")
}
