//! From the data directory to a running replica of a cluster.

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::task::{JoinHandle, spawn_blocking};

use super::addresses::{Addresses, initial_cluster, member_names};
use super::administration::{Administration, Rules};
use super::bootstrap_store::{BootstrapRecords, standing};
use super::kubernetes::Kubernetes;
use super::listen::Listeners;
use super::peer_secret::PodSecret;
use super::reports::{on_lost, on_snapshot_end, still_leads};
use super::{Joined, PeerPort, Server, ServerError, data, recovery, told, versions};
use crate::config::{Admit, Join};
use crate::driver::{self, Handle, Inbox, Running};
use crate::membership::{Formed, JoinPolicy, Local, Standing, silent_before_replaced};
use crate::replica::recovery::Recovered;
use crate::storage::files::OsFiles;
use crate::storage::state::SledState;
use crate::transport::{
    self, Administrator, Entrance, Neighbours, PeerService, Peers, PeersContext, Surroundings, bootstrap,
};
use crate::types::NodeId;

/// What a node has become a member of, and what it reaches the others by.
struct Entered<'a> {
    local: Local,
    formed: &'a Formed,
    service: &'a PeerService,
    addresses: &'a Addresses,
    settings: transport::Settings,
    rules: Rules,
}

impl Server {
    /// From the data directory to a running replica.
    pub(super) async fn join_cluster(&self, listeners: &Listeners) -> Result<Joined, ServerError> {
        let data = self.open_data_dir().await?;
        let (node_id, standing) = standing(&data);
        self.api.identify(node_id);
        let mut kubernetes = self.connect_kubernetes(&standing).await?;
        let local = self.local(node_id);
        let records = BootstrapRecords::new(data);
        let service =
            PeerService::new(local.clone(), standing, Arc::new(records.clone()), self.directory.clone());
        let waits = |why| self.api.set_waiting(Some(why));
        let (metrics, tasks) = (&self.metrics, &self.tasks);
        let pod_secret = PodSecret::wait(&self.config, kubernetes.as_ref(), metrics, tasks, waits).await?;
        let settings = self.peer_settings(pod_secret.as_ref());
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
        let server = self.serve_peers(listeners, &service, &settings)?;
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
        let entered = Entered {
            local: local.clone(),
            formed: &formed,
            service: &service,
            addresses: &addresses,
            settings: settings.clone(),
            rules: self.rules(&addresses, kubernetes.as_ref()),
        };
        let (running, handle) = self.run_replica(recovered, entered)?;
        self.api.watch_threads(running.pulse());
        if let Some(kubernetes) = &mut kubernetes {
            kubernetes.control(&handle, &self.metrics, &self.api);
        }
        Ok(Joined {
            versions: versions::keep_raising(handle.clone(), self.directory.clone(), settings.feature_level),
            running,
            lock,
            handle,
            local,
            addresses,
            settings,
            data_dir: self.config.data_dir.clone(),
            peer_port: PeerPort { server, _secret: pod_secret },
            kubernetes,
        })
    }

    /// Where the API server is; refuses to start on data of another cluster than the latch's.
    async fn connect_kubernetes(&self, standing: &Standing) -> Result<Option<Kubernetes>, ServerError> {
        let Some(settings) = &self.config.kubernetes else { return Ok(None) };
        let kubernetes = Kubernetes::connect(settings, &self.tasks).await?;
        if let Standing::Member(formed) = standing {
            kubernetes.stateful_set().may_wake(formed.cluster_id).await?;
        }
        Ok(Some(kubernetes))
    }

    fn local(&self, node_id: NodeId) -> Local {
        Local {
            node_id,
            name: self.config.name.to_string(),
            client_addr: self.client_addr.clone(),
            peer_addr: self.config.advertise_peer_addr.as_ref().map(ToString::to_string),
        }
    }

    /// How peers are spoken to. Administrators are known by the same secret.
    fn peer_settings(&self, pod_secret: Option<&PodSecret>) -> transport::Settings {
        let tls = pod_secret.map(PodSecret::tls).or_else(|| self.tls.peer.clone());
        if let Some(tls) = tls.clone() {
            let has_token =
                move |token: &str| tls.administrators().is_some_and(|known| known.has_token(token));
            self.api.verify_tokens_by(Arc::new(has_token));
        }
        transport::Settings {
            tls,
            feature_level: self.config.raft.feature_level,
            connections_max: self.connections.peers,
            ..transport::Settings::default()
        }
    }

    fn serve_peers(
        &self,
        listeners: &Listeners,
        service: &PeerService,
        settings: &transport::Settings,
    ) -> Result<JoinHandle<()>, ServerError> {
        let listener = {
            // The listener's events are taken by the threads that serve it.
            let _entered = self.peer_io.enter();
            listeners.peer()?
        };
        let (service, settings, stop) = (service.clone(), settings.clone(), told(&self.peers_stop));
        let serving = async move {
            if let Err(error) = transport::serve(listener, service, &settings, stop).await {
                tracing::error!(%error, "the peer port failed");
            }
        };
        let watched = self.tasks.watched_until("peer port", self.peers_stop.subscribe(), serving);
        Ok(self.peer_io.spawn(watched))
    }

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
            // The node that had this name before and is gone has been silent for long enough by then.
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
        recovered: Recovered<OsFiles, SledState>,
        entered: Entered<'_>,
    ) -> Result<(Running, Handle), ServerError> {
        let Entered { local, formed, service, addresses, settings, rules } = entered;
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
