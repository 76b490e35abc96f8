//! What a run is made of: sizes, speeds and settings, drawn from a seed or chosen by a script.

use std::time::Duration;

use super::clients::Workload;
use super::disk::DiskTraits;
use super::network::NetworkTraits;
use super::random::Random;
use crate::plant::Planted;
use crate::raft;

/// A cluster to be.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Everything random comes from here.
    pub seed: u64,
    /// Nodes, spare ones included.
    pub nodes: usize,
    /// The first so many are the voters at the begin.
    pub voters: usize,
    /// Mean time between two requests of the administrator, in microseconds; `None`: members stay as they are.
    pub churn: Option<u64>,
    /// Clients that ask by themselves.
    pub clients: usize,
    /// The core's settings, the same on all nodes.
    pub raft: raft::Settings,
    /// Size of the log's segments.
    pub segment_bytes: u32,
    /// Speed of disks.
    pub disk: DiskTraits,
    /// Speed of the network.
    pub network: NetworkTraits,
    /// What clients do.
    pub workload: Workload,
    /// Messages that may wait for a core.
    pub message_queue: usize,
    /// Requests that may wait for a core.
    pub request_queue: usize,
    /// Time between checkpoints, in microseconds.
    pub checkpoint_interval: u64,
    /// Largest chunk of a snapshot, in bytes.
    pub chunk_bytes: usize,
    /// Clocks may differ in pace by more than leases bear, and jump although leases are on.
    pub wild_clocks: bool,
    /// Paces of clocks, of which each node has one, in microseconds in a million.
    pub paces: Option<[u64; 3]>,
    /// Longest time that a checkpoint takes, in microseconds.
    pub checkpoint_micros: u64,
    /// Longest time from a queue being filled to its part being at work, in microseconds.
    pub wake_micros: u64,
    /// A process that ended by itself is started again after up to this time, in microseconds.
    pub restart_micros: Option<u64>,
    /// Nodes start with empty directories, and form the cluster first.
    pub founds: bool,
}

impl Setup {
    /// A calm cluster for scripts: nothing is lost, no client asks by itself, nothing is restarted.
    #[must_use]
    pub fn calm(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            nodes,
            voters: nodes,
            churn: None,
            clients: 0,
            raft: raft::Settings::default(),
            segment_bytes: 256 << 10,
            disk: DiskTraits::default(),
            network: NetworkTraits::default(),
            workload: Workload {
                keys: 8,
                think: 20_000,
                reads: 400,
                stale: 100,
                conditional: 200,
                deletes: 100,
                named: 200,
                looked_at: 200,
                value_bytes: 1024,
                timeout: Duration::from_secs(2),
            },
            message_queue: 4096,
            request_queue: 16_384,
            checkpoint_interval: 1_000_000,
            chunk_bytes: 256 << 10,
            wild_clocks: false,
            paces: None,
            checkpoint_micros: 20_000,
            wake_micros: 20,
            restart_micros: None,
            founds: false,
        }
    }

    /// The bug in all nodes, if any.
    #[must_use]
    pub fn planted(&self) -> Planted {
        self.raft.rules.into()
    }

    /// What the seed says.
    #[must_use]
    pub fn from_seed(seed: u64, nodes: usize) -> Self {
        let mut random = Random::new(seed, 1);
        let random = &mut random;
        let workload = Workload {
            keys: random.between(1, 12),
            think: random.pick(&[5_000, 20_000, 50_000, 100_000]),
            reads: random.pick(&[200, 400, 600]),
            stale: random.pick(&[0, 100, 300]),
            conditional: random.pick(&[0, 200, 500]),
            deletes: random.pick(&[0, 100, 300]),
            named: random.pick(&[0, 200, 1000]),
            looked_at: random.pick(&[0, 300, 1000]),
            value_bytes: random.pick(&[64, 512, 2048, 20_000]),
            timeout: Duration::from_millis(random.pick(&[300, 1000, 3000])),
        };
        let disk = DiskTraits {
            write_micros: random.pick(&[5, 20, 100]),
            flush_micros: random.pick(&[200, 500, 2000, 8000]),
            slow_of_thousand: random.pick(&[0, 2, 20]),
        };
        let network = NetworkTraits {
            delay_least: random.pick(&[20, 100, 500]),
            delay_mean: random.pick(&[50, 300, 2000]),
            loss: 0,
            duplication: 0,
            straggling: 0,
            reorders: random.chance(500),
            told: random.pick(&[0, 500, 1000]),
        };
        // From streams of their own, so that the rest of a seed stays as it was.
        let founds = nodes > 1 && Random::new(seed, 7).chance(300);
        let members = draw_members(&mut Random::new(seed, 8), nodes, founds);
        let clients = random.index(6) + 1;
        let mut raft = draw_raft(random);
        draw_snapshots(&mut Random::new(seed, 10), &mut raft);
        raft.state_check_interval = Duration::from_millis(Random::new(seed, 13).pick(&[50, 300, 1000]));
        Self {
            clients,
            // As far apart as leases bear.
            paces: raft.lease_reads.then_some([953_000, 1_000_000, 1_047_000]),
            raft,
            checkpoint_micros: Random::new(seed, 12).pick(&[20_000, 20_000, 500_000]),
            chunk_bytes: Random::new(seed, 11).pick(&[1000, 10_000, 256 << 10]),
            segment_bytes: random.pick(&[16 << 10, 64 << 10, 256 << 10]),
            disk,
            network,
            workload,
            message_queue: random.pick(&[8, 64, 4096]),
            request_queue: random.pick(&[2, 64, 16_384]),
            checkpoint_interval: random.pick(&[50_000, 1_000_000, 10_000_000]),
            wake_micros: random.pick(&[5, 30, 300]),
            restart_micros: Some(random.pick(&[100_000, 1_000_000, 5_000_000])),
            founds,
            voters: members.voters,
            churn: members.churn,
            ..Self::calm(seed, members.nodes)
        }
    }
}

/// Who there is at the begin, and whether that changes.
struct Members {
    nodes: usize,
    voters: usize,
    churn: Option<u64>,
}

fn draw_members(random: &mut Random, nodes: usize, founds: bool) -> Members {
    if founds || !random.chance(500) {
        return Members { nodes, voters: nodes, churn: None };
    }
    let voters = random.pick(&[1, nodes, nodes]);
    let spare = random.index(4);
    let churn = Some(random.pick(&[100_000, 400_000, 1_500_000]));
    Members { nodes: (nodes + spare).min(7), voters, churn }
}

/// What is kept of the log, and how reads are served.
fn draw_snapshots(random: &mut Random, settings: &mut raft::Settings) {
    settings.trailing_entries = random.pick(&[0, 5, 50, 500, 10_000]);
    settings.transfer_log_entries_max = random.pick(&[10, 1000, 1_000_000]);
    settings.disk_stall_timeout = Duration::from_millis(random.pick(&[300, 1000, 3000]));
    settings.promotion = random.chance(850);
    if random.chance(350) {
        (settings.lease_reads, settings.check_quorum) = (true, true);
    }
}

fn draw_raft(random: &mut Random) -> raft::Settings {
    let (heartbeat, election) = random.pick(&[(60, 300), (60, 300), (30, 150), (100, 1000), (150, 300)]);
    let is_tight = random.chance(400);
    let mut settings = raft::Settings {
        heartbeat_interval: Duration::from_millis(heartbeat),
        election_timeout: Duration::from_millis(election),
        pre_vote: random.chance(750),
        check_quorum: random.chance(750),
        ..raft::Settings::default()
    };
    if is_tight {
        settings.batch_entries = random.pick(&[1, 4, 256]);
        settings.batch_bytes = random.pick(&[256, 4096]);
        settings.append_bytes_max = random.pick(&[64, 1024, 65_536]);
        settings.window_messages = random.pick(&[1, 2, 8]);
        settings.window_bytes = random.pick(&[512, 8192]);
        // The smallest is filled by a handful of writes; longer ones are refused then.
        settings.uncommitted_bytes_max = random.pick(&[3000, 25_000, 100_000]);
    }
    // Small, so that followers that lag are served from the disk.
    settings.cache_bytes = random.pick(&[0, 2000, 16 << 20]);
    settings
}
