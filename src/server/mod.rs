//! Wires a node together: what starts in which order, and what stops in which.
//!
//! Start: listeners (so that an address in use is known at once), HTTP (which says "not ready" and why), the data
//! directory's lock, peers, the way into a cluster, recovery, the replica. Stop: readiness, HTTP with what is in
//! flight, the replica with its last flush, peers.

mod bootstrap_store;
mod recovery;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::api::{self, Api};
use crate::config::{Address, Config};
use crate::driver::{self, Failure, Handle, Inbox, Running};
use crate::membership::{Formed, InitialCluster, InitialClusterError, InitialMember, Local};
use crate::metrics::Metrics;
use crate::raft::Configuration;
use crate::replica::recovery::Recovered;
use crate::storage::files::OsFiles;
use crate::storage::space::free_bytes;
use crate::storage::state::SledState;
use crate::storage::wal::Options;
use crate::storage::{DataDir, Lock, StorageError};
use crate::transport::{
    self, BootstrapError, OnLost, OnSnapshotEnd, PeerDirectory, PeerInfo, PeerService, Peers, PeersContext,
    Resolver, StillLeads, bootstrap, found_elsewhere,
};
use crate::types::{ClusterId, NodeId};

use bootstrap_store::{BootstrapRecords, standing};

/// Pause between two tries to take the data directory's lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Why a node ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {flag} {address}: {error}{hint}")]
    Listen {
        /// The flag that gave the address.
        flag: &'static str,
        /// The address.
        address: Address,
        /// What the system said.
        error: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The operating system refused something that a process needs.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// The list of members.
    #[error(transparent)]
    InitialCluster(#[from] InitialClusterError),
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The way into a cluster.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The replica.
    #[error(transparent)]
    Replica(#[from] Failure),
    /// The data directory is of one cluster, the members that this node was told of are of another.
    #[error(
        "data directory {} belongs to cluster {own}, but a majority of --initial-cluster to cluster {other}: \
         give this node its own directory, or an empty one", path.display()
    )]
    OtherCluster {
        /// The data directory.
        path: PathBuf,
        /// Its cluster.
        own: ClusterId,
        /// The others'.
        other: ClusterId,
    },
    /// A part of the server ended by itself.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

impl ServerError {
    /// The process's exit code: 1 failed, 3 data directory damaged, 4 disk failed, 5 refused identity.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Storage(error) => error.exit_code(),
            Self::Replica(failure) => failure.exit_code(),
            Self::Bootstrap(BootstrapError::Store(_)) => 4,
            Self::OtherCluster { .. } => 5,
            Self::Listen { .. }
            | Self::System(_)
            | Self::InitialCluster(_)
            | Self::Bootstrap(_)
            | Self::Ended(_) => 1,
        }
    }
}

/// Runs one node until SIGTERM or SIGINT.
///
/// # Errors
/// Why it could not start or go on.
pub fn run(config: Config) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_threads)
        .thread_name("io")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = stop_signal()?;
        let (server, peer_listener) = Server::start(config).await?;
        server.run_until(peer_listener, stop).await
    })
}

/// Completes on SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = &'static str>, ServerError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// What is up as soon as the process is.
struct Server {
    config: Config,
    metrics: Metrics,
    api: Arc<Api<Handle>>,
    /// What peers say of themselves.
    directory: PeerDirectory,
    /// Where clients reach this node.
    client_addr: String,
    http: Vec<JoinHandle<usize>>,
    http_stop: watch::Sender<bool>,
    peers_stop: watch::Sender<bool>,
}

/// A node that is part of its cluster.
struct Joined {
    running: Running,
    /// Keeps other processes out of the data directory.
    lock: Lock,
    handle: Handle,
    local: Local,
}

impl Server {
    async fn start(config: Config) -> Result<(Self, TcpListener), ServerError> {
        let client_listener = listen("--client-addr", &config.client_addr).await?;
        let peer_listener = listen("--peer-addr", &config.peer_addr).await?;
        let ops_listener = match &config.ops_addr {
            Some(address) => Some(listen("--ops-addr", address).await?),
            None => None,
        };
        let client_addr = match &config.advertise_client_addr {
            Some(address) => address.to_string(),
            None => client_listener.local_addr()?.to_string(),
        };
        let metrics = new_metrics()?;
        let directory = PeerDirectory::default();
        let node = api::Node { name: config.name.to_string(), client_addr: Some(client_addr.clone()) };
        let api = Api::new(node, api_settings(&config), metrics.clone(), peer_lookup(directory.clone()));
        let api = Arc::new(api);
        let http_stop = watch::Sender::new(false);
        let mut http = Vec::new();
        for listener in std::iter::once(client_listener).chain(ops_listener) {
            http.push(tokio::spawn(api::serve(listener, Arc::clone(&api), told(&http_stop))));
        }
        tracing::info!(
            name = %config.name,
            clients = client_addr,
            peers = %peer_listener.local_addr()?,
            version = env!("CARGO_PKG_VERSION"),
            "started"
        );
        let peers_stop = watch::Sender::new(false);
        let server = Self { config, metrics, api, directory, client_addr, http, http_stop, peers_stop };
        Ok((server, peer_listener))
    }

    /// Runs until `stop` completes or something fails.
    async fn run_until(
        self,
        peer_listener: TcpListener,
        stop: impl Future<Output = &'static str>,
    ) -> Result<(), ServerError> {
        let mut stop = std::pin::pin!(stop);
        let joined = tokio::select! {
            signal = &mut stop => {
                tracing::info!(signal, "stopping before this node was part of a cluster");
                None
            }
            joined = self.join_cluster(peer_listener) => Some(joined?),
        };
        let Some(Joined { running: mut replica, lock, handle, local }) = joined else {
            self.finish_requests().await;
            return Ok(());
        };
        tokio::select! {
            signal = &mut stop => tracing::info!(signal, "stopping"),
            failure = replica.failed() => {
                return Err(failure.map_or(ServerError::Ended("the replica"), ServerError::Replica));
            }
            error = self.find_in_other_cluster(&local, &handle) => return Err(error?),
        }
        let peers_stop = self.peers_stop.clone();
        self.finish_requests().await;
        // Blocks until the threads have flushed.
        let stopped = spawn_blocking(|| replica.stop()).await;
        peers_stop.send_replace(true);
        stopped.map_err(io::Error::other)??;
        drop(lock);
        tracing::info!("stopped");
        Ok(())
    }

    /// Returns when the members that this node cannot reach as one of them turn out to be of another cluster.
    async fn find_in_other_cluster(
        &self,
        local: &Local,
        handle: &Handle,
    ) -> Result<ServerError, ServerError> {
        let cluster = initial_cluster(&self.config)?;
        let (resolver, settings) = (resolver(cluster.clone()), transport::Settings::default());
        let own = handle.status().cluster_id;
        let lost = || handle.status().leader.is_none();
        let other = found_elsewhere(local, own, &cluster, &resolver, &settings, lost).await;
        Ok(ServerError::OtherCluster { path: self.config.data_dir.clone(), own, other })
    }

    /// Takes no more requests and waits for those under way.
    async fn finish_requests(self) {
        self.api.set_waiting(Some("this node is stopping".into()));
        self.http_stop.send_replace(true);
        for server in self.http {
            match server.await {
                Ok(0) => {}
                Ok(cut) => tracing::warn!(connections = cut, "requests took too long and were cut off"),
                Err(error) => tracing::error!(%error, "the HTTP server failed"),
            }
        }
    }

    /// Waits for the data directory's lock: after a forced end the process before may live for a moment.
    async fn open_data_dir(&self) -> Result<DataDir, ServerError> {
        let (root, name) = (self.config.data_dir.clone(), self.config.name.to_string());
        let give_up = Instant::now() + self.config.lock_timeout;
        let api = Arc::clone(&self.api);
        let mut reported = false;
        let mut wait = move |holder: &str| {
            if Instant::now() >= give_up {
                return ControlFlow::Break(());
            }
            if !std::mem::replace(&mut reported, true) {
                tracing::info!(holder, "waiting for the data directory's lock");
                api.set_waiting(Some(format!("waiting for the data directory, which {holder} uses")));
            }
            std::thread::sleep(LOCK_RETRY);
            ControlFlow::Continue(())
        };
        let options = Options { segment_bytes: self.config.log_segment_bytes, ..Options::default() };
        let open = move || DataDir::open(&root, &name, options, &mut wait);
        Ok(spawn_blocking(open).await.map_err(io::Error::other)??)
    }

    /// From the data directory to a running replica.
    async fn join_cluster(&self, peer_listener: TcpListener) -> Result<Joined, ServerError> {
        self.api.set_waiting(Some("opening the data directory".into()));
        let data = self.open_data_dir().await?;
        let (node_id, standing) = standing(&data);
        self.api.identify(node_id);
        let name = self.config.name.to_string();
        let local = Local { node_id, name, client_addr: self.client_addr.clone() };
        let records = BootstrapRecords::new(data);
        let service =
            PeerService::new(local.clone(), standing, Arc::new(records.clone()), self.directory.clone());
        let settings = transport::Settings::default();
        tokio::spawn({
            let (service, settings, stop) = (service.clone(), settings.clone(), told(&self.peers_stop));
            async move { transport::serve(peer_listener, service, &settings, stop).await }
        });
        let formed = self.enter_cluster(&service, &settings).await?;
        self.api.set_waiting(Some("reading the log".into()));
        let data = records.take().ok_or(ServerError::Ended("the bootstrap"))?;
        let raft = self.config.raft.clone();
        let (recovered, lock) =
            spawn_blocking(move || recovery::recover(data, raft)).await.map_err(io::Error::other)??;
        let (running, handle) = self.run_replica(local.clone(), &formed, recovered, &service, settings)?;
        Ok(Joined { running, lock, handle, local })
    }
}

impl Server {
    /// Waits until this node belongs to a cluster; says meanwhile what for.
    async fn enter_cluster(
        &self,
        service: &PeerService,
        settings: &transport::Settings,
    ) -> Result<Formed, ServerError> {
        let cluster = initial_cluster(&self.config)?;
        let resolver = resolver(cluster.clone());
        let mut reasons = service.reasons();
        let api = Arc::clone(&self.api);
        let report = async move {
            loop {
                api.set_waiting(Some(reasons.borrow_and_update().clone()));
                if reasons.changed().await.is_err() {
                    return;
                }
            }
        };
        let entered = async {
            let formed = bootstrap(service, &cluster, &resolver, settings).await?;
            Ok(formed)
        };
        tokio::select! {
            entered = entered => entered,
            () = report => Err(ServerError::Ended("the peer service")),
        }
    }

    /// Connects a recovered replica with its peers and its clients, and starts it.
    fn run_replica(
        &self,
        local: Local,
        formed: &Formed,
        recovered: Recovered<OsFiles, SledState>,
        service: &PeerService,
        settings: transport::Settings,
    ) -> Result<(Running, Handle), ServerError> {
        let inbox: Arc<OnceLock<Inbox>> = Arc::default();
        let leads: Arc<OnceLock<Handle>> = Arc::default();
        let node_id = local.node_id;
        let peers = Peers::new(
            PeersContext {
                local,
                cluster_id: formed.cluster_id,
                resolver: resolver(initial_cluster(&self.config)?),
                on_lost: on_lost(Arc::clone(&inbox)),
                on_snapshot_end: on_snapshot_end(Arc::clone(&inbox)),
                still_leads: still_leads(Arc::clone(&leads)),
                directory: self.directory.clone(),
                metrics: self.metrics.clone(),
                settings,
            },
            tokio::runtime::Handle::current(),
        );
        let replica = driver::Replica {
            cluster_id: formed.cluster_id,
            node_id,
            core: recovered.core,
            log: recovered.log,
            apply: recovered.apply,
            store: recovered.store,
            state: recovered.state,
            free_bytes: {
                let path = self.config.data_dir.clone();
                Box::new(move || free_bytes(&path))
            },
            shelf: recovered.shelf,
            send: {
                let peers = peers.clone();
                Arc::new(move |to, message| peers.send(to, message).is_ok())
            },
            send_snapshot: {
                let peers = peers.clone();
                Arc::new(move |cut| peers.send_snapshot(cut))
            },
            on_configuration: {
                let peers = peers.clone();
                Box::new(move |configuration| peers.set_peers(&member_names(configuration)))
            },
            metrics: self.metrics.clone(),
        };
        let settings = driver::Settings {
            checkpoint_interval: self.config.checkpoint_interval,
            disk_reserve_bytes: self.config.disk_reserve_bytes,
            ..driver::Settings::default()
        };
        let (handle, started, running) = driver::start(replica, &settings)?;
        let _ = leads.set(handle.clone());
        let sink = started.clone();
        service.receive_snapshots_by(started.snapshots());
        let _ = inbox.set(started);
        service.run(Arc::new(move |from, message| sink.deliver(from, message)), peers);
        self.api.start(handle.clone());
        Ok((running, handle))
    }
}

/// Completes when `stop` says true, or is gone.
fn told(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stop = stop.subscribe();
    async move {
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

async fn listen(flag: &'static str, address: &Address) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address.to_string()).await.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; stop what uses it, or choose another port",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        ServerError::Listen { flag, address: address.clone(), error, hint }
    })
}

fn new_metrics() -> Result<Metrics, ServerError> {
    let metrics = Metrics::new();
    metrics.add_process().map_err(io::Error::other)?;
    let revision = option_env!("KUBERAFT_REVISION").unwrap_or("unknown");
    metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), revision]).set(1);
    Ok(metrics)
}

fn api_settings(config: &Config) -> api::Settings {
    api::Settings {
        request_timeout: config.request_timeout,
        drain_timeout: config.shutdown_timeout,
        key_bytes_max: config.limits.key_bytes_max,
        value_bytes_max: config.limits.value_bytes_max,
        request_bytes_max: config.limits.request_bytes_max,
        ..api::Settings::default()
    }
}

fn peer_lookup(directory: PeerDirectory) -> api::Directory {
    Arc::new(move |id| {
        let PeerInfo { name, client_addr } = directory.get(id)?;
        Some(api::Peer { name, client_addr: Some(client_addr) })
    })
}

/// Tells the core that messages it believes sent may be lost.
fn on_lost(inbox: Arc<OnceLock<Inbox>>) -> OnLost {
    Arc::new(move |to| {
        if let Some(inbox) = inbox.get()
            && !inbox.send_dropped(to)
        {
            // The next heartbeat finds the loss, too.
            tracing::debug!(%to, "the core is too busy to be told of a lost stream");
        }
    })
}

/// Tells the core what became of a snapshot for a peer.
fn on_snapshot_end(inbox: Arc<OnceLock<Inbox>>) -> OnSnapshotEnd {
    Arc::new(move |outcome| {
        if let Some(inbox) = inbox.get() {
            inbox.snapshot_sent(outcome);
        }
    })
}

fn still_leads(handle: Arc<OnceLock<Handle>>) -> StillLeads {
    Arc::new(move |term| handle.get().is_some_and(|handle| handle.leads(term)))
}

fn initial_cluster(config: &Config) -> Result<InitialCluster, ServerError> {
    let members = config
        .initial_cluster
        .peers()
        .iter()
        .map(|peer| InitialMember { name: peer.name.to_string(), address: peer.address.to_string() });
    Ok(InitialCluster::new(config.name.as_str(), members.collect())?)
}

fn resolver(cluster: InitialCluster) -> Resolver {
    Arc::new(move |name| cluster.address(name).map(str::to_owned))
}

fn member_names(configuration: &Configuration) -> BTreeMap<NodeId, String> {
    configuration.voters.iter().map(|(id, member)| (*id, member.name.clone())).collect()
}
