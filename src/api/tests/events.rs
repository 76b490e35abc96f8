//! The stream of events.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Server;
use crate::driver::{Observation, RoleName};
use crate::types::{NodeId, Term};

/// A stream of events as a browser opens it, read up to some text.
struct Listener(TcpStream, String);

impl Listener {
    async fn open(server: &Server, headers: &str) -> Self {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let request = format!("GET /v1/events HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut listener = Self(stream, String::new());
        listener.read_to("\r\n\r\n").await;
        listener
    }

    /// Everything up to and including `end`, since the last call.
    async fn read_to(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.1.find(end) {
                let rest = self.1.split_off(at + end.len());
                return std::mem::replace(&mut self.1, rest);
            }
            let mut buffer = [0; 1024];
            let read = self.0.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the stream ended after {:?}", self.1);
            self.1.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }
}

fn elected(term: u64) -> Observation {
    Observation::RoleChanged { role: RoleName::Leader, term: Term(term), why: "won the election" }
}

#[tokio::test]
async fn events_are_told_as_they_happen_and_again_to_who_comes_back() {
    let server = Server::start().await;
    let mut listener = Listener::open(&server, "").await;
    server.replica.events.publish(&elected(4));
    server.replica.events.publish(&Observation::PeerLost { peer: NodeId(3) });
    let first = listener.read_to("won the election\"}").await;
    assert!(first.contains("event: role_changed\nid: 1\ndata: {"), "{first}");
    assert!(first.contains("\"role\":\"leader\"") && first.contains("\"term\":4"), "{first}");
    listener.read_to("event: peer_lost\nid: 2\n").await;

    let mut again = Listener::open(&server, "Last-Event-ID: 1\r\n").await;
    let missed = again.read_to("id: 2\n").await;
    assert!(missed.contains("event: peer_lost") && !missed.contains("id: 1\n"), "{missed}");
}

#[tokio::test]
async fn an_open_stream_does_not_hold_up_the_end() {
    let server = Server::start().await;
    let mut listener = Listener::open(&server, "").await;
    server.stop.send(()).unwrap();
    assert_eq!(server.served.await.unwrap(), 0, "no connection had to be cut");
    let mut rest = Vec::new();
    listener.0.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_bad_event_number_is_refused() {
    let server = Server::start().await;
    let reply = server.call("GET", "/v1/events", &["Last-Event-ID: one"], &[]).await;
    assert_eq!(reply.code(400), "bad_request");
    assert_eq!(server.get("/v1/events?since=3").await.code(400), "bad_request");
}
