//! A start on a log that was compacted, or that a snapshot's installation left behind.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::kv::{Command, Condition, Operation};
use crate::raft::{Append, AppendEntries, Event, HardState, Member, Payload, Proposal, Signal};
use crate::replica::{CoreOutput, LogInput, LogOutput};
use crate::storage::files::OsFiles;
use crate::storage::state::SledState;
use crate::storage::wal::Options;
use crate::storage::{DataDir, Opened};
use crate::types::{ClusterId, IoId, LogTime, ProposalId, Session, Term};

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
fn a_compacted_log_continues_from_the_checkpoint() {
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
    assert_eq!((status.configuration_index, status.first_log_index), (LogIndex(1), first));
    assert_eq!((status.term, status.commit_index), (VOTE.term, LogIndex(60)));
    assert_eq!(replica.apply.checkpoint(), *replica.state.lock().unwrap().checkpoint());
    assert_eq!(replica.apply.checkpoint().time, LogTime(60));

    // The node reports the recovered state to the other members.
    let digest = replica.store.read().unwrap().digest();
    let mut out = CoreOutput::default();
    let heartbeat = Append {
        term: VOTE.term,
        session: Session(0),
        prev: LogPosition { index: LogIndex(60), term: Term(3) },
        entries: Vec::new(),
        commit_index: LogIndex(60),
        round: 1,
        unheard: false,
        election_timeout_ms: 0,
    };
    let message = Signal::Append(heartbeat).into();
    replica.core.handle(Instant(60_000_000), Event::Message { from: NodeId(1), message }, &mut out);
    let told = Signal::StateDigests { digests: vec![(LogIndex(60), digest)] };
    assert!(out.sends.contains(&(NodeId(1), told.into())), "{:?}", out.sends);
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

/// A log of the only voter: its configuration, and an entry of each of these times.
fn alone(root: &Path, times: &[u64]) -> Arc<Configuration> {
    let mut directory = open(root);
    let member = Member { name: "one".into(), session: Session(1), ..Member::default() };
    let voters = [(directory.identity().node_id, member)].into();
    let configuration = Arc::new(Configuration { voters, ..Configuration::default() });
    let payload = Payload::Configuration(Arc::clone(&configuration));
    let mut entries = vec![Entry { term: Term(3), index: LogIndex(1), time: LogTime(1), payload }];
    for (index, time) in (2..).zip(times) {
        entries.push(Entry { time: LogTime(*time), ..put(index) });
    }
    directory.join(ClusterId(7), Some(&append(entries, 1))).unwrap();
    configuration
}

/// Handles an event, and lets the log work until the core appends an entry; that entry.
fn next_entry(replica: &mut Recovered<OsFiles, SledState>, now: Instant, event: Event) -> Entry {
    let mut out = CoreOutput::default();
    replica.core.handle(now, event, &mut out);
    loop {
        let inputs = std::mem::take(&mut out.log);
        assert!(!inputs.is_empty(), "nothing is appended");
        let entry = inputs.iter().find_map(|input| match input {
            LogInput::Append(append) => append.entries.first().cloned(),
            _ => None,
        });
        if let Some(entry) = entry {
            return entry;
        }
        let mut done = LogOutput::default();
        replica.log.handle(inputs, &mut done).unwrap();
        for event in done.events {
            replica.core.handle(now, event, &mut out);
        }
    }
}

/// Starts the only voter, and lets it win an election: its first entry, and one of a write five seconds later.
fn entries_of_the_next_term(root: &Path) -> [Entry; 2] {
    let mut replica = start(open(root).into_parts().unwrap()).unwrap();
    let now = replica.core.raft().next_deadline();
    let first = next_entry(&mut replica, now, Event::Timeout);
    let later = now.after(Duration::from_secs(5));
    let Payload::Command(command) = put(1).payload else { unreachable!("a put is a command") };
    let write = Proposal { id: ProposalId(1), command, deadline: later };
    [first, next_entry(&mut replica, later, Event::Propose { proposals: vec![write] })]
}

/// An entry with an earlier time than the one before it would change what the log's clock makes replicas forget.
#[test]
fn the_logs_clock_continues_from_the_later_of_log_and_checkpoint() {
    const LATE: LogTime = LogTime(9_000_000_000);
    const LATER: LogTime = LogTime(LATE.0 + 5_000_000);
    let check = |root: &Path, index| {
        let found = entries_of_the_next_term(root).map(|entry| (entry.index, entry.time));
        assert_eq!(found, [(LogIndex(index), LATE), (LogIndex(index + 1), LATER)]);
    };
    // The snapshot is later than anything in the log, whether that began behind it before the start or not.
    for begins_anew in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let configuration = alone(root.path(), &[20, 30]);
        let Opened { lock, mut wal, mut state, .. } = open(root.path()).into_parts().unwrap();
        let applied = LogPosition { index: LogIndex(400), term: Term(3) };
        let checkpoint = Checkpoint {
            applied,
            time: LATE,
            configuration,
            configuration_index: LogIndex(300),
            installed: true,
            ..Checkpoint::default()
        };
        state.commit(checkpoint).unwrap();
        if begins_anew {
            wal.reset(applied, VOTE).unwrap();
        }
        drop((lock, wal, state));
        check(root.path(), 401);
    }
    // An entry that is not known to be committed is later than any checkpoint.
    let root = tempfile::tempdir().unwrap();
    alone(root.path(), &[20, LATE.0]);
    check(root.path(), 4);
}

#[test]
fn a_start_in_a_cluster_of_a_later_feature_level_is_refused() {
    let later = Arc::new(Configuration { feature_level: FeatureLevel(1), ..(*configuration()).clone() });
    let needs_later = |root: &Path| match start(open(root).into_parts().unwrap()) {
        Err(RecoveryError::Outdated(outdated)) => outdated,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    };
    let outdated = Outdated { needed: FeatureLevel(1), understood: FeatureLevel(0) };
    // The level of a configuration in the log, and of one that only the state covers.
    let root = tempfile::tempdir().unwrap();
    let Opened { lock, mut wal, .. } = member(root.path(), 5);
    let payload = Payload::Configuration(Arc::clone(&later));
    wal.append(&append(vec![Entry { payload, ..put(6) }], 5));
    wal.flush().unwrap();
    drop((lock, wal));
    assert_eq!(needs_later(root.path()), outdated);

    let root = tempfile::tempdir().unwrap();
    let Opened { lock, wal, mut state, .. } = member(root.path(), 5);
    let applied = LogPosition { index: LogIndex(400), term: Term(3) };
    let covered = Checkpoint {
        applied,
        configuration: later,
        configuration_index: LogIndex(300),
        installed: true,
        ..Checkpoint::default()
    };
    state.commit(covered).unwrap();
    drop((lock, wal, state));
    assert_eq!(needs_later(root.path()), outdated);
}

#[test]
fn the_configuration_that_the_state_covers_comes_before_those_in_the_log_and_never_twice() {
    let covered = |index| Checkpoint {
        configuration: configuration(),
        configuration_index: LogIndex(index),
        ..Checkpoint::default()
    };
    let indexes = |in_log: &[u64], before, index| -> Vec<u64> {
        let in_log = in_log.iter().map(|index| (LogIndex(*index), configuration())).collect();
        let all = with_covered(in_log, LogIndex(before), &covered(index));
        all.into_iter().map(|(index, _)| index.0).collect()
    };
    assert_eq!(indexes(&[], 20, 20), [20]);
    assert_eq!(indexes(&[25, 30], 20, 7), [7, 25, 30]);
    assert_eq!(indexes(&[25, 30], 20, 25), [25, 30], "the log still holds it");
    assert_eq!(indexes(&[1, 5], 0, 5), [1, 5]);
    assert!(indexes(&[], 20, 0).is_empty(), "there is none");
}
