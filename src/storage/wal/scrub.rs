//! Reads the log's older segments again while the log runs, to find what a disk lost before it is needed.
//!
//! Looks at closed segments only: nobody writes to them. Reads through the disk's cache of the kernel are no proof of
//! what the disk holds, so that is dropped first. A segment that is removed meanwhile is left out.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::format::{self, ALIGNMENT, Found, HEADER_BLOCK_BYTES, SegmentHeader};
use super::{Owner, Wal, segment};
use crate::storage::files::{File, Files};
use crate::storage::{Damage, StorageError};
use crate::types::LogIndex;

/// Read at once, in bytes; a larger record is read as a whole.
const PIECE_BYTES: usize = 256 << 10;

/// Reads a log's closed segments. Independent of the thread that owns the log.
pub struct Scrub<F> {
    files: F,
    directory: PathBuf,
    owner: Owner,
}

/// Damage in a closed segment.
#[derive(Debug)]
pub struct DamagedSegment {
    /// What was found.
    pub damage: Damage,
    /// The segment's last entry: a node whose state covers it does not need the segment.
    pub through: LogIndex,
}

/// Called with the bytes of each piece that was read; decides whether and when to continue.
pub type Pace<'a> = &'a mut dyn FnMut(usize) -> ControlFlow<()>;

/// Why a segment was not read to its end.
enum Ended {
    Stopped,
    Damaged(Damage),
}

/// Where the chain of records stands behind a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Chain {
    record: u64,
    crc: u32,
}

impl<F: Files> Wal<F> {
    /// What reads its closed segments again.
    #[must_use]
    pub fn scrub(&self) -> Scrub<F> {
        Scrub { files: self.files.clone(), directory: self.directory.clone(), owner: self.owner }
    }
}

impl<F: Files> Scrub<F> {
    /// Reads all closed segments once, the oldest first; says which are damaged, or `None` if `pace` ended it.
    ///
    /// # Errors
    /// [`StorageError::Disk`]: the directory or a segment could not be opened. That says nothing of the log.
    pub fn pass(&self, pace: Pace<'_>) -> Result<Option<Vec<DamagedSegment>>, StorageError> {
        let names = self.files.list(&self.directory).map_err(StorageError::disk("list", &self.directory))?;
        let mut damaged = Vec::new();
        for pair in segment::sequences(&names).windows(2) {
            let (path, next) = (self.path(pair[0]), self.path(pair[1]));
            let (Some(file), Some(next_file)) = (self.open(&path)?, self.open(&next)?) else { continue };
            // One that is damaged is found as a segment of its own; the newest was read as the log was opened.
            let Some((next, _)) = header(&next_file) else { continue };
            let expected = Chain { record: next.record, crc: next.previous };
            match self.check(&path, &file, expected, pace) {
                Ok(()) => {}
                Err(Ended::Stopped) => return Ok(None),
                Err(Ended::Damaged(damage)) => {
                    damaged.push(DamagedSegment { damage, through: next.before.index });
                }
            }
        }
        Ok(Some(damaged))
    }

    fn path(&self, sequence: u64) -> PathBuf {
        self.directory.join(segment::name(sequence))
    }

    /// `None` if it is gone.
    fn open(&self, path: &Path) -> Result<Option<F::File>, StorageError> {
        match self.files.open_read_only(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::disk("open", path)(error)),
        }
    }

    /// Checks all of a segment's records, and that the next segment continues behind the last one.
    fn check(&self, path: &Path, file: &F::File, expected: Chain, pace: Pace<'_>) -> Result<(), Ended> {
        let damaged = |offset: u64, what: String| {
            Ended::Damaged(Damage { path: path.to_owned(), offset: Some(offset), index: None, what })
        };
        let unreadable = |error: io::Error| damaged(0, format!("it cannot be read: {error}"));
        file.forget_cached();
        let Some((header, salt)) = header(file).filter(|(header, _)| header.owner == self.owner) else {
            return Err(damaged(0, "bad segment header".into()));
        };
        let mut reader =
            Reader { file, bytes: file.size_bytes().map_err(unreadable)?, window: Vec::new(), at: 0 };
        let mut chain = Chain { record: header.record, crc: salt };
        let mut at = segment::RECORDS_BEGIN;
        loop {
            let head =
                reader.load(at, format::header_bytes(at), pace).map_err(|error| error.or(unreadable))?;
            let length = format::record_length(head, at, salt).unwrap_or(0);
            let bytes = reader.load(at, length, pace).map_err(|error| error.or(unreadable))?;
            match format::find_record(bytes, at, salt) {
                Found::Record(record)
                    if record.header.number == chain.record && record.header.previous == chain.crc =>
                {
                    chain = Chain { record: chain.record + 1, crc: record.crc };
                    at = (at + u64::from(record.header.bytes)).next_multiple_of(ALIGNMENT as u64);
                }
                Found::Record(record) => {
                    return Err(damaged(
                        at,
                        format!("record {} stands where {} should", record.header.number, chain.record),
                    ));
                }
                Found::Changed(what) => return Err(damaged(at, what.into())),
                Found::Torn => return Err(damaged(at, "an incomplete record".into())),
                Found::Nothing if chain == expected => return Ok(()),
                Found::Nothing => {
                    return Err(damaged(at, "records are missing at the end of this segment".into()));
                }
            }
        }
    }
}

/// A segment's header, if it is a good one.
fn header<H: File>(file: &H) -> Option<(SegmentHeader, u32)> {
    let mut block = vec![0; HEADER_BLOCK_BYTES];
    file.read_at(&mut block, 0).ok()?;
    SegmentHeader::decode(&block).ok()
}

/// A part of a file in memory.
struct Reader<'a, H> {
    file: &'a H,
    bytes: u64,
    window: Vec<u8>,
    /// Where the window begins.
    at: u64,
}

/// Why there is no further part.
enum ReadError {
    Stopped,
    Failed(io::Error),
}

impl ReadError {
    fn or(self, failed: impl FnOnce(io::Error) -> Ended) -> Ended {
        match self {
            Self::Stopped => Ended::Stopped,
            Self::Failed(error) => failed(error),
        }
    }
}

impl<H: File> Reader<'_, H> {
    /// What is at `at`: `wanted` bytes or more, unless the file ends before.
    fn load(&mut self, at: u64, wanted: usize, pace: Pace<'_>) -> Result<&[u8], ReadError> {
        let left = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let skip = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        if self.window.len().saturating_sub(skip) < wanted.min(left) {
            self.window.resize(wanted.max(PIECE_BYTES).min(left), 0);
            self.at = at;
            self.file.read_at(&mut self.window, at).map_err(ReadError::Failed)?;
            if pace(self.window.len()).is_break() {
                return Err(ReadError::Stopped);
            }
        }
        let skip = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        Ok(self.window.get(skip..).unwrap_or_default())
    }
}
