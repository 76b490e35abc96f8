//! The log's last segment is gone, with or without the name that would report it.

use super::*;

const NOTES: [&str; 3] = ["newest-0000000000000001", "newest-0000000000000002", "newest-0000000000000003"];

/// A log of three segments.
fn three() -> (MemoryFiles, Vec<Entry>) {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    for index in 2..=6 {
        flush_each(&mut wal, &[append(1, None, vec![command(1, index, 9000)])]);
    }
    assert_eq!(wal.segments.len(), 3);
    (files, all(&wal))
}

fn notes(files: &MemoryFiles) -> Vec<String> {
    let names = files.list(&directory()).unwrap();
    names.into_iter().filter(|name| name.starts_with("newest-")).collect()
}

#[test]
fn a_missing_last_segment_is_damage_that_names_it() {
    let (whole, _) = three();
    assert_eq!(notes(&whole), NOTES[2..]);
    for missing in [&[3][..], &[2, 3]] {
        let files = whole.fork();
        for sequence in missing {
            files.unlink(&directory().join(segment::name(*sequence))).unwrap();
        }
        for error in [
            open(&files).map(|_| ()).unwrap_err(),
            Wal::owner(&files, &directory()).unwrap_err(),
            inspect(&files, &directory(), None, &mut |_| {}).map(|_| ()).unwrap_err(),
        ] {
            assert_eq!(error.exit_code(), 3);
            let text = error.to_string();
            assert!(text.contains("0000000000000003: this segment of the log is missing"), "{text}");
            assert!(text.contains("replace this member"), "{text}");
        }
        assert_eq!(notes(&files), NOTES[2..], "nothing was changed");
    }
}

#[test]
fn a_log_that_was_reset_needs_its_only_segment() {
    let (files, _) = three();
    let (mut wal, _) = open(&files).unwrap();
    wal.reset(LogPosition { index: LogIndex(9), term: Term(2) }, HardState::default()).unwrap();
    assert_eq!(notes(&files), ["newest-0000000000000004"]);
    files.unlink(&directory().join(segment::name(4))).unwrap();
    assert_eq!(open(&files).map(|_| ()).unwrap_err().exit_code(), 3);
}

#[test]
fn notes_that_a_crash_brought_back_or_lost_do_no_harm() {
    let (whole, entries) = three();
    // The old name, both names, none.
    for left in [&NOTES[1..2], &NOTES[1..], &NOTES[..0], &NOTES[..2]] {
        let files = whole.fork();
        files.unlink(&directory().join(NOTES[2])).unwrap();
        for name in left {
            files.create(&directory().join(name)).unwrap();
        }
        let (wal, _) = open(&files).unwrap();
        assert_eq!(all(&wal), entries, "{left:?}");
        assert_eq!(notes(&files), NOTES[2..], "an opening notes what there is");
    }
}

#[test]
fn a_new_segment_costs_the_write_path_no_further_flush() {
    let (files, _) = three();
    let (mut wal, _) = open(&files).unwrap();
    flush_each(&mut wal, &[append(1, None, vec![command(1, 7, 9000)])]);
    wal.take_preparation().unwrap().run().unwrap();
    let before = files.0.lock().unwrap().journal.len();
    flush_each(&mut wal, &[append(1, None, vec![command(1, 8, 9000)])]);
    let disk = files.0.lock().unwrap();
    let flushes = disk.journal[before..].iter().filter(|operation| {
        matches!(operation, memory::Operation::Sync(_) | memory::Operation::SyncDirectory)
    });
    assert_eq!(flushes.count(), 3, "the header, the segment's name, the record");
}
