//! Mutual TLS among peers: both sides show certificates and verify the other's.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::{TlsConnector, TlsStream};

use super::secret::certificate_name;
use super::{Acceptor, Administrators, PeerCertificate, Port, Wire, certificates};
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

/// What a certificate says of the member that its holder claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is that member's.
    Member,
    /// It is of the authority, and names no member: all members may show the same one.
    Unnamed,
    /// It is another member's.
    Other,
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

    /// Who administers by the members' secret as it is now; `None`: this is TLS by certificates from files.
    #[must_use]
    pub fn administrators(&self) -> Option<Arc<Administrators>> {
        self.port.administrators()
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
            _ if self.port.is_by_secret() => certificate_name(member),
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

impl PeerTls {
    /// Whether the holder of `certificate`, which the handshake has verified, is the member called `member`. `others` are
    /// the names of other members that are known. A certificate made of the shared secret always names its member; one
    /// from files does so if it is valid for the member's name or for its host.
    #[must_use]
    pub fn proof(&self, certificate: &PeerCertificate, member: &str, others: &[String]) -> Proof {
        let Ok(parsed) = ParsedCertificate::try_from(&*certificate.0) else { return Proof::Other };
        let names = |name: &str| {
            let is_for = |host: &str| {
                certificates::server_name(host).is_ok_and(|host| verify_server_name(&parsed, &host).is_ok())
            };
            is_for(&certificate_name(name))
                || !self.port.is_by_secret() && self.host_of.as_ref().is_some_and(|of| is_for(&of(name)))
        };
        if names(member) {
            Proof::Member
        } else if self.port.is_by_secret() || others.iter().any(|other| other != member && names(other)) {
            Proof::Other
        } else {
            Proof::Unnamed
        }
    }
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}
