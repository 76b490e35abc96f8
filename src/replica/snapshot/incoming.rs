//! The receiving side: chunks in order, checked, into the state store's staging and into a store in memory.
//!
//! The store is built while the chunks come, and not read back from the staging afterwards: its digest is what proves
//! that the content is the sender's, and installing is then a matter of moment. It costs the memory of a second state
//! until the old one is dropped, as reading back would; chunks themselves take no more than one at a time.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{CHUNK_BYTES_MAX, Chunk, Content, Header, RecordError, records};
use crate::kv::{IdempotencyKey, Record, Remembered, Row, Store};
use crate::storage::{Staging, StorageError};
use crate::types::{LogIndex, LogTime, NodeId, Revision};

/// Why a chunk was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// A chunk is missing before it.
    #[error("chunk {found} where {expected} should follow")]
    Gap {
        /// The one that is lacking.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// It was changed on its way.
    #[error("chunk {0} has a wrong checksum")]
    Checksum(u64),
    /// No correct sender sends it: what was staged is of no use.
    #[error("{0}")]
    Content(String),
    /// The staging failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl IncomingError {
    /// Whether the chunks before it are good.
    #[must_use]
    pub fn keeps_staged(&self) -> bool {
        matches!(self, Self::Gap { .. } | Self::Checksum(_))
    }
}

impl From<RecordError> for IncomingError {
    fn from(error: RecordError) -> Self {
        Self::Content(error.to_string())
    }
}

/// A snapshot on its way in.
pub struct Incoming<G> {
    from: NodeId,
    header: Header,
    staging: G,
    store: Store,
    next_chunk: u64,
    records: u64,
    bytes: u64,
    /// How many of them there were when [`Incoming::is_look_due`] last said so.
    looked_at: u64,
    last_row: Option<Row>,
    last_outcome: (LogIndex, LogTime),
    outcomes: BTreeSet<Bytes>,
}

impl<G: Staging> Incoming<G> {
    /// Nothing is there yet.
    #[must_use]
    pub fn new(from: NodeId, header: Header, staging: G) -> Self {
        Self {
            from,
            header,
            staging,
            store: Store::default(),
            next_chunk: 0,
            records: 0,
            bytes: 0,
            looked_at: 0,
            last_row: None,
            last_outcome: (LogIndex(0), LogTime(0)),
            outcomes: BTreeSet::new(),
        }
    }

    /// What the sender said of it.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Who sends it.
    #[must_use]
    pub fn from(&self) -> NodeId {
        self.from
    }

    /// The first chunk that is lacking.
    #[must_use]
    pub fn next_chunk(&self) -> u64 {
        self.next_chunk
    }

    /// Disk space that what is still to come takes, at most.
    #[must_use]
    pub fn disk_bytes_left(&self) -> u64 {
        G::disk_bytes_max(self.header.bytes_max.saturating_sub(self.bytes))
    }

    /// Whether `bytes` came since this last said so: time to see whether there is still room for the rest.
    pub fn is_look_due(&mut self, bytes: u64) -> bool {
        let is_due = self.bytes - self.looked_at >= bytes;
        if is_due {
            self.looked_at = self.bytes;
        }
        is_due
    }

    /// Takes a chunk; one that was taken before is passed over. True if it was the last one:
    /// [`Incoming::finish`] is next.
    ///
    /// # Errors
    /// [`IncomingError`]. What was staged can be continued if [`IncomingError::keeps_staged`].
    pub fn take(&mut self, chunk: &Chunk) -> Result<bool, IncomingError> {
        if chunk.number < self.next_chunk {
            return Ok(false);
        }
        if chunk.number > self.next_chunk {
            return Err(IncomingError::Gap { expected: self.next_chunk, found: chunk.number });
        }
        if chunk.crc != Chunk::checksum(self.header.id, chunk.number, &chunk.records) {
            return Err(IncomingError::Checksum(chunk.number));
        }
        self.bytes += chunk.records.len() as u64;
        if chunk.records.len() > CHUNK_BYTES_MAX || self.bytes > self.header.bytes_max {
            let what = format!("more than the {} bytes that were offered", self.header.bytes_max);
            return Err(IncomingError::Content(what));
        }
        let records = records::decode(chunk.records.clone())?;
        for record in &records {
            self.check(record)?;
        }
        self.staging.write(&records)?;
        self.records += records.len() as u64;
        for record in records {
            self.store.restore(record);
        }
        self.next_chunk += 1;
        match chunk.total {
            Some(total) if total != self.records => {
                Err(IncomingError::Content(format!("{} records instead of {total}", self.records)))
            }
            total => Ok(total.is_some()),
        }
    }

    /// What [`Store::restore`] and the state store take for granted.
    fn check(&mut self, record: &Record) -> Result<(), IncomingError> {
        let checked = match record {
            Record::Row(row) => self.check_row(row),
            Record::Outcome(outcome) => self.check_outcome(outcome),
        };
        checked.map_err(|what| IncomingError::Content(what.into()))
    }

    fn check_row(&mut self, row: &Row) -> Result<(), &'static str> {
        if !self.outcomes.is_empty() {
            return Err("a row behind the outcomes");
        }
        let last = self.last_row.as_ref();
        if last.is_some_and(|last| last.value.is_none()) {
            return Err("a row behind a deletion");
        }
        let before = last.map_or(Revision(0), |last| last.revision);
        if row.revision <= before || row.revision > self.header.revision {
            return Err("a row out of order");
        }
        let Revision(created) = row.create_revision;
        // Each write of a key takes a revision of its own.
        let is_possible = match &row.value {
            Some(_) => {
                (1..=row.revision.0).contains(&created)
                    && (1..=row.revision.0 - created + 1).contains(&row.version)
            }
            None => (created, row.version) == (0, 0),
        };
        if row.key.is_empty() || !is_possible {
            return Err("a row that no write makes");
        }
        self.last_row =
            Some(Row { key: Bytes::new(), value: row.value.as_ref().map(|_| Bytes::new()), ..*row });
        Ok(())
    }

    fn check_outcome(&mut self, outcome: &Remembered) -> Result<(), &'static str> {
        let (index, time) = self.last_outcome;
        if outcome.index <= index || outcome.index > self.header.snapshot.position.index {
            return Err("an outcome out of order");
        }
        if outcome.time < time || outcome.time > self.header.snapshot.time {
            return Err("an outcome of another time");
        }
        if outcome.key.is_empty() || outcome.key.len() > IdempotencyKey::BYTES_MAX {
            return Err("an outcome that no request has");
        }
        if !self.outcomes.insert(Bytes::copy_from_slice(&outcome.key)) {
            return Err("two outcomes of one request");
        }
        self.last_outcome = (outcome.index, outcome.time);
        Ok(())
    }

    /// Revision, keys and digest of what was taken so far.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn totals(&self) -> (Revision, u64, u64) {
        (self.store.revision(), self.store.len() as u64, self.store.hash())
    }

    /// After the last chunk: compares the state with what the sender said of its own, and makes the staging durable.
    ///
    /// # Errors
    /// It is not the sender's state; the staging failed.
    pub fn finish(mut self) -> Result<Content<G>, IncomingError> {
        let Header { revision, keys, hash, .. } = self.header;
        let (store, count) = (&self.store, self.store.len() as u64);
        if (store.revision(), count, store.hash()) != (revision, keys, hash) {
            return Err(IncomingError::Content(format!(
                "the state is {count} keys at revision {} with digest {:016x}, the sender's {keys} at {revision} with \
                 {hash:016x}",
                store.revision(),
                store.hash()
            )));
        }
        self.staging.seal()?;
        Ok(Content { snapshot: self.header.snapshot, staging: self.staging, store: self.store })
    }
}
