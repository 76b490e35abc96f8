//! What the checker found, told so that a person can follow it.

use std::fmt;

use super::{Answer, Call, Operation};
use crate::kv::Condition;
use crate::types::Revision;

/// A history that is not what a linearizable store would show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong.
    pub reason: Reason,
    /// The operations that show it, by the time of their call; all of one key unless the reason is about
    /// revisions.
    pub operations: Vec<Operation>,
}

/// What is wrong with a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No order of one key's operations explains their answers.
    NotLinearizable,
    /// Two keys, or two writes, have the same revision.
    RevisionShared,
    /// A write was called after a revision was told and got no later one.
    RevisionOrder,
    /// An answer that does not fit its call or comes before it: a fault of the recording.
    Malformed,
    /// The search was stopped: neither right nor wrong.
    Undecided,
}

impl std::error::Error for Violation {}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.reason {
            Reason::NotLinearizable => {
                "not linearizable: no order of these operations explains their answers"
            }
            Reason::RevisionShared => "a revision belongs to one write only",
            Reason::RevisionOrder => "a later write has no later revision",
            Reason::Malformed => "not a history: the answer does not fit the call, or comes before it",
            Reason::Undecided => "undecided: the search was stopped",
        };
        if self.reason == Reason::Undecided {
            let key = self.operations.first().map(|operation| shown(&operation.key)).unwrap_or_default();
            return write!(f, "{what} after {} operations of key {key}", self.operations.len());
        }
        write!(f, "{what}")?;
        self.operations.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, key, call, invoked_at, returned } = self;
        let until = returned.as_ref().map_or_else(|| "…".to_owned(), |returned| returned.at.0.to_string());
        write!(f, "{:>10}..{until:<10} µs  client {client:<3} ", invoked_at.0)?;
        let key = shown(key);
        match call {
            Call::Get => write!(f, "get {key}"),
            Call::Put { value, condition } => {
                write!(f, "put {key} = {}{}", shown(value), Told(*condition))
            }
            Call::Delete { condition } => write!(f, "delete {key}{}", Told(*condition)),
        }?;
        match returned.as_ref().map(|returned| &returned.answer) {
            None => write!(f, " → unknown"),
            Some(Answer::Found { value, mod_revision }) => {
                write!(f, " → {}{}", shown(value), at_revision(*mod_revision))
            }
            Some(Answer::Missing) => write!(f, " → not there"),
            Some(Answer::Written { mod_revision }) => write!(f, " → done{}", at_revision(*mod_revision)),
            Some(Answer::Refused) => write!(f, " → refused"),
        }
    }
}

/// A condition, as a clause.
struct Told(Condition);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Condition::Always => Ok(()),
            Condition::Absent => write!(f, " if absent"),
            Condition::Present => write!(f, " if present"),
            Condition::ModRevision(revision) => write!(f, " if at revision {revision}"),
        }
    }
}

fn at_revision(revision: Option<Revision>) -> String {
    revision.map(|revision| format!(" at revision {revision}")).unwrap_or_default()
}

/// Text in quotes, cut where it is long.
fn shown(bytes: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 40;
    match bytes.get(..SHOWN_BYTES_MAX) {
        Some(start) if bytes.len() > SHOWN_BYTES_MAX => {
            format!("\"{}\"… ({} bytes)", start.escape_ascii(), bytes.len())
        }
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}
