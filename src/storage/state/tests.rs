//! A checkpoint comes back whole, and only a whole one does; of several generations exactly one counts.

mod crash;

use std::path::Path;

use bytes::Bytes;

use super::database::has_blobs;
use super::*;
use crate::kv::{Answer, Remembered, Row};
use crate::raft::Member;
use crate::storage::sync_file_range;
use crate::types::{NodeId, Session, Term};

fn row(revision: u64, bytes: usize) -> Record {
    let value: Vec<u8> = (0..bytes).map(|i| u8::try_from((i * 31 + bytes) % 253).unwrap()).collect();
    Record::Row(Row {
        revision: Revision(revision),
        key: format!("key-{}", revision % 50).into(),
        value: (!revision.is_multiple_of(7)).then(|| Bytes::from(value)),
        create_revision: Revision(revision / 2),
        version: revision,
    })
}

fn outcome(index: u64) -> Record {
    Record::Outcome(Remembered {
        index: LogIndex(index),
        time: LogTime(index * 1000),
        key: format!("once-{index}").into(),
        request_hash: index * 77,
        answer: Answer::Deleted { revision: Revision(index) },
    })
}

/// What entries of a log lead to: each a row, every third one an outcome, too.
fn applied(entries: std::ops::RangeInclusive<u64>) -> Vec<Record> {
    let of_entry = |index: u64| [Some(row(index, 120)), index.is_multiple_of(3).then(|| outcome(index))];
    entries.flat_map(of_entry).flatten().collect()
}

fn checkpoint(index: u64) -> Checkpoint {
    Checkpoint {
        applied: LogPosition { index: LogIndex(index), term: Term(3) },
        time: LogTime(index * 1000),
        revision: Revision(index),
        ..Checkpoint::default()
    }
}

/// What is current after a snapshot was installed.
fn installed(index: u64) -> Checkpoint {
    Checkpoint { installed: true, ..checkpoint(index) }
}

/// In memory where the system has such a place: these tests flush often.
fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn meta(data: &Path) -> Database {
    Database::open(&data.join("sled")).unwrap()
}

fn try_open(data: &Path) -> Result<SledState, StorageError> {
    let state = SledState::open(meta(data), data)?;
    state.remove_others()?;
    Ok(state)
}

fn open(data: &Path) -> SledState {
    if !data.join("sled").exists() {
        SledState::create(&meta(data), data).unwrap();
    }
    try_open(data).unwrap()
}

fn restored(state: &SledState) -> Vec<Record> {
    let mut records = Vec::new();
    state.restore(&mut |record| records.push(record)).unwrap();
    records
}

/// Writes what entries lead to as one checkpoint.
fn commit(state: &mut SledState, entries: std::ops::RangeInclusive<u64>) {
    let end = *entries.end();
    state.write(&applied(entries)).unwrap();
    state.commit(checkpoint(end)).unwrap();
}

/// Checks what is current, now and after the next start.
fn check(state: SledState, data: &Path, current: &Checkpoint, records: &[Record]) -> SledState {
    assert_eq!((state.checkpoint(), &restored(&state)[..]), (current, records));
    drop(state);
    let state = open(data);
    assert_eq!((state.checkpoint(), &restored(&state)[..]), (current, records));
    state
}

fn has_any_blobs(data: &Path) -> bool {
    generations(data).unwrap().into_iter().any(|number| has_blobs(&generation_path(data, number)))
        || has_blobs(&data.join("sled"))
}

#[test]
fn checkpoints_come_back_and_what_was_not_committed_does_not() {
    let directory = temporary();
    let mut state = check(open(directory.path()), directory.path(), &Checkpoint::default(), &[]);
    let all = applied(1..=500);
    state.write(&applied(1..=100)).unwrap();
    state.write(&applied(101..=300)).unwrap();
    state.commit(checkpoint(300)).unwrap();
    state.write(&applied(301..=500)).unwrap();
    drop(state);

    let up_to = |index| applied(1..=index);
    let state = check(open(directory.path()), directory.path(), &checkpoint(300), &up_to(300));
    let mut state = check(state, directory.path(), &checkpoint(300), &up_to(300));
    commit(&mut state, 301..=301);
    state.commit(checkpoint(310)).unwrap();
    let mut state = check(state, directory.path(), &checkpoint(310), &up_to(301));
    state.write(&[outcome(311)]).unwrap();
    state.commit(Checkpoint { revision: Revision(310), ..checkpoint(311) }).unwrap();
    drop(state);
    let state = open(directory.path());
    assert_eq!(restored(&state).last(), Some(&outcome(311)), "an outcome without a row");
    assert_eq!(restored(&state).len(), applied(1..=301).len() + 1);
    assert!(all.len() > 600);
}

#[test]
fn large_values_are_cut_into_pieces_and_never_become_blobs() {
    let directory = temporary();
    let mut state = open(directory.path());
    let sizes = [0, 16 << 10, 32 << 10, (32 << 10) + 1, 100_000, 3 << 19];
    let mut all: Vec<Record> = (8..).zip(sizes).map(|(revision, bytes)| row(revision, bytes)).collect();
    state.write(&all).unwrap();
    state.commit(checkpoint(20)).unwrap();
    let many: Vec<Record> = (21..70).map(|revision| row(revision, 400_000)).collect();
    state.write(&many).unwrap();
    state.commit(checkpoint(70)).unwrap();
    all.extend(many);
    let mut state = check(state, directory.path(), &checkpoint(70), &all);

    let mut staging = state.stage().unwrap();
    staging.write(&all).unwrap();
    staging.seal().unwrap();
    assert!(!has_any_blobs(directory.path()));
    state.install(staging, checkpoint(80)).unwrap();
    let state = check(state, directory.path(), &installed(80), &all);
    drop(state);
    assert!(!has_any_blobs(directory.path()));
}

#[test]
fn a_snapshot_that_sled_did_not_finish_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(directory.path());
    commit(&mut state, 1..=2);
    drop(state);
    for content in [&b""[..], b"half of what was to be written"] {
        for place in ["sled", "state-1"] {
            let name = directory.path().join(place).join("snap.00000000FFFFFFFF.generating");
            std::fs::write(name, content).unwrap();
            assert_eq!(restored(&open(directory.path())), applied(1..=2));
        }
    }
}

#[test]
fn a_commit_flushes_through_the_replaced_symbol() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(directory.path());
    let before = sync_file_range::calls();
    state.write(&[row(1, 10)]).unwrap();
    state.commit(checkpoint(1)).unwrap();
    assert!(sync_file_range::calls() > before);
}

#[test]
fn a_flush_that_goes_elsewhere_is_refused() {
    // Other tests flush at the same time, so only a few of these see none.
    let refused = (0..10_000).find_map(|_| sync_file_range::check(|| Ok(())).err());
    let text = refused.unwrap().to_string();
    assert!(text.contains("sync_file_range") && text.contains("nothing was started"), "{text}");
}

#[test]
fn a_piece_that_is_missing_or_changed_is_damage() {
    let directory = temporary();
    let mut state = open(directory.path());
    commit(&mut state, 1..=400);
    state.write(&[row(401, 100_000)]).unwrap();
    state.commit(checkpoint(401)).unwrap();
    drop(state);
    let pieces = pieces(directory.path());
    assert!(pieces.len() > 6);
    for (key, value) in &pieces {
        let mut changed = value.clone();
        changed[value.len() / 2] ^= 16;
        for wrong in [None, Some(&changed[..]), Some(&pieces[0].1[..3])] {
            put_piece(directory.path(), key, wrong);
            let error = open(directory.path()).restore(&mut |_| {}).unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
            put_piece(directory.path(), key, Some(value));
        }
    }
    assert_eq!(restored(&open(directory.path())).len(), applied(1..=400).len() + 1);
}

/// Keys and values of the first generation's blocks.
fn pieces(data: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let generation = Database::open(&generation_path(data, 1)).unwrap();
    let tree = generation.tree("blocks").unwrap();
    tree.iter().map(Result::unwrap).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Replaces a piece of the first generation, or removes it.
fn put_piece(data: &Path, key: &[u8], value: Option<&[u8]>) {
    let generation = Database::open(&generation_path(data, 1)).unwrap();
    let tree = generation.tree("blocks").unwrap();
    match value {
        None => tree.remove(key).unwrap(),
        Some(value) => tree.insert(key, value).unwrap(),
    };
}

/// Each block is sound, and the numbers of records and bytes are those of the checkpoint: only the digest differs.
#[test]
fn an_older_block_of_equal_size_instead_of_a_newer_one_is_damage() {
    let [older, newer] = [1, 2].map(|fill| {
        let directory = temporary();
        let mut state = open(directory.path());
        let value = Some(Bytes::from(vec![fill; 100]));
        let records = (1..=400).map(|revision| match row(revision, 100) {
            Record::Row(row) => Record::Row(Row { value: value.clone(), ..row }),
            outcome @ Record::Outcome(_) => outcome,
        });
        state.write(&records.collect::<Vec<_>>()).unwrap();
        state.commit(checkpoint(400)).unwrap();
        directory
    });
    let (newer, older) = (newer.path(), pieces(older.path()));
    let own = pieces(newer);
    assert!(own.len() > 2);
    for ((key, value), (same_key, old)) in own.iter().zip(&older) {
        assert!(key == same_key && value.len() == old.len() && value != old);
        put_piece(newer, key, Some(old));
        let error = open(newer).restore(&mut |_| {}).unwrap_err();
        assert!(error.exit_code() == 3 && error.to_string().contains("instead of"), "{error}");
        put_piece(newer, key, Some(value));
    }
    assert_eq!(restored(&open(newer)).len(), 400);
}

#[test]
fn a_checkpoint_that_records_other_than_what_is_there_is_damage() {
    let changes: [fn(&mut Recorded); 7] = [
        |recorded| recorded.contents.rows += 1,
        |recorded| recorded.contents.outcomes += 1,
        |recorded| recorded.contents.blocks += 1,
        |recorded| recorded.contents.bytes += 1,
        |recorded| recorded.contents.digest ^= 1,
        // Then there are records above the checkpoint.
        |recorded| recorded.revision.0 -= 1,
        |recorded| recorded.applied.index.0 -= 1,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let directory = temporary();
        let mut state = open(directory.path());
        commit(&mut state, 1..=399);
        drop(state);
        let generation = Database::open(&generation_path(directory.path(), 1)).unwrap();
        let mut recorded: Recorded = generation.get("checkpoint").unwrap().unwrap();
        change(&mut recorded);
        generation.put("checkpoint", &recorded).unwrap();
        generation.flush().unwrap();
        drop(generation);
        let error = open(directory.path()).restore(&mut |_| {}).unwrap_err();
        assert_eq!(error.exit_code(), 3, "change {number}: {error}");
    }
}

#[test]
fn every_part_of_a_checkpoint_comes_back() {
    let member = Member { name: "one".into(), session: Session(3), ..Member::default() };
    let configuration = |removed| Configuration {
        voters: [(NodeId(1), member.clone())].into(),
        removed: [(NodeId(removed), LogIndex(4))].into(),
        ..Configuration::default()
    };
    let all = |index: u64| Checkpoint {
        applied: LogPosition { index: LogIndex(index), term: Term(9) },
        time: LogTime(index * 1000 + 7),
        revision: Revision(index - 1),
        configuration: Arc::new(configuration(index)),
        configuration_index: LogIndex(index - 2),
        installed: false,
    };
    let directory = temporary();
    let mut state = open(directory.path());
    let records: Vec<Record> = (1..=20).map(|revision| row(revision, 10)).collect();
    state.write(&records).unwrap();
    state.commit(all(30)).unwrap();
    let mut state = check(state, directory.path(), &all(30), &records);
    state.begin_rewrite(all(30).applied, Box::new(records.clone().into_iter())).unwrap();
    while state.continue_rewrite().unwrap() {}
    let mut state = check(state, directory.path(), &all(30), &records);
    let mut staging = state.stage().unwrap();
    staging.write(&records).unwrap();
    state.install(staging, all(40)).unwrap();
    check(state, directory.path(), &Checkpoint { installed: true, ..all(40) }, &records);
}

#[test]
fn an_installed_generation_takes_the_place_of_the_old_one() {
    let directory = temporary();
    let mut state = open(directory.path());
    commit(&mut state, 1..=50);
    let mut staging = state.stage().unwrap();
    let snapshot: Vec<Record> = (80..=120).map(|revision| row(revision, 100)).chain([outcome(119)]).collect();
    staging.write(&snapshot).unwrap();
    commit(&mut state, 51..=60);
    staging.seal().unwrap();
    state.install(staging, checkpoint(120)).unwrap();
    assert_eq!(generations(directory.path()).unwrap().len(), 1);
    let mut state = check(state, directory.path(), &installed(120), &snapshot);

    // Changes of the old generation that were still on their way, alone and before newer ones.
    commit(&mut state, 61..=70);
    let mut state = check(state, directory.path(), &installed(120), &snapshot);
    commit(&mut state, 71..=130);
    let expected = [snapshot, applied(121..=130)].concat();
    let state = check(state, directory.path(), &checkpoint(130), &expected);
    assert_eq!(generations(directory.path()).unwrap().len(), 1);
    drop(state);
}

#[test]
fn a_staged_generation_that_is_not_installed_leaves_nothing() {
    let directory = temporary();
    let mut state = open(directory.path());
    commit(&mut state, 1..=50);
    let mut first = state.stage().unwrap();
    let mut second = state.stage().unwrap();
    first.write(&applied(1..=70)).unwrap();
    second.write(&applied(1..=60)).unwrap();
    assert_eq!(generations(directory.path()).unwrap().len(), 3);
    drop(first);
    assert_eq!(generations(directory.path()).unwrap().len(), 2);
    state.install(second, checkpoint(60)).unwrap();
    check(state, directory.path(), &installed(60), &applied(1..=60));
    assert_eq!(generations(directory.path()).unwrap().len(), 1);
}

#[test]
fn what_is_out_of_order_is_refused_and_changes_nothing() {
    let directory = temporary();
    let mut state = open(directory.path());
    commit(&mut state, 1..=50);
    let mut staging = state.stage().unwrap();
    staging.write(&[row(5, 10), outcome(7)]).unwrap();
    for record in [row(5, 10), row(4, 10), outcome(7), outcome(1)] {
        let mut staging = state.stage().unwrap();
        staging.write(&[row(5, 10), outcome(7)]).unwrap();
        let error = staging.write(&[record]).unwrap_err();
        assert!(matches!(error, StorageError::Disorder { .. }), "{error}");
    }
    for (last, index) in [(60, 50), (60, 40), (70, 60)] {
        let mut staging = state.stage().unwrap();
        staging.write(&applied(1..=last)).unwrap();
        let error = state.install(staging, checkpoint(index)).unwrap_err();
        assert!(matches!(error, StorageError::Disorder { .. }), "{error}");
    }
    check(state, directory.path(), &checkpoint(50), &applied(1..=50));
}

#[test]
fn a_generation_that_is_gone_or_older_than_recorded_is_damage() {
    let whole = temporary();
    let mut state = open(whole.path());
    let mut staging = state.stage().unwrap();
    staging.write(&applied(1..=30)).unwrap();
    state.install(staging, checkpoint(30)).unwrap();
    let generation = generations(whole.path()).unwrap()[0];
    drop(state);
    let empty = generation_path(whole.path(), 9);
    drop(Database::open(&empty).unwrap());
    // A sound generation, whose checkpoint is of an earlier entry.
    let earlier = temporary();
    let mut state = open(earlier.path());
    commit(&mut state, 1..=20);
    drop(state);
    let changes: [&dyn Fn(&Path); 5] = [
        &|data| {
            std::fs::remove_dir_all(generation_path(data, generation)).unwrap();
            crash::copy(&generation_path(earlier.path(), 1), &generation_path(data, generation));
        },
        &|data| std::fs::remove_dir_all(generation_path(data, generation)).unwrap(),
        &|data| std::fs::remove_file(generation_path(data, generation).join("db")).unwrap(),
        // Such as another node's, or an old copy.
        &|data| {
            std::fs::remove_dir_all(generation_path(data, generation)).unwrap();
            std::fs::rename(generation_path(data, 9), generation_path(data, generation)).unwrap();
        },
        &|data| {
            std::fs::remove_dir_all(data.join("sled")).unwrap();
            drop(meta(data));
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let place = temporary();
        let data = place.path().join("copy");
        crash::copy(whole.path(), &data);
        change(&data);
        let opened = try_open(&data).and_then(|state| state.restore(&mut |_| {}));
        let error = opened.unwrap_err();
        assert_eq!(error.exit_code(), 3, "change {number}: {error}");
    }
}

/// The live state of these tests: the last row of each key, and the last outcomes.
fn live(index: u64) -> Vec<Record> {
    let rows = (index - 49..=index).map(|revision| row(revision, 120));
    let outcomes = (index - 20..=index).filter(|index| index.is_multiple_of(3)).map(outcome);
    rows.chain(outcomes).collect()
}

#[test]
fn a_rewritten_state_is_the_live_one_and_what_was_committed_meanwhile() {
    let directory = temporary();
    let mut state = open(directory.path());
    state.rewrite_floor_bytes = 100_000;
    commit(&mut state, 1..=200);
    assert!(!state.needs_rewrite(50).unwrap(), "too little yet");
    commit(&mut state, 201..=1000);
    assert!(state.needs_rewrite(50).unwrap());
    state.begin_rewrite(checkpoint(999).applied, Box::new(live(999).into_iter())).unwrap();
    assert!(!state.continue_rewrite().unwrap(), "a view of something else is ignored");

    state.begin_rewrite(checkpoint(1000).applied, Box::new(live(1000).into_iter())).unwrap();
    assert!(!state.needs_rewrite(50).unwrap(), "it is under way");
    commit(&mut state, 1001..=1500);
    while state.continue_rewrite().unwrap() {
        assert_eq!(state.checkpoint(), &checkpoint(1500));
    }
    let expected = [live(1000), applied(1001..=1500)].concat();
    assert!(!state.needs_rewrite(50).unwrap());
    let mut state = check(state, directory.path(), &checkpoint(1500), &expected);
    assert_eq!(generations(directory.path()).unwrap().len(), 1);
    commit(&mut state, 1501..=1510);
    let expected = [expected, applied(1501..=1510)].concat();
    check(state, directory.path(), &checkpoint(1510), &expected);
}

#[test]
fn a_restart_does_not_forget_how_much_of_a_generation_is_live() {
    let directory = temporary();
    let mut state = open(directory.path());
    commit(&mut state, 1..=1000);
    state.begin_rewrite(checkpoint(1000).applied, Box::new(applied(401..=1000).into_iter())).unwrap();
    while state.continue_rewrite().unwrap() {}
    for _ in 0..2 {
        state.rewrite_floor_bytes = 10_000;
        assert!(!state.needs_rewrite(50).unwrap(), "most of it is live");
        let end = state.checkpoint().applied.index.0;
        commit(&mut state, end + 1..=end + 150);
        drop(state);
        state = open(directory.path());
    }
    state.rewrite_floor_bytes = 10_000;
    assert!(!state.needs_rewrite(50).unwrap(), "half as much again is history");
    commit(&mut state, 1301..=2500);
    assert!(state.needs_rewrite(50).unwrap(), "more than twice as much");
}

#[test]
fn a_rewrite_is_cancelled_for_a_snapshot() {
    let directory = temporary();
    let mut state = open(directory.path());
    commit(&mut state, 1..=300);
    state.begin_rewrite(checkpoint(300).applied, Box::new(live(300).into_iter())).unwrap();
    let mut staging = state.stage().unwrap();
    staging.write(&live(400)).unwrap();
    state.install(staging, checkpoint(400)).unwrap();
    assert!(!state.continue_rewrite().unwrap());
    assert_eq!(generations(directory.path()).unwrap().len(), 1);
    check(state, directory.path(), &installed(400), &live(400));
}

#[test]
fn a_rewrite_does_not_hide_that_a_snapshot_was_installed() {
    let directory = temporary();
    let mut state = open(directory.path());
    let mut staging = state.stage().unwrap();
    staging.write(&live(400)).unwrap();
    state.install(staging, checkpoint(400)).unwrap();
    state.begin_rewrite(checkpoint(400).applied, Box::new(live(400).into_iter())).unwrap();
    while state.continue_rewrite().unwrap() {}
    check(state, directory.path(), &installed(400), &live(400));
}
