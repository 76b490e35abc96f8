//! Tests of the core as a whole: scripts whose recorded output documents the protocol, and random walks.
//!
//! The scripts are `src/raft/testscripts/*.txt`; [`script`] lists their commands. `UPDATE_GOLDENFILES=1 cargo test
//! raft::testing` records their output again; touch `script.rs` after adding a file, since the list is made when it
//! compiles. Commit a change of output only when you understand what caused it.
//! Whatever drives the nodes, [`invariants`] are checked after every step.

mod clients;
mod cluster;
mod commit;
mod disk;
mod invariants;
mod members;
mod parse;
mod script;
mod snapshots;
mod trace;
mod walk;
