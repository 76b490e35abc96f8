//! A cluster in virtual time: one queue of events, nodes that run the code that production runs, and the controls
//! by which faults or a script act on it. Everything is decided by the seed and the calls made.
//!
//! [`Cluster::step`] takes the next event. Scripts use the rest: cut links, crash, pause, time a node out, ask as
//! a client, and [`Cluster::run_until`] something holds; [`Trace::take`] then returns what happened.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::agenda::{Agenda, Event};
use super::churn::Churn;
use super::clients::{Clients, Ending};
use super::clock::Clock;
use super::disk::Disk;
use super::files::SimFiles;
use super::founding::{Directory, Founding, IDS};
use super::invariants::{Broken, Checked, Invariants};
use super::lies::Liar;
use super::network::Network;
use super::node::{Machine, Standing};
use super::random::Random;
use super::setup::Setup;
use super::state::SharedState;
use super::trace::{Happening, Trace};
use crate::kv::KeyValue;
use crate::raft::{AppendEntries, Configuration, Entry, HardState, Member, Payload, RoleName, Status};
use crate::storage::wal::{Options, Owner, Wal};
use crate::types::{ClusterId, Instant, IoId, LogIndex, LogTime, NodeId, Session, Term};

/// Where a node keeps its log.
pub(super) const DIRECTORY: &str = "/wal";
/// The cluster that has been formed already.
pub(super) const CLUSTER: ClusterId = ClusterId(1);

/// A rule was broken: what and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The simulation's time.
    pub at: Instant,
    /// Which rule, and how.
    pub broken: Broken,
}

/// Nodes, network, clients, and what is known of them.
pub struct Cluster {
    pub(super) setup: Setup,
    pub(super) now: Instant,
    agenda: Agenda,
    pub(super) machines: Vec<Machine>,
    /// Links between nodes.
    pub network: Network,
    /// Clients and their history.
    pub clients: Clients,
    /// What is checked at every step.
    pub invariants: Invariants,
    /// What happened.
    pub trace: Trace,
    pub(super) random: Random,
    violation: Option<Violation>,
    pub(super) founding: Founding,
    pub(super) churn: Churn,
    /// A member that lies, if there is one.
    pub(super) liar: Option<Liar>,
    /// There was one: what nodes think implausible is no fault of theirs.
    pub(super) had_liar: bool,
    /// Nothing goes wrong by itself any more.
    pub(super) is_calm: bool,
    events: u64,
    /// Clients ask by themselves.
    pub(super) clients_run: bool,
    /// Of a thousand answers to clients, how many are lost.
    pub(super) lost_replies: u32,
}

impl Cluster {
    /// A cluster whose nodes start now; it has just been formed, or they have to.
    ///
    /// # Panics
    /// Never for 1 to 7 nodes: an empty disk takes a new log.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let seed = setup.seed;
        let ids: Vec<NodeId> = (1..=setup.nodes as u64).map(NodeId).collect();
        let first = (!setup.founds).then(|| founding_record(&founders(&ids[..setup.voters])));
        let machines = ids.iter().map(|id| new_machine(*id, &setup, first.as_ref())).collect();
        let churn = Churn::new(Random::new(seed, 9), setup.churn);
        let mut cluster = Self {
            now: Instant(0),
            agenda: Agenda::default(),
            machines,
            network: Network::new(setup.nodes, Random::new(seed, 2), setup.network),
            clients: Clients::new(setup.clients, setup.workload, Random::new(seed, 3)),
            invariants: Invariants::new(ids, first.as_ref()),
            trace: Trace::default(),
            random: Random::new(seed, 4),
            violation: None,
            founding: Founding::new(setup.nodes),
            churn,
            liar: None,
            had_liar: false,
            is_calm: false,
            events: 0,
            clients_run: true,
            lost_replies: 0,
            setup,
        };
        for node in 0..cluster.setup.voters {
            cluster.start(node);
        }
        if cluster.setup.founds {
            cluster.begin_founding();
        }
        for client in 0..cluster.clients.automatic() {
            cluster.think(client);
        }
        cluster.plan_administration();
        cluster
    }

    /// The simulation's time, in microseconds since its begin.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What the cluster is made of.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Events taken so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The first rule that was broken, if one was.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// When the next event comes.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        self.agenda.next_at()
    }

    /// Takes the next event. False if there is none.
    pub fn step(&mut self) -> bool {
        let Some((at, event)) = self.agenda.take() else { return false };
        self.now = self.now.max(at);
        self.events += 1;
        self.dispatch(event);
        true
    }

    /// Goes on until `until`, all events at that time included, or until a rule is broken.
    pub fn run_to(&mut self, until: Instant) {
        while self.violation.is_none() && self.next_at().is_some_and(|at| at <= until) {
            self.step();
        }
        if self.violation.is_none() {
            self.now = self.now.max(until);
        }
    }

    /// Goes on until `holds` says true, at most to `limit`. Whether it held.
    pub fn run_until(&mut self, limit: Instant, holds: impl Fn(&Self) -> bool) -> bool {
        while self.violation.is_none() {
            if holds(self) {
                return true;
            }
            if self.next_at().is_none_or(|at| at > limit) {
                self.now = self.now.max(limit);
                return false;
            }
            self.step();
        }
        false
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, ids, message } => self.deliver(from, to, ids, message),
            Event::Request { node, token } => self.on_request(node, token),
            Event::Reply { token, ending } => self.on_reply(token, ending),
            Event::GiveUp { token } => self.on_reply(token, Ending::Unknown),
            Event::Think { client } => self.on_think(client),
            Event::Administer => self.administer(),
            Event::AdminRequest { node, request, ask } => self.on_admin_request(node, request, *ask),
            Event::ComeBack { node, id } => self.come_back(node, id),
            Event::DiskSpace { node, free_bytes } => self.on_disk_space(node, free_bytes),
            Event::Restart { node } => self.restart_planned(node),
            Event::Founding { node, incarnation, step } => self.on_founding(node, incarnation, step),
            Event::Rpc { from, to, rpc } => self.on_rpc(from, to, rpc),
            Event::SnapshotSaid { from, incarnation, to, ids, asked, said } => {
                self.on_snapshot_said((from, incarnation), to, ids, asked, said);
            }
            Event::SendDropped { node, incarnation, .. }
            | Event::Turn { node, incarnation }
            | Event::Timer { node, incarnation }
            | Event::LogDone { node, incarnation }
            | Event::ApplyDone { node, incarnation }
            | Event::Checkpoint { node, incarnation }
            | Event::PreparationFailed { node, incarnation, .. }
            | Event::Started { node, incarnation }
            | Event::Checkpointed { node, incarnation, .. }
            | Event::SnapshotHeard { node, incarnation, .. }
            | Event::ReadStore { node, incarnation, .. } => {
                let machine = &self.machines[node];
                if machine.incarnation != incarnation || machine.process.is_none() {
                    return;
                }
                let until = machine.paused_until;
                if until > self.now {
                    self.add(until, event);
                } else {
                    self.dispatch_to(node, event);
                }
            }
        }
    }

    fn dispatch_to(&mut self, node: usize, event: Event) {
        match event {
            Event::SendDropped { to, .. } => self.on_send_dropped(node, to),
            Event::Turn { .. } => self.on_turn(node),
            Event::Timer { .. } => self.on_timer(node),
            Event::LogDone { .. } => self.on_log_done(node),
            Event::ApplyDone { .. } => self.on_apply_done(node),
            Event::Checkpoint { .. } => self.on_checkpoint(node),
            Event::PreparationFailed { why, .. } => self.halt(node, &why),
            Event::Started { .. } => self.on_started(node),
            Event::ReadStore { token, .. } => self.on_read_store(node, token),
            Event::Checkpointed { position, .. } => self.on_checkpointed(node, position),
            Event::SnapshotHeard { id, asked, heard, .. } => {
                self.on_snapshot_heard(node, id, asked, heard);
            }
            _ => unreachable!("not an event of a process"),
        }
    }

    pub(super) fn add(&mut self, at: Instant, event: Event) {
        self.agenda.add(at.max(self.now), event);
    }

    pub(super) fn add_in(&mut self, micros: u64, event: Event) {
        self.agenda.add(Instant(self.now.0 + micros), event);
    }

    /// Keeps the first rule that was broken.
    pub(super) fn check(&mut self, checked: Checked) {
        if let Err(broken) = checked
            && self.violation.is_none()
        {
            self.violation = Some(Violation { at: self.now, broken });
        }
    }

    /// Reports what only the one who drives the cluster can see.
    pub fn report(&mut self, rule: &'static str, what: String) {
        self.check(Err(Broken { rule, what }));
    }

    pub(super) fn index_of(id: NodeId) -> usize {
        usize::try_from((id.0 - 1) % IDS).expect("nodes are numbered from 1")
    }

    /// Notes something done from outside.
    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        self.trace.note(self.now, [99, 0, 0], || Happening::Fault { what: what() });
    }

    /// A running node's consensus state.
    #[must_use]
    pub fn status(&self, node: usize) -> Option<Status> {
        let machine = &self.machines[node];
        let process = machine.process.as_ref().filter(|process| process.runs)?;
        Some(process.core.raft().status(machine.clock.local(self.now)))
    }

    /// Last index that a running node has applied.
    #[must_use]
    pub fn applied(&self, node: usize) -> Option<LogIndex> {
        self.machines[node].process.as_ref().map(|process| process.applied())
    }

    /// A digest of a running node's state.
    #[must_use]
    pub fn state_hash(&self, node: usize) -> Option<u64> {
        self.machines[node].process.as_ref().map(|process| process.store().hash())
    }

    /// What a running node's state holds under a key now.
    #[must_use]
    pub fn value(&self, node: usize, key: &[u8]) -> Option<KeyValue> {
        self.machines[node].process.as_ref()?.store().get(key).cloned()
    }

    /// Whether a node runs.
    #[must_use]
    pub fn is_running(&self, node: usize) -> bool {
        self.machines[node].process.as_ref().is_some_and(|process| process.runs)
    }

    /// Whether a node's disk was found damaged, so that it stays out.
    #[must_use]
    pub fn is_lost(&self, node: usize) -> bool {
        self.machines[node].standing == Standing::Damaged
    }

    /// The running leader of the highest term.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let led = |node| self.status(node).filter(|status| status.role == RoleName::Leader);
        (0..self.machines.len()).filter_map(|node| Some((led(node)?.term, node))).max().map(|(_, node)| node)
    }

    /// Whether a bit of a node's disk was changed, or all of it lost.
    #[must_use]
    pub fn is_flipped(&self, node: usize) -> bool {
        self.machines[node].flipped || self.machines[node].directory.was_emptied
    }

    /// Whether all members that run follow one leader that a majority answers.
    #[must_use]
    pub fn is_led(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let id = self.machines[leader].id;
        let follows = |node: &usize| self.status(*node).is_some_and(|status| status.leader == Some(id));
        self.status(leader).is_some_and(|status| status.has_quorum)
            && self.running_members(leader).iter().all(follows)
    }

    /// The members that have a process, as far as `node` knows.
    #[must_use]
    pub fn running_members(&self, node: usize) -> Vec<usize> {
        let known = self.status(node).and_then(|status| status.configuration);
        let is_member = |id| known.as_ref().is_some_and(|known| known.member(id).is_some());
        let runs = |node: &usize| {
            let machine = &self.machines[*node];
            machine.process.is_some() && is_member(machine.id)
        };
        (0..self.machines.len()).filter(runs).collect()
    }

    /// Whether nobody asks anything, and all members that run have applied all that the leader's log holds.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let Some(last) = self.status(leader).map(|status| status.last_log_index) else { return false };
        let is_idle = (0..=self.clients.automatic()).all(|client| !self.clients.is_asking(client));
        is_idle && self.running_members(leader).iter().all(|node| self.applied(*node) == Some(last))
    }

    /// The nodes' states in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let of = |node: usize| match self.status(node) {
            Some(status) => format!(
                "n{} {} term {} last {} commit {} applied {}",
                node + 1,
                status.role.as_str(),
                status.term,
                status.last_log_index,
                status.commit_index,
                self.applied(node).unwrap_or_default()
            ),
            None => format!("n{} down", node + 1),
        };
        (0..self.machines.len()).map(of).collect::<Vec<_>>().join("; ")
    }
}

fn founders(ids: &[NodeId]) -> Configuration {
    let member =
        |id: &NodeId| (*id, Member { name: format!("n{}", id.0), session: Session(1), ..Member::default() });
    Configuration { voters: ids.iter().map(member).collect::<BTreeMap<_, _>>(), ..Configuration::default() }
}

/// As the server writes it: the configuration, as if a leader of term 1 had sent it.
pub(super) fn founding_record(configuration: &Configuration) -> AppendEntries {
    let payload = Payload::Configuration(Arc::new(configuration.clone()));
    AppendEntries {
        io: IoId(0),
        truncate_from: None,
        hard_state: HardState { term: Term(1), voted_for: None },
        commit_index: LogIndex(0),
        entries: vec![Entry { term: Term(1), index: LogIndex(1), time: LogTime(0), payload }],
    }
}

/// With a log that holds `first`, or an empty directory.
fn new_machine(id: NodeId, setup: &Setup, first: Option<&AppendEntries>) -> Machine {
    let mut random = Random::new(setup.seed, 16 + id.0);
    let files = SimFiles::new(Disk::new(Random::new(setup.seed, 32 + id.0), setup.disk));
    let is_spare = id.0 > setup.voters as u64;
    let first = first.filter(|_| !is_spare);
    if first.is_some() {
        let owner = Owner { node_id: id, cluster_id: CLUSTER };
        let log = Wal::create(files.clone(), Path::new(DIRECTORY), owner, options(setup), first);
        drop(log.expect("a new disk takes a new log"));
    }
    let end = files.disk().end();
    files.disk().begin(end);
    let mut clock = Clock::new(Instant(random.below(1 << 40)));
    if let Some(paces) = setup.paces {
        clock.set_rate(Instant(0), random.pick(&paces));
    }
    Machine {
        id,
        files,
        state: SharedState::default(),
        clock,
        random,
        directory: first.map_or_else(Directory::default, |_| Directory::of(CLUSTER)),
        process: None,
        founder: None,
        incarnation: 0,
        paused_until: Instant(0),
        fuse: None,
        flipped: false,
        spoiled: false,
        free_bytes: u64::MAX,
        standing: if is_spare { Standing::Unused } else { Standing::Fit },
        holds_elections: false,
    }
}

pub(super) fn options(setup: &Setup) -> Options {
    Options { segment_bytes: setup.segment_bytes, rules: setup.planted().into() }
}
