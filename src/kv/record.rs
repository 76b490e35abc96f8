//! What a checkpoint or a snapshot stores of the state.

use bytes::Bytes;

use super::Answer;
use crate::types::{LogIndex, LogTime, Revision};

/// One thing that a checkpoint or a snapshot stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A change of a key.
    Row(Row),
    /// What became of a request with an idempotency key.
    Outcome(Remembered),
}

impl Record {
    /// Bytes of keys and values in it.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Row(row) => row.key.len() + row.value.as_ref().map_or(0, Bytes::len),
            Self::Outcome(outcome) => outcome.key.len(),
        }
    }
}

/// One change: the history is the list of rows by revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Revision of the change.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// The new value; `None` for a deletion.
    pub value: Option<Bytes>,
    /// Of the key (0 for a deletion).
    pub create_revision: Revision,
    /// Of the key (0 for a deletion).
    pub version: u64,
}

/// What is remembered of a request with an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Index of the entry that carried the request.
    pub index: LogIndex,
    /// The log's clock at that entry.
    pub time: LogTime,
    /// The idempotency key, 1 to 64 bytes.
    pub key: Bytes,
    /// Digest of the request without that key.
    pub request_hash: u64,
    /// What it was answered.
    pub answer: Answer,
}
