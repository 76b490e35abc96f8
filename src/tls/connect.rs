//! The other side of the client port: verifies what a node shows, shows a certificate of its own if it has one.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, ClientConfig};
use tokio_rustls::{TlsConnector, TlsStream, client};

use super::certificates::{self, provider};
use super::port::owned;
use super::{ConnectorSettings, PeerSecrets, TlsError, Wire};

/// What is spoken inside unless told otherwise.
const ALPN: &[&[u8]] = &[b"http/1.1"];
/// What gRPC needs.
const ALPN_HTTP2: &[&[u8]] = &[b"h2"];

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
        let shown = match (&settings.identity, &settings.administrator) {
            (Some(files), _) => {
                let (cert, key) = (certificates::read(&files.cert)?, certificates::read(&files.key)?);
                Some(certificates::identity(files, &cert, &key)?.key)
            }
            (None, Some(secret)) => Some(PeerSecrets::read(secret)?.administrator()?.certificate()),
            (None, None) => None,
        };
        let mut config = match shown {
            Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown))),
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

    /// The same for what speaks HTTP/2 inside, and nothing else.
    #[must_use]
    pub fn with_http2(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = owned(ALPN_HTTP2);
        Self { config: Arc::new(config), server_name: self.server_name.clone() }
    }

    /// Does the handshake with a node that is called `host`.
    ///
    /// # Errors
    /// The connection broke, or what the node shows is not what is trusted, or it speaks no TLS at all; the latter two
    /// are [`io::ErrorKind::InvalidData`].
    pub async fn connect(&self, host: &str, tcp: TcpStream) -> io::Result<Wire> {
        Ok(Wire::Tls(Box::new(TlsStream::Client(self.handshake(host, tcp).await?))))
    }

    /// As [`Connector::connect`], over whatever carries bytes to the node.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn over<S>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<S>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        self.handshake(host, stream).await
    }

    async fn handshake<S>(&self, host: &str, stream: S) -> io::Result<client::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => certificates::server_name(host).map_err(io::Error::other)?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let tls = connector.connect(name, stream).await.map_err(explained)?;
        // HTTP/2 is what both sides agreed on by ALPN, or is not spoken (RFC 9113, section 3.2).
        if tls.get_ref().1.alpn_protocol().is_none() && self.config.alpn_protocols == ALPN_HTTP2 {
            let message = "the server does not speak HTTP/2 under TLS";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(tls)
    }
}

/// A handshake's failure, with what to do about it where that is known.
fn explained(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let message = match cause {
        Some(rustls::Error::InvalidMessage(_)) => format!("it does not answer in TLS; use http:// ({error})"),
        // The latter is said of another authority of the same name.
        Some(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => {
            format!("{error}: give the certificate of its authority by --tls-ca")
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!("{error}; --tls-server-name gives another name to expect"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            let message =
                "it ended the connection instead of answering in TLS; if it speaks none, use http://";
            return io::Error::new(error.kind(), message);
        }
        _ => return refusal(&error).unwrap_or(error),
    };
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Whether both ends were reached and do not accept each other, by what [`Connector::connect`] and [`refusal`] give:
/// trying again does not help.
#[must_use]
pub fn is_misunderstanding(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied)
}

/// What the node said when it ended the handshake, if that is why a connection broke; it is
/// [`io::ErrorKind::PermissionDenied`].
#[must_use]
pub fn refusal(error: &(dyn Error + 'static)) -> Option<io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // What a connection's end says is inside of an I/O error, which does not count as its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner: Option<&(dyn Error + 'static)> = inner.map(|inner| inner as _);
        if let Some(rustls::Error::AlertReceived(alert)) = inner.and_then(|inner| inner.downcast_ref()) {
            let why = match alert {
                AlertDescription::CertificateRequired => {
                    "the node wants a certificate: give --tls-cert and --tls-key".to_owned()
                }
                alert => format!("the node ended the handshake: {alert:?}"),
            };
            return Some(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        cause = inner.or_else(|| error.source());
    }
    None
}
