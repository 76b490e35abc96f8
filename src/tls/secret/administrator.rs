//! How an administrator that holds the peers' secret identifies itself on the client port.
//!
//! Whoever has the secret makes an [`AdministratorIdentity`] of it: a client certificate, for a client port with TLS, and
//! a token (`Authorization: Bearer …`) for one without. A node makes [`Administrators`] of the same secret and asks it
//! whether what it was shown is an administrator's. The authority is not that of the members: an administrator's
//! certificate opens nothing on the peer port, a member's nothing on the client port.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::ExtendedKeyUsagePurpose;
use subtle::{Choice, ConstantTimeEq};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::authority::{Leaf, hex};
use super::{Authority, PeerSecrets};
use crate::tls::{TlsError, certificates};

/// The name in an administrator's certificate.
const ADMINISTRATOR: &str = "administrator.kuberaft.internal";
/// For how long the certificate is valid that one call of the command line makes for itself.
const LIFETIME: Duration = Duration::from_hours(24);
/// What a token begins with, so that scanners for leaked credentials can find it.
const TOKEN_START: &str = "kuberaft-admin-";

/// What an administrator shows.
pub struct AdministratorIdentity {
    certificate: Arc<CertifiedKey>,
    token: String,
}

/// Never shows the token or the key.
impl std::fmt::Debug for AdministratorIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdministratorIdentity")
    }
}

impl AdministratorIdentity {
    /// The certificate with its key, for a client port with TLS.
    #[must_use]
    pub fn certificate(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certificate)
    }

    /// The token, for a client port without TLS: the value after `Bearer ` in the header `Authorization`.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }
}

/// Tells administrators from others, by every secret that is trusted. Made again when the secrets change.
pub struct Administrators {
    tokens: Vec<String>,
    roots: Arc<RootCertStore>,
    verifier: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

/// Never shows a token.
impl std::fmt::Debug for Administrators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Administrators({})", self.tokens.len())
    }
}

impl PeerSecrets {
    /// What an administrator shows that holds this secret, the first one of the file.
    ///
    /// # Errors
    /// No key or certificate can be made.
    pub fn administrator(&self) -> Result<AdministratorIdentity, TlsError> {
        let signing = &self.0[0];
        let leaf = Leaf {
            dns_name: ADMINISTRATOR,
            common_name: "kuberaft administrator",
            usages: &[ExtendedKeyUsagePurpose::ClientAuth],
            now: SystemTime::now(),
            lifetime: LIFETIME,
        };
        let certificate = Authority::new("administrators", signing)?.sign(&leaf)?;
        Ok(AdministratorIdentity { certificate: Arc::new(certificate), token: token(signing)? })
    }

    /// What a node needs to recognise administrators.
    ///
    /// # Errors
    /// No key or certificate can be made.
    pub fn administrators(&self) -> Result<Administrators, TlsError> {
        let mut roots = RootCertStore::empty();
        for secret in &self.0 {
            roots.add(Authority::new("administrators", secret)?.certificate().clone())?;
        }
        let roots = Arc::new(roots);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), certificates::provider())
                .build()
                .map_err(|error| TlsError::Derive(error.to_string()))?;
        let tokens = self.0.iter().map(token).collect::<Result<_, _>>()?;
        let name = certificates::server_name(ADMINISTRATOR)?;
        Ok(Administrators { tokens, roots, verifier, name })
    }
}

impl Administrators {
    /// Whether `token`, what follows `Bearer ` in the header `Authorization`, is an administrator's. Takes the same time for
    /// all tokens of one length.
    #[must_use]
    pub fn has_token(&self, token: &str) -> bool {
        let known = self.tokens.iter().map(|known| known.as_bytes().ct_eq(token.as_bytes()));
        known.fold(Choice::from(0), |any, this| any | this).into()
    }

    /// Whether the certificate that a client has shown in its handshake is an administrator's and valid now.
    #[must_use]
    pub fn has_certificate(&self, certificate: &CertificateDer<'_>) -> bool {
        let is_named = |parsed: &ParsedCertificate<'_>| verify_server_name(parsed, &self.name).is_ok();
        self.verifier.verify_client_cert(certificate, &[], UnixTime::now()).is_ok()
            && ParsedCertificate::try_from(certificate).as_ref().is_ok_and(is_named)
    }

    /// The authorities, to be trusted in the handshake on top of those of other clients.
    #[must_use]
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

fn token(secret: &super::Secret) -> Result<String, TlsError> {
    let key = secret.derive("administrators token", 0);
    let key = key.map_err(|error: ring::error::Unspecified| TlsError::Derive(error.to_string()))?;
    Ok(format!("{TOKEN_START}{}", hex(&key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(lines: &[&str]) -> PeerSecrets {
        let text: Vec<String> = lines.iter().map(|line| line.repeat(4)).collect();
        PeerSecrets::parse(text.join("\n").as_bytes()).unwrap()
    }

    #[test]
    fn only_who_has_the_secret_is_an_administrator() {
        let (old, new, foreign) = ("0123456789abcdef", "0123456789abcdeg", "0123456789abcdeh");
        let rotating = secrets(&[new, old]).administrators().unwrap();
        for (line, is_known) in [(old, true), (new, true), (foreign, false)] {
            let shown = secrets(&[line]).administrator().unwrap();
            assert_eq!(rotating.has_token(shown.token()), is_known);
            assert_eq!(rotating.has_certificate(&shown.certificate().cert[0]), is_known);
        }
        for token in ["", "kuberaft-admin-", old] {
            assert!(!rotating.has_token(token));
        }
    }

    #[test]
    fn a_member_is_no_administrator() {
        let secrets = secrets(&["0123456789abcdef"]);
        let leaf = Leaf {
            dns_name: ADMINISTRATOR,
            common_name: ADMINISTRATOR,
            usages: &[ExtendedKeyUsagePurpose::ClientAuth],
            now: SystemTime::now(),
            lifetime: LIFETIME,
        };
        let member = secrets.authorities().unwrap()[0].sign(&leaf).unwrap();
        assert!(!secrets.administrators().unwrap().has_certificate(&member.cert[0]));
        let other = Leaf { dns_name: "n1", ..leaf };
        let other = Authority::new("administrators", &secrets.0[0]).unwrap().sign(&other).unwrap();
        assert!(!secrets.administrators().unwrap().has_certificate(&other.cert[0]));
    }
}
