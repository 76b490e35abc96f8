//! Repeated requests: answered as the first time, refused, or new again once their outcome is forgotten.

use super::*;
use crate::kv::digest::mix;
use crate::kv::{Answer, Command, Condition, IdempotencyKey, Operation, Record, Store};
use crate::types::{LogIndex, Revision};

fn named(name: &str, operation: Operation) -> Command {
    Command { operation, idempotency_key: Some(IdempotencyKey::new(name.to_owned()).unwrap()) }
}

fn put(key: &str, value: &str, condition: Condition) -> Operation {
    Operation::Put { key: key.to_owned().into(), value: value.to_owned().into(), condition }
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.to_owned().into(), condition: Condition::Always }
}

fn written(revision: u64, version: u64) -> Answer {
    let create_revision = Revision(revision - version + 1);
    Answer::Put { revision: Revision(revision), create_revision, version }
}

/// A store that counts its entries and keeps all its records.
#[derive(Default)]
struct Journal {
    store: Store,
    at: LogIndex,
    records: Vec<Record>,
}

impl Journal {
    fn apply(&mut self, time: u64, command: impl Into<Command>) -> Answer {
        self.at = self.at.next();
        self.store.apply(self.at, LogTime(time), command.into(), &mut self.records)
    }

    fn outcomes(&self) -> usize {
        self.store.view().outcomes.records().count()
    }
}

/// A store made of records.
fn restored(records: impl IntoIterator<Item = Record>) -> Store {
    let mut store = Store::default();
    records.into_iter().for_each(|record| store.restore(record));
    store
}

#[test]
fn a_repeated_request_is_answered_as_the_first_time_and_changes_nothing() {
    let mut journal = Journal::default();
    let requests = [
        (put("a", "1", Condition::Always), written(1, 1)),
        (put("a", "1", Condition::Absent), Answer::PreconditionFailed { mod_revision: Some(Revision(1)) }),
        (put("b", "1", Condition::Present), Answer::PreconditionFailed { mod_revision: None }),
        (delete("b"), Answer::KeyNotFound { revision: Revision(1) }),
        (delete("a"), Answer::Deleted { revision: Revision(2) }),
    ];
    for (number, (operation, answer)) in (0..).zip(&requests) {
        assert_eq!(journal.apply(number, named(&number.to_string(), operation.clone())), *answer);
    }
    // Now each would be answered otherwise.
    journal.apply(9, put("a", "2", Condition::Always));
    journal.apply(9, put("b", "2", Condition::Always));
    let (hash, records) = (journal.store.hash(), journal.records.len());
    for (number, (operation, answer)) in (0..).zip(&requests) {
        assert_eq!(journal.apply(10, named(&number.to_string(), operation.clone())), *answer);
    }
    assert_eq!((journal.store.hash(), journal.records.len()), (hash, records));
}

#[test]
fn the_same_key_with_another_request_is_a_conflict_and_changes_nothing() {
    let mut journal = Journal::default();
    journal.apply(0, named("n", put("a", "1", Condition::Always)));
    let hash = journal.store.hash();
    for other in [
        put("a", "2", Condition::Always),
        put("b", "1", Condition::Always),
        put("a1", "", Condition::Always),
        put("a", "1", Condition::Present),
        put("a", "1", Condition::ModRevision(Revision(1))),
        put("a", "1", Condition::ModRevision(Revision(0))),
        delete("a"),
    ] {
        assert_eq!(journal.apply(1, named("n", other)), Answer::IdempotencyConflict);
    }
    assert_eq!((journal.store.hash(), journal.records.len()), (hash, 2));
    // A conflict is not what is remembered.
    assert_eq!(journal.apply(1, named("n", put("a", "1", Condition::Always))), written(1, 1));
}

#[test]
fn an_outcome_counts_for_ten_minutes_of_the_logs_clock() {
    let request = || named("n", put("a", "1", Condition::Always));
    let mut journal = Journal::default();
    assert_eq!(journal.apply(5, request()), written(1, 1));
    assert_eq!(journal.apply(5 + REMEMBERED_MICROS - 1, request()), written(1, 1));
    assert_eq!(journal.apply(5 + REMEMBERED_MICROS, request()), written(2, 2));
    assert_eq!(journal.apply(5 + REMEMBERED_MICROS, request()), written(2, 2));
    assert_eq!(journal.outcomes(), 1);
}

#[test]
fn outcomes_past_the_limit_push_out_the_oldest() {
    let mut journal = Journal::default();
    let request = |number: usize| named(&number.to_string(), put("a", "1", Condition::Always));
    for number in 0..REMEMBERED_MAX {
        journal.apply(number as u64, request(number));
    }
    assert_eq!(journal.apply(REMEMBERED_MAX as u64, request(0)), written(1, 1));
    journal.apply(REMEMBERED_MAX as u64, request(REMEMBERED_MAX));
    assert_eq!(journal.outcomes(), REMEMBERED_MAX);
    assert_eq!(journal.apply(REMEMBERED_MAX as u64, request(1)), written(2, 2));
    let again = REMEMBERED_MAX as u64 + 2;
    assert_eq!(journal.apply(REMEMBERED_MAX as u64, request(0)), written(again, again));
    assert_eq!(restored(journal.store.view().records()).hash(), journal.store.hash());
}

#[test]
fn the_hash_tells_outcomes_apart() {
    let hash = |at, time, name: &str, operation| {
        let mut store = Store::default();
        store.apply(LogIndex(at), LogTime(time), named(name, operation), &mut Vec::new());
        store.hash()
    };
    let put = || put("a", "1", Condition::Present);
    let hashes = [
        Store::default().hash(),
        hash(1, 1, "n", put()),
        hash(2, 1, "n", put()),
        hash(1, 2, "n", put()),
        hash(1, 1, "m", put()),
        hash(1, 1, "n", delete("a")),
    ];
    for (place, hash) in hashes.iter().enumerate() {
        assert!(!hashes[..place].contains(hash), "{place}");
    }
}

#[test]
#[should_panic(expected = "outcome of entry 1 at 0 after 1 at 0")]
fn outcomes_out_of_order_are_not_taken() {
    let mut journal = Journal::default();
    journal.apply(0, named("n", delete("a")));
    journal.store.restore(journal.records[0].clone());
}

/// Random writes and repetitions; at random moments a view is taken and looked at much later.
#[test]
fn views_stay_as_they_are_and_make_equal_stores() {
    for seed in 0..20 {
        check_views(seed);
    }
}

fn check_views(seed: u64) {
    let mut random = mix(seed);
    let mut draw = |below: u64| {
        random = mix(random);
        random % below
    };
    let (mut journal, mut time, mut views) = (Journal::default(), 0, Vec::new());
    for _ in 0..600 {
        // Sometimes so much that most outcomes are forgotten.
        time += if draw(50) == 0 { REMEMBERED_MICROS / 2 } else { draw(REMEMBERED_MICROS / 100) };
        let key = format!("key-{}", draw(100));
        let operation =
            if draw(3) == 0 { delete(&key) } else { put(&key, &"v".repeat(10), Condition::Always) };
        let idempotency_key =
            (draw(2) == 0).then(|| IdempotencyKey::new(format!("name-{}", draw(60))).unwrap());
        journal.apply(time, Command { operation, idempotency_key });
        if draw(20) == 0 {
            let view = journal.store.view();
            let records: Vec<Record> = view.records().collect();
            views.push((view, journal.store.hash(), records, journal.records.len(), (journal.at, time)));
        }
    }
    assert!(views.len() > 5, "seed {seed}");
    for (view, hash, records, written, (at, time)) in views {
        assert_eq!((view.hash(), view.records().collect::<Vec<_>>()), (hash, records.clone()), "seed {seed}");
        // From what the view hands out, and from all records that led there, whatever they have in excess.
        let everything = journal.records[..written].iter().cloned();
        for mut store in [restored(records.clone()), restored(everything)] {
            assert_eq!(store.hash(), hash, "seed {seed}");
            assert_eq!((store.revision(), store.len()), (view.revision(), view.len()), "seed {seed}");
            assert_eq!(store.view().records().collect::<Vec<_>>(), records, "seed {seed}");
            // It continues as the first one would.
            let answer = store.apply(
                at.next(),
                LogTime(time),
                named("name-1", put("key-1", "new", Condition::Always)),
                &mut Vec::new(),
            );
            let mut first = restored(records.clone());
            let request = named("name-1", put("key-1", "new", Condition::Always));
            assert_eq!(answer, first.apply(at.next(), LogTime(time), request, &mut Vec::new()));
            assert_eq!(store.hash(), first.hash(), "seed {seed}");
        }
    }
}

#[test]
fn records_come_in_the_order_in_which_they_are_restored() {
    let mut journal = Journal::default();
    journal.apply(0, named("n", put("b", "1", Condition::Always)));
    journal.apply(1, named("m", put("a", "1", Condition::Always)));
    journal.apply(2, put("b", "2", Condition::Always));
    journal.apply(3, delete("a"));
    let shown: Vec<String> = journal
        .store
        .view()
        .records()
        .map(|record| match record {
            Record::Row(row) if row.value.is_some() => format!("put {:?} at {}", row.key, row.revision),
            Record::Row(row) => format!("delete {:?} at {}", row.key, row.revision),
            Record::Outcome(outcome) => format!("outcome {:?} at {}", outcome.key, outcome.index),
        })
        .collect();
    assert_eq!(
        shown,
        ["put b\"b\" at 3", "delete b\"a\" at 4", "outcome b\"n\" at 1", "outcome b\"m\" at 2"]
    );
    // What is stored does not share the log's bytes.
    let Record::Outcome(remembered) = &journal.records[1] else { panic!("{:?}", journal.records) };
    let kept = journal.store.view();
    let kept = kept.outcomes.records().next().unwrap();
    assert_eq!(&kept, remembered);
    assert_ne!(kept.key.as_ptr(), remembered.key.as_ptr());
}
