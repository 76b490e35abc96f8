//! The write-ahead log: term, vote and entries, durable before anything is promised.
//!
//! # Shape
//! Segments `wal/<sequence>` (16 hex digits), preallocated and filled with zeros. Everything that waits is one
//! *record*, one write and one `fdatasync` ([`Wal::flush`]); the next record is written only after that flush
//! succeeded. A record carries hard state, commit index, an optional truncation and entries. Its checksum covers
//! its place and the checksum of the record before it, so records form one chain through all segments, over the
//! segment headers, and a record that is missing, moved or replaced breaks it. A new segment appears under its
//! name only when its header is durable; if a group does not fit into what is left, it goes there as a whole.
//! Each header repeats hard state and log time, so that what is dropped takes neither along (`beginning`).
//!
//! # The end of the log: a write cut short, or damage?
//! Opening must cut what a crash left of an unfinished write, and must never cut an acknowledged record because
//! a bit of it flipped. A checksum alone cannot tell the two apart for the last record. What can:
//!
//! 1. Space ahead of the log is zeros, durably. So a sector that a crash kept from the disk is zeros from the
//!    record's start on, or from where a write was cut.
//! 2. The last byte of every 512-byte sector that a record fills, of its head, and of the record is a *mark*
//!    that is never zero. So in a record cut short at least one mark is zero, whichever sectors are missing, and
//!    also if a sector was written only up to some byte. (Assumed: what a disk writes of a sector is a prefix.)
//! 3. In a record that was written completely no mark is zero, and one flipped bit cannot make one so.
//!
//! Hence a record with a bad checksum is *torn* if a mark in it is zero, and *changed* if none is. Changed is
//! damage wherever it stands. Torn can only be the very last write: if a good record head stands anywhere
//! behind it, or another segment, the torn record had been flushed before that one was written, so zeros in it
//! are damage, too. The same look behind is taken where nothing but zeros follows the last record. A torn tail
//! was never acknowledged; it is overwritten with zeros, durably, before the log continues, which keeps 1 true.
//!
//! Not told apart from a cut write: a last record of which the disk later returns whole sectors as zeros. Its
//! entries are on a majority's disks if they were committed.
//!
//! Opening also writes the last record again and flushes it: after a failed flush the kernel may hold it as
//! clean although the disk never got it, and what was read is about to be promised.

mod beginning;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod inspect;
mod newest;
mod positions;
mod read;
#[cfg_attr(feature = "planted-bugs", path = "rules/planted.rs")]
mod rules;
mod scan;
mod scrub;
mod segment;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use beginning::Removal;
pub use inspect::{Inspected, LogRecord, StoredEntry, inspect};
pub use rules::Rules;
pub use scrub::{DamagedSegment, Pace, Scrub};
pub use segment::Preparation;

use self::format::{ALIGNMENT, SegmentHeader};
use self::positions::{Positions, RecordPlace};
use self::scan::Scan;
use self::segment::Segment;
use super::StorageError;
use super::files::{File, Files};
use crate::raft::{AppendEntries, Configuration, Entry, HardState};
use crate::types::{ClusterId, LogIndex, LogPosition, LogTime, NodeId};

/// Size of a segment for which a full disk has no room otherwise, unless what waits needs more.
const SMALL_SEGMENT_BYTES: u64 = 256 << 10;

/// Whose log it is; recorded in every segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node.
    pub node_id: NodeId,
    /// The cluster.
    pub cluster_id: ClusterId,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of cluster {}", self.node_id, self.cluster_id)
    }
}

/// What can be chosen about a log.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of new segments in bytes; a group of records that is larger gets a segment of its own size.
    pub segment_bytes: u32,
    /// What is durable, and what survives.
    pub rules: Rules,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, rules: Rules::default() }
    }
}

/// What an opened log holds.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// Entries up to here are known to be committed; more may be.
    pub commit_index: LogIndex,
    /// The entry before the log's first one.
    pub before: LogPosition,
    /// Last entry, or `before` if there is none.
    pub last: LogPosition,
    /// The highest time stamp of the entries.
    pub time: LogTime,
    /// First index of each run of entries of one term, in order.
    pub runs: Vec<LogPosition>,
    /// The configurations among the entries, in order.
    pub configurations: Vec<(LogIndex, Arc<Configuration>)>,
    /// What was cut at the end, if anything.
    pub torn_tail: Option<TornTail>,
}

/// The remains of a write that a crash cut short. Nothing in it was ever acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub path: PathBuf,
    /// Where the remains began.
    pub offset: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// The last whole entry before them.
    pub after: LogPosition,
}

/// What one flush made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushStats {
    /// Entries.
    pub entries: usize,
    /// Bytes written; 0 if there was nothing to write, and so no flush.
    pub bytes: usize,
}

/// The write-ahead log. One thread owns it.
pub struct Wal<F: Files> {
    files: F,
    directory: PathBuf,
    owner: Owner,
    options: Options,
    segments: Vec<Segment<F::File>>,
    /// Includes what waits to be flushed, but for the places of records.
    positions: Positions,
    /// Last entry that [`Wal::read`] may give out: flushed, and not about to be truncated.
    readable: LogIndex,
    flushed: Flushed,
    hard_state: HardState,
    commit_index: LogIndex,
    pending: Pending,
    /// Files of segments that were dropped, to be removed.
    dropped: Vec<PathBuf>,
    /// Offset of the next record in the last segment.
    end: u64,
    next_record: u64,
    previous: u32,
    buffer: Vec<u8>,
    preparation_taken: bool,
    poisoned: bool,
}

/// As of the last record.
struct Flushed {
    last: LogPosition,
    hard_state: HardState,
    /// The highest stamp of any entry that was ever in the log.
    time: LogTime,
}

/// What waits to be flushed.
#[derive(Default)]
struct Pending {
    is_needed: bool,
    truncate_from: Option<LogIndex>,
    entries: Vec<Entry>,
}

impl Pending {
    fn truncate(&mut self, from: LogIndex) {
        match self.entries.first() {
            Some(first) if first.index < from => {
                let keep = usize::try_from(from.0 - first.index.0).expect("within a vector");
                self.entries.truncate(keep);
            }
            _ => {
                self.entries.clear();
                self.truncate_from = Some(self.truncate_from.map_or(from, |earlier| earlier.min(from)));
            }
        }
    }
}

impl<F: Files> Wal<F> {
    /// Whether `directory` holds a log. An interrupted [`Wal::create`] leaves none.
    ///
    /// # Errors
    /// [`StorageError::Disk`].
    pub fn exists(files: &F, directory: &Path) -> Result<bool, StorageError> {
        match files.list(directory) {
            Ok(names) => Ok(!segment::sequences(&names).is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StorageError::disk("list", directory)(error)),
        }
    }

    /// Makes a log, with a first record if one is given: after a crash there is the whole of it or none.
    /// Durable but for the directory's own name, which is the caller's.
    ///
    /// # Errors
    /// [`StorageError::Disk`].
    ///
    /// # Panics
    /// If `first` does not begin a log, or is too large for a record.
    pub fn create(
        files: F,
        directory: &Path,
        owner: Owner,
        options: Options,
        first: Option<&AppendEntries>,
    ) -> Result<Self, StorageError> {
        files.create_directory(directory).map_err(StorageError::disk("create", directory))?;
        let names = files.list(directory).map_err(StorageError::disk("list", directory))?;
        assert!(segment::sequences(&names).is_empty(), "there is a log in {}", directory.display());
        segment::remove_unfinished(&files, directory, &names)?;
        let header = SegmentHeader {
            owner,
            sequence: 1,
            record: 1,
            begins_anew: false,
            before: LogPosition::default(),
            time: LogTime(0),
            hard_state: HardState::default(),
            commit_index: LogIndex(0),
            previous: 0,
        };
        let bytes = u64::from(options.segment_bytes).max(segment::RECORDS_BEGIN);
        let segment = segment::start(&files, directory, &header, bytes)?;
        let mut wal = Self {
            files,
            directory: directory.to_owned(),
            owner,
            options,
            positions: Positions::begin(LogPosition::default()),
            readable: LogIndex(0),
            flushed: Flushed { last: header.before, hard_state: header.hard_state, time: header.time },
            hard_state: HardState::default(),
            commit_index: LogIndex(0),
            pending: Pending::default(),
            dropped: Vec::new(),
            end: segment::RECORDS_BEGIN,
            next_record: 1,
            previous: segment.salt,
            segments: vec![segment],
            buffer: Vec::new(),
            preparation_taken: false,
            poisoned: false,
        };
        if let Some(first) = first {
            wal.append(first);
            wal.write_pending(false)?;
        }
        segment::publish(&wal.files, directory, &wal.segments[0])?;
        newest::settle(&wal.files, directory, &names, header.sequence)?;
        Ok(wal)
    }

    /// Whose log it is, by all of its segments.
    ///
    /// # Errors
    /// As [`Wal::open`], but for a torn tail, which is left alone.
    pub fn owner(files: &F, directory: &Path) -> Result<Owner, StorageError> {
        scan::scan(files, directory, None, &mut |_| {}).map(|scan| scan.owner)
    }

    /// Opens the log in `directory`, which must be `owner`'s; cuts a torn tail.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], [`StorageError::Identity`] and [`StorageError::Format`], in all of which nothing
    /// was changed; [`StorageError::Disk`].
    pub fn open(
        files: F,
        directory: &Path,
        owner: Owner,
        options: Options,
    ) -> Result<(Self, Recovered), StorageError> {
        let mut scan = scan::scan(&files, directory, Some(owner), &mut |_| {})?;
        let names = files.list(directory).map_err(StorageError::disk("list", directory))?;
        segment::remove_unfinished(&files, directory, &names)?;
        let last = scan.active_mut();
        last.file = files.open(&last.path).map_err(StorageError::disk("open", &last.path))?;
        let active = last.sequence;
        settle(&scan)?;
        newest::settle(&files, directory, &names, active)?;
        segment::sync_directory(&files, directory)?;
        beginning::remove(&files, directory, &scan.void)?;
        let recovered = scan.recovered();
        let wal = Self {
            files,
            directory: directory.to_owned(),
            owner,
            options,
            segments: scan.segments,
            readable: scan.positions.last.index,
            flushed: Flushed { last: scan.positions.last, hard_state: scan.hard_state, time: scan.time },
            positions: scan.positions,
            hard_state: scan.hard_state,
            commit_index: recovered.commit_index,
            pending: Pending::default(),
            dropped: Vec::new(),
            end: scan.end,
            next_record: scan.next_record,
            previous: scan.previous,
            buffer: Vec::new(),
            preparation_taken: false,
            poisoned: false,
        };
        Ok((wal, recovered))
    }

    /// Where its segments are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The first entry that the log holds, or would hold.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.positions.before.index.next()
    }

    /// The last entry, flushed or not.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        self.positions.last
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Adds to what the next flush writes. Payloads are shared, not copied. An append that changes nothing but
    /// the commit index causes no write.
    ///
    /// # Panics
    /// If the entries do not follow the log's last one, or a truncation lies outside of the log.
    pub fn append(&mut self, append: &AppendEntries) {
        if let Some(from) = append.truncate_from {
            let last = self.positions.last;
            assert!(self.positions.can_truncate(from), "truncation from {from} in a log that ends at {last}");
            self.positions.truncate(from);
            self.readable = self.readable.min(from.prev());
            self.pending.truncate(from);
        }
        for entry in &append.entries {
            let (position, last) = (entry.position(), self.positions.last);
            assert!(self.positions.can_follow(position), "entry {position} after {last}");
            self.positions.push(position);
            self.pending.entries.push(entry.clone());
        }
        self.pending.is_needed |= self.options.rules.must_write(append, self.hard_state);
        self.hard_state = append.hard_state;
        self.commit_index = self.commit_index.max(append.commit_index);
    }

    /// Makes all appends so far durable: one write and one `fdatasync`, or none if there is nothing to write.
    ///
    /// # Errors
    /// [`StorageError::Disk`], after which every call gives [`StorageError::Poisoned`]: nothing is tried again.
    ///
    /// # Panics
    /// If what waits is above 4 GiB.
    pub fn flush(&mut self) -> Result<FlushStats, StorageError> {
        self.check_poison()?;
        if !self.pending.is_needed {
            return Ok(FlushStats::default());
        }
        let result = self.write_pending(true);
        self.poisoned = result.is_err();
        result
    }

    /// Work that makes the next segment ready, when it is time for it; handed out once a segment. Run it outside
    /// the log thread: without it, the flush that needs the segment must fill it with zeros itself.
    pub fn take_preparation(&mut self) -> Option<Preparation<F>> {
        let active = self.active();
        if self.preparation_taken || self.end < active.bytes / 4 {
            return None;
        }
        let sequence = active.sequence + 1;
        self.preparation_taken = true;
        let bytes = u64::from(self.options.segment_bytes);
        Some(Preparation::new(self.files.clone(), &self.directory, sequence, bytes))
    }

    /// The segment that records are added to.
    fn active(&self) -> &Segment<F::File> {
        self.segments.last().expect("a log has a segment")
    }

    fn check_poison(&self) -> Result<(), StorageError> {
        if self.poisoned { Err(StorageError::Poisoned) } else { Ok(()) }
    }

    fn write_pending(&mut self, may_roll: bool) -> Result<FlushStats, StorageError> {
        let bytes_max =
            format::record_bytes_max(&self.pending.entries).expect("groups are below 4 GiB") as u64;
        let rules = self.options.rules;
        let room = self.active().bytes - self.end;
        if bytes_max > room {
            assert!(may_roll, "the first record is larger than a segment");
            self.roll(segment::RECORDS_BEGIN + bytes_max)?;
        }
        let active = self.segments.last_mut().expect("a log has a segment");
        let (hard_state, commit_index) = (self.hard_state, self.commit_index);
        let content = rules.record(&self.pending, hard_state, commit_index, self.next_record, self.previous);
        let crc = format::encode_record(&content, self.end, active.salt, &mut self.buffer);
        active.file.write_at(&self.buffer, self.end).map_err(StorageError::disk("write", &active.path))?;
        rules.flush(&active.file).map_err(StorageError::disk("fdatasync", &active.path))?;
        active.note(self.hard_state, self.pending.truncate_from);
        let stats = FlushStats { entries: self.pending.entries.len(), bytes: self.buffer.len() };
        if let Some(first) = self.pending.entries.first() {
            let segment = u32::try_from(active.sequence).expect("fewer segments than that");
            let offset = u32::try_from(self.end).expect("segments are below 4 GiB");
            self.positions.place(RecordPlace { first: first.index, segment, offset });
        }
        self.end = (self.end + self.buffer.len() as u64).next_multiple_of(ALIGNMENT as u64);
        self.next_record += 1;
        self.previous = crc;
        self.readable = self.positions.last.index;
        let time = self.pending.entries.iter().map(|entry| entry.time).fold(self.flushed.time, LogTime::max);
        self.flushed = Flushed { last: self.positions.last, hard_state: self.hard_state, time };
        self.pending.is_needed = false;
        self.pending.truncate_from = None;
        self.pending.entries.clear();
        Ok(stats)
    }

    /// Goes on in a new segment of at least `bytes`. All before is durable, or this would not be called.
    fn roll(&mut self, bytes: u64) -> Result<(), StorageError> {
        let segment = self.start_segment(&self.next_header(), bytes)?;
        self.enter(segment);
        Ok(())
    }

    /// A segment of at least `bytes`, durably the log's newest.
    fn start_segment(&self, header: &SegmentHeader, bytes: u64) -> Result<Segment<F::File>, StorageError> {
        let whole = bytes.max(u64::from(self.options.segment_bytes));
        let small = bytes.max(SMALL_SEGMENT_BYTES);
        let start = |bytes| segment::start(&self.files, &self.directory, header, bytes);
        let segment = match start(whole) {
            // A node that takes no more entries still has votes to record, and they need little.
            Err(error) if error.is_full() && small < whole => start(small)?,
            started => started?,
        };
        segment::publish(&self.files, &self.directory, &segment)?;
        newest::advance(&self.files, &self.directory, self.active().sequence, segment.sequence)?;
        Ok(segment)
    }

    /// The header of a segment that continues where the flushed part ends.
    fn next_header(&self) -> SegmentHeader {
        SegmentHeader {
            owner: self.owner,
            sequence: self.active().sequence + 1,
            record: self.next_record,
            begins_anew: false,
            before: self.flushed.last,
            time: self.flushed.time,
            hard_state: self.flushed.hard_state,
            commit_index: self.commit_index,
            previous: self.previous,
        }
    }

    /// Goes on in a published segment.
    fn enter(&mut self, segment: Segment<F::File>) {
        self.previous = segment.salt;
        self.end = segment::RECORDS_BEGIN;
        self.segments.push(segment);
        self.preparation_taken = false;
    }
}

/// Clears a torn tail, and makes sure that the last record is on the disk and not only in the kernel's memory.
///
/// The tail's first record keeps its place in the chain of "torn, then cut": its head goes last. Were it cleared
/// from the front and the clearing itself cut short, what is left would look like a record that was changed.
fn settle<H: File>(scan: &Scan<H>) -> Result<(), StorageError> {
    let last = scan.segments.last().expect("a log has a segment");
    let sync = || last.file.sync_data().map_err(StorageError::disk("fdatasync", &last.path));
    if !scan.to_clear.is_empty() {
        // From the head's last byte on: zero, it marks the record as torn.
        let head_end = scan.to_clear.start + format::header_bytes(scan.to_clear.start) as u64 - 1;
        let behind = head_end.min(scan.to_clear.end);
        clear(last, behind..scan.to_clear.end)?;
        sync()?;
        clear(last, scan.to_clear.start..behind)?;
    }
    let from = scan.last_record.unwrap_or(0);
    let mut again = vec![0; usize::try_from(scan.end - from).expect("it was in memory")];
    last.file.read_at(&mut again, from).map_err(StorageError::disk("read", &last.path))?;
    last.file.write_at(&again, from).map_err(StorageError::disk("write", &last.path))?;
    sync()
}

/// Writes zeros.
fn clear<H: File>(segment: &Segment<H>, range: std::ops::Range<u64>) -> Result<(), StorageError> {
    const CLEAR_BYTES: u64 = 256 << 10;
    let mut at = range.start;
    while at < range.end {
        let bytes = CLEAR_BYTES.min(range.end - at);
        let zeros = vec![0; usize::try_from(bytes).expect("small")];
        segment.file.write_at(&zeros, at).map_err(StorageError::disk("write", &segment.path))?;
        at += bytes;
    }
    Ok(())
}
