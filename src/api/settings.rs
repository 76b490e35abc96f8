//! Limits and times of the HTTP side.

use std::time::Duration;

use super::{AdminAccess, AllowedHost};
use crate::types::FeatureLevel;

/// Limits and times of the HTTP side. All limits are inclusive: exactly at the limit is accepted.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest a request may take; `?timeout=` can only shorten it. Default 5 s.
    pub request_timeout: Duration,
    /// A connection on which no request is under way is closed after one to two times this. Covers
    /// connections that never send a whole request head and clients that do not take their answer.
    /// Default 60 s.
    pub idle_timeout: Duration,
    /// How long [`serve`](super::serve) waits for requests under way once it was told to stop. Default 6 s:
    /// longer than a request may take.
    pub drain_timeout: Duration,
    /// Connections of clients at one time. At the limit the one that was idle longest is closed. Default 10,000.
    pub connections_max: u32,
    /// The same on the port for operations. Default 1,000.
    pub operations_max: u32,
    /// Bytes of a key. Default 4 KiB.
    pub key_bytes_max: usize,
    /// Bytes of a value. Default 1.5 MiB.
    pub value_bytes_max: usize,
    /// Bytes of a whole request: target and body. Default 2 MiB. A target alone cannot exceed 64 KiB, so
    /// large values need `PUT /v1/kv/{key}`.
    pub request_bytes_max: usize,
    /// Memory for bodies of requests that are in progress, in bytes: one waits for its share before it is read, and is
    /// refused with 429 if there is none before its deadline. Default 16 MiB.
    pub request_memory_bytes: usize,
    /// The same for answers with large values, until clients have taken them. Default 32 MiB.
    pub answer_memory_bytes: usize,
    /// Where requests of administrators are taken from. Default: from loopback.
    pub admin_access: AdminAccess,
    /// Time over which a snapshot's pace is averaged before it counts as slow. Default one minute.
    pub snapshot_pace_time: Duration,
    /// Hosts that requests may name, besides those that no outsider's name server answers for: addresses, single labels,
    /// and names below `localhost`, `local`, `internal` and `svc`. Default none.
    pub allowed_hosts: Vec<AllowedHost>,
    /// The highest feature level that this node's program understands; shown, not used.
    pub feature_level: FeatureLevel,
    /// A node further behind the commit index than this is not ready. Entries, default 5,000.
    pub ready_lag_entries_max: u64,
}

impl Settings {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        request_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_mins(1),
        drain_timeout: Duration::from_secs(6),
        connections_max: 10_000,
        operations_max: 1_000,
        key_bytes_max: 4 << 10,
        value_bytes_max: 3 << 19,
        request_bytes_max: 2 << 20,
        request_memory_bytes: 16 << 20,
        answer_memory_bytes: 32 << 20,
        admin_access: AdminAccess::Loopback,
        snapshot_pace_time: Duration::from_mins(1),
        allowed_hosts: Vec::new(),
        feature_level: FeatureLevel(0),
        ready_lag_entries_max: 5_000,
    };
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}
