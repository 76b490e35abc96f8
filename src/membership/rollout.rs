//! A new pod template: which pod is replaced next, so that the cluster never has more than one member away.

use super::workload::{Health, Pod, Workload};
use crate::raft::Configuration;
use crate::types::NodeId;

/// What the leader does about pods of an old revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// All pods are of the newest revision, or it is not known yet.
    Done,
    /// One is being replaced, or another condition is not met; says what is waited for.
    Wait {
        /// For people.
        why: String,
    },
    /// Evict this pod, if it is still the one of this uid.
    Evict {
        /// The pod's name.
        pod: String,
        /// Its uid.
        uid: String,
    },
    /// Only this leader's own pod is left: this member, whose pod is new, shall lead and evict it.
    HandOver(NodeId),
}

/// The next step of a rollout: pods that are down first (they have nothing to lose), then followers one at a time,
/// each only while all other members are caught up; the leader last.
#[must_use]
pub fn next(
    own: NodeId,
    configuration: &Configuration,
    health: &[Health],
    workload: &Workload,
    pods: &[Pod],
) -> Rollout {
    if workload.is_deleted || !workload.is_observed || workload.update_revision.is_empty() {
        return Rollout::Done;
    }
    let wanted: Vec<&Pod> = pods.iter().filter(|pod| workload.wants(&pod.name)).collect();
    let is_old = |pod: &&&Pod| pod.revision != workload.update_revision;
    let old: Vec<&Pod> = wanted.iter().filter(is_old).copied().collect();
    if old.is_empty() {
        return Rollout::Done;
    }
    if let Some(pod) = wanted.iter().find(|pod| pod.is_terminating) {
        return Rollout::Wait { why: format!("{} is being replaced", pod.name) };
    }
    let evict = |pod: &Pod| Rollout::Evict { pod: pod.name.clone(), uid: pod.uid.clone() };
    let members = configuration.members();
    let id_of = |name: &str| members.iter().find(|(_, member)| member.name == name).map(|(id, _)| *id);
    if let Some(broken) = wanted.iter().find(|pod| !is_old(pod) && !pod.is_ready) {
        // A new pod that does not get ready stops the rollout; a newer template goes on with it first.
        return Rollout::Wait { why: format!("{} of the newest revision is not ready", broken.name) };
    }
    if let Some(down) = old.iter().find(|pod| !pod.is_ready) {
        return evict(down);
    }
    if wanted.len() < workload.replicas as usize {
        return Rollout::Wait { why: "not all pods are there".into() };
    }
    let lagging = health.iter().find(|health| members.contains_key(&health.id) && !health.is_caught_up());
    if let Some(lagging) = lagging {
        let name = members.get(&lagging.id).map_or_else(String::new, |member| member.name.clone());
        return Rollout::Wait { why: format!("{name} is not caught up") };
    }
    if let Some(follower) = old.iter().find(|pod| id_of(&pod.name) != Some(own)) {
        return evict(follower);
    }
    let successor = wanted.iter().find_map(|pod| {
        let id = id_of(&pod.name)?;
        (!is_old(&pod) && configuration.voters.contains_key(&id)).then_some(id)
    });
    // Alone, the leader is evicted by itself.
    successor.map_or_else(|| evict(old[0]), Rollout::HandOver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;

    fn configuration() -> Configuration {
        let member = |id: u64| (NodeId(id), Member { name: format!("kv-{}", id - 1), ..Member::default() });
        Configuration { voters: (1..=3).map(member).collect(), ..Configuration::default() }
    }

    fn health() -> Vec<Health> {
        (1..=3).map(|id| Health { id: NodeId(id), in_touch: true, lag_entries: 0 }).collect()
    }

    fn workload() -> Workload {
        Workload {
            name: "kv".into(),
            replicas: 3,
            is_observed: true,
            update_revision: "new".into(),
            ..Workload::default()
        }
    }

    fn pods(revisions: [&str; 3]) -> Vec<Pod> {
        let pod = |(ordinal, revision): (usize, &&str)| Pod {
            name: format!("kv-{ordinal}"),
            uid: format!("u{ordinal}"),
            revision: (*revision).into(),
            is_ready: true,
            ..Pod::default()
        };
        revisions.iter().enumerate().map(pod).collect()
    }

    fn step(pods: &[Pod]) -> Rollout {
        next(NodeId(1), &configuration(), &health(), &workload(), pods)
    }

    fn evict(ordinal: usize) -> Rollout {
        Rollout::Evict { pod: format!("kv-{ordinal}"), uid: format!("u{ordinal}") }
    }

    #[test]
    fn followers_first_then_the_leader_hands_over() {
        assert_eq!(step(&pods(["old", "old", "old"])), evict(1));
        assert_eq!(step(&pods(["old", "new", "old"])), evict(2));
        assert_eq!(step(&pods(["old", "new", "new"])), Rollout::HandOver(NodeId(2)));
        assert_eq!(step(&pods(["new", "old", "new"])), evict(1));
        assert_eq!(step(&pods(["new", "new", "new"])), Rollout::Done);
    }

    #[test]
    fn one_at_a_time() {
        let mut replaced = pods(["old", "old", "old"]);
        replaced[2].is_terminating = true;
        assert!(matches!(step(&replaced), Rollout::Wait { .. }));
        replaced.pop();
        assert!(matches!(step(&replaced), Rollout::Wait { .. }), "the new pod is not there yet");
    }

    #[test]
    fn a_broken_new_pod_stops_it_and_a_newer_template_mends_it() {
        let mut broken = pods(["old", "new", "old"]);
        broken[1].is_ready = false;
        assert!(matches!(step(&broken), Rollout::Wait { .. }));
        let newer = Workload { update_revision: "newer".into(), ..workload() };
        assert_eq!(
            next(NodeId(1), &configuration(), &health(), &newer, &broken),
            evict(1),
            "what is down first"
        );
    }

    #[test]
    fn nothing_while_a_member_lags_or_the_revision_is_not_known() {
        let mut behind = health();
        behind[2].lag_entries = 1_000_000;
        let old = pods(["old", "old", "old"]);
        assert!(matches!(
            next(NodeId(1), &configuration(), &behind, &workload(), &old),
            Rollout::Wait { .. }
        ));
        let unseen = Workload { is_observed: false, ..workload() };
        assert_eq!(next(NodeId(1), &configuration(), &health(), &unseen, &old), Rollout::Done);
    }

    #[test]
    fn a_cluster_of_one_evicts_itself() {
        let one = Configuration {
            voters: [(NodeId(1), Member { name: "kv-0".into(), ..Member::default() })].into(),
            ..Configuration::default()
        };
        let workload = Workload { replicas: 1, ..workload() };
        let pods = &pods(["old", "old", "old"])[..1];
        assert_eq!(next(NodeId(1), &one, &health()[..1], &workload, pods), evict(0));
    }
}
