//! Log entries and the state that must survive a restart (paper, figure 2).

use std::sync::Arc;

use bytes::Bytes;

use super::Configuration;
use crate::types::{LogIndex, LogPosition, LogTime, NodeId, Term};

/// One log entry: term, index, type and command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that made it.
    pub term: Term,
    /// Place in the log, from 1.
    pub index: LogIndex,
    /// When its leader made it, by the log's clock; never lower than that of the entry before.
    pub time: LogTime,
    /// Type and content.
    pub payload: Payload,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A new leader's first entry, which lets it commit what came before (paper, 5.4.2 and 8).
    Noop,
    /// A command for the state machine, opaque here.
    Command(Bytes),
    /// The cluster's members from this entry on.
    Configuration(Arc<Configuration>),
}

/// A payload's bytes are not what its kind promises.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// No kind has this number.
    #[error("unknown entry kind {0}")]
    UnknownKind(u8),
    /// A no-op carries nothing.
    #[error("a no-op entry carries {0} bytes")]
    NoopWithData(usize),
    /// The configuration does not parse.
    #[error("bad configuration: {0}")]
    Configuration(#[from] serde_json::Error),
}

/// The name of an entry's type, as printed by tools and stored as one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// [`Payload::Noop`]
    Noop = 1,
    /// [`Payload::Command`]
    Command = 2,
    /// [`Payload::Configuration`]
    Configuration = 3,
}

impl Payload {
    /// The type of this payload; `kind() as u8` is what disk and wire store.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        match self {
            Self::Noop => EntryKind::Noop,
            Self::Command(_) => EntryKind::Command,
            Self::Configuration(_) => EntryKind::Configuration,
        }
    }

    /// The content as stored on disk and sent on the wire.
    #[must_use]
    pub fn data(&self) -> Bytes {
        match self {
            Self::Noop => Bytes::new(),
            Self::Command(command) => command.clone(),
            Self::Configuration(configuration) => configuration.encode(),
        }
    }

    /// The reverse of [`Payload::kind`] and [`Payload::data`].
    ///
    /// # Errors
    /// An unknown kind, or data that the kind cannot have.
    pub fn from_parts(kind: u8, data: Bytes) -> Result<Self, PayloadError> {
        match kind {
            1 if data.is_empty() => Ok(Self::Noop),
            1 => Err(PayloadError::NoopWithData(data.len())),
            2 => Ok(Self::Command(data)),
            3 => Ok(Self::Configuration(Arc::new(Configuration::decode(&data)?))),
            other => Err(PayloadError::UnknownKind(other)),
        }
    }
}

impl Entry {
    /// Bytes that the entry counts for against windows and batch limits, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const OVERHEAD_BYTES: usize = 24;
        let data = match &self.payload {
            Payload::Noop => 0,
            Payload::Command(command) => command.len(),
            Payload::Configuration(configuration) => configuration.encode().len(),
        };
        OVERHEAD_BYTES + data
    }

    /// Index and term.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        LogPosition { index: self.index, term: self.term }
    }
}

/// What a node must remember of the current term (paper, figure 2: `currentTerm`, `votedFor`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term this node has seen.
    pub term: Term,
    /// The candidate that received this node's vote in `term`.
    pub voted_for: Option<NodeId>,
}
