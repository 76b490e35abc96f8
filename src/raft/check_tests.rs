//! What no correct peer sends. The transport's tests refuse the same and more, from the wire.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::raft::Member;
use crate::types::NodeId;

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(term) }
}

fn entry(index: u64, time: u64, payload: Payload) -> Entry {
    Entry { term: Term(3), index: LogIndex(index), time: LogTime(time), payload }
}

fn append(entries: Vec<Entry>) -> Message {
    let (prev, commit_index) = (at(4, 2), LogIndex(4));
    Signal::Append(Append {
        term: Term(3),
        session: Session(1),
        prev,
        entries,
        commit_index,
        round: 1,
        unheard: false,
        election_timeout_ms: 0,
    })
    .into()
}

fn voters(ids: std::ops::Range<u64>, member: &Member) -> BTreeMap<NodeId, Member> {
    ids.map(|id| (NodeId(id), member.clone())).collect()
}

#[test]
fn the_clock_of_the_log_does_not_run_backwards() {
    let good = append(vec![entry(5, 7, Payload::Noop), entry(6, 7, Payload::Noop)]);
    assert_eq!(good.check(), Ok(()));
    let bad = append(vec![entry(5, 7, Payload::Noop), entry(6, 6, Payload::Noop)]);
    assert_eq!(bad.check().unwrap_err().to_string(), "entry 6 of time 6 follows one of time 7");
    let late = append(vec![entry(5, NUMBER_MAX, Payload::Noop)]);
    assert_eq!(late.check(), Err(Unfit::Number { name: "time", value: NUMBER_MAX }));
}

#[test]
fn a_configuration_is_one_that_a_leader_could_make() {
    let of = |configuration: Configuration| {
        append(vec![entry(5, 1, Payload::Configuration(Arc::new(configuration)))]).check()
    };
    let unfit = |what| Err(Unfit::Configuration { index: LogIndex(5), what });
    let one = voters(1..2, &Member::default());
    let good = Configuration { voters: one.clone(), ..Configuration::default() };
    assert_eq!(of(good.clone()), Ok(()));
    assert_eq!(of(Configuration::default()), unfit("it has no voters"));
    let many = voters(1..20, &Member::default());
    assert_eq!(of(Configuration { learners: many, ..good.clone() }), unfit("it names too many nodes"));
    let removed = (1..5000).map(|id| (NodeId(id), LogIndex(1))).collect();
    assert_eq!(of(Configuration { removed, ..good.clone() }), unfit("it names too many nodes"));
    let long = Member { name: "n".repeat(254), ..Member::default() };
    let long = Configuration { learners: voters(2..3, &long), ..good.clone() };
    assert_eq!(of(long), unfit("a name or an address is too long"));
    let far = Member { peer_addr: Some("a".repeat(513)), ..Member::default() };
    let far = Configuration { learners: voters(2..3, &far), ..good.clone() };
    assert_eq!(of(far), unfit("a name or an address is too long"));
    let later = Member { session: Session(6), ..Member::default() };
    let later = Configuration { learners: voters(2..3, &later), ..good.clone() };
    assert_eq!(of(later), unfit("it names a later entry"));
    let removed = BTreeMap::from([(NodeId(9), LogIndex(6))]);
    assert_eq!(of(Configuration { removed, ..good }), unfit("it names a later entry"));
}
