//! kuberaft: a Raft-replicated key-value store that runs itself on Kubernetes.
//!
//! The map, in reading order; `ARCHITECTURE.md` has the life of a write and the rules of who may import whom.
//!
//! 1. [`types`]: identifiers, terms, indexes, revisions
//! 2. [`raft`]: consensus, pure
//! 3. [`kv`]: the state machine, pure
//! 4. [`storage`]: the write-ahead log, and sled made durable
//! 5. [`membership`]: who forms a cluster and who joins it, pure decisions
//! 6. [`driver`]: threads and queues around a replica
//! 7. [`tls`]: certificates, and connections under them
//! 8. [`transport`]: peers over gRPC
//! 9. [`api`]: clients over HTTP
//! 10. [`k8s`]: the API server, which nothing of the above needs
//! 11. [`metrics`], [`logging`], [`supervision`], [`config`], [`server`], [`cli`]: the process
//! 12. [`sim`]: histories and clusters that never were, to find faults
//! 13. [`chaos`]: load on real clusters, judged, while faults are injected
//! 14. `fuzzing`: what fuzz targets run; in tests and with the feature of that name only

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
