//! Connections: both protocols, their bounds, and how they end.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::*;
use crate::api::client::Client;
use crate::api::serve::HEAD_BYTES_MAX;
use crate::kv::Condition;

const GET: &[u8] = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

async fn http2<B>(server: &Server) -> http2::SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn http2_is_spoken_on_the_same_port() {
    let server = Server::start().await;
    let mut sender = http2(&server).await;
    let url = format!("http://{}", server.addr);
    let put = Request::put(format!("{url}/v1/kv/a")).body(Full::new(Bytes::from_static(b"one"))).unwrap();
    assert_eq!(sender.send_request(put).await.unwrap().status(), 200);
    let get = Request::get(format!("{url}/get?key=a")).body(Full::default()).unwrap();
    let reply = sender.send_request(get).await.unwrap();
    assert_eq!((reply.version(), reply.status().as_u16()), (hyper::Version::HTTP_2, 200));
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "one");
}

#[tokio::test]
async fn set_takes_an_empty_body_however_it_was_announced() {
    let server = Server::start().await;
    let chunked = b"POST /set?key=a&value=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(server.exchange(chunked).await.status, 200);
    // Headers alone do not end the stream: an empty frame follows.
    let mut sender = http2(&server).await;
    for (body, status) in [("", 200), ("x", 400)] {
        let frames = tokio_stream::once(Ok::<_, Infallible>(Frame::data(Bytes::from(body))));
        let post = Request::post(format!("http://{}/set?key=b&value=2", server.addr));
        let reply = sender.send_request(post.body(StreamBody::new(frames)).unwrap()).await.unwrap();
        assert_eq!(reply.status(), status, "{body:?}");
    }
}

#[tokio::test]
async fn both_protocols_take_heads_of_one_size() {
    let server = Server::start().await;
    let mut sender = http2::<Full<Bytes>>(&server).await;
    // Two targets, each long in its way, with headers that make the head as large as it may be, or larger.
    for (value, header, taken) in [(20_000, 10, true), (65_000, 60_000, true), (100, HEAD_BYTES_MAX, false)] {
        let target = format!("/set?key=a&value={}", "v".repeat(value));
        let noise = format!("X-Noise: {}", "n".repeat(header));
        let reply = server.call("GET", &target, &[&noise], &[]).await;
        assert_eq!(reply.status, if taken { 200 } else { 431 });
        let get =
            Request::get(format!("http://{}{target}", server.addr)).header("x-noise", "n".repeat(header));
        let reply = sender.send_request(get.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(reply.status(), if taken { 200 } else { 431 });
    }
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
fn idle() -> Settings {
    Settings { idle_timeout: Duration::from_millis(250), ..Settings::default() }
}

#[tokio::test]
async fn half_a_request_does_not_hold_a_connection_forever() {
    let server = Server::start_with(idle()).await;
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
    let server = Server::start_with(idle()).await;
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
async fn shutdown_does_not_wait_forever() {
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
