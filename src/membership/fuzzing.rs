//! Configurations of any bytes, and decisions about any members.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::join::{ClusterView, JoinStep, on_join};
use super::reconcile::{Reconciliation, reconcile};
use super::rollout::{self, Rollout};
use super::stranded::stranded;
use super::workload::{Health, Pod, Workload, is_majority_on_one_node};
use crate::fuzzing::Input;
use crate::raft::{Configuration, MEMBERS_MAX, Member, NewMember};
use crate::types::{LogIndex, NodeId, Session};

fn configuration(input: &mut Input<'_>) -> Configuration {
    let mut configuration = Configuration::default();
    for _ in 0..input.below(8) {
        let id = NodeId(u64::from(input.below(8)));
        let name = format!("kv-{}", input.below(8));
        let member = Member { name, session: Session(input.number()), ..Member::default() };
        match input.below(8) {
            0 => drop(configuration.outgoing.insert(id, member)),
            1 => drop(configuration.learners.insert(id, member)),
            2 => drop(configuration.removed.insert(id, LogIndex(input.number()))),
            _ => drop(configuration.voters.insert(id, member)),
        }
    }
    configuration
}

fn workload(input: &mut Input<'_>) -> Workload {
    Workload {
        name: "kv".into(),
        uid: "set".into(),
        replicas: u32::from(input.below(6)),
        first_ordinal: u32::from(input.below(3)),
        is_deleted: input.below(16) == 0,
        is_observed: input.below(8) != 0,
        update_revision: if input.below(8) == 0 { String::new() } else { "new".into() },
        volumes: vec!["data".into()],
    }
}

fn pods(input: &mut Input<'_>) -> Vec<Pod> {
    let pod = |ordinal: u8, input: &mut Input<'_>| Pod {
        name: format!("kv-{ordinal}"),
        uid: format!("uid-{ordinal}"),
        revision: if input.is_set() { "new".into() } else { "old".into() },
        is_ready: input.below(4) != 0,
        is_terminating: input.below(8) == 0,
        node: format!("node-{}", input.below(3)),
    };
    (0..input.below(8)).map(|ordinal| pod(ordinal, input)).collect()
}

/// No decision removes a member that should stay, evicts a pod that is not there, or adds a node that was removed permanently.
pub(crate) fn decisions(data: &[u8]) {
    let mut input = Input::new(data);
    if input.below(4) == 0 {
        let Ok(configuration) = Configuration::decode(input.rest()) else { return };
        assert_eq!(Configuration::decode(&configuration.encode()).ok(), Some(configuration));
        return;
    }
    let (configuration, workload) = (configuration(&mut input), workload(&mut input));
    let members: BTreeSet<_> = configuration.members().into_keys().collect();
    let health: Vec<_> = members
        .iter()
        .map(|id| Health { id: *id, in_touch: input.below(4) != 0, caught_up: input.below(4) != 0 })
        .collect();
    let own = NodeId(u64::from(input.below(8)));
    let stays = |id: &NodeId| configuration.member(*id).is_some_and(|member| workload.wants(&member.name));
    match reconcile(own, &configuration, &health, &workload) {
        Reconciliation::Remove(change) => {
            assert!(!change.remove.is_empty() && !change.remove.iter().any(stays));
            assert!(change.add.is_empty() && change.promote.is_empty() && change.demote.is_empty());
        }
        Reconciliation::HandOver(to) => assert!(to != own && configuration.voters.contains_key(&to)),
        Reconciliation::Settled | Reconciliation::Wait { .. } => {}
    }
    let pods = pods(&mut input);
    match rollout::next(own, &configuration, &health, &workload, &pods) {
        Rollout::Evict { pod, .. } => {
            assert!(pods.iter().any(|there| there.name == pod && there.revision != workload.update_revision));
        }
        Rollout::HandOver(to) => assert!(configuration.voters.contains_key(&to)),
        Rollout::Done | Rollout::Wait { .. } => {}
    }
    let _ = (stranded(&configuration, &workload), is_majority_on_one_node(&configuration, &pods));
    let new = NewMember {
        id: NodeId(u64::from(input.below(10))),
        name: format!("kv-{}", input.below(10)),
        peer_addr: None,
        stays_learner: input.is_set(),
    };
    let silent: BTreeMap<_, _> =
        members.iter().map(|id| (*id, Duration::from_millis(input.number() % 100_000_000))).collect();
    let election_timeout = Duration::from_millis(300);
    let view = ClusterView {
        own,
        configuration: &configuration,
        silent: &silent,
        election_timeout,
        replace_after: 10 * election_timeout,
        not_admitted: None,
    };
    if let JoinStep::Change(change) = on_join(&view, &new) {
        assert!(!change.add.iter().any(|added| configuration.removed.contains_key(&added.id)));
        assert!(change.add.is_empty() || members.len() < MEMBERS_MAX);
        assert!(!change.remove.contains(&own), "a leader does not replace itself");
    }
}

/// Inputs to begin with.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let three: Vec<u8> = (1..=3).flat_map(|id| [id, id - 1, 1, 7]).collect();
    let decision = [&[1, 3][..], &three, &[2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3], &[1; 24]].concat();
    let member = |id: u64| (NodeId(id), Member { name: format!("n{id}"), ..Member::default() });
    let configuration = Configuration {
        voters: (1..=3).map(member).collect(),
        learners: BTreeMap::from([member(4)]),
        removed: BTreeMap::from([(NodeId(5), LogIndex(6))]),
        ..Configuration::default()
    };
    vec![decision, [&[0][..], &configuration.encode()].concat()]
}
