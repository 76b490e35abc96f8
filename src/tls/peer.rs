//! Mutual TLS among peers: both sides show certificates and verify the other's.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::{Acceptor, Port, Wire, certificates};
use crate::metrics::Metrics;

/// From a member's name to the host that its certificate must be valid for, where members are dialled by other
/// addresses.
pub type HostOf = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// The peers' TLS. Clones share it.
#[derive(Clone)]
pub struct PeerTls {
    port: Arc<Port>,
    acceptor: Acceptor,
    host_of: Option<HostOf>,
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls").finish_non_exhaustive()
    }
}

impl PeerTls {
    /// `port` must be a peer port's. Without `host_of`, a member's certificate must be valid for the host that it is
    /// dialled by.
    #[must_use]
    pub fn new(port: Arc<Port>, host_of: Option<HostOf>, metrics: &Metrics) -> Self {
        let acceptor = Acceptor::new(Arc::clone(&port), metrics);
        Self { port, acceptor, host_of }
    }

    /// For those that connect.
    #[must_use]
    pub fn acceptor(&self) -> &Acceptor {
        &self.acceptor
    }

    /// Does the handshake with the member called `member`, dialled at `address`, `host:port`.
    ///
    /// # Errors
    /// The connection broke, or the certificate is not the one of this member.
    pub async fn connect(&self, member: &str, address: &str, tcp: TcpStream) -> io::Result<Wire> {
        let host = match &self.host_of {
            Some(host_of) => host_of(member),
            None => host(address).to_owned(),
        };
        let name = certificates::server_name(&host).map_err(io::Error::other)?;
        let config = self.port.material().client.clone();
        let config =
            config.ok_or_else(|| io::Error::other("a client port's certificates are not for peers"))?;
        let tls = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Wire::Tls(Box::new(TlsStream::Client(tls))))
    }
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}
