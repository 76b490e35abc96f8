//! The flags of TLS: each port's certificate, key and authority are given together or not at all.

use std::path::PathBuf;

use clap::Args;

use super::ConfigError;
use super::units::Span;
use crate::tls::{ClientPortSettings, IdentitySettings, PeerSettings, Settings};

/// The flags of mutual TLS among peers. `recover` has them, too, and no other layer than the environment.
#[derive(Clone, Debug, Default, Args)]
#[expect(clippy::struct_field_names, reason = "they are the names of the flags")]
pub struct PeerTlsFlags {
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

    /// A DNS name that the certificate of whoever connects as a member must be valid for, where the authority signs for
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
    /// Only a part of what belongs together is given.
    pub fn settings(&self) -> Result<Option<PeerSettings>, ConfigError> {
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
    pub(super) fn settings(&self) -> Result<Settings, ConfigError> {
        let peer = self.peer.settings()?;
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
