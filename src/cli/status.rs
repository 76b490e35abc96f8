//! `kuberaft status`: asks every endpoint what it knows of itself.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::client::{ClientFlags, block_on, unless_interrupted};
use super::endpoints::Endpoint;
use super::output::{Layout, Output};
use super::{CliError, print};
use crate::api::StatusReport;
use crate::api::client::{Client, ClientError};
use crate::config::Span;
use crate::k8s::{Progress, Rollout};
use crate::tls::Connector;
use crate::types::ClusterId;

/// How often is looked while waiting.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The flags of `status`.
#[derive(Clone, Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    client: ClientFlags,

    /// Ask every member that the endpoints know of, rather than the endpoints themselves
    #[arg(long)]
    members: bool,

    /// Wait for so long until every endpoint is ready to serve; what is waited for is told on standard error
    #[arg(long, value_name = "DURATION")]
    wait: Option<Span>,

    /// While waiting, look at this Kubernetes StatefulSet first, until all its pods are ready and of the newest
    /// template. In the namespace of this pod, or of the current context of the kubeconfig
    #[arg(long, value_name = "NAME", requires = "wait")]
    statefulset: Option<String>,

    #[command(flatten)]
    output: Output,
}

/// What one endpoint answered.
#[derive(Debug, Serialize)]
struct Answer {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Prints the state of every node that can be reached.
pub(super) fn run(args: &Status) -> Result<(), CliError> {
    let answers = match args.wait {
        None => block_on(ask_all(args))?,
        Some(longest) => match block_on(unless_interrupted(wait(args, longest.0)))? {
            Some(answers) => answers,
            None => return Ok(()),
        },
    };
    let printed = match args.output.layout() {
        Layout::Table => print::text(&table(&answers)),
        Layout::Json => print::json(&answers),
    };
    if let Some(several) = several_clusters(&answers) {
        return Err(CliError::Failed(several));
    }
    if answers.iter().any(|answer| answer.status.is_some()) {
        printed
    } else {
        Err(CliError::Failed("no node answers; give others with --endpoints".to_owned()))
    }
}

/// What one look while waiting found.
enum Look {
    Missing(String),
    Ready(Vec<Answer>),
    /// There is to be nobody who could answer.
    Asleep,
}

/// The answers once all are ready; `None` where there is to be nobody who could answer.
async fn wait(args: &Status, longest: Duration) -> Result<Option<Vec<Answer>>, CliError> {
    let deadline = Instant::now() + longest;
    let mut rollout = None;
    if let Some(name) = &args.statefulset {
        let connected = Rollout::connect(name).await;
        rollout = Some(connected.map_err(|error| CliError::Failed(error.to_string()))?);
    }
    let mut said = String::new();
    loop {
        let missing = match look(args, rollout.as_ref()).await? {
            Look::Missing(missing) => missing,
            Look::Ready(answers) => return Ok(Some(answers)),
            Look::Asleep => {
                note!("no pods are wanted: the cluster sleeps");
                return Ok(None);
            }
        };
        if Instant::now() + LOOK_INTERVAL >= deadline {
            return Err(CliError::Failed(format!("not ready after {longest:?}: {missing}")));
        }
        if missing != said {
            note!("waiting: {missing}");
            said = missing;
        }
        sleep(LOOK_INTERVAL).await;
    }
}

async fn look(args: &Status, rollout: Option<&Rollout>) -> Result<Look, CliError> {
    if let Some(rollout) = rollout {
        match rollout.progress().await {
            Ok(Progress::Done) => {}
            Ok(Progress::Asleep) => return Ok(Look::Asleep),
            Ok(Progress::Waiting(what)) => return Ok(Look::Missing(what)),
            Err(error) => return Ok(Look::Missing(error.to_string())),
        }
    }
    let answers = ask_all(args).await?;
    Ok(answers.iter().find_map(unready).map_or(Look::Ready(answers), Look::Missing))
}

/// That the nodes that answered are not of one cluster, and which is of which; `None` if they are.
fn several_clusters(answers: &[Answer]) -> Option<String> {
    let mut clusters: BTreeMap<ClusterId, Vec<&str>> = BTreeMap::new();
    for answer in answers {
        if let Some(id) = answer.status.as_ref().and_then(|status| status.cluster_id) {
            clusters.entry(id).or_default().push(&answer.endpoint);
        }
    }
    let list: Vec<String> =
        clusters.iter().map(|(id, nodes)| format!("{id} ({})", nodes.join(", "))).collect();
    (list.len() > 1).then(|| format!("these nodes belong to {} clusters: {}", list.len(), list.join(", ")))
}

/// Why requests should not be sent there.
fn unready(answer: &Answer) -> Option<String> {
    let why = match (&answer.status, &answer.error) {
        (Some(status), _) if status.healthy => return None,
        (Some(status), _) => status.reasons.join("; "),
        (None, error) => error.clone().unwrap_or_default(),
    };
    Some(format!("{}: {why}", answer.endpoint))
}

/// Asks all endpoints, or with `--members` the members that the first one with an answer knows of.
async fn ask_all(args: &Status) -> Result<Vec<Answer>, CliError> {
    let endpoints = args.client.endpoints.all();
    let answers = ask_each(args, endpoints.clone()).await?;
    if !args.members {
        return Ok(answers);
    }
    let knows = |answer: &Answer| answer.status.clone().filter(|status| !status.voters.is_empty());
    let found = endpoints.iter().zip(&answers).find_map(|(asked, answer)| Some((asked, knows(answer)?)));
    let Some((asked, status)) = found else { return Ok(answers) };
    let (mut members, mut silent) = (Vec::new(), Vec::new());
    for member in status.voters.iter().chain(&status.learners) {
        let address = member.client_addr.as_ref().and_then(|address| address.parse().ok());
        match address {
            Some(address) => members.push(Endpoint { address, is_tls: asked.is_tls }),
            None => silent.push(Answer {
                endpoint: member.name.clone(),
                status: None,
                error: Some(format!("{asked} does not know its client address")),
            }),
        }
    }
    let mut answers = ask_each(args, members).await?;
    answers.extend(silent);
    Ok(answers)
}

/// Asks these at once; their answers come in the same order.
async fn ask_each(args: &Status, endpoints: Vec<Endpoint>) -> Result<Vec<Answer>, CliError> {
    let mut asking = JoinSet::new();
    let tls = args.client.endpoints.connector()?;
    for (at, endpoint) in endpoints.into_iter().enumerate() {
        let (timeout, tls) = (args.client.timeout.0, tls.clone());
        asking.spawn(async move {
            let asked = tokio::time::timeout(timeout, ask(&endpoint, tls.as_ref())).await;
            (at, endpoint, asked.unwrap_or(Err(ClientError::Timeout { sent: true })))
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(at, ..)| *at);
    let answer = |(_, endpoint, asked): (usize, Endpoint, Result<StatusReport, ClientError>)| {
        let (status, error) = match asked {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Answer { endpoint: endpoint.to_string(), status, error }
    };
    Ok(answers.into_iter().map(answer).collect())
}

async fn ask(endpoint: &Endpoint, tls: Option<&Connector>) -> Result<StatusReport, ClientError> {
    let tls = tls.filter(|_| endpoint.is_tls);
    Client::connect_with(&endpoint.address.to_string(), tls).await?.status().await
}

fn table(answers: &[Answer]) -> String {
    const HEADINGS: [&str; 8] = ["ENDPOINT", "NAME", "ROLE", "TERM", "LEADER", "COMMIT", "APPLIED", "HEALTH"];
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(answers.iter().filter_map(|answer| Some(row(&answer.endpoint, answer.status.as_ref()?))));
    let widths: [usize; 8] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    // A table of no rows says nothing.
    for row in rows.iter().filter(|_| rows.len() > 1) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            write!(line, "{cell:width$}  ").expect("writing to a string cannot fail");
        }
        text.extend([line.trim_end(), "\n"]);
    }
    for answer in answers {
        if let Some(error) = &answer.error {
            writeln!(text, "{}: {error}", answer.endpoint).expect("writing to a string cannot fail");
        }
    }
    text
}

fn row(endpoint: &str, status: &StatusReport) -> [String; 8] {
    let leader = status.leader.as_ref();
    let leader = leader.map(|leader| leader.name.clone().unwrap_or_else(|| leader.node_id.to_string()));
    let ok = status.healthy.then_some("ok");
    let health: Vec<&str> = ok.into_iter().chain(status.reasons.iter().map(String::as_str)).collect();
    [
        endpoint.to_owned(),
        status.name.clone(),
        status.role.clone(),
        status.term.to_string(),
        leader.unwrap_or_else(|| "none".to_owned()),
        status.commit_index.to_string(),
        status.applied_index.to_string(),
        health.join("; "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{FeatureLevel, LogIndex, Revision, Term};

    fn report(name: &str) -> StatusReport {
        StatusReport {
            cluster_id: None,
            node_id: None,
            name: name.to_owned(),
            version: "0".to_owned(),
            feature_level: FeatureLevel(0),
            cluster_feature_level: FeatureLevel(0),
            role: "follower".to_owned(),
            term: Term(3),
            leader: None,
            commit_index: LogIndex(12345),
            applied_index: LogIndex(12344),
            last_log_index: LogIndex(12345),
            snapshot_index: LogIndex(0),
            revision: Revision(0),
            state_hash: String::new(),
            voters: Vec::new(),
            learners: Vec::new(),
            healthy: false,
            reasons: vec!["no leader".to_owned()],
        }
    }

    #[test]
    fn what_is_waited_for_is_told() {
        let answer = |status: Option<StatusReport>, error: Option<&str>| Answer {
            endpoint: "a:1".to_owned(),
            status,
            error: error.map(str::to_owned),
        };
        assert_eq!(unready(&answer(Some(report("one")), None)).unwrap(), "a:1: no leader");
        assert_eq!(unready(&answer(None, Some("refused"))).unwrap(), "a:1: refused");
        let healthy = StatusReport { healthy: true, ..report("one") };
        assert_eq!(unready(&answer(Some(healthy), None)), None);
    }

    #[test]
    fn nodes_of_several_clusters_are_named() {
        let answer = |endpoint: &str, cluster: Option<u64>| Answer {
            endpoint: endpoint.to_owned(),
            status: Some(StatusReport { cluster_id: cluster.map(ClusterId), ..report("one") }),
            error: None,
        };
        assert_eq!(
            several_clusters(&[answer("a:1", Some(1)), answer("b:1", Some(1)), answer("c:1", None)]),
            None
        );
        let found =
            several_clusters(&[answer("a:1", Some(1)), answer("b:1", Some(2)), answer("c:1", Some(1))]);
        let expected =
            "these nodes belong to 2 clusters: 0000000000000001 (a:1, c:1), 0000000000000002 (b:1)";
        assert_eq!(found.as_deref(), Some(expected));
    }

    #[test]
    fn the_table_lines_up_and_names_the_silent_ones() {
        let answer = |endpoint: &str, status: Option<StatusReport>, error: Option<&str>| Answer {
            endpoint: endpoint.to_owned(),
            status,
            error: error.map(str::to_owned),
        };
        let shown = table(&[answer("a:1", Some(report("one")), None), answer("b:1", None, Some("refused"))]);
        let expected = "\
ENDPOINT  NAME  ROLE      TERM  LEADER  COMMIT  APPLIED  HEALTH
a:1       one   follower  3     none    12345   12344    no leader
b:1: refused
";
        assert_eq!(shown, expected);
        assert_eq!(table(&[answer("b:1", None, Some("refused"))]), "b:1: refused\n");
        let waits =
            StatusReport { healthy: true, reasons: vec!["scaling down waits".into()], ..report("one") };
        let shown = table(&[answer("a:1", Some(waits), None)]);
        assert!(shown.ends_with(" ok; scaling down waits\n"), "{shown}");
    }
}
