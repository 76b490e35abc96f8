//! HTTP over real sockets against the in-memory replica.

mod access;
mod browsers;
mod connections;
mod events;
mod keys;
mod meaning;
mod members;
mod memory;
mod operations;
mod snapshot;
mod time;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::memory_replica::MemoryReplica;
use super::{Access, Api, Node, Peer, Settings, serve};
use crate::metrics::Metrics;
use crate::types::NodeId;

/// A node that serves, in this process.
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    pub(super) api: Arc<Api<Arc<MemoryReplica>>>,
    pub(super) replica: Arc<MemoryReplica>,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) served: JoinHandle<usize>,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub(super) async fn start_with(settings: Settings) -> Self {
        let server = Self::start_without_replica(settings).await;
        server.api.start(server.replica.clone());
        server
    }

    pub(super) async fn start_without_replica(settings: Settings) -> Self {
        Self::start_as(settings, Access::Clients(None)).await
    }

    pub(super) async fn start_as(settings: Settings, access: Access) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, settings, access)
    }

    pub(super) fn start_on(listener: TcpListener, settings: Settings, access: Access) -> Self {
        let addr = listener.local_addr().unwrap();
        let node = Node { name: "kuberaft-0".into(), client_addr: Some("one:80".into()) };
        let directory = Arc::new(|id| {
            (id == NodeId(2)).then(|| Peer { name: "kuberaft-1".into(), client_addr: Some("two:80".into()) })
        });
        let api = Arc::new(Api::new(node, settings, Metrics::new(), directory));
        api.identify(NodeId(1));
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(listener, access, api.clone(), async {
            let _ = stopped.await;
        }));
        Self { addr, api, replica: MemoryReplica::leader(), stop, served }
    }

    /// One request on a connection of its own; `headers` are whole lines.
    pub(super) async fn call(&self, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Reply {
        let headers: String = headers.iter().flat_map(|line| [*line, "\r\n"]).collect();
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}{length}\r\n");
        self.exchange(&[head.as_bytes(), body].concat()).await
    }

    pub(super) async fn get(&self, target: &str) -> Reply {
        self.call("GET", target, &[], &[]).await
    }

    /// Sends bytes and reads the answer to the end of the connection.
    pub(super) async fn exchange(&self, request: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request).await.unwrap();
        read_reply(&mut stream).await
    }
}

/// An answer, taken apart by hand.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

/// Reads to the end of the connection.
pub(super) async fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no whole head in {}", bytes.escape_ascii()));
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head, body: bytes[end + 4..].to_vec() }
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks that this is a well-formed problem document and returns its code and detail.
    #[track_caller]
    pub(super) fn problem(&self, status: u16) -> (String, String) {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let json = self.json();
        assert_eq!(json["type"], "about:blank");
        assert_eq!(json["status"], status);
        assert!(json["title"].is_string());
        assert_eq!(self.header("retry-after").is_some(), matches!(status, 429 | 503), "{json}");
        assert_eq!(json["outcome"].is_string(), matches!(status, 503 | 504), "{json}");
        (json["code"].as_str().unwrap().into(), json["detail"].as_str().unwrap().into())
    }

    /// The code of a problem of this status.
    #[track_caller]
    pub(super) fn code(&self, status: u16) -> String {
        self.problem(status).0
    }
}
