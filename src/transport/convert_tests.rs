//! Every message survives the wire; every broken rule is refused by name.

use std::sync::Arc;

use prost::Message as _;

use super::*;
use crate::raft::{Configuration, Member};
use crate::types::{FeatureLevel, LogTime, NodeId};

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(term) }
}

fn command(index: u64, term: u64, data: &'static [u8]) -> Entry {
    Entry {
        term: Term(term),
        index: LogIndex(index),
        time: LogTime(index),
        payload: Payload::Command(Bytes::from_static(data)),
    }
}

fn append() -> Append {
    let member = Member { name: "a".into(), session: Session(1), ..Member::default() };
    let configuration = Configuration {
        voters: [(NodeId(7), member.clone())].into(),
        outgoing: [(NodeId(8), member.clone())].into(),
        learners: [(NodeId(9), Member { stays_learner: true, peer_addr: Some("c:1".into()), ..member })]
            .into(),
        removed: [(NodeId(4), LogIndex(3))].into(),
        feature_level: FeatureLevel(0),
    };
    Append {
        term: Term(5),
        session: Session(1),
        prev: at(10, 3),
        entries: vec![
            command(11, 3, b"set"),
            Entry { term: Term(5), index: LogIndex(12), time: LogTime(11), payload: Payload::Noop },
            Entry {
                term: Term(5),
                index: LogIndex(13),
                time: LogTime(12),
                payload: Payload::Configuration(Arc::new(configuration)),
            },
        ],
        commit_index: LogIndex(9),
        round: u64::MAX,
        unheard: true,
        election_timeout_ms: 700,
    }
}

fn every_message() -> Vec<Message> {
    let vote = VoteRequest { term: Term(2), last: at(4, 1), transfer: true, election_timeout_ms: 700 };
    let first_vote = VoteRequest { term: Term(1), last: at(0, 0), transfer: false, election_timeout_ms: 0 };
    let heartbeat = Append { entries: vec![], prev: at(0, 0), unheard: false, ..append() };
    let (term, session) = (Term(5), Session(1));
    let refusals = [
        (RefusalReason::NoLeader, Outcome::NotApplied),
        (RefusalReason::NoQuorum, Outcome::Unknown),
        (RefusalReason::Overloaded, Outcome::NotApplied),
        (RefusalReason::LeadershipLost, Outcome::Unknown),
        (RefusalReason::Timeout, Outcome::Unknown),
        (RefusalReason::SpaceLow, Outcome::NotApplied),
        (RefusalReason::ClusterVersion, Outcome::NotApplied),
    ];
    let mut answers: Vec<_> =
        refusals.iter().map(|&(reason, outcome)| (ProposalId(1), Err(Refusal { reason, outcome }))).collect();
    answers.push((ProposalId(u64::MAX), Ok(at(14, 5))));
    vec![
        Signal::PreVote(vote.clone()).into(),
        Signal::RequestVote(vote).into(),
        Signal::RequestVote(first_vote).into(),
        Signal::PreVoteGranted { term }.into(),
        Signal::VoteRefused { term, pre_vote: true }.into(),
        Signal::VoteRefused { term: Term(0), pre_vote: false }.into(),
        Signal::Append(append()).into(),
        Signal::Append(heartbeat).into(),
        Signal::AppendRejected { term, session, prev: at(10, 3), hint: at(8, 2) }.into(),
        Signal::AppendRejected { term, session, prev: at(10, 3), hint: at(0, 0) }.into(),
        Signal::RoundEcho { term, session, round: 3, stickiness_ms: 300 }.into(),
        Signal::Forward {
            proposals: vec![(ProposalId(1), Bytes::from_static(b"x")), (ProposalId(2), Bytes::new())],
        }
        .into(),
        Signal::Forwarded { answers }.into(),
        Signal::ReadIndex { id: ReadId(u64::MAX) }.into(),
        Signal::ReadIndexAt { id: ReadId(1), term, index: LogIndex(9) }.into(),
        Signal::ReadIndexRefused { id: ReadId(1) }.into(),
        Signal::TimeoutNow { term }.into(),
        Signal::Removed { index: LogIndex(9) }.into(),
        Signal::LostData { term, session, match_index: LogIndex(9) }.into(),
        Signal::StateDigests {
            digests: vec![
                (LogIndex(9), StateDigest { scheme: 1, value: u64::MAX }),
                (LogIndex(3), StateDigest::default()),
            ],
        }
        .into(),
        Promise::VoteGranted { term }.into(),
        Promise::Appended { term, session, match_index: LogIndex(13), round: 3, stickiness_ms: u32::MAX }
            .into(),
    ]
}

#[test]
fn every_message_survives_the_wire() {
    for message in every_message() {
        let bytes = to_wire(message.clone()).encode_to_vec();
        assert!(
            bytes.len() <= size_bytes(&message),
            "{message:?}: {} bytes, estimated as {}",
            bytes.len(),
            size_bytes(&message)
        );
        let decoded = proto::Message::decode(&bytes[..]).unwrap();
        assert_eq!(from_wire(decoded).unwrap(), message);
    }
}

#[test]
fn decoding_shares_the_received_buffer() {
    let message = Signal::Append(Append { entries: vec![command(11, 3, b"payload")], ..append() });
    let buffer = Bytes::from(to_wire(message.into()).encode_to_vec());
    let decoded = from_wire(proto::Message::decode(buffer.clone()).unwrap()).unwrap();
    let Message::Signal(Signal::Append(append)) = decoded else { panic!("{decoded:?}") };
    let Payload::Command(command) = &append.entries[0].payload else { panic!("{append:?}") };
    assert!(buffer.as_ptr_range().contains(&command.as_ptr()));
}

#[test]
fn no_damage_to_a_byte_panics() {
    for message in every_message() {
        let good = to_wire(message).encode_to_vec();
        for at in 0..good.len() {
            for flip in 1..=u8::MAX {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                let decoded = proto::Message::decode(&bytes[..]);
                // What is accepted can be sent on unchanged.
                if let Ok(message) = decoded.map_err(|_| ()).and_then(|wire| from_wire(wire).map_err(|_| ()))
                {
                    assert_eq!(from_wire(to_wire(message.clone())).unwrap(), message);
                }
            }
        }
    }
}

/// Changes a good append and expects it to be refused for `reason`.
#[track_caller]
fn check_append(change: impl FnOnce(&mut proto::Append), reason: &str) {
    let mut wire = append_to_wire(&append());
    change(&mut wire);
    check(Body::Append(wire), reason);
}

#[track_caller]
fn check(body: Body, reason: &str) {
    let error = from_wire(proto::Message { body: Some(body) }).unwrap_err();
    assert_eq!(error.to_string(), reason);
}

#[test]
fn refuses_malformed_appends() {
    check_append(|a| a.term = 0, "term 0 is out of range");
    check_append(|a| a.term = u64::MAX, "term 18446744073709551615 is out of range");
    check_append(|a| a.session = 1 << 62, "session 4611686018427387904 is out of range");
    check_append(|a| a.commit_index = u64::MAX, "index 18446744073709551615 is out of range");
    check_append(|a| a.prev = None, "prev is missing or unknown");
    check_append(|a| a.prev = Some(position_to_wire(at(10, 0))), "position 10@0 mixes zero and non-zero");
    check_append(|a| a.prev = Some(position_to_wire(at(0, 3))), "position 0@3 mixes zero and non-zero");
    check_append(
        |a| a.prev = Some(position_to_wire(at(10, 6))),
        "term 6 of prev is above the message's term 5",
    );
    check_append(|a| a.prev = Some(position_to_wire(at(9, 3))), "entry 11 where 10 should follow");
    check_append(|a| drop(a.entries.remove(1)), "entry 13 where 12 should follow");
    check_append(|a| a.entries.swap(0, 1), "entry 12 where 11 should follow");
    check_append(|a| a.entries[0].term = 0, "term 0 is out of range");
    check_append(|a| a.entries[0].term = 2, "entry 11 of term 2 follows one of term 3");
    check_append(|a| a.entries[1].term = 6, "term 6 of an entry is above the message's term 5");
    check_append(|a| a.entries[0].kind = 9, "entry 11: unknown entry kind 9");
    check_append(|a| a.entries[0].kind = 258, "entry kind is missing or unknown");
    check_append(|a| a.entries[1].data = Bytes::from_static(b"x"), "entry 12: a no-op entry carries 1 bytes");
    check_append(
        |a| a.entries[2].data = Bytes::from_static(b"{}"),
        "entry 13: bad configuration: missing field `voters` at line 1 column 2",
    );
    check_append(
        |a| a.entries[0].data = vec![0; ENTRY_BYTES_MAX + 1].into(),
        "entry in bytes of 3145729, the limit is 3145728",
    );
    check_append(
        |a| a.entries = vec![a.entries[0].clone(); ITEMS_MAX + 1],
        "append in entries of 65537, the limit is 65536",
    );
}

#[test]
fn refuses_malformed_messages_of_other_kinds() {
    assert_eq!(
        from_wire(proto::Message { body: None }).unwrap_err().to_string(),
        "message is missing or unknown"
    );
    let vote = |term, last| proto::VoteRequest { term, last, transfer: false, election_timeout_ms: 0 };
    check(Body::RequestVote(vote(0, Some(position_to_wire(at(1, 1))))), "term 0 is out of range");
    check(Body::PreVote(vote(2, None)), "last is missing or unknown");
    check(
        Body::RequestVote(vote(2, Some(position_to_wire(at(9, 3))))),
        "term 3 of last is above the message's term 2",
    );
    check(Body::PreVoteGranted(proto::PreVoteGranted { term: 0 }), "term 0 is out of range");
    check(Body::VoteGranted(proto::VoteGranted { term: 0 }), "term 0 is out of range");
    check(
        Body::AppendRejected(proto::AppendRejected {
            term: 5,
            session: 1,
            prev: Some(position_to_wire(at(4, 2))),
            hint: Some(position_to_wire(at(5, 2))),
        }),
        "hint 5@2 lies after the rejected position 4@2",
    );
    let appended = proto::Appended { term: 1, session: 1, match_index: u64::MAX, round: 0, stickiness_ms: 0 };
    check(Body::Appended(appended), "index 18446744073709551615 is out of range");
    let read = proto::ReadIndexAt { id: 1, term: 0, index: 1 };
    check(Body::ReadIndexAt(read), "term 0 is out of range");
    let command = vec![0; ENTRY_BYTES_MAX + 1].into();
    check(
        Body::Forward(proto::Forward { proposals: vec![proto::ForwardedProposal { id: 1, command }] }),
        "forwarded command in bytes of 3145729, the limit is 3145728",
    );
}

#[test]
fn refuses_malformed_answers_to_forwarded_writes() {
    let check = |outcome, reason| {
        let answers = vec![proto::ForwardedAnswer { id: 1, outcome }];
        check(Body::Forwarded(proto::Forwarded { answers }), reason);
    };
    let refused =
        |reason, outcome| Some(forwarded_answer::Outcome::Refused(proto::Refusal { reason, outcome }));
    check(None, "outcome is missing or unknown");
    check(refused(0, 1), "reason is missing or unknown");
    check(refused(99, 1), "reason is missing or unknown");
    check(refused(1, 0), "outcome is missing or unknown");
    check(
        Some(forwarded_answer::Outcome::Appended(position_to_wire(at(0, 0)))),
        "position 0@0 mixes zero and non-zero",
    );
}
