//! Log lines on their way to standard error. No thread waits for the reader of the log: lines go through a bounded
//! queue to a thread of their own, and a line that finds no room, or that cannot be written, is dropped and counted.
//!
//! `tracing-appender` has such a queue, but its shutdown prints to standard error with `eprintln!`. That call waits for
//! ever on a full pipe and panics on a closed one, and lines that could not be written are not counted.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, ErrorKind, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::metrics::IntCounter;

/// Lines that may wait for the sink.
const LINES_MAX: usize = 8_192;
/// The same in bytes.
const BYTES_MAX: usize = 4 << 20;
/// Shortest time between two lines that say how many were dropped.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before a sink that is not ready (`O_NONBLOCK`) is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// The queue of lines. Clones share it. As a [`MakeWriter`] it takes one line with each write, which never fails.
#[derive(Clone)]
pub struct Lines {
    queue: SyncSender<Item>,
    shared: Arc<Shared>,
}

enum Item {
    Line(Vec<u8>),
    /// All that was sent before is written.
    Flushed(SyncSender<()>),
}

#[derive(Default)]
struct Shared {
    /// What the lines in the queue take.
    bytes: AtomicUsize,
    /// Lines dropped since the start.
    dropped: AtomicU64,
    counter: RwLock<Option<IntCounter>>,
}

impl Shared {
    fn drop_line(&self) {
        let counter = self.counter.read().unwrap_or_else(PoisonError::into_inner);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        if let Some(counter) = &*counter {
            counter.inc();
        }
    }
}

impl Lines {
    /// Starts the thread that writes the lines to `sink`.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, items) = sync_channel(LINES_MAX);
        let shared = Arc::<Shared>::default();
        let worker = Worker { sink, shared: Arc::clone(&shared), reported: 0, reported_at: None };
        thread::Builder::new().name("logging".to_owned()).spawn(move || worker.run(&items))?;
        Ok(Self { queue, shared })
    }

    /// Queues one line, or drops and counts it.
    pub fn push(&self, line: Vec<u8>) {
        let size = line.len();
        if self.shared.bytes.fetch_add(size, Ordering::Relaxed) + size > BYTES_MAX
            || self.queue.try_send(Item::Line(line)).is_err()
        {
            self.shared.bytes.fetch_sub(size, Ordering::Relaxed);
            self.shared.drop_line();
        }
    }

    /// Lines dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Counts dropped lines in `counter` from now on, those so far included.
    pub fn count_in(&self, counter: IntCounter) {
        let mut current = self.shared.counter.write().unwrap_or_else(PoisonError::into_inner);
        counter.inc_by(self.dropped());
        *current = Some(counter);
    }

    /// Waits until the lines queued before are written, but at most `timeout`. Whether they are.
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let (done, flushed) = sync_channel(1);
        let mut item = Item::Flushed(done);
        loop {
            match self.queue.try_send(item) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(_)) if Instant::now() >= deadline => return false,
                Err(TrySendError::Full(back)) => item = back,
            }
            thread::sleep(RETRY_INTERVAL);
        }
        flushed.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }
}

/// One write is one line.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

struct Worker<W> {
    sink: W,
    shared: Arc<Shared>,
    /// Dropped lines that the log reports.
    reported: u64,
    reported_at: Option<Instant>,
}

impl<W: Write> Worker<W> {
    fn run(mut self, items: &Receiver<Item>) {
        loop {
            match items.recv_timeout(REPORT_INTERVAL) {
                Ok(Item::Line(line)) => {
                    self.shared.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                    match self.write(&line) {
                        Ok(()) => self.report(),
                        Err(_) => self.shared.drop_line(),
                    }
                }
                Ok(Item::Flushed(done)) => {
                    let _ = self.sink.flush();
                    let _ = done.try_send(());
                }
                // Says so now if the last lines of a burst were dropped. A sink that fails is tried with that line.
                Err(RecvTimeoutError::Timeout) => self.report(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, mut line: &[u8]) -> io::Result<()> {
        while !line.is_empty() {
            match self.sink.write(line) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => line = &line[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_INTERVAL),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says how many lines were dropped, by a line in the queue.
    fn report(&mut self) {
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        let is_due = self.reported_at.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL);
        if dropped > self.reported && is_due {
            let lines = dropped - self.reported;
            (self.reported, self.reported_at) = (dropped, Some(Instant::now()));
            tracing::warn!(total = dropped, "{lines} log lines dropped");
        }
    }
}

/// Has panics logged like everything else: the standard hook would wait for the reader of standard error, with the
/// thread that panicked.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(
            thread = thread::current().name(),
            at = info.location().map(tracing::field::display),
            backtrace,
            "panicked: {}",
            panic_message(info)
        );
    }));
}

fn panic_message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let text = info.payload().downcast_ref::<&str>().copied();
    text.or_else(|| info.payload().downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests;
