//! From PEM files to what rustls works with, each step with a message that names the file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::{IdentitySettings, TlsError};

/// No chain and no list of authorities is larger, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What does the cryptography, for all of them.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A certificate with its key, and when it ends.
pub(super) struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    /// Seconds since the epoch.
    pub(super) not_after: i64,
    /// The DNS names that it is valid for.
    pub(super) names: Vec<String>,
    /// Its end and the serial number, for people.
    pub(super) described: String,
}

/// A file's content.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    let read = read.and_then(|_| match bytes.len() as u64 {
        0..=FILE_BYTES_MAX => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is above {FILE_BYTES_MAX} bytes"))),
    });
    read.map(|()| bytes).map_err(|error| TlsError::Read { path: path.to_owned(), error })
}

/// The certificates of a file, at least one.
fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    use tokio_rustls::rustls::pki_types::pem::Error;
    let wrong = |error| TlsError::Pem { path: path.to_owned(), what: "certificate", error };
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if chain.is_empty() { Err(wrong(Error::NoItemsFound)) } else { Ok(chain) }
}

/// A certificate and its key, checked against each other and against the clock.
pub(super) fn identity(files: &IdentitySettings, cert: &[u8], key: &[u8]) -> Result<Identity, TlsError> {
    let IdentitySettings { cert: cert_path, key: key_path } = files;
    let chain = chain(cert_path, cert)?;
    let (_, parsed) = parse_x509_certificate(&chain[0])
        .map_err(|error| TlsError::Certificate { path: cert_path.clone(), why: error.to_string() })?;
    let until = parsed.validity().not_after;
    let (not_after, until) = (until.timestamp(), until.to_string());
    if not_after < now_s() {
        return Err(TlsError::Expired { path: cert_path.clone(), until });
    }
    let names = dns_names(&parsed);
    let described = format!("serial {}, valid until {until}", parsed.raw_serial_as_string());
    if is_encrypted(key) {
        return Err(TlsError::KeyEncrypted(key_path.clone()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Pem {
        path: key_path.clone(),
        what: "private key",
        error,
    })?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsError::Key {
        cert: cert_path.clone(),
        key: key_path.clone(),
        error,
    })?;
    Ok(Identity { key: Arc::new(key), not_after, names, described })
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

/// A certificate that was made here.
pub(super) fn made(key: CertifiedKey) -> Result<Identity, TlsError> {
    let broken = |why: String| TlsError::Derive(why);
    let first = key.cert.first().ok_or_else(|| broken("no certificate".into()))?;
    let (_, parsed) = parse_x509_certificate(first).map_err(|error| broken(error.to_string()))?;
    let until = parsed.validity().not_after;
    let (not_after, until) = (until.timestamp(), until.to_string());
    let described =
        format!("made of the peers' secret, serial {}, valid until {until}", parsed.raw_serial_as_string());
    let names = dns_names(&parsed);
    Ok(Identity { key: Arc::new(key), not_after, names, described })
}

/// Whether a key's PEM says that it needs a password, in either of the two forms (RFC 5958; RFC 1421).
fn is_encrypted(pem: &[u8]) -> bool {
    let has = |part: &[u8]| pem.windows(part.len()).any(|window| window == part);
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// Whether members can use a certificate toward each other: each of them is both server and client, and none is an
/// authority. A certificate that names no usage may be used for all.
pub(super) fn check_peer(files: &IdentitySettings, identity: &Identity) -> Result<(), TlsError> {
    let path = files.cert.clone();
    let Some(own) = identity.key.cert.first() else { return Ok(()) };
    let wrong = |why: String| TlsError::Certificate { path: path.clone(), why };
    let (_, parsed) = parse_x509_certificate(own).map_err(|error| wrong(error.to_string()))?;
    if parsed.is_ca() {
        return Err(TlsError::IsAuthority(path));
    }
    let usage = parsed.extended_key_usage().map_err(|error| wrong(error.to_string()))?;
    let Some(usage) = usage.map(|usage| usage.value).filter(|usage| !usage.any) else { return Ok(()) };
    let missing = match (usage.server_auth, usage.client_auth) {
        (true, true) => return Ok(()),
        (true, false) => "clientAuth",
        (false, true) => "serverAuth",
        (false, false) => "serverAuth and clientAuth",
    };
    Err(TlsError::Usage { path, missing })
}

/// The authorities of a file.
pub(super) fn authorities(path: &Path, pem: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path, pem)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Certificate { path: path.to_owned(), why: error.to_string() })?;
    }
    Ok(Arc::new(roots))
}

/// The authorities that this machine trusts.
pub(super) fn authorities_of_machine() -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoAuthority) } else { Ok(Arc::new(roots)) }
}

/// A host as certificates name it.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
