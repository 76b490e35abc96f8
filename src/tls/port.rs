//! What one port shows and demands, made of files and made anew when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::certificates::{self, Identity, provider};
use super::{ClientPortSettings, PeerSettings, TlsError};
use crate::metrics::{IntGauge, Metrics};

/// What peers speak inside.
const ALPN_PEER: &[&[u8]] = &[b"h2"];
/// What the client port speaks inside, the preferred one first.
const ALPN_CLIENT: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What a port shows and demands now.
pub(super) struct Material {
    pub(super) server: Arc<ServerConfig>,
    /// For the other direction, where the same certificate is shown by the one that dials.
    pub(super) client: Option<Arc<ClientConfig>>,
    not_after: i64,
    described: String,
}

#[derive(Clone, Debug)]
enum Files {
    Peer(PeerSettings),
    Client(ClientPortSettings),
}

/// The certificates of one port. New connections use the latest that could be read; open ones keep theirs.
pub struct Port {
    files: Files,
    current: RwLock<Current>,
    expiry: IntGauge,
}

struct Current {
    /// Of the files, in the order of [`Files::paths`].
    contents: Vec<Vec<u8>>,
    material: Arc<Material>,
}

impl Port {
    /// The peer port's.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn peer(settings: PeerSettings, metrics: &Metrics) -> Result<Self, TlsError> {
        Self::load(Files::Peer(settings), metrics)
    }

    /// The client port's.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn client(settings: ClientPortSettings, metrics: &Metrics) -> Result<Self, TlsError> {
        Self::load(Files::Client(settings), metrics)
    }

    fn load(files: Files, metrics: &Metrics) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let material = Arc::new(files.make(&contents)?);
        let expiry = metrics.tls_certificate_expiry_seconds.with_label_values(&[files.port()]);
        expiry.set(material.not_after);
        tracing::info!(port = files.port(), certificate = material.described, "TLS is on");
        Ok(Self { files, current: RwLock::new(Current { contents, material }), expiry })
    }

    /// `peer` or `client`.
    pub(super) fn name(&self) -> &'static str {
        self.files.port()
    }

    pub(super) fn material(&self) -> Arc<Material> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).material)
    }

    /// Takes over what the files hold now. May block on them.
    ///
    /// # Errors
    /// They cannot be used; what was there before stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let contents = self.files.read()?;
        if self.current.read().unwrap_or_else(PoisonError::into_inner).contents == contents {
            return Ok(());
        }
        let material = Arc::new(self.files.make(&contents)?);
        self.expiry.set(material.not_after);
        tracing::info!(port = self.name(), certificate = material.described, "took over new certificates");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { contents, material };
        Ok(())
    }
}

/// Looks at the files of `ports` each `interval` and at each SIGHUP, for ever.
pub async fn watch(ports: Vec<Arc<Port>>, interval: Duration) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => Some(hangup),
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be listened for");
            None
        }
    };
    loop {
        let told = async {
            match &mut hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = told => tracing::info!("SIGHUP: looking at the certificates"),
        }
        for port in &ports {
            let (port, name) = (Arc::clone(port), port.name());
            match spawn_blocking(move || port.reload()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(
                        port = name,
                        "the new certificates are not used, the ones before stay: {error}"
                    );
                }
                Err(error) => tracing::error!(port = name, %error, "looking at the certificates failed"),
            }
        }
    }
}

impl Files {
    fn port(&self) -> &'static str {
        match self {
            Self::Peer(_) => "peer",
            Self::Client(_) => "client",
        }
    }

    fn paths(&self) -> Vec<&PathBuf> {
        let (identity, authorities) = match self {
            Self::Peer(PeerSettings { identity, ca, .. }) => (identity, Some(ca)),
            Self::Client(ClientPortSettings { identity, client_ca }) => (identity, client_ca.as_ref()),
        };
        [&identity.cert, &identity.key].into_iter().chain(authorities).collect()
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, TlsError> {
        self.paths().into_iter().map(|path| certificates::read(path)).collect()
    }

    /// `contents`: of [`Files::paths`], in that order.
    fn make(&self, contents: &[Vec<u8>]) -> Result<Material, TlsError> {
        match (self, contents) {
            (Self::Peer(settings), [cert, key, ca]) => {
                let identity = certificates::identity(&settings.identity, cert, key)?;
                let authorities = certificates::authorities(&settings.ca, ca)?;
                peer_material(settings, identity, authorities)
            }
            (Self::Client(settings), [cert, key, authorities @ ..]) => {
                let identity = certificates::identity(&settings.identity, cert, key)?;
                let verifier = match (&settings.client_ca, authorities) {
                    (Some(path), [pem]) => Some(verifier(path, certificates::authorities(path, pem)?)?),
                    _ => None,
                };
                let server = server_config(&identity, verifier, rustls::DEFAULT_VERSIONS, ALPN_CLIENT)?;
                let Identity { not_after, described, .. } = identity;
                Ok(Material { server: Arc::new(server), client: None, not_after, described })
            }
            _ => unreachable!("as many contents as paths"),
        }
    }
}

fn peer_material(
    settings: &PeerSettings,
    identity: Identity,
    authorities: Arc<RootCertStore>,
) -> Result<Material, TlsError> {
    let mut verifier = verifier(&settings.ca, Arc::clone(&authorities))?;
    if let Some(name) = &settings.allowed_name {
        verifier = Arc::new(Named { name: certificates::server_name(name)?, inner: verifier });
    }
    // Both ends are this program, so nothing older need be understood; and connections last, so that nothing is gained
    // by resuming earlier ones, past a change of the certificates at that.
    let mut server = server_config(&identity, Some(verifier), &[&TLS13], ALPN_PEER)?;
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(authorities)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.key))));
    client.alpn_protocols = owned(ALPN_PEER);
    client.resumption = Resumption::disabled();
    let Identity { not_after, described, .. } = identity;
    Ok(Material { server: Arc::new(server), client: Some(Arc::new(client)), not_after, described })
}

fn server_config(
    identity: &Identity,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let shown = SingleCertAndKey::from(Arc::clone(&identity.key));
    let mut config = builder.with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = owned(alpn);
    Ok(config)
}

/// Demands certificates of these authorities.
fn verifier(path: &Path, authorities: Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(authorities, provider())
        .build()
        .map_err(|error| TlsError::Authority { path: path.to_owned(), why: error.to_string() })
}

pub(super) fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

/// Demands besides that the certificate is valid for a name: an authority may have signed for others, too.
#[derive(Debug)]
struct Named {
    name: ServerName<'static>,
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
