//! A running node whose list names nodes of another cluster: which of them is in the wrong place.

use std::collections::BTreeMap;

use super::{HelloAnswer, InitialCluster};
use crate::types::ClusterId;

/// What the nodes of a list say of their clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Astray {
    /// None of those that answer belongs to another cluster.
    Nobody,
    /// Some do, but most of the list belongs to this node's cluster. Says who.
    Others(String),
    /// Some do, and this node's cluster has no majority of the list: nobody can tell which cluster is meant. Says who.
    Unclear(String),
    /// A majority of the list belongs to this one other cluster: this node's data directory does not belong here.
    This(ClusterId),
}

/// What to make of the answers of the members of `list` that answered. `this` is the name of this node, of cluster `own`.
#[must_use]
pub fn astray(
    this: &str,
    own: ClusterId,
    list: &InitialCluster,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Astray {
    let mut clusters: BTreeMap<ClusterId, Vec<&str>> = BTreeMap::new();
    for (name, answer) in answers.iter().filter(|(_, answer)| !answer.is_intent) {
        if let Some(id) = answer.cluster_id.filter(|_| list.address(name).is_some() && name != this) {
            clusters.entry(id).or_default().push(name);
        }
    }
    let with_this =
        clusters.remove(&own).map_or(0, |names| names.len()) + usize::from(list.address(this).is_some());
    if clusters.is_empty() {
        return Astray::Nobody;
    }
    let majority = list.members().len() / 2 + 1;
    if let Some((id, _)) = clusters.iter().find(|(_, names)| names.len() >= majority) {
        return Astray::This(*id);
    }
    let others: Vec<String> =
        clusters.iter().map(|(id, names)| format!("{} to cluster {id}", names.join(", "))).collect();
    let why = format!(
        "this node belongs to cluster {own}, but of its list {}; a node that was once started alone, or restored from a \
         backup, has a cluster of its own: stop the nodes of the cluster that is not wanted, move their data directories \
         away and start them again",
        others.join(" and ")
    );
    if with_this >= majority { Astray::Others(why) } else { Astray::Unclear(why) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::InitialMember;

    const X: ClusterId = ClusterId(0x10);
    const Y: ClusterId = ClusterId(0x20);
    const Z: ClusterId = ClusterId(0x30);

    fn found(list: &[&str], answers: &[(&str, Option<ClusterId>)]) -> Astray {
        let member = |name: &&str| InitialMember { name: (*name).into(), address: format!("{name}:1") };
        let list = InitialCluster::new(list.iter().map(member).collect()).unwrap();
        let answer = |&(name, cluster_id): &(&str, Option<ClusterId>)| {
            (name.to_owned(), HelloAnswer { cluster_id, name: name.into(), ..HelloAnswer::default() })
        };
        astray("a", X, &list, &answers.iter().map(answer).collect())
    }

    #[test]
    fn a_majority_of_the_list_decides_which_cluster_is_meant() {
        let three = ["a", "b", "c"];
        assert_eq!(found(&three, &[]), Astray::Nobody);
        assert_eq!(found(&three, &[("b", Some(X)), ("c", None)]), Astray::Nobody);
        assert_eq!(found(&three, &[("b", Some(Y)), ("c", Some(Y))]), Astray::This(Y));
        assert_eq!(found(&["b", "c"], &[("b", Some(Y)), ("c", Some(Y))]), Astray::This(Y));
        // One of three is in the wrong place, and it is not this one.
        let Astray::Others(why) = found(&three, &[("b", Some(X)), ("c", Some(Y))]) else { panic!() };
        assert!(why.contains(&X.to_string()) && why.contains(&format!("c to cluster {Y}")), "{why}");
        // Nobody can tell.
        for answers in
            [&[("b", Some(Y)), ("c", Some(Z))][..], &[("c", Some(Y))], &[("b", None), ("c", Some(Y))]]
        {
            let unclear = found(&three, answers);
            assert!(matches!(unclear, Astray::Unclear(_)), "{unclear:?}");
        }
        assert!(matches!(found(&["a", "b"], &[("b", Some(Y))]), Astray::Unclear(_)));
        // Only names of the list have a say.
        assert_eq!(found(&["a"], &[("d", Some(Y)), ("e", Some(Y))]), Astray::Nobody);
    }
}
