//! The other side of the client port: verifies what a node shows, shows a certificate of its own if it has one.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{self, AlertDescription, ClientConfig};
use tokio_rustls::{TlsConnector, TlsStream};

use super::certificates::{self, provider};
use super::port::owned;
use super::{ConnectorSettings, TlsError, Wire};

/// What is spoken inside: the command line's client knows nothing else.
const ALPN: &[&[u8]] = &[b"http/1.1"];

/// Connects to client ports. Clones share what was read from files.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// In place of the host that is connected to.
    server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn new(settings: &ConnectorSettings) -> Result<Self, TlsError> {
        let authorities = match &settings.ca {
            Some(path) => certificates::authorities(path, &certificates::read(path)?)?,
            None => certificates::authorities_of_machine()?,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(authorities);
        let mut config = match &settings.identity {
            Some(files) => {
                let (cert, key) = (certificates::read(&files.cert)?, certificates::read(&files.key)?);
                let shown = certificates::identity(files, &cert, &key)?.key;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = owned(ALPN);
        let server_name = settings.server_name.as_deref().map(certificates::server_name).transpose()?;
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// The same, but what it connects to must be called `name`, unless another name was given from the start.
    ///
    /// # Errors
    /// No name that a certificate can have.
    pub fn expecting(&self, name: &str) -> Result<Self, TlsError> {
        let server_name = match &self.server_name {
            Some(name) => name.clone(),
            None => certificates::server_name(name)?,
        };
        Ok(Self { config: Arc::clone(&self.config), server_name: Some(server_name) })
    }

    /// Does the handshake with a node that is called `host`.
    ///
    /// # Errors
    /// The connection broke, or what the node shows is not what is trusted.
    pub async fn connect(&self, host: &str, tcp: TcpStream) -> io::Result<Wire> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => certificates::server_name(host).map_err(io::Error::other)?,
        };
        let tls = TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await?;
        Ok(Wire::Tls(Box::new(TlsStream::Client(tls))))
    }
}

/// What the node said when it ended the handshake, if that is why a connection broke.
#[must_use]
pub fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // What a connection's end says is inside of an I/O error, which does not count as its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner: Option<&(dyn Error + 'static)> = inner.map(|inner| inner as _);
        if let Some(rustls::Error::AlertReceived(alert)) = inner.and_then(|inner| inner.downcast_ref()) {
            return Some(match alert {
                AlertDescription::CertificateRequired => {
                    "the node wants a certificate: give --tls-cert and --tls-key".to_owned()
                }
                alert => format!("the node ended the handshake: {alert:?}"),
            });
        }
        cause = inner.or_else(|| error.source());
    }
    None
}
