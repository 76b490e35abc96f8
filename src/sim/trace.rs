//! What happens in a run: a hash over all of it, and, where wanted, every happening for a reader or a narrator.

use std::fmt;

use super::clients::{Ending, Question};
use super::disk::Crash;
use crate::raft::{HardState, Message, Observation, Promise, Refusal, RoleName, Signal};
use crate::types::{Instant, LogIndex, LogPosition, NodeId, Term};

/// Something that happened. Nodes are numbered from 0, shown from 1.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A message left its sender.
    Sent {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// What it says.
        message: Message,
    },
    /// A message arrived.
    Delivered {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// What it says.
        message: Message,
    },
    /// A message was lost.
    Lost {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// Where it was lost.
        why: &'static str,
    },
    /// A node's core told something.
    Observed {
        /// Which node.
        node: usize,
        /// What.
        observation: Observation,
    },
    /// A node's core gave its log something to write.
    Appending {
        /// Which node.
        node: usize,
        /// Term and vote.
        hard_state: HardState,
        /// What is dropped first, if anything.
        truncate_from: Option<LogIndex>,
        /// Entries from the one behind this to `last`.
        after: LogIndex,
        /// Last entry then.
        last: LogIndex,
    },
    /// What a node's log had been given is durable.
    Durable {
        /// Which node.
        node: usize,
        /// Last durable entry.
        last: LogIndex,
    },
    /// A node's commit index rose.
    Committed {
        /// Which node.
        node: usize,
        /// To where.
        index: LogIndex,
        /// The node's term.
        term: Term,
    },
    /// A node applied entries.
    Applied {
        /// Which node.
        node: usize,
        /// The last one.
        last: LogIndex,
    },
    /// A client asked a node.
    Asked {
        /// Which client.
        client: usize,
        /// Which node.
        node: usize,
        /// What.
        question: Question,
    },
    /// A node's core refused a request.
    Refused {
        /// Which node.
        node: usize,
        /// Why, and whether it may still take effect.
        refusal: Refusal,
    },
    /// A client was answered, or stopped waiting.
    Answered {
        /// Which client.
        client: usize,
        /// What it was told.
        ending: Ending,
    },
    /// A node's process ended.
    Crashed {
        /// Which node.
        node: usize,
        /// What was lost with it.
        crash: Crash,
        /// Why it ended.
        why: String,
    },
    /// A node runs (again).
    Started {
        /// Which node.
        node: usize,
        /// Its term.
        term: Term,
        /// Its last entry.
        last: LogPosition,
        /// The last one applied.
        applied: LogIndex,
    },
    /// A node cannot start.
    Down {
        /// Which node.
        node: usize,
        /// What it says.
        why: String,
    },
    /// Something was done to the cluster from outside.
    Fault {
        /// What.
        what: String,
    },
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { from, to, message } => write!(f, "n{} → n{}: {}", from + 1, to + 1, Told(message)),
            Self::Delivered { from, to, message } => {
                write!(f, "n{} got from n{}: {}", to + 1, from + 1, Told(message))
            }
            Self::Lost { from, to, why } => write!(f, "n{} → n{}: lost, {why}", from + 1, to + 1),
            Self::Observed { node, observation } => write!(f, "n{} {}", node + 1, Seen(observation)),
            Self::Appending { node, hard_state, truncate_from, after, last } => {
                write!(f, "n{} writes term {}", node + 1, hard_state.term)?;
                if let Some(id) = hard_state.voted_for {
                    write!(f, ", vote for n{}", id.0)?;
                }
                if let Some(from) = truncate_from {
                    write!(f, ", drops from entry {from}")?;
                }
                if last > after { write!(f, ", entries {}..{last}", after.next()) } else { Ok(()) }
            }
            Self::Durable { node, last } => write!(f, "n{} durable up to entry {last}", node + 1),
            Self::Committed { node, index, term } => {
                write!(f, "n{} knows entries up to {index} as committed (term {term})", node + 1)
            }
            Self::Applied { node, last } => write!(f, "n{} applied up to {last}", node + 1),
            Self::Asked { client, node, question } => {
                write!(f, "client {client} asks n{}: {question}", node + 1)
            }
            Self::Refused { node, refusal } => {
                write!(f, "n{} refuses a request: {:?}, {:?}", node + 1, refusal.reason, refusal.outcome)
            }
            Self::Answered { client, ending } => write!(f, "client {client} is told: {ending}"),
            Self::Crashed { node, crash, why } => match crash {
                Crash::Killed => write!(f, "n{} ended: {why}", node + 1),
                Crash::PowerLost => write!(f, "n{} lost power: {why}", node + 1),
            },
            Self::Started { node, term, last, applied } => {
                write!(f, "n{} runs: term {term}, last entry {last}, applied up to {applied}", node + 1)
            }
            Self::Down { node, why } => write!(f, "n{} cannot start: {why}", node + 1),
            Self::Fault { what } => write!(f, "-- {what}"),
        }
    }
}

/// A message in Raft's words.
pub struct Told<'a>(pub &'a Message);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signal = match self.0 {
            Message::Promise(Promise::VoteGranted { term }) => return write!(f, "vote granted, term {term}"),
            Message::Promise(Promise::Appended { term, match_index, round, .. }) => {
                return write!(f, "appended up to {match_index}, term {term}, round {round}");
            }
            Message::Signal(signal) => signal,
        };
        match signal {
            Signal::PreVote(request) => {
                write!(f, "pre-vote for term {}? last entry {}", request.term, request.last)
            }
            Signal::RequestVote(request) => {
                write!(f, "vote for term {}? last entry {}", request.term, request.last)
            }
            Signal::PreVoteGranted { term } => write!(f, "pre-vote granted for term {term}"),
            Signal::VoteRefused { term, pre_vote } => {
                write!(f, "{} refused, own term {term}", if *pre_vote { "pre-vote" } else { "vote" })
            }
            Signal::Append(append) => {
                let what = if append.entries.is_empty() { "heartbeat" } else { "append" };
                write!(f, "{what} term {} after {}", append.term, append.prev)?;
                if let Some(last) = append.entries.last() {
                    write!(f, " up to {}", last.position())?;
                }
                write!(f, ", commit {}, round {}", append.commit_index, append.round)
            }
            Signal::AppendRejected { term, prev, hint, .. } => {
                write!(f, "append after {prev} rejected, may agree at {hint}, term {term}")
            }
            Signal::RoundEcho { term, round, .. } => write!(f, "echo of round {round}, term {term}"),
            Signal::Forward { proposals } => write!(f, "forwards {} writes", proposals.len()),
            Signal::Forwarded { answers } => write!(f, "answers {} forwarded writes", answers.len()),
            Signal::ReadIndex { .. } => write!(f, "read index?"),
            Signal::ReadIndexAt { term, index, .. } => write!(f, "read index {index}, term {term}"),
            Signal::ReadIndexRefused { .. } => write!(f, "read index refused"),
            Signal::TimeoutNow { term } => write!(f, "take over from the leader of term {term}"),
            Signal::Removed { index } => write!(f, "removed by entry {index}"),
            Signal::LostData { match_index, .. } => write!(f, "acknowledged {match_index} and lost it"),
            Signal::StateDigests { digests } => {
                let newest = digests.first().map_or(LogIndex(0), |(index, _)| *index);
                write!(f, "state up to {newest}")
            }
        }
    }
}

struct Seen<'a>(&'a Observation);

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Observation::RoleChanged { role, term, why } => {
                let role = match role {
                    RoleName::Follower => "follower",
                    RoleName::PreCandidate => "pre-candidate",
                    RoleName::Candidate => "candidate",
                    RoleName::Leader => "leader",
                };
                write!(f, "is {role} in term {term}: {why}")
            }
            Observation::LeaderChanged { leader: Some(id), term } => {
                write!(f, "follows n{} in term {term}", id.0)
            }
            Observation::LeaderChanged { leader: None, term } => {
                write!(f, "knows no leader in term {term}")
            }
            Observation::ElectionStarted { term } => write!(f, "starts the election of term {term}"),
            Observation::ElectionWon { term } => write!(f, "wins the election of term {term}"),
            Observation::VoteAnswered { to, term, pre_vote, answer } => {
                let what = if *pre_vote { "pre-vote" } else { "vote" };
                write!(f, "on the {what} for n{}, term {term}: {answer:?}", to.0)
            }
            Observation::PeerFound { peer } => write!(f, "hears n{} again", peer.0),
            Observation::PeerLost { peer } => write!(f, "no longer hears n{}", peer.0),
            Observation::PeerRoundTrip { peer, micros } => {
                write!(f, "round trip to n{}: {micros} µs", peer.0)
            }
            Observation::Committed { index, micros } => {
                write!(f, "committed up to {index} after {micros} µs")
            }
            Observation::ConfigurationChanged { .. }
            | Observation::MemberPromoted { .. }
            | Observation::MemberRemoved { .. } => members(f, self.0),
            Observation::TransferStarted { to } => write!(f, "transfers leadership to n{}", to.0),
            Observation::TransferEnded { to, done: true } => {
                write!(f, "has transferred leadership to n{}", to.0)
            }
            Observation::TransferEnded { to, done: false } => {
                write!(f, "has not transferred leadership to n{}", to.0)
            }
            Observation::LogCompacted { through } => write!(f, "compacts its log up to {through}"),
            Observation::SnapshotStarted { to } => write!(f, "sends n{} a snapshot", to.0),
            Observation::SnapshotSent { to, index: Some(index) } => {
                write!(f, "has sent n{} a snapshot up to {index}", to.0)
            }
            Observation::SnapshotSent { to, index: None } => {
                write!(f, "could not send n{} its snapshot", to.0)
            }
            Observation::SnapshotReceived { from, index } => {
                write!(f, "takes over a snapshot of n{} up to {index}", from.0)
            }
            Observation::SnapshotInstalled { index } => write!(f, "runs on a snapshot up to {index}"),
            Observation::DiskStalls { micros } => write!(f, "has waited {micros} µs for its disk"),
            Observation::DiskWorks => write!(f, "is no longer held up by its disk"),
            Observation::SpaceLow => write!(f, "has no room for more entries"),
            Observation::SpaceFreed => write!(f, "has room for entries again"),
            Observation::MessageIgnored { from, why } => {
                write!(f, "ignores a message of n{}: {why}", from.0)
            }
            Observation::DataLost { match_index, last_index } => {
                write!(f, "acknowledged entries up to {match_index} and holds them up to {last_index}")
            }
            Observation::StateDiffers { .. }
            | Observation::StateAgrees { .. }
            | Observation::StateDiverged { .. } => state(f, self.0),
        }
    }
}

/// What became of the members.
fn members(f: &mut fmt::Formatter<'_>, seen: &Observation) -> fmt::Result {
    match seen {
        Observation::ConfigurationChanged { index, joint, voters, learners } => {
            let joint = if *joint { " (joint)" } else { "" };
            let names =
                |ids: &[NodeId]| ids.iter().map(|id| format!("n{}", id.0)).collect::<Vec<_>>().join(" ");
            let (voters, learners) = (names(voters), names(learners));
            write!(f, "members as of entry {index}{joint}: voters {voters}; learners {learners}")
        }
        Observation::MemberPromoted { member } => write!(f, "makes n{} a voter", member.0),
        Observation::MemberRemoved { member } => write!(f, "has removed n{}", member.0),
        _ => Ok(()),
    }
}

/// How the node's state compares with others'.
fn state(f: &mut fmt::Formatter<'_>, seen: &Observation) -> fmt::Result {
    match seen {
        Observation::StateDiffers { peer, index } => {
            write!(f, "has another state than n{} after entry {index}", peer.0)
        }
        Observation::StateAgrees { peer, index } => {
            write!(f, "has the state of n{} again, after entry {index}", peer.0)
        }
        Observation::StateDiverged { index, .. } => {
            write!(f, "has another state than a majority after entry {index}")
        }
        _ => Ok(()),
    }
}

/// The record of a run.
#[derive(Default)]
pub struct Trace {
    hash: u64,
    happenings: Option<Vec<(Instant, Happening)>>,
}

impl Trace {
    /// Keeps every happening from now on.
    pub fn keep(&mut self) {
        self.happenings.get_or_insert_default();
    }

    /// Takes what was kept since the last call.
    pub fn take(&mut self) -> Vec<(Instant, Happening)> {
        self.happenings.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A digest of everything so far: equal for equal runs.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Takes note of a happening: `words` tell it apart for the hash.
    pub(super) fn note(&mut self, at: Instant, words: [u64; 3], happening: impl FnOnce() -> Happening) {
        self.mix(at, words);
        if let Some(kept) = &mut self.happenings {
            kept.push((at, happening()));
        }
    }

    /// Takes note of something that is only part of the hash.
    pub(super) fn mix(&mut self, at: Instant, words: [u64; 3]) {
        for word in [at.0, words[0], words[1], words[2]] {
            self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
}

/// Numbers that tell a message apart from others, for the hash.
pub(super) fn words(message: &Message) -> u64 {
    let (kind, a, b) = match message {
        Message::Promise(Promise::VoteGranted { term }) => (1, term.0, 0),
        Message::Promise(Promise::Appended { term, match_index, round, .. }) => {
            (2, term.0 ^ round << 32, match_index.0)
        }
        Message::Signal(signal) => match signal {
            Signal::PreVote(request) => (3, request.term.0, request.last.index.0),
            Signal::RequestVote(request) => (4, request.term.0, request.last.index.0),
            Signal::PreVoteGranted { term } => (5, term.0, 0),
            Signal::VoteRefused { term, .. } => (6, term.0, 0),
            Signal::Append(append) => {
                (7, append.prev.index.0 ^ append.round << 32, append.entries.len() as u64)
            }
            Signal::AppendRejected { prev, hint, .. } => (8, prev.index.0, hint.index.0),
            Signal::RoundEcho { round, .. } => (9, *round, 0),
            Signal::Forward { proposals } => (10, proposals.len() as u64, 0),
            Signal::Forwarded { answers } => (11, answers.len() as u64, 0),
            Signal::ReadIndex { id } => (12, id.0, 0),
            Signal::ReadIndexAt { id, index, .. } => (13, id.0, index.0),
            Signal::ReadIndexRefused { id } => (14, id.0, 0),
            Signal::TimeoutNow { term } => (15, term.0, 0),
            Signal::Removed { index } => (16, index.0, 0),
            Signal::LostData { match_index, .. } => (17, match_index.0, 0),
            Signal::StateDigests { digests } => {
                let newest = digests.first().map_or((0, 0), |(index, digest)| (index.0, digest.value));
                (18, newest.0, newest.1)
            }
        },
    };
    kind | a.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ b.rotate_left(40)
}
