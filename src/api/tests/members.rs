//! Members and leadership over HTTP.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::driver::{Change, Member, NewMember, PeerStatus};
use crate::membership::{AdminError, AdminReason, AdminRequest};
use crate::types::LogIndex;

const JSON: [&str; 1] = ["Content-Type: application/json"];

/// A server whose administrator remembers what it was asked, and answers this.
async fn administered(
    answer: Result<LogIndex, AdminError>,
) -> (Server, Arc<Mutex<Vec<(AdminRequest, Duration)>>>) {
    let server = Server::start().await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let remember = Arc::clone(&asked);
    server.api.administer_by(Arc::new(move |request, timeout| {
        remember.lock().unwrap().push((request, timeout));
        let answer = answer.clone();
        Box::pin(async move { answer })
    }));
    (server, asked)
}

fn change(change: Change, expected: Option<u64>) -> AdminRequest {
    AdminRequest::Change { change, expected: expected.map(LogIndex) }
}

#[tokio::test]
async fn the_leader_reports_how_far_each_member_is() {
    let server = Server::start().await;
    {
        let mut status = server.replica.status.lock().unwrap();
        let mut configuration = (*status.configuration).clone();
        let learner = Member { name: "late".into(), stays_learner: true, ..Member::default() };
        configuration.learners.insert(NodeId(4), learner);
        status.configuration = Arc::new(configuration);
        status.peers = [PeerStatus {
            id: NodeId(4),
            is_learner: true,
            match_index: LogIndex(3),
            next_index: LogIndex(4),
            gets_snapshot: false,
            active: true,
            caught_up: true,
            silent_for: Duration::from_millis(20),
            in_flight: (0, 0),
        }]
        .into();
    }
    let members = server.get("/v1/members").await.json();
    assert_eq!(members["configuration_index"], 1);
    assert_eq!(members["leader"]["name"], "kuberaft-0");
    assert_eq!(members["voters"][0]["lag_entries"], 0, "the leader itself");
    assert_eq!(members["voters"][1].get("lag_entries"), None, "not heard of");
    let expected = json!([{
        "node_id": "0000000000000004", "name": "late", "client_addr": null, "peer_addr": null, "stays_learner": true,
        "match_index": 3, "lag_entries": 8, "silent_ms": 20,
    }]);
    assert_eq!(members["learners"], expected);
    let learners = server.get("/v1/status").await.json()["learners"].clone();
    assert_eq!(learners, json!([{"node_id": "0000000000000004", "name": "late", "client_addr": null}]));
}

#[tokio::test]
async fn members_are_changed_by_name_or_id() {
    let (server, asked) = administered(Ok(LogIndex(12))).await;
    let new = br#"{"node_id": "00000000000000aa", "name": "new", "peer_addr": "new:7000"}"#;
    let calls: [(&str, &str, &[u8]); 6] = [
        ("POST", "/v1/members?expected=7&timeout=2s", new),
        ("POST", "/v1/members/kuberaft-1/promote", b""),
        ("POST", "/v1/members/0000000000000003/demote?expected=1", b""),
        ("DELETE", "/v1/members/kuberaft%2D2", b""),
        ("POST", "/v1/leader/transfer", br#"{"to": "kuberaft-1"}"#),
        ("POST", "/v1/leader/transfer", b""),
    ];
    for (method, target, body) in calls {
        let reply = server.call(method, target, &JSON, body).await;
        assert_eq!((reply.status, reply.json()), (200, json!({"index": 12})), "{target}");
    }
    let new = NewMember {
        id: NodeId(0xaa),
        name: "new".into(),
        peer_addr: Some("new:7000".into()),
        stays_learner: false,
    };
    let asked = asked.lock().unwrap();
    let requests: Vec<_> = asked.iter().map(|(request, _)| request.clone()).collect();
    let expected = [
        change(Change { add: vec![new], ..Change::default() }, Some(7)),
        change(Change { promote: vec![NodeId(2)], ..Change::default() }, None),
        change(Change { demote: vec![NodeId(3)], ..Change::default() }, Some(1)),
        change(Change { remove: vec![NodeId(3)], ..Change::default() }, None),
        AdminRequest::Transfer { to: Some(NodeId(2)) },
        AdminRequest::Transfer { to: None },
    ];
    assert_eq!(requests, expected);
    assert!(asked[0].1 <= Duration::from_secs(2));
}

#[tokio::test]
async fn refusals_have_a_stable_code_and_reason() {
    let check = async |reason: AdminReason, status: u16, code: &str| {
        let (server, _) = administered(Err(AdminError::new(reason, "because"))).await;
        let reply = server.call("DELETE", "/v1/members/kuberaft-1", &[], b"").await;
        assert_eq!(reply.problem(status), (code.into(), "because".into()));
        assert_eq!(reply.json()["reason"], reason.code());
        reply.json()["outcome"].clone()
    };
    assert_eq!(check(AdminReason::NoQuorum, 409, "conflict").await, Value::Null);
    assert_eq!(check(AdminReason::InProgress, 409, "conflict").await, Value::Null);
    assert_eq!(check(AdminReason::Unexpected, 412, "precondition_failed").await, Value::Null);
    assert_eq!(check(AdminReason::NotAMember, 404, "member_not_found").await, Value::Null);
    assert_eq!(check(AdminReason::NoLeader, 503, "no_leader").await, "not_applied");
    assert_eq!(check(AdminReason::LeadershipLost, 503, "no_leader").await, "unknown");
    assert_eq!(check(AdminReason::Timeout, 504, "timeout").await, "unknown");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    let (server, asked) = administered(Ok(LogIndex(12))).await;
    let calls: [(&str, &str, &[u8], u16); 14] = [
        ("POST", "/v1/members", b"", 400),
        ("POST", "/v1/members", br#"{"name": "new"}"#, 400),
        ("POST", "/v1/members", br#"{"node_id": "1", "name": "a"}"#, 400),
        ("POST", "/v1/members", br#"{"node_id": "+000000000000001", "name": "a"}"#, 400),
        ("POST", "/v1/members", br#"{"node_id": "0000000000000000", "name": "a"}"#, 400),
        ("POST", "/v1/members", br#"{"node_id": "0000000000000001", "name": ""}"#, 400),
        ("POST", "/v1/members", br#"{"node_id": "0000000000000001", "name": "a b/\n\"x"}"#, 400),
        (
            "POST",
            "/v1/members",
            br#"{"node_id": "0000000000000001", "name": "a", "peer_addr": "nowhere"}"#,
            400,
        ),
        (
            "POST",
            "/v1/members",
            br#"{"node_id": "0000000000000001", "name": "a", "peer_addr": "no where!:1"}"#,
            400,
        ),
        ("POST", "/v1/members", br#"{"node_id": "0000000000000001", "name": "a", "adress": "a:1"}"#, 400),
        ("DELETE", "/v1/members/nobody", b"", 404),
        ("DELETE", "/v1/members/kuberaft-1?expected=x", b"", 400),
        ("POST", "/v1/leader/transfer", br#"{"to": "nobody"}"#, 404),
        ("POST", "/v1/members/kuberaft-1", b"", 405),
    ];
    for (method, target, body, status) in calls {
        server.call(method, target, &JSON, body).await.problem(status);
    }
    assert!(asked.lock().unwrap().is_empty());
}
