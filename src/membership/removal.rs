//! A removed node that was away: what it makes of the answers of those that it asks.
//!
//! A removal takes a node's data out of use permanently, so one answer is not enough. Two things prove it: the same word from
//! most of the other voters that the node knows, or the committed configuration that removed it, if a majority of that
//! configuration's voters confirms it and, of the voters that the node knows and that are still members, most do.

use std::collections::BTreeMap;

use super::HelloAnswer;
use crate::raft::Configuration;
use crate::types::{ClusterId, LogIndex, NodeId};

/// What the answers say about a node's removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Nobody speaks of one.
    Unheard,
    /// This committed entry removed the node.
    Proven(LogIndex),
    /// Somebody says so, and it is not proven; says who and what is missing.
    Unproven(String),
}

/// The committed configuration that removed the asker, as the node that was asked knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedBy {
    /// The entry that removed it.
    pub index: LogIndex,
    /// The configuration in force at the node that was asked. `None` from a node that does not tell it.
    pub configuration: Option<Configuration>,
}

/// Whether `answers` prove that member `own` of `cluster` was removed. `known` is the latest configuration in its log.
#[must_use]
pub fn proven_removal(
    own: NodeId,
    cluster: ClusterId,
    known: &Configuration,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Removal {
    let words: BTreeMap<NodeId, &RemovedBy> = answers
        .values()
        .filter(|answer| answer.cluster_id == Some(cluster))
        .filter_map(|answer| Some((answer.node_id, answer.removed_asker.as_ref()?)))
        .collect();
    for removed in words.values() {
        let says = |id: NodeId| words.get(&id).is_some_and(|word| word.index == removed.index);
        let is_claimed = removed
            .configuration
            .as_ref()
            .is_some_and(|claimed| confirms(own, known, claimed, removed.index, says));
        if is_claimed || known.most_others(own, says) {
            return Removal::Proven(removed.index);
        }
    }
    let Some(removed) = words.values().next() else { return Removal::Unheard };
    let said: Vec<&str> = answers
        .iter()
        .filter(|(_, answer)| answer.cluster_id == Some(cluster) && answer.removed_asker.is_some())
        .map(|(name, _)| name.as_str())
        .collect();
    let others: Vec<&str> =
        known.other_voters(own).filter_map(|id| Some(known.member(id)?.name.as_str())).collect();
    Removal::Unproven(format!(
        "{} says that entry {} removed this node from cluster {cluster}, but a majority of the other voters that this \
         node knows ({}) does not confirm it; its data stays as it is: start those members, or, if the removal is right, \
         stop this node, move its data directory away and start it again",
        said.join(", "),
        removed.index.0,
        others.join(", ")
    ))
}

/// Whether a configuration that removed `own` is confirmed by its voters, and by those that `own` knows among its members.
fn confirms(
    own: NodeId,
    known: &Configuration,
    claimed: &Configuration,
    index: LogIndex,
    says: impl Fn(NodeId) -> bool,
) -> bool {
    let is_removed = claimed.removed.get(&own) == Some(&index) && claimed.member(own).is_none();
    if !is_removed || claimed.is_joint() || !claimed.has_quorum(&says) {
        return false;
    }
    let stay: Vec<NodeId> = known.other_voters(own).filter(|id| !claimed.removed.contains_key(id)).collect();
    // A node without a configuration has no data, either.
    let is_new = known.other_voters(own).next().is_none() && known.member(own).is_none();
    is_new || stay.iter().filter(|id| says(**id)).count() > stay.len() / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;

    const CLUSTER: ClusterId = ClusterId(7);

    fn of(voters: &[u64], removed: &[u64]) -> Configuration {
        let member = |id: &u64| (NodeId(*id), Member { name: format!("n{id}"), ..Member::default() });
        Configuration {
            voters: voters.iter().map(member).collect(),
            removed: removed.iter().map(|id| (NodeId(*id), LogIndex(9))).collect(),
            ..Configuration::default()
        }
    }

    /// What `own`, which knows the voters `known`, makes of a removal that `says` tell it of.
    fn heard(own: u64, known: &[u64], says: &[u64], claimed: Option<&Configuration>) -> Removal {
        let answer = |id: &u64| {
            let removed_asker = RemovedBy { index: LogIndex(9), configuration: claimed.cloned() };
            let answer = HelloAnswer {
                node_id: NodeId(*id),
                name: format!("n{id}"),
                cluster_id: Some(CLUSTER),
                removed_asker: Some(removed_asker),
                ..HelloAnswer::default()
            };
            (format!("n{id}"), answer)
        };
        proven_removal(NodeId(own), CLUSTER, &of(known, &[]), &says.iter().map(answer).collect())
    }

    #[track_caller]
    fn check_unproven(removal: &Removal) {
        assert!(matches!(removal, Removal::Unproven(_)), "{removal:?}");
    }

    #[test]
    fn one_word_is_not_enough_and_most_of_the_known_are() {
        let proven = Removal::Proven(LogIndex(9));
        assert_eq!(heard(3, &[1, 2, 3], &[], None), Removal::Unheard);
        check_unproven(&heard(3, &[1, 2, 3], &[1], None));
        check_unproven(&heard(3, &[1, 2, 3], &[1, 8, 9], None));
        assert_eq!(heard(3, &[1, 2, 3], &[1, 2], None), proven);
        assert_eq!(heard(2, &[1, 2], &[1], None), proven, "the only other one");
        let Removal::Unproven(why) = heard(3, &[1, 2, 3], &[1], None) else { panic!("proven") };
        assert!(why.starts_with("n1 says that entry 9 removed this node"), "{why}");
        assert!(why.contains("(n1, n2)") && why.contains("move its data directory away"), "{why}");
    }

    #[test]
    fn the_configuration_itself_is_proof_if_its_voters_confirm_it() {
        let proven = Removal::Proven(LogIndex(9));
        // 2 and 3 were removed together, and neither was told.
        assert_eq!(heard(3, &[1, 2, 3], &[1], Some(&of(&[1], &[2, 3]))), proven);
        // 1 stays, 4 and 5 are new.
        let later = of(&[1, 4, 5], &[2, 3]);
        check_unproven(&heard(3, &[1, 2, 3], &[1], Some(&later)));
        check_unproven(&heard(3, &[1, 2, 3], &[4, 5], Some(&later)));
        assert_eq!(heard(3, &[1, 2, 3], &[1, 4], Some(&later)), proven);
        // Most of those that stay must say so.
        check_unproven(&heard(5, &[1, 2, 4, 5], &[1, 6, 7], Some(&of(&[1, 2, 6, 7], &[4, 5]))));
        // A configuration in which the node is a member, or is not named at all, proves nothing.
        check_unproven(&heard(3, &[1, 2, 3], &[1], Some(&of(&[1, 3], &[2]))));
        check_unproven(&heard(3, &[1, 2, 3], &[1], Some(&of(&[1], &[2]))));
    }

    #[test]
    fn a_cluster_whose_members_are_all_others_proves_nothing() {
        let others = of(&[4, 5, 6], &[1, 2, 3]);
        check_unproven(&heard(3, &[1, 2, 3], &[4, 5, 6], Some(&others)));
    }

    #[test]
    fn a_node_that_received_nothing_believes_a_majority_of_the_cluster() {
        let others = of(&[1, 2, 3], &[9]);
        check_unproven(&heard(9, &[], &[1], Some(&others)));
        assert_eq!(heard(9, &[], &[1, 2], Some(&others)), Removal::Proven(LogIndex(9)));
    }

    #[test]
    fn nodes_of_another_cluster_have_no_say() {
        let mut answers = BTreeMap::new();
        for id in [1, 2] {
            let removed_asker = Some(RemovedBy { index: LogIndex(9), configuration: None });
            let cluster_id = Some(ClusterId(8));
            let node_id = NodeId(id);
            let answer = HelloAnswer { node_id, cluster_id, removed_asker, ..HelloAnswer::default() };
            answers.insert(format!("n{id}"), answer);
        }
        let found = proven_removal(NodeId(3), CLUSTER, &of(&[1, 2, 3], &[]), &answers);
        assert_eq!(found, Removal::Unheard);
    }
}
