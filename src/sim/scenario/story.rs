//! A scenario as it was told: steps for a reader, or for a page that replays them.

use serde::Serialize;

/// What a scenario came to.
#[derive(Clone, Debug, Serialize)]
pub struct Story {
    /// The scenario's name.
    pub scenario: &'static str,
    /// Where everything random came from.
    pub seed: u64,
    /// The bug in all nodes, if one was planted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planted: Option<&'static str>,
    /// What it shows, in a line.
    pub title: &'static str,
    /// What it shows, and why.
    pub about: &'static str,
    /// Nodes, named n1, n2, …
    pub nodes: usize,
    /// In the order of time within a section.
    pub steps: Vec<Step>,
    /// Whether every check held.
    pub ok: bool,
}

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A heading; the cluster may be a new one from here on, its time zero.
    Section,
    /// Something done from outside: a cut link, a crash.
    Act,
    /// A node's role or term.
    Role,
    /// What a node says to a vote request, and votes counted.
    Vote,
    /// Messages sent.
    Message,
    /// A message that arrived.
    Arrival,
    /// Entries appended to a log, or dropped.
    Append,
    /// Entries on a disk.
    Durable,
    /// Entries known to be committed.
    Commit,
    /// Entries applied to the state machine.
    Apply,
    /// A client asks.
    Ask,
    /// A node refuses a request, or a client is answered.
    Reply,
    /// What a stretch of time came to.
    Summary,
    /// A check that held, or did not.
    Check,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Virtual time since the cluster's start, in milliseconds.
    pub at_ms: f64,
    /// The node it is about.
    pub node: Option<usize>,
    /// What it is.
    pub kind: Kind,
    /// In plain words.
    pub text: String,
    /// The term it is about.
    pub term: Option<u64>,
    /// The log index it is about.
    pub index: Option<u64>,
    /// The messages that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Sent>,
    /// Of use to a page that replays the story, too much for a reader.
    pub detail: bool,
    /// For a check: whether it held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// All nodes as they are then.
    pub state: Vec<NodeState>,
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// Sender, from 1.
    pub from: usize,
    /// Receiver, from 1.
    pub to: usize,
    /// Its kind, as in `RequestVote`.
    pub kind: &'static str,
    /// Whether a cut link swallowed it.
    pub lost: bool,
}

/// A node at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeState {
    /// The node, from 1.
    pub node: usize,
    /// Its role, or `down`.
    pub role: &'static str,
    /// Its term.
    pub term: u64,
    /// The last entry of its log.
    pub last: u64,
    /// The last entry that it knows to be committed.
    pub commit: u64,
    /// The last entry that it has applied.
    pub applied: u64,
}
