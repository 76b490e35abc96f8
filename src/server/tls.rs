//! The certificates of both ports, kept up to date for one life of a node.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::tls::{Acceptor, HostOf, PeerTls, Port, TlsError, watch};

/// TLS, as far as it is on.
#[derive(Default)]
pub(super) struct Tls {
    pub(super) peer: Option<PeerTls>,
    pub(super) client: Option<Acceptor>,
    watch: Option<JoinHandle<()>>,
}

impl Tls {
    /// Reads the files, and looks at them from now on.
    pub(super) fn load(config: &Config, metrics: &Metrics) -> Result<Self, TlsError> {
        let settings = &config.tls;
        let mut tls = Self::default();
        let mut ports = Vec::new();
        if let Some(peer) = &settings.peer {
            let port = Arc::new(Port::peer(peer.clone(), metrics)?);
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
            tls.watch = Some(tokio::spawn(watch(ports, settings.reload_interval)));
        }
        Ok(tls)
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}
