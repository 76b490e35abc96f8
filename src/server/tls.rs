//! The certificates of both ports, kept up to date for one life of a node.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::supervision::Tasks;
use crate::tls::{
    Acceptor, HeldSecret, HostOf, PeerSource, PeerTls, Port, SecretSettings, SecretSource, TlsError, watch,
};

/// TLS, as far as it is on.
#[derive(Default)]
pub(super) struct Tls {
    pub(super) peer: Option<PeerTls>,
    pub(super) client: Option<Acceptor>,
    watch: Option<JoinHandle<()>>,
}

impl Tls {
    /// Reads the files, and looks at them from now on.
    pub(super) fn load(config: &Config, metrics: &Metrics, tasks: &Tasks) -> Result<Self, TlsError> {
        let settings = &config.tls;
        let mut tls = Self::default();
        let mut ports = Vec::new();
        let mut interval = settings.reload_interval;
        if let Some(peer) = settings.peer.as_ref().filter(|peer| !is_elsewhere(peer)) {
            let port = Arc::new(Port::peer(peer.clone(), config.name.as_str(), metrics)?);
            if let PeerSource::Secret(SecretSettings { lifetime, .. }) = peer {
                interval = interval.min(look_interval(*lifetime));
            }
            // Pods are dialled by their addresses, which no certificate has.
            let host_of =
                config.kubernetes.clone().map(|pods| -> HostOf { Arc::new(move |pod| pods.host(pod)) });
            tls.peer = Some(PeerTls::new(Arc::clone(&port), host_of, metrics));
            ports.push(port);
        }
        if let Some(client) = &settings.client {
            let port = Arc::new(Port::client(client.clone(), metrics)?);
            tls.client = Some(Acceptor::new(Arc::clone(&port), metrics));
            ports.push(port);
        }
        if !ports.is_empty() {
            tls.watch = Some(tasks.spawn("certificates", watch(ports, interval)));
        }
        Ok(tls)
    }
}

/// Whether this is a secret that is read through the API server, once that answers.
fn is_elsewhere(peer: &PeerSource) -> bool {
    matches!(peer, PeerSource::Secret(SecretSettings { source: SecretSource::Kubernetes(_), .. }))
}

/// How often to look whether a certificate is at half of its time.
fn look_interval(lifetime: Duration) -> Duration {
    lifetime / 8
}

/// The peer port's TLS by a secret that is read through the API server, kept up to date until dropped.
pub(super) struct SecretTls {
    pub(super) peer: PeerTls,
    watch: JoinHandle<()>,
}

impl SecretTls {
    pub(super) fn new(
        config: &Config,
        secret: &SecretSettings,
        held: HeldSecret,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> Result<Self, TlsError> {
        let member = config.name.to_string();
        let port = Arc::new(Port::peer_by_secret(held, member, secret.lifetime, metrics)?);
        let interval = config.tls.reload_interval.min(look_interval(secret.lifetime));
        let watch = tasks.spawn("peers' certificates", watch(vec![Arc::clone(&port)], interval));
        Ok(Self { peer: PeerTls::new(port, None, metrics), watch })
    }
}

impl Drop for SecretTls {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}
