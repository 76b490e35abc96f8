//! Slow clients: they are served while they make progress, and not without end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;

/// Long enough for a request to be sent on a busy machine.
fn idle() -> Settings {
    Settings { idle_timeout: Duration::from_secs(1), ..Settings::default() }
}

/// Waits until the server has closed so many idle connections, each opened after the one before.
async fn idle_times(server: &Server, times: usize) {
    for _ in 0..times {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test]
async fn a_stream_of_events_outlives_the_idle_timeout() {
    let server = Server::start_with(idle()).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    idle_times(&server, 3).await;
    let lost = crate::driver::Observation::PeerLost { peer: NodeId(3) };
    server.replica.events.publish(&lost);
    let mut text = String::new();
    while !text.contains("event: peer_lost") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the stream was cut after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
}

/// Puts as much into the store as no socket takes at once.
async fn fill(server: &Server) {
    for number in 0..16 {
        let put = server.call("PUT", &format!("/v1/kv/{number}"), &[], &vec![number; 1 << 20]).await;
        assert_eq!(put.status, 200);
    }
}

async fn ask_for_snapshot(server: &Server) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(server.addr).await.unwrap();
    stream.write_all(b"GET /v1/snapshot HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    stream
}

#[tokio::test]
async fn a_backup_over_a_slow_link_arrives_whole() {
    // With a small buffer the system takes a little as soon as the client has taken a little.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(64 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::start_on(socket.listen(64).unwrap(), idle(), Access::Clients(None));
    server.api.start(server.replica.clone());
    fill(&server).await;
    let mut stream = ask_for_snapshot(&server).await;
    let mut idle = Box::pin(idle_times(&server, 3));
    let mut file = Vec::new();
    // A piece now and then, until the server has closed three idle connections.
    loop {
        tokio::select! {
            () = &mut idle => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                let mut piece = [0; 16 << 10];
                let read = stream.read(&mut piece).await.unwrap();
                assert!(read > 0, "cut after {} bytes", file.len());
                file.extend_from_slice(&piece[..read]);
            }
        }
    }
    stream.read_to_end(&mut file).await.unwrap();
    assert!(file.ends_with(b"\r\n0\r\n\r\n"), "the last chunk is there");
    assert!(file.len() > 16 << 20);
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_connection() {
    let server = Server::start_with(idle()).await;
    fill(&server).await;
    let _stream = ask_for_snapshot(&server).await;
    // Its slot becomes free again.
    let soon = || tokio::time::Instant::now() + Duration::from_secs(1);
    while server.api.snapshots.is_in_use() {
        let _ = server.api.snapshots.take(Duration::from_mins(1), soon()).await;
        idle_times(&server, 1).await;
    }
}

#[tokio::test]
async fn a_slow_body_is_waited_for_while_it_makes_progress() {
    let settings = Settings { request_timeout: Duration::from_secs(1), ..Settings::default() };
    let server = Server::start_with(settings).await;
    let started = std::time::Instant::now();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1048576\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..16 {
        stream.write_all(&vec![7; 64 << 10]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(read_reply(&mut stream).await.status, 200);
    assert!(started.elapsed() > Duration::from_secs(1), "it took longer than a request may without a body");
    // Without progress it ends.
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[7; 1000]).await.unwrap();
    assert_eq!(read_reply(&mut stream).await.code(504), "timeout");
    assert_eq!(server.replica.proposals.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn shutdown_lets_a_backup_end_that_makes_progress() {
    let server = Server::start_with(idle()).await;
    fill(&server).await;
    let mut stream = ask_for_snapshot(&server).await;
    let mut file = vec![0; 1 << 20];
    stream.read_exact(&mut file).await.unwrap();
    server.stop.send(()).unwrap();
    stream.read_to_end(&mut file).await.unwrap();
    assert!(file.ends_with(b"\r\n0\r\n\r\n"), "the last chunk is there");
    assert_eq!(server.served.await.unwrap(), 0, "no connection had to be cut");
}
