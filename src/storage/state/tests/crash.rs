//! A process that ends between any two steps leaves exactly one state that counts.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::storage::state::database::at_flush;

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What a start would find if the process ended now. Nothing is written meanwhile, so that a copy is what a crash leaves.
fn after_a_crash(data: &Path) -> (Checkpoint, Vec<Record>) {
    let place = temporary();
    let copied = place.path().join("data");
    copy(data, &copied);
    let state = open(&copied);
    let found = (state.checkpoint().clone(), restored(&state));
    assert_eq!(generations(&copied).unwrap().len(), 1, "what does not count is removed");
    assert!(!has_any_blobs(&copied));
    drop(state);
    let again = open(&copied);
    assert_eq!((again.checkpoint().clone(), restored(&again)), found);
    found
}

#[test]
fn between_the_steps_of_an_installation() {
    let directory = temporary();
    let data = directory.path();
    let mut state = open(data);
    commit(&mut state, 1..=50);
    let old = (checkpoint(50), applied(1..=50));
    assert_eq!(after_a_crash(data), old);
    let mut staging = state.stage().unwrap();
    assert_eq!(after_a_crash(data), old);
    for from in (1..=200).step_by(40) {
        staging.write(&applied(from..=from + 39)).unwrap();
        assert_eq!(after_a_crash(data), old);
    }
    staging.seal().unwrap();
    assert_eq!(after_a_crash(data), old);
    commit(&mut state, 51..=60);
    assert_eq!(after_a_crash(data), (checkpoint(60), applied(1..=60)));
    let before = temporary();
    copy(data, &before.path().join("data"));
    state.install(staging, checkpoint(200)).unwrap();
    let new = (installed(200), applied(1..=200));
    assert_eq!(after_a_crash(data), new);

    // The record is there, the old generation not yet removed, or in part.
    let old_generation = generation_path(data, 1);
    copy(&generation_path(&before.path().join("data"), 1), &old_generation);
    assert_eq!(after_a_crash(data), new);
    std::fs::remove_file(old_generation.join("db")).unwrap();
    assert_eq!(after_a_crash(data), new);
    commit(&mut state, 201..=210);
    assert_eq!(after_a_crash(data), (checkpoint(210), applied(1..=210)));
}

#[test]
fn between_the_steps_of_a_rewrite() {
    let directory = temporary();
    let data = directory.path();
    let mut state = open(data);
    commit(&mut state, 1..=20_000);
    let mut end = 20_000;
    let old = (checkpoint(end), applied(1..=end));
    assert_eq!(after_a_crash(data), old);
    // Mostly live, so that it takes several pieces.
    let live = applied(3000..=end);
    state.begin_rewrite(old.0.applied, Box::new(live.clone().into_iter())).unwrap();
    assert_eq!(after_a_crash(data), old);
    let mut pieces = 0;
    while state.continue_rewrite().unwrap() {
        pieces += 1;
        assert_eq!(after_a_crash(data), (checkpoint(end), applied(1..=end)), "piece {pieces}");
        commit(&mut state, end + 1..=end + 10);
        end += 10;
        assert_eq!(after_a_crash(data), (checkpoint(end), applied(1..=end)), "piece {pieces}");
    }
    assert!(pieces > 1, "{pieces} pieces");
    assert_eq!(after_a_crash(data), (checkpoint(end), [live, applied(20_001..=end)].concat()));
}

/// A crash right before or after any flush of `step` leaves the old state or, from one flush on, the new one.
fn check_flushes(
    data: &Path,
    old: &(Checkpoint, Vec<Record>),
    new: &(Checkpoint, Vec<Record>),
    step: impl FnOnce(),
) {
    let found = Rc::new(RefCell::new(Vec::new()));
    let look = {
        let (found, data) = (Rc::clone(&found), data.to_owned());
        move || found.borrow_mut().push(after_a_crash(&data))
    };
    at_flush::act(look, step);
    let found = found.take();
    let switch = found.iter().position(|state| state == new).expect("some flush makes the new state durable");
    assert!(
        switch > 0 && found[..switch].iter().all(|state| state == old),
        "the old state until flush {switch}"
    );
    assert!(found[switch..].iter().all(|state| state == new), "the new state from flush {switch} on");
    assert_eq!(after_a_crash(data), *new);
}

#[test]
fn at_each_flush_of_an_installation() {
    let directory = temporary();
    let data = directory.path();
    let mut state = open(data);
    commit(&mut state, 1..=50);
    let old = (checkpoint(50), applied(1..=50));
    // Not sealed here: the installation must do it.
    let mut staging = state.stage().unwrap();
    staging.write(&applied(1..=200)).unwrap();
    let new = (installed(200), applied(1..=200));
    check_flushes(data, &old, &new, || state.install(staging, checkpoint(200)).unwrap());
}

#[test]
fn at_each_flush_of_the_last_piece_of_a_rewrite() {
    let directory = temporary();
    let data = directory.path();
    let mut state = open(data);
    commit(&mut state, 1..=300);
    let old = (checkpoint(300), applied(1..=300));
    let live = applied(250..=300);
    state.begin_rewrite(old.0.applied, Box::new(live.clone().into_iter())).unwrap();
    check_flushes(data, &old, &(checkpoint(300), live), || while state.continue_rewrite().unwrap() {});
}

#[test]
fn between_the_steps_of_making_a_directory() {
    // The data directory appears whole; until then, a start makes it from the beginning.
    let directory = temporary();
    let meta = meta(directory.path());
    assert_eq!(SledState::open(meta.clone(), directory.path()).err().unwrap().exit_code(), 3);
    SledState::create(&meta, directory.path()).unwrap();
    drop(meta);
    assert_eq!(after_a_crash(directory.path()), (Checkpoint::default(), Vec::new()));
}
