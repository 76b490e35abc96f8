//! A snapshot as a file: a backup. The chunks are those that peers send each other. Integers are little-endian.
//!
//! | part | bytes |
//! | --- | --- |
//! | head | `kuberaft snapshot\n`, 4 format, 4 length of the description, the description as JSON |
//! | chunk | 1 kind (1), 8 number from 0, 4 length of the records, records, 4 CRC32C of snapshot id, number and records |
//! | trailer | 1 kind (2), 8 chunks, 8 records, 8 bytes of records, 4 CRC32C of all bytes before it |
//!
//! Nothing follows the trailer. So a file that was cut off anywhere lacks its trailer, and one in which a bit has changed
//! has a wrong checksum; a chunk's own says where. That the records are the state that was saved is told by the digest
//! in the description, which [`Incoming`] compares.

use std::io::{self, Read};
use std::ops::ControlFlow;

use bytes::{BufMut, Bytes};
use crc32c::crc32c_append;
use serde::{Deserialize, Serialize};

use super::{
    CHUNK_BYTES_MAX, Chunk, Content, Cut, Header, Incoming, IncomingError, SNAPSHOT_BYTES_MAX, records,
};
use crate::kv::Record;
use crate::raft::{Configuration, Snapshot};
use crate::storage::{Staging, StorageError};
use crate::types::{ClusterId, LogIndex, LogPosition, LogTime, NodeId, Revision, Session};

/// What a snapshot file begins with.
const MAGIC: &[u8] = b"kuberaft snapshot\n";
/// The format that this version writes and reads.
const FORMAT: u32 = 1;
/// Largest description, in bytes: a configuration of very many members that were removed.
const ABOUT_BYTES_MAX: usize = 16 << 20;
/// Terms, indexes, times and revisions lie below this, as on the wire, so that counting on from them cannot overflow.
const NUMBER_MAX: u64 = 1 << 62;
const CHUNK: u8 = 1;
const TRAILER: u8 = 2;

/// What a snapshot file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Drawn for each file.
    pub id: u64,
    /// The cluster that it is of.
    pub cluster_id: ClusterId,
    /// The node that cut it.
    pub node_id: NodeId,
    /// Version of the program that cut it.
    pub version: String,
    /// When, in milliseconds of Unix time, by that node's clock.
    pub taken_unix_ms: u64,
    /// The last entry whose effect it holds.
    pub position: LogPosition,
    /// The log's clock at that entry.
    pub time: LogTime,
    /// The newest configuration at or below that entry.
    pub configuration: Configuration,
    /// Index of that configuration's entry.
    pub configuration_index: LogIndex,
    /// The store's revision.
    pub revision: Revision,
    /// Keys in the store.
    pub keys: u64,
    /// The store's digest, 16 hex digits.
    pub state_hash: String,
}

/// What the trailer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Chunks.
    pub chunks: u64,
    /// Records: keys, and remembered outcomes of requests with idempotency keys.
    pub records: u64,
    /// Bytes of the records.
    pub bytes: u64,
}

/// Why a file is no snapshot that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// Its first bytes are not those of a snapshot.
    #[error("is not a snapshot of kuberaft")]
    NotASnapshot,
    /// Another version wrote it.
    #[error("has format {0}, this version reads format {FORMAT}")]
    Format(u32),
    /// It ends too early.
    #[error("is damaged: it ends in the middle, at byte {0}")]
    CutOff(u64),
    /// Something in it was changed.
    #[error("is damaged at byte {at}: {what}")]
    Damaged {
        /// Where, in bytes from its beginning.
        at: u64,
        /// What is wrong there.
        what: String,
    },
    /// Where its content was to go.
    #[error(transparent)]
    Storage(StorageError),
}

impl About {
    /// What is known of the file's content, in the words of a transfer.
    ///
    /// # Errors
    /// What is wrong with the digest.
    fn header(&self) -> Result<Header, String> {
        let hash = u64::from_str_radix(&self.state_hash, 16)
            .map_err(|_| format!("the digest is {:?} instead of 16 hex digits", self.state_hash))?;
        let numbers = [self.position.index.0, self.position.term.0, self.time.0, self.revision.0];
        if let Some(number) = numbers.iter().find(|number| **number >= NUMBER_MAX) {
            return Err(format!("{number} is larger than any index, term, time or revision can be"));
        }
        Ok(Header {
            id: self.id,
            term: self.position.term,
            session: Session(0),
            snapshot: Snapshot {
                position: self.position,
                time: self.time,
                configuration: self.configuration.clone().into(),
                configuration_index: self.configuration_index,
            },
            revision: self.revision,
            keys: self.keys,
            hash,
            // Known at the end only.
            bytes_max: SNAPSHOT_BYTES_MAX,
        })
    }
}

/// A snapshot that is to become a file.
#[derive(Debug)]
pub struct Save {
    about: About,
    cut: Cut,
}

impl Save {
    /// The state of `cut`, which node `node_id` of `cluster_id` made. `id` is to be drawn.
    #[must_use]
    pub fn new(cut: Cut, cluster_id: ClusterId, node_id: NodeId, id: u64, taken_unix_ms: u64) -> Self {
        let header = cut.header(id);
        let Snapshot { position, time, configuration, configuration_index } = header.snapshot;
        let about = About {
            id,
            cluster_id,
            node_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            taken_unix_ms,
            position,
            time,
            configuration: (*configuration).clone(),
            configuration_index,
            revision: header.revision,
            keys: header.keys,
            state_hash: format!("{:016x}", header.hash),
        };
        Self { about, cut }
    }

    /// What the file says of itself.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Hands out the file's bytes piece by piece, one in memory at a time, until the end or until `take` breaks.
    /// True if it was the end.
    ///
    /// # Panics
    /// Never: a description has only string keys.
    pub fn write(&self, mut take: impl FnMut(Bytes) -> ControlFlow<()>) -> bool {
        let about = serde_json::to_vec(&self.about).expect("a description has only string keys");
        let mut head = MAGIC.to_vec();
        head.put_u32_le(FORMAT);
        head.put_u32_le(length(&about));
        head.extend_from_slice(&about);
        let mut crc = crc32c_append(0, &head);
        if take(head.into()).is_break() {
            return false;
        }
        let mut totals = Totals::default();
        let mut is_whole = false;
        self.cut.chunks(self.about.id, 0, |chunk| {
            let bytes = encode_chunk(&chunk);
            crc = crc32c_append(crc, &bytes);
            totals.chunks += 1;
            totals.bytes += chunk.records.len() as u64;
            if let Some(records) = chunk.total {
                totals.records = records;
                is_whole = true;
            }
            take(bytes)
        });
        // The last chunk may have been refused as well.
        is_whole && take(encode_trailer(totals, crc)).is_continue()
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Save {
    /// For tests: this state.
    pub(crate) fn of(view: crate::kv::View, cluster_id: ClusterId) -> Self {
        let snapshot = Snapshot::default();
        let cut = Cut { to: NodeId(0), session: Session(0), term: snapshot.position.term, snapshot, view };
        Self::new(cut, cluster_id, NodeId(1), 77, 1_000)
    }

    /// For tests: how many keys a whole file holds.
    #[cfg(test)]
    pub(crate) fn keys_in(file: &[u8]) -> usize {
        Reader::open(file).unwrap().restore(Nowhere).unwrap().store.len()
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("descriptions and chunks are limited to far less than 4 GiB")
}

fn encode_chunk(chunk: &Chunk) -> Bytes {
    let mut bytes = Vec::with_capacity(chunk.records.len() + 32);
    bytes.put_u8(CHUNK);
    bytes.put_u64_le(chunk.number);
    bytes.put_u32_le(length(&chunk.records));
    bytes.put_slice(&chunk.records);
    bytes.put_u32_le(chunk.crc);
    bytes.into()
}

fn encode_trailer(totals: Totals, crc: u32) -> Bytes {
    let mut bytes = vec![TRAILER];
    bytes.put_u64_le(totals.chunks);
    bytes.put_u64_le(totals.records);
    bytes.put_u64_le(totals.bytes);
    let crc = crc32c_append(crc, &bytes);
    bytes.put_u32_le(crc);
    bytes.into()
}

/// Reads a snapshot file from its beginning to its end and checks every byte of it.
pub struct Reader<R> {
    from: Checked<R>,
    about: About,
    totals: Totals,
    is_at_end: bool,
}

/// Bytes read so far, and what is wrong behind them.
struct Checked<R> {
    from: R,
    at: u64,
    crc: u32,
}

impl<R: Read> Reader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(from: R) -> Result<Self, FileError> {
        let mut from = Checked { from, at: 0, crc: 0 };
        match from.bytes(MAGIC.len()) {
            Ok(magic) if magic == MAGIC => {}
            Err(FileError::Io(error)) => return Err(FileError::Io(error)),
            _ => return Err(FileError::NotASnapshot),
        }
        let format = from.u32()?;
        if format != FORMAT {
            return Err(FileError::Format(format));
        }
        let length = from.length(ABOUT_BYTES_MAX, "a description")?;
        let about = from.bytes(length)?;
        let about = serde_json::from_slice(&about).map_err(|error| from.damaged(error.to_string()))?;
        Ok(Self { from, about, totals: Totals::default(), is_at_end: false })
    }

    /// What the file says of itself.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What was read so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The next chunk; `None` behind the last one of a whole file. What came before counts only then. The chunks'
    /// `total` is not set: it is known only at the end.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, FileError> {
        if self.is_at_end {
            return Ok(None);
        }
        match self.from.array()? {
            [CHUNK] => self.read_chunk().map(Some),
            [TRAILER] => self.read_trailer().map(|()| None),
            [kind] => Err(self.from.damaged(format!("a part of unknown kind {kind}"))),
        }
    }

    /// Reads what is left, and builds the state of it in `staging` and in memory, verified.
    ///
    /// # Errors
    /// [`FileError`]; [`FileError::Storage`] if the staging failed.
    pub fn restore<G: Staging>(&mut self, staging: G) -> Result<Content<G>, FileError> {
        let header = self.about.header().map_err(|what| self.from.damaged(what))?;
        let mut incoming = Incoming::new(self.about.node_id, header, staging);
        let content = |at: u64| {
            move |error: IncomingError| match error {
                IncomingError::Storage(error) => FileError::Storage(error),
                error => FileError::Damaged { at, what: error.to_string() },
            }
        };
        while let Some(chunk) = self.next_chunk()? {
            incoming.take(&chunk).map_err(content(self.from.at))?;
        }
        incoming.finish().map_err(content(self.from.at))
    }

    fn read_chunk(&mut self) -> Result<Chunk, FileError> {
        let number = self.from.u64()?;
        if number != self.totals.chunks {
            let what = format!("chunk {number} where {} should follow", self.totals.chunks);
            return Err(self.from.damaged(what));
        }
        let length = self.from.length(CHUNK_BYTES_MAX, "a chunk")?;
        let records = Bytes::from(self.from.bytes(length)?);
        let crc = self.from.u32()?;
        if crc != Chunk::checksum(self.about.id, number, &records) {
            return Err(self.from.damaged(format!("chunk {number} has a wrong checksum")));
        }
        let count =
            records::decode(records.clone()).map_err(|error| self.from.damaged(error.to_string()))?.len();
        self.totals.chunks += 1;
        self.totals.records += count as u64;
        self.totals.bytes += records.len() as u64;
        Ok(Chunk { number, records, crc, total: None })
    }

    fn read_trailer(&mut self) -> Result<(), FileError> {
        let (chunks, records, bytes) = (self.from.u64()?, self.from.u64()?, self.from.u64()?);
        let said = Totals { chunks, records, bytes };
        let expected = self.from.crc;
        if self.from.u32()? != expected {
            return Err(self.from.damaged("the checksum of the whole file is wrong"));
        }
        if said != self.totals {
            return Err(self.from.damaged(format!("it holds {:?} and says {said:?}", self.totals)));
        }
        match self.from.bytes(1) {
            Err(FileError::CutOff(_)) => {}
            Ok(_) => return Err(self.from.damaged("something follows the end")),
            Err(error) => return Err(error),
        }
        self.is_at_end = true;
        Ok(())
    }
}

impl<R: Read> Checked<R> {
    fn damaged(&self, what: impl Into<String>) -> FileError {
        FileError::Damaged { at: self.at, what: what.into() }
    }

    fn u32(&mut self) -> Result<u32, FileError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FileError> {
        self.array().map(u64::from_le_bytes)
    }

    fn length(&mut self, max: usize, of: &str) -> Result<usize, FileError> {
        let length = self.u32()? as usize;
        if length > max {
            return Err(self.damaged(format!("{of} of {length} bytes, at most {max} are possible")));
        }
        Ok(length)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FileError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), FileError> {
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FileError::CutOff(self.at),
            _ => FileError::Io(error),
        })?;
        self.at += bytes.len() as u64;
        self.crc = crc32c_append(self.crc, bytes);
        Ok(())
    }
}

/// A staging that keeps nothing: a file is only to be verified.
#[derive(Debug)]
pub struct Nowhere;

impl Staging for Nowhere {
    fn disk_bytes_max(_record_bytes: u64) -> u64 {
        0
    }

    fn write(&mut self, _: &[Record]) -> Result<(), StorageError> {
        Ok(())
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;

    fn file() -> Vec<u8> {
        let position = LogPosition { index: LogIndex(40), term: Term(3) };
        let save = Save::new(Cut::sample(12, Term(3), position), ClusterId(7), NodeId(9), 77, 1_000);
        let mut bytes = Vec::new();
        assert!(save.write(|piece| {
            bytes.extend_from_slice(&piece);
            ControlFlow::Continue(())
        }));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(About, Totals, u64), FileError> {
        let mut reader = Reader::open(bytes)?;
        let store = reader.restore(Nowhere)?.store;
        Ok((reader.about().clone(), reader.totals(), store.hash()))
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let (about, totals, hash) = read(&file()).unwrap();
        assert_eq!((about.cluster_id, about.node_id, about.keys), (ClusterId(7), NodeId(9), 12));
        assert_eq!(about.state_hash, format!("{hash:016x}"));
        assert_eq!((about.position.index, totals.records), (LogIndex(40), 12));
        assert!(totals.chunks > 1 && totals.bytes > 12 * 60_000, "{totals:?}");
    }

    #[test]
    fn a_file_that_was_cut_off_anywhere_is_refused() {
        let bytes = file();
        for end in (0..bytes.len()).step_by(997).chain(bytes.len() - 64..bytes.len()) {
            let error = read(&bytes[..end]).unwrap_err();
            assert!(matches!(error, FileError::CutOff(_) | FileError::NotASnapshot), "{end}: {error}");
        }
        let longer = [&bytes[..], b"!"].concat();
        assert!(read(&longer).unwrap_err().to_string().contains("something follows the end"));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        let mut bytes = file();
        let near_both_ends = (0..700).chain(bytes.len() - 64..bytes.len());
        for at in near_both_ends.chain((700..bytes.len() - 64).step_by(4_999)) {
            bytes[at] ^= 1 << (at % 8);
            assert!(read(&bytes).is_err(), "byte {at}");
            bytes[at] ^= 1 << (at % 8);
        }
        assert!(read(&bytes).is_ok());
    }

    #[test]
    fn a_digest_of_another_state_is_refused_although_all_checksums_are_right() {
        let position = LogPosition { index: LogIndex(40), term: Term(3) };
        let mut save = Save::new(Cut::sample(2, Term(3), position), ClusterId(7), NodeId(9), 77, 1_000);
        save.about.state_hash = format!("{:016x}", 1);
        let mut bytes = Vec::new();
        save.write(|piece| {
            bytes.extend_from_slice(&piece);
            ControlFlow::Continue(())
        });
        let error = read(&bytes).unwrap_err().to_string();
        assert!(error.contains("with digest"), "{error}");
    }
}
