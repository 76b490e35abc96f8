//! Web pages: those of other sites reach no node and change nothing.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

/// One request with these lines for its head, `Host` among them.
async fn raw(server: &Server, lines: &[&str]) -> Reply {
    server.exchange(format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n")).as_bytes()).await
}

#[tokio::test]
async fn a_name_that_is_not_the_nodes_is_refused() {
    let settings = Settings { allowed_hosts: vec!["kv.example.com".parse().unwrap()], ..Settings::default() };
    let server = Server::start_with(settings).await;
    for host in ["evil.example", "evil.example:7001", "127.0.0.1.evil.example", "x.kv.example.com"] {
        for line in ["GET /get?key=a", "GET /v1/status", "PUT /v1/kv/a", "GET /nothing", "GET /metrics"] {
            let reply = raw(&server, &[&format!("{line} HTTP/1.1"), &format!("Host: {host}")]).await;
            let (code, detail) = reply.problem(421);
            assert_eq!(code, "misdirected", "{line} {host}");
            assert!(detail.contains("--allowed-hosts"), "{detail}");
        }
    }
    for host in ["127.0.0.1:7001", "[::1]:7001", "localhost", "kv", "kv.ns.svc:80", "KV.Example.com."] {
        assert_eq!(
            raw(&server, &["GET /livez HTTP/1.1", &format!("Host: {host}")]).await.status,
            200,
            "{host}"
        );
    }
    assert_eq!(server.replica.proposals.load(std::sync::atomic::Ordering::SeqCst), 0);
    let ops = Server::start_as(Settings::default(), Access::Operations).await;
    assert_eq!(raw(&ops, &["GET /metrics HTTP/1.1", "Host: evil.example"]).await.code(421), "misdirected");
}

#[tokio::test]
async fn the_host_is_named_once() {
    let server = Server::start().await;
    for lines in [
        &["GET /livez HTTP/1.1"][..],
        &["GET /livez HTTP/1.1", "Host: a", "Host: a"],
        &["GET /livez HTTP/1.1", "Host: a", "Host: evil.example"],
        &["GET /livez HTTP/1.1", "Host: "],
        &["GET /livez HTTP/1.1", "Host: a/b"],
        &["GET /livez HTTP/1.1", "Host: evil.example@a"],
        &["GET http://a/livez HTTP/1.1"],
        &["GET http://evil.example/livez HTTP/1.1", "Host: a"],
        &["GET http://a@b/livez HTTP/1.1", "Host: b"],
        &["GET ftp://a/livez HTTP/1.1", "Host: a"],
        &["GET livez HTTP/1.1", "Host: livez"],
    ] {
        assert_eq!(raw(&server, lines).await.code(400), "bad_request", "{lines:?}");
    }
    let both = ["GET http://evil.example/livez HTTP/1.1", "Host: evil.example"];
    assert_eq!(raw(&server, &both).await.code(421), "misdirected");
    let connect = raw(&server, &["CONNECT a:80 HTTP/1.1", "Host: a:80"]).await;
    assert_eq!(connect.code(405), "method_not_allowed");
    assert_eq!(raw(&server, &["GET http://a/livez HTTP/1.1", "Host: a"]).await.status, 200);
    assert_eq!(raw(&server, &["GET /livez HTTP/1.0"]).await.status, 200);
}

#[tokio::test]
async fn http2_names_its_host_too_but_for_grpc() {
    let server = Server::start().await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (url, kind, status) in [
        ("http://127.0.0.1/livez", "", 200),
        ("http://evil.example/livez", "", 421),
        ("http://kv.example.com/kuberaft.Nothing/Call", "application/grpc", 404),
    ] {
        let request = hyper::Request::get(url).header("content-type", kind);
        let reply = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(reply.status(), status, "{url}");
        assert_eq!(reply.headers()["cross-origin-resource-policy"], "same-origin");
    }
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let server = Server::start().await;
    let foreign: &[&[&str]] = &[
        &["Sec-Fetch-Site: cross-site"],
        &["Sec-Fetch-Site: same-site"],
        &["Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"],
        &["Origin: http://evil.example"],
        &["Origin: null"],
        &["Origin: http://x:8080"],
        &["Origin: http://x", "Origin: http://evil.example"],
    ];
    for headers in foreign {
        for (method, target) in [
            ("GET", "/set?key=a&value=b"),
            ("POST", "/set?key=a&value=b"),
            ("PUT", "/v1/kv/a"),
            ("DELETE", "/v1/kv/a"),
            ("POST", "/v1/members/2/demote"),
            ("POST", "/v1/leader/transfer"),
        ] {
            let reply = server.call(method, target, headers, &[]).await;
            assert_eq!(reply.code(403), "cross_site", "{method} {target} {headers:?}");
        }
    }
    let image = ["User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "Accept: image/avif"];
    assert_eq!(server.call("GET", "/set?key=a&value=b", &image, &[]).await.code(403), "cross_site");
    assert_eq!(server.replica.proposals.load(std::sync::atomic::Ordering::SeqCst), 0);
    // The node's own page, an address that was typed, a link to what only reads.
    let own = ["Sec-Fetch-Site: same-origin", "Origin: https://proxy.example"];
    assert_eq!(server.call("PUT", "/v1/kv/a", &own, b"1").await.status, 200);
    assert_eq!(server.call("PUT", "/v1/kv/a", &["Origin: http://X"], b"1").await.status, 200);
    assert_eq!(server.call("GET", "/set?key=a&value=b", &["Sec-Fetch-Site: none"], &[]).await.status, 200);
    assert_eq!(server.call("GET", "/v1/status", &["Sec-Fetch-Site: cross-site"], &[]).await.status, 200);
}

#[tokio::test]
async fn json_must_be_called_json() {
    let server = Server::start().await;
    let body = br#"{"to":"kuberaft-1"}"#;
    for headers in [
        &[][..],
        &["Content-Type: text/plain"],
        &["Content-Type: application/x-www-form-urlencoded"],
        &["Content-Type: application/jsonp"],
        &["Content-Type: application/json", "Content-Type: text/plain"],
    ] {
        for target in ["/v1/members", "/v1/leader/transfer"] {
            let reply = server.call("POST", target, headers, body).await;
            assert_eq!(reply.code(415), "unsupported_media_type", "{target} {headers:?}");
        }
    }
    let reply =
        server.call("POST", "/v1/members", &["Content-Type: Application/JSON; charset=utf-8"], b"{").await;
    assert_eq!(reply.code(400), "bad_request");
}

#[tokio::test]
async fn every_answer_is_for_this_origin_alone() {
    let server = Server::start().await;
    let refused = ["Origin: http://evil.example"];
    for (method, target, headers) in [
        ("GET", "/v1/status", &[][..]),
        ("GET", "/ui", &[]),
        ("GET", "/nothing", &[]),
        ("OPTIONS", "/v1/kv/a", &refused),
        ("PUT", "/v1/kv/a", &refused),
        ("GET", "/get?key=a", &refused),
    ] {
        let reply = server.call(method, target, headers, &[]).await;
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{target}");
        assert_eq!(reply.header("cross-origin-resource-policy"), Some("same-origin"), "{target}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{target}");
    }
}

#[tokio::test]
async fn the_page_takes_everything_from_its_own_node() {
    let server = Server::start_as(Settings::default(), Access::Operations).await;
    let page = server.get("/ui").await;
    for (path, kind) in [
        ("/ui", "text/html; charset=utf-8"),
        ("/ui/page.css", "text/css; charset=utf-8"),
        ("/ui/page.js", "text/javascript; charset=utf-8"),
    ] {
        let reply = server.get(path).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)));
        let policy = reply.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("connect-src 'self'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert!(path == "/ui" || page.text().contains(&format!("\"{path}\"")), "{path}");
        for word in ["://", "@import", "url(", " style=", "javascript:", " onclick"] {
            let text = reply.text().replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(word), "{word} in {path}");
        }
    }
    assert!(!page.text().contains("<script>") && !page.text().contains("<style>"));
}
