//! The three parts on a real disk, run by hand: what a snapshot does to each of them, and in which order.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::recovery::{Disk, Recovered, recover};
use super::snapshot::{Chunk, Cut, Incoming, Shelf};
use super::*;
use crate::kv::{Command, Condition, Operation, Record, Store};
use crate::raft::{self, Append, Configuration, Entry, Member, Payload, Proposal, RefusalReason, Signal};
use crate::storage::files::OsFiles;
use crate::storage::state::SledState;
use crate::storage::wal::Options;
use crate::storage::{Checkpoint, DataDir, Opened, StateStore};
use crate::types::{ClusterId, LogPosition, LogTime, Revision};

const LEADER: NodeId = NodeId(1);
const TERM: Term = Term(5);
const POSITION: LogPosition = LogPosition { index: LogIndex(900), term: Term(4) };

type Replica = Recovered<OsFiles, SledState>;

fn configuration() -> Arc<Configuration> {
    let member = |name: &str| Member { name: name.into(), session: Session(1), ..Member::default() };
    let voters = [(LEADER, member("one")), (NodeId(2), member("two"))].into();
    Arc::new(Configuration { voters, ..Configuration::default() })
}

fn open(root: &Path) -> DataDir {
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    DataDir::open(root, "two", options, &mut |_| ControlFlow::Break(())).unwrap()
}

fn put(index: u64, value: &str) -> Payload {
    let (key, value) = (Bytes::from(format!("key-{index}")), Bytes::copy_from_slice(value.as_bytes()));
    let operation = Operation::Put { key, value, condition: Condition::Always };
    Payload::Command(Command { operation, idempotency_key: None }.encode())
}

fn entry(index: u64, term: u64, payload: Payload) -> Entry {
    Entry { index: LogIndex(index), term: Term(term), time: LogTime(index * 10), payload }
}

/// A member whose log holds the configuration and, in term 3, nine entries that may not be committed.
fn new_member(root: &Path) {
    let mut directory = open(root);
    let mut entries = vec![entry(1, 1, Payload::Configuration(configuration()))];
    entries.extend((2..=10).map(|index| entry(index, 3, put(index, "old"))));
    let first = AppendEntries {
        io: IoId(0),
        truncate_from: None,
        hard_state: HardState { term: Term(3), voted_for: None },
        commit_index: LogIndex(4),
        entries,
    };
    directory.join(ClusterId(7), Some(&first)).unwrap();
}

fn start(root: &Path) -> Replica {
    let Opened { identity, wal, recovered: found, state, lock: _lock } = open(root).into_parts().unwrap();
    let disk = Disk { node_id: identity.node_id, wal, found, state };
    recover(disk, raft::Settings::default(), 1, Instant(0)).unwrap()
}

/// The state of the leader: 50 keys at entry 900.
fn leader_cut() -> (Cut, Store) {
    let mut store = Store::default();
    for index in 1..=50 {
        let Payload::Command(data) = put(index, "new") else { continue };
        store.apply(LogIndex(index), LogTime(1), Command::decode(&data).unwrap(), &mut Vec::new());
    }
    let snapshot = Snapshot {
        position: POSITION,
        time: LogTime(9_000),
        configuration: configuration(),
        configuration_index: LogIndex(1),
    };
    let cut = Cut { to: NodeId(2), session: Session(1), term: TERM, snapshot, view: store.view() };
    (cut, store)
}

/// Moves a cut into a replica's staging, and returns what the core is told.
fn receive(replica: &Replica, cut: &Cut) -> Event {
    let staging = replica.state.lock().unwrap().stage().unwrap();
    let mut incoming = Incoming::new(LEADER, cut.header(7), staging);
    let mut is_whole = false;
    cut.chunks(7, 0, |chunk: Chunk| {
        is_whole = incoming.take(&chunk).unwrap();
        ControlFlow::Continue(())
    });
    assert!(is_whole);
    let staged = replica.shelf.put(incoming.finish().unwrap());
    let Cut { session, term, snapshot, .. } = cut;
    Event::SnapshotReceived {
        from: LEADER,
        term: *term,
        session: *session,
        snapshot: snapshot.clone(),
        staged,
    }
}

fn append(prev: LogPosition, entries: Vec<Entry>, commit_index: u64) -> Event {
    let commit_index = LogIndex(commit_index);
    let append = Append {
        term: TERM,
        session: Session(1),
        prev,
        entries,
        commit_index,
        round: 0,
        unheard: false,
        election_timeout_ms: 0,
    };
    Event::Message { from: LEADER, message: Signal::Append(append).into() }
}

/// What is sent to the leader as an acknowledgement: up to where.
fn acknowledged(sends: &[(NodeId, Message)]) -> Option<LogIndex> {
    sends.iter().rev().find_map(|(_, message)| match message {
        Message::Promise(Promise::Appended { match_index, .. }) => Some(*match_index),
        _ => None,
    })
}

/// Log and core by turns until the log has nothing to do; what the log sent.
fn settle(replica: &mut Replica, out: &mut CoreOutput) -> Vec<(NodeId, Message)> {
    let mut sends = Vec::new();
    while !out.log.is_empty() {
        let mut done = LogOutput::default();
        replica.log.handle(std::mem::take(&mut out.log), &mut done).unwrap();
        sends.append(&mut done.sends);
        for event in done.events {
            replica.core.handle(Instant(0), event, out);
        }
    }
    sends
}

/// Applies what waits, and tells the core.
fn apply(replica: &mut Replica, out: &mut CoreOutput) -> ApplyOutput {
    let mut applied = ApplyOutput::default();
    replica.apply.handle(std::mem::take(&mut out.apply), &mut applied).unwrap();
    let index = replica.apply.applied();
    let (digest, marks) = (Some(applied.digest), std::mem::take(&mut applied.marks));
    replica.core.handle(Instant(0), Event::Applied { index, digest, marks }, out);
    applied
}

#[test]
fn a_received_snapshot_is_durable_before_it_is_the_state_and_acknowledged_when_it_is_durable() {
    let root = tempfile::tempdir().unwrap();
    new_member(root.path());
    let (mut cut, leader) = leader_cut();
    let learner = Member { name: "three".into(), session: Session(700), ..Member::default() };
    let learners = [(NodeId(3), learner)].into();
    let newer = Arc::new(Configuration { learners, ..(*configuration()).clone() });
    (cut.snapshot.configuration, cut.snapshot.configuration_index) = (Arc::clone(&newer), LogIndex(700));
    let mut replica = start(root.path());
    assert_eq!(replica.applied, LogIndex(4));
    let mut out = CoreOutput::default();
    let received = receive(&replica, &cut);
    replica.core.handle(Instant(0), received, &mut out);
    assert!(out.apply.is_empty(), "{:?} is not durable yet", out.apply);
    assert_eq!(acknowledged(&out.sends), None);

    let sends = settle(&mut replica, &mut out);
    assert_eq!(acknowledged(&sends).or(acknowledged(&out.sends)), Some(POSITION.index));
    assert_eq!(replica.log.wal().last(), POSITION);
    let covered = Checkpoint {
        applied: POSITION,
        time: LogTime(9_000),
        revision: Revision(50),
        configuration: newer,
        configuration_index: LogIndex(700),
        installed: true,
    };
    assert_eq!(*replica.state.lock().unwrap().checkpoint(), covered);
    assert_eq!(replica.store.read().unwrap().len(), 3, "the state is apply's to replace");

    let applied = apply(&mut replica, &mut out);
    assert!(applied.installed && applied.records.is_empty());
    assert_eq!(replica.apply.checkpoint(), Checkpoint { installed: false, ..covered });
    assert_eq!(replica.store.read().unwrap().hash(), leader.hash());
    assert_eq!((replica.core.applied(), replica.apply.applied()), (POSITION.index, POSITION.index));
    assert!(replica.shelf.is_empty());

    // The log goes on behind it.
    let next = entry(901, 5, put(60, "later"));
    replica.core.handle(Instant(0), append(POSITION, vec![next], 901), &mut out);
    settle(&mut replica, &mut out);
    let applied = apply(&mut replica, &mut out);
    assert_eq!((replica.apply.applied(), applied.records.len()), (LogIndex(901), 1));
    let hash = replica.store.read().unwrap().hash();
    drop(replica);

    let mut replica = start(root.path());
    assert_eq!((replica.checkpoint, replica.log.wal().last().index), (POSITION.index, LogIndex(901)));
    // Committed as far as the log says; the rest comes when a leader says so.
    replica.core.handle(Instant(0), append(POSITION, Vec::new(), 901), &mut out);
    assert!(replica.applied >= POSITION.index);
    if replica.applied > POSITION.index {
        assert_eq!(replica.store.read().unwrap().hash(), hash);
    }
}

#[test]
fn a_snapshot_of_what_the_log_holds_keeps_what_follows_it() {
    let root = tempfile::tempdir().unwrap();
    new_member(root.path());
    let mut replica = start(root.path());
    let (cut, leader) = leader_cut();
    let position = LogPosition { index: LogIndex(7), term: Term(3) };
    let cut = Cut { snapshot: Snapshot { position, ..cut.snapshot.clone() }, ..cut };
    let mut out = CoreOutput::default();
    // The headers of real ones say no more keys than entries; the parts do not care.
    let received = receive(&replica, &cut);
    replica.core.handle(Instant(0), received, &mut out);
    settle(&mut replica, &mut out);
    assert_eq!(replica.log.wal().last(), LogPosition { index: LogIndex(10), term: Term(3) });
    apply(&mut replica, &mut out);
    assert_eq!(replica.store.read().unwrap().hash(), leader.hash());
    // Entries behind it are applied on top, once they are known to be committed.
    let last = LogPosition { index: LogIndex(10), term: Term(3) };
    replica.core.handle(Instant(0), append(last, Vec::new(), 10), &mut out);
    settle(&mut replica, &mut out);
    let applied = apply(&mut replica, &mut out);
    assert_eq!((replica.apply.applied(), applied.records.len()), (LogIndex(10), 3));
    drop(replica);
    let mut replica = start(root.path());
    assert_eq!((replica.checkpoint, replica.log.wal().last()), (position.index, last));
}

#[test]
fn a_snapshot_that_came_too_late_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    new_member(root.path());
    let mut replica = start(root.path());
    let (cut, _) = leader_cut();
    let mut out = CoreOutput::default();
    let last = LogPosition { index: LogIndex(10), term: Term(3) };
    replica.core.handle(Instant(0), append(last, Vec::new(), 10), &mut out);
    settle(&mut replica, &mut out);
    let hash = replica.store.read().unwrap().hash();
    for (index, term) in [(10, 5), (900, 2)] {
        let position = LogPosition { index: LogIndex(index), term: Term(2) };
        let snapshot = Snapshot { position, ..cut.snapshot.clone() };
        let late =
            Cut { to: cut.to, session: cut.session, term: Term(term), snapshot, view: cut.view.clone() };
        let received = receive(&replica, &late);
        replica.core.handle(Instant(0), received, &mut out);
        for staged in out.dropped_snapshots.drain(..) {
            replica.shelf.remove(staged);
        }
        assert!(replica.shelf.is_empty());
    }
    settle(&mut replica, &mut out);
    assert!(!out.apply.iter().any(|input| matches!(input, ApplyInput::Install { .. })));
    assert_eq!(replica.store.read().unwrap().hash(), hash);
}

#[test]
fn a_cut_is_of_what_is_applied_when_its_turn_comes() {
    let root = tempfile::tempdir().unwrap();
    new_member(root.path());
    let mut replica = start(root.path());
    let committed = |index| Committed { entry: entry(index, 3, put(index, "old")), proposal: None };
    let mut out = ApplyOutput::default();
    let send = ApplyInput::SendSnapshot { to: NodeId(3), session: Session(2), term: TERM };
    replica
        .apply
        .handle(
            vec![ApplyInput::Entries(vec![committed(5)]), send, ApplyInput::Entries(vec![committed(6)])],
            &mut out,
        )
        .unwrap();
    let [cut] = &out.cuts[..] else { panic!("{:?} instead of one cut", out.cuts) };
    assert_eq!((cut.to, cut.session, cut.term), (NodeId(3), Session(2), TERM));
    let Snapshot { position, time, configuration: members, configuration_index } = cut.snapshot.clone();
    assert_eq!((position, time), (LogPosition { index: LogIndex(5), term: Term(3) }, LogTime(50)));
    assert_eq!((members, configuration_index), (configuration(), LogIndex(1)));
    assert_eq!((cut.view.len(), replica.apply.keys()), (4, 5));
    let _: &Shelf<_> = &replica.shelf;
}

#[test]
fn what_is_to_be_read_is_read_before_it_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    new_member(root.path());
    let mut replica = start(root.path());
    let mut out = LogOutput::default();
    let hard_state = HardState { term: TERM, voted_for: None };
    let large = |index: u64| entry(index, 5, put(index, &"v".repeat(60_000)));
    for index in 11..20 {
        let entries = vec![large(index)];
        let io = IoId(index);
        let append =
            AppendEntries { io, truncate_from: None, hard_state, commit_index: LogIndex(4), entries };
        replica.log.handle(vec![LogInput::Append(append)], &mut out).unwrap();
    }
    let load =
        LogInput::Load { peer: LEADER, from: LogIndex(2), through: LogIndex(5), bytes_max: usize::MAX };
    let mut out = LogOutput::default();
    replica.log.handle(vec![LogInput::Compact { through: LogIndex(18) }, load], &mut out).unwrap();
    let [Event::Loaded { entries, .. }] = &out.events[..] else { panic!("{:?}", out.events) };
    assert_eq!(entries.first().map(|entry| entry.index), Some(LogIndex(2)));
    assert!(replica.log.wal().first_index() > LogIndex(10));
    let files = || std::fs::read_dir(root.path().join("data/wal")).unwrap().count();
    let before = files();
    replica.log.wal().take_removal().expect("there are segments to remove").run().unwrap();
    assert!(files() < before);
    assert!(replica.log.wal().take_removal().is_none());
}

#[test]
fn an_entry_that_cannot_be_applied_ends_apply_behind_the_one_before() {
    let root = tempfile::tempdir().unwrap();
    new_member(root.path());
    let mut replica = start(root.path());
    let good = Committed { entry: entry(5, 3, put(5, "value")), proposal: None };
    let poison = Payload::Command(bytes::Bytes::from_static(b"\xff"));
    let poison = Committed { entry: entry(6, 3, poison), proposal: None };
    let mut out = ApplyOutput::default();
    let error = replica.apply.handle(vec![ApplyInput::Entries(vec![good, poison])], &mut out).unwrap_err();
    assert_eq!(error.position, LogPosition { index: LogIndex(6), term: Term(3) });
    assert!(error.to_string().contains("--skip 6"), "{error}");
    assert_eq!((replica.apply.applied(), out.records.len()), (LogIndex(5), 1));
}

#[test]
fn a_write_that_not_every_replica_could_apply_is_refused_and_not_appended() {
    let root = tempfile::tempdir().unwrap();
    new_member(root.path());
    let mut replica = start(root.path());
    let mut out = CoreOutput::default();
    let newer = bytes::Bytes::from_static(b"\xff from a later version");
    let Payload::Command(good) = put(1, "value") else { unreachable!("a put is a command") };
    let refusal = Refusal::not_applied(RefusalReason::ClusterVersion);
    let proposals = vec![(ProposalId(1), newer.clone()), (ProposalId(2), good)];
    let message = Signal::Forward { proposals }.into();
    replica.core.handle(Instant(1), Event::Message { from: LEADER, message }, &mut out);
    let answers = vec![(ProposalId(1), Err(refusal))];
    assert_eq!(out.sends.first(), Some(&(LEADER, Signal::Forwarded { answers }.into())));
    let not_led = Err(Refusal::not_applied(RefusalReason::NoLeader));
    let answers = vec![(ProposalId(2), not_led)];
    assert_eq!(out.sends.get(1), Some(&(LEADER, Signal::Forwarded { answers }.into())));
    let own = Proposal { id: ProposalId(3), command: newer, deadline: Instant(9) };
    replica.core.handle(Instant(2), Event::Propose { proposals: vec![own] }, &mut out);
    assert_eq!(out.failed_writes, [(ProposalId(3), refusal)]);
}

/// The only voter of its cluster, as it leads; all that is in its log is applied.
fn only_voter(root: &Path) -> Replica {
    let mut directory = open(root);
    let member = Member { name: "two".into(), session: Session(1), ..Member::default() };
    let voters = [(directory.identity().node_id, member)].into();
    let alone = Arc::new(Configuration { voters, ..Configuration::default() });
    let first = AppendEntries {
        io: IoId(0),
        truncate_from: None,
        hard_state: HardState { term: Term(1), voted_for: None },
        commit_index: LogIndex(1),
        entries: vec![entry(1, 1, Payload::Configuration(alone))],
    };
    directory.join(ClusterId(7), Some(&first)).unwrap();
    drop(directory);
    let mut replica = start(root);
    let mut out = CoreOutput::default();
    let due = replica.core.raft().next_deadline();
    replica.core.handle(due, Event::Timeout, &mut out);
    settle(&mut replica, &mut out);
    apply(&mut replica, &mut out);
    assert_eq!(replica.apply.applied(), LogIndex(2), "the entry of its own term");
    replica
}

#[test]
fn a_read_waits_until_the_writes_before_it_are_applied() {
    let root = tempfile::tempdir().unwrap();
    let mut replica = only_voter(root.path());
    let mut out = CoreOutput::default();
    let (now, deadline) = (Instant(1_000_000), Instant(9_000_000));
    let Payload::Command(command) = put(1, "value") else { unreachable!("a put is a command") };
    let write = Proposal { id: ProposalId(1), command, deadline };
    replica.core.handle(now, Event::Propose { proposals: vec![write] }, &mut out);
    settle(&mut replica, &mut out);
    // The write is committed and queued for apply.
    replica.core.handle(now, Event::Read { ids: vec![ReadId(1)], deadline }, &mut out);
    assert_eq!(out.ready_reads, [], "the state lacks the write");
    let [ApplyInput::Entries(entries), ApplyInput::Reads(ids)] = &out.apply[..] else {
        panic!("{:?} instead of the write and then the read", out.apply)
    };
    assert_eq!((entries[0].proposal, &ids[..]), (Some(ProposalId(1)), &[ReadId(1)][..]));
    let applied = apply(&mut replica, &mut out);
    assert_eq!((applied.answers.len(), applied.ready_reads), (1, vec![ReadId(1)]));

    replica.core.handle(now, Event::Read { ids: vec![ReadId(2)], deadline }, &mut out);
    assert_eq!(
        (&out.ready_reads[..], out.apply.len()),
        (&[ReadId(2)][..], 0),
        "there is nothing to wait for"
    );
}

fn install(received: &Event, io: u64, hard_state: HardState, keep_log: bool) -> LogInput {
    let Event::SnapshotReceived { snapshot, staged, .. } = received else { panic!("{received:?}") };
    LogInput::Install { io: IoId(io), snapshot: snapshot.clone(), staged: *staged, hard_state, keep_log }
}

/// The leader's snapshot, of an entry of this log.
fn cut_at(index: u64) -> Cut {
    let (cut, _) = leader_cut();
    let position = LogPosition { index: LogIndex(index), term: Term(3) };
    Cut { snapshot: Snapshot { position, ..cut.snapshot }, ..cut }
}

#[test]
fn an_installation_is_reported_after_earlier_appends_and_is_durable_then() {
    let root = tempfile::tempdir().unwrap();
    new_member(root.path());
    let mut replica = start(root.path());
    let received = receive(&replica, &cut_at(7));
    let voted = |by| HardState { term: TERM, voted_for: Some(NodeId(by)) };
    let appended = AppendEntries {
        io: IoId(1),
        truncate_from: None,
        hard_state: voted(1),
        commit_index: LogIndex(4),
        entries: vec![entry(11, 5, put(11, "new"))],
    };
    let mut out = LogOutput::default();
    let inputs = vec![LogInput::Append(appended), install(&received, 2, voted(2), true)];
    replica.log.handle(inputs, &mut out).unwrap();
    let told: Vec<_> = out
        .events
        .iter()
        .map(|event| match event {
            Event::Appended { io } => io.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [1, 2]);
    drop(replica);
    let found = open(root.path()).into_parts().unwrap().recovered;
    assert_eq!((found.hard_state, found.last.index), (voted(2), LogIndex(11)));
    assert_eq!(found.commit_index, LogIndex(7), "what the snapshot covers is committed");
}

#[test]
fn changes_of_a_state_that_a_snapshot_replaces_are_not_for_the_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    new_member(root.path());
    let mut replica = start(root.path());
    let received = receive(&replica, &cut_at(7));
    let Event::SnapshotReceived { snapshot, staged, .. } = received else { panic!("{received:?}") };
    let committed = |index| Committed { entry: entry(index, 3, put(index, "old")), proposal: None };
    let mut out = ApplyOutput::default();
    let inputs = vec![
        ApplyInput::Entries(vec![committed(5)]),
        ApplyInput::Install { snapshot, staged },
        ApplyInput::Entries(vec![committed(8)]),
    ];
    replica.apply.handle(inputs, &mut out).unwrap();
    let [Record::Row(row)] = &out.records[..] else { panic!("{:?} instead of one row", out.records) };
    assert_eq!((out.installed, row.revision, &row.key[..]), (true, Revision(51), &b"key-8"[..]));
}

#[test]
fn the_log_stays_as_it_is_if_the_state_refuses_a_snapshot() {
    let root = tempfile::tempdir().unwrap();
    new_member(root.path());
    let mut replica = start(root.path());
    let last = replica.log.wal().last();
    // The state covers entry 4 already.
    let received = receive(&replica, &cut_at(4));
    let promise = Promise::VoteGranted { term: TERM };
    let mut out = LogOutput::default();
    let inputs = vec![
        LogInput::Acknowledge { to: LEADER, promise },
        install(&received, 1, HardState::default(), false),
    ];
    replica.log.handle(inputs, &mut out).unwrap_err();
    assert_eq!((replica.log.wal().last(), out.sends.len(), out.events.len()), (last, 0, 0));
    drop(replica);
    assert_eq!(start(root.path()).log.wal().last(), last);
}
