//! One secret, shared by the members, from which each of them derives the same keys: an authority that signs the
//! members' certificates, another for administrators, and a token for administrators where there is no TLS.
//!
//! HKDF-SHA256 (RFC 5869) with a label for each purpose keeps the keys apart: none of them tells another one or the
//! secret. For the interface of administrators see [`Administrators`] and [`PeerSecrets::administrator`].

mod administrator;
mod authority;

use std::path::Path;

use ring::hkdf;

pub use administrator::{AdministratorIdentity, Administrators};
pub(super) use authority::{Authority, Leaf, certificate_name};

use super::{TlsError, certificates};

/// Fewest bytes of a secret that is not text.
pub const SECRET_BYTES_MIN: usize = 32;
/// Fewest characters of a secret that is text: as many as 32 bytes have in base64.
pub const SECRET_TEXT_MIN: usize = 43;
/// Most secrets in one file: the one in use, and those that are being replaced.
const SECRETS_MAX: usize = 4;
/// Fewest different bytes of a secret: 32 random bytes have 25 or more with a probability of 1 − 10⁻⁹.
const DIFFERENT_BYTES_MIN: usize = 12;
/// Separates these keys from others that someone derives of the same secret.
const SALT: &[u8] = b"kuberaft peer secret v1";

/// The secrets of a file: the first one signs, all are trusted. So a secret is replaced in three steps, without a gap.
pub struct PeerSecrets(Vec<Secret>);

/// One of them.
struct Secret(hkdf::Prk);

/// Never shows a secret.
impl std::fmt::Debug for PeerSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerSecrets({})", self.0.len())
    }
}

/// What is wrong with a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing in it.
    #[error("it is empty: put 32 random bytes into it, for example by `openssl rand -base64 32`")]
    Empty,
    /// Could be guessed.
    #[error(
        "secret {number} in it has {found} {unit}, but needs at least {needed}: `openssl rand -base64 32` makes one"
    )]
    Short {
        /// Which, from 1.
        number: usize,
        /// What it has.
        found: usize,
        /// What it needs.
        needed: usize,
        /// Bytes or characters.
        unit: &'static str,
    },
    /// Could be guessed.
    #[error(
        "secret {0} in it repeats few characters, so it is not random: `openssl rand -base64 32` makes one"
    )]
    NotRandom(usize),
    /// More than a replacement needs.
    #[error("it has {0} secrets, one a line, but at most 4 can be in use at one time")]
    TooMany(usize),
}

impl PeerSecrets {
    /// Reads a file's secrets: text has one in each line, at least 43 characters long; anything else is a single secret of
    /// at least 32 bytes. Blank lines and space around a line do not count.
    ///
    /// # Errors
    /// There is none, too many, or one that could be guessed.
    pub fn parse(bytes: &[u8]) -> Result<Self, SecretError> {
        let is_text = bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
        let (secrets, needed, unit): (Vec<&[u8]>, _, _) = if is_text {
            let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            (lines.filter(|line| !line.is_empty()).collect(), SECRET_TEXT_MIN, "characters")
        } else {
            (vec![bytes], SECRET_BYTES_MIN, "bytes")
        };
        if secrets.is_empty() {
            return Err(SecretError::Empty);
        }
        if secrets.len() > SECRETS_MAX {
            return Err(SecretError::TooMany(secrets.len()));
        }
        for (at, secret) in secrets.iter().enumerate() {
            let number = at + 1;
            if secret.len() < needed {
                return Err(SecretError::Short { number, found: secret.len(), needed, unit });
            }
            let mut different = secret.to_vec();
            different.sort_unstable();
            different.dedup();
            if different.len() < DIFFERENT_BYTES_MIN {
                return Err(SecretError::NotRandom(number));
            }
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT);
        Ok(Self(secrets.into_iter().map(|secret| Secret(salt.extract(secret))).collect()))
    }

    /// Reads the file at `path`; a file that other users of the machine may read is reported in the log.
    ///
    /// # Errors
    /// It cannot be read, or holds no secret that can be used.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let secrets = Self::of_file(path, &certificates::read(path)?)?;
        warn_if_open(path);
        Ok(secrets)
    }

    pub(super) fn of_file(path: &Path, bytes: &[u8]) -> Result<Self, TlsError> {
        Self::parse(bytes).map_err(|error| TlsError::Secret { path: path.to_owned(), error })
    }

    /// The authorities of the members, the signing one first.
    pub(super) fn authorities(&self) -> Result<Vec<Authority>, TlsError> {
        self.0.iter().map(|secret| Authority::new("peers", secret)).collect()
    }
}

/// Reports a file with the secret that other users of the machine may read.
pub(super) fn warn_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_or(0, |found| found.permissions().mode());
    if mode & 0o007 != 0 {
        let path = path.display();
        tracing::warn!("every user of this machine may open {path}, the peers' secret: `chmod 600 {path}`");
    }
}

impl Secret {
    /// 32 bytes for one purpose, the `attempt`th of them.
    fn derive(&self, label: &str, attempt: u8) -> Result<[u8; 32], ring::error::Unspecified> {
        let mut key = [0; 32];
        let info: [&[u8]; 3] = [label.as_bytes(), b"\0", &[attempt]];
        self.0.expand(&info, hkdf::HKDF_SHA256)?.fill(&mut key)?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_could_be_guessed_is_refused() {
        let parsed = |bytes: &[u8]| PeerSecrets::parse(bytes).map(|secrets| secrets.0.len());
        let good = "MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY=";
        assert_eq!(parsed(good.as_bytes()), Ok(1));
        assert_eq!(parsed(format!("\n{good}\r\n\n  {good}\n").as_bytes()), Ok(2));
        let random: Vec<u8> = (100..132).collect();
        assert_eq!(parsed(&random), Ok(1));
        assert_eq!(parsed(b" \n"), Err(SecretError::Empty));
        let short = parsed(format!("{good}\nsesame").as_bytes()).unwrap_err();
        assert!(
            short.to_string().starts_with("secret 2 in it has 6 characters, but needs at least 43"),
            "{short}"
        );
        assert_eq!(
            parsed(&random[1..]),
            Err(SecretError::Short { number: 1, found: 31, needed: 32, unit: "bytes" })
        );
        assert_eq!(parsed("ab".repeat(40).as_bytes()), Err(SecretError::NotRandom(1)));
        assert_eq!(parsed(format!("{good}\n").repeat(5).as_bytes()), Err(SecretError::TooMany(5)));
    }
}
