//! Wires a node together: what starts in which order, and what stops in which.
//!
//! Start: listeners (so that an address in use is known at once), HTTP (which says "not ready" and why), the data
//! directory's lock, peers, the way into a cluster, recovery, the replica. Stop: readiness, leadership, HTTP with what
//! is in flight, the replica with its last flush, peers.
//!
//! A node that learns that it was removed from its cluster stops, sets its data aside and starts again in the same
//! process, as another node.

mod addresses;
mod administration;
mod alive;
mod announcements;
mod bootstrap_store;
mod clients;
mod data;
mod descriptors;
mod elsewhere;
mod entering;
mod error;
mod hand_over;
mod joined;
mod kubernetes;
mod listen;
mod memory;
mod ownership;
mod peer_secret;
mod recovery;
mod refounding;
mod reports;
mod signals;
mod stranded;
mod tls;
mod versions;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use tokio::runtime::{self, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use crate::api::{self, Access, Api};
use crate::config::{Config, Join};
use crate::driver::{Handle, Running};
use crate::logging::Lines;
use crate::membership::Local;
use crate::metrics::Metrics;
use crate::storage::{Lock, set_aside};
use crate::supervision::{Pulse, Tasks};
use crate::transport::{self, PeerDirectory, PeerInfo};
use crate::types::LogIndex;

pub use alive::{OtherMember, PeerPods, Peers as PeersToAsk, Presence};
pub use refounding::{
    Backup, Majority, Recovered as RecoveredDirectory, Recovery, RefoundError, Restored, Target, restore,
    survey,
};

use addresses::Addresses;
use descriptors::Connections;
use elsewhere::Found;
pub use error::ServerError;
use hand_over::{hand_over, keep_handing_over};
use kubernetes::Kubernetes;
use listen::Listeners;
use peer_secret::PodSecret;
use signals::Signals;
use tls::Tls;

/// Runs one node until SIGTERM or SIGINT. A second signal ends it at once: like a crash, which loses nothing that was
/// acknowledged.
///
/// # Errors
/// Why it could not start or continue.
pub fn run(config: &Config, log: &Lines) -> Result<(), ServerError> {
    let connections = descriptors::raise_limit();
    let runtime = io_threads(config, "io")?;
    // Peers have threads of their own: no load of clients holds up a heartbeat.
    let peers = io_threads(config, "peers")?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let threads = Pulse::default();
        let _ticking = threads.ticking("io", &runtime::Handle::current());
        let _ticking = threads.ticking("peers", peers.handle());
        let mut listeners = Listeners::bind(config).await?;
        loop {
            let process = Process { log, connections, threads: &threads, peer_io: peers.handle().clone() };
            let server = Server::start(config.clone(), &listeners, &process)?;
            match Box::pin(server.run_until(listeners, &mut signals)).await {
                Ok(Ended::Removed(again)) => listeners = again,
                Ok(ended) => return Ok(ended),
                Err(error) => {
                    if let Some(settings) = &config.kubernetes {
                        kubernetes::announce_end(settings, &error).await;
                    }
                    return Err(error);
                }
            }
        }
    });
    if matches!(ended, Ok(Ended::AtOnce) | Err(_)) {
        // What still runs is not waited for: it may stand still.
        runtime.shutdown_background();
        peers.shutdown_background();
    }
    ended.map(|_| ())
}

fn io_threads(config: &Config, name: &'static str) -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(config.worker_threads).thread_name(name).enable_all().build()
}

/// What all lives of a node in this process share.
struct Process<'a> {
    log: &'a Lines,
    connections: Connections,
    threads: &'a Pulse,
    peer_io: runtime::Handle,
}

/// How a node's life ended.
enum Ended {
    /// It was told to, and has stopped in order.
    Told,
    /// It was told to twice.
    AtOnce,
    /// It was removed from its cluster: it starts again, as another node.
    Removed(Listeners),
}

/// What is up as soon as the process is.
struct Server {
    config: Config,
    /// Where everything between peers runs.
    peer_io: runtime::Handle,
    /// What must not end by itself.
    tasks: Tasks,
    connections: Connections,
    metrics: Metrics,
    api: Arc<Api<Handle>>,
    /// What peers say of themselves.
    directory: PeerDirectory,
    /// Where clients reach this node.
    client_addr: String,
    http: Vec<JoinHandle<usize>>,
    tls: Tls,
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
    addresses: Addresses,
    settings: transport::Settings,
    data_dir: PathBuf,
    peer_port: PeerPort,
    kubernetes: Option<Kubernetes>,
    /// Raises the cluster's feature level while this node leads.
    versions: JoinSet<()>,
}

/// Serves the peer port.
struct PeerPort {
    server: JoinHandle<()>,
    /// Keeps its certificates up to date.
    _secret: Option<PodSecret>,
}

impl Server {
    fn start(config: Config, listeners: &Listeners, process: &Process<'_>) -> Result<Self, ServerError> {
        let client_listener = listeners.client()?;
        let client_addr = match &config.advertise_client_addr {
            Some(address) => address.to_string(),
            None => client_listener.local_addr()?.to_string(),
        };
        let (metrics, connections) = (new_metrics(process.log)?, process.connections);
        let tasks = Tasks::default();
        let tls = Tls::load(&config, &metrics, &tasks)?;
        let directory = PeerDirectory::default();
        let node = api::Node { name: config.name.to_string(), client_addr: Some(client_addr.clone()) };
        let settings = api::Settings {
            connections_max: connections.clients,
            operations_max: connections.operations,
            ..clients::settings(&config)
        };
        let api = Api::new(node, settings, metrics.clone(), peer_lookup(directory.clone()));
        let api = Arc::new(api);
        api.watch_threads(process.threads.clone());
        let http_stop = watch::Sender::new(false);
        let serve = |name, listener, access| {
            let serving = api::serve(listener, access, Arc::clone(&api), told(&http_stop));
            tokio::spawn(tasks.watched_until(name, http_stop.subscribe(), serving))
        };
        let mut http = vec![serve("client port", client_listener, Access::Clients(tls.client.clone()))];
        let ops = listeners.ops()?;
        let ops_addr = ops.as_ref().map(tokio::net::TcpListener::local_addr).transpose()?;
        http.extend(ops.map(|ops| serve("operations port", ops, Access::Operations)));
        tracing::info!(
            name = %config.name,
            clients = client_addr,
            peers = %listeners.peer()?.local_addr()?,
            ops = ops_addr.map(tracing::field::display),
            version = env!("CARGO_PKG_VERSION"),
            "started"
        );
        let peers_stop = watch::Sender::new(false);
        Ok(Self {
            config,
            peer_io: process.peer_io.clone(),
            tasks,
            connections,
            metrics,
            api,
            directory,
            client_addr,
            http,
            tls,
            http_stop,
            peers_stop,
        })
    }

    /// Runs until it is told to end, is removed from its cluster, or something fails.
    async fn run_until(self, listeners: Listeners, signals: &mut Signals) -> Result<Ended, ServerError> {
        let joined = tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "stopping before this node was part of a cluster");
                drop(listeners);
                return tokio::select! {
                    () = self.finish_requests() => Ok(Ended::Told),
                    signal = signals.next() => Ok(at_once(signal)),
                };
            }
            joined = self.join_cluster(&listeners) => joined?,
            ended = self.tasks.ended() => return Err(ended.into()),
        };
        let mut joined = joined;
        let elsewhere = joined.watch(self.config.join != Some(Join::Wait), &self.api);
        let removed = tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                None
            }
            index = joined.removed(&self.tasks) => Some(index?),
            found = elsewhere.run() => match found {
                Found::Removed(index) => Some(index),
                Found::Refused(error) => return Err(error),
            },
        };
        // It holds the API, and so what keeps the data directory open: to be set aside, that is opened once more.
        drop(elsewhere);
        if let Some(index) = removed {
            let mut leave = pin!(self.leave(joined, index));
            return tokio::select! {
                done = &mut leave => done.map(|()| Ended::Removed(listeners)),
                signal = signals.next() => {
                    tracing::info!(signal, "stopping once the data is set aside");
                    tokio::select! {
                        done = &mut leave => done.map(|()| Ended::Told),
                        signal = signals.next() => Ok(at_once(signal)),
                    }
                }
            };
        }
        tokio::select! {
            done = self.stop(joined, listeners) => done.map(|()| Ended::Told),
            signal = signals.next() => Ok(at_once(signal)),
        }
    }

    /// Ends in order: clients are sent elsewhere, another node leads, what is under way is finished.
    async fn stop(self, mut joined: Joined, listeners: Listeners) -> Result<(), ServerError> {
        self.api.set_waiting(Some("this node is stopping".into()));
        let until = tokio::time::Instant::now() + self.config.shutdown_delay;
        let (handle, config) = (joined.handle.clone(), self.config.clone());
        hand_over(&handle, &config).await;
        let mut handing_over = pin!(keep_handing_over(&handle, &config));
        let removed = tokio::select! {
            removed = joined.removed_before(until, &self.api) => removed?,
            () = &mut handing_over => None,
        };
        drop(listeners);
        if let Some(index) = removed {
            return self.leave(joined, index).await;
        }
        let peers_stop = self.peers_stop.clone();
        tokio::select! {
            () = self.finish_requests() => {}
            () = handing_over => {}
        }
        hand_over(&handle, &config).await;
        joined.stop(&peers_stop).await?;
        tracing::info!("stopped");
        Ok(())
    }

    /// Ends because the cluster removed this node by entry `index`, and sets its data aside.
    async fn leave(self, joined: Joined, index: LogIndex) -> Result<(), ServerError> {
        let cluster_id = joined.handle.status().cluster_id;
        tracing::warn!(%cluster_id, index = index.0, "removed from the cluster; setting the data aside");
        let (peers_stop, root) = (self.peers_stop.clone(), self.config.data_dir.clone());
        self.finish_requests().await;
        let lock = joined.stop(&peers_stop).await?;
        let aside =
            spawn_blocking(move || set_aside(&root, &lock, index)).await.map_err(io::Error::other)??;
        tracing::warn!(path = %aside.display(), "this node's data was set aside; it starts again as another node");
        Ok(())
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
}

/// Completes when `stop` says true, or is gone.
fn told(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stop = stop.subscribe();
    async move {
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

fn at_once(signal: &'static str) -> Ended {
    tracing::warn!(signal, "told again to stop: ending at once");
    Ended::AtOnce
}

fn new_metrics(log: &Lines) -> Result<Metrics, ServerError> {
    let metrics = Metrics::new();
    log.count_in(metrics.log_lines_dropped_total.clone());
    metrics.add_process().map_err(io::Error::other)?;
    let revision = option_env!("KUBERAFT_REVISION").unwrap_or("unknown");
    metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), revision]).set(1);
    Ok(metrics)
}

fn peer_lookup(directory: PeerDirectory) -> api::Directory {
    Arc::new(move |id| {
        let PeerInfo { name, client_addr, .. } = directory.get(id)?;
        Some(api::Peer { name, client_addr: Some(client_addr) })
    })
}
