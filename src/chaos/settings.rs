//! How much load, and how patient it is.

use std::time::Duration;

/// The load of one process. Each register client and each pulse waits between two requests, so that what a round
/// records stays small enough to be judged in a moment, however fast the cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadSettings {
    /// Keys are below `chaos/<run>/`; no two loads on one cluster may have the same. Letters, digits, `-`.
    pub run: String,
    /// Longest time for one request, connecting included; then the next member is asked.
    pub request_timeout: Duration,
    /// Clients that read and write the same few keys. At least 1.
    pub register_clients: u32,
    /// Keys that they share. At least 1.
    pub register_keys: u32,
    /// From the begin of one request of a register client to the next one, at least.
    pub register_interval: Duration,
    /// From the begin of one write of a pulse to the next one, at least; write gaps cannot be measured more finely.
    pub pulse_interval: Duration,
    /// Most operations of the register clients that are recorded before they continue with other keys and those are
    /// judged: what bounds the memory of a long round.
    pub history_max: usize,
    /// Connections that read everything back.
    pub readers: usize,
    /// Reading back stops when no read succeeded for so long.
    pub patience: Duration,
    /// What the register clients' choices come from.
    pub seed: u64,
    /// Whether the keys stay when all is done.
    pub keep: bool,
}

impl LoadSettings {
    /// The default for this run: 4 register clients on 4 keys, 25 requests a second each, and 100 pulses a second.
    #[must_use]
    pub fn new(run: String) -> Self {
        Self {
            run,
            request_timeout: Duration::from_secs(1),
            register_clients: 4,
            register_keys: 4,
            register_interval: Duration::from_millis(40),
            pulse_interval: Duration::from_millis(10),
            history_max: 10_000,
            readers: 16,
            patience: Duration::from_mins(1),
            seed: 1,
            keep: false,
        }
    }

    /// What is wrong with them, if anything.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if self.run.is_empty() || self.run.len() > 64 || !self.run.bytes().all(is_name) {
            return Some("the run's name needs 1 to 64 letters, digits and `-`");
        }
        if self.request_timeout.is_zero() {
            return Some("the time for a request must be above zero");
        }
        if self.register_clients == 0 || self.register_keys == 0 || self.readers == 0 || self.history_max == 0
        {
            return Some("there must be at least one client, one key, one reader and one operation");
        }
        if self.register_interval.is_zero() || self.pulse_interval.is_zero() {
            return Some("the intervals must be above zero: the load is bounded by them");
        }
        None
    }
}
