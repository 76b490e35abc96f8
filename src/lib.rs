//! kuberaft: a Raft-replicated key-value store that runs itself on Kubernetes.
//!
//! The map, in reading order; `ARCHITECTURE.md` has the life of a write and the rules of who may import whom.
//!
//! 1. [`types`]: identifiers, terms, indexes, revisions
//! 2. [`raft`]: consensus, pure
//! 3. [`kv`]: the state machine, pure
//! 4. [`membership`]: which nodes form a cluster and which join it, pure decisions
//! 5. [`storage`]: the write-ahead log; identity and applied state on sled
//! 6. [`replica`]: core, log and apply, without threads
//! 7. [`driver`]: threads and queues around a replica
//! 8. [`tls`]: certificates, and connections under them
//! 9. [`transport`]: peers over gRPC
//! 10. [`api`]: clients over HTTP
//! 11. [`k8s`]: the API server, which none of the rooms above needs
//! 12. [`sim`]: the same parts on virtual time, network and disks, to find faults
//! 13. [`chaos`]: load on real clusters, judged, while faults are injected
//! 14. [`logging`], [`supervision`]: log output that never blocks; tasks and threads that must stay alive
//! 15. [`plant`], `fuzzing`: bugs for the simulator to find; what fuzz targets run. In no normal build
//! 16. [`metrics`], [`config`], [`server`], [`cli`]: the process

pub mod api;
pub mod chaos;
pub mod cli;
pub mod config;
pub mod driver;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod k8s;
pub mod kv;
pub mod logging;
pub mod membership;
pub mod metrics;
pub mod plant;
pub mod raft;
pub mod replica;
pub mod server;
pub mod sim;
pub mod storage;
pub mod supervision;
pub mod tls;
pub mod transport;
pub mod types;
