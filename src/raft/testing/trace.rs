//! The protocol trace: how events, messages and effects are shown. Made for readers with the Raft paper in hand.
//!
//! An event is at the start of a line, what it causes is indented below it. `3@2` is the entry with index 3
//! of term 2; `[2@2 x=1]` are entries; an append without entries is a heartbeat or a probe.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::{
    Append, AppendEntries, Configuration, Entry, Member, Message, Observation, Outcome, Payload, Promise,
    Refusal, RefusalReason, Signal, VoteAnswer, VoteRequest,
};
use crate::types::{NodeId, ReadId, Session};

/// Lines of a trace, written only if somebody reads them.
#[derive(Default)]
pub(super) struct Trace {
    is_on: bool,
    lines: Vec<String>,
    /// Followers' questions for a read index, numbered as they appear: their ids are random.
    questions: BTreeMap<ReadId, usize>,
}

impl Trace {
    pub(super) fn new(is_on: bool) -> Self {
        Self { is_on, ..Self::default() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(super) fn line(&mut self, text: impl FnOnce(&mut Self) -> String) {
        if self.is_on {
            let line = text(self);
            self.lines.push(line);
        }
    }

    pub(super) fn line_if(&mut self, text: Option<String>) {
        if let Some(text) = text {
            self.line(|_| text);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Takes back the line at `position` if nothing followed it.
    pub(super) fn drop_if_last(&mut self, position: usize) {
        if self.lines.len() == position + 1 {
            self.lines.pop();
        }
    }

    /// Drops the lines that `keep` does not want.
    pub(super) fn keep(&mut self, keep: impl Fn(&str) -> bool) {
        self.lines.retain(|line| keep(line));
    }

    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    fn question(&mut self, id: ReadId) -> String {
        let next = self.questions.len() + 1;
        format!("q{}", self.questions.entry(id).or_insert(next))
    }

    pub(super) fn message(&mut self, message: &Message) -> String {
        match message {
            Message::Signal(signal) => self.signal(signal),
            Message::Promise(promise) => promise_text(promise),
        }
    }

    fn signal(&mut self, signal: &Signal) -> String {
        match signal {
            Signal::PreVote(request) => format!("PreVote {}", vote_text(request)),
            Signal::RequestVote(request) => {
                let transfer = if request.transfer { " transfer" } else { "" };
                format!("RequestVote {}{transfer}", vote_text(request))
            }
            Signal::PreVoteGranted { term } => format!("PreVoteGranted term={term}"),
            Signal::VoteRefused { term, pre_vote: true } => format!("PreVoteRefused term={term}"),
            Signal::VoteRefused { term, pre_vote: false } => format!("VoteRefused term={term}"),
            Signal::Append(append) => append_text(append),
            Signal::AppendRejected { term, session, prev, hint } => {
                format!("AppendRejected term={term} prev={prev} hint={hint}{}", session_text(*session))
            }
            Signal::RoundEcho { term, session, round, .. } => {
                format!("RoundEcho term={term} round={round}{}", session_text(*session))
            }
            Signal::Forward { proposals } => {
                let writes = proposals.iter().map(|(id, command)| format!("p{id} {}", command_text(command)));
                format!("Forward {}", writes.collect::<Vec<_>>().join(", "))
            }
            Signal::Forwarded { answers } => {
                let answers = answers.iter().map(|(id, answer)| match answer {
                    Ok(position) => format!("p{id} is {position}"),
                    Err(refusal) => format!("p{id} {}", refusal_text(*refusal)),
                });
                format!("Forwarded {}", answers.collect::<Vec<_>>().join(", "))
            }
            Signal::ReadIndex { id } => format!("ReadIndex {}", self.question(*id)),
            Signal::ReadIndexAt { id, term, index } => {
                format!("ReadIndexAt {} term={term} index={index}", self.question(*id))
            }
            Signal::ReadIndexRefused { id } => format!("ReadIndexRefused {}", self.question(*id)),
            Signal::TimeoutNow { term } => format!("TimeoutNow term={term}"),
            Signal::Removed { index } => format!("Removed index={index}"),
            Signal::LostData { term, session, match_index } => {
                format!("LostData term={term} match={match_index}{}", session_text(*session))
            }
            Signal::StateDigests { digests } => {
                let digests = digests.iter().map(|(index, digest)| format!("{index}:{}", digest.value));
                format!("StateDigests {}", digests.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// The message's name, for commands that pick messages.
pub(super) fn kind(message: &Message) -> &'static str {
    match message {
        Message::Promise(Promise::VoteGranted { .. }) => "VoteGranted",
        Message::Promise(Promise::Appended { .. }) => "Appended",
        Message::Signal(signal) => match signal {
            Signal::PreVote(_) => "PreVote",
            Signal::RequestVote(_) => "RequestVote",
            Signal::PreVoteGranted { .. } => "PreVoteGranted",
            Signal::VoteRefused { pre_vote: true, .. } => "PreVoteRefused",
            Signal::VoteRefused { .. } => "VoteRefused",
            Signal::Append(_) => "Append",
            Signal::AppendRejected { .. } => "AppendRejected",
            Signal::RoundEcho { .. } => "RoundEcho",
            Signal::Forward { .. } => "Forward",
            Signal::Forwarded { .. } => "Forwarded",
            Signal::ReadIndex { .. } => "ReadIndex",
            Signal::ReadIndexAt { .. } => "ReadIndexAt",
            Signal::ReadIndexRefused { .. } => "ReadIndexRefused",
            Signal::TimeoutNow { .. } => "TimeoutNow",
            Signal::Removed { .. } => "Removed",
            Signal::LostData { .. } => "LostData",
            Signal::StateDigests { .. } => "StateDigests",
        },
    }
}

pub(super) fn name(id: NodeId) -> String {
    format!("n{}", id.0)
}

pub(super) fn names(ids: impl IntoIterator<Item = NodeId>) -> String {
    ids.into_iter().map(name).collect::<Vec<_>>().join(" ")
}

/// A command, or its size if it is long.
pub(super) fn command_text(command: &[u8]) -> String {
    match command.len() {
        0..=40 => String::from_utf8_lossy(command).into_owned(),
        bytes => format!("({bytes} bytes)"),
    }
}

fn session_text(session: Session) -> String {
    if session == Session(0) { String::new() } else { format!(" session={session}") }
}

fn promise_text(promise: &Promise) -> String {
    match promise {
        Promise::VoteGranted { term } => format!("VoteGranted term={term}"),
        Promise::Appended { term, session, match_index, round, .. } => {
            format!("Appended term={term} match={match_index} round={round}{}", session_text(*session))
        }
    }
}

fn vote_text(request: &VoteRequest) -> String {
    let VoteRequest { term, last, election_timeout_ms, .. } = request;
    format!("term={term} last={last}{}", timeout_text(*election_timeout_ms))
}

/// An election timeout, if it is longer than configured.
fn timeout_text(ms: u32) -> String {
    if ms == 0 { String::new() } else { format!(" timeout={ms}ms") }
}

fn append_text(append: &Append) -> String {
    let Append { term, session, prev, entries, commit_index, round, .. } = append;
    let session = session_text(*session);
    let mut text = format!("Append term={term} prev={prev} commit={commit_index} round={round}{session}");
    if append.unheard {
        text += " unheard";
    }
    text += &timeout_text(append.election_timeout_ms);
    if !entries.is_empty() {
        let _ = write!(text, " {}", entries_text(entries));
    }
    text
}

pub(super) fn entries_text<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    format!("[{}]", entries.into_iter().map(entry_text).collect::<Vec<_>>().join(", "))
}

pub(super) fn entry_text(entry: &Entry) -> String {
    let position = entry.position();
    match &entry.payload {
        Payload::Noop => format!("{position} no-op"),
        Payload::Command(command) if command.is_empty() => position.to_string(),
        Payload::Command(command) => format!("{position} {}", command_text(command)),
        Payload::Configuration(configuration) => format!("{position} {}", configuration_text(configuration)),
    }
}

fn configuration_text(configuration: &Configuration) -> String {
    let Configuration { voters, outgoing, learners, removed, .. } = configuration;
    let (stay, come): (Vec<_>, Vec<_>) = learners.iter().partition(|(_, member)| member.stays_learner);
    let ids = |members: Vec<(&NodeId, &Member)>| members.into_iter().map(|(id, _)| *id).collect();
    let parts: [(&str, Vec<NodeId>); 4] = [
        ("outgoing", outgoing.keys().copied().collect()),
        ("learners", ids(come)),
        ("lasting-learners", ids(stay)),
        ("removed", removed.keys().copied().collect()),
    ];
    let joint = if configuration.is_joint() { "joint " } else { "" };
    let mut text = format!("{joint}voters {}", names(voters.keys().copied()));
    for (part, ids) in parts.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        let _ = write!(text, " {part} {}", names(ids));
    }
    text
}

pub(super) fn append_entries_text(append: &AppendEntries) -> String {
    let AppendEntries { io, truncate_from, hard_state, entries, .. } = append;
    let mut text = format!("append io={io} term={}", hard_state.term);
    if let Some(id) = hard_state.voted_for {
        let _ = write!(text, " vote={}", name(id));
    }
    if let Some(from) = truncate_from {
        let _ = write!(text, " truncate from {from}");
    }
    if !entries.is_empty() {
        let _ = write!(text, " {}", entries_text(entries));
    }
    text
}

pub(super) fn refusal_text(refusal: Refusal) -> String {
    let reason = match refusal.reason {
        RefusalReason::NoLeader => "no leader",
        RefusalReason::NoQuorum => "no quorum",
        RefusalReason::Overloaded => "overloaded",
        RefusalReason::LeadershipLost => "leadership lost",
        RefusalReason::Timeout => "timeout",
        RefusalReason::SpaceLow => "space is low",
        RefusalReason::NotHeard => "the leader does not hear this node",
        RefusalReason::ClusterVersion => "cluster version",
    };
    match refusal.outcome {
        Outcome::NotApplied => format!("refused: {reason}, not applied"),
        Outcome::Unknown => format!("refused: {reason}, outcome unknown"),
    }
}

/// What an observation adds to the messages shown; `None` for what they show already.
pub(super) fn observation_text(id: NodeId, observation: &Observation) -> Option<String> {
    match observation {
        Observation::RoleChanged { role, term, why } => {
            Some(format!("becomes {} in term {term}: {why}", role.as_str().replace('_', "-")))
        }
        Observation::VoteAnswered { to, term, pre_vote, answer } => {
            let vote = if *pre_vote { "pre-vote" } else { "vote" };
            let why = match answer {
                VoteAnswer::Granted => return None,
                VoteAnswer::OldTerm => "its term is old",
                VoteAnswer::VotedForAnother => "another has the vote of this term",
                VoteAnswer::LogBehind => "its log is behind",
                VoteAnswer::LeaderAlive => return Some(format!("ignores {}: a leader is alive", name(*to))),
            };
            Some(format!("refuses {} its {vote} for term {term}: {why}", name(*to)))
        }
        Observation::LeaderChanged { leader: Some(leader), term } if *leader != id => {
            Some(format!("knows {} as leader of term {term}", name(*leader)))
        }
        Observation::PeerFound { peer } => Some(format!("finds {} again", name(*peer))),
        Observation::DiskStalls { micros } => Some(format!("waits for its disk for {} ms", micros / 1000)),
        Observation::DiskWorks => Some("no longer waits for its disk".to_owned()),
        Observation::SpaceLow => Some("is low on space".to_owned()),
        Observation::SpaceFreed => Some("has space again".to_owned()),
        Observation::DataLost { match_index, last_index } => {
            Some(format!("acknowledged {match_index}, and its log ends at {last_index}"))
        }
        Observation::StateDiffers { peer, index } => {
            Some(format!("has another state than {} after {index}", name(*peer)))
        }
        Observation::StateAgrees { peer, index } => {
            Some(format!("has the state of {} again, after {index}", name(*peer)))
        }
        Observation::StateDiverged { index, .. } => {
            Some(format!("has another state than a majority after {index}"))
        }
        Observation::MessageIgnored { from, why } => {
            Some(format!("ignores a message of {}: {why}", name(*from)))
        }
        Observation::PeerLost { peer } => Some(format!("has lost {}", name(*peer))),
        Observation::MemberPromoted { member } => {
            Some(format!("finds that {} has caught up and makes it a voter", name(*member)))
        }
        Observation::MemberRemoved { member } => Some(format!("forgets {}", name(*member))),
        Observation::TransferStarted { to } => Some(format!("hands over the lead to {}", name(*to))),
        Observation::TransferEnded { to, done: true } => {
            Some(format!("has handed over the lead to {}", name(*to)))
        }
        Observation::TransferEnded { to, done: false } => {
            Some(format!("gives up handing over the lead to {}", name(*to)))
        }
        Observation::LeaderChanged { .. }
        | Observation::ElectionStarted { .. }
        | Observation::ElectionWon { .. }
        | Observation::PeerRoundTrip { .. }
        | Observation::ConfigurationChanged { .. }
        | Observation::LogCompacted { .. }
        | Observation::SnapshotStarted { .. }
        | Observation::SnapshotSent { .. }
        | Observation::SnapshotReceived { .. }
        | Observation::SnapshotInstalled { .. }
        | Observation::Committed { .. } => None,
    }
}
