//! Random walks: messages lost, doubled and out of order, nodes that crash and lose what was not flushed, disks
//! that stall or fill up, partitions, snapshots at any time, other members, other leaders. Every second walk reads by lease
//! where it can. The invariants must hold after every step, and once the trouble ends, the cluster must
//! elect a leader, catch up and answer everybody.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;

use super::super::random::Random;
use super::super::{Change, Event, HardState, Settings};
use super::cluster::{Cluster, Envelope, Founding};
use super::members::new_member;
use super::parse;
use super::trace;
use crate::types::{LogIndex, NodeId, Session};

const SEEDS: u64 = 50;
const STEPS: usize = 2_500;
const LINES_SHOWN: usize = 200;
/// Voters and learners are added up to this many, and nodes to take them from.
const VOTERS_MAX: usize = 5;
const NODES_MAX: usize = 10;

#[test]
fn with_pre_vote_and_check_quorum() {
    walk_all(true, true);
}

#[test]
fn with_pre_vote() {
    walk_all(true, false);
}

#[test]
fn with_check_quorum() {
    walk_all(false, true);
}

#[test]
fn with_neither_pre_vote_nor_check_quorum() {
    walk_all(false, false);
}

/// `WALK_SEEDS=1000..2000` walks other seeds than the usual ones.
fn walk_all(pre_vote: bool, check_quorum: bool) {
    let range = std::env::var("WALK_SEEDS").ok().and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    for seed in range.unwrap_or(0..SEEDS) {
        let walk = |is_traced| {
            let mut walk = Walk::new(seed, pre_vote, check_quorum, is_traced);
            let result = catch_unwind(AssertUnwindSafe(|| walk.run()));
            (walk.cluster, result.map_err(|_| "panic".to_owned()).flatten())
        };
        if walk(false).1.is_ok() {
            continue;
        }
        let (mut cluster, result) = walk(true);
        let lines = cluster.trace.take();
        let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
        panic!("{shown}\nseed {seed}, pre_vote {pre_vote}, check_quorum {check_quorum}: {result:?}");
    }
}

struct Walk {
    cluster: Cluster,
    random: Random,
    writes: u64,
}

impl Walk {
    fn new(seed: u64, pre_vote: bool, check_quorum: bool, is_traced: bool) -> Self {
        let mut random = Random::new(seed);
        let mut up_to = |max: u64| usize::try_from(1 + random.next_u64() % max).expect("a small number");
        let settings = Settings {
            pre_vote,
            check_quorum,
            batch_entries: up_to(8),
            append_bytes_max: up_to(200),
            window_messages: up_to(4),
            window_bytes: up_to(400),
            cache_bytes: up_to(300),
            uncommitted_bytes_max: 40 + up_to(200),
            promotion: up_to(4) > 1,
            trailing_entries: up_to(10) as u64 - 1,
            transfer_log_entries_max: up_to(20) as u64,
            lease_reads: check_quorum && seed % 2 == 1,
            ..Settings::default()
        };
        let mut cluster = Cluster::new(settings, seed, is_traced);
        let voters: Vec<NodeId> = (1..=3 + seed % 3).map(NodeId).collect();
        for id in voters.clone() {
            let voters = Some(parse::configuration(&voters));
            let hard_state = HardState::default();
            cluster.found(Founding { id, voters, hard_state, log: Vec::new(), applied: 0 });
        }
        Self { cluster, random, writes: 0 }
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.random.next_u64() % limit as u64).expect("below a usize")
    }

    fn any_node(&mut self) -> NodeId {
        NodeId(1 + self.below(self.cluster.nodes.len()) as u64)
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            self.act();
            if let Some(violation) = self.cluster.violation.take() {
                return Err(violation);
            }
        }
        self.recover()
    }

    fn act(&mut self) {
        let id = self.any_node();
        match self.below(1032) {
            0..790 => self.deliver(),
            790..800 => match self.below(3) {
                0 => self.transfer(id),
                _ => self.change(id),
            },
            800..845 => self.next_timer(),
            845..855 => {
                let duration = Duration::from_millis(self.below(40) as u64);
                self.cluster.advance(duration, false);
            }
            855..905 => self.propose(id),
            905..930 => self.read(id),
            930..960 => self.disk(id),
            960..975 => self.lose(),
            975..983 => self.double(),
            983..987 => self.crash(id),
            987..993 => self.cluster.start(id),
            993..994 => {
                let other = self.any_node();
                self.cluster.cuts.extend([(id, other)]);
            }
            994..995 => {
                let others = self.cluster.nodes.keys().copied().filter(|other| *other != id);
                self.cluster.cuts.extend(others.flat_map(|other| [(id, other), (other, id)]));
            }
            995..1000 => self.cluster.cuts.clear(),
            1000..1010 => self.take_snapshot(id),
            1010..1028 => self.carry_snapshot(),
            1028..1030 => self.send_unasked(id),
            1030..1031 => self.cluster.step(id, Event::SpaceLow),
            _ => self.free_space(),
        }
    }

    /// The state of a node becomes durable, as of now or of a while ago.
    fn take_snapshot(&mut self, id: NodeId) {
        let applied = self.cluster.nodes[&id].applied.len();
        let ago = if self.below(2) == 0 { 0 } else { self.below(20) };
        self.cluster.take_snapshot(id, Some(LogIndex(applied.saturating_sub(ago) as u64)));
    }

    /// A leader's snapshot reaches a node that may not need it (any more).
    fn send_unasked(&mut self, to: NodeId) {
        if let Some(from) = self.cluster.leader().filter(|from| *from != to)
            && let Some(raft) = self.cluster.raft(from)
        {
            let term = raft.hard_state.term;
            self.cluster.cut_snapshot(from, to, Session(0), term);
            let place = self.cluster.transfers.len() - 1;
            let is_received = self.cluster.receive_snapshot(place);
            self.cluster.end_transfer(place, is_received);
        }
    }

    /// A snapshot arrives, maybe twice, maybe unknown to its sender, or it is lost.
    fn carry_snapshot(&mut self) {
        let under_way = self.cluster.transfers.len();
        if under_way == 0 {
            return;
        }
        let place = self.below(under_way);
        match self.below(6) {
            0 => self.cluster.end_transfer(place, false),
            1 => {
                self.cluster.receive_snapshot(place);
            }
            2 => {
                let is_received = self.cluster.receive_snapshot(place);
                let copy = self.cluster.transfers[place].clone();
                self.cluster.end_transfer(place, is_received);
                self.cluster.transfers.push(copy);
            }
            _ => {
                let is_received = self.cluster.receive_snapshot(place);
                self.cluster.end_transfer(place, is_received);
            }
        }
    }

    fn free_space(&mut self) {
        for id in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
            self.cluster.step(id, Event::SpaceFreed);
        }
    }

    /// Crashes a node, often one that leads; its state machine may fall back to an earlier checkpoint. It may be back at
    /// once, and start an election before any other node does.
    fn crash(&mut self, id: NodeId) {
        let id = self.cluster.leader().filter(|_| self.below(2) == 0).unwrap_or(id);
        self.cluster.crash(id);
        let (keeps_all, kept) = (self.below(3) > 0, self.below(100));
        let node = self.cluster.nodes.get_mut(&id).filter(|_| !keeps_all);
        if let Some(node) = node {
            let covered = usize::try_from(node.disk.covered.0).expect("a test's log is short");
            node.applied.truncate(kept.max(covered));
        }
        if self.below(2) == 0 {
            self.cluster.start(id);
        }
        if self.below(2) == 0 {
            self.cluster.timeout(id);
        }
    }

    fn deliver(&mut self) {
        for _ in 0..self.below(4) {
            let under_way = self.cluster.network.len();
            if under_way > 0 {
                let position = if self.below(8) == 0 { self.below(under_way) } else { 0 };
                self.cluster.deliver(position);
            }
        }
    }

    fn next_timer(&mut self) {
        let deadline = |id: &NodeId| self.cluster.raft(*id).map(|raft| (raft.next_deadline(), *id));
        if let Some((_, id)) = self.cluster.nodes.keys().filter_map(deadline).min() {
            self.cluster.timeout(id);
        }
    }

    fn propose(&mut self, id: NodeId) {
        if self.cluster.raft(id).is_some() {
            let mut commands = Vec::new();
            for _ in 0..=self.below(3) {
                self.writes += 1;
                commands.push(Bytes::from(format!("w{}", self.writes)));
            }
            let within = Duration::from_millis(50 + self.below(2000) as u64);
            self.cluster.propose(id, commands, within);
        }
    }

    fn read(&mut self, id: NodeId) {
        if self.cluster.raft(id).is_some() {
            let within = Duration::from_millis(50 + self.below(1000) as u64);
            let count = 1 + self.below(3);
            self.cluster.read(id, count, within);
        }
    }

    /// An administrator asks for other members: between one and five voters, now and then something that is refused.
    fn change(&mut self, id: NodeId) {
        let id = self.cluster.leader().filter(|_| self.below(8) > 0).unwrap_or(id);
        let Some(status) = self.cluster.raft(id).map(|raft| raft.status(self.cluster.now)) else { return };
        let Some(configuration) = status.configuration else { return };
        let mut change = Change::default();
        let mut voters = configuration.voters.len();
        let is_bold = self.below(10) == 0;
        for member in configuration.members().into_keys() {
            let is_voter = configuration.voters.contains_key(&member);
            match self.below(9) {
                0 => {
                    change.remove.push(member);
                    voters -= usize::from(is_voter);
                }
                1 if is_voter || is_bold => {
                    change.demote.push(member);
                    voters -= usize::from(is_voter);
                }
                2..5 if (!is_voter && voters < VOTERS_MAX) || is_bold => {
                    change.promote.push(member);
                    voters += 1;
                }
                _ => {}
            }
        }
        for _ in 0..self.below(3) {
            let learners = configuration.learners.len() + change.add.len();
            if voters + learners < VOTERS_MAX && self.cluster.nodes.len() < NODES_MAX {
                let new = NodeId(self.cluster.nodes.len() as u64 + 1);
                let hard_state = HardState::default();
                self.cluster.found(Founding {
                    id: new,
                    voters: None,
                    hard_state,
                    log: Vec::new(),
                    applied: 0,
                });
                change.add.push(new_member(new, self.below(4) == 0));
            }
        }
        let expected = (self.below(3) == 0).then_some(status.configuration_index);
        let within = Duration::from_millis(50 + self.below(2000) as u64);
        self.cluster.change(id, change, expected, within);
    }

    fn transfer(&mut self, id: NodeId) {
        let id = self.cluster.leader().filter(|_| self.below(8) > 0).unwrap_or(id);
        if self.cluster.raft(id).is_some() {
            let to = self.any_node();
            let to = (self.below(3) > 0).then_some(to);
            let within = Duration::from_millis(50 + self.below(2000) as u64);
            self.cluster.transfer(id, to, within);
        }
    }

    fn disk(&mut self, id: NodeId) {
        let choice = self.below(6);
        let Some(node) = self.cluster.nodes.get_mut(&id) else { return };
        match choice {
            0 => node.disk.is_held = true,
            1 => {
                node.disk.is_held = false;
                self.cluster.flush(id, usize::MAX);
            }
            _ => self.cluster.flush(id, choice),
        }
    }

    /// Loses a message; the sender may be told.
    fn lose(&mut self) {
        let under_way = self.cluster.network.len();
        if under_way > 0 {
            let position = self.below(under_way);
            let Envelope { from, to, .. } = self.cluster.network.remove(position);
            if self.below(3) == 0 {
                self.cluster.step(from, Event::SendDropped { to, unsent: Vec::new() });
            }
        }
    }

    /// Doubles a message, unless it forwards writes or answers that: those depend on a transport that does not repeat
    /// them, since neither the leader nor the follower would notice.
    fn double(&mut self) {
        let under_way = self.cluster.network.len();
        if under_way > 0 {
            let position = self.below(under_way);
            let copy = self.cluster.network[position].clone();
            if !matches!(trace::kind(&copy.message), "Forward" | "Forwarded") {
                self.cluster.network.push(copy);
            }
        }
    }

    /// The trouble ends: within some seconds there is a leader, everybody has been answered and holds the same log.
    fn recover(&mut self) -> Result<(), String> {
        let ids: Vec<NodeId> = self.cluster.nodes.keys().copied().collect();
        self.cluster.cuts.clear();
        for id in ids.clone() {
            self.cluster.start(id);
            if let Some(node) = self.cluster.nodes.get_mut(&id) {
                node.disk.is_held = false;
            }
            self.cluster.flush(id, usize::MAX);
        }
        self.free_space();
        self.cluster.stabilize();
        self.cluster.advance(Duration::from_secs(5), true);
        let before = self.cluster.history.committed();
        for id in ids.clone() {
            self.propose(id);
            self.read(id);
            self.cluster.stabilize();
        }
        self.cluster.advance(Duration::from_secs(3), true);
        if let Some(violation) = self.cluster.violation.take() {
            return Err(violation);
        }
        if self.cluster.leader().is_none() || self.cluster.history.committed() <= before {
            return Err("the cluster does not recover".to_owned());
        }
        if self.cluster.clients.is_waiting() || self.cluster.administrators.is_waiting() {
            return Err("a client waits forever".to_owned());
        }
        let leader = self.cluster.leader().and_then(|id| self.cluster.raft(id));
        let Some(configuration) = leader.and_then(|raft| raft.log.configuration()) else {
            return Err("the leader knows no members".to_owned());
        };
        if configuration.is_joint() {
            return Err("a change of members is never finished".to_owned());
        }
        let applied = |id: &NodeId| self.cluster.nodes[id].applied.len() as u64;
        if configuration.members().keys().any(|id| applied(id) != self.cluster.history.committed().0) {
            return Err("a node lags forever".to_owned());
        }
        Ok(())
    }
}
