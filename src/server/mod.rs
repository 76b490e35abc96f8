//! Wires a node together: what starts in which order, and what stops in which.
//!
//! Start: listeners (so that an address in use is known at once), HTTP (which says "not ready" and why), the data
//! directory's lock, peers, the way into a cluster, recovery, the replica. Stop: readiness, leadership, HTTP with what
//! is in flight, the replica with its last flush, peers.
//!
//! A node that learns that it was removed from its cluster stops, sets its data aside and starts anew in the same
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
use std::sync::{Arc, OnceLock};

use tokio::runtime::{self, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use crate::api::{self, Access, Api};
use crate::config::{Admit, Config, Join};
use crate::driver::{self, Handle, Inbox, Running};
use crate::logging::Lines;
use crate::membership::{Formed, JoinPolicy, Local, Standing, silent_before_replaced};
use crate::metrics::Metrics;
use crate::replica::recovery::Recovered;
use crate::storage::files::OsFiles;
use crate::storage::state::SledState;
use crate::storage::{Lock, set_aside};
use crate::supervision::{Pulse, Tasks};
use crate::transport::{
    self, Administrator, Entrance, Neighbours, PeerDirectory, PeerInfo, PeerService, Peers, PeersContext,
    Surroundings, bootstrap,
};
use crate::types::LogIndex;

pub use alive::{OtherMember, PeerPods, Peers as PeersToAsk, Presence};
pub use refounding::{
    Backup, Majority, Recovered as RecoveredDirectory, Recovery, RefoundError, Restored, Target, restore,
    survey,
};

use addresses::{Addresses, initial_cluster, member_names};
use administration::{Administration, Rules};
use bootstrap_store::{BootstrapRecords, standing};
use descriptors::Connections;
use elsewhere::Found;
pub use error::ServerError;
use hand_over::{hand_over, keep_handing_over};
use kubernetes::Kubernetes;
use listen::Listeners;
use peer_secret::PodSecret;
use reports::{on_lost, on_snapshot_end, still_leads};
use signals::Signals;
use tls::Tls;

/// Runs one node until SIGTERM or SIGINT. A second signal ends it at once: like a crash, which loses nothing that was
/// acknowledged.
///
/// # Errors
/// Why it could not start or go on.
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
    /// It was removed from its cluster: it starts anew, as another node.
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
        tracing::warn!(path = %aside.display(), "this node's data was set aside; it starts anew as another node");
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

    /// From the data directory to a running replica.
    async fn join_cluster(&self, listeners: &Listeners) -> Result<Joined, ServerError> {
        let data = self.open_data_dir().await?;
        let (node_id, standing) = standing(&data);
        self.api.identify(node_id);
        let mut kubernetes = match &self.config.kubernetes {
            Some(settings) => Some(Kubernetes::connect(settings, &self.tasks).await?),
            None => None,
        };
        if let (Some(kubernetes), Standing::Member(formed)) = (&kubernetes, &standing) {
            kubernetes.stateful_set().may_wake(formed.cluster_id).await?;
        }
        let name = self.config.name.to_string();
        let peer_addr = self.config.advertise_peer_addr.as_ref().map(ToString::to_string);
        let local = Local { node_id, name, client_addr: self.client_addr.clone(), peer_addr };
        let records = BootstrapRecords::new(data);
        let service =
            PeerService::new(local.clone(), standing, Arc::new(records.clone()), self.directory.clone());
        let waits = |why| self.api.set_waiting(Some(why));
        let pod_secret = PodSecret::wait(&self.config, kubernetes.as_ref(), &self.metrics, waits).await?;
        let tls = pod_secret.as_ref().map(PodSecret::tls).or_else(|| self.tls.peer.clone());
        let feature_level = self.config.raft.feature_level;
        if let Some(tls) = tls.clone() {
            let has_token =
                move |token: &str| tls.administrators().is_some_and(|known| known.has_token(token));
            self.api.verify_tokens_by(Arc::new(has_token));
        }
        let settings = transport::Settings {
            tls,
            feature_level,
            connections_max: self.connections.peers,
            ..transport::Settings::default()
        };
        let listed = initial_cluster(&self.config)?;
        let surroundings: Arc<dyn Surroundings> = match &kubernetes {
            Some(kubernetes) => Arc::new(kubernetes.stateful_set()),
            None => Arc::new(listed.clone()),
        };
        let pods = kubernetes.as_ref().map(Kubernetes::addresses);
        let addresses = Addresses::new(listed, self.directory.clone(), pods);
        service.know(Neighbours {
            surroundings: Arc::clone(&surroundings),
            resolver: addresses.known_resolver(),
            settings: settings.clone(),
        });
        let listener = {
            // The listener's events are taken by the threads that serve it.
            let _entered = self.peer_io.enter();
            listeners.peer()?
        };
        let peers = self.peer_io.spawn(self.tasks.watched_until("peer port", self.peers_stop.subscribe(), {
            let (service, settings, stop) = (service.clone(), settings.clone(), told(&self.peers_stop));
            async move {
                if let Err(error) = transport::serve(listener, service, &settings, stop).await {
                    tracing::error!(%error, "the peer port failed");
                }
            }
        }));
        let entering = self.enter_cluster(&service, surroundings, &addresses, &settings);
        let formed = match &kubernetes {
            Some(kubernetes) => tokio::select! {
                formed = entering => formed?,
                never = kubernetes.announce_waiting(service.reasons()) => match never {},
            },
            None => entering.await?,
        };
        self.metrics.cluster_info.with_label_values(&[&formed.cluster_id.to_string()]).set(1);
        self.api.set_waiting(Some("reading the log".into()));
        let data = records.take().ok_or(ServerError::Ended("the bootstrap"))?;
        let raft = self.config.raft.clone();
        let (recovered, lock) =
            spawn_blocking(move || recovery::recover(data, raft)).await.map_err(io::Error::other)??;
        let rules = self.rules(&addresses, kubernetes.as_ref());
        let (running, handle) = self.run_replica(
            local.clone(),
            &formed,
            recovered,
            &service,
            &addresses,
            settings.clone(),
            rules,
        )?;
        self.api.watch_threads(running.pulse());
        if let Some(kubernetes) = &mut kubernetes {
            kubernetes.control(&handle, &self.metrics, &self.api);
        }
        let data_dir = self.config.data_dir.clone();
        let peer_port = PeerPort { server: peers, _secret: pod_secret };
        let versions = versions::keep_raising(handle.clone(), self.directory.clone(), feature_level);
        Ok(Joined {
            running,
            lock,
            handle,
            local,
            addresses,
            settings,
            data_dir,
            peer_port,
            kubernetes,
            versions,
        })
    }
}

impl Server {
    /// Waits until this node belongs to a cluster; says meanwhile what for.
    async fn enter_cluster(
        &self,
        service: &PeerService,
        surroundings: Arc<dyn Surroundings>,
        addresses: &Addresses,
        settings: &transport::Settings,
    ) -> Result<Formed, ServerError> {
        let entrance = Entrance {
            surroundings,
            policy: match self.config.join {
                None | Some(Join::Auto) => JoinPolicy::Auto,
                Some(Join::Always) => JoinPolicy::Always,
                Some(Join::Wait) => JoinPolicy::Wait,
            },
            // A former self that is gone has been silent for long enough by then.
            name_in_use_max: silent_before_replaced(self.config.raft.election_timeout),
        };
        let resolver = addresses.resolver();
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
            let formed = bootstrap(service, &entrance, &resolver, settings).await?;
            Ok(formed)
        };
        tokio::select! {
            entered = entered => entered,
            () = report => Err(ServerError::Ended("the peer service")),
        }
    }

    /// Who may join this node's cluster while it leads.
    fn rules(&self, addresses: &Addresses, kubernetes: Option<&Kubernetes>) -> Rules {
        let names = || addresses.listed().members().iter().map(|member| member.name.clone()).collect();
        Rules {
            election_timeout: self.config.raft.election_timeout,
            replace_after: self.config.replace_after,
            admitted: (self.config.admit == Admit::Names).then(names),
            stateful_set: kubernetes.map(Kubernetes::stateful_set),
        }
    }

    /// Connects a recovered replica with its peers and its clients, and starts it.
    fn run_replica(
        &self,
        local: Local,
        formed: &Formed,
        recovered: Recovered<OsFiles, SledState>,
        service: &PeerService,
        addresses: &Addresses,
        settings: transport::Settings,
        rules: Rules,
    ) -> Result<(Running, Handle), ServerError> {
        let inbox: Arc<OnceLock<Inbox>> = Arc::default();
        let leads: Arc<OnceLock<Handle>> = Arc::default();
        let node_id = local.node_id;
        let peers = Peers::new(
            PeersContext {
                tasks: self.tasks.clone(),
                local,
                cluster_id: formed.cluster_id,
                resolver: addresses.resolver(),
                on_lost: on_lost(Arc::clone(&inbox)),
                on_snapshot_end: on_snapshot_end(Arc::clone(&inbox)),
                still_leads: still_leads(Arc::clone(&leads)),
                directory: self.directory.clone(),
                metrics: self.metrics.clone(),
                settings,
            },
            self.peer_io.clone(),
        );
        let replica = driver::Replica {
            cluster_id: formed.cluster_id,
            node_id,
            core: recovered.core,
            log: recovered.log,
            apply: recovered.apply,
            store: recovered.store,
            state: recovered.state,
            free_bytes: data::free_bytes(&self.config),
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
                let (peers, addresses) = (peers.clone(), addresses.clone());
                Box::new(move |configuration| {
                    addresses.configure(configuration);
                    peers.set_peers(&member_names(configuration));
                })
            },
            metrics: self.metrics.clone(),
        };
        let settings = driver::Settings {
            checkpoint_interval: self.config.checkpoint_interval,
            disk_reserve_bytes: self.config.disk_reserve_bytes,
            log_scrub_interval: self.config.log_scrub_interval,
            ..driver::Settings::default()
        };
        let (handle, started, running) = driver::start(replica, &settings)?;
        let _ = leads.set(handle.clone());
        let sink = started.clone();
        service.receive_snapshots_by(started.snapshots());
        let _ = inbox.set(started);
        let administration = Administration::new(handle.clone(), peers.clone(), rules);
        service.administer_by(Arc::new(administration.clone()));
        service.run(Arc::new(move |from, message| sink.deliver(from, message)), peers);
        self.api.administer_by(Arc::new(move |request, timeout| administration.anywhere(request, timeout)));
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
