//! Connections: both protocols, their bounds, and how they end.

use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::*;
use crate::api::client::Client;
use crate::kv::Condition;

const GET: &[u8] = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn http2_is_spoken_on_the_same_port() {
    let server = Server::start().await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let url = format!("http://{}", server.addr);
    let put = Request::put(format!("{url}/v1/kv/a")).body(Full::new(Bytes::from_static(b"one"))).unwrap();
    assert_eq!(sender.send_request(put).await.unwrap().status(), 200);
    let get = Request::get(format!("{url}/get?key=a")).body(Full::default()).unwrap();
    let reply = sender.send_request(get).await.unwrap();
    assert_eq!((reply.version(), reply.status().as_u16()), (hyper::Version::HTTP_2, 200));
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "one");
}

#[tokio::test]
async fn requests_follow_one_another_on_a_connection() {
    let server = Server::start().await;
    let pipelined = [GET, GET, &GET[..GET.len() - 2], b"Connection: close\r\n\r\n"].concat();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&pipelined).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);
}

/// Long enough for a request to be sent on a busy machine.
const IDLE: Settings = Settings { idle_timeout: Duration::from_millis(250), ..Settings::DEFAULT };

#[tokio::test]
async fn half_a_request_does_not_hold_a_connection_for_ever() {
    let server = Server::start_with(IDLE).await;
    let mut connections = JoinSet::new();
    for half in [&b""[..], b"G", b"PRI * HTTP/2.0\r\n", b"GET /livez HTTP/1.1\r\nHo", GET] {
        let addr = server.addr;
        connections.spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(half).await.unwrap();
            let mut answer = Vec::new();
            // The end comes, whatever was answered before.
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(!answer.is_empty(), half == GET);
        });
    }
    connections.join_all().await;
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_request_under_way_outlives_the_idle_timeout() {
    let server = Server::start_with(IDLE).await;
    server.replica.close_gate();
    let addr = server.addr;
    let write = tokio::spawn(async move {
        let mut client = Client::connect(&addr.to_string()).await?;
        client.put(b"a", Bytes::from_static(b"1"), Condition::Always).await
    });
    server.replica.waits.notified().await;
    // Checks pass meanwhile: other connections are closed by them.
    for _ in 0..2 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    server.replica.gate.add_permits(1);
    assert_eq!(write.await.unwrap().unwrap().version, 1);
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_one_to_end() {
    let server = Server::start_with(Settings { connections_max: 1, ..Settings::default() }).await;
    let first = Client::connect(&server.addr.to_string()).await.unwrap();
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    second.write_all(&[&GET[..GET.len() - 2], b"Connection: close\r\n\r\n"].concat()).await.unwrap();
    drop(first);
    assert_eq!(read_reply(&mut second).await.status, 200);
}

#[tokio::test]
async fn garbage_is_answered_and_the_node_lives_on() {
    let server = Server::start().await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n"[..], b"GET\r\n\r\n"]
    {
        assert_eq!(server.exchange(garbage).await.status, 400);
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    assert_eq!(server.exchange(long.as_bytes()).await.status, 414);
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn shutdown_finishes_what_is_under_way() {
    let server = Server::start().await;
    server.replica.close_gate();
    let addr = server.addr.to_string();
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    let write = tokio::spawn(async move {
        let mut client = Client::connect(&addr).await?;
        client.put(b"a", Bytes::from_static(b"1"), Condition::Always).await
    });
    server.replica.waits.notified().await;
    server.stop.send(()).unwrap();
    // An idle connection ends at once, and by then the port is closed.
    let _ = idle.read_to_end(&mut Vec::new()).await;
    assert!(TcpStream::connect(server.addr).await.is_err());
    assert!(!server.served.is_finished());
    server.replica.gate.add_permits(1);
    assert_eq!(write.await.unwrap().unwrap().version, 1);
    assert_eq!(server.served.await.unwrap(), 0);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let drain_timeout = Duration::from_millis(10);
    let server = Server::start_with(Settings { drain_timeout, ..Settings::default() }).await;
    server.replica.close_gate();
    let addr = server.addr.to_string();
    let write = tokio::spawn(async move {
        let mut client = Client::connect(&addr).await?;
        client.put(b"a", Bytes::from_static(b"1"), Condition::Always).await
    });
    server.replica.waits.notified().await;
    server.stop.send(()).unwrap();
    assert_eq!(server.served.await.unwrap(), 1);
    assert!(write.await.unwrap().is_err());
}
