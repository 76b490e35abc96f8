//! What a run came to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::faults::Fault;
use crate::chaos::{FinalReport, RoundReport};

/// One round.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// From 1.
    pub(super) number: usize,
    pub(super) fault: Fault,
    pub(super) victims: Vec<String>,
    /// How long the fault lasted, until it was healed; none for those that are over at once.
    pub(super) held: Option<Duration>,
    /// From the fault to full health; none if that did not come back.
    pub(super) healthy_after: Option<Duration>,
    /// What the load saw; none if no load ran.
    pub(super) report: Option<RoundReport>,
}

impl Row {
    /// Whether something was lost or read wrongly, which further rounds might cover up.
    pub(super) fn is_broken(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.lost_writes > 0 || verdict(report) == "NO")
    }
}

/// All rounds.
pub(super) struct Summary<'a> {
    pub(super) target: &'a str,
    pub(super) seed: u64,
    pub(super) rows: &'a [Row],
    /// None if the run was cut short before all was read once more.
    pub(super) last: Option<&'a FinalReport>,
    /// What ended the run early, and what is wrong.
    pub(super) problems: &'a [String],
}

/// A round as JSON.
#[derive(Serialize)]
struct RowJson<'a> {
    fault: String,
    victims: &'a [String],
    held_ms: Option<f64>,
    healthy_after_ms: Option<f64>,
    load: Option<&'a RoundReport>,
}

/// A kind of fault, over all of its rounds. Times are in milliseconds.
#[derive(Debug, PartialEq, Serialize)]
struct KindFigures {
    fault: String,
    rounds: usize,
    lost_writes: u64,
    write_gap_ms: Figures,
    write_gap_by_service_ms: Option<Figures>,
    healthy_after_ms: Option<Figures>,
}

/// Nearest ranks: of few rounds, p99 is the longest.
#[derive(Debug, PartialEq, Serialize)]
struct Figures {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Figures {
    fn of(times: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut times: Vec<_> = times.collect();
        times.sort();
        let max = *times.last()?;
        let rank = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self { p50: millis(rank(50)), p99: millis(rank(99)), max: millis(max) })
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Summary<'_> {
    /// One JSON document.
    pub(super) fn json(&self) -> serde_json::Value {
        let row = |row: &Row| {
            serde_json::json!(RowJson {
                fault: row.fault.to_string(),
                victims: &row.victims,
                held_ms: row.held.map(millis),
                healthy_after_ms: row.healthy_after.map(millis),
                load: row.report.as_ref(),
            })
        };
        let mut last = serde_json::json!(self.last);
        if let Some(last) = last.as_object_mut() {
            // They are above, with their faults.
            last.remove("rounds");
        }
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "target": self.target,
            "seed": self.seed,
            "ok": self.problems.is_empty(),
            "problems": self.problems,
            "rounds": self.rows.iter().map(row).collect::<Vec<_>>(),
            "faults": self.kinds(),
            "final": last,
        })
    }

    /// Two tables: the rounds, and the kinds of faults.
    pub(super) fn text(&self) -> String {
        if self.rows.is_empty() {
            return "no round was run to its end\n".to_owned();
        }
        let rounds = aligned(
            &[
                "ROUND",
                "FAULT",
                "VICTIMS",
                "HELD s",
                "HEALTHY s",
                "WRITES",
                "LOST",
                "GAP ms",
                "SERVICE ms",
                "LINEARIZABLE",
            ],
            &self.rows.iter().map(cells).collect::<Vec<_>>(),
        );
        let kinds = aligned(
            &["FAULT", "ROUNDS", "LOST", "GAP p50 ms", "p99", "max", "HEALTHY p50 ms", "p99", "max"],
            &self.kinds().iter().map(KindFigures::cells).collect::<Vec<_>>(),
        );
        let mut text = format!("{rounds}\n{kinds}");
        if let Some(last) = self.last {
            let _ = writeln!(
                text,
                "\n{} writes were acknowledged; the {} that had keys of their own were read once more at the end: {} lost",
                last.acknowledged_writes,
                last.found_writes + last.lost_writes,
                last.lost_writes
            );
        }
        text
    }

    fn kinds(&self) -> Vec<KindFigures> {
        let mut kinds: BTreeMap<&Fault, Vec<&Row>> = BTreeMap::new();
        for row in self.rows {
            kinds.entry(&row.fault).or_default().push(row);
        }
        let figures = |(fault, rows): (&Fault, Vec<&Row>)| {
            let reports = || rows.iter().filter_map(|row| row.report.as_ref());
            Some(KindFigures {
                fault: fault.to_string(),
                rounds: rows.len(),
                lost_writes: reports().map(|report| report.lost_writes).sum(),
                write_gap_ms: Figures::of(reports().map(|report| report.longest_write_gap))?,
                write_gap_by_service_ms: Figures::of(
                    reports().filter_map(|report| report.longest_write_gap_by_service),
                ),
                healthy_after_ms: Figures::of(rows.iter().filter_map(|row| row.healthy_after)),
            })
        };
        kinds.into_iter().filter_map(figures).collect()
    }
}

impl KindFigures {
    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.fault.clone(), self.rounds.to_string(), self.lost_writes.to_string()];
        for figures in [Some(&self.write_gap_ms), self.healthy_after_ms.as_ref()] {
            let shown =
                |pick: fn(&Figures) -> f64| figures.map_or("-".to_owned(), |f| format!("{:.0}", pick(f)));
            cells.extend([shown(|f| f.p50), shown(|f| f.p99), shown(|f| f.max)]);
        }
        cells
    }
}

/// A round as cells of the table.
fn cells(row: &Row) -> Vec<String> {
    let none = || "-".to_owned();
    let seconds =
        |time: Option<Duration>| time.map_or_else(none, |time| format!("{:.1}", time.as_secs_f64()));
    let whole = |time: Duration| format!("{:.0}", millis(time));
    let report = row.report.as_ref();
    vec![
        row.number.to_string(),
        row.fault.to_string(),
        row.victims.join(" "),
        seconds(row.held),
        row.healthy_after.map_or("NEVER".to_owned(), |_| seconds(row.healthy_after)),
        report.map_or_else(none, |report| report.acknowledged_writes.to_string()),
        report.map_or_else(none, |report| report.lost_writes.to_string()),
        report.map_or_else(none, |report| whole(report.longest_write_gap)),
        report.and_then(|report| report.longest_write_gap_by_service).map_or_else(none, whole),
        report.map_or_else(none, |report| verdict(report).to_owned()),
    ]
}

fn verdict(report: &RoundReport) -> &'static str {
    match &report.linearizable {
        Ok(()) => "yes",
        Err(why) if why.starts_with("undecided") => "undecided",
        Err(_) => "NO",
    }
}

/// What is said of a round as soon as it is over. `width` is that of the widest fault.
pub(super) fn round_line(row: &Row, count: usize, width: usize) -> String {
    let digits = count.to_string().len();
    let cells = cells(row);
    let [lost, gap, linearizable] = [&cells[6], &cells[7], &cells[9]];
    let fault = row.fault.to_string();
    let healthy = row
        .healthy_after
        .map_or("no full health".to_owned(), |time| format!("full health after {:.1} s", time.as_secs_f64()));
    format!(
        "round {:>digits$} of {count}: {fault:width$}  {healthy}, longest write gap {gap} ms, lost {lost}, linearizable \
         {linearizable} ({})",
        row.number,
        row.victims.join(", ")
    )
}

/// Columns as wide as their widest cell; the first three of text to the left, numbers to the right.
fn aligned(headings: &[&str], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let is_text: Vec<bool> = (0..headings.len())
        .map(|column| rows.iter().all(|row| row[column].starts_with(|c: char| c.is_alphabetic())))
        .collect();
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| {
            let cells = rows.iter().chain([&headings]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(rows) {
        let cells = row.iter().zip(&widths).zip(&is_text).map(|((cell, width), is_text)| match is_text {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.extend([line.trim_end(), "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::chaos::dev::KINDS;
    use crate::cli::chaos::faults::parse;

    fn row(number: usize, fault: &str, gap_ms: u64) -> Row {
        let report = RoundReport {
            round: format!("{number}-{fault}"),
            started_unix_ms: 1,
            duration: Duration::from_secs(5),
            operations: 200,
            unknown: 1,
            unknown_requests: BTreeMap::new(),
            failed_requests: BTreeMap::new(),
            failed_requests_by_service: BTreeMap::new(),
            acknowledged_writes: 150,
            lost_writes: 0,
            lost_keys: Vec::new(),
            unread_writes: 0,
            linearizable: Ok(()),
            longest_write_gap: Duration::from_millis(gap_ms),
            longest_write_gap_at: Duration::from_secs(1),
            longest_write_gap_by_service: None,
        };
        Row {
            number,
            fault: parse(fault, &KINDS).unwrap(),
            victims: vec!["1".to_owned(), "3".to_owned()],
            held: None,
            healthy_after: Some(Duration::from_millis(1_250)),
            report: Some(report),
        }
    }

    fn summary(rows: &[Row]) -> Summary<'_> {
        Summary { target: "3 nodes", seed: 7, rows, last: None, problems: &[] }
    }

    #[test]
    fn figures_are_nearest_ranks() {
        let of = |times: &[u64]| Figures::of(times.iter().map(|ms| Duration::from_millis(*ms)));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3]), Some(Figures { p50: 3.0, p99: 3.0, max: 3.0 }));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), Some(Figures { p50: 50.0, p99: 99.0, max: 100.0 }));
    }

    #[test]
    fn the_tables_show_each_round_and_each_kind() {
        let mut never = row(2, "cut", 812);
        never.healthy_after = None;
        never.held = Some(Duration::from_secs(2));
        let rows = [row(1, "kill:two", 90), never, row(3, "kill:two", 110)];
        let expected = "\
ROUND  FAULT       VICTIMS  HELD s  HEALTHY s  WRITES  LOST  GAP ms  SERVICE ms  LINEARIZABLE
    1  kill:two        1 3       -        1.2     150     0      90           -  yes
    2  cut:random      1 3     2.0      NEVER     150     0     812           -  yes
    3  kill:two        1 3       -        1.2     150     0     110           -  yes

FAULT       ROUNDS  LOST  GAP p50 ms  p99  max  HEALTHY p50 ms   p99   max
kill:two         2     0          90  110  110            1250  1250  1250
cut:random       1     0         812  812  812               -     -     -
";
        assert_eq!(summary(&rows).text(), expected);
        let line = round_line(&rows[1], 14, 10);
        let expected = "round  2 of 14: cut:random  no full health, longest write gap 812 ms, lost 0, linearizable yes (1, 3)";
        assert_eq!(line, expected);
    }

    #[test]
    fn json_has_a_round_with_its_fault_and_what_the_load_saw() {
        let json = summary(&[row(1, "kill:two", 90)]).json();
        let round = &json["rounds"][0];
        assert_eq!((&round["fault"], &round["victims"][1]), (&"kill:two".into(), &"3".into()));
        assert_eq!(round["healthy_after_ms"], 1250.0);
        assert_eq!(round["load"]["longest_write_gap_ms"], 90.0);
        assert_eq!(json["faults"][0]["write_gap_ms"]["p99"], 90.0);
        assert_eq!((&json["ok"], &json["seed"]), (&true.into(), &7.into()));
    }

    #[test]
    fn only_a_loss_or_a_violation_breaks_a_round() {
        let with = |change: fn(&mut RoundReport)| {
            let mut row = row(1, "kill", 90);
            change(row.report.as_mut().unwrap());
            row.is_broken()
        };
        assert!(!with(|_| {}));
        assert!(!with(|report| report.linearizable = Err("undecided: stopped".to_owned())));
        assert!(with(|report| report.linearizable = Err("no order".to_owned())));
        assert!(with(|report| report.lost_writes = 1));
    }
}
