//! The secret that the nodes of a local cluster share, made with the cluster.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::cli::CliError;

/// The file below the cluster's folder.
pub(super) const FILE: &str = "peer-secret";
/// Flags of `serve` by which the user says how members identify themselves.
const CHOICES: [&str; 3] = ["--peer-secret-file", "--peer-tls-", "--insecure-peers"];

/// The flags that let the nodes of the cluster in `dir` talk under TLS, by a secret that is made if it is not there; none
/// where `extra`, the user's flags, say how they identify themselves.
pub(in crate::cli) fn flags(dir: &Path, extra: &[OsString]) -> Result<Vec<OsString>, CliError> {
    let chooses = |flag: &OsString| {
        let flag = flag.to_string_lossy();
        CHOICES.iter().any(|choice| flag.starts_with(choice))
    };
    if extra.iter().any(chooses) {
        return Ok(Vec::new());
    }
    let path = dir.join(FILE);
    let made = make(&path);
    made.map_err(|error| CliError::Failed(format!("cannot make the secret {}: {error}", path.display())))?;
    let mut flag = OsString::from("--peer-secret-file=");
    flag.push(path);
    Ok(vec![flag])
}

/// Makes the file, whole or not at all, for its owner alone.
fn make(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    let unfinished: PathBuf = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
    file.write_all(format!("{}\n", STANDARD.encode(bytes)).as_bytes())?;
    file.sync_all()?;
    fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tls::PeerSecrets;

    #[test]
    fn a_cluster_gets_a_secret_of_its_own_once() {
        let dir = tempfile::tempdir().unwrap();
        let given = flags(dir.path(), &[]).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(given, [OsString::from(format!("--peer-secret-file={}", path.display()))]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        PeerSecrets::read(&path).unwrap();
        let before = fs::read(&path).unwrap();
        flags(dir.path(), &["--log-level=debug".into()]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), before);
        for choice in ["--peer-secret-file=x", "--peer-tls-cert=c", "--insecure-peers"] {
            assert!(flags(dir.path(), &[choice.into()]).unwrap().is_empty());
        }
    }
}
