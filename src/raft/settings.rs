//! What can be tuned, and the checks on it.

use std::time::Duration;

use super::{FEATURE_LEVEL, Rules};
use crate::types::FeatureLevel;

/// Timing and limits of the core.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches")]
pub struct Settings {
    /// Time between heartbeats of a leader.
    pub heartbeat_interval: Duration,
    /// Smallest election timeout; each is drawn between this and twice this (paper, 5.2).
    pub election_timeout: Duration,
    /// Ask whether an election could be won before starting one (thesis, 9.6).
    pub pre_vote: bool,
    /// A leader that no majority answers for an election timeout steps down, and nodes that hear a leader
    /// ignore vote requests (thesis, 6.2 and 4.2.3).
    pub check_quorum: bool,
    /// A batch is formed at once when this many entries wait, although two are uncommitted.
    pub batch_entries: usize,
    /// The same in bytes.
    pub batch_bytes: usize,
    /// Largest append message in bytes; one entry always fits.
    pub append_bytes_max: usize,
    /// Appends on their way to one follower.
    pub window_messages: usize,
    /// The same in bytes. No more is appended ahead of a leader's own disk, and no more is forwarded to a leader ahead of
    /// its answers.
    pub window_bytes: usize,
    /// Entries kept in memory below the applied index, in bytes.
    pub cache_bytes: usize,
    /// Uncommitted and waiting writes of a leader in bytes; past it they are refused as overloaded.
    pub uncommitted_bytes_max: usize,
    /// A leader makes learners voters once they have caught up.
    pub promotion: bool,
    /// Entries kept in the log although the state covers them durably: a follower that lacks no more gets them instead
    /// of the whole state.
    pub trailing_entries: u64,
    /// Entries kept beyond that, at most: for followers in touch, and for those that get a snapshot and will need what
    /// follows it. Past it they get a snapshot (again).
    pub transfer_log_entries_max: u64,
    /// A leader serves reads without asking its followers while a majority of them has promised not to vote for anybody
    /// else (thesis, 6.4.1). Rests on clocks that differ in pace by no more than `clock_drift_ppm`. To be set on all
    /// nodes: one that has it not makes no such promise. Needs `check_quorum`.
    pub lease_reads: bool,
    /// How much faster than the leader's a follower's clock may run, in parts per million: a lease is shorter by it.
    pub clock_drift_ppm: u32,
    /// A leader whose oldest append is not durable after this time steps down, and no node starts an election
    /// meanwhile. At least twice the election timeout is waited.
    pub disk_stall_timeout: Duration,
    /// Time between two messages to each other member about the own state, to find replicas that differ; zero: never.
    pub state_check_interval: Duration,
    /// The highest feature level that this node's program understands.
    pub feature_level: FeatureLevel,
    /// What safety depends on.
    pub rules: Rules,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(60),
            election_timeout: Duration::from_millis(300),
            pre_vote: true,
            check_quorum: true,
            batch_entries: 256,
            batch_bytes: 256 << 10,
            append_bytes_max: 1 << 20,
            window_messages: 64,
            window_bytes: 4 << 20,
            cache_bytes: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            promotion: true,
            trailing_entries: 10_000,
            transfer_log_entries_max: 1_000_000,
            lease_reads: false,
            clock_drift_ppm: 100_000,
            disk_stall_timeout: Duration::from_secs(3),
            state_check_interval: Duration::from_secs(1),
            feature_level: FEATURE_LEVEL,
            rules: Rules::default(),
        }
    }
}

/// Settings that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// Heartbeats must come several times in an election timeout.
    #[error(
        "heartbeat interval {heartbeat_ms} ms must be positive and at most half of the election timeout, {election_ms} ms"
    )]
    Heartbeat {
        /// As given, in milliseconds.
        heartbeat_ms: u128,
        /// As given, in milliseconds.
        election_ms: u128,
    },
    /// Without it, followers do not ignore other candidates.
    #[error("lease reads need check_quorum")]
    LeaseWithoutCheckQuorum,
    /// Nothing would be left of a lease.
    #[error("clock drift must be below 1000000 parts per million, not {0}")]
    ClockDrift(u32),
    /// A limit of zero lets nothing through.
    #[error("{0} must be above zero")]
    Zero(&'static str),
}

impl Settings {
    /// Checks that the settings can work together.
    ///
    /// # Errors
    /// The first one that cannot.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval * 2 > self.election_timeout {
            return Err(SettingsError::Heartbeat {
                heartbeat_ms: self.heartbeat_interval.as_millis(),
                election_ms: self.election_timeout.as_millis(),
            });
        }
        if self.lease_reads && !self.check_quorum {
            return Err(SettingsError::LeaseWithoutCheckQuorum);
        }
        if self.clock_drift_ppm >= 1_000_000 {
            return Err(SettingsError::ClockDrift(self.clock_drift_ppm));
        }
        let limits = [
            ("batch_entries", self.batch_entries),
            ("batch_bytes", self.batch_bytes),
            ("append_bytes_max", self.append_bytes_max),
            ("window_messages", self.window_messages),
            ("window_bytes", self.window_bytes),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
        ];
        match limits.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(SettingsError::Zero(name)),
            None => Ok(()),
        }
    }
}
