//! The store against etcd's rules and against a naive model.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::kv::IdempotencyKey;
use crate::kv::digest::mix;

fn put(key: &str, value: &str, condition: Condition) -> Command {
    Operation::Put { key: key.to_owned().into(), value: value.to_owned().into(), condition }.into()
}

fn delete(key: &str, condition: Condition) -> Command {
    Operation::Delete { key: key.to_owned().into(), condition }.into()
}

/// Applies and forgets the records.
fn apply(store: &mut Store, command: Command) -> Answer {
    store.apply(LogIndex(1), LogTime(0), command, &mut Vec::new())
}

fn put_answer(revision: u64, create_revision: u64, version: u64) -> Answer {
    Answer::Put { revision: Revision(revision), create_revision: Revision(create_revision), version }
}

#[test]
fn revisions_count_writes_as_in_etcd() {
    let mut store = Store::default();
    assert_eq!(store.revision(), Revision(0));
    assert_eq!(apply(&mut store, put("a", "1", Condition::Always)), put_answer(1, 1, 1));
    assert_eq!(apply(&mut store, put("b", "1", Condition::Always)), put_answer(2, 2, 1));
    assert_eq!(apply(&mut store, put("a", "2", Condition::Always)), put_answer(3, 1, 2));
    assert_eq!(apply(&mut store, delete("a", Condition::Always)), Answer::Deleted { revision: Revision(4) });
    assert_eq!(apply(&mut store, put("a", "3", Condition::Always)), put_answer(5, 5, 1));
    let content = KeyValue {
        value: Bytes::from_static(b"3"),
        create_revision: Revision(5),
        mod_revision: Revision(5),
        version: 1,
    };
    assert_eq!(store.get(b"a"), Some(&content));
    assert_eq!(store.len(), 2);
}

#[test]
fn what_changes_nothing_uses_no_revision_and_leaves_no_row() {
    let mut store = Store::default();
    let mut rows = Vec::new();
    store.apply(LogIndex(1), LogTime(0), put("a", "1", Condition::Always), &mut rows);
    let hash = store.hash();
    rows.clear();
    let idle = [
        (delete("b", Condition::Always), Answer::KeyNotFound { revision: Revision(1) }),
        (delete("b", Condition::Absent), Answer::KeyNotFound { revision: Revision(1) }),
        (put("a", "2", Condition::Absent), failed(Some(1))),
        (delete("a", Condition::Absent), failed(Some(1))),
        (put("a", "2", Condition::ModRevision(Revision(2))), failed(Some(1))),
        (delete("a", Condition::ModRevision(Revision(2))), failed(Some(1))),
        (put("b", "2", Condition::Present), failed(None)),
        (delete("b", Condition::Present), failed(None)),
        (put("b", "2", Condition::ModRevision(Revision(1))), failed(None)),
        (delete("b", Condition::ModRevision(Revision(0))), failed(None)),
    ];
    for (command, answer) in idle {
        assert_eq!(store.apply(LogIndex(2), LogTime(0), command.clone(), &mut rows), answer, "{command:?}");
    }
    assert_eq!((store.revision(), store.len(), store.hash()), (Revision(1), 1, hash));
    assert_eq!(rows, []);
}

fn failed(mod_revision: Option<u64>) -> Answer {
    Answer::PreconditionFailed { mod_revision: mod_revision.map(Revision) }
}

#[test]
fn conditions_that_hold_let_the_write_through() {
    let mut store = Store::default();
    assert_eq!(apply(&mut store, put("a", "1", Condition::Absent)), put_answer(1, 1, 1));
    assert_eq!(apply(&mut store, put("a", "2", Condition::Present)), put_answer(2, 1, 2));
    assert_eq!(apply(&mut store, put("a", "3", Condition::ModRevision(Revision(2)))), put_answer(3, 1, 3));
    assert_eq!(
        apply(&mut store, delete("a", Condition::ModRevision(Revision(3)))),
        Answer::Deleted { revision: Revision(4) }
    );
    assert!(store.is_empty());
}

#[test]
fn the_hash_tells_states_apart() {
    let states = [
        vec![],
        vec![put("a", "1", Condition::Always)],
        vec![put("a", "2", Condition::Always)],
        vec![put("a1", "", Condition::Always)],
        vec![put("a", "1", Condition::Always), delete("a", Condition::Always)],
        vec![put("a", "1", Condition::Always), put("a", "1", Condition::Always)],
        vec![put("a", "1", Condition::Always), put("b", "2", Condition::Always)],
        vec![put("a", "2", Condition::Always), put("b", "1", Condition::Always)],
        vec![put("b", "2", Condition::Always), put("a", "1", Condition::Always)],
    ];
    let mut hashes = BTreeMap::new();
    for state in states {
        let mut store = Store::default();
        for command in state.clone() {
            apply(&mut store, command);
        }
        assert_eq!(hashes.insert(store.hash(), state), None);
    }
}

#[test]
fn the_hash_is_the_same_in_every_build() {
    let mut store = Store::default();
    apply(&mut store, put("key", "a value of more than eight bytes", Condition::Always));
    assert_eq!(store.hash(), 11_511_868_004_362_241_141);
}

#[test]
#[should_panic(expected = "row of revision 1 after 1")]
fn rows_out_of_order_are_not_taken() {
    let mut store = Store::default();
    let row = Row {
        revision: Revision(1),
        key: Bytes::from_static(b"k"),
        value: None,
        create_revision: Revision(0),
        version: 0,
    };
    store.restore(Record::Row(row.clone()));
    store.restore(Record::Row(row));
}

/// Without outcomes, the sizes that a view states are exact.
fn check_sizes(view: &View) {
    let records: Vec<Record> = view.records().collect();
    assert_eq!(view.record_count(), records.len() as u64);
    let bytes = records.iter().map(Record::size_bytes).sum::<usize>();
    assert_eq!(view.content_bytes_max(), bytes as u64);
}

#[test]
fn overwriting_and_deleting_a_key_give_its_bytes_back() {
    let mut store = Store::default();
    let mut bytes_after = |command| {
        apply(&mut store, command);
        check_sizes(&store.view());
        store.view().content_bytes_max()
    };
    assert_eq!(bytes_after(put("key", "a longer value", Condition::Always)), 17);
    assert_eq!(bytes_after(put("other", "value", Condition::Always)), 27);
    assert_eq!(bytes_after(put("key", "short", Condition::Always)), 18);
    // If the last change is a deletion, its row counts.
    assert_eq!(bytes_after(delete("key", Condition::Always)), 13);
    assert_eq!(bytes_after(put("other", "", Condition::Always)), 5);
    for _ in 0..100 {
        bytes_after(put("key", "value", Condition::Always));
        bytes_after(delete("key", Condition::Always));
    }
    assert_eq!(bytes_after(delete("other", Condition::Always)), 5, "only the row of the last deletion");
}

#[test]
fn each_outcome_counts_with_the_longest_idempotency_key() {
    let mut store = Store::default();
    for (index, name) in (1..).zip(["n".to_owned(), "n".repeat(IdempotencyKey::BYTES_MAX)]) {
        let idempotency_key = Some(IdempotencyKey::new(name).unwrap());
        let command = Command { idempotency_key, ..put("key", "value", Condition::Always) };
        store.apply(LogIndex(index), LogTime(0), command, &mut Vec::new());
    }
    let view = store.view();
    let bytes = view.records().map(|record| record.size_bytes()).sum::<usize>();
    assert_eq!((view.record_count(), bytes, view.content_bytes_max()), (3, 73, 136));
}

/// The rules once more, as plainly as they can be written: the whole history, searched from its start.
#[derive(Default)]
struct Model {
    /// Key, value (none: deleted); the revision is the place, from 1.
    history: Vec<(Bytes, Option<Bytes>)>,
}

impl Model {
    fn revision(&self) -> Revision {
        Revision(self.history.len() as u64)
    }

    fn get(&self, wanted: &[u8]) -> Option<KeyValue> {
        let mut found: Option<KeyValue> = None;
        for (at, (key, value)) in self.history.iter().enumerate() {
            if key != wanted {
                continue;
            }
            let revision = Revision(at as u64 + 1);
            let old = found.take();
            found = value.clone().map(|value| KeyValue {
                value,
                create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: old.map_or(0, |old| old.version) + 1,
            });
        }
        found
    }

    fn apply(&mut self, command: Command) -> Answer {
        let (key, value, condition) = match command.operation {
            Operation::Put { key, value, condition } => (key, Some(value), condition),
            Operation::Delete { key, condition } => (key, None, condition),
        };
        let found = self.get(&key);
        let mod_revision = found.as_ref().map(|found| found.mod_revision);
        let wanted = match condition {
            Condition::Always => mod_revision,
            Condition::Absent => None,
            Condition::Present => Some(mod_revision.unwrap_or(Revision(u64::MAX))),
            Condition::ModRevision(revision) => Some(revision),
        };
        if wanted != mod_revision {
            return Answer::PreconditionFailed { mod_revision };
        }
        if value.is_none() && found.is_none() {
            return Answer::KeyNotFound { revision: self.revision() };
        }
        let is_put = value.is_some();
        self.history.push((key.clone(), value));
        let revision = self.revision();
        if !is_put {
            return Answer::Deleted { revision };
        }
        let now = self.get(&key).expect("just put");
        Answer::Put { revision, create_revision: now.create_revision, version: now.version }
    }
}

#[test]
fn agrees_with_a_naive_model_and_with_its_own_rows() {
    for seed in 0..20 {
        check_against_model(seed);
    }
}

fn check_against_model(seed: u64) {
    let mut random = mix(seed);
    let mut draw = |below: u64| {
        random = mix(random);
        random % below
    };
    let (mut store, mut model, mut rows) = (Store::default(), Model::default(), Vec::new());
    for _ in 0..500 {
        let key = Bytes::from(format!("key-{}", draw(6)));
        let condition = match draw(8) {
            0 => Condition::Absent,
            1 => Condition::Present,
            2 => Condition::ModRevision(Revision(draw(model.revision().0 + 2))),
            3 => Condition::ModRevision(store.get(&key).map_or(Revision(1), |found| found.mod_revision)),
            _ => Condition::Always,
        };
        let command = if draw(3) == 0 {
            Command::from(Operation::Delete { key: key.clone(), condition })
        } else {
            let value = "v".repeat(draw(20).try_into().unwrap()).into();
            Command::from(Operation::Put { key: key.clone(), value, condition })
        };
        let answer = store.apply(LogIndex(1), LogTime(0), command.clone(), &mut rows);
        assert_eq!(answer, model.apply(command), "seed {seed}");
        assert_eq!(store.revision(), model.revision(), "seed {seed}");
        assert_eq!(store.get(&key), model.get(&key).as_ref(), "seed {seed}");
        check_sizes(&store.view());
    }
    let mut restored = Store::default();
    for row in rows {
        restored.restore(row);
    }
    assert_eq!(restored.hash(), store.hash(), "seed {seed}");
    assert_eq!((restored.revision(), restored.len()), (store.revision(), store.len()), "seed {seed}");
    check_sizes(&restored.view());
    for key in (0..6).map(|key| format!("key-{key}")) {
        assert_eq!(restored.get(key.as_bytes()), store.get(key.as_bytes()), "seed {seed}");
    }
}
