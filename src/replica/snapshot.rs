//! Snapshots from one replica to another: cut from the state, sent in chunks, taken in, verified. Without I/O of its
//! own, so that the simulator moves them, too.
//!
//! 1. [`Cut`]: the leader's state as of one entry, and the chunks it is sent in
//! 2. [`Incoming`]: the receiver's side, chunk by chunk, into a [`Staging`](crate::storage::Staging)
//! 3. [`Shelf`]: where what arrived whole waits until the core wants it installed
//!
//! [`mod@file`] is the same as a file, for backups.

mod cut;
pub mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod incoming;
mod records;
mod shelf;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;

use crate::raft::Snapshot;
use crate::types::{LogPosition, NodeId, Revision, Session, Term};

pub use cut::Cut;
pub use incoming::{Incoming, IncomingError};
pub use records::RecordError;
pub use shelf::{Content, Shelf, StagedStores};

/// A chunk holds at most this many bytes of records; a larger record has a chunk of its own.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Largest content of a whole snapshot, in bytes: far above what fits into memory.
pub const SNAPSHOT_BYTES_MAX: u64 = 1 << 42;
/// Largest content of a chunk: one record of the largest size.
pub const CHUNK_BYTES_MAX: usize = records::RECORD_BYTES_MAX;

/// What is known of a snapshot before its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Drawn by the sender for each snapshot.
    pub id: u64,
    /// The leader's term.
    pub term: Term,
    /// The receiver's session.
    pub session: Session,
    /// Its position in the log.
    pub snapshot: Snapshot,
    /// The store's revision.
    pub revision: Revision,
    /// Keys in the store.
    pub keys: u64,
    /// The store's digest.
    pub hash: u64,
    /// At least as many bytes as the records of all chunks have, and at most [`SNAPSHOT_BYTES_MAX`].
    pub bytes_max: u64,
}

/// A piece of a snapshot's content: whole records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// From 0.
    pub number: u64,
    /// The records, encoded.
    pub records: Bytes,
    /// CRC32C of snapshot id, number and records.
    pub crc: u32,
    /// How many records there were in all; only in the last chunk.
    pub total: Option<u64>,
}

impl Chunk {
    fn checksum(id: u64, number: u64, records: &[u8]) -> u32 {
        let crc = crc32c::crc32c(&id.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(crc, &number.to_le_bytes()), records)
    }
}

/// How sending a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// To whom.
    pub to: NodeId,
    /// As in the [`Cut`].
    pub session: Session,
    /// As in the [`Cut`].
    pub term: Term,
    /// The last entry that it covers, if the receiver has all of it.
    pub sent: Option<LogPosition>,
}

/// Who takes a snapshot's chunks, as the transport sees it. All calls may block on the disk.
pub trait Receive: Send + Sync {
    /// A leader has a snapshot. Returns where it is to begin.
    ///
    /// # Errors
    /// It is not wanted now, or not at all.
    fn offer(&self, from: NodeId, header: Header) -> Result<Offered, Refused>;

    /// Takes a chunk of the snapshot `id`, which `from` offered. True once the snapshot is there as a whole, verified,
    /// durable and handed to the core.
    ///
    /// # Errors
    /// It is not of what was offered last, or not what it should be.
    fn chunk(&self, from: NodeId, id: u64, chunk: &Chunk) -> Result<bool, Refused>;
}

/// What is lacking of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// This chunk and those after it.
    From(u64),
    /// Nothing: it is there as a whole.
    Complete,
}

/// Why an offer or a chunk was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No correct sender sends this.
    #[error("{0}")]
    Malformed(String),
    /// Another snapshot took its place, or a newer leader is known.
    #[error("{0}")]
    Outdated(&'static str),
    /// Worth another try.
    #[error("{0}")]
    NotNow(Cow<'static, str>),
    /// The disk failed; the process ends.
    #[error("{0}")]
    Failed(String),
}
