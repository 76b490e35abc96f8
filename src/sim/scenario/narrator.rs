//! From what happened to what is told. Nothing is told that did not happen: who holds what, who voted for whom and
//! how long somebody waited is counted from the trace.

use std::collections::{BTreeMap, BTreeSet};

use super::story::{Kind, Sent};
use super::words::{self, Said};
use crate::raft::{Message, Observation, Promise, RoleName, Signal, VoteAnswer};
use crate::sim::trace::Happening;
use crate::types::{Instant, LogIndex, NodeId, Term};

/// A step to be.
pub(super) struct Draft {
    pub(super) at: Instant,
    pub(super) node: Option<usize>,
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) term: Option<Term>,
    pub(super) index: Option<LogIndex>,
    pub(super) messages: Vec<Sent>,
    pub(super) detail: bool,
}

/// Heartbeats in a stretch of time.
#[derive(Clone, Copy, Default)]
pub(super) struct Beats {
    pub(super) sent: u64,
    pub(super) arrived: u64,
    pub(super) answered: u64,
}

/// What the narrator remembers.
#[derive(Default)]
pub(super) struct Narrator {
    nodes: usize,
    /// Tell of every heartbeat.
    pub(super) tells_heartbeats: bool,
    /// Heartbeats so far.
    pub(super) beats: Beats,
    drafts: Vec<Draft>,
    now: Instant,
    /// Votes that have reached a candidate, its own among them.
    votes: BTreeMap<(usize, Term), BTreeSet<usize>>,
    /// What each node's disk holds.
    durable: BTreeMap<usize, LogIndex>,
    /// What a leader knows a follower to hold: by leader, term, follower.
    acknowledged: BTreeMap<(usize, Term, usize), LogIndex>,
    /// The latest acknowledgement that a follower sent.
    promised: BTreeMap<usize, (Term, LogIndex)>,
    /// Role and term of each node.
    roles: BTreeMap<usize, (RoleName, Term)>,
    /// When each node last had reason to wait for a full election timeout.
    waiting_since: BTreeMap<usize, Instant>,
    /// What each entry is for.
    entries: BTreeMap<(Term, LogIndex), String>,
    /// Entries of each log, by term.
    logs: BTreeMap<usize, BTreeMap<LogIndex, Term>>,
    committed: BTreeMap<usize, LogIndex>,
    applied: BTreeMap<usize, LogIndex>,
}

impl Narrator {
    pub(super) fn new(nodes: usize) -> Self {
        let all = 0..nodes;
        // As founded: the configuration is entry 1, of term 1.
        Self {
            nodes,
            roles: all.clone().map(|node| (node, (RoleName::Follower, Term(1)))).collect(),
            durable: all.clone().map(|node| (node, LogIndex(1))).collect(),
            logs: all.map(|node| (node, BTreeMap::from([(LogIndex(1), Term(1))]))).collect(),
            entries: BTreeMap::from([((Term(1), LogIndex(1)), "configuration".to_owned())]),
            ..Self::default()
        }
    }

    /// Tells what happened in one step of the cluster.
    pub(super) fn tell(&mut self, happenings: &[(Instant, Happening)]) -> Vec<Draft> {
        for (_, happening) in happenings {
            if let Happening::Sent { message, .. } = happening {
                for entry in words::entries(message) {
                    self.entries.insert((entry.term, entry.index), words::payload(&entry.payload));
                }
            }
        }
        for (at, happening) in happenings {
            self.now = *at;
            self.one(happening);
        }
        for draft in &mut self.drafts {
            if draft.kind == Kind::Message {
                draft.text = addressed(&draft.messages, &draft.text);
            }
        }
        std::mem::take(&mut self.drafts)
    }

    /// On whose disks a leader knows an entry to be, by the acknowledgements that reached it.
    pub(super) fn holders(&self, leader: usize, term: Term, index: LogIndex) -> Vec<usize> {
        let holds = |node: usize| {
            let known = if node == leader {
                self.durable.get(&node)
            } else {
                self.acknowledged.get(&(leader, term, node))
            };
            known.is_some_and(|known| *known >= index)
        };
        (0..self.nodes).filter(|node| holds(*node)).collect()
    }

    /// Who voted for a candidate, as far as it knows.
    pub(super) fn voters(&self, candidate: usize, term: Term) -> Vec<usize> {
        self.votes.get(&(candidate, term)).into_iter().flatten().copied().collect()
    }

    fn push(&mut self, node: usize, kind: Kind, text: String, term: Option<Term>, index: Option<LogIndex>) {
        let (at, node) = (self.now, Some(node));
        self.drafts.push(Draft { at, node, kind, text, term, index, messages: Vec::new(), detail: false });
    }

    fn detail(&mut self) {
        if let Some(draft) = self.drafts.last_mut() {
            draft.detail = true;
        }
    }

    fn one(&mut self, happening: &Happening) {
        match happening {
            Happening::Sent { from, to, message } => self.sent(*from, *to, message),
            Happening::Delivered { from, to, message } => self.delivered(*from, *to, message),
            Happening::Lost { from, to, .. } => self.lost(*from, *to),
            Happening::Observed { node, observation } => self.observed(*node, observation),
            Happening::Appending { node, hard_state, truncate_from, after, last } => {
                self.appending(*node, hard_state.term, *truncate_from, *after, *last);
            }
            Happening::Durable { node, last } => self.on_durable(*node, *last),
            Happening::Committed { node, index, term } => self.on_committed(*node, *index, *term),
            Happening::Applied { node, last } => self.on_applied(*node, *last),
            Happening::Asked { node, question, .. } => {
                let text = format!("the client asks {} to {}", name(*node), asked(question));
                self.push(*node, Kind::Ask, text, None, None);
            }
            Happening::Refused { node, refusal } => {
                let text = format!("{} gives the request up: {}", name(*node), words::refused(*refusal));
                self.push(*node, Kind::Reply, text, None, None);
            }
            Happening::Answered { ending, .. } => {
                let at = self.now;
                let (kind, text) = (Kind::Reply, format!("the client is told: {ending}"));
                let (node, term, index, messages) = (None, None, None, Vec::new());
                self.drafts.push(Draft { at, node, kind, text, term, index, messages, detail: false });
            }
            Happening::Started { node, term, last, applied } => {
                let last = words::position(*last);
                let text = format!(
                    "{} starts as a follower in term {term}, its log ends at {last}, {applied} applied",
                    name(*node)
                );
                self.roles.insert(*node, (RoleName::Follower, *term));
                self.applied.insert(*node, *applied);
                self.committed.remove(node);
                self.waiting_since.insert(*node, self.now);
                self.push(*node, Kind::Role, text, Some(*term), None);
            }
            // What was done from outside is told by the one who did it.
            Happening::Crashed { .. } | Happening::Fault { .. } => {}
            Happening::Down { node, why } => {
                self.push(*node, Kind::Role, format!("{} cannot start: {why}", name(*node)), None, None);
            }
        }
    }

    // --- messages

    fn is_heartbeat(&self, from: usize, to: usize, message: &Message, sent: bool) -> bool {
        match message {
            Message::Signal(Signal::Append(append)) => append.entries.is_empty(),
            Message::Signal(Signal::RoundEcho { .. }) => true,
            Message::Promise(Promise::Appended { term, match_index, .. }) => {
                if match_index.0 == 0 {
                    true
                } else if sent {
                    self.promised.get(&from) == Some(&(*term, *match_index))
                } else {
                    self.acknowledged.get(&(to, *term, from)).is_some_and(|known| known >= match_index)
                }
            }
            _ => false,
        }
    }

    fn sent(&mut self, from: usize, to: usize, message: &Message) {
        let is_heartbeat = self.is_heartbeat(from, to, message, true);
        if let Message::Promise(Promise::Appended { term, match_index, .. }) = message {
            self.promised.insert(from, (*term, *match_index));
        }
        if is_heartbeat {
            if let Message::Signal(Signal::Append(_)) = message {
                self.beats.sent += 1;
            }
            if !self.tells_heartbeats {
                return;
            }
        }
        let Said { kind, mut text, term, index } = words::said(message);
        if is_heartbeat && kind == "Appended" {
            "heartbeat heard".clone_into(&mut text);
        }
        let kind = if is_heartbeat && kind == "Appended" { "HeartbeatReply" } else { kind };
        let message = Sent { from: from + 1, to: to + 1, kind, lost: false };
        let now = self.now;
        if let Some(last) = self.drafts.last_mut()
            && last.kind == Kind::Message
            && (last.node, &last.text) == (Some(from), &text)
        {
            last.messages.push(message);
            return;
        }
        let messages = vec![message];
        let node = Some(from);
        self.drafts.push(Draft {
            at: now,
            node,
            kind: Kind::Message,
            text,
            term,
            index,
            messages,
            detail: false,
        });
    }

    fn lost(&mut self, from: usize, to: usize) {
        let sent = self.drafts.last_mut().filter(|draft| draft.kind == Kind::Message);
        let message = sent.and_then(|draft| draft.messages.last_mut());
        if let Some(message) = message.filter(|message| (message.from, message.to) == (from + 1, to + 1)) {
            message.lost = true;
        }
    }

    fn delivered(&mut self, from: usize, to: usize, message: &Message) {
        let is_heartbeat = self.is_heartbeat(from, to, message, false);
        match message {
            Message::Signal(Signal::Append(append))
                if self.roles.get(&to).is_none_or(|(_, term)| append.term >= *term) =>
            {
                self.waiting_since.insert(to, self.now);
                self.beats.arrived += u64::from(append.entries.is_empty());
            }
            Message::Signal(Signal::RoundEcho { .. }) => self.beats.answered += 1,
            Message::Promise(Promise::Appended { term, match_index, .. }) => {
                self.beats.answered += u64::from(is_heartbeat);
                let known = self.acknowledged.entry((to, *term, from)).or_default();
                let before = std::mem::replace(known, (*known).max(*match_index));
                if before < *match_index {
                    let holders = self.holders(to, *term, *match_index);
                    let text = format!(
                        "{} has the acknowledgement of {}: entry {match_index} is on the {} of {}, {} of {}",
                        name(to),
                        name(from),
                        if holders.len() == 1 { "disk" } else { "disks" },
                        names(&holders),
                        holders.len(),
                        self.nodes
                    );
                    self.push(to, Kind::Arrival, text, Some(*term), Some(*match_index));
                }
            }
            Message::Promise(Promise::VoteGranted { term }) => {
                let standing = self.roles.get(&to) == Some(&(RoleName::Candidate, *term));
                let votes = self.votes.entry((to, *term)).or_default();
                votes.insert(from);
                let count = votes.len();
                let late = if standing { "" } else { ", which is not needed any more" };
                let text = format!(
                    "{} has the vote of {} for term {term}: {count} of {}{late}",
                    name(to),
                    name(from),
                    self.nodes
                );
                self.push(to, Kind::Vote, text, Some(*term), None);
            }
            _ => {}
        }
    }

    // --- roles and votes

    fn observed(&mut self, node: usize, observation: &Observation) {
        let me = name(node);
        match observation {
            Observation::RoleChanged { role, term, why } => self.role_changed(node, *role, *term, why),
            Observation::ElectionWon { term } => {
                let voters = self.voters(node, *term);
                let is_majority = voters.len() * 2 > self.nodes;
                let text = format!(
                    "{me} leads term {term}: it has the votes of {}, {} of {}, {}",
                    names(&voters),
                    voters.len(),
                    self.nodes,
                    if is_majority { "a majority" } else { "NO majority" }
                );
                self.push(node, Kind::Role, text, Some(*term), None);
            }
            Observation::LeaderChanged { leader: Some(NodeId(id)), term } if *id != node as u64 + 1 => {
                let text = format!("{me} hears n{id} and follows it as the leader of term {term}");
                self.push(node, Kind::Role, text, Some(*term), None);
            }
            Observation::VoteAnswered { to, term, pre_vote, answer } => {
                self.vote_answered(node, *to, *term, *pre_vote, *answer);
            }
            Observation::PeerLost { peer } => {
                let text = format!("{me} has had no answer from n{} for an election timeout", peer.0);
                self.push(node, Kind::Role, text, None, None);
            }
            Observation::PeerFound { peer } => {
                self.push(node, Kind::Role, format!("{me} has an answer from n{} again", peer.0), None, None);
            }
            Observation::LeaderChanged { .. }
            | Observation::ElectionStarted { .. }
            | Observation::PeerRoundTrip { .. }
            | Observation::Committed { .. }
            | Observation::ConfigurationChanged { .. }
            | Observation::MemberPromoted { .. }
            | Observation::MemberRemoved { .. }
            | Observation::TransferStarted { .. }
            | Observation::TransferEnded { .. }
            | Observation::LogCompacted { .. }
            | Observation::SnapshotStarted { .. }
            | Observation::SnapshotSent { .. }
            | Observation::SnapshotReceived { .. }
            | Observation::SnapshotInstalled { .. }
            | Observation::DiskStalls { .. }
            | Observation::DiskWorks
            | Observation::SpaceLow
            | Observation::SpaceFreed
            | Observation::MessageIgnored { .. }
            | Observation::DataLost { .. }
            | Observation::StateDiffers { .. }
            | Observation::StateAgrees { .. }
            | Observation::StateDiverged { .. } => {}
        }
    }

    fn role_changed(&mut self, node: usize, role: RoleName, term: Term, why: &str) {
        let me = name(node);
        let before = self.roles.insert(node, (role, term));
        let old_term = before.map_or(Term(0), |(_, term)| term);
        let since = self.waiting_since.get(&node).copied().unwrap_or_default();
        let waited = self.now.since(since).as_millis();
        // A script may end a timeout early or late.
        let timeout = if (300..=600).contains(&waited) { ", its election timeout" } else { "" };
        let text = match role {
            RoleName::PreCandidate => format!(
                "{me} has heard no leader for {waited} ms{timeout}; before it stands in term {}, it asks whether it \
                 could win",
                term.next()
            ),
            RoleName::Candidate => {
                self.votes.insert((node, term), BTreeSet::from([node]));
                let after = match before {
                    Some((RoleName::PreCandidate, _)) => "a majority would vote for it".to_owned(),
                    _ => format!("no leader, no majority for {waited} ms{timeout}"),
                };
                format!(
                    "{after}: {me} raises its term from {old_term} to {term}, stands and votes for itself"
                )
            }
            // Told when it has won.
            RoleName::Leader => return,
            RoleName::Follower => {
                let was = before.map_or("", |(role, _)| of_role(role));
                if why == "heard the leader" {
                    return;
                }
                let change = if old_term == term {
                    format!("in term {term}")
                } else {
                    format!("and goes from term {old_term} to {term}")
                };
                match was {
                    "follower" => format!("{me} {why} {change}"),
                    was if why == "no majority answers" => {
                        format!("{why} {me}: it steps down from {was} to follower {change}")
                    }
                    was => format!("{me} {why}: it steps down from {was} to follower {change}"),
                }
            }
        };
        if role != RoleName::Follower || before.is_some_and(|(role, _)| role != RoleName::Follower) {
            self.waiting_since.insert(node, self.now);
        }
        self.push(node, Kind::Role, text, Some(term), None);
        if role == RoleName::Follower && before.is_some_and(|(role, _)| role == RoleName::Follower) {
            self.detail();
        }
    }

    fn vote_answered(&mut self, node: usize, to: NodeId, term: Term, pre_vote: bool, answer: VoteAnswer) {
        let (me, to) = (name(node), format!("n{}", to.0));
        let what = if pre_vote { "pre-vote" } else { "vote" };
        let text = match answer {
            VoteAnswer::Granted if pre_vote => {
                format!(
                    "{me} would vote for {to} in term {term}: it hears no leader, and that log is not behind"
                )
            }
            VoteAnswer::Granted => {
                self.waiting_since.insert(node, self.now);
                format!(
                    "{me} votes for {to} in term {term}, its only vote of that term, and writes it to disk"
                )
            }
            VoteAnswer::OldTerm => format!("{me} refuses {to} its {what}: term {term} is over"),
            VoteAnswer::VotedForAnother => {
                format!("{me} refuses {to} its {what}: in term {term} it has voted for another")
            }
            VoteAnswer::LogBehind => {
                format!("{me} refuses {to} its {what} for term {term}: that log is behind its own")
            }
            VoteAnswer::LeaderAlive => format!("{me} ignores {to}'s {what} request: it hears a leader"),
        };
        self.push(node, Kind::Vote, text, Some(term), None);
    }

    // --- logs

    fn appending(
        &mut self,
        node: usize,
        term: Term,
        truncate_from: Option<LogIndex>,
        after: LogIndex,
        last: LogIndex,
    ) {
        let me = name(node);
        if let Some(from) = truncate_from {
            let dropped = self.logs.entry(node).or_default().split_off(&from);
            let durable = self.durable.entry(node).or_default();
            *durable = (*durable).min(from.prev());
            let entry = dropped.get(&from).map(|term| self.entry(*term, from)).unwrap_or_default();
            let text = format!("{me} drops {entry}: it is not in the leader's log");
            self.push(node, Kind::Append, text, Some(term), Some(from));
        }
        if last <= after {
            return;
        }
        // A follower's new entries may be of an earlier leader's term: as in the log of who leads this term.
        let mut leads = self.roles.iter().filter(|(_, role)| **role == (RoleName::Leader, term));
        let source = leads.next().and_then(|(leader, _)| self.logs.get(leader)).cloned().unwrap_or_default();
        let log = self.logs.entry(node).or_default();
        for index in (after.next().0..=last.0).map(LogIndex) {
            log.insert(index, source.get(&index).copied().unwrap_or(term));
        }
        let entry_term = log.get(&last).copied().unwrap_or(term);
        let what = self.range(node, after, last);
        let text = format!("{me} appends {what} to its log and begins to write it to disk");
        self.push(node, Kind::Append, text, Some(entry_term), Some(last));
    }

    fn entry(&self, term: Term, index: LogIndex) -> String {
        match self.entries.get(&(term, index)) {
            Some(what) => format!("entry {index} of term {term} ({what})"),
            None => format!("entry {index} of term {term}"),
        }
    }

    /// The entries behind `after` up to `last` of a node's log.
    fn range(&self, node: usize, after: LogIndex, last: LogIndex) -> String {
        let log = self.logs.get(&node);
        let one = |index: u64| {
            let index = LogIndex(index);
            let term = log.and_then(|log| log.get(&index));
            term.map_or_else(|| format!("entry {index}"), |term| self.entry(*term, index))
        };
        (after.0 + 1..=last.0).map(one).collect::<Vec<_>>().join(" and ")
    }

    fn on_durable(&mut self, node: usize, last: LogIndex) {
        let known = self.durable.entry(node).or_default();
        let before = std::mem::replace(known, last);
        if last > before && self.logs.get(&node).is_some_and(|log| log.contains_key(&last)) {
            let text = format!("{} has entry {last} on its disk", name(node));
            self.push(node, Kind::Durable, text, None, Some(last));
        }
    }

    fn on_committed(&mut self, node: usize, index: LogIndex, term: Term) {
        let before = self.committed.insert(node, index).unwrap_or(LogIndex(0));
        let me = name(node);
        let text = if self.roles.get(&node).is_some_and(|(role, _)| *role == RoleName::Leader) {
            let holders = self.holders(node, term, index);
            let is_majority = holders.len() * 2 > self.nodes;
            // Those of earlier terms are committed with the first one of its own (paper, 5.4.2).
            let term_before = self.logs.get(&node).and_then(|log| log.get(&index.prev())).copied();
            let earlier = match term_before {
                Some(earlier) if earlier < term && before < index.prev() && index.prev() > LogIndex(1) => {
                    format!(", and with it {}", self.entry(earlier, index.prev()))
                }
                _ => String::new(),
            };
            format!(
                "{me} commits entry {index}{earlier}: it is on the disks of {}, {} of {}, {}",
                names(&holders),
                holders.len(),
                self.nodes,
                if is_majority { "a majority" } else { "NO majority" }
            )
        } else {
            format!("{me} learns from the leader that entry {index} is committed")
        };
        self.push(node, Kind::Commit, text, Some(term), Some(index));
    }

    fn on_applied(&mut self, node: usize, last: LogIndex) {
        // The configuration, entry 1, is no business of the state machine.
        let before = self.applied.insert(node, last).unwrap_or_default().max(LogIndex(1));
        if before >= last {
            return;
        }
        let term = self.logs.get(&node).and_then(|log| log.get(&last)).copied();
        let text = format!("{} applies {}", name(node), self.range(node, before, last));
        self.push(node, Kind::Apply, text, term, Some(last));
    }
}

/// Puts who speaks to whom before what is said.
fn addressed(messages: &[Sent], text: &str) -> String {
    let to: Vec<usize> = messages.iter().map(|message| message.to - 1).collect();
    let lost: Vec<usize> = messages.iter().filter(|sent| sent.lost).map(|sent| sent.to - 1).collect();
    let from = messages.first().map_or(0, |message| message.from);
    let note = match lost.len() {
        0 => String::new(),
        all if all == to.len() => " (lost: the link is cut)".to_owned(),
        _ => format!(" (lost to {}: the link is cut)", names(&lost)),
    };
    format!("n{from} → {}: {text}{note}", names(&to))
}

fn asked(question: &crate::sim::clients::Question) -> String {
    let key = question.key.escape_ascii();
    match question.command() {
        Some(command) => format!("write {}", words::payload(&crate::raft::Payload::Command(command))),
        None => format!("read {key}"),
    }
}

fn of_role(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}

/// A node's name.
pub(super) fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

/// Nodes' names, as in "n1, n2".
pub(super) fn names(nodes: &[usize]) -> String {
    if nodes.is_empty() {
        return "nobody".to_owned();
    }
    nodes.iter().map(|node| name(*node)).collect::<Vec<_>>().join(", ")
}
