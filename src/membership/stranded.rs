//! Too few pods for a majority: a cluster that was scaled to zero with three members and started again with one.

use super::workload::Workload;
use crate::raft::Configuration;

/// Why the wanted pods can elect nobody, and what to do about it; `None` if their members are a majority. Asked only where no
/// leader is known: a leader removes members that are no longer wanted.
#[must_use]
pub fn stranded(configuration: &Configuration, workload: &Workload) -> Option<String> {
    let groups = [&configuration.voters, &configuration.outgoing];
    groups.into_iter().filter(|voters| !voters.is_empty()).find_map(|voters| {
        let needed = voters.len() / 2 + 1;
        let wanted = voters.values().filter(|voter| workload.wants(&voter.name)).count();
        let ordinals = voters.values().filter_map(|voter| workload.ordinal(&voter.name));
        let replicas = ordinals.max()?.checked_sub(workload.first_ordinal)? + 1;
        (wanted < needed && workload.replicas < replicas).then(|| {
            let all = voters.len();
            format!(
                "needs {needed} of {all} members, but {} replicas are wanted: scale back to {replicas}",
                workload.replicas
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;
    use crate::types::NodeId;

    fn said(members: &[&str], replicas: u32) -> Option<String> {
        let member = |(at, name): (usize, &&str)| {
            (NodeId(at as u64 + 1), Member { name: (*name).into(), ..Member::default() })
        };
        let voters = members.iter().enumerate().map(member).collect();
        let configuration = Configuration { voters, ..Configuration::default() };
        stranded(&configuration, &Workload { name: "kv".into(), replicas, ..Workload::default() })
    }

    #[test]
    fn one_pod_of_three_members_is_told_to_be_three_again() {
        let three = ["kv-0", "kv-1", "kv-2"];
        assert_eq!(
            said(&three, 1).unwrap(),
            "needs 2 of 3 members, but 1 replicas are wanted: scale back to 3"
        );
        assert_eq!(said(&three, 2), None, "two are a majority");
        assert_eq!(said(&three, 3), None, "the others are on their way");
    }

    #[test]
    fn scaling_helps_only_members_that_are_pods() {
        assert_eq!(said(&["a", "b", "c"], 1), None);
        assert!(said(&["kv-0", "kv-3", "kv-4"], 3).unwrap().ends_with("scale back to 5"));
    }
}
