//! Judges what clients saw: is there one order of all operations, each taking effect at one moment between its
//! call and its return, that explains every answer? (Linearizability: Herlihy and Wing, 1990.)
//!
//! Keys are independent, and a history is linearizable if each key's part of it is (their locality theorem), so
//! each key is searched alone, by the algorithm of Wing and Gong (1993) with the memory of Lowe (2017). What the
//! keys share is the store's revision: [`check`] also sees that it rises with real time across keys.
//!
//! An operation whose outcome the client never learned stays open: it may take effect at any time after
//! its call, or never. One that is known to have had no effect (a refusal before the log) is left out.

mod register;
mod revisions;
mod search;
mod shrink;
mod violation;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::Condition;
use crate::types::{Instant, Revision};
use search::Verdict;
pub use violation::{Reason, Violation};

/// Most steps of the search for one key; that takes some seconds.
const STEPS_MAX: u64 = 1_000_000;

/// One operation of one client, as that client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Whose it was; only shown.
    pub client: u64,
    /// The key.
    pub key: Bytes,
    /// What was asked.
    pub call: Call,
    /// When it was asked, on a clock that all clients share.
    pub invoked_at: Instant,
    /// What was answered; `None` for an unknown outcome: a timeout, a lost connection.
    pub returned: Option<Returned>,
}

/// The answer to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// When it came; not before `invoked_at`, on the same clock.
    pub at: Instant,
    /// What it said.
    pub answer: Answer,
}

/// What a client asks of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Read it.
    Get,
    /// Set it.
    Put {
        /// The new value. Values that differ from each other let the checker see more and search less.
        value: Bytes,
        /// What must hold for it to take effect.
        condition: Condition,
    },
    /// Delete it.
    Delete {
        /// What must hold for it to take effect.
        condition: Condition,
    },
}

/// What a client was told. Revisions are checked where they are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a get: the key holds this.
    Found {
        /// The value.
        value: Bytes,
        /// Revision of the write that set it.
        mod_revision: Option<Revision>,
    },
    /// To a get or a delete: the key is not there.
    Missing,
    /// To a put or a delete: it took effect.
    Written {
        /// The revision it made.
        mod_revision: Option<Revision>,
    },
    /// To a put or a delete: its condition did not hold, nothing was changed.
    Refused,
}

/// Checks the operations of any number of keys and clients, in any order.
///
/// # Errors
/// The first key, in byte order, whose operations have no explanation, with the shortest part of them that
/// shows it; or revisions that contradict real time; or a key whose search was stopped
/// ([`Reason::Undecided`]), which many open operations and clients on one key without revisions can cause.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    if let Some(operation) = history.iter().find(|operation| !is_sound(operation)) {
        return Err(Violation { reason: Reason::Malformed, operations: vec![operation.clone()] });
    }
    let mut keys: BTreeMap<&Bytes, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation.clone());
    }
    for operations in keys.into_values() {
        match search::search(&operations, STEPS_MAX) {
            Verdict::Linearizable => {}
            Verdict::Violated => {
                let operations = shrink::shrink(operations);
                return Err(Violation { reason: Reason::NotLinearizable, operations });
            }
            Verdict::Undecided => return Err(Violation { reason: Reason::Undecided, operations }),
        }
    }
    revisions::check(history)
}

/// Whether the answer can be one to the call, and comes after it.
fn is_sound(operation: &Operation) -> bool {
    let Some(Returned { at, answer }) = &operation.returned else { return true };
    let fits = match operation.call {
        Call::Get => matches!(answer, Answer::Found { .. } | Answer::Missing),
        Call::Put { .. } => matches!(answer, Answer::Written { .. } | Answer::Refused),
        Call::Delete { .. } => !matches!(answer, Answer::Found { .. }),
    };
    fits && operation.invoked_at <= *at
}
