//! A network that lets messages pass in one direction only, between real nodes: what a node says that hears its leader
//! and is not heard by it, and what it does with requests. And links that are slow.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kuberaft::api::client::ClientError;
use kuberaft::api::{Consistency, Problem};
use kuberaft::raft::Outcome;

use super::cluster::{Cluster, Node};
use super::{alone, until};

/// What a relay does.
const OPEN: u8 = 0;
/// Connections end, and new ones end at once: nobody listens.
const REFUSED: u8 = 1;
/// Nothing passes, and nothing is refused: a firewall drops it.
const SILENT: u8 = 2;

/// Sooner than the requests' own deadline, by far, and later than a busy machine takes to find out.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(25);

/// The way of one node to another one.
struct Relay {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
}

impl Relay {
    /// Each byte passes `delay` after it came.
    fn start(target: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (address, mode) = (listener.local_addr().unwrap(), Arc::new(AtomicU8::new(OPEN)));
        let shared = Arc::clone(&mode);
        thread::spawn(move || {
            for from in listener.incoming() {
                let (Ok(from), mode) = (from, Arc::clone(&shared)) else { return };
                thread::spawn(move || {
                    if mode.load(Ordering::Relaxed) == REFUSED {
                        return;
                    }
                    let Ok(to) = TcpStream::connect(target) else { return };
                    for stream in [&from, &to] {
                        stream.set_nodelay(true).unwrap();
                        stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                    }
                    let back = (to.try_clone().unwrap(), from.try_clone().unwrap(), Arc::clone(&mode));
                    thread::spawn(move || carry(&back.0, &back.1, &back.2, delay));
                    carry(&from, &to, &mode, delay);
                });
            }
        });
        Self { address, mode }
    }
}

/// Carries bytes until either side ends.
fn carry(mut from: &TcpStream, mut to: &TcpStream, mode: &AtomicU8, delay: Duration) {
    let mut under_way = std::collections::VecDeque::<(Instant, Vec<u8>)>::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match mode.load(Ordering::Relaxed) {
            OPEN => {}
            REFUSED => break,
            _ => {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => under_way.push_back((Instant::now() + delay, buffer[..count].to_vec())),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        while under_way.front().is_some_and(|(at, _)| *at <= Instant::now()) {
            let Some((_, bytes)) = under_way.pop_front() else { break };
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
    }
    // Fails if it has ended already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Three nodes, each of which reaches each other one through a relay of its own.
struct Relayed {
    cluster: Cluster,
    relays: Vec<(usize, usize, Relay)>,
}

impl Relayed {
    fn start(delay: Duration) -> Self {
        let timeout = format!("--request-timeout={}s", REQUEST_TIMEOUT.as_secs());
        let mut cluster = Cluster::prepare(3, &[&timeout, "--hide-peer-addr"]);
        let mut relays = Vec::new();
        for from in 0..3 {
            let mut list = Vec::new();
            for to in 0..3 {
                let mut address = cluster.nodes[to].peer.address();
                if from != to {
                    let relay = Relay::start(address.parse().unwrap(), delay);
                    address = relay.address.to_string();
                    relays.push((from, to, relay));
                }
                list.push(format!("{}/{address}", cluster.nodes[to].name));
            }
            let flags = &mut cluster.nodes[from].flags;
            let at = flags.iter().position(|flag| flag.starts_with("--raft_cluster=")).unwrap();
            flags[at] = format!("--raft_cluster={}", list.join(","));
        }
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.ready();
        Self { cluster, relays }
    }

    fn set(&self, from: usize, to: usize, mode: u8) {
        for (one, other, relay) in &self.relays {
            if (*one, *other) == (from, to) {
                relay.mode.store(mode, Ordering::Relaxed);
            }
        }
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Problem {
    match answer {
        Err(ClientError::Problem(problem)) => problem,
        other => panic!("a problem should be answered, not {other:?}"),
    }
}

fn check_unheard(mode: u8) {
    let mut relayed = Relayed::start(Duration::ZERO);
    let leader = relayed.cluster.leader();
    let follower = relayed.cluster.other(leader);
    relayed.cluster.nodes[follower].put("kept", "before").unwrap();
    relayed.set(follower, leader, mode);
    let node = &relayed.cluster.nodes[follower];
    let reason = node.gives_reason("the leader does not hear this node");
    let (status, reasons) = node.fetch("/readyz");
    assert_eq!((status, reasons.trim()), (503, &reason[..]));
    assert!(node.status().unwrap().leader.is_some(), "it still hears its leader");
    let started = Instant::now();
    for problem in
        [refusal(node.put("other", "written")), refusal(node.get("kept", Consistency::Linearizable))]
    {
        assert_eq!((problem.status, &problem.code[..]), (503, "no_leader"), "{problem}");
        assert_eq!(problem.outcome, Some(Outcome::NotApplied), "{problem}");
    }
    assert!(started.elapsed() < REQUEST_TIMEOUT, "refused only at the deadline");
    let leads = &relayed.cluster.nodes[leader];
    leads.put("kept", "meanwhile").unwrap();
    assert!(leads.get("other", Consistency::Linearizable).unwrap().is_none());
    let stale =
        || node.get("kept", Consistency::Stale).unwrap().filter(|found| found.content.value == "meanwhile");
    until("the follower still applies what the leader sends", stale);
    relayed.set(follower, leader, OPEN);
    relayed.cluster.nodes[follower].ready();
    relayed.cluster.nodes[follower].put("other", "written").unwrap();
}

#[test]
fn a_follower_that_cannot_open_a_stream_to_its_leader_is_not_ready_and_refuses_at_once() {
    let _alone = alone();
    check_unheard(REFUSED);
}

#[test]
fn a_follower_behind_a_one_way_firewall_is_not_ready_and_refuses_at_once() {
    let _alone = alone();
    check_unheard(SILENT);
}

/// 150 ms each way, with the timing that is the default.
#[test]
fn a_cluster_on_slow_links_serves_at_every_node() {
    let _alone = alone();
    let relayed = Relayed::start(Duration::from_millis(150));
    for node in &relayed.cluster.nodes {
        until("a write", || node.put("k", node.name.clone()).ok());
        let found = until("a read", || node.get("k", Consistency::Linearizable).ok());
        assert_eq!(found.unwrap().content.value, node.name);
    }
    let leader = &relayed.cluster.nodes[relayed.cluster.leader()];
    let (_, metrics) = leader.fetch("/metrics");
    let timeout =
        metrics.lines().find_map(|line| line.strip_prefix("kuberaft_raft_election_timeout_seconds "));
    assert!(timeout.unwrap().parse::<f64>().unwrap() > 0.5, "twice the round trip: {timeout:?}");
}
