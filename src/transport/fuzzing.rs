//! What peers may send: frames for the core, and snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;

use super::convert::from_wire;
use super::proto;
use super::snapshot_convert::{chunk_from_wire, chunk_to_wire, header_from_wire, header_to_wire};
use crate::fuzzing::Input;
use crate::kv::{Command, Condition, Operation};
use crate::raft::{
    self, Configuration, Effect, Entry, Event, HaltReason, HardState, Member, Message, Payload, Raft,
    Settings,
};
use crate::replica::snapshot::{self, Chunk};
use crate::types::{Instant, LogIndex, LogPosition, LogTime, NodeId, Session, StateDigest, Term};

/// Entries that the node under test has committed and applied.
const COMMITTED: u64 = 5;

/// A node of three whose log holds committed entries and one that is not.
fn node(now: Instant, is_leader: bool, out: &mut Vec<Effect>) -> Option<Raft> {
    let member =
        |id: u64| (NodeId(id), Member { name: format!("n{id}"), session: Session(1), ..Member::default() });
    let voters: BTreeMap<_, _> = (1..=3).map(member).collect();
    let configuration = Arc::new(Configuration { voters, ..Configuration::default() });
    let position = |index, term| LogPosition { index: LogIndex(index), term: Term(term) };
    let recovered = raft::Recovered {
        last: position(COMMITTED + 1, 2),
        time: LogTime(6),
        runs: vec![position(1, 1), position(4, 2)],
        configurations: vec![(LogIndex(1), configuration)],
        applied: LogIndex(COMMITTED),
        digest: Some(StateDigest { scheme: 1, value: 7 }),
        tail: vec![entry(COMMITTED + 1, 2, command())],
        ..raft::Recovered::default()
    };
    let hard_state = HardState { term: Term(2), voted_for: None };
    let mut raft = Raft::new(now, NodeId(1), Settings::default(), 7, hard_state, recovered).ok()?;
    if is_leader {
        // Two others' votes, as soon as the own one is durable.
        let later = raft.next_deadline();
        raft.step(later, Event::Timeout, out);
        for from in [2, 3] {
            let granted = raft::Signal::PreVoteGranted { term: Term(3) };
            raft.step(later, Event::Message { from: NodeId(from), message: granted.into() }, out);
        }
        settle(&mut raft, later, out);
        let granted = raft::Promise::VoteGranted { term: Term(3) };
        raft.step(later, Event::Message { from: NodeId(2), message: granted.into() }, out);
        settle(&mut raft, later, out);
    }
    Some(raft)
}

fn command() -> bytes::Bytes {
    let (key, value) = (bytes::Bytes::from_static(b"key"), bytes::Bytes::from_static(b"value"));
    Command::from(Operation::Put { key, value, condition: Condition::Always }).encode()
}

fn entry(index: u64, term: u64, data: bytes::Bytes) -> Entry {
    let payload = Payload::Command(data);
    Entry { term: Term(term), index: LogIndex(index), time: LogTime(index), payload }
}

/// Flushes what the core wants, and says that it is applied.
fn settle(raft: &mut Raft, now: Instant, out: &mut Vec<Effect>) {
    for _ in 0..100 {
        let mut events = Vec::new();
        for effect in out.drain(..) {
            match effect {
                Effect::Append(append) => {
                    let from = append.truncate_from.unwrap_or(LogIndex(u64::MAX));
                    assert!(from.0 > COMMITTED, "a committed entry is dropped");
                    events.push(Event::Appended { io: append.io });
                }
                Effect::Apply { entries } => {
                    for committed in &entries {
                        if let Payload::Command(data) = &committed.entry.payload {
                            assert!(
                                Command::decode(data).is_ok(),
                                "a command that nobody can apply is committed"
                            );
                        }
                    }
                    if let Some(index) = entries.last().map(|committed| committed.entry.index) {
                        events.push(Event::Applied { index, digest: None, marks: Vec::new() });
                    }
                }
                Effect::Halt(reason) => assert_ne!(reason, HaltReason::DiskFailed),
                _ => {}
            }
        }
        if events.is_empty() {
            return;
        }
        for event in events {
            raft.step(now, event, out);
        }
    }
}

/// Frames from other members: refused, or taken by a follower or leader without a panic and without harm to what is
/// committed.
pub(crate) fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let mut out = Vec::new();
    let mut now = Instant(1_000_000);
    let Some(mut raft) = node(now, input.is_set(), &mut out) else { return };
    now = Instant(now.0 + 3_000_000);
    while !input.is_empty() {
        let from = NodeId(2 + u64::from(input.below(3)));
        now = Instant(now.0 + 1000 * u64::from(input.byte()));
        let Ok(frame) = proto::Frame::decode(input.long_bytes()) else { continue };
        for message in frame.messages {
            let Ok(message) = from_wire(message) else { break };
            raft.step(now, Event::Message { from, message }, &mut out);
            settle(&mut raft, now, &mut out);
        }
        if raft.next_deadline() <= now {
            raft.step(now, Event::Timeout, &mut out);
            settle(&mut raft, now, &mut out);
        }
    }
    let status = raft.status(now);
    assert!(status.commit_index.0 >= COMMITTED && status.last_log_index >= status.commit_index);
}

/// The header and the chunks of a snapshot, as a leader may send them.
pub(crate) fn snapshots(data: &[u8]) {
    let mut input = Input::new(data);
    let Ok(header) = proto::SnapshotHeader::decode(input.long_bytes()) else { return };
    let Ok(header) = header_from_wire(&header) else { return };
    let mut chunks: Vec<Chunk> = Vec::new();
    while !input.is_empty() {
        let Ok(chunk) = proto::SnapshotChunk::decode(input.long_bytes()) else { break };
        let Ok(chunk) = chunk_from_wire(chunk) else { break };
        chunks.push(chunk);
    }
    snapshot::fuzzing::take(&header, &chunks);
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap_or(0).to_le_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// Inputs of [`snapshots`] to begin with.
pub(crate) fn snapshot_samples() -> Vec<Vec<u8>> {
    let cut = snapshot::fuzzing::cut();
    let header = header_to_wire(cut.header(77), proto::Route { cluster_id: 1, from: 2, to: 3 });
    let mut sample = with_length(&header.encode_to_vec());
    cut.chunks(77, 0, |chunk| {
        sample.extend(with_length(&chunk_to_wire(chunk, 77, None).encode_to_vec()));
        std::ops::ControlFlow::Continue(())
    });
    vec![sample]
}

/// Inputs of [`frames`] to begin with: each message that there is, to a follower and to a leader.
pub(crate) fn frame_samples() -> Vec<Vec<u8>> {
    let term = Term(3);
    let prev = LogPosition { index: LogIndex(COMMITTED + 1), term: Term(2) };
    let append = raft::Append {
        term,
        session: Session(1),
        prev,
        entries: vec![entry(COMMITTED + 2, 3, command())],
        commit_index: LogIndex(COMMITTED + 2),
        round: 1,
        unheard: true,
        election_timeout_ms: 700,
    };
    let vote = raft::VoteRequest { term: Term(4), last: prev, transfer: true, election_timeout_ms: 700 };
    let answers = vec![(crate::types::ProposalId(1), Ok(prev))];
    let digests = vec![(LogIndex(COMMITTED), StateDigest { scheme: 1, value: 8 })];
    let (session, round, match_index, stickiness_ms) = (Session(1), 1, LogIndex(6), 0);
    let id = crate::types::ReadId(1);
    let signals: Vec<raft::Signal> = vec![
        raft::Signal::PreVote(vote.clone()),
        raft::Signal::RequestVote(vote),
        raft::Signal::PreVoteGranted { term },
        raft::Signal::VoteRefused { term: Term(4), pre_vote: false },
        raft::Signal::Append(append),
        raft::Signal::AppendRejected { term, session, prev, hint: LogPosition::default() },
        raft::Signal::RoundEcho { term, session, round, stickiness_ms },
        raft::Signal::Forward { proposals: vec![(crate::types::ProposalId(1), command())] },
        raft::Signal::Forwarded { answers },
        raft::Signal::ReadIndex { id },
        raft::Signal::ReadIndexAt { id, term, index: LogIndex(6) },
        raft::Signal::ReadIndexRefused { id },
        raft::Signal::TimeoutNow { term },
        raft::Signal::LostData { term, session, match_index },
        raft::Signal::StateDigests { digests },
    ];
    let promises: Vec<Message> = vec![
        raft::Promise::VoteGranted { term }.into(),
        raft::Promise::Appended { term, session, match_index, round, stickiness_ms }.into(),
    ];
    let messages = signals.into_iter().map(Message::from).chain(promises).map(super::convert::to_wire);
    let frame = |message| proto::Frame { route: None, introduction: None, messages: vec![message] };
    let mut samples = Vec::new();
    for message in messages {
        let frame = with_length(&frame(message).encode_to_vec());
        for leads in [0, 1] {
            samples.push([&[leads, 0, 1][..], &frame].concat());
        }
    }
    samples
}
