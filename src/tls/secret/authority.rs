//! An authority whose key comes from the secret, and the short-lived certificates that it signs.

use std::time::{Duration, SystemTime};

use p256::SecretKey;
use p256::pkcs8::EncodePrivateKey;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use ring::digest;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::Secret;
use crate::tls::{TlsError, certificates};

/// Attempts to turn derived bytes into a key: each fails with a probability of 2⁻³² (SEC 1, 3.2.1).
const ATTEMPTS_MAX: u8 = 16;
/// How far a member's clock may be behind that of the one that signed.
pub(super) const CLOCK_SKEW_MAX: Duration = Duration::from_hours(1);
/// A name that no certificate has as it is gets this ending.
const ENCODED_ENDING: &str = ".member";

/// Signs certificates. Every holder of the secret has the same one.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// What a certificate is for.
pub(crate) struct Leaf<'a> {
    /// The name that it is verified by, a DNS name.
    pub(crate) dns_name: &'a str,
    /// For people.
    pub(crate) common_name: &'a str,
    pub(crate) usages: &'a [ExtendedKeyUsagePurpose],
    /// Valid from an hour before.
    pub(crate) now: SystemTime,
    /// Valid for so long from now on.
    pub(crate) lifetime: Duration,
}

impl Authority {
    /// The authority of `purpose`.
    pub(super) fn new(purpose: &'static str, secret: &Secret) -> Result<Self, TlsError> {
        let key = key_pair(secret, &format!("{purpose} authority"))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // Its key is what is trusted: its own certificate has no end, and is the same for all that have the secret.
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(9999, 12, 31));
        let fingerprint = digest::digest(&digest::SHA256, key.public_key_raw());
        let name = format!("kuberaft {purpose} {}", hex(&fingerprint.as_ref()[..8]));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(1_u64.into());
        let certificate = params.self_signed(&key).map_err(|error| TlsError::Derive(error.to_string()))?;
        let certificate = certificate.der().clone();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// What others trust.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate with a key of its own.
    pub(crate) fn sign(&self, leaf: &Leaf<'_>) -> Result<CertifiedKey, TlsError> {
        let derive = |error: rcgen::Error| TlsError::Derive(error.to_string());
        let key = KeyPair::generate().map_err(derive)?;
        let mut params = CertificateParams::default();
        let name = leaf.dns_name.try_into().map_err(derive)?;
        params.subject_alt_names = vec![SanType::DnsName(name)];
        params.distinguished_name = DistinguishedName::new();
        // No more than 64 bytes (RFC 5280, appendix A.1).
        let common_name = leaf.common_name.get(..64).unwrap_or(leaf.common_name);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = leaf.usages.to_vec();
        params.not_before = (leaf.now - CLOCK_SKEW_MAX).into();
        params.not_after = (leaf.now + leaf.lifetime).into();
        let signed = params.signed_by(&key, &self.issuer).map_err(derive)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(CertifiedKey::from_der(vec![signed.der().clone()], key, &certificates::provider())?)
    }
}

/// An ECDSA key on P-256, always the same for one secret and label.
fn key_pair(secret: &Secret, label: &str) -> Result<KeyPair, TlsError> {
    let derive = |error: &dyn std::fmt::Display| TlsError::Derive(error.to_string());
    for attempt in 0..ATTEMPTS_MAX {
        let bytes = secret.derive(label, attempt).map_err(|error| derive(&error))?;
        // Zero and what is not below the group's order is no key.
        let Ok(key) = SecretKey::from_slice(&bytes) else { continue };
        let key = key.to_pkcs8_der().map_err(|error| derive(&error))?;
        let key = PrivatePkcs8KeyDer::from(key.as_bytes().to_vec());
        return KeyPair::try_from(&key).map_err(|error| derive(&error));
    }
    Err(TlsError::Derive("no key could be made of the secret".into()))
}

/// The DNS name in the certificate of the member called `name`: the name itself where DNS has it as it is, else one made of
/// its digest. Different members have different ones.
pub(crate) fn certificate_name(name: &str) -> String {
    let is_label = |label: &str| {
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits is no DNS name; upper case is the same as lower case there.
    let has_letter = name.rsplit('.').next().is_some_and(|last| last.bytes().any(|b| b.is_ascii_lowercase()));
    if name.split('.').all(is_label) && has_letter && !name.ends_with(ENCODED_ENDING) {
        return name.to_owned();
    }
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    format!("m{}{ENCODED_ENDING}", hex(&digest.as_ref()[..16]))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::PeerSecrets;

    #[test]
    fn every_name_of_a_member_has_a_name_that_certificates_can_have() {
        for name in ["n1", "kuberaft-0", "a.b.c", "localhost"] {
            assert_eq!(certificate_name(name), name);
        }
        let odd = ["1", "a.1", "N1", "n_1", "n1.", "a..b", "x.member", &"n".repeat(64), &"n.".repeat(126)];
        let mut names: Vec<String> = odd.iter().map(|name| certificate_name(name)).collect();
        assert!(names.iter().all(|name| name.ends_with(".member") && name.len() == 40), "{names:?}");
        assert!(names.iter().all(|name| certificates::server_name(name).is_ok()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), odd.len());
    }

    #[test]
    fn the_key_comes_from_the_secret_alone() {
        let secrets = |text: &str| PeerSecrets::parse(text.repeat(4).as_bytes()).unwrap();
        let key = |secrets: &PeerSecrets, purpose| {
            Authority::new(purpose, &secrets.0[0]).unwrap().issuer.key().public_key_raw().to_vec()
        };
        let (one, other) = (secrets("0123456789abcdef"), secrets("0123456789abcdeg"));
        assert_eq!(key(&one, "peers"), key(&secrets("0123456789abcdef"), "peers"));
        assert_ne!(key(&one, "peers"), key(&other, "peers"));
        assert_ne!(key(&one, "peers"), key(&one, "administrators"));
    }
}
