//! Reading and writing keys.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::api::replica::{Outcome, Refusal, RefusalReason};

#[tokio::test]
async fn set_and_get_as_the_demo_does() {
    let server = Server::start().await;
    let reply = server.get("/set?key=fruit&value=apple,pear,%20plum").await;
    assert_eq!((reply.status, reply.text()), (200, "ok"));
    let reply = server.get("/get?key=fruit").await;
    assert_eq!((reply.status, reply.text()), (200, "apple,pear, plum"));
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    let reply = server.call("POST", "/set?key=fruit&value=", &["Content-Length: 0"], &[]).await;
    assert_eq!(reply.text(), "ok");
    let reply = server.get("/get?key=fruit").await;
    assert_eq!((reply.status, reply.text()), (200, ""));
    assert_eq!(server.get("/get?key=other").await.code(404), "key_not_found");
}

#[tokio::test]
async fn a_key_is_put_read_and_deleted() {
    let server = Server::start().await;
    let reply = server.call("PUT", "/v1/kv/a", &[], b"one").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.text(), "{\"revision\":1,\"create_revision\":1,\"version\":1}\n");
    assert_eq!((reply.header("etag"), reply.header("x-kuberaft-revision")), (Some("\"1\""), Some("1")));
    server.call("PUT", "/v1/kv/b", &[], b"").await;
    let reply = server.get("/v1/kv/a").await;
    assert_eq!((reply.status, reply.text()), (200, "one"));
    assert_eq!((reply.header("etag"), reply.header("x-kuberaft-revision")), (Some("\"1\""), Some("2")));
    assert_eq!(reply.header("x-kuberaft-create-revision"), Some("1"));
    assert_eq!(reply.header("x-kuberaft-version"), Some("1"));
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    let reply = server.call("DELETE", "/v1/kv/a", &[], &[]).await;
    assert_eq!((reply.status, reply.text()), (200, "{\"revision\":3}\n"));
    assert_eq!(server.get("/v1/kv/a").await.code(404), "key_not_found");
    assert_eq!(server.call("DELETE", "/v1/kv/a", &[], &[]).await.code(404), "key_not_found");
}

#[tokio::test]
async fn keys_and_values_are_any_bytes() {
    let server = Server::start().await;
    let value = [0, 0xff, b'\r', b'\n'];
    assert_eq!(server.call("PUT", "/v1/kv/dir%2Ffile%00%ff", &[], &value).await.status, 200);
    // A slash may be written as it is.
    assert_eq!(server.get("/v1/kv/dir/file%00%FF").await.body, value);
    // Text in the query, bytes in the path: the same key.
    server.get("/set?key=a+b/c&value=%C3%A4").await;
    assert_eq!(server.get("/v1/kv/a%20b/c").await.body, "ä".as_bytes());
    server.call("PUT", "/v1/kv/raw", &[], &value).await;
    let reply = server.get("/get?key=raw").await;
    assert_eq!(
        (&reply.body[..], reply.header("content-type")),
        (&value[..], Some("application/octet-stream"))
    );
}

#[tokio::test]
async fn conditions_are_checked_when_the_write_is_applied() {
    let server = Server::start().await;
    let put = async |headers: &[&str]| server.call("PUT", "/v1/kv/a", headers, b"x").await;
    let delete = async |headers: &[&str]| server.call("DELETE", "/v1/kv/a", headers, &[]).await;
    assert_eq!(put(&["If-Match: *"]).await.problem(412).1, "there is no such key");
    assert_eq!(delete(&["If-Match: \"1\""]).await.code(412), "precondition_failed");
    assert_eq!(put(&["If-None-Match: *"]).await.status, 200);
    assert_eq!(put(&["If-None-Match: *"]).await.problem(412).1, "the key is at revision 1");
    assert_eq!(put(&["If-Match: \"1\""]).await.header("etag"), Some("\"2\""));
    assert_eq!(put(&["If-Match: \"1\""]).await.code(412), "precondition_failed");
    assert_eq!(put(&["If-Match: *"]).await.header("etag"), Some("\"3\""));
    assert_eq!(delete(&["If-Match: \"2\""]).await.code(412), "precondition_failed");
    assert_eq!(delete(&["If-Match: \"3\""]).await.status, 200);
}

#[tokio::test]
async fn a_request_with_an_idempotency_key_is_applied_once_and_answered_alike() {
    let server = Server::start().await;
    let once = async |method: &str, target: &str, headers: &[&str], key: &str, body: &[u8]| {
        let key = format!("Idempotency-Key: {key}");
        server.call(method, target, &[headers, &[&key]].concat(), body).await
    };
    let alike = async |method: &str, target: &str, headers: &[&str], key: &str, body: &[u8]| {
        let first = once(method, target, headers, key, body).await;
        // Quoted or bare, it is the same key.
        let second = once(method, target, headers, &format!("\"{key}\""), body).await;
        assert_eq!((second.status, second.text()), (first.status, first.text()), "{method} {target}");
        for name in ["etag", "x-kuberaft-revision", "content-type"] {
            assert_eq!(second.header(name), first.header(name), "{method} {target}");
        }
        first
    };
    assert_eq!(alike("PUT", "/v1/kv/a", &[], "1", b"one").await.header("etag"), Some("\"1\""));
    assert_eq!(
        alike("PUT", "/v1/kv/a", &["If-None-Match: *"], "2", b"two").await.code(412),
        "precondition_failed"
    );
    assert_eq!(alike("GET", "/set?key=a&value=three", &[], "3", b"").await.text(), "ok");
    assert_eq!(server.get("/v1/kv/a").await.header("x-kuberaft-version"), Some("2"));
    assert_eq!(alike("DELETE", "/v1/kv/b", &[], "4", b"").await.code(404), "key_not_found");
    assert_eq!(alike("DELETE", "/v1/kv/a", &[], "5", b"").await.header("x-kuberaft-revision"), Some("3"));
    // Another request by the same name.
    assert_eq!(once("PUT", "/v1/kv/a", &[], "1", b"other").await.code(422), "idempotency_conflict");
    assert_eq!(once("DELETE", "/v1/kv/a", &[], "1", b"").await.code(422), "idempotency_conflict");
    assert_eq!(once("GET", "/set?key=a&value=x", &[], "1", b"").await.code(422), "idempotency_conflict");
    assert_eq!(server.get("/v1/kv/a").await.status, 404);
    let proposals = server.replica.proposals.load(Ordering::SeqCst);
    for bad in ["", "\"\"", "a b", &"k".repeat(65)] {
        assert_eq!(once("PUT", "/v1/kv/a", &[], bad, b"x").await.code(400), "bad_request", "{bad}");
        assert_eq!(once("DELETE", "/v1/kv/a", &[], bad, b"").await.code(400), "bad_request", "{bad}");
        assert_eq!(once("GET", "/set?key=a&value=x", &[], bad, b"").await.code(400), "bad_request", "{bad}");
    }
    assert_eq!(server.replica.proposals.load(Ordering::SeqCst), proposals);
}

#[tokio::test]
async fn what_does_not_parse_is_a_bad_request_and_never_proposed() {
    let server = Server::start().await;
    for target in [
        "/set",
        "/set?key=a",
        "/set?value=a",
        "/set?key=&value=a",
        "/set?key=a&value=b&ttl=1s",
        "/set?key=%ff&value=a",
        "/set?key=%zz&value=a",
        "/get",
        "/get?key=",
        "/get?key=a&timeout=soon",
        "/v1/kv/",
        "/v1/kv/%",
        "/v1/kv/a?consistency=strong",
        "/v1/kv/a?consistency",
        "/v1/kv/a?x=1",
        "/v1/status?x=1",
    ] {
        assert_eq!(server.get(target).await.code(400), "bad_request", "{target}");
    }
    for header in ["If-Match: 1", "If-Match: W/\"1\"", "If-None-Match: \"1\""] {
        assert_eq!(
            server.call("PUT", "/v1/kv/a", &[header], b"x").await.code(400),
            "bad_request",
            "{header}"
        );
        assert_eq!(server.call("DELETE", "/v1/kv/a", &[header], &[]).await.code(400), "bad_request");
    }
    let reply = server.call("POST", "/set?key=a&value=b", &[], b"key=a").await;
    assert_eq!(reply.problem(400).1, "`/set` takes key and value from the query and no body");
    assert_eq!(server.replica.proposals.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn raw_bytes_that_are_not_utf8_are_refused_and_the_node_lives_on() {
    let server = Server::start().await;
    let request = b"GET /get?key=\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let reply = server.exchange(request).await;
    assert_eq!(reply.status, 400);
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn limits_hold_at_the_edge() {
    let server = Server::start().await;
    let put = async |key: &str, value: &[u8]| server.call("PUT", &format!("/v1/kv/{key}"), &[], value).await;
    assert_eq!(put(&"k".repeat(4096), b"v").await.status, 200);
    assert_eq!(put(&"k".repeat(4097), b"v").await.problem(413).1, "the key is longer than 4096 bytes");
    // Bytes count once they are decoded.
    assert_eq!(put(&"%6b".repeat(4096), b"v").await.status, 200);
    let value = vec![7; (3 << 19) + 1];
    assert_eq!(put("v", &value[1..]).await.status, 200);
    assert_eq!(put("v", &value).await.problem(413).1, "the body is longer than 1572864 bytes");
    assert_eq!(server.get("/v1/kv/v").await.body, &value[1..]);
    let long = "k".repeat(4097);
    assert_eq!(server.get(&format!("/set?key={long}&value=v")).await.code(413), "too_large");
    assert_eq!(server.get(&format!("/get?key={}", &long[1..])).await.status, 200);
    assert_eq!(server.get(&format!("/get?key={long}")).await.code(413), "too_large");
    assert_eq!(server.get(&format!("/v1/kv/{long}")).await.code(413), "too_large");
    assert_eq!(server.call("DELETE", &format!("/v1/kv/{long}"), &[], &[]).await.code(413), "too_large");
}

#[tokio::test]
async fn the_limits_are_the_settings() {
    let limits = Settings { value_bytes_max: 10, request_bytes_max: 30, ..Settings::default() };
    let server = Server::start_with(limits).await;
    let put = async |target: &str, len| server.call("PUT", target, &[], &vec![7; len]).await;
    assert_eq!(put("/v1/kv/k", 10).await.status, 200);
    assert_eq!(put("/v1/kv/k", 11).await.code(413), "too_large");
    // Target and body together.
    assert_eq!(put("/v1/kv/123456789abcd", 10).await.status, 200);
    assert_eq!(put("/v1/kv/123456789abcde", 10).await.code(413), "too_large");
    assert_eq!(put("/v1/kv/123456789abcdefghijklmnopqrstuv", 0).await.code(413), "too_large");
    assert_eq!(server.get("/set?key=k&value=0123456789").await.status, 200);
    assert_eq!(server.get("/set?key=k&value=0123456789a").await.code(413), "too_large");
    // Bytes count once they are decoded.
    assert_eq!(server.get("/set?key=k&value=%30123456789").await.status, 200);
}

#[tokio::test]
async fn a_body_is_refused_as_soon_as_it_passes_the_limit() {
    let limits = Settings { value_bytes_max: 10, ..Settings::default() };
    let server = Server::start_with(limits).await;
    // Announced: not one byte of the body is waited for.
    let head = "PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 11\r\n\r\n";
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut stream).await, "HTTP/1.1 413 Payload Too Large");
    // Not announced: refused although the end never comes.
    let head = "PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"a\r\n0123456789\r\n1\r\na\r\n").await.unwrap();
    assert_eq!(read_head(&mut stream).await, "HTTP/1.1 413 Payload Too Large");
    // At the limit, in pieces.
    let whole =
        format!("{}a\r\n0123456789\r\n0\r\n\r\n", head.replace("Host: x", "Host: x\r\nConnection: close"));
    assert_eq!(server.exchange(whole.as_bytes()).await.status, 200);
    let pieces = whole.replace("a\r\n0123456789", "5\r\n01234\r\n5\r\n56789");
    assert_eq!(server.exchange(pieces.as_bytes()).await.status, 200);
    assert_eq!(server.get("/v1/kv/k").await.text(), "0123456789");
}

/// The first line of an answer whose connection may stay open.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(line).unwrap().trim_end().into()
}

#[tokio::test]
async fn a_client_that_sends_far_too_much_reads_why() {
    let server = Server::start().await;
    let reply = server.call("PUT", "/v1/kv/k", &[], &vec![7; 6 << 20]).await;
    assert_eq!(reply.code(413), "too_large");
}

#[tokio::test]
async fn refusals_have_their_codes() {
    use {Outcome::*, RefusalReason::*};
    let server = Server::start().await;
    let cases = [
        (NoLeader, NotApplied, 503, "no_leader"),
        (NoQuorum, NotApplied, 503, "no_quorum"),
        (LeadershipLost, Unknown, 503, "no_leader"),
        (Overloaded, NotApplied, 429, "overloaded"),
        (SpaceLow, NotApplied, 503, "no_space"),
        (ClusterVersion, NotApplied, 503, "cluster_version"),
        (Timeout, Unknown, 504, "timeout"),
    ];
    for (reason, outcome, status, code) in cases {
        server.replica.refuse(Some(Refusal { reason, outcome }));
        let write = server.call("PUT", "/v1/kv/a", &[], b"x").await;
        assert_eq!(write.code(status), code);
        let expected = if outcome == Unknown { "unknown" } else { "not_applied" };
        if status != 429 {
            assert_eq!(write.json()["outcome"], expected, "{reason:?}");
        }
        assert_eq!(server.get("/set?key=a&value=b").await.code(status), code);
        assert_eq!(server.call("DELETE", "/v1/kv/a", &[], &[]).await.code(status), code);
        // A read never applies anything.
        let read = server.get("/v1/kv/a").await;
        assert_eq!(read.code(status), code);
        assert!(status == 429 || read.json()["outcome"] == "not_applied", "{reason:?}");
        assert_eq!(server.get("/get?key=a").await.code(status), code);
    }
}

#[tokio::test]
async fn only_stale_reads_do_without_the_leader() {
    let server = Server::start().await;
    server.get("/set?key=a&value=1").await;
    server.replica.refuse(Some(Refusal { reason: RefusalReason::NoLeader, outcome: Outcome::NotApplied }));
    assert_eq!(server.get("/v1/kv/a").await.status, 503);
    assert_eq!(server.get("/v1/kv/a?consistency=linearizable").await.status, 503);
    assert_eq!(server.replica.barriers.load(Ordering::SeqCst), 2);
    assert_eq!(server.get("/v1/kv/a?consistency=stale").await.text(), "1");
    assert_eq!(server.get("/get?key=a&consistency=stale").await.text(), "1");
    assert_eq!(server.replica.barriers.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_request_may_shorten_its_deadline_but_not_lengthen_it() {
    let server = Server::start().await;
    let timeout = || *server.replica.timeout.lock().unwrap();
    server.get("/v1/kv/a?timeout=1s").await;
    assert!(timeout() <= Duration::from_secs(1), "{:?}", timeout());
    server.get("/v1/kv/a?timeout=3s").await;
    assert!(timeout() > Duration::from_secs(1), "{:?}", timeout());
    for target in ["/v1/kv/a?timeout=100s", "/get?key=a&timeout=100s", "/set?key=a&value=b&timeout=100s"] {
        server.get(target).await;
        let timeout = timeout();
        assert!(
            timeout > Duration::from_secs(3) && timeout <= Duration::from_secs(5),
            "{target} {timeout:?}"
        );
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_ends_at_the_deadline() {
    let server = Server::start().await;
    let head = "PUT /v1/kv/k?timeout=20ms HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf";
    let reply = server.exchange(head.as_bytes()).await;
    assert_eq!(reply.problem(504), ("timeout".into(), "the body did not arrive before the deadline".into()));
    assert_eq!(reply.json()["outcome"], "not_applied");
    // The client leaves in the middle: nothing is proposed.
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(head.replace("20ms", "4s").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(server.replica.proposals.load(Ordering::SeqCst), 0);
}
