//! How records are written: in the blocks of the state store, and wherever else records go as bytes.
//!
//! Integers little-endian, one record after the other without padding:
//!
//! | record | content |
//! | --- | --- |
//! | row | `1`, revision, `create_revision`, `version` (8 bytes each), lengths of key and value (4 each), key, value |
//! | outcome | `2`, index, time, hash of the request (8 each), length of the key (4), answer, key |
//!
//! The value of a row that deletes has length `u32::MAX`. An answer is its kind in one byte and then revisions and
//! versions of 8 bytes: `1` put (revision, `create_revision`, `version`), `2` deleted (revision), `3` key not found
//! (revision), `4` precondition failed without the key, `5` precondition failed (`mod_revision`), `6` conflict of
//! idempotency keys.

use bytes::{BufMut, Bytes};

use crate::kv::{Answer, Record, Remembered, Row};
use crate::types::{LogIndex, LogTime, Revision};

const ROW: u8 = 1;
const OUTCOME: u8 = 2;
const DELETED: u32 = u32::MAX;

/// Most bytes of a record without key and value.
const FIXED_BYTES_MAX: usize = 1 + 3 * 8 + 4 + 1 + 3 * 8;

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {0}")]
pub struct RecordError(pub &'static str);

/// At least as many bytes as the record takes.
#[must_use]
pub fn bytes_max(record: &Record) -> usize {
    FIXED_BYTES_MAX
        + match record {
            Record::Row(row) => row.key.len() + row.value.as_ref().map_or(0, Bytes::len),
            Record::Outcome(outcome) => outcome.key.len(),
        }
}

/// Appends a record.
///
/// # Panics
/// A key or a value of 4 GiB or more; the limits at the edge are far below.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Row(row) => {
            out.put_u8(ROW);
            for field in [row.revision.0, row.create_revision.0, row.version] {
                out.put_u64_le(field);
            }
            out.put_u32_le(length(&row.key));
            out.put_u32_le(row.value.as_ref().map_or(DELETED, length));
            out.extend_from_slice(&row.key);
            out.extend_from_slice(row.value.as_deref().unwrap_or_default());
        }
        Record::Outcome(outcome) => {
            out.put_u8(OUTCOME);
            for field in [outcome.index.0, outcome.time.0, outcome.request_hash] {
                out.put_u64_le(field);
            }
            out.put_u32_le(length(&outcome.key));
            encode_answer(&outcome.answer, out);
            out.extend_from_slice(&outcome.key);
        }
    }
}

fn length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).expect("keys and values are below 4 GiB")
}

fn encode_answer(answer: &Answer, out: &mut Vec<u8>) {
    let (kind, fields): (u8, &[u64]) = match *answer {
        Answer::Put { revision, create_revision, version } => (1, &[revision.0, create_revision.0, version]),
        Answer::Deleted { revision } => (2, &[revision.0]),
        Answer::KeyNotFound { revision } => (3, &[revision.0]),
        Answer::PreconditionFailed { mod_revision: None } => (4, &[]),
        Answer::PreconditionFailed { mod_revision: Some(revision) } => (5, &[revision.0]),
        Answer::IdempotencyConflict => (6, &[]),
    };
    out.put_u8(kind);
    for field in fields {
        out.put_u64_le(*field);
    }
}

/// Takes the first record off `bytes`; shares its key and value with them.
///
/// # Errors
/// What is wrong; `bytes` is then of no more use.
pub fn decode(bytes: &mut Bytes) -> Result<Record, RecordError> {
    match u8::from_le_bytes(take(bytes)?) {
        ROW => decode_row(bytes).map(Record::Row),
        OUTCOME => decode_outcome(bytes).map(Record::Outcome),
        _ => Err(RecordError("unknown kind")),
    }
}

fn decode_row(bytes: &mut Bytes) -> Result<Row, RecordError> {
    let (revision, create_revision) = (Revision(take_u64(bytes)?), Revision(take_u64(bytes)?));
    let version = take_u64(bytes)?;
    let (key_bytes, value_bytes) = (take_u32(bytes)?, take_u32(bytes)?);
    let key = take_bytes(bytes, key_bytes)?;
    let value = if value_bytes == DELETED { None } else { Some(take_bytes(bytes, value_bytes)?) };
    Ok(Row { revision, key, value, create_revision, version })
}

fn decode_outcome(bytes: &mut Bytes) -> Result<Remembered, RecordError> {
    let (index, time) = (LogIndex(take_u64(bytes)?), LogTime(take_u64(bytes)?));
    let request_hash = take_u64(bytes)?;
    let key_bytes = take_u32(bytes)?;
    let answer = match u8::from_le_bytes(take(bytes)?) {
        1 => Answer::Put {
            revision: Revision(take_u64(bytes)?),
            create_revision: Revision(take_u64(bytes)?),
            version: take_u64(bytes)?,
        },
        2 => Answer::Deleted { revision: Revision(take_u64(bytes)?) },
        3 => Answer::KeyNotFound { revision: Revision(take_u64(bytes)?) },
        4 => Answer::PreconditionFailed { mod_revision: None },
        5 => Answer::PreconditionFailed { mod_revision: Some(Revision(take_u64(bytes)?)) },
        6 => Answer::IdempotencyConflict,
        _ => return Err(RecordError("an outcome with an unknown answer")),
    };
    let key = take_bytes(bytes, key_bytes)?;
    Ok(Remembered { index, time, key, request_hash, answer })
}

fn take<const N: usize>(bytes: &mut Bytes) -> Result<[u8; N], RecordError> {
    let array = bytes.first_chunk::<N>().copied().ok_or(RecordError("cut short"))?;
    bytes::Buf::advance(bytes, N);
    Ok(array)
}

fn take_u64(bytes: &mut Bytes) -> Result<u64, RecordError> {
    take(bytes).map(u64::from_le_bytes)
}

fn take_u32(bytes: &mut Bytes) -> Result<u32, RecordError> {
    take(bytes).map(u32::from_le_bytes)
}

fn take_bytes(bytes: &mut Bytes, count: u32) -> Result<Bytes, RecordError> {
    let count = usize::try_from(count).map_err(|_| RecordError("cut short"))?;
    if count > bytes.len() {
        return Err(RecordError("cut short"));
    }
    Ok(bytes.split_to(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Record> {
        let row = Row {
            revision: Revision(7),
            key: Bytes::from_static(b"key"),
            value: Some(Bytes::from_static(b"value")),
            create_revision: Revision(3),
            version: 2,
        };
        let deleted = Row { value: None, ..row.clone() };
        let answers = [
            Answer::Put { revision: Revision(7), create_revision: Revision(3), version: 2 },
            Answer::Deleted { revision: Revision(8) },
            Answer::KeyNotFound { revision: Revision(9) },
            Answer::PreconditionFailed { mod_revision: None },
            Answer::PreconditionFailed { mod_revision: Some(Revision(5)) },
            Answer::IdempotencyConflict,
        ];
        let outcomes = (1..).zip(answers).map(|(index, answer)| {
            let key = Bytes::from_static(b"once");
            Record::Outcome(Remembered {
                index: LogIndex(index),
                time: LogTime(5),
                key,
                request_hash: 11,
                answer,
            })
        });
        [Record::Row(row), Record::Row(deleted)].into_iter().chain(outcomes).collect()
    }

    #[test]
    fn records_survive_the_round_trip() {
        let mut encoded = Vec::new();
        for record in all() {
            let before = encoded.len();
            encode(&record, &mut encoded);
            assert!(encoded.len() - before <= bytes_max(&record));
        }
        let mut bytes = Bytes::from(encoded);
        for record in all() {
            assert_eq!(decode(&mut bytes), Ok(record));
        }
        assert!(bytes.is_empty());
    }

    #[test]
    fn the_encoding_does_not_change_between_releases() {
        let mut encoded = Vec::new();
        encode(&all()[0], &mut encoded);
        let row = b"\x01\x07\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x05\0\0\0keyvalue";
        assert_eq!(&encoded[..], row);
        encoded.clear();
        encode(&all()[3], &mut encoded);
        let outcome =
            b"\x02\x02\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x0b\0\0\0\0\0\0\0\x04\0\0\0\x02\x08\0\0\0\0\0\0\0once";
        assert_eq!(&encoded[..], outcome);
    }

    #[test]
    fn whatever_decodes_is_the_encoding_of_what_it_decodes_to() {
        // Every truncation and every change of one byte: an error, or a record that is written as just these bytes.
        let check = |hostile: Bytes| {
            let mut rest = hostile.clone();
            if let Ok(record) = decode(&mut rest) {
                let mut encoded = Vec::new();
                encode(&record, &mut encoded);
                assert_eq!(encoded, hostile[..hostile.len() - rest.len()]);
            }
        };
        for record in all() {
            let mut encoded = Vec::new();
            encode(&record, &mut encoded);
            for cut in 0..encoded.len() {
                check(Bytes::copy_from_slice(&encoded[..cut]));
                for byte in 0..=u8::MAX {
                    let mut changed = encoded.clone();
                    changed[cut] = byte;
                    check(changed.into());
                }
            }
        }
    }
}
