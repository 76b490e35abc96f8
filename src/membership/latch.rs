//! The latch: one record outside of the members' disks that says which cluster was formed, so that lost volumes never
//! lead to a second one.

use crate::types::ClusterId;

/// What the latch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latch {
    /// The API server does not answer.
    Unreachable,
    /// The API server answers with this HTTP status instead: a right is missing.
    Refused(u16),
    /// It holds something else than a cluster's id: it was edited.
    Garbled,
    /// There is none.
    Missing,
    /// No cluster was formed.
    Empty,
    /// This cluster was formed.
    Filled(ClusterId),
}

/// What a member of a cluster does at its start about the latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// It starts; there is nothing to write.
    Start,
    /// It starts; its leader writes the id into the latch.
    StartAndFill,
    /// It must not start: the latch belongs to another cluster.
    Refuse(ClusterId),
}

/// Whether a node whose disk and whose peers' disks are all empty may form a cluster under the id `intended` (its own
/// intent from before a crash, if any). `claims` are those of the expected pods' volumes.
///
/// # Errors
/// What is waited for, for people.
pub fn may_form(
    latch: Latch,
    intended: Option<ClusterId>,
    name: &str,
    claims: &[String],
) -> Result<(), String> {
    match latch {
        Latch::Empty => Ok(()),
        Latch::Filled(id) if Some(id) == intended => Ok(()),
        Latch::Filled(id) => Err(format!(
            "ConfigMap {name} says that cluster {id} was formed, but no volume of it is here{}: bring its volumes back, \
             or run `kuberaft recover` on one of them; empty the ConfigMap's cluster-id only if that cluster is lost for \
             good: then a new one is formed",
            if claims.is_empty() {
                String::new()
            } else {
                format!(" ({} hold nothing of it)", claims.join(", "))
            }
        )),
        Latch::Refused(_) | Latch::Garbled => Err(unusable(latch, name).unwrap_or_default()),
        Latch::Missing => Err(format!(
            "there is no ConfigMap {name}: the chart makes it; nodes do not form a cluster without it"
        )),
        Latch::Unreachable => Err(format!(
            "the Kubernetes API does not answer: ConfigMap {name} must be read before a cluster is formed"
        )),
    }
}

/// What is wrong with a latch that somebody has to mend; `None` if nobody has to.
#[must_use]
pub fn unusable(latch: Latch, name: &str) -> Option<String> {
    match latch {
        Latch::Refused(status) => Some(format!(
            "the Kubernetes API refuses ConfigMap {name} (HTTP {status}): this pod's service account needs the rights \
             get and patch on it"
        )),
        Latch::Garbled => Some(format!(
            "ConfigMap {name} holds no cluster id, but something else: it was edited; put back the id of the cluster that \
             was formed here, as its volumes and backups name it"
        )),
        Latch::Unreachable | Latch::Missing | Latch::Empty | Latch::Filled(_) => None,
    }
}

/// What a node that belongs to cluster `own` does. Without an answer it starts: Raft never depends on the API server.
#[must_use]
pub fn wake(latch: Latch, own: ClusterId) -> Wake {
    match latch {
        Latch::Filled(id) if id != own => Wake::Refuse(id),
        Latch::Filled(_) | Latch::Unreachable | Latch::Refused(_) | Latch::Garbled => Wake::Start,
        Latch::Missing | Latch::Empty => Wake::StartAndFill,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: ClusterId = ClusterId(7);
    const OTHER: ClusterId = ClusterId(8);

    #[test]
    fn only_an_empty_latch_lets_a_cluster_be_formed() {
        assert_eq!(may_form(Latch::Empty, None, "kv-cluster", &[]), Ok(()));
        let refused = Latch::Refused(403);
        for latch in [Latch::Filled(OTHER), Latch::Missing, Latch::Unreachable, refused, Latch::Garbled] {
            let why = may_form(latch, None, "kv-cluster", &[]).unwrap_err();
            assert!(why.contains("kv-cluster"), "{why}");
            assert!(may_form(latch, Some(OWN), "kv-cluster", &[]).is_err(), "{latch:?}");
        }
    }

    #[test]
    fn a_right_that_is_missing_and_an_edited_latch_are_not_an_absent_api_server() {
        let why = |latch| may_form(latch, None, "kv-cluster", &[]).unwrap_err();
        assert!(why(Latch::Unreachable).contains("does not answer"));
        assert!(why(Latch::Refused(403)).contains("(HTTP 403): this pod's service account needs"));
        assert!(why(Latch::Garbled).contains("it was edited"));
    }

    #[test]
    fn the_volumes_that_are_missed_are_named() {
        let claims = ["data-kv-0".to_owned(), "data-kv-1".to_owned()];
        let why = may_form(Latch::Filled(OTHER), None, "kv-cluster", &claims).unwrap_err();
        assert!(why.contains("no volume of it is here (data-kv-0, data-kv-1 hold nothing of it)"), "{why}");
        assert!(why.contains("kuberaft recover") && why.contains("lost for good"), "{why}");
    }

    #[test]
    fn an_interrupted_forming_continues_under_its_own_id() {
        assert_eq!(may_form(Latch::Filled(OWN), Some(OWN), "kv-cluster", &[]), Ok(()));
    }

    #[test]
    fn a_cluster_starts_again_unless_the_latch_is_another_ones() {
        let cases = [
            (Latch::Filled(OWN), Wake::Start),
            (Latch::Unreachable, Wake::Start),
            (Latch::Refused(403), Wake::Start),
            (Latch::Garbled, Wake::Start),
            (Latch::Missing, Wake::StartAndFill),
            (Latch::Empty, Wake::StartAndFill),
            (Latch::Filled(OTHER), Wake::Refuse(OTHER)),
        ];
        for (latch, expected) in cases {
            assert_eq!(wake(latch, OWN), expected, "{latch:?}");
        }
    }
}
