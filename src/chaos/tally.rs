//! Requests that failed, by how, and whether they may have had an effect.

use std::collections::BTreeMap;

use crate::api::client::ClientError;
use crate::driver::Outcome;

/// Counts by a stable name: the problem's `code`, or what became of the connection.
pub(super) type Counts = BTreeMap<String, u64>;

/// Failed requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Certainly without effect, failed reads among them.
    pub(super) failed: Counts,
    /// Writes that may have been applied, or may still be.
    pub(super) unknown: Counts,
}

impl Tally {
    /// Counts a failure; returns whether it was a write of unknown outcome.
    pub(super) fn add(&mut self, error: &ClientError, is_write: bool) -> bool {
        let is_unknown = is_write && error.outcome() == Outcome::Unknown;
        let counts = if is_unknown { &mut self.unknown } else { &mut self.failed };
        *counts.entry(code(error)).or_default() += 1;
        is_unknown
    }

    pub(super) fn merge(&mut self, other: Self) {
        add(&mut self.failed, other.failed);
        add(&mut self.unknown, other.unknown);
    }

    /// Both kinds together.
    pub(super) fn all(mut self) -> Counts {
        add(&mut self.failed, self.unknown);
        self.failed
    }
}

fn add(counts: &mut Counts, others: Counts) {
    for (code, count) in others {
        *counts.entry(code).or_default() += count;
    }
}

/// The name a failure is counted under.
fn code(error: &ClientError) -> String {
    match error {
        ClientError::Problem(problem) => problem.code.to_string(),
        ClientError::Connect { .. } => "connect".into(),
        ClientError::NotSent(_) => "not_sent".into(),
        ClientError::Broken(_) => "broken".into(),
        ClientError::Timeout { sent: false } => "connect_timeout".into(),
        ClientError::Timeout { sent: true } => "no_answer".into(),
        ClientError::Unexpected { status, .. } => format!("http_{status}"),
        ClientError::Endpoint(_) | ClientError::TargetTooLong | ClientError::IdempotencyKey(_) => {
            "malformed".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_have_unknown_outcomes() {
        let mut tally = Tally::default();
        assert!(tally.add(&ClientError::Timeout { sent: true }, true));
        assert!(!tally.add(&ClientError::Timeout { sent: true }, false));
        assert!(!tally.add(&ClientError::Timeout { sent: false }, true));
        let mut sum = tally.clone();
        sum.merge(tally);
        assert_eq!(sum.unknown, Counts::from([("no_answer".to_owned(), 2)]));
        let failed = [("connect_timeout".to_owned(), 2), ("no_answer".to_owned(), 2)];
        assert_eq!(sum.failed, Counts::from(failed));
    }
}
