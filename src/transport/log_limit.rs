//! Keeps a peer that errs in a loop from filling the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets a text pass when it differs from the last one that passed, at most once a second, and the same text
/// once a minute.
#[derive(Default)]
pub(super) struct LogLimit(Mutex<Option<(Instant, String)>>);

const DIFFERENT: Duration = Duration::from_secs(1);
const SAME: Duration = Duration::from_mins(1);

impl LogLimit {
    /// Whether to log `text` now.
    pub(super) fn allows(&self, text: &str) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, before)) = last.as_ref() {
            let pause = if before == text { SAME } else { DIFFERENT };
            if at.elapsed() < pause {
                return false;
            }
        }
        *last = Some((Instant::now(), text.to_owned()));
        true
    }
}
