//! What was flushed comes back, whatever the crash left behind it, and nothing else is taken for it.

mod beginning;
mod crash;
mod layout;
mod memory;
mod newest;
mod scrub;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use self::memory::MemoryFiles;
use super::*;
use crate::raft::{Member, Payload};
use crate::types::{IoId, LogTime, Session, Term};

const OWNER: Owner = Owner { node_id: NodeId(0x1234_5678_9abc_def0), cluster_id: ClusterId(77) };
const SEGMENT: Options = Options { segment_bytes: 24 << 10, rules: Rules::SOUND };

fn directory() -> PathBuf {
    PathBuf::from("/data/wal")
}

fn command(term: u64, index: u64, bytes: usize) -> Entry {
    let data: Vec<u8> = (0..bytes).map(|i| u8::try_from((i * 7 + bytes + 1) % 251).unwrap()).collect();
    Entry {
        term: Term(term),
        index: LogIndex(index),
        time: LogTime(index),
        payload: Payload::Command(data.into()),
    }
}

/// A value of zeros looks like sectors that were never written.
fn zeros(term: u64, index: u64, bytes: usize) -> Entry {
    Entry {
        term: Term(term),
        index: LogIndex(index),
        time: LogTime(index),
        payload: Payload::Command(vec![0; bytes].into()),
    }
}

fn configuration(term: u64, index: u64) -> Entry {
    let member = Member { name: "one".into(), session: Session(1), ..Member::default() };
    let voters = BTreeMap::from([(OWNER.node_id, member)]);
    let payload = Payload::Configuration(Arc::new(Configuration { voters, ..Configuration::default() }));
    Entry { term: Term(term), index: LogIndex(index), time: LogTime(index), payload }
}

fn append(term: u64, truncate_from: Option<u64>, entries: Vec<Entry>) -> AppendEntries {
    AppendEntries {
        io: IoId(1),
        truncate_from: truncate_from.map(LogIndex),
        hard_state: HardState { term: Term(term), voted_for: Some(NodeId(term * 10)) },
        commit_index: LogIndex(0),
        entries,
    }
}

fn create(files: &MemoryFiles) -> Wal<MemoryFiles> {
    let first = append(1, None, vec![configuration(1, 1)]);
    Wal::create(files.clone(), &directory(), OWNER, SEGMENT, Some(&first)).unwrap()
}

fn open(files: &MemoryFiles) -> Result<(Wal<MemoryFiles>, Recovered), StorageError> {
    Wal::open(files.clone(), &directory(), OWNER, SEGMENT)
}

fn all<F: Files>(wal: &Wal<F>) -> Vec<Entry> {
    wal.read(wal.first_index(), LogIndex(u64::MAX), usize::MAX).unwrap()
}

fn flush_each(wal: &mut Wal<MemoryFiles>, appends: &[AppendEntries]) {
    for append in appends {
        wal.append(append);
        wal.flush().unwrap();
    }
}

/// A log of a few segments with every kind of record.
fn mixed() -> (MemoryFiles, Vec<Entry>) {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    let noop = Entry { term: Term(2), index: LogIndex(2), time: LogTime(2), payload: Payload::Noop };
    flush_each(
        &mut wal,
        &[
            append(2, None, vec![noop, command(2, 3, 100), command(2, 4, 0)]),
            append(3, None, vec![]),
            append(3, None, vec![zeros(3, 5, 9000), command(3, 6, 12_000)]),
            append(4, Some(6), vec![command(4, 6, 600), configuration(4, 7)]),
            append(4, Some(7), vec![]),
            append(5, None, vec![command(5, 7, 15_000)]),
            append(5, None, vec![command(5, 8, 300), zeros(5, 9, 3000)]),
        ],
    );
    let entries = all(&wal);
    assert!(wal.segments.len() > 1);
    (files, entries)
}

#[test]
fn what_was_flushed_comes_back() {
    let (files, entries) = mixed();
    let (wal, recovered) = open(&files).unwrap();
    assert_eq!(all(&wal), entries);
    assert_eq!(entries.iter().map(|entry| entry.index.0).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    assert_eq!(recovered.hard_state, HardState { term: Term(5), voted_for: Some(NodeId(50)) });
    assert_eq!(recovered.last, LogPosition { index: LogIndex(9), term: Term(5) });
    let runs: Vec<_> = recovered.runs.iter().map(|run| (run.index.0, run.term.0)).collect();
    assert_eq!(runs, [(1, 1), (2, 2), (5, 3), (6, 4), (7, 5)]);
    let configurations: Vec<_> = recovered.configurations.iter().map(|(index, _)| index.0).collect();
    assert_eq!(configurations, [1], "the one at 7 was truncated");
    assert_eq!(recovered.torn_tail, None);
}

#[test]
fn what_was_not_flushed_does_not() {
    let (files, entries) = mixed();
    let (mut wal, _) = open(&files).unwrap();
    wal.append(&append(6, Some(4), vec![command(6, 4, 10)]));
    assert_eq!(all(&wal).len(), 3, "neither what is about to be truncated nor what waits is given out");
    assert_eq!(all(&open(&files).unwrap().0), entries);
}

#[test]
fn appends_of_one_group_are_one_write_and_one_flush() {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    let before = files.counts();
    wal.append(&append(1, None, vec![command(1, 2, 10), command(1, 3, 10)]));
    wal.append(&append(2, Some(3), vec![command(2, 3, 20), command(2, 4, 20)]));
    wal.append(&append(3, Some(2), vec![command(3, 2, 30)]));
    wal.append(&append(3, None, vec![command(3, 3, 30)]));
    assert_eq!(wal.flush().unwrap().entries, 2);
    let after = files.counts();
    assert_eq!(after, (before.0 + 1, before.1 + 1));
    assert_eq!(wal.flush().unwrap(), FlushStats::default(), "nothing waits");
    assert_eq!(files.0.lock().unwrap().syncs, after.1);
    let expected = [configuration(1, 1), command(3, 2, 30), command(3, 3, 30)];
    assert_eq!(all(&wal), expected);
    assert_eq!(all(&open(&files).unwrap().0), expected);
}

#[test]
fn the_commit_index_is_a_hint_that_costs_no_flush() {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    let mut commit = append(1, None, vec![]);
    commit.commit_index = LogIndex(1);
    wal.append(&commit);
    assert_eq!(wal.flush().unwrap(), FlushStats::default());
    flush_each(&mut wal, &[append(1, None, vec![command(1, 2, 1)])]);
    assert_eq!(open(&files).unwrap().1.commit_index, LogIndex(1));
    commit.commit_index = LogIndex(50);
    commit.hard_state.term = Term(2);
    flush_each(&mut wal, &[commit]);
    assert_eq!(open(&files).unwrap().1.commit_index, LogIndex(2), "nothing beyond the log is applied");
}

#[test]
fn reads_stop_at_the_limits_asked_for() {
    let (files, entries) = mixed();
    let (wal, _) = open(&files).unwrap();
    for from in 1..=9 {
        for through in from..=9 {
            let read = wal.read(LogIndex(from), LogIndex(through), usize::MAX).unwrap();
            let range = usize::try_from(from - 1).unwrap()..usize::try_from(through).unwrap();
            assert_eq!(read, entries[range]);
        }
    }
    assert_eq!(wal.read(LogIndex(5), LogIndex(9), 0).unwrap(), entries[4..5], "one is always given");
    let two = entries[2].size_bytes() + entries[3].size_bytes();
    assert_eq!(wal.read(LogIndex(3), LogIndex(9), two).unwrap(), entries[2..4]);
    assert_eq!(wal.read(LogIndex(10), LogIndex(20), two).unwrap(), []);
    let before = wal.read(LogIndex(0), LogIndex(1), 1);
    assert!(matches!(before, Err(StorageError::BeforeLog { .. })));
}

#[test]
fn a_group_larger_than_a_segment_is_stored() {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    let large = command(1, 2, 100_000);
    flush_each(&mut wal, &[append(1, None, vec![large.clone()]), append(1, None, vec![command(1, 3, 5)])]);
    let (wal, _) = open(&files).unwrap();
    assert_eq!(all(&wal)[1..], [large, command(1, 3, 5)]);
}

#[test]
fn a_prepared_segment_is_taken() {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    assert!(wal.take_preparation().is_none(), "too early");
    flush_each(&mut wal, &[append(1, None, vec![command(1, 2, 8000)])]);
    wal.take_preparation().expect("a quarter is used").run().unwrap();
    assert!(wal.take_preparation().is_none(), "once a segment");
    let writes = files.0.lock().unwrap().writes;
    flush_each(&mut wal, &[append(1, None, vec![command(1, 3, 16_000)])]);
    assert_eq!(files.0.lock().unwrap().writes, writes + 2, "header and record");
    assert_eq!(all(&open(&files).unwrap().0).len(), 3);
}

#[test]
fn a_full_disk_without_room_for_a_segment_gets_a_small_one() {
    let files = MemoryFiles::default();
    let options = Options { segment_bytes: 2 << 20, ..SEGMENT };
    let first = append(1, None, vec![configuration(1, 1)]);
    let mut wal = Wal::create(files.clone(), &directory(), OWNER, options, Some(&first)).unwrap();
    files.0.lock().unwrap().bytes_max = Some(3 << 20);
    flush_each(&mut wal, &[append(1, None, vec![command(1, 2, 2_000_000)])]);
    for index in 3..6 {
        flush_each(&mut wal, &[append(index, None, vec![command(index, index, 200_000)])]);
    }
    assert_eq!(wal.size_bytes(), (2 << 20) + 3 * (256 << 10));
    let (mut wal, recovered) = Wal::open(files.clone(), &directory(), OWNER, options).unwrap();
    assert_eq!((all(&wal).len(), recovered.hard_state.term), (5, Term(5)));
    // What needs more than there is still is an error, after which nothing is tried again.
    wal.append(&append(6, None, vec![command(6, 6, 400_000)]));
    assert_eq!(wal.flush().unwrap_err().exit_code(), 4);
    assert!(matches!(wal.flush(), Err(StorageError::Poisoned)));
}

#[test]
fn a_restart_keeps_the_segment_that_is_ready() {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    flush_each(&mut wal, &[append(1, None, vec![command(1, 2, 8000)])]);
    wal.take_preparation().unwrap().run().unwrap();
    let (mut wal, _) = open(&files).unwrap();
    let writes = files.0.lock().unwrap().writes;
    wal.take_preparation().expect("a quarter is used").run().unwrap();
    assert_eq!(files.0.lock().unwrap().writes, writes, "it is there already");
    flush_each(&mut wal, &[append(1, None, vec![command(1, 3, 16_000)])]);
    assert_eq!(files.0.lock().unwrap().writes, writes + 2, "header and record");
}

#[test]
fn a_late_preparation_does_no_harm() {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    let mut next = 2;
    let mut flush = |wal: &mut Wal<MemoryFiles>| {
        flush_each(wal, &[append(1, None, vec![command(1, next, 16_000)])]);
        next += 1;
    };
    flush(&mut wal);
    let late = wal.take_preparation().unwrap();
    flush(&mut wal);
    let in_time = wal.take_preparation().unwrap();
    in_time.run().unwrap();
    files.0.lock().unwrap().before_taking = Some(Box::new(move || late.run().unwrap()));
    for _ in 0..4 {
        flush(&mut wal);
    }
    assert!(files.0.lock().unwrap().before_taking.is_none());
    assert_eq!(all(&open(&files).unwrap().0), all(&wal));
}

/// A log whose last group is `entries`, and the offsets of that group in its segment.
fn with_last_group(files: &MemoryFiles, entries: Vec<Entry>) -> (String, std::ops::Range<usize>) {
    let (mut wal, _) = open(files).unwrap();
    wal.append(&append(9, None, entries));
    let bytes = wal.flush().unwrap().bytes;
    let segment = wal.segments.last().unwrap();
    let content = files.content(&segment::name(segment.sequence));
    let used = format::used_behind(&content, 0).end;
    (segment::name(segment.sequence), used - bytes..used)
}

fn torn_groups() -> Vec<Vec<Entry>> {
    vec![
        vec![],
        vec![command(9, 10, 1)],
        vec![command(9, 10, 380), command(9, 11, 40)],
        vec![zeros(9, 10, 1800), command(9, 11, 300), zeros(9, 12, 700)],
    ]
}

/// Opens, expects what was there before the last group, continues to write, and opens again.
fn check_cut(files: &MemoryFiles, entries: &[Entry], is_reported: bool) {
    let (mut wal, recovered) = open(files).unwrap();
    assert_eq!(recovered.torn_tail.is_some(), is_reported);
    assert_eq!(recovered.hard_state.term, Term(5));
    assert_eq!(all(&wal), entries);
    flush_each(&mut wal, &[append(10, None, vec![command(10, 10, 50)])]);
    let (wal, recovered) = open(files).unwrap();
    assert_eq!(recovered.torn_tail, None);
    assert_eq!(all(&wal)[..9], *entries);
    assert_eq!(all(&wal)[9..], [command(10, 10, 50)]);
}

#[test]
fn a_write_cut_at_any_byte_is_cut() {
    let (before, entries) = mixed();
    for group in torn_groups() {
        let whole = before.fork();
        let (name, range) = with_last_group(&whole, group);
        for end in range.clone() {
            let files = whole.fork();
            files.change(&name, |content| content[end..].fill(0));
            check_cut(&files, &entries, end > range.start);
        }
    }
}

#[test]
fn the_cutting_itself_may_be_cut_short_at_any_byte() {
    let (before, entries) = mixed();
    for group in torn_groups().into_iter().take(2) {
        let whole = before.fork();
        let (name, range) = with_last_group(&whole, group);
        let torn = whole.fork();
        torn.change(&name, |content| content[range.end - 1] = 0);
        let opened = torn.fork();
        drop(open(&opened).unwrap());
        let journal = opened.0.lock().unwrap().journal.clone();
        let writes = journal.iter().filter_map(|operation| match operation {
            memory::Operation::Write(_, at, data) => Some((*at, data)),
            _ => None,
        });
        let files = torn.fork();
        for (at, data) in writes {
            for end in at..at + data.len() {
                check_cut(&files.fork(), &entries, range.clone().any(|at| files.content(&name)[at] != 0));
                files.change(&name, |content| content[end] = data[end - at]);
            }
        }
    }
}

#[test]
fn a_write_of_which_any_sectors_are_missing_is_cut() {
    let (before, entries) = mixed();
    for group in torn_groups() {
        let whole = before.fork();
        let (name, range) = with_last_group(&whole, group);
        let (first, last) = (range.start / 512, (range.end - 1) / 512);
        for subset in 1..1_u32 << (last - first + 1) {
            let missing: Vec<usize> = (first..=last).filter(|i| subset >> (i - first) & 1 == 1).collect();
            let files = whole.fork();
            for sector in &missing {
                let range = (sector * 512).max(range.start)..((sector + 1) * 512).min(range.end);
                files.change(&name, |content| content[range].fill(0));
            }
            check_cut(&files, &entries, missing.len() <= last - first);
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_record_is_damage_not_a_cut() {
    let (before, _) = mixed();
    for group in torn_groups() {
        let whole = before.fork();
        let (name, range) = with_last_group(&whole, group);
        for at in range {
            let files = whole.fork();
            files.change(&name, |content| content[at] ^= 1 << (at % 8));
            let error = open(&files).map(|_| ()).unwrap_err();
            assert_eq!(error.exit_code(), 3, "byte {at}: {error}");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_or_harmless() {
    let (whole, entries) = mixed();
    check_flips(&whole, &entries, 7);
}

/// Flips bits all over the log's files, one at a time.
fn check_flips(whole: &MemoryFiles, entries: &[Entry], step: usize) {
    let recovered = open(&whole.fork()).unwrap().1;
    let names: BTreeSet<String> = whole.list(&directory()).unwrap().into_iter().collect();
    let (mut found, mut harmless) = (0, 0);
    for name in &names {
        let content = whole.content(name);
        for at in (0..content.len()).step_by(step) {
            let files = whole.fork();
            files.change(name, |content| content[at] ^= 1 << (at * 5 % 8));
            match open(&files) {
                Err(error) => {
                    assert_eq!(error.exit_code(), 3, "{name} byte {at}: {error}");
                    assert_eq!(
                        files.content(name)[at],
                        content[at] ^ (1 << (at * 5 % 8)),
                        "nothing overwritten"
                    );
                    found += 1;
                }
                Ok((wal, again)) => {
                    assert_eq!(all(&wal), entries, "{name} byte {at}");
                    assert_eq!((again.hard_state, &again.runs), (recovered.hard_state, &recovered.runs));
                    assert_eq!((again.before, again.time), (recovered.before, recovered.time));
                    harmless += 1;
                }
            }
        }
    }
    assert!(found > 100 && harmless > 100, "{found} found, {harmless} harmless");
}

#[test]
fn a_lost_sector_before_the_last_record_is_damage() {
    let (whole, _) = mixed();
    let (name, range) = with_last_group(&whole, vec![command(9, 10, 10)]);
    for sector in format::HEADER_BLOCK_BYTES / 512..range.start / 512 {
        let files = whole.fork();
        files.change(&name, |content| content[sector * 512..][..512].fill(0));
        let error = open(&files).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
    }
}

#[test]
fn damage_is_described() {
    let (files, _) = mixed();
    files.change("0000000000000001", |content| content[4400] ^= 4);
    let text = open(&files).map(|_| ()).unwrap_err().to_string();
    for part in
        ["/data/wal/0000000000000001", "byte 4", "log entry", "checksum", "The log was not changed", "verify"]
    {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn a_bit_flipped_after_opening_is_found_when_read() {
    let (files, entries) = mixed();
    let (wal, _) = open(&files).unwrap();
    let at = wal.positions.places[1];
    files.change(&segment::name(1), |content| content[at.offset as usize + 100] ^= 1);
    let error = wal.read(LogIndex(2), LogIndex(4), usize::MAX).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert_eq!(wal.read(LogIndex(1), LogIndex(1), 1).unwrap(), entries[..1]);
}

#[test]
fn records_stored_as_a_value_are_not_taken_for_records() {
    let (files, entries) = mixed();
    let copy: Bytes = files.content(&segment::name(1))[4096..].to_vec().into();
    let stored =
        Entry { term: Term(9), index: LogIndex(10), time: LogTime(10), payload: Payload::Command(copy) };
    let (name, range) = with_last_group(&files, vec![stored]);
    files.change(&name, |content| content[range.start..range.start + 200].fill(0));
    check_cut(&files, &entries, true);
}

#[test]
fn missing_segments_are_damage() {
    let (whole, _) = mixed();
    let (mut wal, _) = open(&whole).unwrap();
    for index in 10..16 {
        flush_each(&mut wal, &[append(9, None, vec![command(9, index, 14_000)])]);
    }
    let count = wal.segments.len() as u64;
    assert!(count > 4);
    for sequence in 2..count {
        let files = whole.fork();
        files.unlink(&directory().join(segment::name(sequence))).unwrap();
        let error = open(&files).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(&segment::name(sequence)), "{error}");
    }
    let files = whole.fork();
    let (two, three) = (segment::name(2), segment::name(3));
    let content = files.content(&two);
    files.change(&three, |other| *other = content);
    assert_eq!(open(&files).map(|_| ()).unwrap_err().exit_code(), 3, "a segment under another's name");
    assert!(open(&MemoryFiles::default()).is_err_and(|error| error.exit_code() == 3), "no segments");
}

#[test]
fn the_log_of_another_is_refused() {
    let (files, _) = mixed();
    for owner in [Owner { node_id: NodeId(1), ..OWNER }, Owner { cluster_id: ClusterId(1), ..OWNER }] {
        let error = Wal::open(files.clone(), &directory(), owner, SEGMENT).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 5, "{error}");
    }
}

#[test]
fn after_a_failed_write_or_flush_nothing_more_is_tried() {
    for fail_write in [true, false] {
        let (files, entries) = mixed();
        let (mut wal, _) = open(&files).unwrap();
        wal.append(&append(9, None, vec![command(9, 10, 10)]));
        files.0.lock().unwrap().fail_write = fail_write;
        files.0.lock().unwrap().fail_sync = !fail_write;
        let error = wal.flush().unwrap_err();
        assert!(matches!(error, StorageError::Disk { .. }) && error.exit_code() == 4, "{error}");
        files.0.lock().unwrap().fail_write = false;
        files.0.lock().unwrap().fail_sync = false;
        let counts = files.counts();
        assert!(matches!(wal.flush(), Err(StorageError::Poisoned)));
        assert!(matches!(wal.read(LogIndex(1), LogIndex(1), 1), Err(StorageError::Poisoned)));
        assert_eq!(files.counts(), counts);
        assert_eq!(all(&open(&files).unwrap().0)[..9], entries);
    }
}

#[test]
fn an_interrupted_creation_leaves_no_log() {
    let files = MemoryFiles::default();
    files.create(&directory().join("starting")).unwrap();
    assert!(!Wal::exists(&files, &directory()).unwrap());
    let wal = create(&files);
    assert!(Wal::exists(&files, &directory()).unwrap());
    assert_eq!(all(&wal), [configuration(1, 1)]);
}

#[test]
fn works_on_the_operating_systems_files() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("wal");
    let files = crate::storage::files::OsFiles;
    assert!(!Wal::exists(&files, &directory).unwrap());
    let mut wal = Wal::create(files, &directory, OWNER, SEGMENT, None).unwrap();
    let entries: Vec<Entry> = (1..=40).map(|index| command(1, index, 2000)).collect();
    for entry in &entries {
        wal.append(&append(1, None, vec![entry.clone()]));
        wal.flush().unwrap();
    }
    drop(wal);
    let (wal, recovered) = Wal::open(files, &directory, OWNER, SEGMENT).unwrap();
    assert_eq!(recovered.torn_tail, None);
    assert_eq!(all(&wal), entries);
}
