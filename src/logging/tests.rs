//! Lines that nobody reads, and threads that log meanwhile.

use std::sync::{Condvar, Mutex};

use super::*;
use crate::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(30);

/// A sink that can be closed and opened, and can be broken.
#[derive(Clone, Default)]
struct Sink(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    is_blocked: bool,
    breaks: Option<ErrorKind>,
    written: Vec<u8>,
    /// Writes that were begun.
    begun: usize,
}

impl Sink {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn wait_until(&self, is: impl Fn(&State) -> bool) {
        let state = self.0.0.lock().unwrap();
        let (_state, waited) = self.0.1.wait_timeout_while(state, PATIENCE, |state| !is(state)).unwrap();
        assert!(!waited.timed_out());
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().written.clone()).unwrap()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.change(|state| state.begun += 1);
        let state = self.0.0.lock().unwrap();
        let mut state = self.0.1.wait_while(state, |state| state.is_blocked).unwrap();
        if let Some(kind) = state.breaks {
            return Err(kind.into());
        }
        // Less than was given, as pipes do.
        let count = bytes.len().min(7);
        state.written.extend_from_slice(&bytes[..count]);
        drop(state);
        self.0.1.notify_all();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_arrive_whole_and_in_order() {
    let sink = Sink::default();
    let lines = Lines::start(sink.clone()).unwrap();
    let wanted: Vec<_> = (0..1_000).map(|number| format!("this is line {number}\n")).collect();
    for line in &wanted {
        lines.push(line.clone().into_bytes());
    }
    assert!(lines.flush(PATIENCE));
    assert_eq!((sink.text(), lines.dropped()), (wanted.concat(), 0));
}

#[test]
fn a_blocked_sink_blocks_nobody_and_what_is_dropped_is_counted_and_told() {
    let sink = Sink::default();
    sink.change(|state| state.is_blocked = true);
    let lines = Lines::start(sink.clone()).unwrap();
    let extra = 100;
    lines.push(b"first\n".to_vec());
    // The thread has taken it from the queue.
    sink.wait_until(|state| state.begun > 0);
    for _ in 0..LINES_MAX + extra {
        lines.push(b"line\n".to_vec());
    }
    assert_eq!(lines.dropped(), extra as u64);
    assert!(!lines.flush(Duration::from_millis(20)), "a flush is bounded");

    let metrics = Metrics::new();
    lines.count_in(metrics.log_lines_dropped_total.clone());
    lines.push(b"line\n".to_vec());
    assert_eq!(metrics.log_lines_dropped_total.get(), extra as u64 + 1);

    sink.change(|state| state.is_blocked = false);
    assert!(lines.flush(PATIENCE));
    assert_eq!(sink.text().lines().filter(|line| *line == "line").count(), LINES_MAX);
}

#[test]
fn the_log_says_how_many_lines_are_missing() {
    let sink = Sink::default();
    sink.change(|state| state.breaks = Some(ErrorKind::StorageFull));
    let lines = Lines::start(sink.clone()).unwrap();
    for _ in 0..3 {
        lines.push(b"line\n".to_vec());
    }
    assert!(lines.flush(PATIENCE));
    assert_eq!((lines.dropped(), sink.text().as_str()), (3, ""));
    // By what the worker's thread would use, if it had a subscriber of its own.
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).finish();
    sink.change(|state| state.breaks = None);
    let mut worker = Worker { sink, shared: Arc::clone(&lines.shared), reported: 0, reported_at: None };
    tracing::subscriber::with_default(subscriber, || {
        worker.report();
        // Once.
        worker.report();
    });
    assert!(lines.flush(PATIENCE));
    let text = worker.sink.text();
    assert_eq!(text.matches("3 log lines dropped").count(), 1, "{text}");
}

#[test]
fn long_lines_are_bounded_by_their_bytes() {
    let sink = Sink::default();
    sink.change(|state| state.is_blocked = true);
    let lines = Lines::start(sink.clone()).unwrap();
    lines.push(b"first\n".to_vec());
    sink.wait_until(|state| state.begun > 0);
    for _ in 0..10 {
        lines.push(vec![b'x'; 1 << 20]);
    }
    assert_eq!(lines.dropped(), 6);
    sink.change(|state| state.breaks = Some(ErrorKind::BrokenPipe));
    sink.change(|state| state.is_blocked = false);
    assert!(lines.flush(PATIENCE));
    assert_eq!((lines.dropped(), lines.shared.bytes.load(Ordering::Relaxed)), (11, 0));
}
