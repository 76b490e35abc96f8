//! What one port shows and demands: made of files, or of the members' secret, and made again when those change or the
//! certificate has reached half of its time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rcgen::ExtendedKeyUsagePurpose;
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
use super::secret::{Leaf, certificate_name, warn_if_open};
use super::{
    Administrators, ClientPortSettings, PeerSecrets, PeerSettings, PeerSource, SecretSettings, SecretSource,
    TlsError,
};
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
    /// DNS names of the certificate.
    pub(super) names: Vec<String>,
    not_after: i64,
    described: String,
    /// Of the members' secret, who administers.
    administrators: Option<Arc<Administrators>>,
    /// When to make another certificate, and when this one was made; `None`: once the files change.
    renewal: Option<(SystemTime, Duration)>,
}

#[derive(Clone, Debug)]
enum Files {
    Peer(PeerSettings),
    Client(ClientPortSettings),
    Secret { source: SecretText, member: String, lifetime: Duration },
}

/// Where the text of the secret comes from.
#[derive(Clone, Debug)]
enum SecretText {
    File(PathBuf),
    Held(HeldSecret),
}

/// The text of a secret that comes from elsewhere than a file, and may change. Clones share it.
#[derive(Clone)]
pub struct HeldSecret(Arc<RwLock<Vec<u8>>>);

/// Never shows the secret.
impl std::fmt::Debug for HeldSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeldSecret")
    }
}

impl HeldSecret {
    /// With this text, as a file would have it.
    #[must_use]
    pub fn new(text: Vec<u8>) -> Self {
        Self(Arc::new(RwLock::new(text)))
    }

    /// Replaces the text; ports use it from their next look on.
    pub fn set(&self, text: Vec<u8>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn text(&self) -> Vec<u8> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
    /// The peer port's, of the member called `member`, by files.
    ///
    /// # Errors
    /// A file that cannot be used, or a secret that is in no file: see [`Port::peer_by_secret`].
    pub fn peer(source: PeerSource, member: &str, metrics: &Metrics) -> Result<Self, TlsError> {
        match source {
            PeerSource::Files(settings) => Self::load(Files::Peer(settings), metrics),
            PeerSource::Secret(SecretSettings { source: SecretSource::File(path), lifetime }) => {
                warn_if_open(&path);
                let (source, member) = (SecretText::File(path), member.to_owned());
                Self::load(Files::Secret { source, member, lifetime }, metrics)
            }
            PeerSource::Secret(SecretSettings { source: SecretSource::Kubernetes(name), .. }) => {
                let error = std::io::Error::other("it is read through the API server");
                Err(TlsError::Read { path: name.into(), error })
            }
        }
    }

    /// The peer port's, of the member called `member`, by a secret from elsewhere than a file. Its certificates are valid
    /// for `lifetime`.
    ///
    /// # Errors
    /// A secret that cannot be used.
    pub fn peer_by_secret(
        secret: HeldSecret,
        member: String,
        lifetime: Duration,
        metrics: &Metrics,
    ) -> Result<Self, TlsError> {
        Self::load(Files::Secret { source: SecretText::Held(secret), member, lifetime }, metrics)
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
        let expiry = metrics.tls_certificate_expiry_seconds.with_label_values(&[files.expiry_use()]);
        expiry.set(material.not_after);
        tracing::info!(port = files.port(), certificate = material.described, "TLS is on");
        Ok(Self { files, current: RwLock::new(Current { contents, material }), expiry })
    }

    /// `peer` or `client`.
    pub(super) fn name(&self) -> &'static str {
        self.files.port()
    }

    /// Whether certificates are made of the members' secret, so that each has its member's name.
    pub(super) fn is_by_secret(&self) -> bool {
        matches!(self.files, Files::Secret { .. })
    }

    /// Who administers by the members' secret as it is now; `None`: there is none.
    #[must_use]
    pub fn administrators(&self) -> Option<Arc<Administrators>> {
        self.material().administrators.clone()
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
        let is_current = |current: &Current| current.contents == contents && !current.material.is_due();
        if is_current(&self.current.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        let material = Arc::new(self.files.make(&contents)?);
        self.expiry.set(material.not_after);
        tracing::info!(port = self.name(), certificate = material.described, "took over new certificates");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { contents, material };
        Ok(())
    }
}

/// Looks at the files of `ports` each `interval` and at each SIGHUP, until it is dropped.
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

impl Material {
    /// Whether it is time for another certificate. A clock that was set back makes it so, too.
    fn is_due(&self) -> bool {
        self.renewal.is_some_and(|(made, pause)| made.elapsed().map_or(true, |age| age >= pause))
    }
}

impl Files {
    fn port(&self) -> &'static str {
        match self {
            Self::Peer(_) | Self::Secret { .. } => "peer",
            Self::Client(_) => "client",
        }
    }

    /// Who renews the certificate, as the metric of its end says it: those made of the secret last for hours and renew
    /// themselves, so that an alert needs another bound for them.
    fn expiry_use(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "peer_secret",
            Self::Peer(_) | Self::Client(_) => self.port(),
        }
    }

    fn paths(&self) -> Vec<&PathBuf> {
        let (identity, authorities) = match self {
            Self::Peer(PeerSettings { identity, ca, .. }) => (identity, Some(ca)),
            Self::Client(ClientPortSettings { identity, client_ca }) => (identity, client_ca.as_ref()),
            Self::Secret { source: SecretText::File(path), .. } => return vec![path],
            Self::Secret { source: SecretText::Held(_), .. } => return Vec::new(),
        };
        [&identity.cert, &identity.key].into_iter().chain(authorities).collect()
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, TlsError> {
        if let Self::Secret { source: SecretText::Held(held), .. } = self {
            return Ok(vec![held.text()]);
        }
        self.paths().into_iter().map(|path| certificates::read(path)).collect()
    }

    /// `contents`: of [`Files::paths`], in that order.
    fn make(&self, contents: &[Vec<u8>]) -> Result<Material, TlsError> {
        match (self, contents) {
            (Self::Peer(settings), [cert, key, ca]) => {
                let identity = certificates::identity(&settings.identity, cert, key)?;
                certificates::check_peer(&settings.identity, &identity)?;
                let authorities = certificates::authorities(&settings.ca, ca)?;
                let mut verifier = verifier(&settings.ca, Arc::clone(&authorities))?;
                if let Some(name) = &settings.allowed_name {
                    verifier = Arc::new(Named { name: certificates::server_name(name)?, inner: verifier });
                }
                peer_material(identity, verifier, authorities)
            }
            (Self::Secret { source, member, lifetime }, [text]) => {
                let nowhere = Path::new("the Secret");
                let path = match source {
                    SecretText::File(path) => path.as_path(),
                    SecretText::Held(_) => nowhere,
                };
                secret_material(&PeerSecrets::of_file(path, text)?, path, member, *lifetime)
            }
            (Self::Client(settings), [cert, key, authorities @ ..]) => {
                let identity = certificates::identity(&settings.identity, cert, key)?;
                let verifier = match (&settings.client_ca, authorities) {
                    (Some(path), [pem]) => Some(verifier(path, certificates::authorities(path, pem)?)?),
                    _ => None,
                };
                let server = server_config(&identity, verifier, rustls::DEFAULT_VERSIONS, ALPN_CLIENT)?;
                let Identity { not_after, names, described, .. } = identity;
                let server = Arc::new(server);
                Ok(Material {
                    server,
                    client: None,
                    names,
                    not_after,
                    described,
                    administrators: None,
                    renewal: None,
                })
            }
            _ => unreachable!("as many contents as paths"),
        }
    }
}

/// A certificate of its own for `member`; trusts those of every secret.
fn secret_material(
    secrets: &PeerSecrets,
    path: &Path,
    member: &str,
    lifetime: Duration,
) -> Result<Material, TlsError> {
    let authorities = secrets.authorities()?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        roots.add(authority.certificate().clone())?;
    }
    let roots = Arc::new(roots);
    let made = SystemTime::now();
    let leaf = Leaf {
        dns_name: &certificate_name(member),
        common_name: member,
        usages: &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        now: made,
        lifetime,
    };
    let identity = certificates::made(authorities[0].sign(&leaf)?)?;
    let mut material = peer_material(identity, verifier(path, Arc::clone(&roots))?, roots)?;
    material.administrators = Some(Arc::new(secrets.administrators()?));
    material.renewal = Some((made, lifetime / 2));
    Ok(material)
}

fn peer_material(
    identity: Identity,
    verifier: Arc<dyn ClientCertVerifier>,
    authorities: Arc<RootCertStore>,
) -> Result<Material, TlsError> {
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
    let Identity { not_after, names, described, .. } = identity;
    let (server, client) = (Arc::new(server), Some(Arc::new(client)));
    Ok(Material { server, client, names, not_after, described, administrators: None, renewal: None })
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
