//! The settings of one node: flags, environment and file become one [`Config`], checked once.
//!
//! A flag wins over the environment, the environment over the file, the file over the default.

mod admission;
mod clients;
mod cluster;
mod flags;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod kubernetes;
mod layers;
mod tls;
mod units;
mod versions;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use admission::Admit;
pub use clients::ClientSettings;
pub use cluster::{ClusterError, InitialCluster, MEMBERS_MAX, Peer};
pub use flags::{Discovery, Flags, Join, LogFormat};
pub use tls::PeerTlsFlags;
pub use units::{Size, Span, UnitError};

use crate::k8s;
use crate::raft;
use crate::tls::Settings as TlsSettings;
use crate::types::{Address, Name};

/// Everything `serve` needs to know, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's name.
    pub name: Name,
    /// The first members; the first of them forms the cluster. This node is among them, unless `join` is given.
    pub initial_cluster: InitialCluster,
    /// What to do without data when the others have a cluster.
    pub join: Option<Join>,
    /// Which nodes may join without an administrator, while this node leads.
    pub admit: Admit,
    /// For how long a member must have been silent before a new node under its name replaces it, outside Kubernetes.
    pub replace_after: Duration,
    /// Where this node keeps its data.
    pub data_dir: PathBuf,
    /// Where to listen for clients.
    pub client_addr: Address,
    /// Where to listen for peers. What others dial is this node's entry in `initial_cluster`.
    pub peer_addr: Address,
    /// Where to serve health and metrics besides.
    pub ops_addr: Option<Address>,
    /// The client address to tell others; `None` means where `client_addr` came to be bound.
    pub advertise_client_addr: Option<Address>,
    /// The peer address to tell others; `None` for a node that was started alone on a wildcard.
    pub advertise_peer_addr: Option<Address>,
    /// Timing and limits of consensus; passed its own check.
    pub raft: raft::Settings,
    /// Longest time a client's request may take.
    pub request_timeout: Duration,
    /// Longest time to finish what is in flight after SIGTERM.
    pub shutdown_timeout: Duration,
    /// How long to continue to serve after SIGTERM.
    pub shutdown_delay: Duration,
    /// How long to wait for the data directory's lock; `None`: as long as it takes.
    pub lock_timeout: Option<Duration>,
    /// Time between checkpoints of the applied state.
    pub checkpoint_interval: Duration,
    /// Time between two times that the log's older files are read again; zero: never.
    pub log_scrub_interval: Duration,
    /// Free space below which no entries are taken, in bytes; 0: never.
    pub disk_reserve_bytes: u64,
    /// Size of the log's files.
    pub log_segment_bytes: u32,
    /// Largest key, value and request.
    pub limits: Limits,
    /// What clients may do, and how much.
    pub clients: ClientSettings,
    /// Which ports speak TLS, by which files.
    pub tls: TlsSettings,
    /// Threads that serve clients and peers, 1 or more.
    pub worker_threads: usize,
    /// How to log.
    pub log: Log,
    /// Names and limits of a pod whose StatefulSet says who the members are; `initial_cluster` then holds itself alone.
    pub kubernetes: Option<k8s::Settings>,
    /// The process that this one must not outlive.
    pub exit_with_parent: Option<u32>,
}

/// Largest sizes that are taken from clients, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of a key.
    pub key_bytes_max: usize,
    /// Of a value.
    pub value_bytes_max: usize,
    /// Of a whole request or entry; a largest key with a largest value fits.
    pub request_bytes_max: usize,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// A filter that `tracing_subscriber::EnvFilter` accepts.
    pub level: String,
}

/// Settings that cannot work; each says what to change. All of them are usage errors, exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line is wrong; also carries `--help` and `--version`.
    #[error(transparent)]
    Flags(#[from] clap::Error),
    /// An environment variable's value is wrong.
    #[error("environment variable {variable}: {message}")]
    Environment {
        /// Which.
        variable: String,
        /// What is wrong.
        message: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {error}", path = path.display())]
    FileRead {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML, or a key or value in it is wrong.
    #[error("configuration file {path}: {message}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A cluster of several, but not which of them this is.
    #[error("--initial-cluster needs --name: say which of its members this node is ({0})")]
    NameMissing(String),
    /// The node is not among the members.
    #[error(
        "--name {name} is not in --initial-cluster, which has {members}: add {name}/host:port there, or correct the name; \
         or give --join to add this node to their cluster"
    )]
    NotAMember {
        /// This node's name.
        name: Name,
        /// Those listed.
        members: String,
    },
    /// A pod must say who it is.
    #[error("--discovery kube needs --{0}; the chart gives it")]
    KubeFlagMissing(&'static str),
    /// In Kubernetes the StatefulSet lists the members.
    #[error(
        "--discovery kube and --initial-cluster exclude each other: the StatefulSet says who the members are"
    )]
    KubeInitialCluster,
    /// Only pods read Secrets.
    #[error(
        "--kube-peer-secret needs --discovery kube; elsewhere the secret is in a file: --peer-secret-file"
    )]
    KubeSecretOutside,
    /// No pod of the StatefulSet.
    #[error("--name {name} is no pod of StatefulSet {stateful_set}: expected {stateful_set}-<ordinal>")]
    KubeName {
        /// As given.
        name: Name,
        /// As given.
        stateful_set: String,
    },
    /// Others would have to dial port 0.
    #[error(
        "--peer-addr {0} has port 0: give a port, or an --initial-cluster that says how this node is reached"
    )]
    PeerPortZero(Address),
    /// Two of the node's own addresses are one.
    #[error("{first} and {second} are both {address}: each needs a port of its own")]
    SameAddress {
        /// One flag.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// The address of both.
        address: Address,
    },
    /// Nobody can connect to a wildcard.
    #[error("--{flag} {address} is a wildcard or has port 0: give the address where {who} reach this node")]
    Advertise {
        /// Which.
        flag: &'static str,
        /// As given.
        address: Address,
        /// Those who are told it.
        who: &'static str,
    },
    /// Others would not know how to reach it.
    #[error(
        "--peer-addr {0} cannot be told to others: give --advertise-peer-addr, or this node's entry in --initial-cluster"
    )]
    PeerAddress(Address),
    /// See [`raft::Settings::check`].
    #[error("settings of consensus: {0}")]
    Raft(#[from] raft::SettingsError),
    /// Certificate, key and authority make sense together only.
    #[error("--{given} needs --{missing}, too")]
    TlsPart {
        /// Which is there.
        given: &'static str,
        /// Which is not.
        missing: &'static str,
    },
    /// Two ways to the same end.
    #[error("--{one} and --{other} exclude each other: members identify themselves in one way")]
    PeersTwice {
        /// One flag.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// Anybody could speak as a member.
    #[error(
        "--peer-addr {0} can be reached from other machines, and without TLS anyone who connects to it can change or delete all \
         data. Give all members the same secret by --peer-secret-file (`openssl rand -base64 32` makes one), or \
         certificates by --peer-tls-cert, --peer-tls-key and --peer-tls-ca. Only where nobody else can connect to this \
         address, give --insecure-peers"
    )]
    InsecurePeers(Address),
    /// A duration of zero.
    #[error("--{0} must be above zero")]
    Zero(&'static str),
    /// The limits contradict each other.
    #[error(
        "--request-bytes-max {request} is too small for a largest key ({key}) with a largest value ({value}) and \
         {REQUEST_OVERHEAD_BYTES} bytes around them: raise it or lower the others"
    )]
    Limits {
        /// As given.
        request: Size,
        /// As given.
        key: Size,
        /// As given.
        value: Size,
    },
    /// Entries would not fit into a message between peers.
    #[error("--request-bytes-max {0} is above {max}, what one message between members carries", max = Size(REQUEST_BYTES_MAX))]
    RequestTooLarge(Size),
    /// Such keys would not fit into a request's target.
    #[error(
        "--key-bytes-max {0} is above {max}: percent-encoded, a larger key may not fit into a request's target of 64KiB",
        max = Size(KEY_BYTES_MAX)
    )]
    KeyTooLarge(Size),
    /// Files of the log that are too small or too large to be of use.
    #[error("--log-segment-bytes {0} is not between 64KiB and 1GiB")]
    SegmentBytes(Size),
    /// No log filter.
    #[error("--log-level `{level}` is not understood ({message}): use error, warn, info, debug or trace")]
    LogLevel {
        /// As given.
        level: String,
        /// Why.
        message: String,
    },
}

/// How long another process's lock of the data directory is waited for outside Kubernetes.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Range of `--log-segment-bytes`.
const SEGMENT_BYTES: std::ops::RangeInclusive<u32> = (64 << 10)..=(1 << 30);
/// Bytes of a request that are neither key nor value.
const REQUEST_OVERHEAD_BYTES: usize = 1024;
/// Largest value of `--key-bytes-max`: each byte may take three in a request's target, of which hyper takes 65,534, and
/// parameters come behind it.
const KEY_BYTES_MAX: usize = 20 << 10;
/// Largest value of `--request-bytes-max`: below the 4 MiB of a gRPC message, with room for what is around entries.
const REQUEST_BYTES_MAX: usize = 3 << 20;

impl Config {
    /// Reads and checks all settings. `args` is what follows `serve` on the command line; `env` looks up an
    /// environment variable.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to do about it.
    pub fn load(
        args: impl IntoIterator<Item = impl Into<OsString>>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let args = args.into_iter().map(Into::into).collect();
        Self::check(layers::read(args, env)?)
    }

    fn check(flags: Flags) -> Result<Self, ConfigError> {
        let name = node_name(&flags)?;
        let kubernetes = kubernetes::settings(&flags, &name)?;
        let initial_cluster = members(&flags, &name, kubernetes.as_ref())?;
        check_addresses(&flags)?;
        flags.tls.check_reach(&flags.peer_addr, kubernetes.is_some())?;
        check_durations(&flags)?;
        let raft = raft::Settings {
            heartbeat_interval: flags.heartbeat_interval.0,
            election_timeout: flags.election_timeout.0,
            pre_vote: flags.pre_vote,
            check_quorum: flags.check_quorum,
            trailing_entries: flags.trailing_entries,
            transfer_log_entries_max: flags.transfer_log_entries_max,
            lease_reads: flags.lease_reads,
            clock_drift_ppm: flags.clock_drift_ppm,
            disk_stall_timeout: flags.disk_stall_timeout.0,
            feature_level: flags.versions.feature_level(),
            ..raft::Settings::default()
        };
        raft.check()?;
        let limits = limits(&flags)?;
        let log_segment_bytes = log_segment_bytes(flags.log_segment_bytes)?;
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&flags.log_level) {
            return Err(ConfigError::LogLevel { level: flags.log_level, message: error.to_string() });
        }
        // A pod's previous process ends by itself; a pod that did not wait would be started over and over.
        let lock_timeout = flags.lock_timeout.map(|span| span.0);
        let lock_timeout = lock_timeout.or_else(|| kubernetes.is_none().then_some(LOCK_TIMEOUT));
        Ok(Self {
            join: flags.join,
            admit: flags.admission.admit,
            replace_after: flags.admission.replace_after.0,
            advertise_peer_addr: match &kubernetes {
                // Peers look up the pod's name.
                Some(_) => None,
                None => advertised_to_peers(&flags, &name, &initial_cluster)?,
            },
            data_dir: flags.data_dir.clone().unwrap_or_else(|| format!("./kuberaft-data/{name}").into()),
            advertise_client_addr: kubernetes::client_addr(&flags)
                .or_else(|| advertised(&flags, &name, &initial_cluster)),
            kubernetes,
            name,
            initial_cluster,
            client_addr: flags.client_addr,
            peer_addr: flags.peer_addr,
            ops_addr: flags.ops_addr,
            raft,
            request_timeout: flags.request_timeout.0,
            shutdown_timeout: flags.shutdown_timeout.0,
            shutdown_delay: flags.shutdown_delay.0,
            lock_timeout,
            checkpoint_interval: flags.checkpoint_interval.0,
            log_scrub_interval: flags.log_scrub_interval.0,
            log_segment_bytes,
            disk_reserve_bytes: flags.disk_reserve.0 as u64,
            limits,
            clients: flags.clients.settings()?,
            tls: flags.tls.settings()?,
            worker_threads: flags.worker_threads.into(),
            log: Log { format: flags.log_format, level: flags.log_level },
            exit_with_parent: flags.exit_with_parent,
        })
    }
}

fn node_name(flags: &Flags) -> Result<Name, ConfigError> {
    match (&flags.name, &flags.initial_cluster) {
        (Some(name), _) => Ok(name.clone()),
        (None, None) => Ok("1".parse().expect("a digit is a name")),
        (None, Some(cluster)) => Err(ConfigError::NameMissing(cluster.names())),
    }
}

fn members(flags: &Flags, name: &Name, pod: Option<&k8s::Settings>) -> Result<InitialCluster, ConfigError> {
    match &flags.initial_cluster {
        Some(cluster) if cluster.get(name).is_some() || flags.join.is_some() => Ok(cluster.clone()),
        Some(cluster) => Err(ConfigError::NotAMember { name: name.clone(), members: cluster.names() }),
        None if flags.peer_addr.port == 0 => Err(ConfigError::PeerPortZero(flags.peer_addr.clone())),
        None => Ok(pod.map_or_else(
            || InitialCluster::single(name.clone(), flags.peer_addr.clone()),
            |pod| kubernetes::own_entry(pod, name),
        )),
    }
}

fn check_addresses(flags: &Flags) -> Result<(), ConfigError> {
    let mut own = vec![("--client-addr", &flags.client_addr), ("--peer-addr", &flags.peer_addr)];
    own.extend(flags.ops_addr.as_ref().map(|address| ("--ops-addr", address)));
    for (at, (second, address)) in own.iter().enumerate() {
        let clash = own[..at].iter().find(|(_, other)| other == address && address.port != 0);
        if let Some((first, _)) = clash {
            return Err(ConfigError::SameAddress { first, second, address: (*address).clone() });
        }
    }
    let advertised = [
        ("advertise-client-addr", &flags.advertise_client_addr, "clients"),
        ("advertise-peer-addr", &flags.advertise_peer_addr, "peers"),
    ];
    for (flag, address, who) in advertised {
        if let Some(address) = address.clone().filter(|address| address.is_wildcard() || address.port == 0) {
            return Err(ConfigError::Advertise { flag, address, who });
        }
    }
    Ok(())
}

fn check_durations(flags: &Flags) -> Result<(), ConfigError> {
    let durations = [
        ("request-timeout", flags.request_timeout),
        ("shutdown-timeout", flags.shutdown_timeout),
        ("checkpoint-interval", flags.checkpoint_interval),
    ];
    match durations.iter().find(|(_, span)| span.0.is_zero()) {
        Some((flag, _)) => Err(ConfigError::Zero(flag)),
        None => Ok(()),
    }
}

fn limits(flags: &Flags) -> Result<Limits, ConfigError> {
    let (key, value, request) = (flags.key_bytes_max, flags.value_bytes_max, flags.request_bytes_max);
    for (flag, size) in [("key-bytes-max", key), ("value-bytes-max", value)] {
        if size.0 == 0 {
            return Err(ConfigError::Zero(flag));
        }
    }
    if key.0 > KEY_BYTES_MAX {
        return Err(ConfigError::KeyTooLarge(key));
    }
    if request.0 > REQUEST_BYTES_MAX {
        return Err(ConfigError::RequestTooLarge(request));
    }
    let needed = key.0.saturating_add(value.0).saturating_add(REQUEST_OVERHEAD_BYTES);
    if needed > request.0 {
        return Err(ConfigError::Limits { request, key, value });
    }
    Ok(Limits { key_bytes_max: key.0, value_bytes_max: value.0, request_bytes_max: request.0 })
}

/// The log's files: no smaller than that an ordinary batch fits into one, and no larger than that offsets fit.
fn log_segment_bytes(size: Size) -> Result<u32, ConfigError> {
    let bytes = u32::try_from(size.0).ok().filter(|bytes| SEGMENT_BYTES.contains(bytes));
    bytes.ok_or(ConfigError::SegmentBytes(size))
}

/// What others are told, unless it is simply the address that came to be bound.
fn advertised(flags: &Flags, name: &Name, cluster: &InitialCluster) -> Option<Address> {
    if flags.advertise_client_addr.is_some() || !flags.client_addr.is_wildcard() {
        return flags.advertise_client_addr.clone().or_else(|| bound(&flags.client_addr));
    }
    let told = flags.advertise_peer_addr.as_ref().or_else(|| Some(&cluster.get(name)?.address));
    let host = told?.host.clone();
    bound(&Address { host, port: flags.client_addr.port })
}

/// Where peers reach this node. One that is to join others must tell them.
fn advertised_to_peers(
    flags: &Flags,
    name: &Name,
    cluster: &InitialCluster,
) -> Result<Option<Address>, ConfigError> {
    let listed = cluster.get(name).map(|peer| &peer.address);
    if flags.hide_peer_addr == Some(true) && listed.is_some() {
        return Ok(None);
    }
    let usable = |address: &&Address| !address.is_wildcard();
    let address = flags.advertise_peer_addr.as_ref().or(listed).filter(usable).cloned();
    let address = address.or_else(|| bound(&flags.peer_addr).filter(|address| usable(&address)));
    if address.is_none() && listed.is_none() {
        return Err(ConfigError::PeerAddress(flags.peer_addr.clone()));
    }
    Ok(address)
}

/// The address, unless its port is still to be chosen.
fn bound(address: &Address) -> Option<Address> {
    (address.port != 0).then(|| address.clone())
}

#[cfg(test)]
mod tests;
