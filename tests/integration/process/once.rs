//! Writes that are sent again because nobody knows whether they were applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kuberaft::api::Consistency;
use kuberaft::api::client::{ClientError, named, parse_put, put_request};
use kuberaft::api::cluster;
use kuberaft::kv::{Condition, IdempotencyKey};

use super::cluster::{Cluster, Node};
use super::{PATIENCE, alone, runtime, until};

fn name(text: &str) -> IdempotencyKey {
    IdempotencyKey::new(text.to_owned()).unwrap()
}

/// Sets a key at one node, once.
fn put_once(node: &Node, key: &str, value: &'static str, name: &IdempotencyKey) -> Result<u64, ClientError> {
    node.ask(async |mut client| {
        let request = put_request(key.as_bytes(), value.into(), Condition::Always, None)?;
        Ok(parse_put(client.request(named(request, name)?).await)?.version)
    })
}

#[test]
fn a_write_repeated_at_another_node_after_the_leader_was_killed_is_applied_once() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let name = name("8e03978e-40d5-43dd-bc93-6894a57f9324");
    assert_eq!(put_once(&cluster.nodes[leader], "key", "value", &name).unwrap(), 1);
    cluster.nodes[leader].kill();
    let other = cluster.other(leader);
    let version =
        until("another node answers", || put_once(&cluster.nodes[other], "key", "value", &name).ok());
    assert_eq!(version, 1);
    let found = cluster.nodes[other].get("key", Consistency::Linearizable).unwrap().unwrap();
    assert_eq!((found.content.version, found.revision.0), (1, 1));
    let error = put_once(&cluster.nodes[other], "key", "another value", &name).unwrap_err();
    assert!(matches!(&error, ClientError::Problem(problem) if problem.status == 422), "{error}");
}

#[test]
fn a_client_that_repeats_its_writes_while_leaders_are_killed_sees_each_take_effect_once() {
    const WRITES: u64 = 300;
    let _alone = alone();
    let mut cluster = Cluster::start_with(5, &["--request-timeout=2s"]);
    let done = Arc::new(AtomicU64::new(0));
    let writer = {
        let (addresses, done) = (cluster.addresses(), Arc::clone(&done));
        runtime().spawn(async move {
            let mut client = cluster::Cluster::new(addresses, PATIENCE).unwrap();
            for number in 0..WRITES {
                let (key, value) = (format!("key-{number}"), Bytes::from(number.to_string()));
                let name = name(&number.to_string());
                let written = client.put_once(key.as_bytes(), value, Condition::Always, &name).await;
                assert_eq!(written.unwrap().version, 1, "{key}");
                done.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    for kills in 1..=2 {
        let wanted = kills * WRITES / 3;
        until("writes are answered", || (done.load(Ordering::SeqCst) >= wanted).then_some(()));
        let leader = cluster.leader();
        cluster.nodes[leader].kill();
    }
    runtime().block_on(writer).unwrap();
    let leader = &cluster.nodes[cluster.leader()];
    for number in 0..WRITES {
        let found = leader.get(&format!("key-{number}"), Consistency::Linearizable).unwrap().unwrap();
        assert_eq!((found.content.version, found.content.value), (1, number.to_string().into()));
        assert_eq!(found.revision.0, WRITES, "as many revisions as writes");
    }
}
