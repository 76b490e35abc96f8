//! Reading entries back while the log runs: for followers that lag, and for the start.

use super::Wal;
use super::format::{self, Found, Record};
use super::positions::RecordPlace;
use super::segment::Segment;
use crate::raft::Entry;
use crate::storage::files::{File, Files};
use crate::storage::{Damage, StorageError};
use crate::types::LogIndex;

impl<F: Files> Wal<F> {
    /// Reads flushed entries from `from` to `through`, fewer if `bytes_max` is reached (by
    /// [`Entry::size_bytes`]; one is always given) or the log ends before. Checksums are verified again.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], [`StorageError::Disk`], [`StorageError::BeforeLog`],
    /// [`StorageError::Poisoned`].
    pub fn read(
        &self,
        from: LogIndex,
        through: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.check_poison()?;
        let through = through.min(self.readable);
        if from < self.first_index() {
            return Err(StorageError::BeforeLog { index: from, first: self.first_index() });
        }
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, from);
        let mut window = Window::default();
        let mut at = self.positions.places.partition_point(|place| place.first <= from).saturating_sub(1);
        while next <= through {
            let place = self.positions.places[at];
            at += 1;
            let last = self.positions.places.get(at).map_or(through, |next| next.first.prev().min(through));
            let record = self.read_record(place, &mut window)?;
            for view in record.entries() {
                let view = view.ok_or_else(|| self.damage(place, "an entry reaches beyond its record"))?;
                if view.position.index < next || view.position.index > last {
                    continue;
                }
                let entry = view.to_entry().map_err(|error| self.damage(place, error.to_string()))?;
                if !entries.is_empty() && bytes + entry.size_bytes() > bytes_max {
                    return Ok(entries);
                }
                bytes += entry.size_bytes();
                next = next.next();
                entries.push(entry);
            }
            if next <= last {
                return Err(self.damage(place, "the record lacks entries"));
            }
        }
        Ok(entries)
    }

    fn read_record(&self, place: RecordPlace, window: &mut Window) -> Result<Box<Record>, StorageError> {
        let segment = self.segment(place);
        let offset = u64::from(place.offset);
        let bytes = window.load(segment, place, 0)?;
        let found = match format::record_length(bytes, offset, segment.salt) {
            Some(length) => {
                let bytes = window.load(segment, place, length)?;
                format::find_record(bytes, offset, segment.salt)
            }
            None => Found::Nothing,
        };
        match found {
            Found::Record(record) => Ok(record),
            Found::Nothing | Found::Torn => Err(self.damage(place, "the record is gone")),
            Found::Changed(what) => Err(self.damage(place, what)),
        }
    }

    fn segment(&self, place: RecordPlace) -> &Segment<F::File> {
        let first = self.segments[0].sequence;
        let at = u64::from(place.segment).checked_sub(first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.segments.get(at)).expect("places are of segments that the log has")
    }

    fn damage(&self, place: RecordPlace, what: impl Into<String>) -> StorageError {
        StorageError::Damaged(Damage {
            path: self.segment(place).path.clone(),
            offset: Some(u64::from(place.offset)),
            index: Some(place.first),
            what: what.into(),
        })
    }
}

/// A stretch of a segment, read ahead so that many small records cost few system calls.
#[derive(Default)]
struct Window {
    segment: u32,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The segment's bytes from `place` on: at least `length` and enough for a record's head, unless the
    /// segment ends before.
    fn load<H: File>(
        &mut self,
        segment: &Segment<H>,
        place: RecordPlace,
        length: usize,
    ) -> Result<&[u8], StorageError> {
        const HEAD_BYTES: u64 = 128;
        const AHEAD_BYTES: u64 = 64 << 10;
        let offset = u64::from(place.offset);
        let rest = segment.bytes - offset;
        let needed = (length as u64).max(HEAD_BYTES).min(rest);
        let is_loaded = self.segment == place.segment
            && self.start <= offset
            && offset + needed <= self.start + self.bytes.len() as u64;
        if !is_loaded {
            let bytes = usize::try_from(needed.max(AHEAD_BYTES).min(rest)).expect("segments fit into memory");
            self.bytes.resize(bytes, 0);
            segment
                .file
                .read_at(&mut self.bytes, offset)
                .map_err(StorageError::disk("read", &segment.path))?;
            self.segment = place.segment;
            self.start = offset;
        }
        let skip = usize::try_from(offset - self.start).expect("within the window");
        Ok(&self.bytes[skip..])
    }
}
