//! The wire types generated from `proto/raft.proto`. Only [`convert`](super::convert) and the two ends of
//! the connections use them.

#![allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated code")]

tonic::include_proto!("kuberaft.raft.v1");
