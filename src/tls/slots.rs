//! The connections of one port: at most so many at one time. If one more comes, the one that has been idle longest is
//! closed for it, so that clients with unused connections keep nobody out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Pause before another look for an idle connection, if none was.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Says for how long a connection has been idle.
pub trait Idle: Send + Sync {
    /// Since when nothing moved on it, or `None` while it is in use.
    fn idle_since(&self) -> Option<Instant>;
}

/// The connections of one port.
#[derive(Clone)]
pub struct Slots(Arc<Inner>);

struct Inner {
    max: usize,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Entry>>,
    freed: Notify,
}

struct Entry {
    idle: Arc<dyn Idle>,
    close: Arc<Notify>,
    /// It was asked to close.
    is_closing: bool,
}

/// The right to one connection, for as long as this lives.
pub struct Slot {
    slots: Slots,
    id: u64,
    close: Arc<Notify>,
}

/// A connection of which no more is known than when it came.
struct Since(Instant);

impl Idle for Since {
    fn idle_since(&self) -> Option<Instant> {
        Some(self.0)
    }
}

impl Slots {
    /// For at most `max` connections, at least one.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self(Arc::new(Inner {
            max: (max as usize).max(1),
            next: AtomicU64::new(0),
            open: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// A slot for a connection that was just accepted. If all are taken, closes the connection that has been idle
    /// longest and waits until it, or another, has ended.
    pub async fn take(&self) -> Slot {
        loop {
            let freed = self.0.freed.notified();
            if let Some(slot) = self.try_take() {
                return slot;
            }
            self.close_idlest();
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    fn try_take(&self) -> Option<Slot> {
        let mut open = self.open();
        (open.len() < self.0.max).then(|| {
            let (id, close) = (self.0.next.fetch_add(1, Ordering::Relaxed), Arc::<Notify>::default());
            let idle = Arc::new(Since(Instant::now()));
            open.insert(id, Entry { idle, close: Arc::clone(&close), is_closing: false });
            Slot { slots: self.clone(), id, close }
        })
    }

    /// One at a time: the slot that is freed by it is taken before another connection has to go.
    fn close_idlest(&self) {
        let mut open = self.open();
        if open.values().any(|entry| entry.is_closing) {
            return;
        }
        let idle = open.values_mut().filter_map(|entry| Some((entry.idle.idle_since()?, entry)));
        if let Some((_, entry)) = idle.min_by_key(|(since, _)| *since) {
            entry.is_closing = true;
            entry.close.notify_one();
        }
    }

    /// Connections at present.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.open().len()
    }

    /// Waits until no connection is left.
    pub async fn all_free(&self) {
        loop {
            let freed = self.0.freed.notified();
            if self.taken() == 0 {
                return;
            }
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Has `idle` say from now on for how long the connection has been idle. Until then it is since it came.
    pub fn watch(&self, idle: Arc<dyn Idle>) {
        if let Some(entry) = self.slots.open().get_mut(&self.id) {
            entry.idle = idle;
        }
    }

    /// Completes when the connection must make room for another one.
    pub fn must_close(&self) -> impl Future<Output = ()> + Send + use<> {
        let close = Arc::clone(&self.close);
        async move { close.notified().await }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.open().remove(&self.id);
        self.slots.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Busy;

    impl Idle for Busy {
        fn idle_since(&self) -> Option<Instant> {
            None
        }
    }

    #[tokio::test]
    async fn the_connection_that_was_idle_longest_makes_room() {
        let slots = Slots::new(3);
        let (busy, older, newer) = (slots.take().await, slots.take().await, slots.take().await);
        busy.watch(Arc::new(Busy));
        let now = Instant::now();
        older.watch(Arc::new(Since(now)));
        newer.watch(Arc::new(Since(now + Duration::from_secs(1))));
        let closed = async {
            older.must_close().await;
            drop(older);
        };
        let (taken, ()) = tokio::join!(slots.take(), closed);
        assert_eq!(slots.taken(), 3);
        // Nothing is closed that is in use.
        taken.watch(Arc::new(Busy));
        newer.watch(Arc::new(Busy));
        let ended = async {
            tokio::task::yield_now().await;
            drop(busy);
        };
        let (again, ()) = tokio::join!(slots.take(), ended);
        drop((again, taken, newer));
        slots.all_free().await;
    }
}
