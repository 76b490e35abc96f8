//! What became of rounds, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

/// One round.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(into = "RoundJson")]
pub struct RoundReport {
    /// Its name.
    pub round: String,
    /// When it began, in milliseconds since 1970 UTC.
    pub started_unix_ms: u64,
    /// From its begin to its end, without reading back and judging.
    pub duration: Duration,
    /// Requests of all clients.
    pub operations: u64,
    /// Writes that may have been applied or may still be: no answer, a broken connection, 503 or 504 with `unknown`.
    pub unknown: u64,
    /// The same by code (`no_leader`, `timeout`, …; `no_answer` and `broken` for connections).
    pub unknown_requests: BTreeMap<String, u64>,
    /// Requests that certainly had no effect, by code, failed reads among them.
    pub failed_requests: BTreeMap<String, u64>,
    /// Failed requests of the writer that goes through the Service, of either kind; not among the two above.
    pub failed_requests_by_service: BTreeMap<String, u64>,
    /// Writes that were acknowledged: of the register clients and of the pulses.
    pub acknowledged_writes: u64,
    /// Acknowledged writes of the pulses that a linearizable read did not find when the round was over.
    pub lost_writes: u64,
    /// Keys of some of them.
    pub lost_keys: Vec<String>,
    /// Acknowledged writes of the pulses that could not be read when the round was over: nobody answered. The final
    /// reading tries again.
    pub unread_writes: u64,
    /// Whether one order explains all that clients saw; else why not. `undecided: …` if the checker stopped its search.
    pub linearizable: Result<(), String>,
    /// The longest time without an acknowledged write, for a client that knows all members: between two of them, from
    /// the round's begin to the first, from the last to the round's end.
    pub longest_write_gap: Duration,
    /// When that began, after the round's begin.
    pub longest_write_gap_at: Duration,
    /// The same for a client that only knows the Service, if there is one.
    pub longest_write_gap_by_service: Option<Duration>,
}

impl RoundReport {
    /// Linearizable, and nothing lost.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.linearizable.is_ok() && self.lost_writes == 0
    }
}

/// All rounds, and what the last reading found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(into = "FinalJson")]
pub struct FinalReport {
    /// The run; its keys are below `chaos/<run>/`.
    pub run: String,
    /// In the order of time.
    pub rounds: Vec<RoundReport>,
    /// Acknowledged writes of all rounds.
    pub acknowledged_writes: u64,
    /// Acknowledged writes of the pulses that were read once more at the end and found.
    pub found_writes: u64,
    /// Those that were not there.
    pub lost_writes: u64,
    /// Keys of some of them.
    pub lost_keys: Vec<String>,
    /// Those that could not be read, since nobody answered.
    pub unread_writes: u64,
    /// Keys that may still be there: all of them if they are to be kept.
    pub keys_left: Option<u64>,
}

impl FinalReport {
    /// Every round linearizable, nothing lost, everything read.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems().is_empty()
    }

    /// What is wrong, one line or more each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for round in &self.rounds {
            if let Err(violation) = &round.linearizable {
                problems.push(format!("round {}: {violation}", round.round));
            }
            if round.lost_writes > 0 {
                problems.push(lost(&format!("round {}", round.round), round.lost_writes, &round.lost_keys));
            }
        }
        if self.lost_writes > 0 {
            problems.push(lost("at the end", self.lost_writes, &self.lost_keys));
        }
        if self.unread_writes > 0 {
            problems.push(format!(
                "{} acknowledged writes could not be read: nobody answered",
                self.unread_writes
            ));
        }
        problems
    }
}

fn lost(when: &str, count: u64, keys: &[String]) -> String {
    format!("{when}: {count} acknowledged writes are lost, for example {}", keys.join(", "))
}

/// A round as JSON: milliseconds, and the verdict as two fields.
#[derive(Serialize)]
struct RoundJson {
    round: String,
    started_unix_ms: u64,
    duration_ms: f64,
    operations: u64,
    acknowledged_writes: u64,
    lost_writes: u64,
    lost_keys: Vec<String>,
    unread_writes: u64,
    unknown: u64,
    unknown_requests: BTreeMap<String, u64>,
    failed_requests: BTreeMap<String, u64>,
    failed_requests_by_service: BTreeMap<String, u64>,
    linearizable: bool,
    violation: Option<String>,
    longest_write_gap_ms: f64,
    longest_write_gap_at_ms: f64,
    longest_write_gap_by_service_ms: Option<f64>,
}

impl From<RoundReport> for RoundJson {
    fn from(report: RoundReport) -> Self {
        Self {
            round: report.round,
            started_unix_ms: report.started_unix_ms,
            duration_ms: millis(report.duration),
            operations: report.operations,
            acknowledged_writes: report.acknowledged_writes,
            lost_writes: report.lost_writes,
            lost_keys: report.lost_keys,
            unread_writes: report.unread_writes,
            unknown: report.unknown,
            unknown_requests: report.unknown_requests,
            failed_requests: report.failed_requests,
            failed_requests_by_service: report.failed_requests_by_service,
            linearizable: report.linearizable.is_ok(),
            violation: report.linearizable.err(),
            longest_write_gap_ms: millis(report.longest_write_gap),
            longest_write_gap_at_ms: millis(report.longest_write_gap_at),
            longest_write_gap_by_service_ms: report.longest_write_gap_by_service.map(millis),
        }
    }
}

/// A whole run as JSON.
#[derive(Serialize)]
struct FinalJson {
    run: String,
    clean: bool,
    problems: Vec<String>,
    rounds: Vec<RoundReport>,
    acknowledged_writes: u64,
    found_writes: u64,
    lost_writes: u64,
    lost_keys: Vec<String>,
    unread_writes: u64,
    keys_left: Option<u64>,
}

impl From<FinalReport> for FinalJson {
    fn from(report: FinalReport) -> Self {
        Self {
            clean: report.is_clean(),
            problems: report.problems(),
            run: report.run,
            rounds: report.rounds,
            acknowledged_writes: report.acknowledged_writes,
            found_writes: report.found_writes,
            lost_writes: report.lost_writes,
            lost_keys: report.lost_keys,
            unread_writes: report.unread_writes,
            keys_left: report.keys_left,
        }
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Rounds as a table for people.
#[must_use]
pub fn table(rounds: &[RoundReport]) -> String {
    let width = rounds.iter().map(|round| round.round.chars().count()).chain([5]).max().unwrap_or_default();
    let mut text = format!(
        "{:<width$}  {:>8}  {:>9}  {:>9}  {:>6}  {:>7}  {:>5}  {:>10}  {:>10}  {}\n",
        "ROUND",
        "TIME s",
        "REQUESTS",
        "WRITTEN",
        "FAILED",
        "UNKNOWN",
        "LOST",
        "GAP ms",
        "SERVICE ms",
        "LINEARIZABLE"
    );
    for round in rounds {
        let failed: u64 = round.failed_requests.values().sum();
        let service =
            round.longest_write_gap_by_service.map_or("-".to_owned(), |gap| format!("{:.0}", millis(gap)));
        let verdict = match &round.linearizable {
            Ok(()) => "yes",
            Err(why) if why.starts_with("undecided") => "undecided",
            Err(_) => "NO",
        };
        let _ = writeln!(
            text,
            "{:<width$}  {:>8.1}  {:>9}  {:>9}  {:>6}  {:>7}  {:>5}  {:>10.0}  {:>10}  {}",
            round.round,
            round.duration.as_secs_f64(),
            round.operations,
            round.acknowledged_writes,
            failed,
            round.unknown,
            round.lost_writes,
            millis(round.longest_write_gap),
            service,
            verdict
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round() -> RoundReport {
        RoundReport {
            round: "leader".to_owned(),
            started_unix_ms: 1,
            duration: Duration::from_secs(20),
            operations: 100,
            unknown: 1,
            unknown_requests: BTreeMap::from([("broken".to_owned(), 1)]),
            failed_requests: BTreeMap::from([("no_leader".to_owned(), 3)]),
            failed_requests_by_service: BTreeMap::new(),
            acknowledged_writes: 90,
            lost_writes: 0,
            lost_keys: Vec::new(),
            unread_writes: 0,
            linearizable: Ok(()),
            longest_write_gap: Duration::from_micros(812_345),
            longest_write_gap_at: Duration::from_secs(3),
            longest_write_gap_by_service: None,
        }
    }

    fn finished(rounds: Vec<RoundReport>) -> FinalReport {
        FinalReport {
            run: "x".to_owned(),
            rounds,
            acknowledged_writes: 90,
            found_writes: 90,
            lost_writes: 0,
            lost_keys: Vec::new(),
            unread_writes: 0,
            keys_left: Some(0),
        }
    }

    #[test]
    fn a_round_is_json_with_units_in_its_names() {
        let json = serde_json::to_value(round()).unwrap();
        assert_eq!(json["longest_write_gap_ms"], 812.345);
        assert_eq!(json["longest_write_gap_by_service_ms"], serde_json::Value::Null);
        assert_eq!(json["linearizable"], true);
        assert_eq!(json["failed_requests"]["no_leader"], 3);
        let json =
            serde_json::to_value(RoundReport { linearizable: Err("no".to_owned()), ..round() }).unwrap();
        assert_eq!((&json["linearizable"], &json["violation"]), (&false.into(), &"no".into()));
    }

    #[test]
    fn each_kind_of_trouble_makes_a_run_unclean() {
        assert!(finished(vec![round()]).is_clean());
        let bad = [
            finished(vec![RoundReport { lost_writes: 1, ..round() }]),
            finished(vec![RoundReport { linearizable: Err("undecided: stopped".to_owned()), ..round() }]),
            FinalReport { lost_writes: 1, ..finished(vec![round()]) },
            FinalReport { unread_writes: 1, ..finished(vec![round()]) },
        ];
        for report in bad {
            assert_eq!(report.problems().len(), 1, "{report:?}");
            assert_eq!(serde_json::to_value(&report).unwrap()["clean"], false);
        }
        let unread = RoundReport { unread_writes: 5, ..round() };
        assert!(finished(vec![unread]).is_clean(), "they were read at the end");
    }

    #[test]
    fn the_table_has_a_row_for_each_round() {
        let text = table(&[round(), RoundReport { linearizable: Err("undecided: x".to_owned()), ..round() }]);
        let rows: Vec<_> = text.lines().collect();
        assert_eq!(rows.len(), 3);
        assert!(
            rows[1].starts_with("leader") && rows[1].contains("812") && rows[1].ends_with("yes"),
            "{text}"
        );
        assert!(rows[2].ends_with("undecided"), "{text}");
    }
}
