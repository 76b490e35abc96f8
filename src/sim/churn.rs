//! Members come and go: an administrator adds spare nodes, removes, promotes, demotes and replaces members, and
//! transfers leadership; nodes that were removed end, and some come back with their old disks.
//!
//! The administrator knows what a careful one cannot know: which disks are gone. It asks for nothing that leaves
//! voters without a majority of intact disks, and no fault takes a disk that such a majority needs; else a cluster
//! could rightly stop permanently.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::agenda::Event;
use super::cluster::{CLUSTER, Cluster, DIRECTORY, options};
use super::disk::{Crash, Disk};
use super::files::SimFiles;
use super::founding::{Directory, IDS};
use super::node::Standing;
use super::random::Random;
use super::state::SharedState;
use super::trace::Happening;
use crate::plant::Plant;
use crate::raft::{self, AdminRefusal, Change, Configuration, NewMember, RoleName};
use crate::storage::wal::{Owner, Wal};
use crate::types::{Instant, LogIndex, NodeId, RequestId};

/// How long an administrator waits, in milliseconds.
const PATIENCE: [u64; 3] = [200, 1000, 5000];

/// The administrator.
pub(super) struct Churn {
    random: Random,
    /// Mean time between two requests, in microseconds.
    mean: Option<u64>,
    next: u64,
    /// Changes that may still be made: at which node, and what.
    under_way: BTreeMap<RequestId, (usize, Change)>,
}

/// What the administrator asks for.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    what: What,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum What {
    Change { change: Change, expected: Option<LogIndex> },
    Transfer(Option<NodeId>),
}

impl Ask {
    pub(super) fn event(self, request: RequestId, now: Instant) -> raft::Event {
        let deadline = now.after(self.timeout);
        match self.what {
            What::Change { change, expected } => {
                raft::Event::ChangeMembers { request, change, expected, deadline }
            }
            What::Transfer(to) => raft::Event::TransferLeadership { request, to, deadline },
        }
    }
}

impl Churn {
    pub(super) fn new(random: Random, mean: Option<u64>) -> Self {
        Self { random, mean, next: 0, under_way: BTreeMap::new() }
    }

    /// A node's process ended, and with it what it was asked for.
    pub(super) fn forget(&mut self, node: usize) {
        self.under_way.retain(|_, (at, _)| *at != node);
    }
}

impl Cluster {
    /// Members stay as they are from now on, but for what was begun, and transfers no longer break by themselves.
    pub fn calm_down(&mut self) {
        self.churn.mean = None;
        self.is_calm = true;
    }

    pub(super) fn plan_administration(&mut self) {
        if let Some(mean) = self.churn.mean {
            let wait = self.churn.random.around(mean);
            self.add_in(wait, Event::Administer);
        }
    }

    /// Asks for something.
    pub(super) fn administer(&mut self) {
        self.plan_administration();
        if self.churn.mean.is_none() {
            return;
        }
        let running: Vec<usize> = (0..self.machines.len()).filter(|node| self.is_running(*node)).collect();
        let leads = |node: &usize| self.status(*node).is_some_and(|status| status.role == RoleName::Leader);
        let leaders: Vec<usize> = running.iter().copied().filter(leads).collect();
        let asked = if leaders.is_empty() || self.churn.random.chance(50) { running } else { leaders };
        if asked.is_empty() {
            return;
        }
        let node = self.churn.random.pick(&asked);
        let Some(status) = self.status(node) else { return };
        let Some(configuration) = status.configuration else { return };
        let Some(what) = self.draw(&configuration, status.configuration_index) else { return };
        self.churn.next += 1;
        let request = RequestId(self.churn.next);
        if let What::Change { change, .. } = &what {
            self.churn.under_way.insert(request, (node, change.clone()));
        }
        let timeout = Duration::from_millis(self.churn.random.pick(&PATIENCE));
        self.note_admin(|| format!("the administrator asks n{}: {what:?}", node + 1));
        let wait = self.churn.random.around(200);
        self.add_in(wait, Event::AdminRequest { node, request, ask: Box::new(Ask { what, timeout }) });
    }

    fn note_admin(&mut self, what: impl FnOnce() -> String) {
        self.trace.note(self.now, [40, self.churn.next, 0], || Happening::Fault { what: what() });
    }

    pub(super) fn on_admin_request(&mut self, node: usize, request: RequestId, ask: Ask) {
        match self.machines[node].process.as_mut().filter(|process| process.runs) {
            Some(process) => process.admin.push_back((request, ask)),
            None => drop(self.churn.under_way.remove(&request)),
        }
        self.wake(node);
    }

    pub(super) fn on_admin_reply(
        &mut self,
        node: usize,
        request: RequestId,
        result: &Result<LogIndex, AdminRefusal>,
    ) {
        let change = self.churn.under_way.remove(&request);
        if let (Some(_), Ok(index)) = (change, result) {
            let checked = self.invariants.changed(node, *index);
            self.check(checked);
        }
        self.note_admin(|| format!("n{} answers the administrator: {result:?}", node + 1));
    }

    /// A node learns that it is a member no longer: its process ends, and its disk is set aside. Some are taken for
    /// dead, and started again as they were.
    pub(super) fn on_removed(&mut self, node: usize) {
        let checked = self.invariants.told_removed(node);
        self.check(checked);
        self.end_process(node, Crash::Killed, "it was removed");
        self.machines[node].standing = Standing::Removed;
        if self.churn.random.chance(400) {
            let (wait, id) = (self.churn.random.around(500_000), self.machines[node].id);
            self.add_in(wait, Event::ComeBack { node, id });
        }
    }

    pub(super) fn come_back(&mut self, node: usize, id: NodeId) {
        let machine = &mut self.machines[node];
        if machine.standing == Standing::Removed && machine.id == id && machine.process.is_none() {
            machine.standing = Standing::Fit;
            self.note_admin(|| format!("n{} comes back as it was", node + 1));
            self.start(node);
        }
    }

    // --- the end of a scale-down

    /// Asks a leader to remove everybody else.
    pub(super) fn ask_to_be_alone(&mut self, leader: usize) {
        let Some(configuration) = self.status(leader).and_then(|status| status.configuration) else { return };
        let own = self.machines[leader].id;
        let remove = configuration.members().into_keys().filter(|id| *id != own).collect();
        let what = What::Change { change: Change { remove, ..Change::default() }, expected: None };
        self.churn.next += 1;
        let request = RequestId(self.churn.next);
        self.note_admin(|| format!("the administrator asks n{}: {what:?}", leader + 1));
        let ask = Box::new(Ask { what, timeout: Duration::from_secs(5) });
        self.add_in(200, Event::AdminRequest { node: leader, request, ask });
    }

    /// Whether a leader is the only member in the newest configuration that it has, which no other decides with.
    #[must_use]
    pub(super) fn is_left_alone(&self, leader: usize) -> bool {
        let configuration = self.status(leader).and_then(|status| status.configuration);
        configuration
            .is_some_and(|configuration| !configuration.is_joint() && configuration.members().len() == 1)
    }

    /// Stops all nodes but one at once and for good, as pods that are scaled away: none hears of its removal.
    pub(super) fn stop_others(&mut self, stays: usize) {
        for node in (0..self.machines.len()).filter(|node| *node != stays) {
            if self.machines[node].process.is_some() {
                self.end_process(node, Crash::Killed, "it is scaled away");
                self.machines[node].standing = Standing::Removed;
            }
        }
    }

    // --- what is asked for

    fn draw(&mut self, configuration: &Configuration, index: LogIndex) -> Option<What> {
        let members: Vec<NodeId> = configuration.members().into_keys().collect();
        let mut change = Change::default();
        match self.churn.random.below(12) {
            0..=2 => self.draw_addition(configuration, &mut change)?,
            3 => self.draw_replacement(configuration, &mut change)?,
            4..=6 => {
                let most = if self.churn.random.chance(700) { 1 } else { 3 };
                self.draw_removals(&members, most, &mut change);
            }
            7 => change.promote.push(self.churn.random.pick(&members)),
            8 => change.demote.push(self.churn.random.pick(&members)),
            9 => {
                // Several things in one.
                self.draw_removals(&members, 2, &mut change);
                let _ = self.draw_addition(configuration, &mut change);
                let learners: Vec<NodeId> = configuration.learners.keys().copied().collect();
                if !learners.is_empty() {
                    change.promote.push(self.churn.random.pick(&learners));
                }
            }
            10 if !configuration.removed.is_empty() => {
                let removed: Vec<NodeId> = configuration.removed.keys().copied().collect();
                let id = self.churn.random.pick(&removed);
                change.add.push(new_member(id, false));
            }
            _ => {
                let to = self.churn.random.pick(&members);
                return Some(What::Transfer(self.churn.random.chance(600).then_some(to)));
            }
        }
        if !self.leaves_majorities(None, Some(&change)) {
            return None;
        }
        let expected = self.churn.random.chance(300).then_some(index);
        Some(What::Change { change, expected })
    }

    fn draw_removals(&mut self, members: &[NodeId], most: usize, change: &mut Change) {
        let random = &mut self.churn.random;
        let picked: BTreeSet<NodeId> = (0..=random.index(most)).map(|_| random.pick(members)).collect();
        change.remove.extend(picked);
    }

    /// Adds a node that is no member, as it is if it may be, or with an emptied disk.
    fn draw_addition(&mut self, configuration: &Configuration, change: &mut Change) -> Option<()> {
        let is_free = |node: &usize| {
            let id = self.machines[*node].id;
            configuration.member(id).is_none() && self.leaves_majorities(Some(*node), None)
        };
        let free: Vec<usize> = (0..self.machines.len()).filter(is_free).collect();
        if free.is_empty() {
            return None;
        }
        let node = self.churn.random.pick(&free);
        let machine = &self.machines[node];
        let is_used = machine.standing != Standing::Fit || configuration.removed.contains_key(&machine.id);
        if is_used || self.churn.random.chance(200) {
            self.provision(node);
        }
        let stays_learner = self.churn.random.chance(150);
        change.add.push(new_member(self.machines[node].id, stays_learner));
        Some(())
    }

    /// A member's disk is lost; it gets an empty one, and joins as another node. The old one is removed in the same
    /// change, or was or will be in another.
    fn draw_replacement(&mut self, configuration: &Configuration, change: &mut Change) -> Option<()> {
        let is_member = |node: &usize| configuration.member(self.machines[*node].id).is_some();
        let members: Vec<usize> = (0..self.machines.len()).filter(is_member).collect();
        let can_go = |node: &usize| self.leaves_majorities(Some(*node), None);
        let can_go: Vec<usize> = members.into_iter().filter(can_go).collect();
        if can_go.is_empty() {
            return None;
        }
        let node = self.churn.random.pick(&can_go);
        let old = self.machines[node].id;
        self.provision(node);
        let new = self.machines[node].id;
        change.remove.push(old);
        if self.churn.random.chance(750) {
            change.add.push(new_member(new, false));
        }
        Some(())
    }

    /// Empties a node's disk, which makes it another node, and starts it: it waits to be made a member.
    fn provision(&mut self, node: usize) {
        self.end_process(node, Crash::PowerLost, "its disk is emptied");
        self.invariants.lost(node);
        let seed = self.churn.random.next_u64();
        let machine = &mut self.machines[node];
        if !self.setup.planted().is(Plant::WipedDiskSameId) || machine.standing == Standing::Removed {
            machine.id = NodeId(machine.id.0 + IDS);
        }
        let id = machine.id;
        let files = SimFiles::new(Disk::new(Random::new(seed, 0), self.setup.disk));
        let owner = Owner { node_id: id, cluster_id: CLUSTER };
        let log = Wal::create(files.clone(), Path::new(DIRECTORY), owner, options(&self.setup), None);
        drop(log.expect("a new disk takes a new log"));
        // It was made ready before anybody counts on it.
        files.disk().begin(self.now);
        machine.files = files;
        machine.state = SharedState::default();
        machine.directory = Directory::of(CLUSTER);
        machine.directory.was_opened = false;
        (machine.flipped, machine.standing) = (false, Standing::Fit);
        let wait = self.churn.random.between(1000, 100_000);
        self.note_admin(|| format!("n{} has an empty disk, and is node {id}", node + 1));
        self.add_in(wait, Event::Restart { node });
    }

    // --- what may be lost

    /// Whether a majority of intact disks is left to all voters that decide or may come to, if the disk of `without` is
    /// lost and `change` is asked for.
    fn leaves_majorities(&self, without: Option<usize>, change: Option<&Change>) -> bool {
        let without: BTreeSet<usize> = without.into_iter().collect();
        self.leaves_majorities_to(&without, change)
    }

    /// Whether the cluster bears the loss of a node's disk.
    #[must_use]
    pub fn may_lose(&self, node: usize) -> bool {
        self.leaves_majorities(Some(node), None)
    }

    /// Whether the cluster can serve without these nodes.
    #[must_use]
    pub fn can_do_without(&self, nodes: &BTreeSet<usize>) -> bool {
        self.leaves_majorities_to(nodes, None)
    }

    fn leaves_majorities_to(&self, without: &BTreeSet<usize>, change: Option<&Change>) -> bool {
        let intact: BTreeSet<NodeId> = (0..self.machines.len())
            .filter(|node| !without.contains(node) && !self.is_flipped(*node))
            .map(|node| self.machines[node].id)
            .collect();
        let asked: Vec<&Change> =
            self.churn.under_way.values().map(|(_, change)| change).chain(change).collect();
        let leaves = |change: &&Change| change.remove.iter().chain(&change.demote).copied().collect();
        let mut leaving: Vec<BTreeSet<NodeId>> = asked.iter().map(leaves).collect();
        leaving.push(BTreeSet::new());
        leaving.push(leaving.iter().flatten().copied().collect());
        let has_majority = |voters: &BTreeSet<NodeId>| {
            voters.iter().filter(|id| intact.contains(id)).count() > voters.len() / 2
        };
        self.invariants.open_configurations().iter().all(|configuration| {
            let voters: BTreeSet<NodeId> = configuration.voters.keys().copied().collect();
            let outgoing: BTreeSet<NodeId> = configuration.outgoing.keys().copied().collect();
            // Learners may become voters; the worst is that those do whose disks are gone.
            let gone = configuration.learners.keys().filter(|id| !intact.contains(id));
            let grown: BTreeSet<NodeId> = voters.iter().chain(gone).copied().collect();
            let sets =
                [&voters, &grown].into_iter().flat_map(|all| leaving.iter().map(move |leave| all - leave));
            (outgoing.is_empty() || has_majority(&outgoing)) && sets.into_iter().all(|set| has_majority(&set))
        })
    }

    /// Whether no change is open, and every learner that may be a voter and runs is one.
    #[must_use]
    pub fn members_are_settled(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let Some(status) = self.status(leader) else { return false };
        let Some(configuration) = status.configuration else { return false };
        let running = self.running_members(leader);
        let waits = |node: &usize| {
            let learner = configuration.learners.get(&self.machines[*node].id);
            learner.is_some_and(|learner| !learner.stays_learner)
        };
        let is_open = status.change_in_progress || self.setup.raft.promotion && running.iter().any(waits);
        !is_open
    }
}

fn new_member(id: NodeId, stays_learner: bool) -> NewMember {
    let name = format!("n{}", Cluster::index_of(id) + 1);
    NewMember { id, name, peer_addr: None, stays_learner }
}
