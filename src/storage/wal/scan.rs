//! Reads a whole log forward and says what it holds, where it ends, and whether it can be trusted.
//! Changes nothing: opening a log and inspecting one share this.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{
    ALIGNMENT, EntryView, Found, HEADER_BLOCK_BYTES, HeaderError, NUMBER_MAX, Record, SegmentHeader,
    any_record_behind, find_record, used_behind,
};
use super::positions::{Positions, RecordPlace};
use super::segment::{self, Segment};
use super::{Owner, Recovered, TornTail, newest};
use crate::raft::{Configuration, EntryKind, HardState};
use crate::storage::files::{File, Files};
use crate::storage::{Damage, StorageError};
use crate::types::{LogIndex, LogTime};

/// Everything that reading a log forward tells.
pub(super) struct Scan<H> {
    pub(super) owner: Owner,
    pub(super) segments: Vec<Segment<H>>,
    pub(super) positions: Positions,
    pub(super) hard_state: HardState,
    pub(super) commit_index: LogIndex,
    /// The highest time stamp of the entries.
    pub(super) time: LogTime,
    pub(super) configurations: Vec<(LogIndex, Arc<Configuration>)>,
    /// Where the next record goes in the last segment.
    pub(super) end: u64,
    /// Offset of the last segment's last record.
    pub(super) last_record: Option<u64>,
    /// Number of the next record.
    pub(super) next_record: u64,
    /// Checksum of the last record, or of the segment header behind it.
    pub(super) previous: u32,
    pub(super) torn_tail: Option<TornTail>,
    /// Segments that are not part of the log any more, the oldest first.
    pub(super) void: Vec<PathBuf>,
    /// A truncation reached back beyond where the log begins, so it must begin with a later segment, or is damaged
    /// as this says.
    headless: Option<StorageError>,
    /// What stands behind `end` in the last segment, up to the last byte that is not zero.
    pub(super) to_clear: std::ops::Range<u64>,
}

/// A record and where it stands.
pub(super) struct Seen<'a> {
    pub(super) path: &'a Path,
    pub(super) offset: u64,
    pub(super) record: &'a Record,
}

/// Reads the log in `directory`; `owner`, if given, is whose it must be.
pub(super) fn scan<F: Files>(
    files: &F,
    directory: &Path,
    owner: Option<Owner>,
    see: &mut dyn FnMut(&Seen<'_>),
) -> Result<Scan<F::File>, StorageError> {
    let names = files.list(directory).map_err(StorageError::disk("list", directory))?;
    let all = segment::sequences(&names);
    let (void, sequences) = all.split_at(first_that_counts(files, directory, &all)?);
    let Some((first, last)) = sequences.first().zip(sequences.last()) else {
        return Err(StorageError::damaged(directory, "the log has no segments"));
    };
    if let Some(missing) = (*first..*last).find(|sequence| sequences.binary_search(sequence).is_err()) {
        let path = directory.join(segment::name(missing));
        return Err(StorageError::damaged(&path, "this segment of the log is missing"));
    }
    newest::check(directory, &names, *last)?;
    let mut scan = None;
    let mut content = Vec::new();
    for sequence in sequences {
        let path = directory.join(segment::name(*sequence));
        let file = files.open_read_only(&path).map_err(StorageError::disk("open", &path))?;
        let bytes = file.size_bytes().map_err(StorageError::disk("stat", &path))?;
        content.clear();
        content.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
        file.read_at(&mut content, 0).map_err(StorageError::disk("read", &path))?;
        let (header, salt) = decode_header(&path, &content)?;
        if header.sequence != *sequence || u32::try_from(*sequence).is_err() {
            return Err(damage(&path, 0, None, format!("the header is that of segment {}", header.sequence)));
        }
        let segment = Segment::new(path, file, bytes, &header, salt);
        check_owner(&segment.path, header.owner, owner)?;
        let state = Scan::enter(&mut scan, segment, &header)?;
        state.read_records(&content, sequence == last, see)?;
    }
    let mut scan = scan.expect("there is at least one segment");
    if let Some(damage) = scan.headless {
        return Err(damage);
    }
    let void = void.iter().map(|sequence| directory.join(segment::name(*sequence)));
    scan.void.splice(..0, void);
    Ok(scan)
}

/// Where in `sequences` the newest segment stands that says that the log begins with it; 0 if none does. Headers that
/// cannot be read say nothing here: reading the log finds them.
fn first_that_counts<F: Files>(
    files: &F,
    directory: &Path,
    sequences: &[u64],
) -> Result<usize, StorageError> {
    for (at, sequence) in sequences.iter().enumerate().rev() {
        let path = directory.join(segment::name(*sequence));
        let file = files.open_read_only(&path).map_err(StorageError::disk("open", &path))?;
        let bytes = file.size_bytes().map_err(StorageError::disk("stat", &path))?;
        if bytes < HEADER_BLOCK_BYTES as u64 {
            continue;
        }
        let mut block = vec![0; HEADER_BLOCK_BYTES];
        file.read_at(&mut block, 0).map_err(StorageError::disk("read", &path))?;
        if let Ok((header, _)) = SegmentHeader::decode(&block)
            && header.begins_anew
            && header.sequence == *sequence
        {
            return Ok(at);
        }
    }
    Ok(0)
}

fn decode_header(path: &Path, content: &[u8]) -> Result<(SegmentHeader, u32), StorageError> {
    match SegmentHeader::decode(&content[..content.len().min(HEADER_BLOCK_BYTES)]) {
        Ok(_) if content.len() < HEADER_BLOCK_BYTES => {
            Err(StorageError::damaged(path, "the segment is shorter than its header"))
        }
        Ok(decoded) => Ok(decoded),
        Err(HeaderError::Damaged(what)) => Err(damage(path, 0, None, what)),
        Err(HeaderError::Format(found)) => {
            Err(StorageError::Format { path: path.to_owned(), found, supported: super::format::FORMAT })
        }
    }
}

fn check_owner(path: &Path, found: Owner, expected: Option<Owner>) -> Result<(), StorageError> {
    match expected {
        Some(expected) if expected != found => Err(StorageError::Identity {
            path: path.to_owned(),
            what: format!("the log is of {found}, the directory of {expected}"),
        }),
        _ => Ok(()),
    }
}

fn damage(path: &Path, offset: u64, index: Option<LogIndex>, what: impl Into<String>) -> StorageError {
    StorageError::Damaged(Damage { path: path.to_owned(), offset: Some(offset), index, what: what.into() })
}

impl<H> Scan<H> {
    /// Goes on with the next segment, whose header must continue what came before.
    fn enter<'a>(
        scan: &'a mut Option<Self>,
        segment: Segment<H>,
        header: &SegmentHeader,
    ) -> Result<&'a mut Self, StorageError> {
        let path = segment.path.clone();
        let salt = segment.salt;
        let Some(state) = scan else {
            let state = Self::begin(segment, header);
            return Ok(scan.insert(state));
        };
        let continues = header.owner == state.owner
            && header.record == state.next_record
            && header.previous == state.previous
            && header.hard_state == state.hard_state
            && (header.before == state.positions.last || state.headless.is_some());
        if !continues {
            let end = state.end;
            let before = state.segments.last().map_or(path.clone(), |segment| segment.path.clone());
            let what = format!(
                "records are missing at the end of this segment: the next one begins with record {} behind entry {}",
                header.record, header.before
            );
            return Err(damage(&before, end, Some(state.positions.last.index.next()), what));
        }
        if state.headless.take().is_some() {
            state.void.extend(state.segments.drain(..).map(|segment| segment.path));
            state.positions = Positions::begin(header.before);
            state.commit_index = state.commit_index.max(header.before.index);
            state.time = state.time.max(header.time);
            state.configurations.clear();
        }
        state.segments.push(segment);
        state.previous = salt;
        state.end = segment::RECORDS_BEGIN;
        state.last_record = None;
        Ok(state)
    }

    /// The segment that records are added to.
    pub(super) fn active_mut(&mut self) -> &mut Segment<H> {
        self.segments.last_mut().expect("a log has a segment")
    }

    /// What the opener of the log must know.
    pub(super) fn recovered(&self) -> Recovered {
        Recovered {
            hard_state: self.hard_state,
            commit_index: self.commit_index.min(self.positions.last.index),
            before: self.positions.before,
            last: self.positions.last,
            time: self.time,
            runs: self.positions.runs.clone(),
            configurations: self.configurations.clone(),
            torn_tail: self.torn_tail.clone(),
        }
    }

    fn begin(segment: Segment<H>, header: &SegmentHeader) -> Self {
        Self {
            owner: header.owner,
            positions: Positions::begin(header.before),
            hard_state: header.hard_state,
            // What a log no longer holds was committed.
            commit_index: header.commit_index.max(header.before.index),
            time: header.time,
            configurations: Vec::new(),
            void: Vec::new(),
            headless: None,
            end: segment::RECORDS_BEGIN,
            last_record: None,
            next_record: header.record,
            previous: segment.salt,
            torn_tail: None,
            to_clear: 0..0,
            segments: vec![segment],
        }
    }

    fn read_records(
        &mut self,
        content: &[u8],
        is_last: bool,
        see: &mut dyn FnMut(&Seen<'_>),
    ) -> Result<(), StorageError> {
        let segment = self.segments.last().expect("entered");
        let (path, salt) = (segment.path.clone(), segment.salt);
        loop {
            let at = usize::try_from(self.end).expect("within the content").min(content.len());
            match find_record(&content[at..], self.end, salt) {
                Found::Record(record) => {
                    self.take(&path, &record)?;
                    see(&Seen { path: &path, offset: self.end, record: &record });
                    self.last_record = Some(self.end);
                    let end = at + record.header.bytes as usize;
                    self.end = end.next_multiple_of(ALIGNMENT) as u64;
                }
                Found::Changed(what) => return Err(self.damage_here(&path, what)),
                Found::Torn if !is_last => return Err(self.damage_here(&path, "an incomplete record")),
                Found::Nothing | Found::Torn => return self.end_here(&path, content, at, is_last, salt),
            }
        }
    }

    fn damage_here(&self, path: &Path, what: impl Into<String>) -> StorageError {
        damage(path, self.end, Some(self.positions.last.index.next()), what)
    }

    /// No complete record is at `at`. What lies behind distinguishes the end of the log from lost records.
    fn end_here(
        &mut self,
        path: &Path,
        content: &[u8],
        at: usize,
        is_last: bool,
        salt: u32,
    ) -> Result<(), StorageError> {
        let used = used_behind(content, at);
        if used.is_empty() || !is_last {
            // In an earlier segment the next header proves whether this is the end.
            return Ok(());
        }
        if let Some(behind) = any_record_behind(&content[..used.end], at + ALIGNMENT, salt) {
            let what = format!("no whole record, although one stands behind it at byte {behind}");
            return Err(self.damage_here(path, what));
        }
        self.to_clear = used.start as u64..used.end as u64;
        self.torn_tail = Some(TornTail {
            path: PathBuf::from(path),
            offset: self.end,
            bytes: (used.end - used.start) as u64,
            after: self.positions.last,
        });
        Ok(())
    }

    /// Takes a whole record into account.
    fn take(&mut self, path: &Path, record: &Record) -> Result<(), StorageError> {
        let header = &record.header;
        if header.number != self.next_record || header.previous != self.previous {
            let what = format!("record {} follows record {}", header.number, self.next_record - 1);
            return Err(self.damage_here(path, what));
        }
        if header.truncate_from.is_some_and(|from| from <= self.positions.before.index) {
            let what = format!(
                "a truncation from {} in a log that begins behind {}",
                header.truncate_from.unwrap_or_default(),
                self.positions.before
            );
            self.headless.get_or_insert(damage(path, self.end, None, what));
        }
        if self.headless.is_none() {
            self.take_entries(path, record)?;
        }
        let segment = self.segments.last_mut().expect("entered");
        segment.note(header.hard_state, header.truncate_from);
        self.hard_state = header.hard_state;
        self.commit_index = self.commit_index.max(header.commit_index);
        self.next_record += 1;
        self.previous = record.crc;
        Ok(())
    }

    /// Takes a record's truncation and entries into account.
    fn take_entries(&mut self, path: &Path, record: &Record) -> Result<(), StorageError> {
        let header = &record.header;
        if let Some(from) = header.truncate_from {
            if !self.positions.can_truncate(from) {
                let what = format!("a truncation from {from} in a log that ends at {}", self.positions.last);
                return Err(self.damage_here(path, what));
            }
            self.positions.truncate(from);
            self.configurations.retain(|(index, _)| *index < from);
        }
        for entry in record.entries() {
            let fits = |entry: &EntryView<'_>| {
                self.positions.can_follow(entry.position)
                    && entry.position.term.0 < NUMBER_MAX
                    && entry.time.0 < NUMBER_MAX
            };
            let Some(entry) = entry.filter(fits) else {
                return Err(self.damage_here(path, "an entry out of order"));
            };
            self.positions.push(entry.position);
            self.time = self.time.max(entry.time);
            if entry.kind == EntryKind::Configuration as u8 {
                let configuration = Configuration::decode(entry.data)
                    .map_err(|error| self.damage_here(path, format!("a configuration: {error}")))?;
                self.configurations.push((entry.position.index, Arc::new(configuration)));
            }
        }
        if header.entries > 0 {
            let sequence = self.segments.last().expect("entered").sequence;
            let segment = u32::try_from(sequence).expect("checked as it was opened");
            let offset = u32::try_from(self.end).expect("segments are below 4 GiB");
            self.positions.place(RecordPlace { first: header.first, segment, offset });
        }
        Ok(())
    }
}
