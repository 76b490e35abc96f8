//! Status, health, metrics, the page, and paths that do not exist.

use std::time::Instant;

use super::*;
use crate::driver::RoleName;
use crate::supervision::Pulse;
use crate::types::LogIndex;

#[tokio::test]
async fn status_has_the_documented_fields() {
    let server = Server::start().await;
    server.api.metrics.raft_snapshot_index.set(7);
    let reply = server.get("/v1/status").await;
    let expected = serde_json::json!({
        "cluster_id": "00000000000000c1",
        "node_id": "0000000000000001",
        "name": "kuberaft-0",
        "version": env!("CARGO_PKG_VERSION"),
        "feature_level": 0,
        "cluster_feature_level": 0,
        "role": "leader",
        "term": 4,
        "leader": {"node_id": "0000000000000001", "name": "kuberaft-0", "client_addr": "one:80"},
        "commit_index": 10,
        "applied_index": 9,
        "last_log_index": 11,
        "snapshot_index": 7,
        "revision": 0,
        "state_hash": format!("{:016x}", crate::kv::Store::default().hash()),
        "voters": [
            {"node_id": "0000000000000001", "name": "kuberaft-0", "client_addr": "one:80"},
            {"node_id": "0000000000000002", "name": "kuberaft-1", "client_addr": "two:80"},
            {"node_id": "0000000000000003", "name": "kuberaft-2", "client_addr": null},
        ],
        "learners": [],
        "healthy": true,
        "reasons": [],
    });
    assert_eq!(reply.json(), expected);
}

#[tokio::test]
async fn a_thread_that_stands_still_or_ended_fails_the_liveness_probe_by_name() {
    let server = Server::start().await;
    let threads = Pulse::default();
    server.api.watch_threads(threads.clone());
    let (core, log) = (threads.thread("core"), threads.thread("log"));
    core.works(Instant::now());
    assert_eq!(server.get("/livez").await.status, 200);
    log.ends();
    let live = server.get("/livez").await;
    assert_eq!((live.status, live.text()), (503, "thread `log` has ended\n"));
    // Idle, or waiting for its disk.
    log.waits();
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn before_a_replica_runs_the_node_says_what_it_waits_for() {
    let server = Server::start_without_replica(Settings::default()).await;
    server.api.set_waiting(Some("2 of 3 peers have not answered".into()));
    assert_eq!(server.get("/livez").await.status, 200);
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status, ready.text()), (503, "2 of 3 peers have not answered\n"));
    let status = server.get("/v1/status").await.json();
    assert_eq!(status["cluster_id"], Value::Null);
    assert_eq!(status["node_id"], "0000000000000001");
    assert_eq!((&status["role"], &status["leader"]), (&"follower".into(), &Value::Null));
    assert_eq!(status["healthy"], false);
    assert_eq!(status["reasons"], serde_json::json!(["2 of 3 peers have not answered"]));
    for target in ["/get?key=a", "/set?key=a&value=b", "/v1/kv/a", "/v1/kv/a?consistency=stale"] {
        let reply = server.get(target).await;
        assert_eq!(reply.problem(503), ("no_leader".into(), "2 of 3 peers have not answered".into()));
        assert_eq!(reply.json()["outcome"], "not_applied");
    }
    server.api.start(server.replica.clone());
    assert_eq!(server.get("/readyz").await.text(), "ok\n");
    assert_eq!(server.get("/set?key=a&value=b").await.text(), "ok");
}

#[tokio::test]
async fn a_node_is_ready_when_it_follows_closely() {
    let server = Server::start().await;
    let ready = async || {
        let reply = server.get("/readyz").await;
        let status = server.get("/v1/status").await.json();
        assert_eq!(status["healthy"], reply.status == 200);
        (reply.status, reply.text().to_owned())
    };
    assert_eq!(ready().await, (200, "ok\n".into()));
    server.replica.status.lock().unwrap().commit_index = LogIndex(9 + 5_000);
    assert_eq!(ready().await, (200, "ok\n".into()));
    server.replica.status.lock().unwrap().commit_index = LogIndex(9 + 5_001);
    assert_eq!(ready().await, (503, "5001 committed entries are not applied yet\n".into()));
    server.replica.status.lock().unwrap().commit_index = LogIndex(9);
    server.replica.status.lock().unwrap().has_quorum = false;
    assert_eq!(ready().await, (503, "no majority of the voters answers\n".into()));
    server.replica.status.lock().unwrap().role = RoleName::Follower;
    server.replica.status.lock().unwrap().leader = None;
    assert_eq!(ready().await, (503, "no leader is known\n".into()));
    assert_eq!(server.get("/livez").await.status, 200);
    server.api.advise(Some("scale back to 3".into()));
    assert_eq!(ready().await, (503, "no leader is known\nscale back to 3\n".into()));
    server.api.advise(None);
    server.api.set_waiting(Some("shutting down".into()));
    server.api.mention(Some("scaling down waits".into()));
    assert_eq!(ready().await, (503, "shutting down\nno leader is known\n".into()));
}

#[tokio::test]
async fn a_ready_leader_mentions_what_it_waits_for_in_its_status() {
    let server = Server::start().await;
    server.api.mention(Some("scaling down to 1 waits".into()));
    let status = server.get("/v1/status").await.json();
    assert_eq!(status["healthy"], true);
    assert_eq!(status["reasons"], serde_json::json!(["scaling down to 1 waits"]));
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status, ready.text()), (200, "ok\n"));
    server.api.mention(None);
    assert_eq!(server.get("/v1/status").await.json()["reasons"], serde_json::json!([]));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let server = Server::start().await;
    for target in ["/", "/sett", "/v1/kv", "/v1/", "/get/"] {
        assert_eq!(server.get(target).await.code(404), "not_found", "{target}");
    }
    let reply = server.call("POST", "/v1/kv/a", &[], b"x").await;
    assert_eq!(reply.code(405), "method_not_allowed");
    let mut allowed: Vec<_> = reply.header("allow").unwrap().split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PUT"]);
    let reply = server.call("DELETE", "/set?key=a&value=b", &[], &[]).await;
    assert_eq!((reply.code(405), reply.header("allow")), ("method_not_allowed".into(), Some("GET,POST")));
    assert_eq!(server.call("BREW", "/livez", &[], &[]).await.code(405), "method_not_allowed");
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Server::start().await;
    server.call("PUT", "/v1/kv/a", &[], b"value").await;
    let reply = server.call("HEAD", "/v1/kv/a", &[], &[]).await;
    assert_eq!((reply.status, &reply.body[..]), (200, &b""[..]));
    assert_eq!((reply.header("content-length"), reply.header("etag")), (Some("5"), Some("\"1\"")));
    let reply = server.call("HEAD", "/v1/kv/b", &[], &[]).await;
    assert_eq!((reply.status, &reply.body[..]), (404, &b""[..]));
    assert_eq!(server.call("HEAD", "/v1/status", &[], &[]).await.status, 200);
    assert_eq!(server.call("HEAD", "/get?key=a", &[], &[]).await.header("content-length"), Some("5"));
}

#[tokio::test]
async fn head_writes_nothing() {
    let server = Server::start().await;
    let reply = server.call("HEAD", "/set?key=a&value=b", &[], &[]).await;
    assert_eq!((reply.status, reply.header("allow"), &reply.body[..]), (405, Some("GET,POST"), &b""[..]));
    assert_eq!(server.get("/get?key=a").await.status, 404);
}

#[tokio::test]
async fn requests_are_counted_by_route_and_code() {
    let server = Server::start().await;
    server.get("/set?key=a&value=b").await;
    server.get("/get?key=a").await;
    server.get("/get?key=b").await;
    server.get("/v1/kv/a").await;
    server.get("/nothing").await;
    server.call("PATCH", "/get?key=a", &[], &[]).await;
    for value in ["1", "2"] {
        server.call("PUT", "/v1/kv/b", &["Idempotency-Key: one"], value.as_bytes()).await;
    }
    let reply = server.get("/metrics").await;
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "kuberaft_http_requests_total{code=\"200\",route=\"/set\"} 1",
        "kuberaft_http_requests_total{code=\"200\",route=\"/get\"} 1",
        "kuberaft_http_requests_total{code=\"404\",route=\"/get\"} 1",
        "kuberaft_http_requests_total{code=\"200\",route=\"/v1/kv/{key}\"} 2",
        "kuberaft_http_requests_total{code=\"422\",route=\"/v1/kv/{key}\"} 1",
        "kuberaft_http_requests_total{code=\"404\",route=\"other\"} 1",
        "kuberaft_http_requests_total{code=\"405\",route=\"other\"} 1",
        "kuberaft_http_request_duration_seconds_count{route=\"/get\"} 2",
    ] {
        assert!(reply.text().contains(line), "{line} in\n{}", reply.text());
    }
}

#[tokio::test]
async fn the_ops_port_reports_on_the_node_and_on_no_key() {
    let server = Server::start_as(Settings::default(), Access::Operations).await;
    server.api.start(server.replica.clone());
    for path in ["/livez", "/readyz", "/metrics", "/ui", "/v1/status", "/v1/members"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    for path in ["/get?key=a", "/v1/kv/a", "/v1/snapshot"] {
        assert_eq!(server.get(path).await.json()["detail"], "there is nothing at this path", "{path}");
    }
    assert_eq!(server.call("POST", "/v1/members", &[], b"{}").await.status, 405);
}
