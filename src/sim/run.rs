//! One seed from begin to verdict: a time of faults, in which nothing wrong may happen; then a time without, in
//! which the right things must; then the judgement of what the clients saw.

mod endure;

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::checker::{self, Reason};
use super::clients::Ending;
use super::cluster::Cluster;
use super::disk::Crash;
use super::faults::{FaultKind, Faults};
use super::lies::{Liar, Lie, Wire};
use super::mix::Mix;
use super::random::Random;
use super::setup::Setup;
use super::trace::Happening;
use crate::plant::Planted;
use crate::types::Instant;

/// A node's assertion failed: it panicked.
const IMPOSSIBLE: &str = "an impossible state";

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// Length of the time of faults, in the simulation's time.
    pub time: Duration,
    /// Clients; as the seed says if not given.
    pub clients: Option<usize>,
    /// What kind of network; as the seed says if not given.
    pub mix: Option<Mix>,
    /// What the network carries of a lie.
    pub wire: Wire,
    /// Kinds of faults that do not happen.
    pub without: BTreeSet<FaultKind>,
    /// A bug in all nodes.
    pub planted: Planted,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Digest of everything that happened.
    pub hash: u64,
    /// Events taken.
    pub events: u64,
    /// How long it was, in the simulation's time.
    pub simulated: Duration,
    /// Elections won.
    pub elections: usize,
    /// Entries committed.
    pub committed: u64,
    /// Operations whose history was judged.
    pub operations: usize,
    /// Faults inflicted.
    pub faults: u64,
    /// The checker stopped its search in the history: neither right nor wrong.
    pub undecided: bool,
    /// What went wrong, if something did.
    pub failure: Option<Failure>,
    /// Everything that happened, if it was kept.
    pub happenings: Vec<(Instant, Happening)>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When, in the simulation's time.
    pub at: Instant,
    /// Which rule.
    pub rule: String,
    /// Who did what.
    pub what: String,
}

/// Runs a plan; `keep` keeps all that happens, for a reader.
#[must_use]
pub fn run(plan: &Plan, keep: bool) -> Outcome {
    let mut setup = Setup::from_seed(plan.seed, plan.nodes);
    plan.mix().shape(plan.nodes, &mut setup);
    if let Some(clients) = plan.clients {
        setup.clients = clients;
    }
    setup.raft.rules = plan.planted.into();
    run_as(plan, setup, keep)
}

/// Runs a plan with a cluster of another make than its seed says.
pub(super) fn run_as(plan: &Plan, setup: Setup, keep: bool) -> Outcome {
    let mut runner = Runner {
        cluster: Cluster::new(setup),
        faults: Faults::new(plan.seed, plan.without.clone()),
        random: Random::new(plan.seed, 6),
        mix: plan.mix(),
        undecided: false,
    };
    if plan.mix() == Mix::Liar {
        let nodes = runner.cluster.setup().nodes;
        runner.cluster.liar = Some(Liar::of(plan.seed, nodes, plan.wire));
        runner.cluster.had_liar = true;
    }
    if keep {
        runner.cluster.trace.keep();
    }
    let panicked = catch_unwind(AssertUnwindSafe(|| runner.run(plan.time))).err();
    let mut outcome = runner.outcome(panicked);
    if plan.mix() == Mix::Liar && !Lie::of(plan.seed).is_survivable() {
        // All that is owed then is that nobody panics.
        outcome.failure = outcome.failure.filter(|failure| failure.rule == IMPOSSIBLE);
    }
    outcome
}

struct Runner {
    cluster: Cluster,
    faults: Faults,
    random: Random,
    mix: Mix,
    undecided: bool,
}

impl Runner {
    fn run(&mut self, time: Duration) {
        let end = Instant(0).after(time);
        while self.cluster.violation().is_none() && self.cluster.now() < end {
            let at = self.faults.next_at().min(end);
            self.cluster.run_to(at);
            if self.cluster.violation().is_none() && at < end {
                self.faults.strike(&mut self.cluster);
            }
        }
        if self.goes_on() {
            self.faults.stop(&mut self.cluster);
            self.cluster.liar = None;
            // A start finds out whether the disk is intact.
            (0..self.cluster.setup().nodes).for_each(|node| self.cluster.restart(node));
            if self.cluster.setup().churn.is_none() {
                self.must_form();
            }
        }
        if self.goes_on() && matches!(self.mix, Mix::OneWay | Mix::RefusedPush) {
            self.must_endure();
        }
        if self.goes_on() {
            self.heal();
            self.must_recover();
        }
        if self.goes_on() {
            self.judge();
        }
    }

    fn goes_on(&self) -> bool {
        self.cluster.violation().is_none()
    }

    /// If nodes began with empty directories, one cluster is there within a bound.
    fn must_form(&mut self) {
        let cluster = &mut self.cluster;
        cluster.calm_founding();
        let patience = Duration::from_secs(20);
        let limit = cluster.now().after(patience);
        if !cluster.run_until(limit, Cluster::is_formed) {
            let what = format!("no cluster of all nodes within {patience:?}: {}", cluster.summary());
            cluster.report("liveness", what);
        }
    }

    /// All intact nodes run, or only just a majority of all; sometimes leaders crash just before.
    fn heal(&mut self) {
        let nodes = self.cluster.setup().nodes;
        let is_in = |node: &usize| !self.cluster.is_lost(*node) && !self.cluster.is_outside(*node);
        let mut intact: Vec<usize> = (0..nodes).filter(is_in).collect();
        let fallen = if self.random.chance(300) { self.fell_leaders() } else { None };
        if self.cluster.setup().churn.is_some() {
            let out = self.draw_absent(fallen);
            intact.retain(|node| !out.contains(node));
        } else if fallen.is_some() || self.random.chance(400) {
            while intact.len() > nodes / 2 + 1 {
                let place = fallen.and_then(|fallen| intact.iter().position(|node| *node == fallen));
                let out = intact.remove(place.unwrap_or_else(|| self.random.index(intact.len())));
                self.cluster.crash(out, Crash::Killed, "stays away");
                self.cluster.keep_down(out);
            }
        }
        for node in intact {
            self.cluster.restart(node);
        }
    }

    /// While members change: those that stay away, as many as the cluster can do without.
    fn draw_absent(&mut self, fallen: Option<usize>) -> BTreeSet<usize> {
        let mut out = BTreeSet::new();
        if fallen.is_none() && !self.random.chance(400) {
            return out;
        }
        let drawn: Vec<usize> = (0..4).map(|_| self.random.index(self.cluster.setup().nodes)).collect();
        for node in fallen.into_iter().chain(drawn) {
            out.insert(node);
            if !self.cluster.can_do_without(&out) {
                out.remove(&node);
            }
        }
        for node in &out {
            self.cluster.crash(*node, Crash::Killed, "stays away");
            self.cluster.keep_down(*node);
        }
        out
    }

    /// The leader crashes while it is at work, and the next one as soon as it is elected: the second is returned. The
    /// other nodes have different logs and know of different terms.
    fn fell_leaders(&mut self) -> Option<usize> {
        let cluster = &mut self.cluster;
        let patience = cluster.setup().raft.election_timeout * 10;
        let limit = cluster.now().after(patience);
        if !cluster.run_until(limit, Cluster::is_led) {
            return None;
        }
        let first = cluster.leader()?;
        cluster.run_to(Instant(cluster.now().0 + self.random.below(500_000)));
        cluster.crash(first, Crash::Killed, "crashes");
        let (elections, limit) = (cluster.invariants.elections(), cluster.now().after(patience));
        if !cluster.run_until(limit, |cluster| cluster.invariants.elections() > elections) {
            return None;
        }
        let second = cluster.leader()?;
        cluster.crash(second, Crash::Killed, "crashes as soon as it is elected");
        Some(second)
    }

    /// How long an election and what follows from it may take.
    fn patience(&self) -> Duration {
        let setup = self.cluster.setup();
        let round_trip = Duration::from_micros(2 * setup.network.delay_least);
        setup.raft.election_timeout * 40 + round_trip * 50 + Duration::from_secs(20)
    }

    /// Leader, service, equal states: each within a bound.
    fn must_recover(&mut self) {
        let patience = self.patience();
        let cluster = &mut self.cluster;
        let limit = cluster.now().after(patience);
        if !cluster.run_until(limit, Cluster::is_led) {
            let what = format!("no leader that all nodes follow within {patience:?}: {}", cluster.summary());
            cluster.report("liveness", what);
            return;
        }
        drop(cluster.clients.take_served());
        cluster.run_clients(true);
        let limit = cluster.now().after(patience * 2);
        if !cluster.run_until(limit, |cluster| cluster.clients.all_served()) {
            let what =
                format!("some clients are not served within {:?}: {}", patience * 2, cluster.summary());
            cluster.report("liveness", what);
            return;
        }
        let limit = cluster.now().after(patience);
        if !cluster.run_until(limit, Cluster::members_are_settled) {
            let what = format!(
                "a change of members does not end, or a learner is not made a voter, within {patience:?}: {}",
                cluster.summary()
            );
            cluster.report("liveness", what);
            return;
        }
        if self.random.chance(400) {
            self.scale_to_one(patience);
        }
        let cluster = &mut self.cluster;
        cluster.run_clients(false);
        let limit = cluster.now().after(patience);
        if !cluster.run_until(limit, Cluster::is_settled) {
            let what = format!("nodes do not settle within {patience:?}: {}", cluster.summary());
            cluster.report("liveness", what);
            return;
        }
        let members = cluster.leader().map(|leader| cluster.running_members(leader)).unwrap_or_default();
        let hashes: BTreeSet<u64> = members.into_iter().filter_map(|node| cluster.state_hash(node)).collect();
        if hashes.len() != 1 {
            cluster.report("one state", format!("nodes applied the same and differ: {}", cluster.summary()));
        }
        self.read_everything();
    }

    /// Where members change, all but the leader may be removed in the end, and stopped as soon as that is in force, while
    /// it confirms reads: it serves what it was asked before, and what comes.
    fn scale_to_one(&mut self, patience: Duration) {
        let cluster = &mut self.cluster;
        let Some(leader) = cluster.leader().filter(|_| cluster.setup().churn.is_some()) else { return };
        cluster.ask_to_be_alone(leader);
        let limit = cluster.now().after(patience);
        let mut asked = cluster.get(leader, "k0");
        loop {
            let client = asked.client;
            let is_over =
                |cluster: &Cluster| cluster.is_left_alone(leader) || !cluster.clients.is_asking(client);
            if !cluster.run_until(limit, is_over) || cluster.leader() != Some(leader) {
                // Another leads by now, or it was not to be.
                return;
            }
            if cluster.is_left_alone(leader) {
                break;
            }
            asked = cluster.get(leader, "k0");
        }
        cluster.stop_others(leader);
        let limit = cluster.now().after(patience);
        loop {
            let client = asked.client;
            if !cluster.run_until(limit, |cluster| !cluster.clients.is_asking(client)) {
                let what =
                    format!("n{} was left alone and serves no read: {}", leader + 1, cluster.summary());
                cluster.report("liveness", what);
                return;
            }
            if matches!(cluster.clients.take_ending(asked), Some(Ending::Answered(_))) {
                return;
            }
            asked = cluster.get(leader, "k0");
        }
    }

    /// So that every write is followed by a read that must see it.
    fn read_everything(&mut self) {
        let cluster = &mut self.cluster;
        let Some(leader) = cluster.leader() else { return };
        for key in 0..cluster.setup().workload.keys {
            let token = cluster.get(leader, &format!("k{key}"));
            let limit = cluster.now().after(Duration::from_secs(5));
            let client = token.client;
            cluster.run_until(limit, |cluster| !cluster.clients.is_asking(client));
        }
    }

    fn judge(&mut self) {
        self.cluster.clients.close();
        match checker::check(self.cluster.clients.history()) {
            Ok(()) => {}
            Err(violation) if violation.reason == Reason::Undecided => self.undecided = true,
            Err(violation) => self.cluster.report("linearizable", violation.to_string()),
        }
    }

    fn outcome(mut self, panicked: Option<Box<dyn Any + Send>>) -> Outcome {
        let cluster = &mut self.cluster;
        let failure = match panicked {
            Some(payload) => {
                let at = cluster.now();
                Some(Failure { at, rule: IMPOSSIBLE.to_owned(), what: panic_message(&*payload) })
            }
            None => cluster.violation().map(|violation| Failure {
                at: violation.at,
                rule: violation.broken.rule.to_owned(),
                what: violation.broken.what.clone(),
            }),
        };
        Outcome {
            hash: cluster.trace.hash(),
            events: cluster.events(),
            simulated: cluster.now().since(Instant(0)),
            elections: cluster.invariants.elections(),
            committed: cluster.invariants.committed().0,
            operations: cluster.clients.history().len(),
            faults: self.faults.struck(),
            undecided: self.undecided,
            failure,
            happenings: cluster.trace.take(),
        }
    }
}

/// What a panic said.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
}

impl Plan {
    /// What kind of network it has.
    #[must_use]
    pub fn mix(&self) -> Mix {
        self.mix.unwrap_or_else(|| Mix::of(self.seed))
    }

    /// How many nodes a seed has unless told otherwise: mostly three, so that most seeds are quick.
    #[must_use]
    pub fn nodes_of(seed: u64) -> usize {
        if seed.is_multiple_of(4) { 5 } else { 3 }
    }
}

/// A smaller plan that fails, too, if there is one: less time, fewer clients, fewer nodes, fewer kinds of faults.
#[must_use]
pub fn shrink(plan: Plan, failure: Failure) -> (Plan, Failure) {
    let mut best = (plan, failure);
    let attempt = |best: &mut (Plan, Failure), plan: Plan| {
        let failure = run(&plan, false).failure;
        let fails = failure.is_some();
        if let Some(failure) = failure {
            *best = (plan, failure);
        }
        fails
    };
    let at = Duration::from_micros(best.1.at.0 + 1);
    if at < best.0.time {
        let plan = Plan { time: at, ..best.0.clone() };
        attempt(&mut best, plan);
    }
    for (kind, _) in FaultKind::ALL {
        let mut plan = best.0.clone();
        plan.without.insert(kind);
        attempt(&mut best, plan);
    }
    for clients in 1..=2 {
        let plan = Plan { clients: Some(clients), ..best.0.clone() };
        if attempt(&mut best, plan) {
            break;
        }
    }
    if best.0.nodes > 3 {
        let plan = Plan { nodes: 3, ..best.0.clone() };
        attempt(&mut best, plan);
    }
    for _ in 0..6 {
        let plan = Plan { time: best.0.time / 2, ..best.0.clone() };
        if !attempt(&mut best, plan) {
            break;
        }
    }
    best
}
