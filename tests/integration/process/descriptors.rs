//! File descriptors that are all in use.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::cluster::{Cluster, Node};
use super::{alone, until};

/// Runs a program with so few descriptors that all ports together have room for 128 connections.
const FEW: [&str; 3] = ["bash", "-c", "ulimit -n 256 && exec \"$0\" \"$@\""];

fn connect(address: &str, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
}

fn checkpoint_index(node: &Node) -> u64 {
    node.status().map_or(0, |status| status.snapshot_index.0)
}

#[test]
fn more_idle_connections_than_descriptors_stop_neither_writes_nor_checkpoints() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(3, &["--checkpoint-interval=100ms"]);
    for node in &mut cluster.nodes {
        node.wrapper = FEW.map(str::to_owned).to_vec();
        node.start();
    }
    cluster.ready();
    let leader = &cluster.nodes[cluster.leader()];
    let mut idle = connect(&leader.client.address(), 300);
    idle.extend(connect(&leader.peer.address(), 300));
    let before = checkpoint_index(leader);
    until("writes and checkpoints continue", || {
        leader.put("key", "value").ok()?;
        (checkpoint_index(leader) > before + 20).then_some(())
    });
    // The connections that came first were idle longest.
    let mut closed = 0;
    for stream in &mut idle[..300] {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        closed += usize::from(matches!(stream.read(&mut [0]), Ok(0)));
    }
    assert!(closed >= 200, "{closed}");
    assert!(!leader.log().contains("disk failed"));
    drop(idle);
    cluster.ready();
}

#[test]
fn a_connection_in_use_is_not_closed_for_idle_ones() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.nodes[0].wrapper = FEW.map(str::to_owned).to_vec();
    cluster.nodes[0].start();
    cluster.ready();
    let node = &cluster.nodes[0];
    let mut events = TcpStream::connect(node.client.address()).unwrap();
    let ask = "PUT /v1/kv/key HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    events.write_all(ask.as_bytes()).unwrap();
    events.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = [0; 25];
    events.read_exact(&mut answer).unwrap();
    let _idle = connect(&node.client.address(), 300);
    node.put("other", "value").unwrap();
    events.write_all(b"one").unwrap();
    let mut answer = [0; 15];
    events.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}
