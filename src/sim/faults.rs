//! What goes wrong in a run, drawn from its seed: which kinds of faults at all (swarm testing: Groce and others,
//! 2012), how often, for how long; the mix changes during the run.
//!
//! Never more than Raft and disks allow: what was flushed stays, unless a bit of it flips, and such a node may
//! stay out permanently, so only a minority of disks gets that.

use std::collections::BTreeSet;

use super::cluster::Cluster;
use super::disk::Crash;
use super::random::Random;
use super::snapshots::RESERVE_BYTES;
use crate::types::Instant;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A process is killed.
    Kill,
    /// A machine loses power.
    PowerCut,
    /// All machines lose power at once.
    Blackout,
    /// A process is killed between two effects.
    CrashAtEffect,
    /// A process stops for a while and continues.
    Pause,
    /// A clock jumps forward.
    ClockJump,
    /// A clock runs fast or slow.
    ClockRate,
    /// The network splits in two.
    Partition,
    /// One direction of one link is cut.
    OneWay,
    /// A link is slow.
    SlowLink,
    /// Messages are lost, doubled, late.
    Lossy,
    /// A disk hangs.
    DiskStall,
    /// A flush fails.
    FlushFails,
    /// A write fails.
    WriteFails,
    /// A disk is full.
    DiskFull,
    /// Power is cut and a bit flips.
    BitFlip,
    /// Answers to clients are lost.
    LostReplies,
    /// Nothing gets out of the leader any more, and what it hears is late.
    Mute,
    /// A follower restarts at once, or hears no more of the leader, while another one, cut off from that, stands for
    /// election.
    QuickRestart,
}

impl FaultKind {
    /// All of them, with the names they have on the command line.
    pub const ALL: [(Self, &'static str); 19] = [
        (Self::Kill, "kill"),
        (Self::PowerCut, "power-cut"),
        (Self::Blackout, "blackout"),
        (Self::CrashAtEffect, "crash-at-effect"),
        (Self::Pause, "pause"),
        (Self::ClockJump, "clock-jump"),
        (Self::ClockRate, "clock-rate"),
        (Self::Partition, "partition"),
        (Self::OneWay, "one-way"),
        (Self::SlowLink, "slow-link"),
        (Self::Lossy, "lossy"),
        (Self::DiskStall, "disk-stall"),
        (Self::FlushFails, "flush-fails"),
        (Self::WriteFails, "write-fails"),
        (Self::DiskFull, "disk-full"),
        (Self::BitFlip, "bit-flip"),
        (Self::LostReplies, "lost-replies"),
        (Self::Mute, "mute"),
        (Self::QuickRestart, "quick-restart"),
    ];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
enum Remedy {
    Restart(usize),
    Mend,
    MendLink(usize, usize),
    CalmNetwork,
    ClockRate(usize),
    EmptyDisk(usize),
    KeepReplies,
    Mute(usize),
    RestartQuickly { leader: usize, node: usize },
    Forsake { leader: usize, out: usize },
    StandAgain(usize),
    ClientsRest,
    Reunion,
}

/// The faults of one run.
pub struct Faults {
    random: Random,
    off: BTreeSet<FaultKind>,
    /// Kinds of this epoch; those drawn twice come twice as often.
    mix: Vec<FaultKind>,
    mean: u64,
    next_at: Instant,
    epoch_ends: Instant,
    remedies: Vec<(Instant, Remedy)>,
    struck: u64,
}

impl Faults {
    /// What `seed` says, but for the kinds in `off`.
    #[must_use]
    pub fn new(seed: u64, off: BTreeSet<FaultKind>) -> Self {
        let mut faults = Self {
            random: Random::new(seed, 5),
            off,
            mix: Vec::new(),
            mean: 1,
            next_at: Instant(0),
            epoch_ends: Instant(0),
            remedies: Vec::new(),
            struck: 0,
        };
        faults.begin_epoch(Instant(0));
        faults
    }

    /// Faults so far.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.struck
    }

    fn begin_epoch(&mut self, now: Instant) {
        let share = self.random.pick(&[100, 300, 600]);
        self.mix.clear();
        for (kind, _) in FaultKind::ALL {
            let times = u32::from(self.random.chance(share)) * self.random.pick(&[1, 2, 5]);
            for _ in 0..times {
                self.mix.push(kind);
            }
        }
        self.mean = self.random.pick(&[50_000, 300_000, 1_000_000, 3_000_000]);
        self.epoch_ends = Instant(now.0 + self.random.between(2_000_000, 15_000_000));
        self.next_at = Instant(now.0 + self.random.around(self.mean));
    }

    /// When to call [`Faults::strike`] next.
    #[must_use]
    pub fn next_at(&self) -> Instant {
        self.remedies.iter().map(|(at, _)| *at).fold(self.next_at.min(self.epoch_ends), Instant::min)
    }

    /// Does what is due.
    pub fn strike(&mut self, cluster: &mut Cluster) {
        let now = cluster.now();
        while let Some(at) = self.remedies.iter().position(|(at, _)| *at <= now) {
            let (_, remedy) = self.remedies.remove(at);
            Self::apply(cluster, remedy);
        }
        if now >= self.epoch_ends {
            self.begin_epoch(now);
        }
        if now >= self.next_at {
            self.next_at = Instant(now.0 + self.random.around(self.mean));
            if self.mix.is_empty() {
                return;
            }
            let kind = self.random.pick(&self.mix);
            // What follows draws from a stream of its own, so that a kind that is off changes nothing else.
            let mut random = Random::new(self.random.next_u64(), 0);
            if !self.off.contains(&kind) {
                self.struck += 1;
                self.inflict(cluster, kind, &mut random);
            }
        }
    }

    fn later(&mut self, cluster: &Cluster, micros: u64, remedy: Remedy) {
        self.remedies.push((Instant(cluster.now().0 + micros), remedy));
    }

    fn inflict(&mut self, cluster: &mut Cluster, kind: FaultKind, random: &mut Random) {
        let nodes = cluster.setup().nodes;
        let node = match cluster.leader() {
            Some(leader) if random.chance(350) => leader,
            _ => random.index(nodes),
        };
        let lasts = random.around(random.pick_duration());
        if let Some(leader) = cluster.leader()
            && matches!(kind, FaultKind::Partition | FaultKind::OneWay | FaultKind::SlowLink)
            && compacts_at_once(cluster)
            && cluster.is_led()
            && random.chance(500)
        {
            return self.leave_behind(cluster, leader, random);
        }
        match kind {
            FaultKind::Kill => self.end(cluster, node, Crash::Killed, lasts),
            FaultKind::PowerCut => self.end(cluster, node, Crash::PowerLost, lasts),
            FaultKind::Blackout => {
                for node in 0..nodes {
                    let lasts = random.around(lasts);
                    self.end(cluster, node, Crash::PowerLost, lasts);
                }
            }
            FaultKind::CrashAtEffect => {
                cluster.crash_after(node, u32::try_from(random.below(40)).unwrap_or(0));
                self.later(cluster, lasts, Remedy::Restart(node));
            }
            FaultKind::Pause => {
                cluster.tell(|| format!("n{} pauses for {lasts} µs", node + 1));
                cluster.pause(node, lasts);
            }
            FaultKind::ClockJump => {
                if !bears_wild_clocks(cluster) {
                    return;
                }
                let jump = random.around(300_000);
                cluster.tell(|| format!("n{}'s clock jumps by {jump} µs", node + 1));
                cluster.jump_clock(node, jump);
            }
            FaultKind::ClockRate => {
                let rate = if bears_wild_clocks(cluster) {
                    random.pick(&[500_000, 900_000, 990_000, 1_010_000, 1_100_000, 2_000_000])
                } else {
                    random.pick(&[953_000, 990_000, 1_010_000, 1_047_000])
                };
                cluster.tell(|| format!("n{}'s clock runs at {rate} of a million", node + 1));
                cluster.set_clock_rate(node, rate);
                self.later(cluster, lasts, Remedy::ClockRate(node));
            }
            FaultKind::Mute => self.mute(cluster, node, random),
            FaultKind::QuickRestart => self.isolate_for_restart(cluster, node, random),
            FaultKind::BitFlip => self.flip_bit(cluster, node, lasts),
            FaultKind::Partition | FaultKind::OneWay | FaultKind::SlowLink | FaultKind::Lossy => {
                self.trouble_network(cluster, kind, node, lasts, random);
            }
            FaultKind::DiskStall | FaultKind::FlushFails | FaultKind::WriteFails | FaultKind::DiskFull => {
                self.trouble_disk(cluster, kind, node, lasts);
            }
            FaultKind::LostReplies => {
                cluster.tell(|| "answers to clients get lost".to_owned());
                cluster.lose_replies(random.pick(&[100, 500]));
                self.later(cluster, lasts, Remedy::KeepReplies);
            }
        }
    }

    fn trouble_network(
        &mut self,
        cluster: &mut Cluster,
        kind: FaultKind,
        node: usize,
        lasts: u64,
        random: &mut Random,
    ) {
        let nodes = cluster.setup().nodes;
        let other = (node + 1 + random.index(nodes.max(2) - 1)) % nodes;
        match kind {
            FaultKind::Partition => {
                let mut first = vec![false; nodes];
                first[node] = true;
                if random.chance(500) {
                    for side in &mut first {
                        *side |= random.chance(400);
                    }
                }
                cluster.tell(|| format!("the network splits: {first:?}"));
                cluster.network.split(|node| first[node]);
                self.later(cluster, lasts, Remedy::Mend);
            }
            FaultKind::OneWay => {
                cluster.tell(|| format!("nothing gets from n{} to n{}", node + 1, other + 1));
                cluster.network.set_cut(node, other, true);
                self.later(cluster, lasts, Remedy::MendLink(node, other));
            }
            FaultKind::SlowLink => {
                let slow = random.around(200_000);
                cluster.tell(|| format!("{slow} µs more from n{} to n{}", node + 1, other + 1));
                cluster.network.set_slow(node, other, slow);
                self.later(cluster, lasts, Remedy::MendLink(node, other));
            }
            _ => {
                let traits = &mut cluster.network.traits;
                traits.loss = random.pick(&[0, 10, 100, 400]);
                traits.duplication = random.pick(&[0, 10, 300]);
                traits.straggling = random.pick(&[0, 10, 100]);
                let (loss, duplication, straggling) = (traits.loss, traits.duplication, traits.straggling);
                cluster.tell(|| {
                    format!("of 1000 messages {loss} are lost, {duplication} doubled, {straggling} late")
                });
                self.later(cluster, lasts, Remedy::CalmNetwork);
            }
        }
    }

    /// A leader that is cut off comes back when the others have cut their logs behind what it knows to be committed, but
    /// not beyond what it wrote alone: clients write to it for a while, and then to nobody, so that the others only
    /// elect a leader, commit its first entry and take a checkpoint. Nothing else goes wrong until then.
    fn leave_behind(&mut self, cluster: &mut Cluster, leader: usize, random: &mut Random) {
        cluster.tell(|| format!("n{} is cut off from all others", leader + 1));
        cluster.network.mend();
        cluster.network.split(|node| node == leader);
        // Whatever else was cut is whole again.
        self.remedies.retain(|(_, remedy)| !matches!(remedy, Remedy::Mend | Remedy::Mute(_)));
        let timeout = election_timeout(cluster);
        let (interval, takes) = (cluster.setup().checkpoint_interval, cluster.setup().checkpoint_micros);
        let rest = random.below(timeout);
        let reunion = rest + timeout * random.between(2, 5) + (interval + takes) * 2;
        self.later(cluster, rest, Remedy::ClientsRest);
        self.later(cluster, reunion, Remedy::Reunion);
        self.next_at = Instant(cluster.now().0 + reunion);
    }

    /// What the leader hears is late; then nothing gets out of it any more. Its clock is slow, and those of the others
    /// are fast.
    fn mute(&mut self, cluster: &mut Cluster, node: usize, random: &mut Random) {
        let node = cluster.leader().unwrap_or(node);
        let timeout = election_timeout(cluster);
        let slow = random.between(timeout / 4, timeout);
        cluster.tell(|| format!("{slow} µs more to n{}", node + 1));
        let paces = random.chance(700);
        for other in 0..cluster.setup().nodes {
            if other != node {
                cluster.network.set_slow(other, node, slow);
            }
        }
        if paces {
            self.pace_apart(cluster, node, timeout * 6);
        }
        self.later(cluster, slow + random.below(timeout), Remedy::Mute(node));
        self.later(cluster, timeout * 5, Remedy::Mend);
    }

    /// One that knows of no leader waits for votes; one that has promised the leader not to vote restarts or hears no
    /// more of it, and is asked by the other. Nothing is written meanwhile, so that it would get the vote.
    fn isolate_for_restart(&mut self, cluster: &mut Cluster, node: usize, random: &mut Random) {
        let Some(leader) = cluster.leader() else { return };
        let nodes = cluster.setup().nodes;
        let out = (leader + 1 + random.index(nodes.max(2) - 1)) % nodes;
        cluster.tell(|| format!("nothing gets from n{} to n{} and back", leader + 1, out + 1));
        cluster.network.set_cut(leader, out, true);
        cluster.network.set_cut(out, leader, true);
        cluster.run_clients(false);
        let timeout = election_timeout(cluster);
        let wait = random.between(timeout, timeout * 3);
        let node = (0..nodes).find(|other| *other != leader && *other != out).unwrap_or(node);
        let has_leases = cluster.setup().raft.lease_reads;
        let remedy = if has_leases && random.chance(600) {
            self.pace_apart(cluster, leader, wait + timeout * 2);
            Remedy::Forsake { leader, out }
        } else {
            Remedy::RestartQuickly { leader, node }
        };
        self.later(cluster, wait, remedy);
        if has_leases {
            // It asks often, so that it asks as soon as a promise is forgotten or over.
            let gap = timeout / random.between(20, 60);
            for at in (0..timeout * 6 / 5).step_by(usize::try_from(gap.max(1)).unwrap_or(1)) {
                self.later(cluster, wait + at, Remedy::StandAgain(out));
            }
        }
        self.later(cluster, wait + timeout * 2, Remedy::Mend);
    }

    /// The leader's clock is slow for some time, and those of the others are fast.
    fn pace_apart(&mut self, cluster: &mut Cluster, leader: usize, lasts: u64) {
        let (slow, fast) =
            if cluster.setup().wild_clocks { (500_000, 2_000_000) } else { (953_000, 1_047_000) };
        for node in 0..cluster.setup().nodes {
            cluster.set_clock_rate(node, if node == leader { slow } else { fast });
            self.later(cluster, lasts, Remedy::ClockRate(node));
        }
    }

    fn trouble_disk(&mut self, cluster: &mut Cluster, kind: FaultKind, node: usize, lasts: u64) {
        cluster.tell(|| format!("n{}'s disk: {}, {lasts} µs", node + 1, kind.name()));
        let until = Instant(cluster.now().0 + lasts);
        cluster.with_disk(node, |disk| match kind {
            FaultKind::DiskStall => disk.stall(until),
            FaultKind::FlushFails => disk.fail_next(false),
            FaultKind::WriteFails => disk.fail_next(true),
            _ => {}
        });
        if kind == FaultKind::DiskFull {
            // The room for snapshots ends first, then the reserve is touched; what is not of the log may eat that up,
            // too.
            let free_bytes = [0, RESERVE_BYTES, RESERVE_BYTES - 1, 0, RESERVE_BYTES - 1, RESERVE_BYTES - 1];
            cluster.set_free_bytes(node, free_bytes[usize::try_from(lasts % 6).unwrap_or(0)]);
            self.later(cluster, lasts, Remedy::EmptyDisk(node));
        }
    }

    fn end(&mut self, cluster: &mut Cluster, node: usize, crash: Crash, lasts: u64) {
        cluster.crash(node, crash, "told to");
        self.later(cluster, lasts, Remedy::Restart(node));
    }

    fn flip_bit(&mut self, cluster: &mut Cluster, node: usize, lasts: u64) {
        let nodes = cluster.setup().nodes;
        let others = (0..nodes).filter(|other| *other != node && cluster.is_flipped(*other)).count();
        let may_lose = match cluster.setup().churn {
            Some(_) => cluster.may_lose(node),
            None => others < (nodes - 1) / 2 && !cluster.rests_on_one_disk(),
        };
        self.end(cluster, node, Crash::PowerLost, lasts);
        if may_lose {
            cluster.flip_bit(node);
        }
    }

    fn apply(cluster: &mut Cluster, remedy: Remedy) {
        match remedy {
            Remedy::Restart(node) => cluster.restart(node),
            Remedy::Mend => {
                cluster.tell(|| "the network is whole again".to_owned());
                cluster.network.mend();
            }
            Remedy::MendLink(from, to) => {
                cluster.tell(|| format!("the way from n{} to n{} is well again", from + 1, to + 1));
                cluster.network.set_cut(from, to, false);
                cluster.network.set_slow(from, to, 0);
            }
            Remedy::CalmNetwork => {
                cluster.network.calm();
                cluster.tell(|| "messages arrive again".to_owned());
            }
            Remedy::ClockRate(node) => cluster.set_clock_rate(node, 1_000_000),
            Remedy::EmptyDisk(node) => {
                cluster.set_free_bytes(node, u64::MAX);
            }
            Remedy::KeepReplies => cluster.lose_replies(0),
            Remedy::Mute(node) => {
                cluster.tell(|| format!("nothing gets out of n{}", node + 1));
                for other in (0..cluster.setup().nodes).filter(|other| *other != node) {
                    cluster.network.set_cut(node, other, true);
                }
            }
            Remedy::Forsake { leader, out } => {
                cluster.tell(|| format!("nothing gets out of n{}, n{} asks for votes", leader + 1, out + 1));
                for other in (0..cluster.setup().nodes).filter(|other| *other != leader) {
                    cluster.network.set_cut(leader, other, true);
                }
                cluster.run_clients(true);
            }
            Remedy::StandAgain(node) => cluster.stand_again(node),
            Remedy::ClientsRest => cluster.run_clients(false),
            Remedy::Reunion => {
                cluster.tell(|| "the network is whole again, and clients continue".to_owned());
                cluster.network.mend();
                cluster.run_clients(true);
            }
            Remedy::RestartQuickly { leader, node } => {
                cluster.network.set_cut(leader, node, true);
                cluster.crash(node, Crash::Killed, "told to");
                cluster.restart(node);
                cluster.run_clients(true);
            }
        }
    }

    /// Nothing goes wrong any more: ends what lasts, but starts no node.
    pub fn stop(&mut self, cluster: &mut Cluster) {
        self.remedies.clear();
        cluster.tell(|| "no more faults".to_owned());
        cluster.network.mend();
        cluster.network.calm();
        cluster.lose_replies(0);
        cluster.run_clients(true);
        cluster.calm_down();
        for node in 0..cluster.setup().nodes {
            cluster.with_disk(node, super::disk::Disk::repair);
            cluster.set_free_bytes(node, u64::MAX);
            cluster.set_clock_rate(node, 1_000_000);
            cluster.defuse(node);
            cluster.resume(node);
        }
    }
}

/// In microseconds.
fn election_timeout(cluster: &Cluster) -> u64 {
    u64::try_from(cluster.setup().raft.election_timeout.as_micros()).unwrap_or(u64::MAX / 8)
}

/// Whether logs are cut behind every checkpoint, and those come often.
fn compacts_at_once(cluster: &Cluster) -> bool {
    cluster.setup().raft.trailing_entries == 0 && cluster.setup().checkpoint_interval <= 1_000_000
}

/// Leases depend on clocks that do not jump, and differ in pace by less than the margin: 1,047 to 953 are 10 % apart.
fn bears_wild_clocks(cluster: &Cluster) -> bool {
    cluster.setup().wild_clocks || !cluster.setup().raft.lease_reads
}

impl Random {
    /// How long things last, in microseconds.
    fn pick_duration(&self) -> u64 {
        self.clone().pick(&[5_000, 100_000, 500_000, 2_000_000])
    }
}
