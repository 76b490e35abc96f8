//! Which nodes are added, which replace others, and which are refused.

use super::*;
use crate::raft::Member;
use crate::types::Session;

const ELECTION: Duration = Duration::from_millis(300);
const REPLACE_AFTER: Duration = Duration::from_secs(3);

fn voters(members: &[(u64, &str)]) -> Configuration {
    let voters = members
        .iter()
        .map(|&(id, name)| {
            (NodeId(id), Member { name: name.into(), session: Session(1), ..Member::default() })
        })
        .collect();
    Configuration { voters, ..Configuration::default() }
}

fn node(id: u64, name: &str) -> NewMember {
    NewMember { id: NodeId(id), name: name.into(), peer_addr: None, stays_learner: false }
}

/// What leader 1 does, with these milliseconds of silence.
fn step(configuration: &Configuration, silent_ms: &[(u64, u64)], new: &NewMember) -> JoinStep {
    let silent = silent_ms.iter().map(|&(id, ms)| (NodeId(id), Duration::from_millis(ms))).collect();
    let view = ClusterView {
        own: NodeId(1),
        configuration,
        silent: &silent,
        election_timeout: ELECTION,
        replace_after: REPLACE_AFTER,
        not_admitted: None,
    };
    on_join(&view, new)
}

fn reason(step: JoinStep) -> AdminReason {
    let JoinStep::Refuse(error) = step else { panic!("{step:?}") };
    error.reason
}

#[test]
fn a_new_name_becomes_a_learner_and_only_once() {
    let mut three = voters(&[(1, "a"), (2, "b"), (3, "c")]);
    let new = node(4, "d");
    let expected = Change { add: vec![new.clone()], ..Change::default() };
    assert_eq!(step(&three, &[], &new), JoinStep::Change(expected));
    three.learners.insert(NodeId(4), Member { name: "d".into(), ..Member::default() });
    assert_eq!(step(&three, &[], &new), JoinStep::Done);
}

#[test]
fn only_names_of_the_list_and_of_members_are_admitted() {
    let three = voters(&[(1, "a"), (2, "b"), (3, "c")]);
    let names: BTreeSet<String> = ["a", "b", "e"].map(str::to_owned).into();
    let refused = |admission: Admission<'_>, name: &str| admission.refuses(&three, &node(9, name));
    for name in ["a", "c", "e"] {
        assert_eq!(refused(Admission::Names(&names), name), None, "{name}");
    }
    assert_eq!(refused(Admission::Anyone, "x"), None);
    let error = refused(Admission::Names(&names), "x").unwrap();
    assert_eq!(error.reason, AdminReason::NotAdmitted);
    assert!(error.detail.contains("`kuberaft member add x --id 0000000000000009`"), "{error}");
    // A member is done, whatever the list says; one that is not admitted does not replace another.
    let silent = BTreeMap::from([(NodeId(2), REPLACE_AFTER)]);
    let view = ClusterView {
        own: NodeId(1),
        configuration: &three,
        silent: &silent,
        election_timeout: ELECTION,
        replace_after: REPLACE_AFTER,
        not_admitted: Some(error.clone()),
    };
    assert_eq!(on_join(&view, &node(3, "c")), JoinStep::Done);
    assert_eq!(on_join(&view, &node(20, "b")), JoinStep::Refuse(error));
}

#[test]
fn a_second_node_of_a_name_is_refused_while_the_first_answers() {
    let three = voters(&[(1, "a"), (2, "b"), (3, "c")]);
    assert_eq!(reason(step(&three, &[(2, 100), (3, 0)], &node(20, "b"))), AdminReason::NameInUse);
    assert_eq!(
        reason(step(&three, &[(2, 0), (3, 0)], &node(10, "a"))),
        AdminReason::NameInUse,
        "the leader's"
    );
    assert_eq!(reason(step(&three, &[(2, 2999)], &node(20, "b"))), AdminReason::NameHeld);
}

#[test]
fn a_lost_member_is_removed_once_it_was_silent_for_long_and_then_the_new_one_added() {
    let mut three = voters(&[(1, "a"), (2, "b"), (3, "c")]);
    let new = node(20, "b");
    let remove = Change { remove: vec![NodeId(2)], ..Change::default() };
    assert_eq!(step(&three, &[(2, 3000), (3, 0)], &new), JoinStep::Change(remove));
    three.voters.remove(&NodeId(2));
    three.removed.insert(NodeId(2), LogIndex(9));
    let add = Change { add: vec![new.clone()], ..Change::default() };
    assert_eq!(step(&three, &[(3, 0)], &new), JoinStep::Change(add));
    assert_eq!(reason(step(&three, &[(3, 0)], &node(2, "b"))), AdminReason::Removed, "its old disk");
}

#[test]
fn two_voters_cannot_replace_one_that_is_lost() {
    let two = voters(&[(1, "a"), (2, "b")]);
    assert_eq!(reason(step(&two, &[(2, 60_000)], &node(20, "b"))), AdminReason::NeedsRecovery);
    let error = on_join_without_leader(&two, &node(20, "b"));
    assert_eq!(error.reason, AdminReason::NeedsRecovery);
    assert!(error.detail.contains("`kuberaft recover` is needed"), "{error}");
    let three = voters(&[(1, "a"), (2, "b"), (3, "c")]);
    assert_eq!(on_join_without_leader(&three, &node(20, "b")).reason, AdminReason::NoLeader);
    assert_eq!(on_join_without_leader(&two, &node(3, "c")).reason, AdminReason::NoLeader);
}

#[test]
fn a_lost_learner_is_replaced_whatever_the_voters() {
    let mut one = voters(&[(1, "a")]);
    one.learners.insert(NodeId(2), Member { name: "b".into(), ..Member::default() });
    let remove = Change { remove: vec![NodeId(2)], ..Change::default() };
    assert_eq!(step(&one, &[(2, 3000)], &node(20, "b")), JoinStep::Change(remove));
}

#[test]
fn a_cluster_has_a_greatest_size() {
    let names: Vec<String> = (0..9).map(|n| format!("n{n}")).collect();
    let members: Vec<(u64, &str)> = (1..).zip(names.iter().map(String::as_str)).collect();
    assert_eq!(reason(step(&voters(&members), &[], &node(99, "more"))), AdminReason::TooMany);
}

#[test]
fn only_a_committed_removal_is_told() {
    let mut one = voters(&[(1, "a")]);
    one.removed.insert(NodeId(2), LogIndex(8));
    let told =
        |commit| removed_by(&one, LogIndex(9), LogIndex(commit), NodeId(2)).map(|removed| removed.index);
    assert_eq!(told(8), None);
    assert_eq!(told(9), Some(LogIndex(8)));
    assert_eq!(removed_by(&one, LogIndex(9), LogIndex(9), NodeId(1)), None);
    one.outgoing = voters(&[(1, "a"), (2, "b")]).voters;
    assert_eq!(removed_by(&one, LogIndex(9), LogIndex(9), NodeId(2)), None, "while the change is under way");
}

#[test]
fn a_node_that_nobody_counts_asks_those_of_its_cluster_to_be_added_again() {
    let (own, other) = (ClusterId(7), ClusterId(8));
    let answer = |id: u64, name: &str, cluster_id, knows_asker, removed: Option<u64>| {
        let answer = HelloAnswer {
            node_id: NodeId(id),
            name: name.into(),
            cluster_id,
            knows_asker,
            removed_asker: removed.map(|index| RemovedBy { index: LogIndex(index), configuration: None }),
            ..HelloAnswer::default()
        };
        (name.to_owned(), answer)
    };
    let asked = |answers: &[(String, HelloAnswer)]| forgotten_by(own, &answers.iter().cloned().collect());
    let (empty, elsewhere) = (answer(4, "d", None, false, None), answer(3, "c", Some(other), true, None));
    let (one, two) = (answer(1, "a", Some(own), false, None), answer(2, "b", Some(own), false, None));
    assert_eq!(asked(&[one.clone(), two, elsewhere.clone(), empty.clone()]), ["a", "b"]);
    assert!(asked(&[elsewhere, empty]).is_empty());
    assert!(asked(&[one.clone(), answer(2, "b", Some(own), true, None)]).is_empty(), "it is a member");
    assert!(asked(&[one, answer(2, "b", Some(own), false, Some(9))]).is_empty(), "it was removed");
}
