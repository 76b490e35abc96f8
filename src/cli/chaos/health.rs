//! When a cluster counts as wholly well: what its members must say.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::api::StatusReport;
use crate::api::client::{Client, ClientError};
use crate::chaos::Reach;

/// How long a member may take to answer a look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two looks for misunderstandings.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    /// Names of the expected members, sorted.
    pub(super) members: Vec<String>,
    /// The leader's name, or what is lacking.
    pub(super) leader: Result<String, String>,
}

impl Health {
    /// Asks these members, and judges.
    pub(super) async fn ask(reach: &Arc<dyn Reach>, mut members: Vec<String>) -> Self {
        members.sort();
        let mut asking = JoinSet::new();
        for name in members.clone() {
            let reach = Arc::clone(reach);
            asking.spawn(async move {
                let asked = timeout(LOOK_TIMEOUT, status(&*reach, &name)).await;
                let answer = match asked {
                    Ok(answer) => answer.map_err(|error| told(&error)),
                    Err(_elapsed) => Err("no answer".to_owned()),
                };
                (name, answer)
            });
        }
        let mut answers = asking.join_all().await;
        answers.sort_by(|a, b| a.0.cmp(&b.0));
        let leader = judge(&answers);
        Self { members, leader }
    }

    /// Not well, for a reason that shows before anybody is asked.
    pub(super) fn lacking(mut members: Vec<String>, what: String) -> Self {
        members.sort();
        Self { members, leader: Err(what) }
    }
}

/// Ends if a member is found that does not understand what it is asked in, TLS or plain, or whose certificate or ours is
/// not accepted; says which and why. Waiting for health does not help then.
pub(super) async fn misunderstanding(reach: Arc<dyn Reach>) -> String {
    loop {
        for member in reach.members() {
            if let Ok(Err(error)) = timeout(LOOK_TIMEOUT, status(&*reach, &member)).await
                && error.is_misunderstanding()
            {
                return format!("{member}: {}", told(&error));
            }
        }
        sleep(LOOK_INTERVAL).await;
    }
}

async fn status(reach: &dyn Reach, member: &str) -> Result<StatusReport, ClientError> {
    let connected = reach.connect(member).await;
    let stream = connected.map_err(|source| ClientError::Connect { endpoint: member.to_owned(), source })?;
    Client::over(stream, member).await?.status().await
}

/// A failure, for a reader that knows which member it is of.
fn told(error: &ClientError) -> String {
    match error {
        ClientError::Connect { source, .. } => source.to_string(),
        error => error.to_string(),
    }
}

/// The leader's name if all is well. `answers` are of all expected members, sorted by name.
fn judge(answers: &[(String, Result<StatusReport, String>)]) -> Result<String, String> {
    let names: Vec<&str> = answers.iter().map(|(name, _)| name.as_str()).collect();
    let mut reports = Vec::new();
    for (name, answer) in answers {
        let report = answer.as_ref().map_err(|error| format!("{name}: {error}"))?;
        if !report.healthy {
            return Err(format!("{name}: {}", report.reasons.join("; ")));
        }
        let voters: Vec<&str> = report.voters.iter().map(|voter| voter.name.as_str()).collect();
        if voters != names {
            return Err(format!("{name}: the voters are {}", voters.join(", ")));
        }
        if let Some(learner) = report.learners.first() {
            return Err(format!("{name}: {} is a learner", learner.name));
        }
        reports.push(report);
    }
    let Some(first) = reports.first() else { return Err("there are no members".to_owned()) };
    if let Some((name, _)) = answers.iter().zip(&reports).find_map(|(answer, report)| {
        let agrees = report.term == first.term
            && report.cluster_id == first.cluster_id
            && report.leader.as_ref().map(|leader| leader.node_id)
                == first.leader.as_ref().map(|leader| leader.node_id);
        (!agrees).then_some(answer)
    }) {
        return Err(format!("{} and {name} do not agree on the leader", first.name));
    }
    let mut leaders = reports.iter().filter(|report| report.role == "leader");
    match (leaders.next(), leaders.next()) {
        (Some(leader), None) => Ok(leader.name.clone()),
        (None, _) => Err("no member leads".to_owned()),
        (Some(one), Some(other)) => Err(format!("{} and {} lead", one.name, other.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What members `a`, `b` and `c` answer while `a` leads, with one change.
    fn answers(change: impl Fn(&mut StatusReport)) -> Vec<(String, Result<StatusReport, String>)> {
        let member = |id: u64, name: &str| serde_json::json!({"node_id": format!("{id:016x}"), "name": name});
        let voters = serde_json::json!([member(1, "a"), member(2, "b"), member(3, "c")]);
        let answer = |name: &str| {
            let role = if name == "a" { "leader" } else { "follower" };
            let mut report: StatusReport = serde_json::from_value(serde_json::json!({
                "cluster_id": null, "node_id": null, "name": name, "version": "0", "role": role, "term": 4,
                "leader": member(1, "a"), "commit_index": 1, "applied_index": 1, "last_log_index": 1,
                "snapshot_index": 0, "revision": 1, "state_hash": "", "voters": voters.clone(), "learners": [],
                "healthy": true, "reasons": [],
            }))
            .unwrap();
            change(&mut report);
            (name.to_owned(), Ok(report))
        };
        ["a", "b", "c"].map(answer).into()
    }

    #[test]
    fn all_is_well_when_all_agree() {
        assert_eq!(judge(&answers(|_| {})), Ok("a".to_owned()));
    }

    #[test]
    fn whatever_is_not_well_is_named() {
        let check = |member: &'static str, change: fn(&mut StatusReport), what: &str| {
            let answers = answers(|report| {
                if report.name == member {
                    change(report);
                }
            });
            assert_eq!(judge(&answers), Err(what.to_owned()));
        };
        check(
            "b",
            |b| {
                b.healthy = false;
                b.reasons = vec!["no leader is known".into()];
            },
            "b: no leader is known",
        );
        check("b", |b| drop(b.voters.pop()), "b: the voters are a, b");
        check("c", |c| c.learners = c.voters[..1].to_vec(), "c: a is a learner");
        check("c", |c| c.term.0 = 5, "a and c do not agree on the leader");
        check("c", |c| c.leader = None, "a and c do not agree on the leader");
        check("c", |c| c.role = "leader".into(), "a and c lead");
        check("a", |a| a.role = "follower".into(), "no member leads");
        let mut silent = answers(|_| {});
        silent[1].1 = Err("no answer".into());
        assert_eq!(judge(&silent), Err("b: no answer".to_owned()));
        assert!(judge(&[]).is_err());
    }
}
