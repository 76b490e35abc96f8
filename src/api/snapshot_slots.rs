//! Who takes a snapshot: each keeps what was overwritten meanwhile in memory, so there are few at a time, and one that is
//! taken slowly ends when another client wants its place.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::Problem;

/// At one time.
const SLOTS: usize = 2;
/// A client that takes less, averaged over [`Settings::snapshot_pace_time`](super::Settings), may keep its slot only
/// while nobody else wants it.
const PACE_BYTES_PER_S: u64 = 1 << 20;

/// The snapshots that are being sent.
#[derive(Debug, Default)]
pub(super) struct SnapshotSlots {
    taken: Mutex<Vec<Arc<Taken>>>,
    freed: Notify,
}

/// A slot, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    slots: Arc<SnapshotSlots>,
    taken: Arc<Taken>,
}

#[derive(Debug)]
struct Taken {
    pace: Mutex<Pace>,
    ended: watch::Sender<bool>,
}

/// How fast a client takes its snapshot.
#[derive(Debug)]
struct Pace {
    over: Duration,
    since: Instant,
    bytes: u64,
    /// Whether the latest whole period was slow.
    was_slow: bool,
}

impl SnapshotSlots {
    /// A slot. If there is none, a client that is slow loses its own.
    ///
    /// # Errors
    /// `overloaded`: there is none, or the slow one's did not become free before `deadline`.
    pub(super) async fn take(self: &Arc<Self>, over: Duration, deadline: Instant) -> Result<Turn, Problem> {
        loop {
            let freed = self.freed.notified();
            if let Some(turn) = self.try_take(over) {
                return Ok(turn);
            }
            let is_ending = self.end_slow_one();
            if !is_ending || timeout_at(deadline, freed).await.is_err() {
                return Err(Problem::overloaded("this node sends as many snapshots as it may right now"));
            }
        }
    }

    /// Whether a snapshot is being sent.
    #[cfg(test)]
    pub(super) fn is_in_use(&self) -> bool {
        !self.lock().is_empty()
    }

    fn try_take(self: &Arc<Self>, over: Duration) -> Option<Turn> {
        let mut all = self.lock();
        if all.len() >= SLOTS {
            return None;
        }
        let pace = Mutex::new(Pace { over, since: Instant::now(), bytes: 0, was_slow: false });
        let taken = Arc::new(Taken { pace, ended: watch::Sender::new(false) });
        all.push(Arc::clone(&taken));
        Some(Turn { slots: Arc::clone(self), taken })
    }

    /// Tells the slow one that has been at it for longest to end; false if none is slow.
    fn end_slow_one(&self) -> bool {
        let all = self.lock();
        let slow = all.iter().find(|taken| *taken.ended.borrow() || taken.pace().is_slow(Instant::now()));
        if let Some(slow) = slow {
            slow.ended.send_replace(true);
        }
        slow.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Taken>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// The client has taken so much more.
    pub(super) fn took(&self, bytes: usize) {
        self.taken.pace().took(Instant::now(), bytes as u64);
    }

    /// Says true once another client gets this slot.
    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.taken.ended.subscribe()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.slots.lock().retain(|taken| !Arc::ptr_eq(taken, &self.taken));
        self.slots.freed.notify_waiters();
    }
}

impl Pace {
    fn took(&mut self, now: Instant, bytes: u64) {
        self.close_period(now);
        self.bytes += bytes;
    }

    fn is_slow(&mut self, now: Instant) -> bool {
        self.close_period(now);
        self.was_slow
    }

    fn close_period(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= self.over {
            let expected = u128::from(PACE_BYTES_PER_S) * elapsed.as_millis() / 1000;
            self.was_slow = u128::from(self.bytes) < expected;
            (self.since, self.bytes) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_slow_client_keeps_its_slot_until_another_wants_it() {
        let slots = Arc::new(SnapshotSlots::default());
        let soon = || Instant::now() + Duration::from_millis(50);
        let fast = slots.take(HOUR, soon()).await.unwrap();
        let slow = slots.take(HOUR, soon()).await.unwrap();
        assert_eq!(slots.take(HOUR, soon()).await.unwrap_err().code, "overloaded");
        drop(slow);
        // As if hours had passed without a byte.
        let slow = slots.take(MS, soon()).await.unwrap();
        let ending = tokio::spawn(async move {
            slow.ended().wait_for(|ended| *ended).await.unwrap();
        });
        let next = loop {
            if let Ok(turn) = slots.take(HOUR, soon()).await {
                break turn;
            }
        };
        ending.await.unwrap();
        assert!(!*fast.ended().borrow());
        drop((fast, next));
        assert!(!slots.is_in_use());
    }

    #[test]
    fn the_pace_is_that_of_the_latest_whole_period() {
        let (start, minute) = (Instant::now(), Duration::from_mins(1));
        let mut pace = Pace { over: minute, since: start, bytes: 0, was_slow: false };
        pace.took(start + minute / 2, 1);
        assert!(!pace.is_slow(start + minute / 2), "too early to say");
        assert!(pace.is_slow(start + minute));
        pace.took(start + minute, 60 << 20);
        assert!(pace.is_slow(start + minute), "until the next period has ended");
        assert!(!pace.is_slow(start + 2 * minute));
        assert!(pace.is_slow(start + 3 * minute), "nothing was taken in this one");
    }
}
