//! What must hold at every step, whatever fails (paper, figure 3), checked from outside of the nodes: from what
//! a core gives its log, sends and applies, and from what its disk is known to hold.
//!
//! | rule | how it is seen |
//! | --- | --- |
//! | election safety | one winner for each term |
//! | leader append-only | no truncation by the leader of the record's term |
//! | log matching | an (index, term) has one content, one time and one predecessor, on all nodes |
//! | the log's clock | no entry has an earlier time than the one before it |
//! | leader completeness | the winner of a term holds all that was committed in earlier ones |
//! | state-machine safety | one list of committed entries; each node commits and applies along it |
//! | acknowledged is durable | a promise is compared with the sender's disk as it is sent; an entry that is committed first is on a majority's disks; what a leader believes of a follower is on that one's |
//! | leaders commit by entries of their own term | the last entry that a leader commits in a turn |
//! | bounds | jobs on their way to log and apply, appends on their way to a follower, writes that a leader has not committed |
//! | one vote a term | votes that left a node, across its restarts |
//! | monotonic | term, commit index, applied index |
//! | a restart loses nothing | a log opened again equals what was flushed, or that and the write under way |
//! | one state | rows by revision, remembered outcomes by index, and digests of the whole state by applied index are equal on all nodes |
//! | a lease ends before its leader's reign | who has a lease by its own clock leads the newest term that anybody won |
//! | members | see `members` |

mod leases;
mod members;
mod pace;
mod snapshots;
mod state;

use std::collections::{BTreeMap, VecDeque};

use super::marks::{Mark, MarkedLog, Write, configurations, place};
use crate::raft::{
    AppendEntries, Committed, Entry, HardState, Message, Observation, PeerStatus, Promise, RoleName,
    Settings, Signal, Status,
};
use crate::types::{Instant, IoId, LogIndex, LogPosition, LogTime, NodeId, Term};
use members::Members;
use pace::Pace;
pub use snapshots::Found;
use state::States;

/// What went against a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which rule.
    pub rule: &'static str,
    /// Who did what, at which index and term.
    pub what: String,
}

/// A check's result.
pub type Checked = Result<(), Broken>;

fn broken(rule: &'static str, what: String) -> Checked {
    Err(Broken { rule, what })
}

#[derive(Default)]
struct Node {
    /// As the core sees its log.
    memory: MarkedLog,
    /// As the disk is known to hold it.
    durable: MarkedLog,
    /// Handed to the log, not known to be durable.
    queued: VecDeque<Write>,
    /// How many of `queued` the log is writing.
    writing: usize,
    role: Option<RoleName>,
    term: Term,
    commit: LogIndex,
    applied: LogIndex,
    /// Last entry at the end of its last turn.
    held: LogIndex,
    /// Last entry at the begin of that turn.
    turn_began_with: LogIndex,
    /// How far its log reached earlier.
    pace: Pace,
    /// Configurations that it appended in its turn as leader.
    proposed: Vec<LogIndex>,
}

/// An entry that was committed, and the term whose leader did it.
#[derive(Clone, Copy)]
struct Agreed {
    mark: Mark,
    committed_in: Term,
}

/// Everything that is remembered of a run to check the next step against.
pub struct Invariants {
    ids: Vec<NodeId>,
    nodes: Vec<Node>,
    agreed: Vec<Agreed>,
    members: Members,
    states: States,
    winners: BTreeMap<Term, (usize, NodeId)>,
    /// Votes that left: by voter and term.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// For each index the first mark seen there, with the term before it.
    seen: Vec<(Mark, Term)>,
    /// Others at the same index.
    seen_too: BTreeMap<LogPosition, (Mark, Term)>,
    /// Bytes of the largest entry so far.
    largest_entry: usize,
}

impl Invariants {
    /// For these nodes. The logs of those that `first` names hold it, if it is given; all others are empty.
    #[must_use]
    pub fn new(ids: Vec<NodeId>, first: Option<&AppendEntries>) -> Self {
        let log = first.map(|first| MarkedLog::of(&first.entries, first.hard_state)).unwrap_or_default();
        let marks = log.marks.clone();
        let has = |id: &NodeId| log.configurations.iter().any(|(_, founders)| founders.is_voter(*id));
        let node = |id: &NodeId| {
            let log = if has(id) { log.clone() } else { MarkedLog::default() };
            Node { memory: log.clone(), durable: log, ..Node::default() }
        };
        Self {
            nodes: ids.iter().map(node).collect(),
            agreed: Vec::new(),
            members: Members::default(),
            states: States::default(),
            winners: BTreeMap::new(),
            votes: BTreeMap::new(),
            seen: marks.into_iter().map(|mark| (mark, Term(0))).collect(),
            seen_too: BTreeMap::new(),
            largest_entry: 0,
            ids,
        }
    }

    /// A node opens the log that it made when it became a member.
    ///
    /// # Errors
    /// Another node's log begins in another way.
    pub fn joined(&mut self, node: usize, id: NodeId, hard_state: HardState, entries: &[Entry]) -> Checked {
        let log = MarkedLog::of(entries, hard_state);
        self.ids[node] = id;
        self.begins_empty(id);
        self.nodes[node] = Node { memory: log.clone(), durable: log.clone(), ..Node::default() };
        match log.marks.as_slice() {
            [] => Ok(()),
            [first] => self.matches(node, LogIndex(1), *first, Term(0)),
            more => broken("log matching", format!("n{} begins with {} entries", node + 1, more.len())),
        }
    }

    /// Entries committed so far.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.agreed.len() as u64)
    }

    /// The last entry that a node's disk is known to hold.
    #[must_use]
    pub fn durable(&self, node: usize) -> LogPosition {
        self.nodes[node].durable.last()
    }

    /// Who won a term's election.
    #[must_use]
    pub fn winner(&self, term: Term) -> Option<usize> {
        self.winners.get(&term).map(|(node, _)| *node)
    }

    /// Elections won so far.
    #[must_use]
    pub fn elections(&self) -> usize {
        self.winners.len()
    }

    /// A core told something of itself.
    ///
    /// # Errors
    /// Two winners of one term; one that voted for another, or whose own vote is not on its disk; a message that no
    /// correct node sends.
    pub fn observed(&mut self, node: usize, observation: &Observation) -> Checked {
        if let Observation::MessageIgnored { from, why } = observation {
            let what = format!("n{} ignores a message of n{}: {why}", node + 1, from.0);
            return broken("plausible messages", what);
        }
        let Observation::ElectionWon { term } = observation else { return Ok(()) };
        let this = (node, self.ids[node]);
        if let Some((other, id)) = self.winners.insert(*term, this)
            && (other, id) != this
        {
            let what = format!("n{} and n{} both won term {term}", other + 1, node + 1);
            return broken("election safety", what);
        }
        let own_vote = HardState { term: *term, voted_for: Some(self.ids[node]) };
        let on_disk = self.nodes[node].durable.hard_state;
        if on_disk != own_vote {
            let what = format!("n{} won term {term} with its own vote; its disk holds {on_disk:?}", node + 1);
            return broken("acknowledged is durable", what);
        }
        self.vote(node, *term, self.ids[node])
    }

    /// A node gave its vote away.
    fn vote(&mut self, node: usize, term: Term, to: NodeId) -> Checked {
        match self.votes.insert((self.ids[node], term), to) {
            Some(other) if other != to => broken(
                "one vote a term",
                format!("n{} voted for n{} and for n{} in term {term}", node + 1, other.0, to.0),
            ),
            _ => Ok(()),
        }
    }

    /// A core gave its log something to write.
    ///
    /// # Errors
    /// A leader that truncates; an entry that contradicts another node's, or the log's clock.
    pub fn appending(&mut self, node: usize, append: &AppendEntries, since: Instant) -> Checked {
        let term = append.hard_state.term;
        if let Some(from) = append.truncate_from
            && self.winners.get(&term) == Some(&(node, self.ids[node]))
        {
            let what = format!("n{}, leader of term {term}, drops its log from {from} on", node + 1);
            return broken("leader append-only", what);
        }
        let largest = append.entries.iter().map(Entry::size_bytes).max();
        self.largest_entry = self.largest_entry.max(largest.unwrap_or(0));
        let write = Write {
            io: append.io,
            truncate_from: append.truncate_from,
            hard_state: append.hard_state,
            marks: append.entries.iter().map(Mark::of).collect(),
            configurations: configurations(&append.entries),
            prefix: None,
            since,
        };
        if self.winners.get(&term) == Some(&(node, self.ids[node])) {
            let proposed = write.configurations.iter().map(|(index, _)| *index);
            self.nodes[node].proposed.extend(proposed);
        }
        let this = &mut self.nodes[node];
        this.memory.take(&write);
        let mut index = LogIndex((this.memory.marks.len() - write.marks.len()) as u64);
        let (mut before, mut time) = match index.0 {
            0 => (Term(0), LogTime(0)),
            _ => (this.memory.marks[place(index)].term, this.memory.marks[place(index)].time),
        };
        if let Some(entry) = append.entries.first().filter(|entry| entry.index != index.next()) {
            let what = format!("n{} appends {} behind {index}", node + 1, entry.position());
            return broken("log matching", what);
        }
        for mark in &write.marks {
            index = index.next();
            self.matches(node, index, *mark, before)?;
            if mark.time < time {
                let what = format!(
                    "n{} appends {index}@{} of time {} behind one of time {time}",
                    node + 1,
                    mark.term,
                    mark.time
                );
                return broken("the log's clock", what);
            }
            (before, time) = (mark.term, mark.time);
        }
        self.nodes[node].queued.push_back(write);
        Ok(())
    }

    fn matches(&mut self, node: usize, index: LogIndex, mark: Mark, before: Term) -> Checked {
        let at = place(index);
        if at == self.seen.len() {
            self.seen.push((mark, before));
            return Ok(());
        }
        let equal = match self.seen.get(at) {
            Some((first, first_before)) if first.term == mark.term => {
                (*first, *first_before) == (mark, before)
            }
            _ => {
                let position = LogPosition { index, term: mark.term };
                *self.seen_too.entry(position).or_insert((mark, before)) == (mark, before)
            }
        };
        if equal {
            return Ok(());
        }
        let what = format!(
            "entry {index}@{} of n{}, behind one of term {before}, differs from another node's",
            mark.term,
            node + 1
        );
        broken("log matching", what)
    }

    /// The log took everything up to `io` and writes it.
    pub fn writing(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.writing = this.queued.len();
    }

    /// What the log was writing is done; `flushed` says whether the disk holds nothing that was not flushed.
    ///
    /// # Errors
    /// The log says so although it is not true.
    pub fn written(&mut self, node: usize, io: Option<IoId>, flushed: bool) -> Checked {
        let this = &mut self.nodes[node];
        let writes: Vec<Write> = this.queued.drain(..this.writing).collect();
        this.writing = 0;
        let Some(last) = writes.last() else { return Ok(()) };
        if !flushed || io != Some(last.io) {
            let what = format!(
                "n{} takes append {} for durable, the disk does not hold all of it",
                node + 1,
                last.io
            );
            return broken("acknowledged is durable", what);
        }
        for write in &writes {
            this.durable.take(write);
        }
        Ok(())
    }

    /// A message leaves a node.
    ///
    /// # Errors
    /// A promise of what the sender's disk does not hold; a second vote.
    pub fn sending(&mut self, node: usize, to: NodeId, message: &Message) -> Checked {
        let promise = match message {
            Message::Promise(promise) => promise,
            Message::Signal(Signal::TimeoutNow { term }) => return self.handing_over(node, to, *term),
            Message::Signal(_) => return Ok(()),
        };
        let MarkedLog { marks, hard_state, .. } = &self.nodes[node].durable;
        let term = match promise {
            Promise::VoteGranted { term } | Promise::Appended { term, .. } => *term,
        };
        let is_kept = match promise {
            // The disk is ahead where a later record was flushed with the one that it depends on.
            _ if hard_state.term > term => true,
            Promise::VoteGranted { .. } => *hard_state == HardState { term, voted_for: Some(to) },
            Promise::Appended { match_index, .. } => {
                hard_state.term == term && marks.len() as u64 >= match_index.0
            }
        };
        if !is_kept {
            let what = format!(
                "n{} promises n{} {promise:?}; its disk holds term {}, {} entries",
                node + 1,
                to.0,
                hard_state.term,
                marks.len()
            );
            return broken("acknowledged is durable", what);
        }
        if let Promise::VoteGranted { term } = promise {
            self.vote(node, *term, to)?;
        }
        Ok(())
    }

    /// A core's turn is over. While `log_waits`, its records for the log are not handed over yet: what it commits is
    /// judged when it is, against that log.
    ///
    /// # Errors
    /// A term or commit index that went back; a commit against an earlier one, of what no majority holds, or by a
    /// leader of an earlier term's entries alone; a leader that lacks committed entries.
    pub fn turned(
        &mut self,
        node: usize,
        local: Instant,
        status: &Status,
        log_waits: bool,
        raft: &Settings,
    ) -> Checked {
        let this = &mut self.nodes[node];
        if status.term < this.term || status.commit_index < this.commit {
            let what = format!(
                "n{} went from term {}, commit {} to term {}, commit {}",
                node + 1,
                this.term,
                this.commit,
                status.term,
                status.commit_index
            );
            return broken("monotonic", what);
        }
        let old = this.commit;
        if !log_waits {
            this.commit = status.commit_index;
        }
        let became_leader = status.role == RoleName::Leader
            && (this.role != Some(RoleName::Leader) || this.term != status.term);
        (this.role, this.term) = (Some(status.role), status.term);
        if became_leader {
            this.pace.begin(this.held);
        }
        this.pace.note(local, this.memory.last().index, status, raft);
        if status.commit_index > old && !log_waits {
            self.committing(node, old, status)?;
        }
        self.changing(node)?;
        self.follows_newest(node, status)?;
        let this = &mut self.nodes[node];
        this.turn_began_with = std::mem::replace(&mut this.held, this.memory.last().index);
        if became_leader { self.is_complete(node, 0) } else { Ok(()) }
    }

    fn committing(&mut self, node: usize, old: LogIndex, status: &Status) -> Checked {
        let known = self.agreed.len();
        let newest = self.nodes[node].memory.marks.get(place(status.commit_index));
        if let Some(mark) = newest.filter(|mark| status.role == RoleName::Leader && mark.term != status.term)
        {
            let what = format!(
                "n{}, leader of term {}, commits {}@{}, and no entry of its own term",
                node + 1,
                status.term,
                status.commit_index,
                mark.term
            );
            return broken("leaders commit by entries of their own term", what);
        }
        for index in old.next().0..=status.commit_index.0 {
            let index = LogIndex(index);
            let Some(mark) = self.nodes[node].memory.marks.get(place(index)).copied() else {
                let what = format!("n{} commits {index}, which its log does not hold", node + 1);
                return broken("state-machine safety", what);
            };
            if let Some(agreed) = self.agreed.get(place(index)) {
                if agreed.mark != mark {
                    let what = format!(
                        "n{} commits {index}@{}, committed before as {index}@{}",
                        node + 1,
                        mark.term,
                        agreed.mark.term
                    );
                    return broken("state-machine safety", what);
                }
                continue;
            }
            self.is_held_by_quorum(node, index, mark, status.term)?;
            self.agreed.push(Agreed { mark, committed_in: status.term });
            self.agreeing(node, index)?;
        }
        let leaders = (0..self.nodes.len()).filter(|other| self.nodes[*other].role == Some(RoleName::Leader));
        leaders.into_iter().try_for_each(|leader| self.is_complete(leader, known))
    }

    /// A leader holds what was committed in earlier terms, from the place `from` on.
    fn is_complete(&self, leader: usize, from: usize) -> Checked {
        let Node { memory, term, .. } = &self.nodes[leader];
        for (at, agreed) in self.agreed.iter().enumerate().skip(from) {
            if agreed.committed_in < *term && memory.marks.get(at) != Some(&agreed.mark) {
                let what = format!(
                    "n{} leads term {term} without entry {}@{}, committed in term {}",
                    leader + 1,
                    at + 1,
                    agreed.mark.term,
                    agreed.committed_in
                );
                return broken("leader completeness", what);
            }
        }
        Ok(())
    }

    /// What a leader believes of its followers at the end of a turn, and what it has taken on.
    ///
    /// # Errors
    /// A follower's disk holds less; more is on its way than the window allows; more is uncommitted than it may be.
    pub fn leading(&self, node: usize, peers: &[PeerStatus], settings: &Settings) -> Checked {
        let Node { memory, term, commit, .. } = &self.nodes[node];
        let uncommitted = memory.marks.iter().skip(place(commit.next())).filter(|mark| mark.term == *term);
        let (bytes, bytes_max) =
            (uncommitted.map(|mark| mark.bytes).sum::<usize>(), settings.uncommitted_bytes_max);
        if bytes > bytes_max {
            let what =
                format!("n{} has {bytes} uncommitted bytes of term {term}, above {bytes_max}", node + 1);
            return broken("bounds", what);
        }
        for peer in peers {
            let (messages, bytes) = peer.in_flight;
            // The last append may go beyond: by its own size, which is that of one entry at least.
            let is_full = messages > settings.window_messages;
            if is_full || bytes > settings.window_bytes + settings.append_bytes_max + self.largest_entry {
                let what = format!(
                    "n{} has {messages} appends, {bytes} bytes on their way to n{}",
                    node + 1,
                    peer.id.0
                );
                return broken("bounds", what);
            }
            let Some(durable) = self.durable_of(peer.id) else { continue };
            let mark = memory.marks.get(place(peer.match_index));
            // A follower that is in a later term may have dropped what it acknowledged in this one.
            let is_held = mark.is_none_or(|mark| durable.has(peer.match_index, *mark));
            if peer.match_index.0 > 0 && durable.hard_state.term <= *term && !is_held {
                let what = format!(
                    "n{}, leader of term {term}, believes n{} to hold entry {}; its disk holds {}",
                    node + 1,
                    peer.id.0,
                    peer.match_index,
                    durable.last()
                );
                return broken("acknowledged is durable", what);
            }
        }
        Ok(())
    }

    /// A node is about to apply entries.
    ///
    /// # Errors
    /// Entries that are not committed, not durable there, or not next.
    pub fn applying(&mut self, node: usize, entries: &[Committed]) -> Checked {
        for Committed { entry, .. } in entries {
            let this = &mut self.nodes[node];
            let (index, mark) = (entry.index, Mark::of(entry));
            if index != this.applied.next() {
                let what = format!("n{} applies {index} after {}", node + 1, this.applied);
                return broken("monotonic", what);
            }
            this.applied = index;
            let is_durable = this.durable.has(index, mark);
            let is_agreed = self.agreed.get(place(index)).is_some_and(|agreed| agreed.mark == mark);
            if !(is_durable && is_agreed) {
                let what = format!(
                    "n{} applies {}: committed {is_agreed}, durable there {is_durable}",
                    node + 1,
                    entry.position()
                );
                return broken("state-machine safety", what);
            }
        }
        Ok(())
    }

    /// A node's process ended.
    pub fn crashed(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.queued.truncate(this.writing);
        this.role = None;
        this.proposed.clear();
    }

    /// A node's recovery is done: what it found is durable now, the write that was under way included.
    pub fn started(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.queued.clear();
        this.writing = 0;
        this.durable = this.memory.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Payload;

    fn append(times: &[(u64, u64)]) -> AppendEntries {
        let entry = |(index, time): &(u64, u64)| Entry {
            index: LogIndex(*index),
            term: Term(1),
            time: LogTime(*time),
            payload: Payload::Noop,
        };
        AppendEntries {
            io: IoId(1),
            truncate_from: None,
            hard_state: HardState { term: Term(1), voted_for: None },
            commit_index: LogIndex(0),
            entries: times.iter().map(entry).collect(),
        }
    }

    #[test]
    fn an_entry_of_an_earlier_time_than_the_one_before_it_breaks_a_rule() {
        for (batches, rule) in [
            ([&[(1, 5)][..], &[(2, 5), (3, 6)]], None),
            ([&[(1, 5)], &[(2, 4)]], Some("the log's clock")),
            ([&[(1, 5), (2, 7), (3, 6)], &[]], Some("the log's clock")),
        ] {
            let mut invariants = Invariants::new(vec![NodeId(1), NodeId(2)], None);
            let checked =
                batches.into_iter().try_for_each(|times| invariants.appending(0, &append(times), Instant(0)));
            assert_eq!(checked.err().map(|broken| broken.rule), rule, "{batches:?}");
        }
    }

    #[test]
    fn one_entry_has_one_time_on_all_nodes() {
        let mut invariants = Invariants::new(vec![NodeId(1), NodeId(2)], None);
        assert_eq!(invariants.appending(0, &append(&[(1, 5)]), Instant(0)), Ok(()));
        assert_eq!(invariants.appending(1, &append(&[(1, 5)]), Instant(0)), Ok(()));
        assert_eq!(invariants.appending(0, &append(&[(2, 6)]), Instant(0)), Ok(()));
        let broken = invariants.appending(1, &append(&[(2, 7)]), Instant(0)).unwrap_err();
        assert_eq!(broken.rule, "log matching");
    }
}
