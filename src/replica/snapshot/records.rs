//! How a snapshot's records are written into chunks. Integers are little-endian.
//!
//! | record | bytes |
//! | --- | --- |
//! | row | 1 (kind 1), 8 revision, 8 `create_revision`, 8 version, 4 length of the key, 4 length of the value, key, value |
//! | outcome | 1 (kind 2), 8 index, 8 time, 8 hash of the request, 4 length of the key, key, answer |
//! | answer | 1 kind; put (1): 8 revision, 8 `create_revision`, 8 version; deleted (2) and key not found (3): 8 revision; |
//! | | precondition failed (4): 8 `mod_revision`, 0 for none; idempotency conflict (5) |
//!
//! The length of the value of a row that deletes is 2^32 - 1.

use bytes::{Buf, BufMut, Bytes};

use crate::kv::{Answer, Record, Remembered, Row, View};
use crate::types::{LogIndex, LogTime, Revision};

/// Largest record, encoded: the largest request that can be configured, and what is known of it.
pub(super) const RECORD_BYTES_MAX: usize = (3 << 20) + 128;

/// Most bytes of a record without key and value.
const FIXED_BYTES_MAX: u64 = 1 + 3 * 8 + 4 + 1 + 3 * 8;

/// At least as many bytes as all records of a state take.
pub(super) fn bytes_max(view: &View) -> u64 {
    view.content_bytes_max() + FIXED_BYTES_MAX * view.record_count()
}

const ROW: u8 = 1;
const OUTCOME: u8 = 2;
const PUT: u8 = 1;
const DELETED: u8 = 2;
const KEY_NOT_FOUND: u8 = 3;
const PRECONDITION_FAILED: u8 = 4;
const IDEMPOTENCY_CONFLICT: u8 = 5;
/// Length of the value of a row that deletes.
const NO_VALUE: u32 = u32::MAX;

/// Bytes that are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// They end within a record.
    #[error("a record is cut off")]
    CutOff,
    /// A kind of record or answer that this version does not know.
    #[error("record or answer of unknown kind {0}")]
    Kind(u8),
    /// Larger than what any node stores.
    #[error("record of more than {RECORD_BYTES_MAX} bytes")]
    TooLarge,
}

/// Adds a record at the end.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Row(row) => encode_row(row, out),
        Record::Outcome(outcome) => encode_outcome(outcome, out),
    }
}

fn length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).expect("keys and values are limited to far less than 4 GiB")
}

fn encode_row(row: &Row, out: &mut Vec<u8>) {
    out.put_u8(ROW);
    out.put_u64_le(row.revision.0);
    out.put_u64_le(row.create_revision.0);
    out.put_u64_le(row.version);
    out.put_u32_le(length(&row.key));
    out.put_u32_le(row.value.as_ref().map_or(NO_VALUE, length));
    out.put_slice(&row.key);
    out.put_slice(row.value.as_deref().unwrap_or_default());
}

fn encode_outcome(outcome: &Remembered, out: &mut Vec<u8>) {
    out.put_u8(OUTCOME);
    out.put_u64_le(outcome.index.0);
    out.put_u64_le(outcome.time.0);
    out.put_u64_le(outcome.request_hash);
    out.put_u32_le(length(&outcome.key));
    out.put_slice(&outcome.key);
    match outcome.answer {
        Answer::Put { revision, create_revision, version } => {
            out.put_u8(PUT);
            out.put_u64_le(revision.0);
            out.put_u64_le(create_revision.0);
            out.put_u64_le(version);
        }
        Answer::Deleted { revision } => {
            out.put_u8(DELETED);
            out.put_u64_le(revision.0);
        }
        Answer::KeyNotFound { revision } => {
            out.put_u8(KEY_NOT_FOUND);
            out.put_u64_le(revision.0);
        }
        Answer::PreconditionFailed { mod_revision } => {
            out.put_u8(PRECONDITION_FAILED);
            out.put_u64_le(mod_revision.map_or(0, |revision| revision.0));
        }
        Answer::IdempotencyConflict => out.put_u8(IDEMPOTENCY_CONFLICT),
    }
}

/// Reads all records of a chunk; they share its bytes.
///
/// # Errors
/// [`RecordError`]
pub(super) fn decode(mut from: Bytes) -> Result<Vec<Record>, RecordError> {
    let mut records = Vec::new();
    while let Ok(kind) = from.try_get_u8() {
        records.push(match kind {
            ROW => Record::Row(decode_row(&mut from)?),
            OUTCOME => Record::Outcome(decode_outcome(&mut from)?),
            kind => return Err(RecordError::Kind(kind)),
        });
    }
    Ok(records)
}

fn number(from: &mut Bytes) -> Result<u64, RecordError> {
    from.try_get_u64_le().map_err(|_| RecordError::CutOff)
}

fn length_of(from: &mut Bytes) -> Result<u32, RecordError> {
    from.try_get_u32_le().map_err(|_| RecordError::CutOff)
}

fn size(length: u32) -> Result<usize, RecordError> {
    usize::try_from(length).ok().filter(|size| *size <= RECORD_BYTES_MAX).ok_or(RecordError::TooLarge)
}

fn bytes(from: &mut Bytes, size: usize) -> Result<Bytes, RecordError> {
    if size > from.len() { Err(RecordError::CutOff) } else { Ok(from.split_to(size)) }
}

fn decode_row(from: &mut Bytes) -> Result<Row, RecordError> {
    let (revision, create_revision) = (Revision(number(from)?), Revision(number(from)?));
    let version = number(from)?;
    let (key, value) = (length_of(from)?, length_of(from)?);
    let key_size = size(key)?;
    let value_size = if value == NO_VALUE { None } else { Some(size(value)?) };
    if key_size + value_size.unwrap_or_default() > RECORD_BYTES_MAX {
        return Err(RecordError::TooLarge);
    }
    let key = bytes(from, key_size)?;
    let value = value_size.map(|value_size| bytes(from, value_size)).transpose()?;
    Ok(Row { revision, key, value, create_revision, version })
}

fn decode_outcome(from: &mut Bytes) -> Result<Remembered, RecordError> {
    let (index, time, request_hash) = (LogIndex(number(from)?), LogTime(number(from)?), number(from)?);
    let key_size = size(length_of(from)?)?;
    let key = bytes(from, key_size)?;
    let answer = match from.try_get_u8().map_err(|_| RecordError::CutOff)? {
        PUT => Answer::Put {
            revision: Revision(number(from)?),
            create_revision: Revision(number(from)?),
            version: number(from)?,
        },
        DELETED => Answer::Deleted { revision: Revision(number(from)?) },
        KEY_NOT_FOUND => Answer::KeyNotFound { revision: Revision(number(from)?) },
        PRECONDITION_FAILED => {
            let mod_revision = Some(Revision(number(from)?)).filter(|revision| revision.0 > 0);
            Answer::PreconditionFailed { mod_revision }
        }
        IDEMPOTENCY_CONFLICT => Answer::IdempotencyConflict,
        kind => return Err(RecordError::Kind(kind)),
    };
    Ok(Remembered { index, time, key, request_hash, answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(revision: u64, value: Option<&'static str>) -> Record {
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        let key = Bytes::from_static(b"key");
        Record::Row(Row {
            revision: Revision(revision),
            key,
            value,
            create_revision: Revision(1),
            version: 2,
        })
    }

    fn outcome(index: u64, answer: Answer) -> Record {
        let (index, time, key) = (LogIndex(index), LogTime(9), Bytes::from_static(b"once"));
        Record::Outcome(Remembered { index, time, key, request_hash: 7, answer })
    }

    fn all_kinds() -> Vec<Record> {
        let revision = Revision(4);
        vec![
            row(3, Some("value")),
            row(4, Some("")),
            row(5, None),
            outcome(1, Answer::Put { revision, create_revision: Revision(2), version: 3 }),
            outcome(2, Answer::Deleted { revision }),
            outcome(3, Answer::KeyNotFound { revision }),
            outcome(4, Answer::PreconditionFailed { mod_revision: None }),
            outcome(5, Answer::PreconditionFailed { mod_revision: Some(revision) }),
            outcome(6, Answer::IdempotencyConflict),
        ]
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let mut out = Vec::new();
        for record in all_kinds() {
            encode(&record, &mut out);
        }
        assert_eq!(decode(Bytes::from(out)).unwrap(), all_kinds());
    }

    #[test]
    fn bytes_cut_off_anywhere_are_refused() {
        for record in all_kinds() {
            let mut out = Vec::new();
            encode(&record, &mut out);
            for end in 1..out.len() {
                let cut = Bytes::copy_from_slice(&out[..end]);
                assert_eq!(decode(cut), Err(RecordError::CutOff), "{record:?} cut at {end}");
            }
        }
    }

    #[test]
    fn unknown_kinds_and_absurd_sizes_are_refused() {
        assert_eq!(decode(Bytes::from_static(&[9])), Err(RecordError::Kind(9)));
        let mut out = Vec::new();
        encode(&row(3, Some("value")), &mut out);
        out[25..29].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(Bytes::from(out)), Err(RecordError::TooLarge));
    }
}
