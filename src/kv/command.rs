//! Commands, their encoding, and what applying one answers.

use bytes::Bytes;

use crate::types::Revision;

/// A write, as carried by a log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Set a key.
    Put {
        /// The key, 1 byte or more.
        key: Bytes,
        /// The value, possibly empty.
        value: Bytes,
        /// What must hold, else nothing is changed.
        condition: Condition,
    },
    /// Delete a key.
    Delete {
        /// The key.
        key: Bytes,
        /// What must hold, else nothing is changed.
        condition: Condition,
    },
}

/// What must hold of a key for a command to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key is not there (`If-None-Match: *`).
    Absent,
    /// The key is there (`If-Match: *`).
    Present,
    /// The key's `mod_revision` is this one (`If-Match: "<rev>"`).
    ModRevision(Revision),
}

/// What applying a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The key was set at this revision.
    Put {
        /// The store's revision after the write.
        revision: Revision,
        /// Revision at which the key came into being.
        create_revision: Revision,
        /// Writes to the key since then.
        version: u64,
    },
    /// The key was deleted at this revision.
    Deleted {
        /// The store's revision after the write.
        revision: Revision,
    },
    /// There was nothing to delete; no revision was used.
    KeyNotFound {
        /// The store's revision.
        revision: Revision,
    },
    /// The condition did not hold; no revision was used.
    PreconditionFailed {
        /// The key's `mod_revision`, if it is there.
        mod_revision: Option<Revision>,
    },
}

/// Bytes that are no command.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a command: {0}")]
pub struct CommandError(pub &'static str);

impl Command {
    /// As carried by log entries.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        todo!()
    }

    /// The reverse of [`Command::encode`]; shares the bytes.
    ///
    /// # Errors
    /// Bytes that no command encodes to.
    pub fn decode(_data: &Bytes) -> Result<Self, CommandError> {
        todo!()
    }
}
