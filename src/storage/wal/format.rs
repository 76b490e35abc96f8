//! Bytes of a segment: its header, its records, and the marks that tell "never written" from "changed".
//!
//! All integers are little-endian. A segment is a 4 KiB header block, then records, each at a multiple of 8,
//! then zeros. Every 512th byte of the record area is a mark and belongs to no field: see [`Marked`].

use std::ops::Range;

use bytes::Bytes;
use crc32c::crc32c_append;

use super::Owner;
use crate::raft::{Entry, HardState, Payload};
use crate::types::{ClusterId, LogIndex, LogPosition, LogTime, NodeId, Term};

/// Where records begin.
pub(super) const HEADER_BLOCK_BYTES: usize = 4096;
/// Newest format that this version reads, and the one it writes.
pub(super) const FORMAT: u32 = 2;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

/// Record numbers, indexes, terms and times lie below this, so that counting on from them cannot overflow.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

const SEGMENT_MAGIC: &[u8; 8] = b"kuberaft";
const SEGMENT_HEADER_BYTES: usize = 120;
/// Flags of a segment header.
const HAS_VOTE: u32 = 1;
const BEGINS_ANEW: u32 = 2;
const RECORD_MAGIC: u32 = 0x4352_424b;
const RECORD_HEADER_BYTES: usize = 80;
const ENTRY_HEADER_BYTES: usize = 21;
/// Smallest unit that a disk writes as a whole.
const SECTOR_BYTES: usize = 512;
/// Never zero, and further than one bit from zero.
const MARK: u8 = 0xa5;

/// What the first block of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Whose log this is.
    pub(super) owner: Owner,
    /// The segment's number, as in its name.
    pub(super) sequence: u64,
    /// Number of its first record.
    pub(super) record: u64,
    /// The log begins with this segment: all before it are void.
    pub(super) begins_anew: bool,
    /// Last entry of the log before this segment.
    pub(super) before: LogPosition,
    /// The highest time stamp of any entry before this segment.
    pub(super) time: LogTime,
    /// Hard state when it was made.
    pub(super) hard_state: HardState,
    /// Commit index when it was made; a hint.
    pub(super) commit_index: LogIndex,
    /// Checksum of the record, or else the segment header, before this.
    pub(super) previous: u32,
}

/// Bytes that are no segment header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Not what was written.
    Damaged(&'static str),
    /// Written by a newer version.
    Format(u32),
}

impl SegmentHeader {
    /// The header's bytes and its checksum, which begins the chain of the segment's records.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        bytes.extend_from_slice(SEGMENT_MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        let vote = if self.hard_state.voted_for.is_some() { HAS_VOTE } else { 0 };
        let anew = if self.begins_anew { BEGINS_ANEW } else { 0 };
        bytes.extend_from_slice(&(vote | anew).to_le_bytes());
        let voted_for = self.hard_state.voted_for.map_or(0, |id| id.0);
        for field in [
            self.owner.node_id.0,
            self.owner.cluster_id.0,
            self.sequence,
            self.record,
            self.before.index.0,
            self.before.term.0,
            self.time.0,
            self.hard_state.term.0,
            voted_for,
            self.commit_index.0,
            u64::from(self.previous),
        ] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c_append(0, &bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// The reverse of [`SegmentHeader::encode`].
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u32), HeaderError> {
        let mut fields = Fields(bytes);
        let magic = fields.take(8).ok_or(HeaderError::Damaged("too short for a segment header"))?;
        if magic != SEGMENT_MAGIC {
            return Err(HeaderError::Damaged("not a log segment"));
        }
        let decoded = Self::decode_fields(&mut fields);
        let covered = bytes.len() - fields.0.len();
        let crc = crc32c_append(0, &bytes[..covered]);
        match (decoded, fields.u32()) {
            (Some((FORMAT, header)), Some(stored)) if stored == crc && header.is_possible() => {
                Ok((header, crc))
            }
            (Some((FORMAT, _)), Some(stored)) if stored == crc => {
                Err(HeaderError::Damaged("a number in the segment header that no log has"))
            }
            (Some((format, _)), Some(stored)) if stored == crc => Err(HeaderError::Format(format)),
            _ => Err(HeaderError::Damaged("bad checksum of the segment header")),
        }
    }

    /// Whether one can count on from its numbers.
    fn is_possible(&self) -> bool {
        let Self { record, before, time, hard_state, commit_index, .. } = self;
        let numbers = [*record, before.index.0, before.term.0, time.0, hard_state.term.0, commit_index.0];
        numbers.iter().all(|number| *number < NUMBER_MAX)
    }

    fn decode_fields(fields: &mut Fields<'_>) -> Option<(u32, Self)> {
        let format = fields.u32()?;
        let flags = fields.u32()?;
        let (voted, begins_anew) = (flags & HAS_VOTE != 0, flags & BEGINS_ANEW != 0);
        let owner = Owner { node_id: NodeId(fields.u64()?), cluster_id: ClusterId(fields.u64()?) };
        let (sequence, record) = (fields.u64()?, fields.u64()?);
        let before = LogPosition { index: LogIndex(fields.u64()?), term: Term(fields.u64()?) };
        let time = LogTime(fields.u64()?);
        let term = Term(fields.u64()?);
        let voted_for = NodeId(fields.u64()?);
        let hard_state = HardState { term, voted_for: voted.then_some(voted_for) };
        let commit_index = LogIndex(fields.u64()?);
        let previous = u32::try_from(fields.u64()?).ok()?;
        let header =
            Self { owner, sequence, record, begins_anew, before, time, hard_state, commit_index, previous };
        Some((format, header))
    }
}

/// The head of one record: everything but its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// Bytes in the file from the record's start to its end mark.
    pub(super) bytes: u32,
    /// Rises by one through all segments.
    pub(super) number: u64,
    /// Term and vote.
    pub(super) hard_state: HardState,
    /// Commit index as known when written.
    pub(super) commit_index: LogIndex,
    /// Entries from here on are dropped before this record's are added.
    pub(super) truncate_from: Option<LogIndex>,
    /// Index of the first entry; 0 if there is none.
    pub(super) first: LogIndex,
    /// Number of entries.
    pub(super) entries: u32,
    /// Checksum of the record, or else the segment header, before this: the chain.
    pub(super) previous: u32,
    /// Checksum of what follows the header, marks included.
    pub(super) body_crc: u32,
}

/// What a record holds besides its entries; the rest is where it goes.
pub(super) struct RecordContent<'a> {
    pub(super) number: u64,
    pub(super) hard_state: HardState,
    pub(super) commit_index: LogIndex,
    pub(super) truncate_from: Option<LogIndex>,
    pub(super) entries: &'a [Entry],
    pub(super) previous: u32,
}

/// Upper bound of a record's bytes in the file, or `None` if it cannot be stored.
pub(super) fn record_bytes_max(entries: &[Entry]) -> Option<usize> {
    let body: usize = entries.iter().map(|entry| ENTRY_HEADER_BYTES + entry.payload.data().len()).sum();
    let content = RECORD_HEADER_BYTES + body + 1;
    let bytes = content + content / (SECTOR_BYTES - 1) + 1 + ALIGNMENT;
    u32::try_from(bytes).is_ok().then_some(bytes)
}

/// Replaces `buffer` by the record's bytes for file offset `offset`; returns the record's checksum.
pub(super) fn encode_record(
    content: &RecordContent<'_>,
    offset: u64,
    salt: u32,
    buffer: &mut Vec<u8>,
) -> u32 {
    let mut out = Marked::begin(std::mem::take(buffer), offset);
    out.put(&[0; RECORD_HEADER_BYTES]);
    let body = out.bytes.len();
    for entry in content.entries {
        let data = entry.payload.data();
        out.put(&entry.term.0.to_le_bytes());
        out.put(&entry.time.0.to_le_bytes());
        out.put(&[entry.payload.kind() as u8]);
        out.put(&length(data.len()).to_le_bytes());
        out.put(&data);
    }
    out.put_end_mark();
    let header = RecordHeader {
        bytes: length(out.bytes.len()),
        number: content.number,
        hard_state: content.hard_state,
        commit_index: content.commit_index,
        truncate_from: content.truncate_from,
        first: content.entries.first().map_or(LogIndex(0), |entry| entry.index),
        entries: length(content.entries.len()),
        previous: content.previous,
        body_crc: crc32c_append(0, &out.bytes[body..]),
    };
    let (bytes, crc) = header.encode(offset, salt);
    out.bytes[..bytes.len()].copy_from_slice(&bytes);
    *buffer = out.bytes;
    crc
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("records are limited by `record_bytes_max`")
}

impl RecordHeader {
    /// The header as it stands in the file at `offset`, and its checksum. The checksum covers the place
    /// (`salt` is the segment's, random by its node id), so that a copy elsewhere is not taken for a record.
    fn encode(&self, offset: u64, salt: u32) -> (Vec<u8>, u32) {
        let mut fields = Vec::with_capacity(RECORD_HEADER_BYTES);
        fields.extend_from_slice(&RECORD_MAGIC.to_le_bytes());
        fields.extend_from_slice(&self.bytes.to_le_bytes());
        for field in [
            self.number,
            self.hard_state.term.0,
            self.hard_state.voted_for.map_or(0, |id| id.0),
            self.commit_index.0,
            self.truncate_from.map_or(0, |index| index.0),
            self.first.0,
        ] {
            fields.extend_from_slice(&field.to_le_bytes());
        }
        let voted = u32::from(self.hard_state.voted_for.is_some());
        for field in [self.entries, self.previous, self.body_crc, voted] {
            fields.extend_from_slice(&field.to_le_bytes());
        }
        let crc = header_crc(&fields, offset, salt);
        fields.extend_from_slice(&crc.to_le_bytes());
        fields.extend_from_slice(&[MARK; 4]);
        let mut out = Marked::begin(Vec::with_capacity(RECORD_HEADER_BYTES + 1), offset);
        out.put(&fields);
        (out.bytes, crc)
    }

    fn decode(fields: &[u8], offset: u64, salt: u32) -> Option<(Self, u32)> {
        let covered = RECORD_HEADER_BYTES - 8;
        let crc = header_crc(&fields[..covered], offset, salt);
        let mut fields = Fields(fields);
        if fields.u32()? != RECORD_MAGIC {
            return None;
        }
        let (bytes, number) = (fields.u32()?, fields.u64()?);
        let (term, voted_for) = (Term(fields.u64()?), NodeId(fields.u64()?));
        let commit_index = LogIndex(fields.u64()?);
        let truncate_from = Some(LogIndex(fields.u64()?)).filter(|index| index.0 > 0);
        let first = LogIndex(fields.u64()?);
        let (entries, previous, body_crc) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let voted = fields.u32()? != 0;
        let hard_state = HardState { term, voted_for: voted.then_some(voted_for) };
        let ends = fields.u32()? == crc && fields.take(4)? == [MARK; 4];
        let header = Self {
            bytes,
            number,
            hard_state,
            commit_index,
            truncate_from,
            first,
            entries,
            previous,
            body_crc,
        };
        let numbers = [number, term.0, commit_index.0, first.0, truncate_from.unwrap_or_default().0];
        let is_possible = numbers.iter().all(|number| *number < NUMBER_MAX);
        (ends && is_possible).then_some((header, crc))
    }
}

fn header_crc(fields: &[u8], offset: u64, salt: u32) -> u32 {
    crc32c_append(crc32c_append(salt, &offset.to_le_bytes()), fields)
}

/// What stands at a place where a record may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole record.
    Record(Box<Record>),
    /// Zeros, or too little room for a record.
    Nothing,
    /// A record of which some sector was never wholly written: a write that the crash cut short.
    Torn,
    /// Every sector was written, and yet it is not what was written.
    Changed(&'static str),
}

/// A whole record with a good checksum.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) header: RecordHeader,
    /// The header's checksum: what the next record must name as the one before.
    pub(super) crc: u32,
    /// The entries, encoded, without marks.
    body: Vec<u8>,
}

/// An entry in a record's body.
pub(super) struct EntryView<'a> {
    pub(super) position: LogPosition,
    pub(super) time: LogTime,
    pub(super) kind: u8,
    pub(super) data: &'a [u8],
}

impl EntryView<'_> {
    /// The entry, with memory of its own.
    pub(super) fn to_entry(&self) -> Result<Entry, crate::raft::PayloadError> {
        let payload = Payload::from_parts(self.kind, Bytes::copy_from_slice(self.data))?;
        let LogPosition { index, term } = self.position;
        Ok(Entry { term, index, time: self.time, payload })
    }
}

impl Record {
    /// The entries in order; `None` in place of one that the body has no room for.
    pub(super) fn entries(&self) -> impl Iterator<Item = Option<EntryView<'_>>> {
        let mut fields = Fields(&self.body);
        (0..u64::from(self.header.entries)).map(move |i| {
            let index = LogIndex(self.header.first.0 + i);
            let term = Term(fields.u64()?);
            let time = LogTime(fields.u64()?);
            let kind = fields.take(1)?[0];
            let bytes = fields.u32()? as usize;
            let position = LogPosition { index, term };
            Some(EntryView { position, time, kind, data: fields.take(bytes)? })
        })
    }
}

/// Bytes of the file that a record header at `offset` takes.
pub(super) fn header_bytes(offset: u64) -> usize {
    let in_sector = sector_offset(offset);
    RECORD_HEADER_BYTES + usize::from(in_sector + RECORD_HEADER_BYTES >= SECTOR_BYTES - 1)
}

/// The length that a record at the start of `bytes` (from file offset `offset`) claims, if its header is good.
pub(super) fn record_length(bytes: &[u8], offset: u64, salt: u32) -> Option<usize> {
    if bytes.get(..4)? != RECORD_MAGIC.to_le_bytes() {
        return None;
    }
    let head = bytes.get(..header_bytes(offset))?;
    let fields = strip_marks(head, offset)?;
    RecordHeader::decode(&fields, offset, salt).map(|(header, _)| header.bytes as usize)
}

/// Looks for a record at the start of `bytes`, which are those of the file from `offset` to the segment's end.
pub(super) fn find_record(bytes: &[u8], offset: u64, salt: u32) -> Found {
    let head_bytes = header_bytes(offset);
    let Some(head) = bytes.get(..head_bytes) else { return Found::Nothing };
    if head.iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    let Some((header, crc)) =
        strip_marks(head, offset).and_then(|fields| RecordHeader::decode(&fields, offset, salt))
    else {
        return if has_gap(head, offset) {
            Found::Torn
        } else {
            Found::Changed("bad checksum of a record's head")
        };
    };
    let Some(whole) = bytes.get(..header.bytes as usize) else {
        return Found::Changed("a record reaches beyond the segment's end");
    };
    let Some(body) = whole.get(head_bytes..).filter(|body| !body.is_empty()) else {
        return Found::Changed("a record is shorter than its head");
    };
    if crc32c_append(0, body) != header.body_crc {
        return if has_gap(whole, offset) { Found::Torn } else { Found::Changed("bad checksum of a record") };
    }
    match strip_marks(&body[..body.len() - 1], offset + head_bytes as u64) {
        Some(body) => Found::Record(Box::new(Record { header, crc, body })),
        None => Found::Changed("a sector mark is missing"),
    }
}

/// Whether a good record head stands anywhere at or behind `from`.
pub(super) fn any_record_behind(segment: &[u8], from: usize, salt: u32) -> Option<u64> {
    let first = from.next_multiple_of(ALIGNMENT);
    (first..segment.len()).step_by(ALIGNMENT).map(|at| at as u64).find(|at| {
        record_length(&segment[usize::try_from(*at).expect("within a slice")..], *at, salt).is_some()
    })
}

/// The part of `segment` from `from` on that is not zero, up to the last such byte.
pub(super) fn used_behind(segment: &[u8], from: usize) -> Range<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut end = segment.len();
    for chunk in segment[from..].rchunks(ZEROS.len()) {
        if chunk != &ZEROS[..chunk.len()] {
            let used = chunk.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            return from..end - chunk.len() + used;
        }
        end -= chunk.len();
    }
    from..from
}

/// Whether some sector of `bytes`, which are one record's from its start to its end mark, lacks its last byte.
fn has_gap(bytes: &[u8], offset: u64) -> bool {
    let first_mark = SECTOR_BYTES - 1 - sector_offset(offset);
    bytes.last() == Some(&0) || bytes.iter().skip(first_mark).step_by(SECTOR_BYTES).any(|mark| *mark == 0)
}

/// The content without marks; `None` if one of them is wrong.
fn strip_marks(bytes: &[u8], offset: u64) -> Option<Vec<u8>> {
    let mut content = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut room = SECTOR_BYTES - 1 - sector_offset(offset);
    while rest.len() > room {
        content.extend_from_slice(&rest[..room]);
        if rest[room] != MARK {
            return None;
        }
        rest = &rest[room + 1..];
        room = SECTOR_BYTES - 1;
    }
    content.extend_from_slice(rest);
    Some(content)
}

fn sector_offset(offset: u64) -> usize {
    usize::try_from(offset % SECTOR_BYTES as u64).expect("below 512")
}

/// Bytes on their way into a file at a known offset, with a mark as the last byte of every sector.
struct Marked {
    bytes: Vec<u8>,
    offset_in_sector: usize,
}

impl Marked {
    fn begin(mut bytes: Vec<u8>, offset: u64) -> Self {
        bytes.clear();
        Self { bytes, offset_in_sector: sector_offset(offset) }
    }

    fn put(&mut self, mut data: &[u8]) {
        loop {
            let room = SECTOR_BYTES - 1 - (self.offset_in_sector + self.bytes.len()) % SECTOR_BYTES;
            if data.len() < room {
                break self.bytes.extend_from_slice(data);
            }
            let (fits, rest) = data.split_at(room);
            self.bytes.extend_from_slice(fits);
            self.bytes.push(MARK);
            data = rest;
        }
    }

    fn put_end_mark(&mut self) {
        self.bytes.push(MARK);
    }
}

/// Reads fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}
