//! A log that no longer begins at entry 1: after compaction, behind a snapshot, and when a crash cut either short.

use super::*;

/// A log of seven segments with one or two entries each, the last of them 12.
fn long() -> (MemoryFiles, Wal<MemoryFiles>, Vec<Entry>) {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    for index in 2..=12 {
        let term = index / 3 + 1;
        flush_each(&mut wal, &[append(term, None, vec![command(term, index, 9000)])]);
    }
    let entries = all(&wal);
    assert_eq!((wal.segments.len(), entries.len()), (6, 12));
    (files, wal, entries)
}

fn names(files: &MemoryFiles) -> Vec<u64> {
    segment::sequences(&files.list(&directory()).unwrap())
}

fn voted(term: u64, by: u64) -> HardState {
    HardState { term: Term(term), voted_for: Some(NodeId(by)) }
}

fn position(index: u64, term: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(term) }
}

/// A log that begins behind `before` with what is left of `entries`.
fn check_log(wal: &Wal<MemoryFiles>, recovered: &Recovered, before: LogPosition, entries: &[Entry]) {
    assert_eq!((recovered.before, wal.first_index()), (before, before.index.next()));
    let left: Vec<Entry> = entries.iter().filter(|entry| entry.index > before.index).cloned().collect();
    assert_eq!(all(wal), left);
    assert_eq!(recovered.last, left.last().map_or(before, Entry::position));
    let mut runs: Vec<LogPosition> = left.iter().map(Entry::position).collect();
    runs.dedup_by_key(|position| position.term);
    assert_eq!((&recovered.runs, &wal.positions.runs), (&runs, &runs));
    assert!(recovered.commit_index >= before.index);
    if let Some(below) = before.index.0.checked_sub(1).filter(|below| *below > 0) {
        let error = wal.read(LogIndex(below), recovered.last.index, usize::MAX).unwrap_err();
        assert!(error.to_string().contains(&format!("begins at {}", before.index.next())), "{error}");
    }
}

#[test]
fn compaction_drops_whole_segments_and_never_the_last() {
    for through in 0..=20 {
        let (files, mut wal, entries) = long();
        let before = wal.segments.iter().rev().map(|segment| segment.before);
        let expected = before.into_iter().find(|before| before.index.0 <= through).unwrap();
        let (hard_state, bytes) = (wal.hard_state, wal.size_bytes());
        wal.compact(LogIndex(through)).unwrap();
        assert_eq!(wal.size_bytes() < bytes, expected.index.0 > 0);
        assert_eq!(wal.first_index(), expected.index.next());
        flush_each(&mut wal, &[append(5, None, vec![command(5, 13, 10), command(5, 14, 9000)])]);
        let entries = [entries, vec![command(5, 13, 10), command(5, 14, 9000)]].concat();
        let (opened, recovered) = open(&files).unwrap();
        check_log(&opened, &recovered, expected, &entries);
        assert_eq!((recovered.time, recovered.hard_state.term), (LogTime(14), hard_state.term));
        assert_eq!(all(&wal), all(&opened));
    }
}

#[test]
fn a_log_is_compacted_again_and_again() {
    let (files, mut wal, mut entries) = long();
    for index in 13..60 {
        let entry = command(9, index, 5000);
        flush_each(&mut wal, &[append(9, None, vec![entry.clone()])]);
        entries.push(entry);
        wal.compact(LogIndex(index - 3)).unwrap();
        let from = wal.first_index();
        assert!(from.0 + 9 > index && wal.segments.len() <= 3, "begins at {from}");
        let (opened, recovered) = open(&files.fork()).unwrap();
        check_log(&opened, &recovered, wal.positions.before, &entries);
    }
}

#[test]
fn the_time_never_falls_because_entries_were_dropped() {
    let (files, mut wal, _) = long();
    let late = Entry { time: LogTime(700), ..command(9, 13, 20_000) };
    flush_each(&mut wal, &[append(9, None, vec![late])]);
    flush_each(&mut wal, &[append(9, Some(13), vec![command(9, 13, 20_000)])]);
    wal.compact(LogIndex(12)).unwrap();
    assert_eq!(open(&files.fork()).unwrap().1.time, LogTime(700), "of an entry that was truncated");
    flush_each(&mut wal, &[append(9, None, vec![command(9, 14, 20_000)])]);
    wal.compact(LogIndex(13)).unwrap();
    assert_eq!(open(&files.fork()).unwrap().1.time, LogTime(700), "of one that was dropped");
    wal.reset(position(40, 9), voted(9, 3)).unwrap();
    assert_eq!(open(&files).unwrap().1.time, LogTime(700), "after a new beginning");
}

/// A log whose second segment begins with a truncation that reaches back into the first.
fn reaching_back() -> (MemoryFiles, Wal<MemoryFiles>) {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    flush_each(
        &mut wal,
        &[
            append(1, None, (2..=9).map(|index| command(1, index, 2000)).collect()),
            append(2, Some(4), vec![command(2, 4, 9000)]),
            append(2, None, vec![Entry { time: LogTime(500), ..command(2, 5, 6000) }]),
            append(2, None, vec![command(2, 6, 9000)]),
            append(2, None, vec![command(2, 7, 100)]),
        ],
    );
    assert_eq!(wal.segments.iter().map(|segment| segment.before.index.0).collect::<Vec<_>>(), [0, 9, 5]);
    (files, wal)
}

#[test]
fn a_log_does_not_begin_where_a_truncation_reaches_back() {
    let (files, mut wal) = reaching_back();
    wal.append(&append(3, Some(6), vec![]));
    wal.compact(LogIndex(4)).unwrap();
    assert_eq!(names(&files), [1, 2, 3]);
    wal.compact(LogIndex(5)).unwrap();
    assert_eq!(names(&files), [3], "what waits does not reach back before entry 6");
    wal.flush().unwrap();
    let (wal, recovered) = open(&files).unwrap();
    check_log(&wal, &recovered, position(5, 2), &[]);

    let (files, mut wal) = reaching_back();
    wal.append(&append(3, Some(5), vec![]));
    wal.compact(LogIndex(5)).unwrap();
    assert_eq!(names(&files), [1, 2, 3], "what waits reaches back");
}

#[test]
fn a_compaction_cut_short_before_a_truncation_that_reaches_back_is_finished() {
    let (files, wal) = reaching_back();
    let entries = all(&wal);
    files.unlink(&directory().join(segment::name(1))).unwrap();
    let (wal, recovered) = open(&files).unwrap();
    check_log(&wal, &recovered, position(5, 2), &entries);
    assert_eq!((recovered.hard_state, recovered.time), (voted(2, 20), LogTime(500)));
    assert_eq!(names(&files), [3]);

    let (files, _) = reaching_back();
    for sequence in [1, 3] {
        files.unlink(&directory().join(segment::name(sequence))).unwrap();
    }
    // Else the missing last segment is what is found.
    files.unlink(&directory().join("newest-0000000000000003")).unwrap();
    let error = open(&files).map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("a truncation from 4 in a log that begins behind 9"), "{error}");
    assert_eq!(names(&files), [2], "nothing was changed");
}

#[test]
fn a_log_restarts_behind_a_snapshot() {
    for before in [position(5, 2), position(12, 5), position(400, 7)] {
        let (files, mut wal, _) = long();
        wal.append(&append(6, None, vec![]));
        wal.reset(before, voted(7, 3)).unwrap();
        assert_eq!((names(&files), all(&wal)), (vec![7], vec![]));
        let (again, recovered) = open(&files.fork()).unwrap();
        check_log(&again, &recovered, before, &[]);
        assert_eq!((recovered.hard_state, recovered.time), (voted(7, 3), LogTime(12)));
        assert_eq!(recovered.configurations, []);

        let next = command(8, before.index.0 + 1, 50);
        flush_each(&mut wal, &[append(8, None, vec![next.clone()])]);
        let (again, recovered) = open(&files).unwrap();
        check_log(&again, &recovered, before, &[next]);
        assert_eq!(recovered.hard_state.term, Term(8));
    }
}

#[test]
fn segments_before_a_new_beginning_are_void() {
    let (whole, mut wal, _) = long();
    let old = whole.fork();
    wal.reset(position(30, 7), voted(7, 3)).unwrap();
    flush_each(&mut wal, &[append(8, None, vec![command(8, 31, 20_000)])]);
    flush_each(&mut wal, &[append(8, None, vec![command(8, 32, 20_000)])]);
    assert_eq!(names(&whole), [7, 8]);
    // Any of the old ones may be left by a crash, whole or not.
    for left in 0..1_u64 << 6 {
        let files = whole.fork();
        for sequence in (1..=6).filter(|sequence| left >> (sequence - 1) & 1 == 1) {
            let name = segment::name(sequence);
            files.create(&directory().join(&name)).unwrap();
            files.change(&name, |content| *content = old.content(&name));
        }
        let (wal, recovered) = open(&files).unwrap();
        check_log(&wal, &recovered, position(30, 7), &[command(8, 31, 20_000), command(8, 32, 20_000)]);
        assert_eq!(names(&files), [7, 8]);
    }
}

#[test]
fn after_compaction_and_a_new_beginning_missing_and_foreign_segments_are_damage() {
    let (compacted, mut wal, _) = long();
    wal.compact(LogIndex(5)).unwrap();
    let (anew, mut wal, _) = long();
    wal.reset(position(30, 7), voted(7, 3)).unwrap();
    for index in 31..36 {
        flush_each(&mut wal, &[append(8, None, vec![command(8, index, 20_000)])]);
    }
    for whole in [compacted, anew] {
        let sequences = names(&whole);
        assert!(sequences.len() >= 4 && sequences[0] > 1);
        for (at, sequence) in sequences.iter().enumerate().skip(1) {
            let path = directory().join(segment::name(*sequence));
            if at + 1 < sequences.len() {
                let files = whole.fork();
                files.unlink(&path).unwrap();
                let error = open(&files).map(|_| ()).unwrap_err();
                assert!(error.exit_code() == 3 && error.to_string().contains(&segment::name(*sequence)));
            }
            let files = whole.fork();
            let (one, other) = (files.content(&segment::name(sequences[0])), segment::name(*sequence));
            files.change(&other, |content| *content = one);
            assert_eq!(open(&files).map(|_| ()).unwrap_err().exit_code(), 3, "one under another's name");
        }
        let files = whole.fork();
        let first = segment::name(sequences[0]);
        files.change(&first, |content| content[100] ^= 1);
        assert_eq!(open(&files).map(|_| ()).unwrap_err().exit_code(), 3);
        let others = Owner { node_id: NodeId(4), ..OWNER };
        let error = Wal::open(whole.fork(), &directory(), others, SEGMENT).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 5);
    }
}

#[test]
fn a_missing_first_segment_shows_in_where_the_log_begins() {
    let (files, _, entries) = long();
    files.unlink(&directory().join(segment::name(1))).unwrap();
    let (wal, recovered) = open(&files).unwrap();
    check_log(&wal, &recovered, wal.segments[0].before, &entries);
    assert!(recovered.before.index.0 > 0, "the caller sees whether the state covers it");
}

#[test]
fn a_flipped_bit_in_a_compacted_log_or_a_new_one_is_found_or_harmless() {
    let (files, mut wal, _) = long();
    wal.compact(LogIndex(8)).unwrap();
    check_flips(&files, &all(&wal), 37);
    wal.reset(position(50, 9), voted(9, 2)).unwrap();
    flush_each(
        &mut wal,
        &[
            append(9, None, vec![command(9, 51, 1000), zeros(9, 52, 1000)]),
            append(9, None, vec![command(9, 53, 3000)]),
        ],
    );
    check_flips(&files, &all(&wal), 37);
}

#[test]
fn a_failed_compaction_or_new_beginning_poisons() {
    let (files, mut wal, _) = long();
    files.0.lock().unwrap().fail_sync = true;
    assert!(matches!(wal.reset(position(50, 9), voted(9, 2)), Err(StorageError::Disk { .. })));
    files.0.lock().unwrap().fail_sync = false;
    assert!(matches!(wal.compact(LogIndex(8)), Err(StorageError::Poisoned)));
    assert!(matches!(wal.reset(position(50, 9), voted(9, 2)), Err(StorageError::Poisoned)));
    assert_eq!(all(&open(&files).unwrap().0).len(), 12);
}

/// As any segment does: a node that is short of space installs a snapshot, too.
#[test]
fn a_full_disk_without_room_for_a_segment_lets_the_log_begin_in_a_small_one() {
    let files = MemoryFiles::default();
    let options = Options { segment_bytes: 2 << 20, ..SEGMENT };
    let first = append(1, None, vec![configuration(1, 1)]);
    let mut wal = Wal::create(files.clone(), &directory(), OWNER, options, Some(&first)).unwrap();
    files.0.lock().unwrap().bytes_max = Some(3 << 20);
    wal.reset(position(50, 4), voted(7, 2)).unwrap();
    assert_eq!(wal.size_bytes(), 256 << 10);
    flush_each(&mut wal, &[append(8, None, vec![command(8, 51, 1000)])]);
    let (opened, recovered) = Wal::open(files, &directory(), OWNER, options).unwrap();
    assert_eq!((recovered.before, all(&opened).len()), (position(50, 4), 1));
}
