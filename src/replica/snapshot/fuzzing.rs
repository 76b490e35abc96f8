//! Snapshots whose bytes are anything, as a transfer and as a file.

use std::ops::ControlFlow;

use bytes::Bytes;
use crc32c::crc32c;

use super::file::{Nowhere, Reader, Save};
use super::{Chunk, Cut, Header, Incoming};
use crate::fuzzing::Input;
use crate::kv::{Command, Condition, IdempotencyKey, Operation, Record, Store};
use crate::raft::Snapshot;
use crate::types::{ClusterId, LogIndex, LogPosition, LogTime, NodeId, Session, Term};

/// Takes the chunks as a receiver does. If they were taken but for the digest, that is put right and they are taken
/// again: what a hostile sender can make a receiver install must be a state that it can continue with.
pub(crate) fn take(header: &Header, chunks: &[Chunk]) {
    let mut header = header.clone();
    for _ in 0..2 {
        let mut incoming = Incoming::new(NodeId(9), header.clone(), Nowhere);
        for chunk in chunks {
            let crc = Chunk::checksum(header.id, chunk.number, &chunk.records);
            if incoming.take(&Chunk { crc, ..chunk.clone() }).is_err() {
                return;
            }
        }
        let _ = incoming.disk_bytes_left();
        (header.revision, header.keys, header.hash) = incoming.totals();
        if let Ok(content) = incoming.finish() {
            return go_on(content.store, &content.snapshot);
        }
    }
}

/// A state that was installed takes writes, and is cut and taken again.
fn go_on(mut store: Store, snapshot: &Snapshot) {
    let keys: Vec<Bytes> = store
        .view()
        .records()
        .filter_map(|record| match record {
            Record::Row(row) => Some(row.key),
            Record::Outcome(_) => None,
        })
        .take(8)
        .collect();
    let (mut index, time) = (snapshot.position.index, snapshot.time);
    for key in keys {
        index = index.next();
        let value = Bytes::from_static(b"more");
        let operation = Operation::Put { key: key.clone(), value, condition: Condition::Present };
        let idempotency_key = IdempotencyKey::new(key).ok();
        store.apply(index, time, Command { operation, idempotency_key }, &mut Vec::new());
    }
    let mut again = Store::default();
    store.view().records().for_each(|record| again.restore(record));
    assert_eq!(again.hash(), store.hash());
}

/// A backup file of these bytes, or one whose checksums are good and whose description and records are anything.
pub(crate) fn backup(data: &[u8]) {
    let mut input = Input::new(data);
    let file = if input.is_set() { sealed(&mut input) } else { input.rest().to_vec() };
    if let Ok(mut reader) = Reader::open(&file[..]) {
        while let Ok(Some(_)) = reader.next_chunk() {}
    }
    let Ok(mut reader) = Reader::open(&file[..]) else { return };
    if let Ok(content) = reader.restore(Nowhere) {
        go_on(content.store, &content.snapshot);
    }
}

fn sealed(input: &mut Input<'_>) -> Vec<u8> {
    let about = input.long_bytes();
    let id = serde_json::from_slice::<serde_json::Value>(about).ok();
    let id = id.and_then(|about| about.get("id")?.as_u64()).unwrap_or_default();
    let mut file = b"kuberaft snapshot\n\x01\0\0\0".to_vec();
    file.extend_from_slice(&u32::try_from(about.len()).unwrap_or_default().to_le_bytes());
    file.extend_from_slice(about);
    let (mut number, mut count, mut bytes) = (0_u64, 0_u64, 0_u64);
    while !input.is_empty() {
        count += u64::from(input.byte());
        let records = input.long_bytes();
        file.push(1);
        file.extend_from_slice(&number.to_le_bytes());
        file.extend_from_slice(&u32::try_from(records.len()).unwrap_or_default().to_le_bytes());
        file.extend_from_slice(records);
        file.extend_from_slice(&Chunk::checksum(id, number, records).to_le_bytes());
        number += 1;
        bytes += records.len() as u64;
    }
    file.push(2);
    for total in [number, count, bytes] {
        file.extend_from_slice(&total.to_le_bytes());
    }
    let crc = crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file
}

/// A small state as a leader cuts it.
pub(crate) fn cut() -> Cut {
    let mut store = Store::default();
    for index in 1..=6_u8 {
        let (key, value) = (Bytes::from(vec![b'a' + index % 4]), Bytes::from(vec![index; 20]));
        let operation = if index == 6 {
            Operation::Delete { key, condition: Condition::Always }
        } else {
            Operation::Put { key, value, condition: Condition::Always }
        };
        let idempotency_key = (index % 2 == 0).then(|| IdempotencyKey::new(vec![index])).and_then(Result::ok);
        let (at, time) = (LogIndex(u64::from(index) + 1), LogTime(u64::from(index)));
        store.apply(at, time, Command { operation, idempotency_key }, &mut Vec::new());
    }
    let position = LogPosition { index: LogIndex(9), term: Term(2) };
    let snapshot = Snapshot {
        position,
        time: LogTime(9),
        configuration: std::sync::Arc::default(),
        configuration_index: LogIndex(1),
    };
    Cut { to: NodeId(1), session: Session(1), term: Term(2), snapshot, view: store.view() }
}

/// Inputs of [`backup`] to begin with.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let save = Save::new(cut(), ClusterId(7), NodeId(9), 77, 1_000);
    let about = serde_json::to_vec(save.about()).unwrap_or_default();
    let mut whole = vec![0];
    save.write(|piece| {
        whole.extend_from_slice(&piece);
        ControlFlow::Continue(())
    });
    let mut sealed = vec![1];
    sealed.extend_from_slice(&u16::try_from(about.len()).unwrap_or(0).to_le_bytes());
    sealed.extend_from_slice(&about);
    cut().chunks(77, 0, |chunk| {
        sealed.push(u8::try_from(chunk.total.unwrap_or_default()).unwrap_or(0));
        sealed.extend_from_slice(&u16::try_from(chunk.records.len()).unwrap_or(0).to_le_bytes());
        sealed.extend_from_slice(&chunk.records);
        ControlFlow::Continue(())
    });
    vec![whole, sealed]
}
