//! A start on a log that was compacted, or that a snapshot's installation left behind.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::kv::{Command, Condition, Operation};
use crate::raft::{AppendEntries, HardState, Member, Payload};
use crate::storage::files::OsFiles;
use crate::storage::state::SledState;
use crate::storage::wal::Options;
use crate::storage::{DataDir, Opened};
use crate::types::{ClusterId, IoId, LogTime, Session, Term};

const VOTE: HardState = HardState { term: Term(3), voted_for: Some(NodeId(9)) };

fn open(root: &Path) -> DataDir {
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    DataDir::open(root, "one", options, &mut |_| ControlFlow::Break(())).unwrap()
}

fn put(index: u64) -> Entry {
    let (key, value) = (format!("key-{index}").into(), Bytes::from(vec![1; 3000]));
    let command = Command::from(Operation::Put { key, value, condition: Condition::Always });
    let payload = Payload::Command(command.encode());
    Entry { term: Term(3), index: LogIndex(index), time: LogTime(index), payload }
}

fn append(entries: Vec<Entry>, commit_index: u64) -> AppendEntries {
    AppendEntries {
        io: IoId(1),
        truncate_from: None,
        hard_state: VOTE,
        commit_index: LogIndex(commit_index),
        entries,
    }
}

fn configuration() -> Arc<Configuration> {
    let member = Member { name: "one".into(), session: Session(1), ..Member::default() };
    Arc::new(Configuration { voters: [(NodeId(1), member)].into(), ..Configuration::default() })
}

/// A member with `last` entries, the first of them a configuration.
fn member(root: &Path, last: u64) -> Opened {
    let mut directory = open(root);
    let payload = Payload::Configuration(configuration());
    let first = Entry { term: Term(3), index: LogIndex(1), time: LogTime(1), payload };
    directory.join(ClusterId(7), Some(&append(vec![first], 1))).unwrap();
    let mut opened = directory.into_parts().unwrap();
    for index in 2..=last {
        opened.wal.append(&append(vec![put(index)], index));
        opened.wal.flush().unwrap();
    }
    opened
}

fn start(opened: Opened) -> Result<Recovered<OsFiles, SledState>, RecoveryError> {
    let Opened { identity, wal, recovered: found, state, lock: _lock } = opened;
    let disk = Disk { node_id: identity.node_id, wal, found, state };
    recover(disk, raft::Settings::default(), 1, Instant(0))
}

#[test]
fn a_compacted_log_goes_on_from_the_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    drop(member(root.path(), 60));
    let mut replica = start(open(root.path()).into_parts().unwrap()).unwrap();
    let checkpoint = replica.checkpoint;
    assert_eq!((checkpoint, replica.applied), (LogIndex(0), LogIndex(60)));
    replica.log.wal().compact(replica.applied).unwrap();
    let first = replica.log.wal().first_index();
    assert!(first > LogIndex(30), "begins at {first}");
    drop(replica);

    let mut replica = start(open(root.path()).into_parts().unwrap()).unwrap();
    assert_eq!((replica.checkpoint, replica.applied), (LogIndex(60), LogIndex(60)));
    assert_eq!((replica.log.wal().first_index(), replica.keys()), (first, 59));
    let status = replica.core.raft().status(Instant(0));
    assert_eq!(status.configuration, Some(configuration()), "the log no longer holds its entry");
}

#[test]
fn an_installation_that_a_crash_cut_short_is_finished() {
    check_cut_short(3, VOTE);
    check_cut_short(8, HardState { term: Term(8), voted_for: None });
}

/// The snapshot's last entry is of `term`.
fn check_cut_short(term: u64, expected: HardState) {
    let root = tempfile::tempdir().unwrap();
    let Opened { lock, wal, mut state, .. } = member(root.path(), 20);
    let before = LogPosition { index: LogIndex(400), term: Term(term) };
    let checkpoint = Checkpoint {
        applied: before,
        configuration: configuration(),
        configuration_index: LogIndex(300),
        installed: true,
        ..Checkpoint::default()
    };
    state.commit(checkpoint.clone()).unwrap();
    drop((lock, wal, state));

    for _ in 0..2 {
        let mut replica = start(open(root.path()).into_parts().unwrap()).unwrap();
        assert_eq!((replica.applied, replica.log.wal().last()), (LogIndex(400), before));
        assert_eq!(replica.log.wal().first_index(), LogIndex(401));
        assert_eq!(replica.core.raft().status(Instant(0)).configuration, Some(configuration()));
    }
    let opened = open(root.path()).into_parts().unwrap();
    assert_eq!(opened.recovered.hard_state, expected);

    // The same state, had it not been installed, would mean that the log lost its end.
    let root = tempfile::tempdir().unwrap();
    let Opened { lock, wal, mut state, .. } = member(root.path(), 20);
    state.commit(Checkpoint { installed: false, ..checkpoint }).unwrap();
    drop((lock, wal, state));
    let error = open(root.path()).into_parts().map(drop).unwrap_err();
    assert!(error.exit_code() == 3 && error.to_string().contains("the log lost its end"), "{error}");
}

#[test]
fn a_log_that_begins_above_the_state_is_damage() {
    let root = tempfile::tempdir().unwrap();
    let Opened { lock, mut wal, state, .. } = member(root.path(), 60);
    wal.compact(LogIndex(60)).unwrap();
    drop((lock, wal, state));
    let error = open(root.path()).into_parts().map(drop).unwrap_err();
    assert!(error.exit_code() == 3 && error.to_string().contains("the state lost its end"), "{error}");
}
