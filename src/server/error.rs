//! Why a node ended, and the exit code that says so.

use std::io;
use std::path::PathBuf;

use crate::driver::Failure;
use crate::k8s::KubeError;
use crate::membership::InitialClusterError;
use crate::replica::Unappliable;
use crate::replica::recovery::Outdated;
use crate::storage::StorageError;
use crate::supervision;
use crate::tls::TlsError;
use crate::transport::BootstrapError;
use crate::types::{Address, ClusterId};

/// Why a node ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {flag} {address}: {error}{hint}")]
    Listen {
        /// The flag that gave the address.
        flag: &'static str,
        /// The address.
        address: Address,
        /// What the system said.
        error: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The operating system refused something that a process needs.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The list of members.
    #[error(transparent)]
    InitialCluster(#[from] InitialClusterError),
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The way into a cluster.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The cluster writes what this program does not understand.
    #[error(transparent)]
    Outdated(#[from] Outdated),
    /// An entry of the log that this program cannot apply.
    #[error(transparent)]
    Unappliable(#[from] Unappliable),
    /// The replica.
    #[error(transparent)]
    Replica(#[from] Failure),
    /// The data directory is of one cluster, the members that this node was told of are of another.
    #[error(
        "data directory {} belongs to cluster {own}, but a majority of the expected members to cluster {other}: \
         give this node its own directory, or an empty one", path.display()
    )]
    OtherCluster {
        /// The data directory.
        path: PathBuf,
        /// Its cluster.
        own: ClusterId,
        /// The others'.
        other: ClusterId,
    },
    /// A pod that cannot even try to talk to its API server.
    #[error(transparent)]
    Kubernetes(#[from] KubeError),
    /// The pod's volume is of one cluster, the StatefulSet's latch says another.
    #[error(
        "the volume of this pod belongs to cluster {own}, but ConfigMap {config_map} says that cluster {other} was formed \
         here: give the pod a volume of that cluster, or an empty one"
    )]
    Latch {
        /// The volume's.
        own: ClusterId,
        /// The latch's.
        other: ClusterId,
        /// Where it says so.
        config_map: String,
    },
    /// A part of the server ended by itself.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
    /// A task that must not end did.
    #[error(transparent)]
    Task(#[from] supervision::Ended),
}

impl ServerError {
    /// The process's exit code: 1 failed, 3 data directory damaged, 4 disk failed, 5 refused identity.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Storage(error) => error.exit_code(),
            Self::Replica(failure) => failure.exit_code(),
            Self::Unappliable(_) => 3,
            Self::Bootstrap(BootstrapError::Store(_)) => 4,
            Self::OtherCluster { .. }
            | Self::Latch { .. }
            | Self::Outdated(_)
            | Self::Bootstrap(BootstrapError::NameInUse(_) | BootstrapError::Outdated(_)) => 5,
            Self::Listen { .. }
            | Self::System(_)
            | Self::Tls(_)
            | Self::InitialCluster(_)
            | Self::Bootstrap(_)
            | Self::Kubernetes(_)
            | Self::Ended(_)
            | Self::Task(_) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::kv::CommandError;
    use crate::membership::{AdminError, AdminReason};
    use crate::types::{FeatureLevel, LogIndex, LogPosition, Term};

    #[test]
    fn every_cause_has_its_exit_code() {
        let (own, other) = (ClusterId(1), ClusterId(2));
        let outdated = || Outdated { needed: FeatureLevel(1), understood: FeatureLevel(0) };
        let unappliable = Unappliable {
            position: LogPosition { index: LogIndex(7), term: Term(2) },
            source: CommandError("unknown version"),
        };
        let refused = || AdminError::new(AdminReason::NameTaken, "another node has the name");
        let io_error = || io::Error::from(io::ErrorKind::AddrInUse);
        let address = "127.0.0.1:7001".parse().unwrap();
        let causes = [
            (ServerError::Listen { flag: "--peer", address, error: io_error(), hint: "" }, 1),
            (io_error().into(), 1),
            (InitialClusterError::Empty.into(), 1),
            (StorageError::damaged(Path::new("/data"), "odd").into(), 3),
            (StorageError::Poisoned.into(), 4),
            (BootstrapError::Store("the disk failed".into()).into(), 4),
            (BootstrapError::NameInUse(refused()).into(), 5),
            (BootstrapError::Outdated(refused()).into(), 5),
            (outdated().into(), 5),
            (unappliable.into(), 3),
            (Failure::Diverged.into(), 3),
            (Failure::from(StorageError::Poisoned).into(), 4),
            (ServerError::OtherCluster { path: "/data".into(), own, other }, 5),
            (KubeError::Timeout.into(), 1),
            (ServerError::Latch { own, other, config_map: "latch".into() }, 5),
            (ServerError::Ended("the HTTP server"), 1),
            (supervision::Ended { name: "events", panicked: true }.into(), 1),
        ];
        for (cause, code) in causes {
            assert_eq!(cause.exit_code(), code, "{cause}");
        }
    }
}
