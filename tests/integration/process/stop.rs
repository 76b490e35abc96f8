//! SIGTERM: finish what is in flight, flush, exit 0.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use super::cluster::{Cluster, Node};
use super::load::{Load, Plan};
use super::{alone, until};

#[test]
fn told_to_end_under_load_a_node_exits_with_0_and_nothing_acknowledged_is_lost() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let load = Load::start(&Plan::new(&cluster));
    for is_leader in [true, false, true] {
        load.progress(100);
        let leader = cluster.leader();
        let at = if is_leader { leader } else { cluster.other(leader) };
        let node = &mut cluster.nodes[at];
        node.signal(Signal::TERM);
        assert_eq!(node.ended().code(), Some(0));
        let log = node.log();
        assert!(log.lines().last().unwrap().contains("stopped"), "{log}");
        load.progress(100);
        cluster.nodes[at].start();
        cluster.ready();
    }
    let mut history = load.stop();
    // All at once, too: then nobody is left to have it but the disks.
    for node in &mut cluster.nodes {
        node.signal(Signal::TERM);
    }
    for node in &mut cluster.nodes {
        assert_eq!(node.ended().code(), Some(0));
        node.start();
    }
    cluster.ready();
    history.read_back(&cluster.nodes);
    history.check();
}

/// A request that is certainly under way: the node has asked for its body.
fn begin(node: &Node, key: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(node.client.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "PUT /v1/kv/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer.as_slice(), b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[test]
fn requests_in_flight_are_answered_before_a_node_ends() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    for at in [cluster.other(leader), leader] {
        let requests: Vec<_> = (0..4).map(|n| begin(&cluster.nodes[at], &format!("k{at}{n}"), 5)).collect();
        cluster.nodes[at].signal(Signal::TERM);
        until("the node stops", || cluster.nodes[at].log().contains("stopping").then_some(()));
        for mut request in requests {
            request.write_all(b"value").unwrap();
            let mut answer = String::new();
            request.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        }
        assert_eq!(cluster.nodes[at].ended().code(), Some(0));
        cluster.nodes[at].start();
        cluster.ready();
    }
}
