//! Scaling down: which members leave when the StatefulSet wants fewer pods, and when that is safe.
//!
//! All that leave go in one change. The controller deletes all excess pods within milliseconds; removing one by one
//! would get stuck, since after the first removal the next one to leave may be needed for the majority.

use super::workload::{Health, Workload};
use crate::raft::{Change, Configuration};
use crate::types::NodeId;

/// What the leader does about its StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciliation {
    /// The members are those that are wanted.
    Settled,
    /// Not now; says what is waited for.
    Wait {
        /// For people.
        why: String,
    },
    /// This leader is among those that leave: this member that stays shall lead.
    HandOver(NodeId),
    /// Remove these, at once.
    Remove(Change),
}

/// Compares the members with what the StatefulSet wants. `health` is of all members, the leader `own` included.
/// Members that are no pods of this StatefulSet are left alone.
#[must_use]
pub fn reconcile(
    own: NodeId,
    configuration: &Configuration,
    health: &[Health],
    workload: &Workload,
) -> Reconciliation {
    if workload.is_deleted || workload.replicas == 0 {
        // Scaled to zero or deleted: the same members may start again.
        return Reconciliation::Settled;
    }
    let members = configuration.members();
    let leaves = |id: &NodeId| {
        let name = members.get(id).map_or("", |member| member.name.as_str());
        workload.ordinal(name).is_some() && !workload.wants(name)
    };
    let leaving: Vec<NodeId> = members.keys().copied().filter(|id| leaves(id)).collect();
    if leaving.is_empty() {
        return Reconciliation::Settled;
    }
    if configuration.is_joint() {
        return Reconciliation::Wait { why: "another change of members is under way".into() };
    }
    let staying: Vec<NodeId> = configuration.voters.keys().copied().filter(|id| !leaves(id)).collect();
    let ready = |id: &NodeId| health.iter().any(|health| health.id == *id && health.is_caught_up());
    let able: Vec<NodeId> = staying.iter().copied().filter(|id| ready(id)).collect();
    if able.len() <= staying.len() / 2 {
        let (able, staying) = (able.len(), staying.len());
        let why = format!(
            "scaling down to {} waits: only {able} of the {staying} voters that stay are in touch and caught up",
            workload.replicas
        );
        return Reconciliation::Wait { why };
    }
    if leaves(&own) {
        return Reconciliation::HandOver(able[0]);
    }
    Reconciliation::Remove(Change { remove: leaving, ..Change::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;

    /// Voters n1, n2, … as pods kv-0, kv-1, …
    fn configuration(voters: u64) -> Configuration {
        let member = |id: u64| (NodeId(id), Member { name: format!("kv-{}", id - 1), ..Member::default() });
        Configuration { voters: (1..=voters).map(member).collect(), ..Configuration::default() }
    }

    fn health(in_touch: &[u64]) -> Vec<Health> {
        (1..=5)
            .map(|id| Health { id: NodeId(id), in_touch: in_touch.contains(&id), caught_up: true })
            .collect()
    }

    fn wanting(replicas: u32) -> Workload {
        Workload { name: "kv".into(), replicas, ..Workload::default() }
    }

    fn removal(ids: &[u64]) -> Reconciliation {
        Reconciliation::Remove(Change {
            remove: ids.iter().map(|id| NodeId(*id)).collect(),
            ..Change::default()
        })
    }

    #[test]
    fn all_that_leave_go_at_once() {
        let five = configuration(5);
        assert_eq!(reconcile(NodeId(1), &five, &health(&[1, 2, 3]), &wanting(3)), removal(&[4, 5]));
        assert_eq!(
            reconcile(NodeId(1), &five, &health(&[1, 2, 3, 4, 5]), &wanting(1)),
            removal(&[2, 3, 4, 5])
        );
    }

    #[test]
    fn enough_members_or_too_few_are_left_alone() {
        for (voters, replicas) in [(3, 3), (3, 5), (3, 0)] {
            let settled =
                reconcile(NodeId(1), &configuration(voters), &health(&[1, 2, 3]), &wanting(replicas));
            assert_eq!(settled, Reconciliation::Settled, "{voters} voters, {replicas} wanted");
        }
        let deleted = Workload { is_deleted: true, ..wanting(1) };
        assert_eq!(
            reconcile(NodeId(1), &configuration(3), &health(&[1, 2, 3]), &deleted),
            Reconciliation::Settled
        );
    }

    #[test]
    fn nothing_is_removed_while_those_that_stay_are_no_majority() {
        let decision = reconcile(NodeId(5), &configuration(5), &health(&[3, 4, 5]), &wanting(3));
        assert!(
            matches!(&decision, Reconciliation::Wait { why } if why.contains("1 of the 3")),
            "{decision:?}"
        );
        let mut behind = health(&[1, 2, 3, 4, 5]);
        for health in &mut behind[..2] {
            health.caught_up = false;
        }
        assert!(matches!(
            reconcile(NodeId(3), &configuration(5), &behind, &wanting(3)),
            Reconciliation::Wait { .. }
        ));
    }

    #[test]
    fn a_leader_that_leaves_hands_over_to_one_that_stays() {
        let decision = reconcile(NodeId(5), &configuration(5), &health(&[2, 3, 4, 5]), &wanting(3));
        assert_eq!(decision, Reconciliation::HandOver(NodeId(2)));
    }

    #[test]
    fn learners_leave_too_and_strangers_stay() {
        let mut mixed = configuration(3);
        mixed.learners.insert(NodeId(4), Member { name: "kv-3".into(), ..Member::default() });
        mixed.learners.insert(NodeId(5), Member { name: "elsewhere".into(), ..Member::default() });
        assert_eq!(reconcile(NodeId(1), &mixed, &health(&[1, 2, 3]), &wanting(3)), removal(&[4]));
    }
}
