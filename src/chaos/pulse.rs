//! The pulse: one writer, one write after the other, each of a key that nobody wrote before.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant as Moment, sleep_until};

use super::gaps::{Gap, Gaps};
use super::keys::{PulseKeys, Speller};
use super::load::Clock;
use super::member_client::MemberClient;
use super::tally::Tally;
use crate::kv::Condition;
use crate::sim::checker::{Answer, Call};
use crate::types::Instant;

/// One pulse in one round.
pub(super) struct Pulse {
    pub(super) client: MemberClient,
    pub(super) speller: Speller,
    pub(super) clock: Clock,
    pub(super) interval: Duration,
    pub(super) round: u64,
    /// Its number among the pulses.
    pub(super) number: usize,
    pub(super) begin: Instant,
}

/// What a pulse saw.
pub(super) struct PulseResult {
    pub(super) keys: PulseKeys,
    pub(super) gap: Gap,
    pub(super) tally: Tally,
    /// An answer that no right store gives.
    pub(super) contradiction: Option<String>,
}

impl Pulse {
    /// Writes until `end` is set or its sender has gone; finishes the write that it is at.
    pub(super) async fn run(mut self, mut end: watch::Receiver<Option<Instant>>) -> PulseResult {
        let mut gaps = Gaps::new(self.begin);
        let (mut keys, mut tally, mut contradiction) = (PulseKeys::default(), Tally::default(), None);
        while end.borrow().is_none() && end.has_changed().is_ok() {
            let next = Moment::now() + self.interval;
            let (number, key) = (keys.tried, self.speller.pulse(self.round, self.number, keys.tried));
            keys.tried += 1;
            let value = Bytes::from(number.to_string());
            match self.client.perform(&key, &Call::Put { value, condition: Condition::Absent }).await {
                Ok(Answer::Written { .. }) => {
                    let at = self.clock.now();
                    // An answer that came after the end still counts as written, not as time without a write.
                    gaps.acknowledge(end.borrow().map_or(at, |end| end.min(at)));
                    keys.acknowledged.push(number);
                }
                Ok(_) => {
                    contradiction.get_or_insert(format!(
                        "key {key} was written once, if absent, and that was refused: it was there"
                    ));
                }
                Err(error) => drop(tally.add(&error, true)),
            }
            tokio::select! {
                () = sleep_until(next) => {}
                _ = end.changed() => {}
            }
        }
        let end = end.borrow().unwrap_or_else(|| self.clock.now());
        PulseResult { keys, gap: gaps.close(end), tally, contradiction }
    }
}
