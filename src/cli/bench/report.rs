//! A run's results, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Args;
use super::tally::{Gap, Tally};

/// What `-o json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: &'static str,
    protocol: &'static str,
    op: &'static str,
    consistency: &'static str,
    clients: usize,
    /// Asked for; null in a closed loop.
    rate: Option<f64>,
    value_bytes: usize,
    keys: u64,
    elapsed_seconds: f64,
    /// Null if there were none.
    writes: Option<Operations>,
    /// Null if there were none.
    reads: Option<Operations>,
    /// Failed operations by code.
    errors: BTreeMap<String, u64>,
    /// Null if nothing was to be written.
    longest_write_gap: Option<GapReport>,
}

#[derive(Debug, Serialize)]
struct Operations {
    count: u64,
    per_second: f64,
    latency_ms: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct GapReport {
    ms: f64,
    until_seconds: f64,
}

impl Report {
    pub(super) fn new(args: &Args, tally: &Tally, elapsed: Duration, gap: Gap) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            protocol: args.protocol.name(),
            op: args.op.name(),
            consistency: args.consistency.name(),
            clients: args.clients.into(),
            rate: args.rate,
            value_bytes: args.value_bytes.0,
            keys: args.keys,
            elapsed_seconds: rounded(elapsed.as_secs_f64()),
            writes: Operations::new(&tally.writes, elapsed),
            reads: Operations::new(&tally.reads, elapsed),
            errors: tally.errors.clone(),
            longest_write_gap: args.op.writes().then(|| GapReport {
                ms: millis(gap.length),
                until_seconds: rounded(gap.until.as_secs_f64()),
            }),
        }
    }

    /// Whether anything succeeded.
    pub(super) fn any_done(&self) -> bool {
        self.writes.is_some() || self.reads.is_some()
    }

    /// As printed for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let lines = &mut text;
        let how = self.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} a second"));
        line(
            lines,
            &format!(
                "{} over {}: {} clients, {how}, values of {} bytes, {} keys, {:.1} s",
                self.op, self.protocol, self.clients, self.value_bytes, self.keys, self.elapsed_seconds
            ),
        );
        line(
            lines,
            &format!(
                "{:<8}{:>10}{:>11}{:>9}{:>9}{:>9}{:>9}{:>9}",
                "", "count", "per second", "p50 ms", "p90", "p99", "p99.9", "max"
            ),
        );
        for (name, operations) in [("writes", &self.writes), ("reads", &self.reads)] {
            if let Some(Operations { count, per_second, latency_ms: l }) = operations {
                line(
                    lines,
                    &format!(
                        "{name:<8}{count:>10}{per_second:>11.0}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}",
                        l.p50, l.p90, l.p99, l.p999, l.max
                    ),
                );
            }
        }
        if let Some(gap) = &self.longest_write_gap {
            line(
                lines,
                &format!(
                    "longest time without an acknowledged write: {:.1} ms, until second {:.1}",
                    gap.ms, gap.until_seconds
                ),
            );
        }
        if self.errors.is_empty() {
            line(lines, "errors: none");
        }
        for (code, count) in &self.errors {
            line(lines, &format!("errors: {count} {code}"));
        }
        text
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a string cannot fail");
}

impl Operations {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    fn new(histogram: &Histogram<u64>, elapsed: Duration) -> Option<Self> {
        let count = histogram.len();
        let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let at = |quantile: f64| histogram.value_at_quantile(quantile).min(histogram.max()) as f64 / 1000.0;
        (count > 0).then(|| Self {
            count,
            per_second: rounded(count as f64 / seconds),
            latency_ms: Latency {
                mean: rounded(histogram.mean() / 1000.0),
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: histogram.max() as f64 / 1000.0,
            },
        })
    }
}

fn millis(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1000.0)
}

/// To three decimals.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_percentiles_come_from_what_was_counted() {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
        for millis in 1..=100 {
            histogram.record(millis * 1000).unwrap();
        }
        let operations = Operations::new(&histogram, Duration::from_secs(4)).unwrap();
        assert_eq!((operations.count, operations.per_second), (100, 25.0));
        let latency = operations.latency_ms;
        let near = |value: f64, wanted: f64| (value - wanted).abs() < 0.1;
        assert!(
            near(latency.p50, 50.0) && near(latency.p99, 99.0) && near(latency.max, 100.0),
            "{latency:?}"
        );
        assert!(Operations::new(&Histogram::new(3).unwrap(), Duration::ZERO).is_none());
    }
}
