//! What can be tuned, and the checks on it.

use std::time::Duration;

use crate::plant::Planted;

/// Timing and limits of the core.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The same in bytes.
    pub window_bytes: usize,
    /// Entries kept in memory below the applied index, in bytes.
    pub cache_bytes: usize,
    /// Uncommitted and waiting writes of a leader in bytes; past it they are refused as overloaded.
    pub uncommitted_bytes_max: usize,
    /// A leader makes learners voters once they have caught up.
    pub promotion: bool,
    /// A bug to show that it is found; none in a normal build.
    pub planted: Planted,
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
            window_bytes: 8 << 20,
            cache_bytes: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            promotion: true,
            planted: Planted::default(),
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
