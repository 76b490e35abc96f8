//! Which files, and how often to look at them.

use std::path::PathBuf;
use std::time::Duration;

/// What `serve` needs to know of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Mutual TLS among peers; `None`: plain text.
    pub peer: Option<PeerSource>,
    /// TLS for clients; `None`: plain text.
    pub client: Option<ClientPortSettings>,
    /// Time between two looks at the files.
    pub reload_interval: Duration,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitySettings {
    /// The certificate, then those between it and the authority's.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What mutual TLS among peers is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerSource {
    /// Certificates that somebody else made.
    Files(PeerSettings),
    /// One secret, from which each member makes its own certificate.
    Secret(SecretSettings),
}

/// The peers' secret, and what is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSettings {
    /// Where it is.
    pub source: SecretSource,
    /// For how long a certificate is valid that this node makes for itself; it makes another one at half of that.
    pub lifetime: Duration,
}

/// Where the peers' secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a Secret of Kubernetes of this name, which is read through the API server.
    Kubernetes(String),
}

/// Mutual TLS among peers by certificates that somebody else made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// What this node shows, dialling and dialled.
    pub identity: IdentitySettings,
    /// Certificates of the authorities that peers' certificates must be of.
    pub ca: PathBuf,
    /// A DNS name that the certificates of those that connect must be valid for, besides.
    pub allowed_name: Option<String>,
}

/// TLS on the client port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPortSettings {
    /// What this node shows.
    pub identity: IdentitySettings,
    /// Certificates of the authorities that clients' certificates must be of; `None`: clients show none.
    pub client_ca: Option<PathBuf>,
}

/// What a client of the client port needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectorSettings {
    /// Certificates of the authorities that are trusted; `None`: those of this machine.
    pub ca: Option<PathBuf>,
    /// What the client shows, if asked.
    pub identity: Option<IdentitySettings>,
    /// File with the members' secret, of which the client makes an administrator's certificate if it has no other one.
    pub administrator: Option<PathBuf>,
    /// The name that a node's certificate must have, in place of the host that it is reached by.
    pub server_name: Option<String>,
}
