//! File descriptors: as many as the system lets this process have, and how they are shared out.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For files, the log's output, name resolution and whatever else must work while all ports are full.
const RESERVE: u64 = 64;
/// For the state store, the log's segments, listeners, and connections to peers and to the API server.
const OWN: u64 = 64;
/// Most connections of clients at one time, however many descriptors there are.
const CLIENTS_MAX: u64 = 10_000;
/// The same on the port for operations.
const OPERATIONS_MAX: u64 = 1_000;
/// The same on the port for peers.
const PEERS_MAX: u64 = 1_024;

/// Most connections that each port serves at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) clients: u32,
    pub(super) operations: u32,
    pub(super) peers: u32,
}

impl Connections {
    /// Shares out `limit` descriptors: five parts of eight for clients, two for peers, one for operations.
    fn share(limit: u64) -> Self {
        let free = limit.saturating_sub(RESERVE + OWN).max(32);
        let part =
            |eighths: u64, most: u64| u32::try_from((free / 8 * eighths).min(most)).unwrap_or(u32::MAX);
        let (clients, operations) = (part(5, CLIENTS_MAX), part(1, OPERATIONS_MAX));
        Self { clients, operations, peers: part(2, PEERS_MAX) }
    }
}

/// Raises the soft limit to the hard one: container runtimes give a soft limit of 1,024 and a hard one far above it.
pub(super) fn raise_limit() -> Connections {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // No limit at all is more than anything here needs.
    let wanted = maximum.unwrap_or(u64::MAX >> 1);
    let mut limit = current.unwrap_or(wanted);
    if limit < wanted {
        match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => limit = wanted,
            Err(error) => tracing::warn!(%error, limit, "the limit of file descriptors cannot be raised"),
        }
    }
    let connections = Connections::share(limit);
    tracing::info!(
        descriptors = limit,
        clients = connections.clients,
        peers = connections.peers,
        "most connections at one time"
    );
    connections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ports_together_leave_a_reserve() {
        for limit in [160, 256, 1_024, 4_096, 1 << 20, u64::MAX >> 1] {
            let Connections { clients, operations, peers } = Connections::share(limit);
            assert!(u64::from(clients + operations + peers) + RESERVE + OWN <= limit, "{limit}");
            assert!(clients >= 20 && operations >= 4 && peers >= 8);
        }
        assert_eq!(
            Connections::share(1 << 20),
            Connections { clients: 10_000, operations: 1_000, peers: 1_024 }
        );
        assert_eq!(Connections::share(1_024), Connections { clients: 560, operations: 112, peers: 224 });
    }
}
