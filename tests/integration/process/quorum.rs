//! Two of three down: what is refused, what is still answered, and that it ends when one returns.

use std::time::{Duration, Instant};

use kuberaft::api::client::ClientError;
use kuberaft::api::{Consistency, Problem};

use super::cluster::{Cluster, Node};
use super::{alone, until};

/// That of the flag below.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// What a busy machine may add.
const MARGIN: Duration = Duration::from_secs(5);

/// The problem that something is refused with, in time.
fn refusal<T: std::fmt::Debug>(ask: impl FnOnce() -> Result<T, ClientError>) -> Problem {
    let started = Instant::now();
    let answer = ask();
    assert!(started.elapsed() < REQUEST_TIMEOUT + MARGIN, "answered only after {:?}", started.elapsed());
    match answer {
        Err(ClientError::Problem(problem)) => problem,
        other => panic!("a problem should be answered, not {other:?}"),
    }
}

fn check(problem: &Problem) {
    assert_eq!(problem.status, 503, "{problem}");
    assert!(matches!(&problem.code[..], "no_leader" | "no_quorum"), "{problem}");
    assert!(problem.outcome.is_some(), "{problem}");
    assert!(!problem.detail.is_empty(), "{problem}");
}

/// What a node without a majority does.
fn check_survivor(node: &Node) {
    for round in 0..3 {
        check(&refusal(|| node.put("other", "written")));
        let read = refusal(|| node.get("kept", Consistency::Linearizable));
        check(&read);
        let (status, body) = node.fetch("/set?key=other&value=set");
        assert_eq!(status, 503, "round {round}: {body}");
        assert!(body.contains("\"outcome\":"), "{body}");
    }
    let found = node.get("kept", Consistency::Stale).unwrap().unwrap();
    assert_eq!(found.content.value, "before");
    assert_eq!(node.fetch("/livez").0, 200);
    let (status, reasons) = node.fetch("/readyz");
    assert_eq!(status, 503);
    assert!(reasons.contains("no leader") || reasons.contains("no majority"), "{reasons}");
    let status = node.status().unwrap();
    assert!(!status.healthy);
    assert!(!status.reasons.is_empty());
}

fn check_loss_of_two(survivor_leads: bool) {
    let mut cluster = Cluster::start_with(3, &["--request-timeout=2s"]);
    cluster.nodes[0].put("kept", "before").unwrap();
    for node in &cluster.nodes {
        // A linearizable read has this node apply the write.
        assert!(node.get("kept", Consistency::Linearizable).unwrap().is_some());
    }
    let leader = cluster.leader();
    let survivor = if survivor_leads { leader } else { cluster.other(leader) };
    let lost: Vec<_> = (0..3).filter(|at| *at != survivor).collect();
    for at in &lost {
        cluster.nodes[*at].kill();
    }
    check_survivor(&cluster.nodes[survivor]);
    for at in lost {
        cluster.nodes[at].start();
        until("service resumes", || cluster.nodes[survivor].put("kept", "after").ok());
        for node in cluster.nodes.iter_mut().filter(|node| node.is_running()) {
            node.ready();
            let found = node.get("kept", Consistency::Linearizable).unwrap().unwrap();
            assert_eq!(found.content.value, "after");
        }
    }
}

#[test]
fn a_leader_left_alone_refuses_with_a_reason_still_reads_stale_and_resumes() {
    let _alone = alone();
    check_loss_of_two(true);
}

#[test]
fn a_follower_left_alone_refuses_with_a_reason_still_reads_stale_and_resumes() {
    let _alone = alone();
    check_loss_of_two(false);
}
