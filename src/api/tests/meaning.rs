//! What a request means: nothing of it is dropped silently.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test]
async fn a_target_with_a_fragment_is_refused_and_not_cut() {
    let server = Server::start().await;
    for target in ["/v1/kv/a#1", "/set?key=a&value=abc#def", "/get?key=a#", "/#", "http://x/v1/kv/a#1"] {
        for method in ["GET", "PUT", "DELETE"] {
            let reply = server.call(method, target, &[], &[]).await;
            let (code, detail) = reply.problem(400);
            assert_eq!(
                (&*code, detail.contains("%23")),
                ("bad_request", true),
                "{method} {target}: {detail}"
            );
        }
    }
    assert_eq!(server.replica.proposals.load(Ordering::SeqCst), 0);
    // It is found behind other requests, too, and what follows it is not served.
    let first = "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 25\r\n\r\nGET /v1/kv/# HTTP/1.1\r\n\r\n";
    let second = "PUT /v1/kv/b#1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1";
    let third = "PUT /v1/kv/c HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1";
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(format!("{first}{second}{third}").as_bytes()).await.unwrap();
    let mut answers = Vec::new();
    // The node may reset the connection, as it does not read what follows.
    let _ = stream.read_to_end(&mut answers).await;
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1, "{answers}");
    assert_eq!(server.replica.proposals.load(Ordering::SeqCst), 1);
    assert_eq!(server.get("/v1/kv/a").await.text(), "GET /v1/kv/# HTTP/1.1\r\n\r\n");
    assert_eq!(server.get("/v1/kv/b").await.status, 404);
    // Encoded, it is part of a key.
    assert_eq!(server.call("PUT", "/v1/kv/a%231", &[], b"#").await.status, 200);
    assert_eq!(server.get("/v1/kv/a%231").await.text(), "#");
}

#[tokio::test]
async fn headers_that_would_make_it_another_request_are_refused() {
    let server = Server::start().await;
    server.call("PUT", "/v1/kv/a", &[], b"abcdef").await;
    for (header, status, code) in [
        ("Content-Range: bytes 3-5/6", 400, "bad_request"),
        ("Content-Encoding: gzip", 415, "unsupported_media_type"),
        ("Content-Encoding: identity, gzip", 415, "unsupported_media_type"),
        ("Expect: 200-ok", 417, "expectation_failed"),
        ("X-HTTP-Method-Override: DELETE", 400, "bad_request"),
    ] {
        let reply = server.call("PUT", "/v1/kv/a", &[header], b"DEF").await;
        assert_eq!(reply.code(status), code, "{header}");
    }
    let encoded =
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: gzip, chunked\r\n\r\n\
        3\r\nDEF\r\n0\r\n\r\n";
    assert_eq!(server.exchange(encoded).await.code(400), "bad_request");
    for (method, target, header) in [
        ("GET", "/set?key=a&value=b", "If-Match: \"9\""),
        ("POST", "/set?key=a&value=b", "If-None-Match: *"),
        ("GET", "/get?key=a", "If-Match: \"9\""),
        ("GET", "/v1/kv/a", "If-Match: \"9\""),
    ] {
        assert_eq!(server.call(method, target, &[header], &[]).await.code(400), "bad_request", "{target}");
    }
    assert_eq!(server.get("/v1/kv/a").await.text(), "abcdef");
    let plain = ["Content-Encoding: identity"];
    assert_eq!(server.call("PUT", "/v1/kv/a", &plain, b"ghi").await.status, 200);
    // RFC 9110, 14.2: without a meaning for this method, it is ignored.
    assert_eq!(server.call("PUT", "/v1/kv/a", &["Range: bytes=0-1"], b"jkl").await.status, 200);
}

#[tokio::test]
async fn a_client_that_has_said_all_gets_its_answer() {
    let server = Server::start().await;
    server.replica.close_gate();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1").await.unwrap();
    stream.shutdown().await.unwrap();
    server.replica.waits.notified().await;
    server.replica.gate.add_permits(1);
    // It ends by itself, as no further request can come.
    assert_eq!(read_reply(&mut stream).await.status, 200);
}
