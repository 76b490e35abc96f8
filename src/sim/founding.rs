//! How a cluster comes to be: nodes with empty directories ask each other, decide as [`membership`] says, and do
//! what was decided as `transport` does, until each belongs to a cluster and starts. Meanwhile questions and
//! invitations are lost or late, processes end between any two steps, and directories are emptied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::agenda::Event;
use super::cluster::{Cluster, DIRECTORY, founding_record, options};
use super::disk::{Crash, Disk};
use super::files::SimFiles;
use super::network::Fate;
use super::random::Random;
use super::trace::Happening;
use crate::membership::{
    self, Decision, Formed, HelloAnswer, InitialCluster, InitialMember, Intent, Invitation, JoinPolicy,
    Local, Standing,
};
use crate::plant::Plant;
use crate::raft::{Configuration, Status};
use crate::storage::StorageError;
use crate::storage::wal::{Owner, Wal};
use crate::types::{ClusterId, Instant, NodeId};

/// How long answers are waited for, and the pause between two rounds, in microseconds.
const ANSWERS_WITHIN: u64 = 100_000;
const INTERVAL: u64 = 100_000;
/// A node whose directory is emptied gets its next id: so far from the one before.
pub(super) const IDS: u64 = 8;

/// What is known of the forming of a cluster, from outside.
pub(super) struct Founding {
    initial: InitialCluster,
    /// The newest intent of each founder, from when it is durable and others may be told.
    intents: BTreeMap<NodeId, Intent>,
    /// Questions and invitations are lost or late.
    pub(super) is_rough: bool,
    /// Whoever forms first loses its directory as soon as it has invited the others, and forms again.
    former_falls: bool,
    /// It has: what it formed may be known to one disk alone, and be lost permanently with that.
    former_fell: bool,
    /// A node that takes itself for the founder until then: its list is corrected late.
    misled: Option<(usize, Instant)>,
}

impl Founding {
    pub(super) fn new(nodes: usize) -> Self {
        let member = |node| InitialMember { name: name(node), address: format!("{}:1", name(node)) };
        let initial = InitialCluster::new((0..nodes).map(member).collect());
        Self {
            initial: initial.expect("different names"),
            intents: BTreeMap::new(),
            is_rough: true,
            former_falls: false,
            former_fell: false,
            misled: None,
        }
    }
}

/// What a data directory holds in addition to log and state.
#[derive(Default)]
pub(super) struct Directory {
    pub(super) standing: Standing,
    /// On its way to the disk: when that begins and ends, and what it takes the place of.
    saving: Option<(Instant, Instant, Standing)>,
    /// The log was opened: the node has run as a member.
    pub(super) was_opened: bool,
    pub(super) was_emptied: bool,
}

impl Directory {
    /// The directory of a member.
    pub(super) fn of(cluster_id: ClusterId) -> Self {
        let standing = Standing::Member(Formed { cluster_id, configuration: None });
        Self { standing, was_opened: true, ..Self::default() }
    }

    fn save(&mut self, standing: Standing, begun: Instant, done_at: Instant) {
        let before = std::mem::replace(&mut self.standing, standing);
        self.saving = Some((begun, done_at, before));
    }

    /// The process ended at `now`: what was not durable may be there or not; what had not begun is not.
    pub(super) fn crash(&mut self, now: Instant, random: &mut Random) {
        if let Some((begun, done_at, before)) = self.saving.take()
            && (begun > now || (done_at > now && random.chance(500)))
        {
            self.standing = before;
        }
    }
}

/// A process that does not belong to a cluster yet.
#[derive(Default)]
pub(super) struct Founder {
    newest_nonce: Option<u64>,
    /// Number of the round of questions.
    round: u64,
    answers: BTreeMap<String, HelloAnswer>,
    /// Something is made durable until then; a node that asks waits.
    busy_until: Instant,
}

/// What a founder does next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Ask,
    Decide {
        round: u64,
    },
    Saved,
    /// The directory is emptied.
    Empty,
}

/// What nodes say to each other while a cluster is formed.
#[derive(Clone, Debug)]
pub(super) enum Rpc {
    Hello { asker: NodeId, incarnation: u64, round: u64, forming: bool },
    Answer { incarnation: u64, round: u64, answer: HelloAnswer },
    Form { target: NodeId, nonce: u64, offered: Formed },
}

fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

impl Cluster {
    /// Whether what the first founder began may be known to one disk alone: no node can continue without that.
    pub(super) fn rests_on_one_disk(&self) -> bool {
        self.founding.former_fell && !self.is_formed()
    }

    /// Lets all nodes start with empty directories, some of which are emptied again.
    pub(super) fn begin_founding(&mut self) {
        if self.random.chance(500) {
            let (node, until) = (self.random.index(self.machines.len()), self.random.below(3_000_000));
            self.founding.misled = Some((node, Instant(self.now.0 + until)));
        }
        self.founding.former_falls = self.random.chance(500);
        if self.founding.former_falls {
            return;
        }
        for _ in 0..self.random.index(4) {
            let (node, wait) = (self.random.index(self.machines.len()), self.random.below(500_000));
            self.add_in(wait, Event::Founding { node, incarnation: 0, step: Step::Empty });
        }
    }

    /// Whether every node that runs or may run belongs to one cluster and knows its members, or has to stay out of it
    /// permanently. Before, the founder's configuration may be on fewer than a majority of the disks.
    #[must_use]
    pub fn is_formed(&self) -> bool {
        let members = |node: &usize| self.machines[*node].process.is_some();
        let Some(member) = (0..self.machines.len()).find(members) else { return false };
        let Some(founders) = self.status(member).and_then(|status| status.configuration) else {
            return false;
        };
        self.machines.iter().enumerate().all(|(node, machine)| {
            let knows = |status: Status| status.configuration.is_some();
            self.status(node).is_some_and(knows) || self.is_lost(node) || !founders.is_voter(machine.id)
        })
    }

    /// Whether a node is not in the cluster, and asks to be.
    #[must_use]
    pub fn is_outside(&self, node: usize) -> bool {
        self.machines[node].founder.is_some()
    }

    /// Questions and invitations are no longer lost or late.
    pub fn calm_founding(&mut self) {
        self.founding.is_rough = false;
    }

    fn local(&self, node: usize) -> Local {
        Local {
            node_id: self.machines[node].id,
            name: name(node),
            client_addr: String::new(),
            peer_addr: None,
        }
    }

    /// The list that a node was started with.
    fn list(&self, node: usize) -> InitialCluster {
        let initial = &self.founding.initial;
        if self.founding.misled.is_none_or(|(misled, until)| misled != node || until <= self.now) {
            return initial.clone();
        }
        let mut members = initial.members().to_vec();
        members.rotate_left(node);
        InitialCluster::new(members).expect("the same names").founded_by_first()
    }

    fn tell_founding(&mut self, node: usize, what: impl FnOnce() -> String) {
        self.trace.note(self.now, [30, node as u64, 0], || Happening::Fault { what: what() });
    }

    /// The cluster that the directory is a member's of. A log without a record of it is left by a node that ended in
    /// between.
    pub(super) fn settle_directory(&mut self, node: usize) -> Result<Option<ClusterId>, StorageError> {
        let machine = &mut self.machines[node];
        if let Standing::Member(formed) = &machine.directory.standing {
            return Ok(Some(formed.cluster_id));
        }
        let directory = Path::new(DIRECTORY);
        if !Wal::exists(&machine.files, directory)? {
            return Ok(None);
        }
        let cluster_id = Wal::owner(&machine.files, directory)?.cluster_id;
        machine.directory.standing = Standing::Member(Formed { cluster_id, configuration: None });
        Ok(Some(cluster_id))
    }

    pub(super) fn start_founder(&mut self, node: usize) {
        self.machines[node].founder = Some(Box::default());
        self.tell_founding(node, || format!("n{} asks who forms a cluster", node + 1));
        self.plan_step(node, 1000, Step::Ask);
    }

    fn plan_step(&mut self, node: usize, micros: u64, step: Step) {
        let incarnation = self.machines[node].incarnation;
        self.add_in(micros, Event::Founding { node, incarnation, step });
    }

    pub(super) fn on_founding(&mut self, node: usize, incarnation: u64, step: Step) {
        let machine = &self.machines[node];
        if matches!(step, Step::Empty) {
            self.empty_directory(node);
            return;
        }
        let Some(founder) = machine.founder.as_ref().filter(|_| machine.incarnation == incarnation) else {
            return;
        };
        let until = machine.paused_until.max(founder.busy_until);
        if until > self.now {
            self.add(until, Event::Founding { node, incarnation, step });
            return;
        }
        match step {
            Step::Ask => self.ask_all(node),
            Step::Decide { round } if round == founder.round => self.decide(node),
            Step::Saved if matches!(machine.directory.standing, Standing::Member(_)) => {
                self.machines[node].directory.saving = None;
                self.machines[node].founder = None;
                self.check_one_cluster();
                self.start(node);
            }
            Step::Saved => {
                if let Standing::Intent(intent) = &machine.directory.standing {
                    self.founding.intents.insert(machine.id, intent.clone());
                }
                self.ask_all(node);
            }
            Step::Decide { .. } | Step::Empty => {}
        }
    }

    fn ask_all(&mut self, node: usize) {
        let (asker, incarnation) = (self.machines[node].id, self.machines[node].incarnation);
        let Some(founder) = self.machines[node].founder.as_mut() else { return };
        founder.round += 1;
        founder.answers.clear();
        let round = founder.round;
        let standing = &self.machines[node].directory.standing;
        let forming = self.list(node).founder() == name(node) || matches!(standing, Standing::Intent(_));
        for other in (0..self.machines.len()).filter(|other| *other != node) {
            self.send_rpc(node, other, Rpc::Hello { asker, incarnation, round, forming });
        }
        self.plan_step(node, ANSWERS_WITHIN, Step::Decide { round });
    }

    fn send_rpc(&mut self, from: usize, to: usize, rpc: Rpc) {
        let Fate::Arrives(at, _) = self.network.send(self.now, from, to) else { return };
        let mut late = 0;
        if self.founding.is_rough {
            if self.random.chance(100) {
                return;
            }
            late = if self.random.chance(250) { self.random.below(800_000) } else { 0 };
        }
        self.add(Instant(at.0 + late), Event::Rpc { from, to, rpc: Box::new(rpc) });
    }

    pub(super) fn on_rpc(&mut self, from: usize, to: usize, rpc: Box<Rpc>) {
        let machine = &self.machines[to];
        let runs = machine.process.is_some() || machine.founder.is_some();
        if !runs || self.network.is_cut(from, to) {
            return;
        }
        let busy_until = machine.founder.as_ref().map_or(Instant(0), |founder| founder.busy_until);
        let until = machine.paused_until.max(busy_until);
        if until > self.now {
            self.add(until, Event::Rpc { from, to, rpc });
            return;
        }
        match *rpc {
            Rpc::Hello { asker, incarnation, round, forming } => {
                let answer = self.hello(to, asker, forming);
                self.send_rpc(to, from, Rpc::Answer { incarnation, round, answer });
            }
            Rpc::Answer { incarnation, round, answer } => {
                let others = self.machines.len() - 1;
                let machine = &mut self.machines[to];
                let is_new = machine.incarnation == incarnation;
                let Some(founder) =
                    machine.founder.as_mut().filter(|founder| is_new && founder.round == round)
                else {
                    return;
                };
                founder.answers.insert(name(from), answer);
                if founder.answers.len() == others {
                    self.decide(to);
                }
            }
            Rpc::Form { target, nonce, offered } => self.on_form(to, target, nonce, offered),
        }
    }

    /// As the transport answers.
    fn hello(&mut self, node: usize, asker: NodeId, forming: bool) -> HelloAnswer {
        let founders = self.status(node).and_then(|status| status.configuration);
        let drawn = self.random.next_u64();
        let Local { node_id, name, .. } = self.local(node);
        let machine = &mut self.machines[node];
        let standing = &machine.directory.standing;
        let mut nonce = 0;
        if let Some(founder) = machine.founder.as_mut().filter(|_| forming && *standing == Standing::Empty) {
            nonce = drawn;
            founder.newest_nonce = Some(nonce);
        }
        let is_intent = matches!(standing, Standing::Intent(_));
        let counts = |founders: &Arc<Configuration>| founders.is_voter(asker);
        let knows_asker = founders.as_ref().map_or(standing.founded_with(asker), counts);
        HelloAnswer {
            node_id,
            name,
            client_addr: String::new(),
            peer_addr: None,
            cluster_id: standing.cluster_id(),
            nonce,
            knows_asker,
            removed_asker: None,
            is_intent,
            listed: self.founding.initial.members().iter().map(|member| member.name.clone()).collect(),
        }
    }

    fn decide(&mut self, node: usize) {
        let local = self.local(node);
        let Some(founder) = self.machines[node].founder.as_mut() else { return };
        // What comes later is too late.
        founder.round += 1;
        let answers = std::mem::take(&mut founder.answers);
        let standing = self.machines[node].directory.standing.clone();
        // Nobody joins here: this is about forming.
        let policy = JoinPolicy::Wait;
        let decision = membership::decide(&local, &standing, policy, &self.list(node), &answers);
        self.tell_founding(node, || format!("n{} decides: {decision:?}", node + 1));
        match (decision, standing) {
            (Decision::GiveWay { .. }, _) => {
                // What is durable of the intent stays until a membership takes its place.
                let machine = &mut self.machines[node];
                let never = Instant(u64::MAX);
                machine.directory.save(Standing::Empty, never, never);
                if let Some(founder) = machine.founder.as_mut() {
                    founder.newest_nonce = None;
                }
                self.founding.intents.remove(&local.node_id);
                self.plan_step(node, 1000, Step::Ask);
            }
            (Decision::Intend(configuration), _) => self.intend(node, configuration),
            (Decision::Formed, Standing::Intent(intent)) => self.accept(node, intent.into()),
            (Decision::Form(invitations), Standing::Intent(intent)) => {
                // What it sent is still on its way when it forms another cluster under another id.
                let falls = std::mem::take(&mut self.founding.former_falls);
                if falls {
                    self.founding.former_fell = true;
                    let wait = self.random.below(20_000);
                    self.add_in(wait, Event::Founding { node, incarnation: 0, step: Step::Empty });
                }
                for Invitation { name: invited, node_id, nonce } in invitations {
                    let Some(to) = (0..self.machines.len()).find(|to| name(*to) == invited) else { continue };
                    if falls {
                        let (wait, offered) = (self.random.below(600_000), intent.clone().into());
                        let rpc = Box::new(Rpc::Form { target: node_id, nonce, offered });
                        self.add_in(wait, Event::Rpc { from: node, to, rpc });
                        continue;
                    }
                    if self.founding.is_rough && self.random.chance(200) {
                        let wait = self.random.below(5000);
                        self.add_in(wait, Event::Founding { node: to, incarnation: 0, step: Step::Empty });
                    }
                    let offered = intent.clone().into();
                    self.send_rpc(node, to, Rpc::Form { target: node_id, nonce, offered });
                }
                self.plan_step(node, INTERVAL, Step::Ask);
            }
            _ => self.plan_step(node, INTERVAL, Step::Ask),
        }
    }

    /// Makes an intent durable. An earlier one is abandoned only if one of its members no longer exists.
    fn intend(&mut self, node: usize, configuration: Configuration) {
        let former = self.machines[node].id;
        let ids: BTreeSet<NodeId> = self.machines.iter().map(|machine| machine.id).collect();
        let intent = Intent { cluster_id: ClusterId(self.random.next_u64() | 1), configuration };
        if let Some(earlier) = self.founding.intents.get(&former)
            && earlier.configuration.voters.keys().all(|id| ids.contains(id))
        {
            let what = format!(
                "n{} intends cluster {}, and abandons {}, all of whose members exist",
                node + 1,
                intent.cluster_id,
                earlier.cluster_id
            );
            self.report("a founder keeps its intent", what);
        }
        let now = self.now;
        if self.setup.planted().is(Plant::IntentNotPersisted) {
            let directory = &mut self.machines[node].directory;
            // Known, and gone with the process.
            directory.save(Standing::Intent(intent), Instant(u64::MAX), Instant(u64::MAX));
            self.plan_step(node, 0, Step::Saved);
            return;
        }
        self.save(node, Standing::Intent(intent), now);
    }

    fn save(&mut self, node: usize, standing: Standing, begun: Instant) {
        let done_at = Instant(begun.0 + self.random.between(200, 20_000));
        let machine = &mut self.machines[node];
        if let Some(founder) = machine.founder.as_mut() {
            founder.busy_until = done_at;
            if matches!(standing, Standing::Intent(_)) {
                founder.newest_nonce = None;
            }
        }
        machine.directory.save(standing, begun, done_at);
        self.plan_step(node, done_at.0 - self.now.0, Step::Saved);
    }

    /// Makes the node a member: its log first, then the record of it.
    fn accept(&mut self, node: usize, formed: Formed) {
        let Formed { cluster_id, configuration } = formed;
        let first = configuration.as_ref().map(founding_record);
        let machine = &self.machines[node];
        let (files, owner) = (machine.files.clone(), Owner { node_id: machine.id, cluster_id });
        files.disk().begin(self.now);
        let created =
            Wal::create(files.clone(), Path::new(DIRECTORY), owner, options(&self.setup), first.as_ref());
        let created_at = files.disk().end();
        if let Err(error) = created {
            // It ends when it sees the error; until then its disk continues.
            self.machines[node].files.disk().crash(self.now, Crash::Killed);
            self.halt(node, &error.to_string());
            return;
        }
        self.tell_founding(node, || format!("n{} accepts cluster {cluster_id}", node + 1));
        self.save(node, Standing::Member(Formed { cluster_id, configuration: None }), created_at);
    }

    fn on_form(&mut self, node: usize, target: NodeId, nonce: u64, offered: Formed) {
        let local = self.local(node);
        let machine = &self.machines[node];
        let standing = machine.directory.standing.clone();
        let newest = match machine.founder.as_ref() {
            Some(_) if self.setup.planted().is(Plant::NonceNotChecked) => Some(nonce),
            Some(founder) => founder.newest_nonce,
            None => None,
        };
        if target != local.node_id {
            return;
        }
        if let Ok(Some(formed)) = membership::on_form(&local, &standing, newest, nonce, offered) {
            self.accept(node, formed);
        }
    }

    /// A member's message has come to a process that does not run yet: it may make that one a member.
    pub(super) fn on_first_contact(&mut self, from: usize, to: usize) {
        let busy = |founder: &Founder| founder.busy_until > self.now;
        let is_free = self.machines[to].founder.as_ref().is_some_and(|founder| !busy(founder));
        let founders = self.status(from).and_then(|status| status.configuration);
        let target = founders
            .and_then(|founders| founders.voters.keys().copied().find(|id| Self::index_of(*id) == to));
        let cluster_id = self.machines[from].directory.standing.cluster_id();
        let (Some(target), Some(cluster_id)) = (target, cluster_id) else { return };
        if !is_free || self.machines[to].paused_until > self.now {
            return;
        }
        let standing = self.machines[to].directory.standing.clone();
        if let Ok(Some(formed)) = membership::on_contact(&self.local(to), &standing, cluster_id, target) {
            self.accept(to, formed);
        }
    }

    fn check_one_cluster(&mut self) {
        let member = |standing: &Standing| match standing {
            Standing::Member(formed) => Some(formed.cluster_id),
            _ => None,
        };
        let clusters: BTreeSet<ClusterId> =
            self.machines.iter().filter_map(|machine| member(&machine.directory.standing)).collect();
        if clusters.len() > 1 {
            self.report("one cluster", format!("nodes are members of {clusters:?}"));
        }
    }

    /// Takes a node's directory away before it has run as a member: it is another node then.
    fn empty_directory(&mut self, node: usize) {
        let nodes = self.machines.len();
        let gone = (0..nodes).filter(|node| self.is_flipped(*node)).count();
        if self.machines[node].directory.was_opened || self.is_flipped(node) || gone >= (nodes - 1) / 2 {
            return;
        }
        self.end_process(node, Crash::PowerLost, "its directory is emptied");
        self.tell(|| format!("n{}'s directory is emptied", node + 1));
        let disk = Disk::new(Random::new(self.random.next_u64(), 0), self.setup.disk);
        let machine = &mut self.machines[node];
        machine.id = NodeId(machine.id.0 + IDS);
        machine.directory = Directory { was_emptied: true, ..Directory::default() };
        machine.files = SimFiles::new(disk);
        let wait = self.random.between(1000, 300_000);
        self.add_in(wait, Event::Restart { node });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::setup::Setup;

    fn founds(seed: u64, nodes: usize) -> Cluster {
        Cluster::new(Setup { founds: true, restart_micros: Some(100_000), ..Setup::calm(seed, nodes) })
    }

    #[test]
    fn one_cluster_is_formed_and_led() {
        let mut outside = 0;
        for seed in 0..100 {
            let mut cluster = founds(seed, if seed % 2 == 0 { 3 } else { 5 });
            let limit = Instant(30_000_000);
            let done =
                cluster.run_until(limit, |cluster| cluster.now() > Instant(2_000_000) && cluster.is_formed());
            assert!(done, "seed {seed}: {}", cluster.summary());
            assert!(cluster.run_until(limit, Cluster::is_led), "seed {seed}: {}", cluster.summary());
            assert_eq!(cluster.violation(), None, "seed {seed}");
            outside += (0..cluster.setup().nodes).filter(|node| cluster.is_outside(*node)).count();
        }
        assert!(outside > 0, "no emptied directory stayed out");
    }

    #[test]
    fn processes_may_end_between_any_two_steps() {
        for seed in 0..100 {
            let mut cluster = founds(seed, 3);
            let mut random = Random::new(seed, 99);
            for _ in 0..20 {
                cluster.run_to(Instant(cluster.now().0 + random.around(20_000)));
                let crash = random.pick(&[Crash::Killed, Crash::PowerLost]);
                let node = random.index(3);
                cluster.crash(node, crash, "at any moment");
                cluster.run_to(Instant(cluster.now().0 + random.around(20_000)));
                cluster.restart(node);
            }
            cluster.calm_founding();
            let limit = Instant(cluster.now().0 + 20_000_000);
            let formed = cluster.run_until(limit, Cluster::is_formed);
            assert!(formed, "seed {seed}: {:?}, {}", cluster.violation(), cluster.summary());
            assert!(cluster.run_until(limit, Cluster::is_led), "seed {seed}: {}", cluster.summary());
            assert_eq!(cluster.violation(), None, "seed {seed}");
        }
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn planted_bugs_of_founding_are_caught() {
        use crate::plant::Planted;
        for plant in [Plant::NonceNotChecked, Plant::IntentNotPersisted] {
            let is_caught = |seed| {
                let mut setup = Setup { founds: true, restart_micros: Some(100_000), ..Setup::calm(seed, 3) };
                setup.raft.rules = Planted::new(plant).into();
                let mut cluster = Cluster::new(setup);
                for node in 0..3 {
                    cluster.run_to(Instant(cluster.now().0 + 80_000));
                    cluster.crash(node, Crash::Killed, "at any moment");
                    cluster.restart(node);
                }
                cluster.run_to(Instant(1_500_000));
                cluster.violation().is_some()
            };
            assert!((0..1000).any(is_caught), "{} is not caught", plant.name());
        }
    }
}
