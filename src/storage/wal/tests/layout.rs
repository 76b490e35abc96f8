//! The bytes of a segment: what this version writes, what every later version reads, and which bytes are no record.

use std::fmt::Write as _;

use super::*;
use crate::storage::wal::format::{
    Found, RecordContent, any_record_behind, encode_record, find_record, record_length,
};

/// A segment of format 2: offsets and bytes in hexadecimal. What is not shown is zero.
const FORMAT_2: &str = include_str!("format_2.txt");
const ROW_BYTES: usize = 32;

fn dump(segment: &[u8]) -> String {
    let mut text = String::new();
    for (number, row) in segment.chunks(ROW_BYTES).enumerate() {
        if row.iter().any(|byte| *byte != 0) {
            let _ = write!(text, "{:06x}:", number * ROW_BYTES);
            for byte in row {
                let _ = write!(text, " {byte:02x}");
            }
            text.push('\n');
        }
    }
    text
}

fn undump(text: &str) -> Vec<u8> {
    let mut segment = vec![0; SEGMENT.segment_bytes as usize];
    for line in text.lines() {
        let (offset, row) = line.split_once(": ").unwrap();
        let offset = usize::from_str_radix(offset, 16).unwrap();
        for (place, byte) in row.split(' ').enumerate() {
            segment[offset + place] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    segment
}

/// The content of the segment: every kind of entry, a truncation, records with and without entries and a vote, and
/// one that fills several sectors.
fn entries() -> Vec<AppendEntries> {
    let noop = Entry { term: Term(8), index: LogIndex(42), time: LogTime(42), payload: Payload::Noop };
    vec![
        append(8, None, vec![configuration(8, 41), noop, command(8, 43, 20)]),
        AppendEntries {
            hard_state: HardState { term: Term(9), voted_for: None },
            commit_index: LogIndex(42),
            ..append(9, None, vec![])
        },
        append(10, Some(43), vec![zeros(10, 43, 300), command(10, 44, 300)]),
    ]
}

/// A log that was reset behind entry 40, so that no field of its header is zero.
fn written() -> MemoryFiles {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    flush_each(&mut wal, &[append(2, None, vec![command(2, 2, 10), command(2, 3, 10)])]);
    let hard_state = HardState { term: Term(7), voted_for: Some(NodeId(70)) };
    wal.reset(LogPosition { index: LogIndex(40), term: Term(6) }, hard_state).unwrap();
    flush_each(&mut wal, &entries());
    files
}

#[test]
fn what_is_written_is_format_2_byte_for_byte() {
    assert_eq!(format::FORMAT, 2, "keep the segment of format 2 to be read, and add one of this format");
    let found = dump(&written().content(&segment::name(2)));
    assert!(found == FORMAT_2, "written was:\n{found}");
}

#[test]
fn a_segment_of_format_2_is_read() {
    let files = MemoryFiles::default();
    let file = files.create(&directory().join(segment::name(2))).unwrap();
    file.write_at(&undump(FORMAT_2), 0).unwrap();
    let (wal, found) = open(&files).unwrap();
    let position = |index, term| LogPosition { index: LogIndex(index), term: Term(term) };
    assert_eq!(found.hard_state, HardState { term: Term(10), voted_for: Some(NodeId(100)) });
    assert_eq!((found.before, found.last), (position(40, 6), position(44, 10)));
    assert_eq!((found.commit_index, found.time), (LogIndex(42), LogTime(44)));
    assert_eq!(found.runs, [position(41, 8), position(43, 10)]);
    let Payload::Configuration(members) = configuration(8, 41).payload else { unreachable!() };
    assert_eq!(found.configurations, [(LogIndex(41), members)]);
    let mut expected: Vec<Entry> = entries().into_iter().flat_map(|append| append.entries).collect();
    expected.remove(2);
    assert_eq!(all(&wal), expected, "the first entry 43 was truncated");
}

#[test]
fn a_copy_of_a_record_at_another_place_is_no_record() {
    const SALT: u32 = 0x1234_5678;
    let entries = [command(3, 7, 700)];
    let content = RecordContent {
        number: 5,
        hard_state: HardState { term: Term(3), voted_for: None },
        commit_index: LogIndex(6),
        truncate_from: None,
        entries: &entries,
        previous: 99,
    };
    let offset = 8192 + 40;
    let mut record = Vec::new();
    encode_record(&content, offset, SALT, &mut record);
    let is_one = |offset, salt| {
        let mut segment = vec![0; 16_384];
        let at = usize::try_from(offset).unwrap();
        segment[at..at + record.len()].copy_from_slice(&record);
        let is_found = matches!(find_record(&record, offset, salt), Found::Record(_));
        assert_eq!(record_length(&record, offset, salt), is_found.then_some(record.len()));
        assert_eq!(any_record_behind(&segment, 4096, salt), is_found.then_some(offset));
        is_found
    };
    assert!(is_one(offset, SALT));
    // To another sector, where its marks fit, or into another segment.
    for elsewhere in [offset - 4096, offset - 512, offset + 512, offset + 4096] {
        assert!(!is_one(elsewhere, SALT), "at {elsewhere}");
    }
    for salt in [SALT + 1, 0, !SALT] {
        assert!(!is_one(offset, salt), "in the segment of salt {salt}");
    }
}

/// A record behind the torn one would prove that the torn one had been flushed: that is damage.
#[test]
fn heads_of_records_in_a_torn_value_are_not_taken_for_records_behind_it() {
    let (files, entries) = mixed();
    let last = segment::sequences(&files.list(&directory()).unwrap()).pop().unwrap();
    let head = &files.content(&segment::name(last))[format::HEADER_BLOCK_BYTES..][..80];
    // The distance is odd, so that one of eight copies begins at a multiple of eight.
    let copies: Bytes = [head, &[1]].concat().repeat(10).into();
    let stored =
        Entry { term: Term(9), index: LogIndex(10), time: LogTime(10), payload: Payload::Command(copies) };
    let (name, range) = with_last_group(&files, vec![stored]);
    assert_eq!(name, segment::name(last));
    files.change(&name, |content| content[range.start..range.start + 80].fill(0));
    check_cut(&files, &entries, true);
}

/// Each record is sound; only the chain of checksums shows that they are of two histories.
#[test]
fn a_record_of_another_history_of_equal_size_is_damage() {
    let (common, _) = mixed();
    let [one, other] = [command(9, 10, 50), zeros(9, 10, 50)].map(|entry| {
        let files = common.fork();
        let (name, range) = with_last_group(&files, vec![entry]);
        let (mut wal, _) = open(&files).unwrap();
        flush_each(&mut wal, &[append(20, None, vec![command(20, 11, 50)])]);
        (files, name, range)
    });
    let (files, name, range) = one;
    assert_eq!((&name, &range), (&other.1, &other.2));
    let replaced = other.0.content(&name)[range.clone()].to_vec();
    files.change(&name, |content| content[range].copy_from_slice(&replaced));
    let error = open(&files).map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
}

/// The same for a segment, whose header has the checksum of the record before it.
#[test]
fn a_segment_of_another_history_of_equal_size_is_damage() {
    let (common, _) = mixed();
    let [one, other] = [command(9, 10, 50), zeros(9, 10, 50)].map(|entry| {
        let files = common.fork();
        let (before, _) = with_last_group(&files, vec![entry]);
        let (mut wal, _) = open(&files).unwrap();
        flush_each(&mut wal, &[append(9, None, vec![command(9, 11, 10_000)])]);
        let last = segment::name(wal.segments.last().unwrap().sequence);
        assert_ne!(before, last);
        (files, last)
    });
    let (files, last) = one;
    assert_eq!(last, other.1);
    files.change(&last, |content| *content = other.0.content(&last));
    let error = open(&files).map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
}
