//! The cluster's client against nodes that are away, refuse, break off, or stay silent.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::api::replica::{Refusal, RefusalReason};
use crate::api::tests::Server;
use crate::tls::ConnectorSettings;

const TIMEOUT: Duration = Duration::from_secs(20);

fn cluster(endpoints: &[String]) -> Cluster {
    Cluster::new(endpoints, TIMEOUT).unwrap()
}

async fn put(cluster: &mut Cluster) -> Result<Written, ClientError> {
    cluster.put(b"a/b", Bytes::from_static(b"1"), Condition::Always).await
}

/// An address at which nobody listens, and what keeps others from it.
fn closed() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap().to_string();
    (socket, addr)
}

/// A node that reads a little of each request and then breaks the connection.
async fn breaking() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read_u8().await;
        }
    });
    addr
}

/// A node that accepts and never answers.
async fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok(accepted) = listener.accept().await {
            open.push(accepted);
        }
    });
    addr
}

#[tokio::test]
async fn writes_reads_and_deletes() {
    let server = Server::start().await;
    let mut cluster = cluster(&[format!("http://{}/", server.addr)]);
    assert_eq!(cluster.get(b"a/b", Consistency::Linearizable).await.unwrap(), None);
    let first = put(&mut cluster).await.unwrap();
    assert_eq!((first.revision, first.create_revision, first.version), (Revision(1), Revision(1), 1));
    let found = cluster.get(b"a/b", Consistency::Stale).await.unwrap().unwrap();
    assert_eq!((&found.content.value[..], found.content.mod_revision), (&b"1"[..], Revision(1)));
    assert_eq!((found.content.create_revision, found.content.version), (Revision(1), 1));
    assert_eq!(found.revision, Revision(1));
    let absent = cluster.put(b"a/b", Bytes::new(), Condition::Absent).await.unwrap_err();
    assert!(matches!(&absent, ClientError::Problem(problem) if problem.code == "precondition_failed"));
    assert_eq!(absent.outcome(), Outcome::NotApplied);
    let condition = Condition::ModRevision(Revision(1));
    assert_eq!(cluster.delete(b"a/b", condition).await.unwrap(), Revision(2));
    let missing = cluster.delete(b"a/b", Condition::Always).await.unwrap_err();
    assert_eq!(missing.to_string(), "404 key_not_found: there is no such key");
    let status = cluster.status().await.unwrap();
    assert_eq!((&status.name[..], status.voters.len()), ("kuberaft-0", 3));
    // Everything went over one connection, kept open.
    assert!(cluster.client.is_some());
}

#[tokio::test]
async fn keys_of_any_bytes_reach_the_server_whole() {
    let server = Server::start().await;
    let mut cluster = cluster(&[server.addr.to_string()]);
    let key: Vec<u8> = (0..=u8::MAX).collect();
    for key in [&key[..], b".", b"..", b"/", b"a?b#c"] {
        cluster.put(key, Bytes::copy_from_slice(key), Condition::Always).await.unwrap();
        let found = cluster.get(key, Consistency::Linearizable).await.unwrap().unwrap();
        assert_eq!(found.content.value, key);
    }
}

#[tokio::test]
async fn a_write_moves_on_where_nothing_was_sent() {
    let server = Server::start().await;
    let (_reserved, closed) = closed();
    let mut cluster = cluster(&[closed, server.addr.to_string()]);
    assert_eq!(put(&mut cluster).await.unwrap().version, 1);
    assert_eq!(cluster.endpoint(), server.addr.to_string());
    assert_eq!(put(&mut cluster).await.unwrap().version, 2);
}

#[tokio::test]
async fn a_write_that_may_have_left_is_never_repeated() {
    let server = Server::start().await;
    let mut cluster = cluster(&[breaking().await, server.addr.to_string()]);
    let error = put(&mut cluster).await.unwrap_err();
    assert!(matches!(error, ClientError::Broken(_)), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    let error = cluster.delete(b"a", Condition::Always).await.unwrap_err();
    assert!(matches!(error, ClientError::Broken(_)), "{error}");
    assert_eq!(server.replica.proposals.load(Ordering::SeqCst), 0);
    // A read may be.
    assert_eq!(cluster.get(b"a", Consistency::Linearizable).await.unwrap(), None);
}

#[tokio::test]
async fn a_silent_node_costs_a_read_its_share_and_a_write_its_deadline() {
    let server = Server::start().await;
    let endpoints = [silent().await, server.addr.to_string()];
    let mut cluster = Cluster::new(&endpoints, Duration::from_secs(1)).unwrap();
    let error = put(&mut cluster).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { sent: true }), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(server.replica.proposals.load(Ordering::SeqCst), 0);
    let mut cluster = Cluster::new(&endpoints, Duration::from_secs(2)).unwrap();
    assert_eq!(cluster.get(b"a", Consistency::Linearizable).await.unwrap(), None);
}

fn name(text: &'static str) -> IdempotencyKey {
    IdempotencyKey::new(text).unwrap()
}

#[tokio::test]
async fn a_write_with_an_idempotency_key_is_repeated_and_takes_effect_once() {
    let server = Server::start().await;
    let endpoints = [breaking().await, silent().await, server.addr.to_string()];
    let mut cluster = Cluster::new(&endpoints, Duration::from_secs(3)).unwrap();
    let written = async |cluster: &mut Cluster, value| {
        cluster.put_once(b"a/b", Bytes::from_static(value), Condition::Always, &name("one")).await
    };
    assert_eq!(written(&mut cluster, b"1").await.unwrap().version, 1);
    assert_eq!(cluster.endpoint(), server.addr.to_string());
    assert_eq!(written(&mut cluster, b"1").await.unwrap().version, 1);
    assert_eq!(server.replica.proposals.load(Ordering::SeqCst), 2);
    let error = written(&mut cluster, b"2").await.unwrap_err();
    assert!(matches!(&error, ClientError::Problem(problem) if problem.code == "idempotency_conflict"));
    assert_eq!(error.outcome(), Outcome::NotApplied);
    for _ in 0..2 {
        let deleted = cluster.delete_once(b"a/b", Condition::Always, &name("two")).await;
        assert_eq!(deleted.unwrap(), Revision(2));
    }
    let error = cluster.delete_once(b"a/b", Condition::Always, &name("\u{e4}")).await.unwrap_err();
    assert!(matches!(error, ClientError::IdempotencyKey(_)), "{error}");
}

#[tokio::test]
async fn a_later_refusal_does_not_hide_that_an_earlier_attempt_may_have_been_applied() {
    let server = Server::start().await;
    server.replica.refuse(Some(Refusal { reason: RefusalReason::NoLeader, outcome: Outcome::NotApplied }));
    let endpoints = [breaking().await, server.addr.to_string()];
    let mut cluster = Cluster::new(&endpoints, Duration::from_millis(500)).unwrap();
    let error = cluster.put_once(b"a", Bytes::new(), Condition::Always, &name("one")).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    // The state machine's answer counts for all attempts.
    server.replica.refuse(None);
    let error = cluster.delete_once(b"a", Condition::Always, &name("two")).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
    assert!(server.replica.proposals.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn what_was_certainly_not_applied_is_tried_elsewhere() {
    let (one, two) = (Server::start().await, Server::start().await);
    for reason in [RefusalReason::NoLeader, RefusalReason::NoQuorum, RefusalReason::Overloaded] {
        one.replica.refuse(Some(Refusal { reason, outcome: Outcome::NotApplied }));
        let mut cluster = cluster(&[one.addr.to_string(), two.addr.to_string()]);
        put(&mut cluster).await.unwrap();
        assert_eq!(cluster.endpoint(), two.addr.to_string());
    }
    one.replica.refuse(Some(Refusal { reason: RefusalReason::LeadershipLost, outcome: Outcome::Unknown }));
    let mut cluster = cluster(&[one.addr.to_string(), two.addr.to_string()]);
    let error = put(&mut cluster).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(two.replica.proposals.load(Ordering::SeqCst), 3);
    assert!(cluster.get(b"a/b", Consistency::Linearizable).await.unwrap().is_some());
}

#[tokio::test]
async fn the_last_error_is_returned_at_the_deadline() {
    let server = Server::start().await;
    server.replica.refuse(Some(Refusal { reason: RefusalReason::NoQuorum, outcome: Outcome::NotApplied }));
    let mut cluster = Cluster::new([server.addr.to_string()], Duration::from_millis(500)).unwrap();
    let error = put(&mut cluster).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "503 no_quorum: no majority of the voters answers the leader (not applied)"
    );
    let (_reserved, closed) = closed();
    let mut cluster = Cluster::new([closed], Duration::from_millis(500)).unwrap();
    let error = put(&mut cluster).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
}

#[tokio::test]
async fn a_handshake_that_the_deadline_cuts_off_does_not_hide_why_the_one_before_failed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let told = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), told).unwrap();
    let settings = ConnectorSettings { ca: Some(ca.path().to_owned()), ..ConnectorSettings::default() };
    let endpoint = format!("https://{address}");
    let cluster = Cluster::new([endpoint], Duration::from_secs(1)).unwrap();
    let mut cluster = cluster.with_tls(Connector::new(&settings).unwrap());
    // No TLS is spoken to the first connection, nothing at all to the second.
    let serve = async {
        let (mut first, _) = listener.accept().await.unwrap();
        first.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let second = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop((first, second));
    };
    let error = tokio::select! {
        written = put(&mut cluster) => written.unwrap_err(),
        () = serve => unreachable!("it never ends"),
    };
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn a_key_longer_than_any_request_is_an_error() {
    let server = Server::start().await;
    let mut cluster = cluster(&[server.addr.to_string()]);
    let error = cluster.get(&vec![0xff; 30_000], Consistency::Linearizable).await.unwrap_err();
    assert!(matches!(error, ClientError::TargetTooLong), "{error}");
    // The server's own limit is below.
    let error = cluster.get(&[0xff; 5_000], Consistency::Linearizable).await.unwrap_err();
    assert_eq!(error.to_string(), "413 too_large: the key is longer than 4096 bytes");
}

#[test]
fn endpoints_are_checked() {
    for good in ["localhost:80", "http://10.0.0.1:4001/", "https://[::1]:80", "kuberaft-0.kuberaft:4001"] {
        assert!(Cluster::new([good], TIMEOUT).is_ok(), "{good}");
    }
    for bad in ["", "localhost", "localhost:", ":80", "a:0", "a:70000", "https://a:1/b"] {
        assert!(matches!(Cluster::new([bad], TIMEOUT), Err(ClientError::Endpoint(_))), "{bad}");
    }
    assert!(Cluster::new(Vec::<String>::new(), TIMEOUT).is_err());
}

#[tokio::test]
async fn https_is_never_spoken_without_something_to_trust() {
    let mut cluster = Cluster::new(["https://127.0.0.1:1"], Duration::from_millis(50)).unwrap();
    let server = Server::start().await;
    cluster.endpoints[0].address = server.addr.to_string();
    let error = cluster.get(b"k", Consistency::Linearizable).await.unwrap_err();
    assert!(error.to_string().contains("nothing says which certificates to trust"), "{error}");
}
