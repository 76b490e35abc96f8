//! Bytes of a client, on a connection that ends in the real routes.

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::memory_replica::MemoryReplica;
use super::serve::serve_stream;
use super::{Api, Node, Settings};
use crate::metrics::Metrics;
use crate::types::NodeId;

/// Streams of events do not end by themselves.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(20);

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("no runtime: {error}"))
    })
}

/// A member that serves, with an empty store.
fn member() -> Arc<Api<Arc<MemoryReplica>>> {
    let node = Node { name: "kuberaft-0".into(), client_addr: Some("one:80".into()) };
    let api = Arc::new(Api::new(node, Settings::default(), Metrics::new(), Arc::new(|_| None)));
    api.identify(NodeId(1));
    api.start(MemoryReplica::leader());
    api
}

/// Whatever a client sends, it gets no answer that says that the server is wrong.
pub(crate) fn http(data: &[u8]) {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = runtime().block_on(async {
        let (mut client, other_end) = tokio::io::duplex(1 << 20);
        let served = tokio::spawn(serve_stream(other_end, member()));
        let mut answer = Vec::new();
        let _ = timeout(ANSWER_TIMEOUT, async {
            client.write_all(data).await?;
            client.shutdown().await?;
            client.read_to_end(&mut answer).await
        })
        .await;
        served.abort();
        match served.await {
            Err(error) if error.is_panic() => panic!("a connection's task panicked"),
            _ => answer,
        }
    });
    let is_wrong = answer.starts_with(b"HTTP/1.1 500") || answer.starts_with(b"HTTP/1.0 500");
    assert!(!is_wrong, "{}", answer.escape_ascii());
}

/// Inputs to begin with.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let head = "Host: localhost\r\nContent-Type: application/json\r\n";
    let with_body = |line: &str, more: &str, body: &str| {
        format!("{line} HTTP/1.1\r\n{head}{more}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let mut samples: Vec<String> = [
        "/get?key=a",
        "/set?key=a&value=b",
        "/v1/kv/a?consistency=stale",
        "/v1/status",
        "/v1/members",
        "/metrics",
        "/readyz",
        "/livez",
        "/ui",
        "/v1/snapshot",
        "/v1/kv/",
        "/nothing",
        "/v1/events",
        "/v1/kv/a#b",
    ]
    .iter()
    .map(|target| format!("GET {target} HTTP/1.1\r\n{head}Connection: close\r\n\r\n"))
    .collect();
    samples.push(with_body("PUT /v1/kv/a%2Fb", "If-None-Match: *\r\nIdempotency-Key: \"x\"\r\n", "value"));
    samples.push(with_body("PUT /v1/kv/a", "If-Match: \"1\"\r\n", "value"));
    samples.push(with_body("DELETE /v1/kv/a", "If-Match: *\r\n", ""));
    samples.push(with_body("POST /v1/members", "", r#"{"node_id":"0000000000000002","name":"two"}"#));
    samples.push(with_body("POST /v1/leader/transfer", "", r#"{"to":"two"}"#));
    samples.push(format!(
        "PUT /v1/kv/a HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ));
    let mut bytes: Vec<Vec<u8>> = samples.into_iter().map(String::into_bytes).collect();
    bytes.push(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec());
    bytes
}
