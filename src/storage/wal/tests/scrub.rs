//! Old segments that a disk changed while the log runs.

use std::ops::ControlFlow;

use super::*;

/// A log of several segments, the largest record above what is read at once.
fn long() -> (MemoryFiles, Wal<MemoryFiles>) {
    let files = MemoryFiles::default();
    let mut wal = create(&files);
    for index in 2..=10 {
        let bytes = if index == 5 { 700_000 } else { 9000 };
        flush_each(&mut wal, &[append(1, None, vec![command(1, index, bytes)])]);
    }
    assert!(wal.segments.len() > 4);
    (files, wal)
}

fn pass(wal: &Wal<MemoryFiles>) -> Vec<DamagedSegment> {
    wal.scrub().pass(&mut |_| ControlFlow::Continue(())).unwrap().unwrap()
}

#[test]
fn a_sound_log_is_read_but_for_its_newest_segment() {
    let (_, mut wal) = long();
    let mut read = 0;
    let found = wal.scrub().pass(&mut |bytes| {
        read += bytes as u64;
        ControlFlow::Continue(())
    });
    assert!(found.unwrap().unwrap().is_empty());
    let active = wal.active().bytes;
    assert!(read >= wal.size_bytes() - active - 4096 * wal.segments.len() as u64, "{read} bytes");
    // A segment that is removed meanwhile is none that is damaged.
    wal.compact(LogIndex(6)).unwrap();
    assert!(pass(&wal).is_empty());
}

#[test]
fn a_flipped_bit_in_a_closed_segment_is_found_while_the_log_runs() {
    let (files, wal) = long();
    let closed: Vec<_> =
        wal.segments[..wal.segments.len() - 1].iter().map(|segment| segment.sequence).collect();
    let mut found = 0;
    for (at, sequence) in closed.iter().enumerate() {
        let name = segment::name(*sequence);
        let used = format::used_behind(&files.content(&name), 0).end;
        for offset in (0..used).step_by(997).filter(|offset| !(120..4096).contains(offset)) {
            files.change(&name, |content| content[offset] ^= 4);
            let damaged = pass(&wal);
            // What pads a record to the next multiple of eight belongs to none.
            if let [segment] = &damaged[..] {
                assert!(segment.damage.path.ends_with(&name), "{segment:?}");
                assert_eq!(segment.through, wal.segments[at + 1].before.index);
                found += 1;
            }
            files.change(&name, |content| content[offset] ^= 4);
        }
    }
    assert!(found > 50, "{found}");
    assert!(pass(&wal).is_empty());
}

#[test]
fn records_that_are_gone_are_found() {
    let (files, wal) = long();
    let name = segment::name(wal.segments[1].sequence);
    files.change(&name, |content| content[4096..].fill(0));
    let [segment] = &pass(&wal)[..] else { panic!("not found") };
    assert!(segment.damage.what.contains("records are missing"), "{segment:?}");
}

#[test]
fn a_pass_ends_when_told() {
    let (_, wal) = long();
    let mut pieces = 0;
    let ended = wal.scrub().pass(&mut |_| {
        pieces += 1;
        if pieces == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(ended.unwrap().is_none() && pieces == 2);
}
