//! A StatefulSet and its pods, as far as membership depends on them.

use std::collections::BTreeMap;

use crate::raft::Configuration;
use crate::types::NodeId;

/// A StatefulSet, as just read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Its name; its pods are called `<name>-<ordinal>`.
    pub name: String,
    /// Tells it from another one that had the name before.
    pub uid: String,
    /// `spec.replicas`.
    pub replicas: u32,
    /// `spec.ordinals.start`.
    pub first_ordinal: u32,
    /// It has a deletion timestamp.
    pub is_deleted: bool,
    /// Its controller has seen the newest spec, so the revision below is that of the newest template.
    pub is_observed: bool,
    /// `status.updateRevision`: the revision of the newest template.
    pub update_revision: String,
    /// Names of its volume claim templates.
    pub volumes: Vec<String>,
}

/// One pod of the StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name, which is its member's name.
    pub name: String,
    /// Tells it from an earlier pod of the name.
    pub uid: String,
    /// The template's revision that it was made from.
    pub revision: String,
    /// Ready, and not being deleted.
    pub is_ready: bool,
    /// It has a deletion timestamp.
    pub is_terminating: bool,
    /// The Kubernetes node that it runs on; empty before it is scheduled.
    pub node: String,
}

/// A member as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Which.
    pub id: NodeId,
    /// Heard within an election timeout; the leader itself is.
    pub in_touch: bool,
    /// Whether it lacks few entries, or only such as were written within an election timeout.
    pub caught_up: bool,
}

impl Health {
    /// Whether it can take part in commits at once.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.in_touch && self.caught_up
    }
}

/// Whether the loss of one Kubernetes node takes a majority of the voters with it. Not asked of one or two voters, of
/// which none may be lost anyway. Pods that are not scheduled are on no node.
#[must_use]
pub fn is_majority_on_one_node(configuration: &Configuration, pods: &[Pod]) -> bool {
    let voters = configuration.voters.len();
    let mut voters_by_node = BTreeMap::<&str, usize>::new();
    for voter in configuration.voters.values() {
        let pod = pods.iter().find(|pod| pod.name == voter.name && !pod.node.is_empty());
        if let Some(pod) = pod {
            *voters_by_node.entry(&pod.node).or_default() += 1;
        }
    }
    voters > 2 && voters_by_node.values().any(|here| *here > voters / 2)
}

impl Workload {
    /// The ordinal of the pod of this name; `None` if it is no pod of this StatefulSet.
    #[must_use]
    pub fn ordinal(&self, pod: &str) -> Option<u32> {
        let digits = pod.strip_prefix(&self.name)?.strip_prefix('-')?;
        let ordinal: u32 = digits.parse().ok()?;
        // Not "01" or "+1".
        (ordinal.to_string() == digits).then_some(ordinal)
    }

    /// The name of the pod of this ordinal.
    #[must_use]
    pub fn pod(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// The names of all expected pods.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        (self.first_ordinal..self.first_ordinal + self.replicas).map(|ordinal| self.pod(ordinal)).collect()
    }

    /// The same with no more than so many pods.
    #[must_use]
    pub fn at_most(&self, pods_max: u32) -> Self {
        Self { replicas: self.replicas.min(pods_max), ..self.clone() }
    }

    /// The names of the claims that these pods' volumes have.
    #[must_use]
    pub fn claims(&self, pods: &[String]) -> Vec<String> {
        let of_pod = |pod| self.volumes.iter().map(move |volume| format!("{volume}-{pod}"));
        pods.iter().flat_map(of_pod).collect()
    }

    /// Whether there should be a pod of this name.
    #[must_use]
    pub fn wants(&self, pod: &str) -> bool {
        let end = self.first_ordinal + self.replicas;
        self.ordinal(pod).is_some_and(|ordinal| ordinal >= self.first_ordinal && ordinal < end)
    }

    /// Whether the pod of this name, owned by the StatefulSet of `owner_uid`, stops because the StatefulSet was
    /// scaled down, and so shall leave the cluster. Only a sure sign counts: at zero replicas the cluster only sleeps,
    /// and one that is deleted keeps its members.
    #[must_use]
    pub fn is_scaled_below(&self, pod: &str, owner_uid: &str) -> bool {
        !self.is_deleted
            && self.uid == owner_uid
            && self.replicas > 0
            && self.ordinal(pod).is_some_and(|ordinal| ordinal >= self.first_ordinal + self.replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;

    fn workload(replicas: u32) -> Workload {
        Workload { name: "kv".into(), uid: "u".into(), replicas, first_ordinal: 2, ..Workload::default() }
    }

    #[test]
    fn names_and_ordinals() {
        let three = workload(3);
        assert_eq!(three.pods(), ["kv-2", "kv-3", "kv-4"]);
        assert!(three.claims(&three.pods()).is_empty(), "no volumes outlive the pods");
        let with_volumes = Workload { volumes: vec!["data".into()], ..workload(2) };
        assert_eq!(with_volumes.claims(&with_volumes.pods()), ["data-kv-2", "data-kv-3"]);
        for (name, ordinal) in [
            ("kv-2", Some(2)),
            ("kv-10", Some(10)),
            ("kv-02", None),
            ("kv-", None),
            ("kvx-1", None),
            ("kv", None),
        ] {
            assert_eq!(three.ordinal(name), ordinal, "{name}");
        }
        assert!(
            three.wants("kv-4") && !three.wants("kv-5") && !three.wants("kv-1") && !three.wants("other-3")
        );
    }

    #[test]
    fn a_majority_of_voters_on_one_node_is_seen() {
        let member =
            |number: u64| (NodeId(number), Member { name: format!("kv-{number}"), ..Member::default() });
        let check = |voters: u64, learners: &[u64], nodes: &[&str], expected: bool| {
            let configuration = Configuration {
                voters: (0..voters).map(member).collect(),
                learners: learners.iter().copied().map(member).collect(),
                ..Configuration::default()
            };
            let pod = |(number, node): (usize, &&str)| Pod {
                name: format!("kv-{number}"),
                node: (*node).to_owned(),
                ..Pod::default()
            };
            let pods: Vec<_> = nodes.iter().enumerate().map(pod).collect();
            assert_eq!(is_majority_on_one_node(&configuration, &pods), expected, "{voters} {nodes:?}");
        };
        check(3, &[], &["a", "b", "c"], false);
        check(3, &[], &["a", "b", "a"], true);
        check(5, &[], &["a", "a", "b", "b", "c"], false);
        check(5, &[], &["a", "a", "b", "a", "c"], true);
        // Half of four is no majority, but two of three whose third pod is not there are.
        check(4, &[], &["a", "a", "b", "c"], false);
        check(3, &[], &["a", "a"], true);
        // Neither what is not scheduled, nor learners, nor clusters that survive no loss.
        check(3, &[], &["", "", "a"], false);
        check(3, &[3, 4], &["a", "b", "c", "a", "a"], false);
        check(2, &[], &["a", "a"], false);
        check(1, &[], &["a"], false);
    }

    #[test]
    fn only_a_sure_sign_is_a_scale_down() {
        let three = workload(3);
        assert!(three.is_scaled_below("kv-5", "u"));
        assert!(!three.is_scaled_below("kv-4", "u"), "still wanted");
        assert!(!three.is_scaled_below("kv-5", "older"), "of an earlier StatefulSet");
        assert!(!workload(0).is_scaled_below("kv-5", "u"), "hibernation");
        assert!(!Workload { is_deleted: true, ..three }.is_scaled_below("kv-5", "u"), "deletion");
    }
}
