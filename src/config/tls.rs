//! The flags of TLS. Peers have one secret, or certificates; a port's certificate, key and authority are given together or
//! not at all.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::ConfigError;
use super::units::Span;
use crate::tls::{
    ClientPortSettings, IdentitySettings, PeerSettings, PeerSource, SecretSettings, SecretSource, Settings,
};
use crate::types::Address;

/// For how long a certificate is valid that a member makes for itself.
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(24);

/// The flags of mutual TLS among peers. `recover` has them, too, and no other layer than the environment.
#[derive(Clone, Debug, Default, Args)]
#[expect(clippy::struct_field_names, reason = "they are the names of the flags")]
pub struct PeerTlsFlags {
    /// File with a secret that all members share, of which each makes its own certificate: TLS among members with nothing
    /// else to set up. At least 32 random bytes; `openssl rand -base64 32` makes one. A second line is a second secret, which
    /// is trusted, too: see docs/tls.md for how to replace one
    #[arg(
        long,
        value_name = "FILE",
        env = "KUBERAFT_PEER_SECRET_FILE",
        hide_env = true,
        help_heading = "TLS"
    )]
    peer_secret_file: Option<PathBuf>,

    /// This node's certificate for the other members (PEM, its chain behind it); with its key and --peer-tls-ca it turns
    /// on TLS among members, which all of them must have
    #[arg(long, value_name = "FILE", env = "KUBERAFT_PEER_TLS_CERT", hide_env = true, help_heading = "TLS")]
    peer_tls_cert: Option<PathBuf>,

    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", env = "KUBERAFT_PEER_TLS_KEY", hide_env = true, help_heading = "TLS")]
    peer_tls_key: Option<PathBuf>,

    /// Certificates of the authorities that members' certificates must be of (PEM)
    #[arg(long, value_name = "FILE", env = "KUBERAFT_PEER_TLS_CA", hide_env = true, help_heading = "TLS")]
    peer_tls_ca: Option<PathBuf>,

    /// A DNS name for which the certificate of every connecting member must be valid, where the authority signs for
    /// others, too [default: any certificate of the authority will do]
    #[arg(
        long,
        value_name = "NAME",
        env = "KUBERAFT_PEER_TLS_ALLOWED_NAME",
        hide_env = true,
        help_heading = "TLS"
    )]
    peer_tls_allowed_name: Option<String>,
}

/// The flags of TLS, peers' and clients'.
#[derive(Clone, Debug, Args)]
pub(super) struct TlsFlags {
    #[command(flatten)]
    peer: PeerTlsFlags,

    /// The same secret in a Secret of Kubernetes of this name, under the key `secret`; the first member fills an empty one
    #[arg(long, value_name = "NAME", hide_short_help = true, help_heading = "Kubernetes")]
    kube_peer_secret: Option<String>,

    /// Let members talk without TLS on an address that other machines can reach. Whoever can connect to --peer-addr can
    /// then change or delete all data (true or false)
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = false,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        help_heading = "TLS"
    )]
    insecure_peers: bool,

    /// For how long a certificate is valid that is made of the secret; another one is made at half of that.
    #[arg(long, value_name = "DURATION", hide = true)]
    peer_certificate_lifetime: Option<Span>,

    /// This node's certificate for clients (PEM, its chain behind it); with its key it makes the client port speak https
    /// only. --ops-addr stays plain, for probes
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    client_tls_cert: Option<PathBuf>,

    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    client_tls_key: Option<PathBuf>,

    /// Certificates of the authorities that clients' certificates must be of (PEM) [default: clients need none]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    client_tls_client_ca: Option<PathBuf>,

    /// Time between two looks whether these files have changed; SIGHUP makes the node look at once
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = "TLS")]
    tls_reload_interval: Span,
}

impl PeerTlsFlags {
    /// What they say; `None`: no TLS among peers.
    ///
    /// # Errors
    /// Only a part of what belongs together is given, or two things of which one is enough.
    pub fn settings(&self) -> Result<Option<PeerSource>, ConfigError> {
        let files = self.files()?;
        let Some(path) = self.peer_secret_file.clone() else { return Ok(files.map(PeerSource::Files)) };
        if files.is_some() {
            return Err(ConfigError::PeersTwice { one: "peer-secret-file", other: "peer-tls-cert" });
        }
        let source = SecretSource::File(path);
        Ok(Some(PeerSource::Secret(SecretSettings { source, lifetime: CERTIFICATE_LIFETIME })))
    }

    fn files(&self) -> Result<Option<PeerSettings>, ConfigError> {
        let identity = together([
            ("peer-tls-cert", self.peer_tls_cert.as_ref()),
            ("peer-tls-key", self.peer_tls_key.as_ref()),
            ("peer-tls-ca", self.peer_tls_ca.as_ref()),
        ])?;
        let allowed_name = self.peer_tls_allowed_name.clone();
        match identity {
            Some([cert, key, ca]) => {
                Ok(Some(PeerSettings { identity: IdentitySettings { cert, key }, ca, allowed_name }))
            }
            None if allowed_name.is_some() => {
                Err(ConfigError::TlsPart { given: "peer-tls-allowed-name", missing: "peer-tls-cert" })
            }
            None => Ok(None),
        }
    }
}

impl TlsFlags {
    fn peers(&self) -> Result<Option<PeerSource>, ConfigError> {
        let mut peer = self.peer.settings()?;
        if let Some(name) = self.kube_peer_secret.clone().filter(|name| !name.is_empty()) {
            let other = match peer {
                Some(PeerSource::Secret(_)) => Some("peer-secret-file"),
                Some(PeerSource::Files(_)) => Some("peer-tls-cert"),
                None => None,
            };
            if let Some(other) = other {
                return Err(ConfigError::PeersTwice { one: "kube-peer-secret", other });
            }
            let source = SecretSource::Kubernetes(name);
            peer = Some(PeerSource::Secret(SecretSettings { source, lifetime: CERTIFICATE_LIFETIME }));
        }
        if let (Some(PeerSource::Secret(secret)), Some(lifetime)) =
            (&mut peer, self.peer_certificate_lifetime)
        {
            if lifetime.0.is_zero() {
                return Err(ConfigError::Zero("peer-certificate-lifetime"));
            }
            secret.lifetime = lifetime.0;
        }
        Ok(peer)
    }

    /// Refuses a peer port without TLS that other machines can reach, and a Secret of Kubernetes outside of it.
    pub(super) fn check_reach(&self, peer_addr: &Address, is_pod: bool) -> Result<(), ConfigError> {
        if self.kube_peer_secret.as_ref().is_some_and(|name| !name.is_empty()) && !is_pod {
            return Err(ConfigError::KubeSecretOutside);
        }
        let is_loopback = peer_addr.host == "localhost"
            || peer_addr.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        if is_loopback || self.insecure_peers || self.peers()?.is_some() {
            return Ok(());
        }
        Err(ConfigError::InsecurePeers(peer_addr.clone()))
    }

    pub(super) fn settings(&self) -> Result<Settings, ConfigError> {
        let peer = self.peers()?;
        let identity = together([
            ("client-tls-cert", self.client_tls_cert.as_ref()),
            ("client-tls-key", self.client_tls_key.as_ref()),
        ])?;
        let client_ca = self.client_tls_client_ca.clone();
        let client = match identity {
            Some([cert, key]) => {
                Some(ClientPortSettings { identity: IdentitySettings { cert, key }, client_ca })
            }
            None if client_ca.is_some() => {
                let (given, missing) = ("client-tls-client-ca", "client-tls-cert");
                return Err(ConfigError::TlsPart { given, missing });
            }
            None => None,
        };
        if self.tls_reload_interval.0.is_zero() {
            return Err(ConfigError::Zero("tls-reload-interval"));
        }
        Ok(Settings { peer, client, reload_interval: self.tls_reload_interval.0 })
    }
}

/// All or none.
fn together<const N: usize>(
    files: [(&'static str, Option<&PathBuf>); N],
) -> Result<Option<[PathBuf; N]>, ConfigError> {
    let given = files.iter().find(|(_, file)| file.is_some());
    let missing = files.iter().find(|(_, file)| file.is_none());
    match (given, missing) {
        (Some((given, _)), Some((missing, _))) => Err(ConfigError::TlsPart { given, missing }),
        (None, _) => Ok(None),
        (Some(_), None) => Ok(Some(files.map(|(_, file)| file.cloned().unwrap_or_default()))),
    }
}
