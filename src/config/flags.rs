//! The flags of `serve`, as clap reads them. The environment and the file are turned into the same flags (see
//! `layers.rs`), so that each has one name, one type, one check and one default, here.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::admission::AdmissionFlags;
use super::clients::ClientFlags;
use super::cluster::InitialCluster;
use super::tls::TlsFlags;
use super::units::{Size, Span};
use super::versions::VersionFlags;
use crate::raft;
use crate::types::{Address, Name};

const LAYERS: &str = "Each flag is also an environment variable (--client-addr is KUBERAFT_CLIENT_ADDR) and a key of \
    the file given by --config. A flag wins over the environment, the environment over the file.\n\
    Durations have a unit (us, ms, s, m, h); sizes are bytes or have one (KiB, MiB, GiB).";

/// The flags of `serve`, each value well-formed on its own.
#[derive(Clone, Debug, Args)]
#[command(next_line_help = true, after_help = LAYERS)]
pub struct Flags {
    /// TOML file with the same settings, for example client-addr = "0.0.0.0:7001"
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Name of this node; must be in --initial-cluster if that is given, unless --join is given too [default: 1 for a
    /// cluster of one]
    #[arg(long, value_name = "NAME", visible_alias = "raft_id", help_heading = "Cluster")]
    pub(super) name: Option<Name>,

    /// All first members, this node included, as name/host:port with the port of --peer-addr; the first one forms
    /// the cluster once all have answered. A node that comes later is given some members to ask [default: this node
    /// alone]
    #[arg(long, value_name = "NAME/HOST:PORT,…", visible_alias = "raft_cluster", help_heading = "Cluster")]
    pub(super) initial_cluster: Option<InitialCluster>,

    /// What a node without data does when its peers have a cluster: auto, it asks to be added, unless it was removed
    /// from it; always, also if it was removed; wait, it waits until an administrator adds it [default: auto]
    #[arg(long, value_enum, value_name = "HOW", hide_possible_values = true, help_heading = "Cluster")]
    pub(super) join: Option<Join>,

    /// How the other members are found: static, by --initial-cluster; kube, by the StatefulSet that this pod belongs to
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "HOW",
        hide_possible_values = true,
        help_heading = "Cluster"
    )]
    pub(super) discovery: Discovery,

    /// Folder for this node's data, kept over restarts [default: ./kuberaft-data/<name>]
    #[arg(long, value_name = "DIR", help_heading = "Cluster")]
    pub(super) data_dir: Option<PathBuf>,

    /// Where clients connect (HTTP)
    #[arg(
        long,
        value_name = "HOST:PORT",
        visible_alias = "http_addr",
        default_value = "127.0.0.1:7001",
        help_heading = "Addresses"
    )]
    pub(super) client_addr: Address,

    /// Where the other members connect
    #[arg(
        long,
        value_name = "HOST:PORT",
        visible_alias = "raft_addr",
        default_value = "127.0.0.1:7000",
        help_heading = "Addresses"
    )]
    pub(super) peer_addr: Address,

    /// Where /livez, /readyz, /metrics, /ui and the status are served besides the client address, never under TLS [default:
    /// nowhere else]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Addresses")]
    pub(super) ops_addr: Option<Address>,

    /// Client address that others are told [default: the value of --client-addr; if that is a wildcard such as
    /// 0.0.0.0, the host this node has in --initial-cluster]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Addresses")]
    pub(super) advertise_client_addr: Option<Address>,

    /// Peer address that others are told [default: this node's in --initial-cluster, else the value of --peer-addr]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Addresses")]
    pub(super) advertise_peer_addr: Option<Address>,

    /// Tell peers no address: each has its own one for this node in --initial-cluster, as `chaos` gives them.
    #[arg(
        long,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide = true
    )]
    pub(super) hide_peer_addr: Option<bool>,

    /// Time without a leader after which a node starts an election; each time is drawn between once and twice this.
    /// Longer where links or disks are slow
    #[arg(
        long,
        value_name = "DURATION",
        default_value_t = Span(raft::Settings::default().election_timeout),
        help_heading = "Timing"
    )]
    pub(super) election_timeout: Span,

    /// Time between a leader's heartbeats; at most half of the election timeout
    #[arg(
        long,
        value_name = "DURATION",
        default_value_t = Span(raft::Settings::default().heartbeat_interval),
        help_heading = "Timing"
    )]
    pub(super) heartbeat_interval: Span,

    /// Ask whether an election could be won before starting one (true or false)
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = raft::Settings::default().pre_vote,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        help_heading = "Timing"
    )]
    pub(super) pre_vote: bool,

    /// A leader that no majority answers steps down (true or false)
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = raft::Settings::default().check_quorum,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        help_heading = "Timing"
    )]
    pub(super) check_quorum: bool,

    /// A leader whose disk takes longer than this for a write steps down, so that another one leads; at least twice
    /// the election timeout is waited
    #[arg(
        long,
        value_name = "DURATION",
        default_value_t = Span(raft::Settings::default().disk_stall_timeout),
        help_heading = "Timing"
    )]
    pub(super) disk_stall_timeout: Span,

    /// The leader answers reads without asking the others each time, while a majority has promised to elect nobody else;
    /// set it on all nodes or on none. Depends on --clock-drift-ppm (true or false)
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = raft::Settings::default().lease_reads,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        help_heading = "Timing"
    )]
    pub(super) lease_reads: bool,

    /// How much faster than another one a node's clock may run, in millionths, for --lease-reads
    #[arg(
        long,
        value_name = "PPM",
        default_value_t = raft::Settings::default().clock_drift_ppm,
        help_heading = "Timing"
    )]
    pub(super) clock_drift_ppm: u32,

    /// Longest time a client's request may take before it is answered with 503 or 504
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = "Timing")]
    pub(super) request_timeout: Span,

    /// Longest time to finish what is in flight after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "10s", help_heading = "Timing")]
    pub(super) shutdown_timeout: Span,

    /// How long to continue to serve after SIGTERM, not ready and no longer leading, so that clients are sent elsewhere
    /// first
    #[arg(long, value_name = "DURATION", default_value = "0s", help_heading = "Timing")]
    pub(super) shutdown_delay: Span,

    /// How long to wait for another process that still holds the data folder [default: 10s; in Kubernetes as long as it
    /// takes]
    #[arg(long, value_name = "DURATION", help_heading = "Timing")]
    pub(super) lock_timeout: Option<Span>,

    /// Time between checkpoints of the applied state; a restart replays what came after the latest one
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = "Timing")]
    pub(super) checkpoint_interval: Span,

    /// Time between two times that the log's older files are read again, slowly, to find what the disk lost; 0 turns this
    /// off
    #[arg(long, value_name = "DURATION", default_value = "24h", help_heading = "Timing")]
    pub(super) log_scrub_interval: Span,

    /// Free space on the data folder's disk below which this node takes no more entries; 0 turns this off
    #[arg(long, value_name = "SIZE", default_value = "192MiB", help_heading = "Limits")]
    pub(super) disk_reserve: Size,

    /// Largest key; at most 20KiB
    #[arg(long, value_name = "SIZE", default_value = "4KiB", help_heading = "Limits")]
    pub(super) key_bytes_max: Size,

    /// Largest value
    #[arg(long, value_name = "SIZE", default_value = "1536KiB", help_heading = "Limits")]
    pub(super) value_bytes_max: Size,

    /// Largest request, key and value and all else together; at most 3MiB
    #[arg(long, value_name = "SIZE", default_value = "2MiB", help_heading = "Limits")]
    pub(super) request_bytes_max: Size,

    /// Entries of the log kept behind what the state on disk covers: a node that was away and lacks no more gets them,
    /// one that lacks more gets the whole state
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = raft::Settings::default().trailing_entries,
        help_heading = "Storage"
    )]
    pub(super) trailing_entries: u64,

    /// Entries kept beyond those, at most, for nodes that lag or are being sent the whole state
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = raft::Settings::default().transfer_log_entries_max,
        help_heading = "Storage"
    )]
    pub(super) transfer_log_entries_max: u64,

    /// Size of the log's files; what nobody needs any more is dropped file by file
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Storage")]
    pub(super) log_segment_bytes: Size,

    #[command(flatten)]
    pub(super) clients: ClientFlags,

    #[command(flatten)]
    pub(super) admission: AdmissionFlags,

    #[command(flatten)]
    pub(super) tls: TlsFlags,

    #[command(flatten)]
    pub(super) versions: VersionFlags,

    /// The pod's namespace
    #[arg(long, value_name = "NAME", hide_short_help = true, help_heading = "Kubernetes")]
    pub(super) kube_namespace: Option<String>,

    /// The StatefulSet that the pod, which --name names, belongs to
    #[arg(long, value_name = "NAME", hide_short_help = true, help_heading = "Kubernetes")]
    pub(super) kube_statefulset: Option<String>,

    /// The headless Service of its pods
    #[arg(long, value_name = "NAME", hide_short_help = true, help_heading = "Kubernetes")]
    pub(super) kube_service: Option<String>,

    /// The ConfigMap that says which cluster was formed; it must exist
    #[arg(long, value_name = "NAME", hide_short_help = true, help_heading = "Kubernetes")]
    pub(super) kube_latch: Option<String>,

    /// Most pods that become members
    #[arg(long, value_name = "COUNT", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=9), hide_short_help = true, help_heading = "Kubernetes")]
    pub(super) kube_max_members: u32,

    /// The pod's address, which others are told unless --advertise-client-addr is given
    #[arg(long, value_name = "IP", hide_short_help = true, help_heading = "Kubernetes")]
    pub(super) pod_ip: Option<IpAddr>,

    /// Threads that serve clients, and as many that serve peers; consensus, log and state have their own
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "Process")]
    pub(super) worker_threads: u16,

    /// Format of the log on standard error: text, or json with one object a line
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true,
        help_heading = "Process"
    )]
    pub(super) log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, also for parts of the program: warn,kuberaft=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Process")]
    pub(super) log_level: String,

    /// End when the parent, the process of this id, does; `dev` starts its nodes so.
    #[arg(long, value_name = "PID", hide = true)]
    pub(super) exit_with_parent: Option<u32>,
}

/// How members find each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Discovery {
    /// By the list in --initial-cluster
    #[default]
    Static,
    /// By a StatefulSet
    Kube,
}

/// What a node without data does when its peers have a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Join {
    /// Asks to be added, unless it was removed
    Auto,
    /// Asks to be added
    Always,
    /// Waits until it is added
    Wait,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}
