//! What can go wrong with stored data, told apart by what an operator must do.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};

use super::data_dir::Place;
use crate::types::LogIndex;

/// Stored data that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file or directory.
    pub path: PathBuf,
    /// Where in the file, in bytes, if it can be told.
    pub offset: Option<u64>,
    /// The first log entry that is affected, if it can be told.
    pub index: Option<LogIndex>,
    /// What was found there.
    pub what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, ", byte {offset}")?;
        }
        if let Some(index) = self.index {
            write!(f, ", log entry {index}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// A data directory in another place than the one that it is at home in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// The data directory.
    pub path: PathBuf,
    /// Where it is at home.
    pub home: Place,
    /// Where it is.
    pub present: Place,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Something stored is not what was written. The log was not changed; sled may have tidied up as it opened.
    #[error(
        "data directory damaged: {0}. The log was not changed. Keep a copy; `kuberaft debug verify` shows what can be \
         read. Put back an intact copy of the directory, or replace this member by one with an empty directory"
    )]
    Damaged(Damage),
    /// The disk refused an operation. What was not acknowledged may be lost; it is not tried again.
    #[error("disk failed: {operation} {}: {source}", path.display())]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was named cannot be used as it is: no folder, or nothing that this process may touch. The disk is not to blame.
    #[error("cannot {operation} {}: {source}. {hint}", path.display())]
    Unusable {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// Nothing was ever stored there.
    #[error("{} holds no node's data: name a directory that `kuberaft serve` has used", .0.display())]
    NoData(PathBuf),
    /// An earlier write or flush failed, so nothing more is written: what the disk holds is unknown.
    #[error("disk failed earlier; nothing more is written before a restart")]
    Poisoned,
    /// The directory belongs to another node, name or cluster.
    #[error("data directory {} belongs to another: {what}", path.display())]
    Identity {
        /// The data directory, or the file in it.
        path: PathBuf,
        /// Expected and found.
        what: String,
    },
    /// The directory is at home in another namespace or StatefulSet.
    #[error(
        "data directory {} is at home in {}, but this is {}. If it is a copy, or was moved here for good, `kuberaft recover \
         --adopt` makes a cluster of its own of it; otherwise bring it back there, and give this pod an empty volume",
        .0.path.display(), .0.home, .0.present
    )]
    Place(Box<Elsewhere>),
    /// Another process uses the directory.
    #[error("data directory {} is in use by {holder}; stop it, or choose another with --data-dir", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The holder, as far as known.
        holder: String,
    },
    /// Another version of this program wrote the directory.
    #[error("{} has format {found}, this version reads {supported}: use {}", path.display(),
        if found > supported { "a newer version" } else { "the version that wrote it, or an empty directory" })]
    Format {
        /// The file or directory.
        path: PathBuf,
        /// As recorded.
        found: u32,
        /// What this version reads.
        supported: u32,
    },
    /// An entry that the log no longer holds.
    #[error("log entry {index} was asked for, the log begins at {first}")]
    BeforeLog {
        /// Asked for.
        index: LogIndex,
        /// First entry of the log.
        first: LogIndex,
    },
    /// Records or a checkpoint that do not belong behind what is there. Nothing of it counts.
    #[error("not written to {}: {what}", path.display())]
    Disorder {
        /// The generation.
        path: PathBuf,
        /// What came, and after what.
        what: String,
    },
    /// This build does not flush sled's file to the disk.
    #[error("{0}")]
    FlushNotReal(String),
}

impl StorageError {
    /// The exit code for a process that must stop because of this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Damaged(_) => 3,
            Self::Disk { .. } | Self::Poisoned => 4,
            Self::Identity { .. } | Self::Place(_) => 5,
            Self::Unusable { .. }
            | Self::NoData(_)
            | Self::Locked { .. }
            | Self::Format { .. }
            | Self::BeforeLog { .. }
            | Self::Disorder { .. }
            | Self::FlushNotReal(_) => 1,
        }
    }

    /// Whether there was no room on the disk, or in its user's share of it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Disk { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// Damage to a file or directory as a whole.
    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged(Damage { path: path.to_owned(), offset: None, index: None, what: what.into() })
    }

    /// For `map_err` on a system call. What a healthy disk refuses, too, is told as [`StorageError::Unusable`].
    pub(crate) fn disk(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let (source, hint) = match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    let source = io::Error::new(source.kind(), format!("{source}{}", whose(&path)));
                    (source, "Give this process the right to it, or name another folder")
                }
                io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
                    (source, "Name a folder that is there, or one that can be made")
                }
                _ => return Self::Disk { operation, path, source },
            };
            Self::Unusable { operation, path, source, hint }
        }
    }
}

/// Whose the path is, or the nearest folder above it that can be looked at, and who asks: a volume that ignores the pod's
/// `fsGroup` belongs to somebody else.
fn whose(path: &Path) -> String {
    let found = path.ancestors().find_map(|path| Some((path, path.metadata().ok()?)));
    let Some((path, metadata)) = found else { return String::new() };
    let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
    format!(
        "; {} belongs to user {uid} and group {gid} with mode {mode:04o}, this process runs as user {} and group {}",
        path.display(),
        geteuid().as_raw(),
        getegid().as_raw()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_path_that_may_not_be_used_is_told_with_owner_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let path = directory.path().join("data/sled");
        let error = StorageError::disk("create", &path)(io::ErrorKind::PermissionDenied.into());
        assert_eq!(error.exit_code(), 1, "the disk is sound");
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let whose = format!(
            "{} belongs to user {uid} and group {gid} with mode 0750, this process runs as user {uid} and group {gid}",
            directory.path().display()
        );
        assert!(error.to_string().contains(&whose), "{error}");
        let full = StorageError::disk("write", &path)(io::ErrorKind::StorageFull.into());
        assert_eq!(full.exit_code(), 4);
        assert!(!full.to_string().contains("belongs"), "{full}");
    }

    #[test]
    fn every_error_has_its_exit_code() {
        let path = || PathBuf::from("/data");
        let place = |namespace: &str| Place { namespace: namespace.into(), stateful_set: "kuberaft".into() };
        let elsewhere = Elsewhere { path: path(), home: place("a"), present: place("b") };
        let source = || io::Error::from(io::ErrorKind::Other);
        let errors = [
            (StorageError::damaged(&path(), "odd"), 3),
            (StorageError::Disk { operation: "write", path: path(), source: source() }, 4),
            (StorageError::Poisoned, 4),
            (StorageError::Identity { path: path(), what: "odd".into() }, 5),
            (StorageError::Place(Box::new(elsewhere)), 5),
            (StorageError::Unusable { operation: "open", path: path(), source: source(), hint: "" }, 1),
            (StorageError::NoData(path()), 1),
            (StorageError::Locked { path: path(), holder: "process 7".into() }, 1),
            (StorageError::Format { path: path(), found: 3, supported: 2 }, 1),
            (StorageError::BeforeLog { index: LogIndex(1), first: LogIndex(2) }, 1),
            (StorageError::Disorder { path: path(), what: "odd".into() }, 1),
            (StorageError::FlushNotReal("odd".into()), 1),
        ];
        for (error, code) in errors {
            assert_eq!(error.exit_code(), code, "{error}");
        }
    }
}
