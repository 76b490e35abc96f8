//! A checkpoint comes back whole, and only a whole one does.

use std::path::Path;

use bytes::Bytes;

use super::database::has_blobs;
use super::*;
use crate::kv::Row;
use crate::storage::sync_file_range;
use crate::types::Term;

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

fn checkpoint(revision: u64) -> Checkpoint {
    Checkpoint {
        applied: LogPosition { index: LogIndex(revision + 1), term: Term(3) },
        revision: Revision(revision),
        ..Checkpoint::default()
    }
}

fn open(path: &Path) -> SledState {
    SledState::open(Database::open(path).unwrap()).unwrap()
}

fn rows(state: &SledState) -> Vec<Record> {
    let mut rows = Vec::new();
    state.restore(&mut |row| rows.push(row)).unwrap();
    rows
}

#[test]
fn checkpoints_come_back_and_what_was_not_committed_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(directory.path());
    assert_eq!(state.checkpoint(), &Checkpoint::default());
    assert_eq!(rows(&state), []);
    let all: Vec<Record> = (1..=500).map(|revision| row(revision, 100)).collect();
    state.write(&all[..100]).unwrap();
    state.write(&all[100..300]).unwrap();
    state.commit(checkpoint(300)).unwrap();
    state.write(&all[300..]).unwrap();
    drop(state);

    let mut state = open(directory.path());
    assert_eq!(state.checkpoint(), &checkpoint(300));
    assert_eq!(rows(&state), all[..300]);
    state.write(&all[300..301]).unwrap();
    state.commit(checkpoint(301)).unwrap();
    state.commit(checkpoint(310)).unwrap();
    drop(state);
    let state = open(directory.path());
    assert_eq!(state.checkpoint(), &checkpoint(310));
    assert_eq!(rows(&state), all[..301]);
}

#[test]
fn large_values_are_cut_into_pieces_and_never_become_blobs() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(directory.path());
    let sizes = [0, 16 << 10, 32 << 10, (32 << 10) + 1, 100_000, 3 << 19];
    let all: Vec<Record> = (8..).zip(sizes).map(|(revision, bytes)| row(revision, bytes)).collect();
    state.write(&all).unwrap();
    state.commit(checkpoint(20)).unwrap();
    let many: Vec<Record> = (21..70).map(|revision| row(revision, 400_000)).collect();
    state.write(&many).unwrap();
    state.commit(checkpoint(70)).unwrap();
    drop(state);
    assert!(!has_blobs(directory.path()));
    assert_eq!(rows(&open(directory.path())), [all, many].concat());
}

#[test]
fn a_snapshot_that_sled_did_not_finish_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(directory.path());
    state.write(&[row(1, 10), row(2, 10)]).unwrap();
    state.commit(checkpoint(2)).unwrap();
    drop(state);
    for content in [&b""[..], b"half of what was to be written"] {
        std::fs::write(directory.path().join("snap.00000000FFFFFFFF.generating"), content).unwrap();
        assert_eq!(rows(&open(directory.path())), [row(1, 10), row(2, 10)]);
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
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(directory.path());
    let all: Vec<Record> = (1..=400).map(|revision| row(revision, 200)).collect();
    state.write(&all).unwrap();
    state.write(&[row(401, 100_000)]).unwrap();
    state.commit(checkpoint(401)).unwrap();
    drop(state);
    let database = Database::open(directory.path()).unwrap();
    let tree = database.tree("state-0").unwrap();
    let pieces: Vec<_> = tree.iter().map(Result::unwrap).collect();
    assert!(pieces.len() > 8);
    for (key, value) in &pieces {
        let mut changed = value.to_vec();
        changed[value.len() / 2] ^= 16;
        for wrong in [None, Some(changed), Some(pieces[0].1[..3].to_vec())] {
            match wrong {
                None => tree.remove(key).unwrap(),
                Some(wrong) => tree.insert(key, wrong).unwrap(),
            };
            let error = SledState::open(database.clone()).unwrap().restore(&mut |_| {}).unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
            tree.insert(key, value).unwrap();
        }
    }
    assert_eq!(rows(&SledState::open(database).unwrap()).len(), 401);
}
