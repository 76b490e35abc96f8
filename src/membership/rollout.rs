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

/// The next step of a rollout: pods that are down first, then followers one at a time, each only while all other
/// members are caught up; the leader last. A pod whose member does not answer has nothing to lose, and goes as long as
/// the others are a majority; one that is not ready but votes must not take the majority with it.
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
    if let Some(broken) = wanted.iter().find(|pod| !is_old(pod) && !pod.is_ready) {
        // A new pod that does not get ready stops the rollout; a newer template continues with it first.
        return Rollout::Wait { why: format!("{} of the newest revision is not ready", broken.name) };
    }
    let members = Members { own, configuration, health };
    let mut followers = old.iter().filter(|pod| members.id(&pod.name) != Some(own));
    let mut down = followers.clone().filter(|pod| !pod.is_ready);
    if let Some(gone) = down.clone().find(|pod| !members.may_vote(&pod.name)) {
        return if members.are_majority_without(&gone.name) {
            evict(gone)
        } else {
            Rollout::Wait { why: format!("without {} no majority is known to be caught up", gone.name) }
        };
    }
    if wanted.len() < workload.replicas as usize {
        return Rollout::Wait { why: "not all pods are there".into() };
    }
    if let Some(voting) = down.next() {
        return members
            .lagging(Some(&voting.name))
            .map_or_else(|| evict(voting), |name| not_caught_up(&name));
    }
    if let Some(lagging) = members.lagging(None) {
        return not_caught_up(&lagging);
    }
    if let Some(follower) = followers.next() {
        return evict(follower);
    }
    let successor = wanted.iter().find_map(|pod| {
        let id = members.id(&pod.name)?;
        (!is_old(&pod) && configuration.voters.contains_key(&id)).then_some(id)
    });
    // Alone, the leader is evicted by itself.
    successor.map_or_else(|| evict(old[0]), Rollout::HandOver)
}

fn evict(pod: &Pod) -> Rollout {
    Rollout::Evict { pod: pod.name.clone(), uid: pod.uid.clone() }
}

fn not_caught_up(name: &str) -> Rollout {
    Rollout::Wait { why: format!("{name} is not caught up") }
}

/// The members as their leader sees them, by the names of their pods.
struct Members<'a> {
    own: NodeId,
    configuration: &'a Configuration,
    health: &'a [Health],
}

impl Members<'_> {
    fn id(&self, name: &str) -> Option<NodeId> {
        let members = self.configuration.members();
        members.into_iter().find_map(|(id, member)| (member.name == name).then_some(id))
    }

    fn health(&self, id: NodeId) -> Option<&Health> {
        self.health.iter().find(|health| health.id == id)
    }

    /// Whether a pod's process is a member that answers. Ready or not, its vote may be needed.
    fn may_vote(&self, name: &str) -> bool {
        let health = self.id(name).and_then(|id| self.health(id));
        health.is_some_and(|health| health.in_touch || health.id == self.own)
    }

    /// A member that is not caught up, other than the one of this pod.
    fn lagging(&self, except: Option<&str>) -> Option<String> {
        let members = self.configuration.members();
        let others = members.into_iter().filter(|(_, member)| Some(member.name.as_str()) != except);
        let mut lagging =
            others.filter(|(id, _)| self.health(*id).is_some_and(|health| !health.is_caught_up()));
        lagging.next().map(|(_, member)| member.name.clone())
    }

    /// Whether those that are caught up, other than the member of this pod, can commit without it.
    fn are_majority_without(&self, name: &str) -> bool {
        let left = self.id(name);
        [&self.configuration.voters, &self.configuration.outgoing].into_iter().all(|voters| {
            let able = voters
                .keys()
                .filter(|id| Some(**id) != left && self.health(**id).is_some_and(Health::is_caught_up));
            voters.is_empty() || able.count() > voters.len() / 2
        })
    }
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
        (1..=3).map(|id| Health { id: NodeId(id), in_touch: true, caught_up: true }).collect()
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
    fn an_unready_pod_that_votes_stays_while_another_member_is_away() {
        let mut unready = pods(["old", "old", "old"]);
        unready[1].is_ready = false;
        let step =
            |health: &[Health], pods: &[Pod]| next(NodeId(1), &configuration(), health, &workload(), pods);
        assert_eq!(step(&health(), &unready), evict(1), "the others are a majority");
        let mut frozen = health();
        frozen[2].in_touch = false;
        assert_eq!(step(&frozen, &unready), Rollout::Wait { why: "kv-2 is not caught up".into() });
        assert!(matches!(step(&health(), &unready[..2]), Rollout::Wait { .. }), "kv-2 is not there");
        // Silent itself, it does not vote: the template may be what mends it.
        frozen[1].in_touch = false;
        assert!(matches!(step(&frozen, &unready), Rollout::Wait { .. }), "nobody is known to be there");
        frozen[2].in_touch = true;
        assert_eq!(step(&frozen, &unready), evict(1));
        // Of two that are down, the silent one first.
        unready[2].is_ready = false;
        frozen[1].in_touch = true;
        frozen[2].in_touch = false;
        assert_eq!(step(&frozen, &unready), evict(2));
    }

    #[test]
    fn a_silent_pod_goes_although_another_member_of_five_is_away() {
        let member = |id: u64| (NodeId(id), Member { name: format!("kv-{}", id - 1), ..Member::default() });
        let five = Configuration { voters: (1..=5).map(member).collect(), ..Configuration::default() };
        let health = |away: &[u64]| {
            let one = |id| Health { id: NodeId(id), in_touch: !away.contains(&id), caught_up: true };
            (1..=5).map(one).collect::<Vec<_>>()
        };
        let pod = |ordinal: usize| Pod {
            name: format!("kv-{ordinal}"),
            uid: format!("u{ordinal}"),
            revision: "old".into(),
            is_ready: ordinal != 1,
            ..Pod::default()
        };
        let pods: Vec<Pod> = (0..5).map(pod).collect();
        let workload = Workload { replicas: 5, ..workload() };
        let step = |away: &[u64]| next(NodeId(1), &five, &health(away), &workload, &pods);
        assert_eq!(step(&[2, 3]), evict(1));
        assert!(matches!(step(&[3]), Rollout::Wait { .. }), "it votes");
        let joint = Configuration { outgoing: (1..=3).map(member).collect(), ..five.clone() };
        let step = next(NodeId(1), &joint, &health(&[2, 3]), &workload, &pods);
        assert!(matches!(step, Rollout::Wait { .. }), "no majority of the outgoing voters");
    }

    #[test]
    fn the_leader_is_last_even_if_its_own_pod_is_not_ready() {
        let mut unready = pods(["old", "old", "new"]);
        unready[0].is_ready = false;
        assert_eq!(step(&unready), evict(1));
        unready[1].revision = "new".into();
        assert_eq!(step(&unready), Rollout::HandOver(NodeId(2)));
    }

    #[test]
    fn nothing_while_a_member_lags_or_the_revision_is_not_known() {
        let mut behind = health();
        behind[2].caught_up = false;
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
