//! Blocks and records of the state, as a damaged or foreign file may hold them.

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

use super::Contents;
use super::blocks::{Block, Reader};
use super::records;
use crate::fuzzing::Input;
use crate::kv::{Answer, Record, Remembered, Row};
use crate::types::{LogIndex, LogTime, Revision};

/// Records are read or refused, and what is read is written in the same bytes. Pieces of blocks are put together or
/// refused, with checksums that are good and others.
pub(crate) fn blocks(data: &[u8]) {
    let mut input = Input::new(data);
    if input.is_set() {
        return records(input.rest());
    }
    let mut reader = Reader::default();
    let mut taken = 0;
    while !input.is_empty() {
        let is_sealed = input.below(8) != 0;
        let (block, number) = (reader.contents.blocks, u32::from(input.below(3)));
        let key = [&block.to_be_bytes()[..], &number.to_be_bytes()].concat();
        let mut value = vec![0; 4];
        value.extend_from_slice(&u32::from(input.below(4)).to_le_bytes());
        value.extend_from_slice(input.long_bytes());
        if is_sealed {
            let crc = crc32c_append(crc32c(&key), &value[4..]);
            value[..4].copy_from_slice(&crc.to_le_bytes());
        }
        if reader.piece(&key, &value, &mut |_| taken += 1).is_err() {
            break;
        }
    }
    assert!(taken >= reader.contents.rows + reader.contents.outcomes);
}

fn records(data: &[u8]) {
    let whole = Bytes::copy_from_slice(data);
    let mut rest = whole.clone();
    while !rest.is_empty() {
        let from = whole.len() - rest.len();
        let Ok(record) = records::decode(&mut rest) else { return };
        let mut again = Vec::new();
        records::encode(&record, &mut again);
        assert_eq!(again, whole[from..whole.len() - rest.len()], "{record:?}");
        assert!(again.len() <= records::bytes_max(&record));
    }
}

fn all_kinds() -> Vec<Record> {
    let (revision, create_revision) = (Revision(4), Revision(2));
    let row = |revision, value| {
        let key = Bytes::from_static(b"key");
        Record::Row(Row { revision: Revision(revision), key, value, create_revision, version: 2 })
    };
    let answers = [
        Answer::Put { revision, create_revision, version: 3 },
        Answer::Deleted { revision },
        Answer::KeyNotFound { revision },
        Answer::PreconditionFailed { mod_revision: None },
        Answer::PreconditionFailed { mod_revision: Some(revision) },
        Answer::IdempotencyConflict,
    ];
    let outcomes = (1..).zip(answers).map(|(index, answer)| {
        let key = Bytes::from(vec![b'a' + u8::try_from(index).unwrap_or(0)]);
        Record::Outcome(Remembered { index: LogIndex(index), time: LogTime(9), key, request_hash: 7, answer })
    });
    let value = Some(Bytes::from_static(b"value"));
    [row(3, value), row(4, Some(Bytes::new())), row(5, None)].into_iter().chain(outcomes).collect()
}

/// Inputs to begin with.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let mut content = Vec::new();
    let mut block = Block::default();
    for record in all_kinds() {
        records::encode(&record, &mut content);
        block.push(&record);
    }
    let pieces = block.take_pieces(&mut Contents::default());
    let mut sealed = vec![0];
    for piece in pieces {
        let part = &piece.value[8..];
        sealed.extend_from_slice(&[1, 0, 1]);
        sealed.extend_from_slice(&u16::try_from(part.len()).unwrap_or(0).to_le_bytes());
        sealed.extend_from_slice(part);
    }
    vec![[&[1][..], &content].concat(), sealed]
}
