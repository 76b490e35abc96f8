//! What can be wrong with certificates and keys.

use std::io;
use std::path::PathBuf;

use tokio_rustls::rustls;

use super::SecretError;

/// Files that cannot be used. None of it is worth a retry before a file changes.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not there, not readable, or too large.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not PEM, or without what is looked for.
    #[error("{} has no {what} in PEM form: {error}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is looked for.
        what: &'static str,
        /// Why not.
        error: rustls::pki_types::pem::Error,
    },
    /// No certificate of X.509.
    #[error("{} holds a certificate that cannot be understood: {why}", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A key of a kind that is not supported, or of another certificate.
    #[error("the key in {} cannot be used with the certificate in {}: {error}", key.display(), cert.display())]
    Key {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why not.
        error: rustls::Error,
    },
    /// Nobody types a password at a server's start.
    #[error(
        "the key in {} is encrypted: give one that is not, for example by `openssl pkey -in {} -out plain.key`",
        .0.display(), .0.display()
    )]
    KeyEncrypted(PathBuf),
    /// A member shows its certificate to those that it dials and to those that dial it.
    #[error(
        "the certificate in {} lacks the extended key usage {missing}: members are servers and clients of each other, so \
         sign one with serverAuth and clientAuth",
        path.display()
    )]
    Usage {
        /// Which.
        path: PathBuf,
        /// What it is not for.
        missing: &'static str,
    },
    /// An authority's own certificate.
    #[error(
        "the certificate in {} is that of an authority: give the member a certificate that the authority signed",
        .0.display()
    )]
    IsAuthority(PathBuf),
    /// Nobody would accept it.
    #[error("the certificate in {} has expired: it was valid until {until}", path.display())]
    Expired {
        /// Which.
        path: PathBuf,
        /// Its end.
        until: String,
    },
    /// This machine has no list of authorities.
    #[error("this machine trusts no certificate authority: name one with --tls-ca")]
    NoAuthority,
    /// Authorities that cannot be used to verify others.
    #[error("the certificates in {} cannot be used to verify others: {why}", path.display())]
    Authority {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A name that no certificate can have.
    #[error("`{0}` is no name that a certificate can be verified for: expected a DNS name or an IP address")]
    Name(String),
    /// Not a secret that could be used.
    #[error("{} cannot be used as the peers' secret: {error}", path.display())]
    Secret {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: SecretError,
    },
    /// Keys or certificates could not be made of the peers' secret.
    #[error("no key or certificate can be made of the peers' secret: {0}")]
    Derive(String),
    /// See [`rustls::Error`].
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}
