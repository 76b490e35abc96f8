//! From one store to another, chunk by chunk, and what must not get through.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::kv::{Command, Condition, IdempotencyKey, Operation, Record, Remembered, Row, Store};
use crate::raft::Configuration;
use crate::storage::{Staging, StorageError};
use crate::types::{LogIndex, LogPosition, LogTime};

const SENDER: NodeId = NodeId(1);
const ID: u64 = 77;

/// A staging in memory.
#[derive(Default)]
struct Memory {
    records: Vec<Record>,
    sealed: bool,
}

impl Staging for Memory {
    fn disk_bytes_max(record_bytes: u64) -> u64 {
        record_bytes
    }

    fn write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.records.extend_from_slice(records);
        Ok(())
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        self.sealed = true;
        Ok(())
    }
}

/// A store with large and small values, overwritten and deleted keys, and remembered outcomes.
fn store(keys: u64) -> Store {
    let mut store = Store::default();
    let mut records = Vec::new();
    let mut index = 0;
    let mut apply = |operation, key: Option<String>| {
        index += 1;
        let idempotency_key = key.map(|key| IdempotencyKey::new(key).unwrap());
        let command = Command { operation, idempotency_key };
        store.apply(LogIndex(index), LogTime(index * 10), command, &mut records);
    };
    for number in 0..keys {
        let value = Bytes::from(vec![b'v'; if number == 3 { 700_000 } else { 40_000 }]);
        let key = Bytes::from(format!("key-{}", number % (keys - 5)));
        let once = number.is_multiple_of(3).then(|| format!("once-{number}"));
        apply(Operation::Put { key, value, condition: Condition::Always }, once);
    }
    apply(Operation::Delete { key: Bytes::from_static(b"key-1"), condition: Condition::Always }, None);
    store
}

fn cut(store: &Store) -> Cut {
    let position = LogPosition { index: LogIndex(1_000), term: Term(3) };
    let snapshot = Snapshot {
        position,
        time: LogTime(100_000),
        configuration: Arc::new(Configuration::default()),
        configuration_index: LogIndex(1),
    };
    Cut { to: NodeId(2), session: Session(1), term: Term(4), snapshot, view: store.view() }
}

fn chunks(cut: &Cut, first: u64) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    cut.chunks(ID, first, |chunk| {
        chunks.push(chunk);
        ControlFlow::Continue(())
    });
    chunks
}

fn incoming(cut: &Cut) -> Incoming<Memory> {
    Incoming::new(SENDER, cut.header(ID), Memory::default())
}

/// Takes all chunks; true for the last one only.
fn take_all(incoming: &mut Incoming<Memory>, chunks: &[Chunk]) {
    for (number, chunk) in chunks.iter().enumerate() {
        assert_eq!(incoming.take(chunk).unwrap(), number + 1 == chunks.len());
    }
}

#[test]
fn a_state_arrives_as_it_was_cut_whatever_is_written_meanwhile() {
    let mut store = store(40);
    let cut = cut(&store);
    let hash = store.hash();
    let put = Operation::Put {
        key: Bytes::from_static(b"later"),
        value: Bytes::new(),
        condition: Condition::Always,
    };
    let command = Command { operation: put, idempotency_key: None };
    store.apply(LogIndex(2_000), LogTime(200_000), command, &mut Vec::new());

    let chunks = chunks(&cut, 0);
    assert!(chunks.len() > 4, "only {} chunks", chunks.len());
    let mut incoming = incoming(&cut);
    take_all(&mut incoming, &chunks);
    let content = incoming.finish().unwrap();
    assert_eq!((content.store.hash(), content.store.len()), (hash, 34));
    assert!(content.staging.sealed);
    assert_eq!(content.staging.records, cut.view.records().collect::<Vec<_>>());
}

#[test]
fn an_empty_state_is_one_chunk() {
    let cut = cut(&Store::default());
    let chunks = chunks(&cut, 0);
    assert_eq!(chunks.len(), 1);
    let mut incoming = incoming(&cut);
    take_all(&mut incoming, &chunks);
    assert!(incoming.finish().unwrap().store.is_empty());
}

#[test]
fn chunks_hold_to_their_limit_unless_one_record_is_larger() {
    let store = store(40);
    for chunk in chunks(&cut(&store), 0) {
        let records = records::decode(chunk.records.clone()).unwrap();
        assert!(chunk.records.len() <= CHUNK_BYTES || records.len() == 1, "{} bytes", chunk.records.len());
    }
}

#[test]
fn a_broken_transfer_continues_behind_the_last_complete_chunk() {
    let store = store(40);
    let cut = cut(&store);
    let all = chunks(&cut, 0);
    let mut incoming = incoming(&cut);
    for chunk in &all[..3] {
        incoming.take(chunk).unwrap();
    }
    assert_eq!(incoming.next_chunk(), 3);
    let rest = chunks(&cut, incoming.next_chunk());
    assert_eq!(rest, all[3..]);
    // One that came before the break, and comes again.
    assert!(!incoming.take(&all[2]).unwrap());
    take_all(&mut incoming, &rest);
    assert_eq!(incoming.finish().unwrap().store.hash(), store.hash());
}

#[test]
fn a_chunk_that_is_missing_changed_or_of_another_snapshot_is_refused_and_what_came_before_stays() {
    let store = store(40);
    let cut = cut(&store);
    let all = chunks(&cut, 0);
    let mut incoming = incoming(&cut);
    incoming.take(&all[0]).unwrap();
    let mut changed = all[1].records.to_vec();
    changed[100] ^= 1;
    let mut other = Vec::new();
    cut.chunks(ID + 1, 1, |chunk| {
        other.push(chunk);
        ControlFlow::Break(())
    });
    let bad = [
        all[2].clone(),
        Chunk { records: changed.into(), ..all[1].clone() },
        Chunk { number: 1, ..all[2].clone() },
        other.remove(0),
    ];
    for chunk in bad {
        let error = incoming.take(&chunk).unwrap_err();
        assert!(error.keeps_staged(), "{error}");
        assert_eq!(incoming.next_chunk(), 1);
    }
    take_all(&mut incoming, &all[1..]);
    assert_eq!(incoming.finish().unwrap().store.hash(), store.hash());
}

/// A chunk with these records, as a malicious sender would make it.
fn forged(number: u64, content: &[Record], total: Option<u64>) -> Chunk {
    let mut bytes = Vec::new();
    for record in content {
        records::encode(record, &mut bytes);
    }
    Chunk { number, crc: Chunk::checksum(ID, number, &bytes), records: bytes.into(), total }
}

#[test]
fn records_that_no_state_consists_of_are_refused_without_a_panic() {
    let store = store(40);
    let cut = cut(&store);
    let good: Vec<Record> = cut.view.records().collect();
    let (mut rows, mut outcomes) = (Vec::new(), Vec::new());
    for record in &good {
        match record {
            Record::Row(row) => rows.push(row.clone()),
            Record::Outcome(outcome) => outcomes.push(outcome.clone()),
        }
    }
    let (row, outcome) = (&rows[0], &outcomes[0]);
    let after = |revision: Revision| Revision(revision.0 + 1);
    let bad: [Vec<Record>; 9] = [
        vec![Record::Row(row.clone()), Record::Row(row.clone())],
        vec![Record::Row(Row { revision: after(cut.view.revision()), ..row.clone() })],
        vec![Record::Row(Row { create_revision: after(row.revision), ..row.clone() })],
        vec![Record::Row(Row { key: Bytes::new(), ..row.clone() })],
        vec![Record::Row(Row { value: None, ..row.clone() }), Record::Row(rows[1].clone())],
        vec![Record::Outcome(outcome.clone()), Record::Row(row.clone())],
        vec![Record::Outcome(outcome.clone()), Record::Outcome(outcome.clone())],
        vec![
            Record::Outcome(outcome.clone()),
            Record::Outcome(Remembered { index: outcome.index.next(), ..outcome.clone() }),
        ],
        vec![Record::Outcome(Remembered { time: LogTime(u64::MAX), ..outcome.clone() })],
    ];
    for records in bad {
        let error = incoming(&cut).take(&forged(0, &records, None)).unwrap_err();
        assert!(!error.keeps_staged(), "{error}");
    }
    // Well-formed, but not the state that was announced.
    let mut lacking = incoming(&cut);
    let count = good.len() as u64 - 1;
    assert!(lacking.take(&forged(0, &good[1..], Some(count))).unwrap());
    assert!(matches!(lacking.finish(), Err(IncomingError::Content(_))));
    let wrong_total = incoming(&cut).take(&forged(0, &good, Some(3))).unwrap_err();
    assert!(!wrong_total.keeps_staged());
}

#[test]
fn a_shelf_hands_out_each_half_once() {
    let store = store(40);
    let cut = cut(&store);
    let content = || {
        let mut incoming = incoming(&cut);
        take_all(&mut incoming, &chunks(&cut, 0));
        incoming.finish().unwrap()
    };
    let shelf = Shelf::default();
    let first = shelf.put(content());
    let (staging, revision) = shelf.take_staging(first).unwrap();
    assert!(staging.sealed && revision == store.revision());
    assert!(shelf.take_staging(first).is_none() && !shelf.is_empty());
    assert_eq!(shelf.stores().take(first).unwrap().hash(), store.hash());
    assert!(shelf.is_empty());
    let second = shelf.put(content());
    assert_ne!(first, second);
    shelf.remove(second);
    assert!(shelf.is_empty());
}

/// A row of such a version was taken, and the next write to its key counted past 2^64.
#[test]
fn rows_that_no_write_makes_are_refused() {
    let cut = cut(&store(40));
    let row = |revision, create_revision, version, value: Option<&'static [u8]>| Row {
        revision: Revision(revision),
        key: Bytes::from_static(b"key"),
        value: value.map(Bytes::from_static),
        create_revision: Revision(create_revision),
        version,
    };
    let value = Some(&b"value"[..]);
    let impossible = [
        row(5, 1, u64::MAX, value),
        row(5, 3, 4, value),
        row(5, 1, 0, value),
        row(5, 0, 1, value),
        row(5, 6, 1, value),
        row(5, 1, 1, None),
        Row { key: Bytes::new(), ..row(5, 1, 1, value) },
    ];
    let taken = |row| {
        let mut encoded = Vec::new();
        records::encode(&Record::Row(row), &mut encoded);
        let records = Bytes::from(encoded);
        let chunk = Chunk { number: 0, crc: Chunk::checksum(ID, 0, &records), records, total: None };
        incoming(&cut).take(&chunk)
    };
    for row in impossible {
        assert!(matches!(taken(row.clone()), Err(IncomingError::Content(_))), "{row:?}");
    }
    for row in [row(5, 3, 3, value), row(5, 5, 1, value), row(5, 0, 0, None)] {
        assert!(taken(row.clone()).is_ok(), "{row:?}");
    }
}
