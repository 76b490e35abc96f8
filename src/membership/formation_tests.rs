//! The table of decisions: three nodes `a` (forms), `b`, `c` with ids 1, 2, 3.

use super::*;
use crate::membership::{InitialMember, Refused, on_contact, on_form};

const X: ClusterId = ClusterId(0x10);
const Y: ClusterId = ClusterId(0x20);

fn local(name: &str) -> Local {
    let id = u64::from(name.as_bytes()[0] - b'a' + 1);
    Local {
        node_id: NodeId(id),
        name: name.into(),
        client_addr: String::new(),
        peer_addr: Some(format!("{name}:1")),
    }
}

fn cluster(names: &[&str]) -> InitialCluster {
    let members = names
        .iter()
        .map(|name| InitialMember { name: (*name).into(), address: format!("{name}:1") })
        .collect();
    InitialCluster::new(members).unwrap()
}

fn founders(members: &[(u64, &str)]) -> Configuration {
    let voters = members
        .iter()
        .map(|&(id, name)| {
            let (session, peer_addr) = (Session(1), Some(format!("{name}:1")));
            (NodeId(id), Member { name: name.into(), session, peer_addr, ..Member::default() })
        })
        .collect();
    Configuration { voters, ..Configuration::default() }
}

fn intent() -> Standing {
    Standing::Intent(Intent { cluster_id: X, configuration: founders(&[(1, "a"), (2, "b"), (3, "c")]) })
}

fn empty(name: &str, id: u64) -> (String, HelloAnswer) {
    let nonce = 100 + id;
    let answer = HelloAnswer {
        node_id: NodeId(id),
        name: name.into(),
        client_addr: format!("{name}:2"),
        peer_addr: Some(format!("{name}:1")),
        nonce,
        ..HelloAnswer::default()
    };
    (name.into(), answer)
}

fn of_cluster(name: &str, id: u64, cluster_id: ClusterId, knows_asker: bool) -> (String, HelloAnswer) {
    let (name, answer) = empty(name, id);
    (name, HelloAnswer { cluster_id: Some(cluster_id), nonce: 0, knows_asker, ..answer })
}

fn decide_as(name: &str, standing: &Standing, answers: &[(String, HelloAnswer)]) -> Decision {
    decide_by(JoinPolicy::Auto, name, standing, answers)
}

fn decide_by(
    policy: JoinPolicy,
    name: &str,
    standing: &Standing,
    answers: &[(String, HelloAnswer)],
) -> Decision {
    decide(&local(name), standing, policy, &cluster(&["a", "b", "c"]), &answers.iter().cloned().collect())
}

#[track_caller]
fn check_wait(decision: Decision, expected: &str) {
    let Decision::Wait { why } = decision else { panic!("{decision:?}") };
    assert_eq!(why, expected);
}

#[track_caller]
fn check_stay_out(decision: Decision, expected: &str) {
    let Decision::StayOut { why } = decision else { panic!("{decision:?}") };
    assert!(why.contains(expected), "{why}");
}

fn invitations(decision: Decision) -> Vec<(NodeId, u64)> {
    let Decision::Form(invitations) = decision else { panic!("{decision:?}") };
    invitations.into_iter().map(|i| (i.node_id, i.nonce)).collect()
}

#[test]
fn the_first_forms_once_all_have_answered_empty() {
    let none = Standing::Empty;
    check_wait(decide_as("a", &none, &[]), "waiting for b, c to answer");
    check_wait(decide_as("a", &none, &[empty("b", 2)]), "waiting for c to answer");
    let all = [empty("b", 2), empty("c", 3)];
    assert_eq!(decide_as("a", &none, &all), Decision::Intend(founders(&[(1, "a"), (2, "b"), (3, "c")])));
}

#[test]
fn the_others_never_form() {
    let answers = [empty("a", 1), empty("c", 3)];
    check_wait(decide_as("b", &Standing::Empty, &answers), "waiting for a to form the cluster");
    check_wait(decide_as("b", &Standing::Empty, &answers[1..]), "waiting for a to answer");
}

#[test]
fn a_single_name_forms_at_once() {
    let (local, alone, none) = (local("a"), cluster(&["a"]), BTreeMap::new());
    let Decision::Intend(configuration) =
        decide(&local, &Standing::Empty, JoinPolicy::default(), &alone, &none)
    else {
        panic!()
    };
    assert_eq!(configuration, founders(&[(1, "a")]));
    let standing = Standing::Intent(Intent { cluster_id: X, configuration });
    assert_eq!(decide(&local, &standing, JoinPolicy::default(), &alone, &none), Decision::Formed);
}

#[test]
fn an_empty_node_never_forms_a_second_cluster_next_to_a_known_one() {
    let answers = [of_cluster("b", 2, X, false), empty("c", 3)];
    let peers = vec!["b".to_owned()];
    assert_eq!(decide_as("a", &Standing::Empty, &answers), Decision::Join { cluster_id: X, peers });
    let out = decide_by(JoinPolicy::Wait, "a", &Standing::Empty, &answers);
    check_stay_out(
        out.clone(),
        "cluster 0000000000000010, known to b, has no member with this node's id 0000000000000001",
    );
    check_stay_out(out, "`kuberaft member add a --id 0000000000000001 --peer-addr a:1 --endpoints b:2`");
    check_wait(
        decide_as("a", &Standing::Empty, &[of_cluster("b", 2, X, true)]),
        "cluster 0000000000000010 counts this node as a member; waiting for a member to make contact",
    );
    let answers = [of_cluster("b", 2, X, true), of_cluster("c", 3, Y, true)];
    check_stay_out(decide_as("a", &Standing::Empty, &answers), "the peers belong to different clusters");
}

#[test]
fn a_directory_that_belonged_to_a_cluster_never_forms() {
    let answers = [empty("b", 2), empty("c", 3)];
    check_stay_out(decide_as("a", &Standing::Retired(X), &answers), "never form one");
    check_stay_out(decide_by(JoinPolicy::Always, "a", &Standing::Retired(X), &answers), "never form one");
}

#[test]
fn a_removed_node_joins_again_only_if_told_so() {
    let answers = [of_cluster("b", 2, X, false), of_cluster("c", 3, X, false)];
    let retired = |policy| decide_by(policy, "a", &Standing::Retired(X), &answers);
    check_stay_out(retired(JoinPolicy::Auto), "was removed from cluster 0000000000000010");
    check_stay_out(retired(JoinPolicy::Wait), "kuberaft member add a --id 0000000000000001");
    let peers = vec!["b".to_owned(), "c".to_owned()];
    assert_eq!(retired(JoinPolicy::Always), Decision::Join { cluster_id: X, peers });
    let elsewhere = [of_cluster("b", 2, Y, false)];
    check_stay_out(decide_by(JoinPolicy::Always, "a", &Standing::Retired(X), &elsewhere), "no peer knows");
    let added = [of_cluster("b", 2, X, true), of_cluster("c", 3, X, false)];
    check_wait(
        decide_as("a", &Standing::Retired(X), &added),
        "cluster 0000000000000010 counts this node as a member; waiting for a member to make contact",
    );
}

#[test]
fn a_node_that_the_list_does_not_name_joins_and_never_forms() {
    let decide_as = |answers: &[(String, HelloAnswer)]| {
        let answers = answers.iter().cloned().collect();
        decide(&local("d"), &Standing::Empty, JoinPolicy::Always, &cluster(&["a", "b", "c"]), &answers)
    };
    let all_empty = [empty("a", 1), empty("b", 2), empty("c", 3)];
    check_wait(decide_as(&all_empty), "waiting for a to form the cluster");
    let peers = vec!["a".to_owned()];
    assert_eq!(decide_as(&[of_cluster("a", 1, X, false)]), Decision::Join { cluster_id: X, peers });
}

#[test]
fn contradictory_answers_are_named() {
    let none = Standing::Empty;
    let check = |answers: &[_], expected: &str| check_stay_out(decide_as("a", &none, answers), expected);
    let (_, c) = empty("c", 3);
    check(&[("b".into(), c)], "b:1, given for b, is answered by c");
    check(&[empty("b", 3), empty("c", 3)], "b and c have the same node id 0000000000000003");
    check(&[empty("b", 1)], "a and b have the same node id 0000000000000001");
    let (_, a) = empty("a", 1);
    check(&[("b".into(), a)], "b:1, given for b, leads to this node itself");
}

#[test]
fn an_intent_continues_with_the_same_ids() {
    let all = [empty("b", 2), empty("c", 3)];
    assert_eq!(invitations(decide_as("a", &intent(), &all)), [(NodeId(2), 102), (NodeId(3), 103)]);
    assert_eq!(
        invitations(decide_as("a", &intent(), &[empty("c", 3)])),
        [(NodeId(3), 103)],
        "a majority suffices"
    );
    check_wait(decide_as("a", &intent(), &[]), "waiting for b, c to answer");
    let told = [of_cluster("b", 2, X, true), empty("c", 3)];
    assert_eq!(decide_as("a", &intent(), &told), Decision::Formed, "b was told before a crash");
    let other = [of_cluster("b", 2, Y, false)];
    check_stay_out(decide_as("a", &intent(), &other), "but b belongs to cluster 0000000000000020");
}

/// `name` began to form `cluster_id`.
fn forming(name: &str, id: u64, cluster_id: ClusterId) -> (String, HelloAnswer) {
    let (name, answer) = of_cluster(name, id, cluster_id, true);
    (name, HelloAnswer { is_intent: true, ..answer })
}

#[test]
fn an_intent_that_nobody_accepted_gives_way_to_a_cluster_and_to_the_founder() {
    let gives_way = |name: &str, answers: &[(String, HelloAnswer)]| {
        matches!(decide_as(name, &intent(), answers), Decision::GiveWay { .. })
    };
    // To a cluster, once nobody can hold the intent.
    assert!(gives_way("a", &[of_cluster("b", 2, Y, false), empty("c", 3)]));
    assert!(!gives_way("a", &[of_cluster("b", 2, Y, false)]), "c may hold it");
    assert!(!gives_way("a", &[of_cluster("b", 2, Y, false), of_cluster("c", 3, X, true)]), "c holds it");
    // To the founder, whatever the others began.
    assert!(gives_way("b", &[forming("a", 1, Y), forming("c", 3, ClusterId(0x30))]));
    assert!(!gives_way("b", &[forming("a", 1, Y)]), "c may hold it");
    let waits = [forming("b", 2, Y), empty("c", 3)];
    check_wait(
        decide_as("a", &intent(), &waits),
        "b began to form cluster 0000000000000020, this node 0000000000000010: waiting for b to give way",
    );
    // What somebody accepted is formed.
    let accepted = [forming("a", 1, Y), of_cluster("c", 3, X, true)];
    assert_eq!(decide_as("b", &intent(), &accepted), Decision::Formed);
    // A node that is no longer listed may hold it.
    let answers = BTreeMap::from([of_cluster("b", 2, Y, false)]);
    let decision = decide(&local("a"), &intent(), JoinPolicy::Auto, &cluster(&["a", "b"]), &answers);
    assert!(matches!(decision, Decision::StayOut { .. }), "{decision:?}");
}

/// Seed 2198 on five nodes: one founding member was gone for good, and so the other founder never gave way.
#[test]
fn an_intent_gives_way_once_most_founding_members_are_lost_to_it() {
    let names = ["a", "b", "c", "d", "e"];
    let configuration = founders(&[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")]);
    let standing = Standing::Intent(Intent { cluster_id: X, configuration });
    let gives_way = |answers: &[(String, HelloAnswer)]| {
        let answers = answers.iter().cloned().collect();
        let decision = decide(&local("b"), &standing, JoinPolicy::default(), &cluster(&names), &answers);
        matches!(decision, Decision::GiveWay { .. })
    };
    // a does not answer.
    let [c, d] = [of_cluster("c", 3, Y, false), of_cluster("d", 4, Y, true)];
    assert!(!gives_way(&[c.clone(), d.clone()]), "a, b and e are three of five");
    assert!(!gives_way(&[c.clone(), d.clone(), empty("e", 5)]));
    assert!(!gives_way(&[c.clone(), d.clone(), forming("e", 5, Y)]), "e may give way itself");
    assert!(gives_way(&[c.clone(), d.clone(), of_cluster("e", 5, Y, false)]));
    assert!(gives_way(&[c, d, empty("e", 50)]), "e's directory was emptied");
}

#[test]
fn an_empty_node_waits_for_a_cluster_that_is_being_formed() {
    let answers = [forming("b", 2, Y), empty("c", 3)];
    check_wait(decide_as("a", &Standing::Empty, &answers), "waiting for b to form cluster 0000000000000020");
}

#[test]
fn founding_members_with_other_lists_are_refused_and_both_lists_shown() {
    let listed = |(name, answer): (String, HelloAnswer), names: &[&str]| {
        (name, HelloAnswer { listed: names.iter().map(|name| (*name).to_owned()).collect(), ..answer })
    };
    let same = [listed(empty("b", 2), &["c", "b", "a"]), empty("c", 3)];
    assert!(
        matches!(decide_as("a", &Standing::Empty, &same), Decision::Intend(_)),
        "the order does not matter"
    );
    let other = [listed(empty("b", 2), &["b", "c"]), empty("c", 3)];
    for standing in [Standing::Empty, intent()] {
        let expected =
            "the lists of members differ: this node has a, b, c; b has b, c: start all founding members";
        check_stay_out(decide_as("a", &standing, &other), expected);
    }
    // A cluster that runs is joined, whatever its members' lists are.
    let runs = [listed(of_cluster("b", 2, X, false), &["b", "e"]), empty("c", 3)];
    assert!(matches!(decide_as("a", &Standing::Empty, &runs), Decision::Join { .. }));
}

#[test]
fn an_intent_is_replaced_only_if_nobody_can_hold_it() {
    let emptied = [empty("b", 20), empty("c", 3)];
    assert_eq!(
        decide_as("a", &intent(), &emptied),
        Decision::Intend(founders(&[(1, "a"), (20, "b"), (3, "c")]))
    );
    // c may have been told: its answer is awaited, the intent stays.
    check_wait(decide_as("a", &intent(), &[empty("b", 20)]), "waiting for c to answer");
    // c was told: b's new directory stays out of a cluster that works without it.
    let told = [empty("b", 20), of_cluster("c", 3, X, true)];
    assert_eq!(decide_as("a", &intent(), &told), Decision::Formed);
}

#[test]
fn a_cluster_that_lost_its_majority_while_it_was_formed_is_not_replaced() {
    let names = ["a", "b", "c", "d", "e"];
    let configuration = founders(&[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")]);
    let standing = Standing::Intent(Intent { cluster_id: X, configuration });
    let answers =
        [of_cluster("b", 2, X, true), empty("c", 30), empty("d", 40), empty("e", 50)].into_iter().collect();
    check_stay_out(
        decide(&local("a"), &standing, JoinPolicy::default(), &cluster(&names), &answers),
        "a majority of its founding members is gone; not in it: c, d, e",
    );
}

#[test]
fn an_intent_that_nobody_was_told_of_is_started_again() {
    let Standing::Intent(intent) = intent() else { unreachable!() };
    let anew = |names: &[&str], answers: &[(String, HelloAnswer)]| {
        let answers = answers.iter().cloned().collect();
        decide_anew(&local("a"), &intent, JoinPolicy::Always, &cluster(names), &answers)
    };
    assert_eq!(anew(&["a"], &[]), Some(Decision::Intend(founders(&[(1, "a")]))), "scaled down meanwhile");
    let all = ["a", "b", "c"];
    assert_eq!(anew(&all, &[empty("b", 2), empty("c", 3)]), None, "as intended");
    check_wait(anew(&all, &[empty("b", 2)]).unwrap(), "waiting for c to answer");
    let other = anew(&all, &[of_cluster("b", 2, Y, false), empty("c", 3)]);
    assert_eq!(other, Some(Decision::Join { cluster_id: Y, peers: vec!["b".to_owned()] }));
    assert_eq!(anew(&all, &[of_cluster("b", 2, X, true), empty("c", 3)]), None, "b was told");
}

#[test]
fn founders_that_are_not_expected_any_more_are_named() {
    let decision = decide(&local("a"), &intent(), JoinPolicy::default(), &cluster(&["a"]), &BTreeMap::new());
    check_stay_out(decision, "is gone; not expected any more: b, c, who may know of it");
}

fn offer(cluster_id: ClusterId) -> Formed {
    Formed { cluster_id, configuration: Some(founders(&[(1, "a"), (2, "b"), (3, "c")])) }
}

#[test]
fn form_is_accepted_once_by_its_newest_nonce() {
    let b = local("b");
    let accept = |standing: &Standing, newest, nonce, cluster_id| {
        on_form(&b, standing, newest, nonce, offer(cluster_id))
    };
    assert_eq!(accept(&Standing::Empty, Some(7), 7, X), Ok(Some(offer(X))));
    assert_eq!(accept(&Standing::Empty, Some(8), 7, X), Err(Refused::StaleNonce));
    assert_eq!(accept(&Standing::Empty, None, 0, X), Err(Refused::StaleNonce));
    assert_eq!(accept(&Standing::Member(offer(X)), None, 7, X), Ok(None), "repeated");
    assert_eq!(
        accept(&Standing::Member(offer(X)), Some(7), 7, Y),
        Err(Refused::OtherCluster { own: X, other: Y })
    );
    assert_eq!(accept(&intent(), Some(7), 7, Y), Err(Refused::Forming { own: X }));
    assert_eq!(accept(&Standing::Retired(Y), Some(7), 7, Y), Err(Refused::OtherCluster { own: Y, other: Y }));
    let d = Local { node_id: NodeId(2), ..local("d") };
    assert!(matches!(
        on_form(&d, &Standing::Empty, Some(7), 7, offer(X)),
        Err(Refused::NotInConfiguration { .. })
    ));
}

#[test]
fn contact_makes_an_empty_node_a_member_and_no_other() {
    let a = local("a");
    let contact =
        |standing: &Standing, cluster_id, target| on_contact(&a, standing, cluster_id, NodeId(target));
    let unconfigured = Formed { cluster_id: X, configuration: None };
    assert_eq!(contact(&Standing::Empty, X, 1), Ok(Some(unconfigured.clone())));
    assert_eq!(contact(&Standing::Retired(X), X, 1), Ok(Some(unconfigured)), "added again, with a new id");
    assert_eq!(contact(&Standing::Retired(X), Y, 1), Err(Refused::OtherCluster { own: X, other: Y }));
    assert_eq!(
        contact(&Standing::Empty, X, 9),
        Err(Refused::WrongTarget { own: NodeId(1), target: NodeId(9) }),
        "its directory was emptied: it is not the previous node"
    );
    assert_eq!(contact(&intent(), X, 1), Ok(Some(offer(X))));
    assert_eq!(contact(&intent(), Y, 1), Err(Refused::Forming { own: X }));
    assert_eq!(contact(&Standing::Member(offer(X)), X, 1), Ok(None));
    assert_eq!(contact(&Standing::Member(offer(X)), Y, 1), Err(Refused::OtherCluster { own: X, other: Y }));
}
