//! `GET /v1/snapshot`.

use std::time::Duration;

use super::*;
use crate::driver::{Outcome, Refusal, RefusalReason, Save};

#[tokio::test]
async fn a_snapshot_is_a_whole_file_and_says_what_it_is() {
    let server = Server::start().await;
    for number in 0..3 {
        server.get(&format!("/set?key=key-{number}&value=v")).await;
    }
    let reply = server.get("/v1/snapshot").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-kuberaft-revision"), Some("3"));
    assert_eq!(reply.header("x-kuberaft-cluster"), Some("00000000000000c1"));
    let name = reply.header("content-disposition").unwrap();
    assert!(name.contains("kuberaft-00000000000000c1-3.snapshot"), "{name}");
    let body = unchunked(&reply.body);
    assert_eq!(Save::keys_in(&body), 3);
}

#[tokio::test]
async fn two_snapshots_are_sent_at_a_time_and_none_without_a_quorum() {
    let server = Server::start().await;
    let slots = &server.api.snapshots;
    let soon = tokio::time::Instant::now() + Duration::from_secs(5);
    let minute = Duration::from_mins(1);
    let turns = [slots.take(minute, soon).await.unwrap(), slots.take(minute, soon).await.unwrap()];
    let reply = server.get("/v1/snapshot").await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (429, Some("overloaded")));
    drop(turns);
    let refusal = Refusal { reason: RefusalReason::NoLeader, outcome: Outcome::NotApplied };
    server.replica.refuse(Some(refusal));
    assert_eq!(server.get("/v1/snapshot").await.status, 503);
    server.replica.refuse(None);
    assert_eq!(server.get("/v1/snapshot").await.status, 200);
    assert_eq!(server.get("/v1/snapshot?key=a").await.status, 400);
}

/// The content of a body in chunks (RFC 9112, 7.1).
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        body = &body[end + 2..];
        content.extend_from_slice(&body[..length]);
        body = &body[length + 2..];
        if length == 0 {
            return content;
        }
    }
}
