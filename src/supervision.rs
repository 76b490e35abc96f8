//! Watches what must run for as long as the process does: tasks that must not end, and threads that must not stand
//! still. A task that ends by itself ends the process; a thread that stands still fails the liveness probe.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A thread that works on one thing for longer than this stands still.
const TURN_MAX: Duration = Duration::from_secs(30);
/// How often a runtime's threads show that they turn.
const TICK: Duration = Duration::from_secs(1);

/// Tasks that must run until they are aborted or told to end. Clones watch together.
#[derive(Clone)]
pub struct Tasks {
    ended: watch::Sender<Option<Ended>>,
}

/// A task that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task `{name}` {}", if *.panicked { "panicked; see the message above" } else { "ended unexpectedly" })]
pub struct Ended {
    /// Its name.
    pub name: &'static str,
    /// Whether a panic ended it.
    pub panicked: bool,
}

/// Reports a task's end, unless it was aborted.
struct Report {
    name: &'static str,
    is_done: bool,
    ended: watch::Sender<Option<Ended>>,
}

impl Drop for Report {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        if self.is_done || panicked {
            let ended = Ended { name: self.name, panicked };
            // The first one is the cause of others.
            self.ended.send_if_modified(|first| first.replace(first.unwrap_or(ended)).is_none());
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self { ended: watch::Sender::new(None) }
    }
}

impl Tasks {
    /// `task`, its end reported. For tasks that end only when they are aborted.
    pub fn watched<T, F: Future<Output = T> + Send>(
        &self,
        name: &'static str,
        task: F,
    ) -> impl Future<Output = T> + Send + use<T, F> {
        let mut report = Report { name, is_done: false, ended: self.ended.clone() };
        async move {
            let done = task.await;
            report.is_done = true;
            drop(report);
            done
        }
    }

    /// As [`Tasks::watched`], for a task that may end once `is_over` is true.
    pub fn watched_until<T, F: Future<Output = T> + Send>(
        &self,
        name: &'static str,
        is_over: watch::Receiver<bool>,
        task: F,
    ) -> impl Future<Output = T> + Send + use<T, F> {
        let mut report = Report { name, is_done: false, ended: self.ended.clone() };
        async move {
            let done = task.await;
            report.is_done = !*is_over.borrow();
            drop(report);
            done
        }
    }

    /// Spawns a [watched](Tasks::watched) task on the present runtime.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        tokio::spawn(self.watched(name, task))
    }

    /// Completes when a task has ended by itself.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| *ended) {
            Ok(Some(ended)) => ended,
            // The sender lives as long as this.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// What one thread is at. Its thread stores, the probe reads; one relaxed store each.
#[derive(Debug)]
pub struct Beat {
    /// [`WAITS`], [`ENDED`], or since when it works, in milliseconds behind `since` and two more.
    state: AtomicU64,
    since: Instant,
}

const WAITS: u64 = 0;
const ENDED: u64 = 1;

impl Beat {
    fn new() -> Self {
        Self { state: AtomicU64::new(WAITS), since: Instant::now() }
    }

    /// A turn begins at `now`.
    pub fn works(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.since).as_millis();
        self.state.store(u64::try_from(millis).unwrap_or(u64::MAX - 2) + 2, Ordering::Relaxed);
    }

    /// It waits for something to do, for a disk, or for another thread that is watched as well.
    pub fn waits(&self) {
        self.state.store(WAITS, Ordering::Relaxed);
    }

    /// It has ended.
    pub fn ends(&self) {
        self.state.store(ENDED, Ordering::Relaxed);
    }

    /// Why the thread counts as dead.
    fn trouble(&self, name: &str, now: Instant) -> Option<String> {
        let since = match self.state.load(Ordering::Relaxed) {
            WAITS => return None,
            ENDED => return Some(format!("thread `{name}` has ended")),
            millis => self.since + Duration::from_millis(millis - 2),
        };
        let stands = now.saturating_duration_since(since);
        (stands > TURN_MAX).then(|| format!("thread `{name}` has not turned for {} s", stands.as_secs()))
    }
}

/// The threads of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Vec<NamedBeat>>>);

/// A thread's name, and where it stores its turns.
type NamedBeat = (&'static str, Arc<Beat>);

impl Pulse {
    /// What a thread of this name stores its turns in.
    #[must_use]
    pub fn thread(&self, name: &'static str) -> Arc<Beat> {
        let beat = Arc::new(Beat::new());
        let mut threads = self.threads();
        threads.retain(|(other, _)| *other != name);
        threads.push((name, Arc::clone(&beat)));
        beat
    }

    /// Watches the threads of a runtime: `name` stands still when none of them runs a task for long.
    #[must_use]
    pub fn ticking(&self, name: &'static str, runtime: &Handle) -> JoinHandle<()> {
        let beat = self.thread(name);
        beat.works(Instant::now());
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                beat.works(Instant::now());
            }
        })
    }

    /// Why the process counts as dead at `now`: the threads that ended, or stand still for more than 30 s.
    #[must_use]
    pub fn troubles(&self, now: Instant) -> Vec<String> {
        self.threads().iter().filter_map(|(name, beat)| beat.trouble(name, now)).collect()
    }

    fn threads(&self) -> MutexGuard<'_, Vec<(&'static str, Arc<Beat>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_task_that_ends_by_itself_is_named() {
        let tasks = Tasks::default();
        let aborted = tasks.spawn("aborted", std::future::pending::<()>());
        aborted.abort();
        let _ = aborted.await;
        let stop = watch::Sender::new(true);
        tasks.watched_until("told", stop.subscribe(), async {}).await;
        let panics = tasks.spawn("panics", async { panic!("planned") });
        assert!(panics.await.is_err());
        tasks.watched("returns", async {}).await;
        assert_eq!(tasks.ended().await, Ended { name: "panics", panicked: true });
        assert!(tasks.ended().await.to_string().contains("`panics` panicked"));
    }

    #[tokio::test]
    async fn a_task_that_returns_before_it_is_told_to_is_named() {
        let (tasks, stop) = (Tasks::default(), watch::Sender::new(false));
        tasks.watched_until("port", stop.subscribe(), async {}).await;
        assert_eq!(tasks.ended().await.to_string(), "the task `port` ended unexpectedly");
    }

    #[test]
    fn a_thread_that_stands_still_or_ended_is_named() {
        let pulse = Pulse::default();
        let (works, waits, ends) = (pulse.thread("core"), pulse.thread("log"), pulse.thread("apply"));
        let now = Instant::now();
        works.works(now);
        waits.works(now);
        // Turns are stored in whole milliseconds.
        assert!(pulse.troubles(now + TURN_MAX.checked_sub(Duration::from_millis(1)).unwrap()).is_empty());
        waits.waits();
        ends.ends();
        let later = now + TURN_MAX + Duration::from_secs(2);
        let troubles = pulse.troubles(later);
        assert_eq!(troubles, ["thread `core` has not turned for 32 s", "thread `apply` has ended"]);
        works.works(later);
        // A node that begins again in the same process has threads of the same names.
        let _ = pulse.thread("apply");
        assert!(pulse.troubles(later).is_empty());
    }
}
