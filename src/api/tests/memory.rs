//! Memory is bounded in bytes: bodies wait for their share before they are read.

use std::sync::atomic::Ordering;

use super::*;

fn small() -> Settings {
    Settings { request_memory_bytes: 1 << 20, answer_memory_bytes: 1 << 20, ..Settings::default() }
}

/// A writer whose body of 1 MiB takes all the memory, in progress until the gate opens.
async fn writer(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1048576\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![7; 1 << 20]).await.unwrap();
    server.replica.waits.notified().await;
    stream
}

#[tokio::test]
async fn a_body_waits_for_memory_and_is_refused_at_its_deadline() {
    let server = Server::start_with(small()).await;
    server.replica.close_gate();
    let mut first = writer(&server).await;
    // Announced and not: neither is read without memory.
    let announced = server.call("PUT", "/v1/kv/b?timeout=50ms", &[], &vec![1; 512 << 10]).await;
    assert_eq!(announced.code(429), "overloaded");
    assert_eq!(announced.header("retry-after"), Some("1"));
    let chunked = b"PUT /v1/kv/c?timeout=50ms HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    assert_eq!(server.exchange(chunked).await.code(429), "overloaded");
    let metrics = server.get("/metrics").await;
    for line in [
        "kuberaft_http_memory_bytes{kind=\"requests\"} 1048576",
        "kuberaft_http_memory_max_bytes{kind=\"requests\"} 1048576",
    ] {
        assert!(metrics.text().contains(line), "{line}");
    }
    // Reads need none, and one that waits is served as soon as there is some.
    assert_eq!(server.get("/v1/kv/a").await.status, 404);
    let value = vec![1; 512 << 10];
    let second = server.call("PUT", "/v1/kv/d", &[], &value);
    let open = async { server.replica.gate.add_permits(10) };
    let (second, ()) = tokio::join!(second, open);
    assert_eq!(second.status, 200);
    assert_eq!(read_reply(&mut first).await.status, 200);
    assert_eq!(server.replica.proposals.load(Ordering::SeqCst), 2);
    assert!(server.get("/metrics").await.text().contains("kuberaft_http_memory_bytes{kind=\"requests\"} 0"));
}

#[tokio::test]
async fn a_body_that_grows_takes_memory_as_it_does() {
    let server = Server::start_with(small()).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..12 {
        stream.write_all(b"10000\r\n").await.unwrap();
        stream.write_all(&vec![7; 64 << 10]).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    // Three quarters are taken, so half is too much.
    while server.api.request_memory.taken_bytes() < 768 << 10 {
        tokio::task::yield_now().await;
    }
    let other = server.call("PUT", "/v1/kv/b?timeout=50ms", &[], &vec![1; 512 << 10]).await;
    assert_eq!(other.code(429), "overloaded");
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(read_reply(&mut stream).await.status, 200);
    assert_eq!(server.get("/v1/kv/a").await.body.len(), 768 << 10);
}

#[tokio::test]
async fn large_answers_that_are_not_taken_leave_room_for_no_more() {
    let server = Server::start_with(small()).await;
    server.call("PUT", "/v1/kv/a", &[], &vec![7; 1 << 20]).await;
    server.call("PUT", "/v1/kv/b", &[], b"small").await;
    // No socket takes a whole answer at once.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut slow = socket.connect(server.addr).await.unwrap();
    let get = b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n";
    // Pipelined, so that more is asked for than the sockets hold.
    for _ in 0..32 {
        slow.write_all(get).await.unwrap();
    }
    let refused = async {
        loop {
            let reply = server.get("/v1/kv/a?timeout=50ms").await;
            if reply.status != 200 {
                return reply;
            }
        }
    };
    assert_eq!(refused.await.code(429), "overloaded");
    assert_eq!(server.get("/v1/kv/b").await.text(), "small");
    drop(slow);
    while server.get("/v1/kv/a?timeout=1s").await.status != 200 {}
}

#[tokio::test]
async fn one_http2_connection_has_a_hundred_requests_in_progress() {
    use http_body_util::Full;
    use hyper::body::Bytes;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let server = Server::start().await;
    server.replica.close_gate();
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..150 {
        let mut sender = sender.clone();
        writes.spawn(async move {
            let put = hyper::Request::put(format!("http://x/v1/kv/{number}"));
            sender
                .send_request(put.body(Full::new(Bytes::from_static(b"1"))).unwrap())
                .await
                .unwrap()
                .status()
        });
    }
    let proposals = || server.replica.proposals.load(Ordering::SeqCst);
    while proposals() < 100 {
        tokio::task::yield_now().await;
    }
    // Another connection's request is served meanwhile, so what could come of these has come.
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(proposals(), 100);
    server.replica.gate.add_permits(200);
    assert!(writes.join_all().await.iter().all(|status| *status == 200));
}
