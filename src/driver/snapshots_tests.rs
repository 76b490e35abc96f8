//! What comes in, from whom, and instead of what.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, bounded};
use tempfile::TempDir;

use super::*;
use crate::driver::shutdown;
use crate::storage::DataDir;
use crate::storage::state::SledState;
use crate::storage::wal::Options;
use crate::types::{ClusterId, LogIndex, LogPosition, Session, Term};

const ONE: NodeId = NodeId(1);

struct Node {
    receiving: Receiving<SledState>,
    free_bytes: Arc<AtomicU64>,
    done: Receiver<Done>,
    status: Arc<RwLock<Status>>,
    root: TempDir,
}

/// What is kept free.
const RESERVE: u64 = 100 << 20;

fn node() -> Node {
    let root = tempfile::tempdir().unwrap();
    let mut wait = |_: &str| ControlFlow::Break(());
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    let mut directory = DataDir::open(root.path(), "two", options, &mut wait).unwrap();
    directory.join(ClusterId(7), None).unwrap();
    let state = Arc::new(Mutex::new(directory.into_parts().unwrap().state));
    let status = Arc::new(RwLock::new(Status {
        node_id: NodeId(2),
        term: Term(5),
        leader: Some(ONE),
        has_quorum: true,
        is_heard: true,
        ..Status::sample()
    }));
    let (done_in, done) = bounded(16);
    let reporter = shutdown::Threads::default().reporter();
    let free_bytes = Arc::new(AtomicU64::new(u64::MAX));
    let free = Arc::clone(&free_bytes);
    let disk =
        Room { free_bytes: Arc::new(move || Ok(free.load(Ordering::Relaxed))), reserve_bytes: RESERVE };
    let receiving =
        Receiving::new(state, Shelf::default(), Arc::clone(&status), done_in, reporter, disk, Metrics::new());
    Node { receiving, free_bytes, done, status, root }
}

/// A state of several chunks at this entry.
fn cut(term: u64, index: u64) -> Cut {
    Cut::sample(20, Term(term), LogPosition { index: LogIndex(index), term: Term(term) })
}

impl Node {
    /// Sends chunks `from..until` of a cut; true if the last one was among them.
    fn send(&self, cut: &Cut, id: u64, from: u64, until: u64) -> Result<bool, Refused> {
        let mut result = Ok(false);
        cut.chunks(id, from, |chunk| {
            if chunk.number >= until {
                return ControlFlow::Break(());
            }
            result = self.receiving.chunk(ONE, id, &chunk);
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        result
    }

    fn set_free(&self, bytes: u64) {
        self.free_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Generations of the state that are on the disk.
    fn generations(&self) -> usize {
        let entries = std::fs::read_dir(self.root.path().join("data")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("state-")).count()
    }

    fn offer(&self, cut: &Cut, id: u64) -> Result<Offered, Refused> {
        self.receiving.offer(ONE, cut.header(id))
    }
}

#[test]
fn a_snapshot_that_is_whole_goes_to_the_core_and_the_next_one_waits_until_it_is_decided_on() {
    let node = node();
    let cut = cut(5, 500);
    assert_eq!(node.offer(&cut, 7).unwrap(), Offered::From(0));
    assert!(!node.send(&cut, 7, 0, 3).unwrap());
    // The connection broke; the same one is continued.
    assert_eq!(node.offer(&cut, 7).unwrap(), Offered::From(3));
    assert!(node.send(&cut, 7, 3, u64::MAX).unwrap());
    let Ok(Done::Event(Event::SnapshotReceived { from, term, session, snapshot, staged })) =
        node.done.try_recv()
    else {
        panic!("the core was not told")
    };
    assert_eq!((from, term, session, snapshot), (ONE, Term(5), Session(1), cut.snapshot.clone()));
    // Its sender has not heard of it.
    assert_eq!(node.offer(&cut, 7).unwrap(), Offered::Complete);
    assert!(matches!(node.offer(&cut, 8), Err(Refused::NotNow(_))));
    node.receiving.shelf.remove(staged);
    assert_eq!(node.offer(&cut, 8).unwrap(), Offered::From(0));
    assert_eq!(node.receiving.metrics.raft_snapshots_received_total.get(), 1);
}

#[test]
fn a_newer_snapshot_replaces_one_on_its_way_and_an_older_one_does_not() {
    let node = node();
    let (old, new) = (cut(5, 500), cut(6, 600));
    node.offer(&old, 7).unwrap();
    node.send(&old, 7, 0, 2).unwrap();
    assert_eq!(node.offer(&new, 8).unwrap(), Offered::From(0));
    assert!(matches!(node.send(&old, 7, 2, 3), Err(Refused::Outdated(_))));
    assert!(matches!(node.offer(&old, 7), Err(Refused::Outdated(_))));
    assert!(matches!(node.offer(&cut(6, 400), 9), Err(Refused::Outdated(_))));
    assert!(node.send(&new, 8, 0, u64::MAX).unwrap());
}

#[test]
fn a_leader_of_an_earlier_term_is_told_so() {
    let node = node();
    node.status.write().unwrap().term = Term(9);
    assert!(matches!(node.offer(&cut(5, 500), 7), Err(Refused::Outdated(_))));
}

#[test]
fn a_malformed_snapshot_is_discarded_and_can_be_sent_again() {
    let node = node();
    let cut = cut(5, 500);
    let bad = Header { hash: 1, ..cut.header(7) };
    node.receiving.offer(ONE, bad).unwrap();
    let error = node.send(&cut, 7, 0, u64::MAX).unwrap_err();
    assert!(matches!(error, Refused::Malformed(_)), "{error}");
    assert!(node.done.try_recv().is_err() && node.receiving.shelf.is_empty());
    assert_eq!(node.offer(&cut, 7).unwrap(), Offered::From(0));
    assert!(node.send(&cut, 7, 0, u64::MAX).unwrap());
}

#[test]
fn a_snapshot_that_nobody_continues_is_discarded() {
    let node = node();
    let cut = cut(5, 500);
    node.offer(&cut, 7).unwrap();
    node.send(&cut, 7, 0, 2).unwrap();
    node.receiving.expire();
    assert_eq!(node.offer(&cut, 7).unwrap(), Offered::From(2), "it was touched a moment ago");
    node.receiving.slot().touched = Instant::now().checked_sub(ABANDONED * 2).unwrap();
    node.receiving.expire();
    assert_eq!(node.offer(&cut, 7).unwrap(), Offered::From(0));
}

/// What a snapshot of this cut takes on the disk.
fn needed(cut: &Cut) -> u64 {
    <SledState as StateStore>::Staging::disk_bytes_max(cut.header(7).bytes_max)
}

#[track_caller]
fn refused_for_room(result: Result<impl std::fmt::Debug, Refused>) -> String {
    match result {
        Err(Refused::NotNow(why)) if why.starts_with("no room for a snapshot: ") => why.into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_snapshot_that_would_use_up_the_reserve_is_refused_until_there_is_room() {
    let node = node();
    let cut = cut(5, 500);
    node.set_free(RESERVE + needed(&cut) - 1);
    let why = refused_for_room(node.offer(&cut, 7));
    let told = "19 MiB of disk are needed and 100 MiB are kept in reserve, but only 118 MiB are free";
    assert!(why.ends_with(told), "{why}");
    refused_for_room(node.offer(&cut, 7));
    assert_eq!(node.generations(), 1, "nothing was staged");
    let metrics = &node.receiving.metrics;
    assert_eq!(metrics.raft_snapshots_refused_total.get(), 2);
    assert_eq!(metrics.storage_free_bytes.get(), i64::try_from(RESERVE + needed(&cut) - 1).unwrap());
    node.set_free(RESERVE + needed(&cut));
    assert_eq!(node.offer(&cut, 7).unwrap(), Offered::From(0));
    assert!(node.send(&cut, 7, 0, u64::MAX).unwrap());
}

#[test]
fn a_snapshot_is_discarded_when_space_runs_out_and_starts_again_when_there_is_room() {
    let node = node();
    // More than is taken between two looks.
    let cut = Cut::sample(150, Term(5), LogPosition { index: LogIndex(500), term: Term(5) });
    node.set_free(RESERVE + needed(&cut));
    node.offer(&cut, 7).unwrap();
    assert_eq!(node.generations(), 2);
    node.set_free(RESERVE);
    refused_for_room(node.send(&cut, 7, 0, u64::MAX));
    assert_eq!(node.generations(), 1, "its space is free again");
    assert!(matches!(node.send(&cut, 7, 0, 1), Err(Refused::Outdated(_))));
    refused_for_room(node.offer(&cut, 7));
    node.set_free(RESERVE + needed(&cut));
    assert_eq!(node.offer(&cut, 7).unwrap(), Offered::From(0));
    assert!(node.send(&cut, 7, 0, u64::MAX).unwrap());
}

#[test]
fn only_what_is_still_to_come_must_fit() {
    let node = node();
    let cut = Cut::sample(150, Term(5), LogPosition { index: LogIndex(500), term: Term(5) });
    node.offer(&cut, 7).unwrap();
    // What came until the look took that much.
    node.set_free(RESERVE + needed(&cut) - 2 * LOOK_BYTES);
    assert!(node.send(&cut, 7, 0, u64::MAX).unwrap());
}
