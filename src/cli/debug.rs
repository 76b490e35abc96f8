//! `kuberaft debug`: looks at a data directory without changing it.

mod show;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use self::show::{Entry, Record, Summary, Verified};
use super::output::Format;
use super::{CliError, print};
use crate::raft::HardState;
use crate::storage::inspect;
use crate::storage::wal::LogRecord;

const DIRECTORY: &str = "The directory is a node's --data-dir, such as ./kuberaft-data/1 or ./kuberaft-dev/1. \
     The node must not be running.";

/// What to look at.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Debug {
    /// Print every entry of the log, and the term and vote stored with them
    #[command(after_help = DIRECTORY)]
    Log(Directory),
    /// Read everything, verify it, and say what was checked; exit code 3 if something is damaged
    #[command(after_help = DIRECTORY)]
    Verify(Directory),
}

/// The flags of both.
#[derive(Clone, Debug, Args)]
pub(super) struct Directory {
    /// A node's data directory
    #[arg(value_name = "DIR")]
    path: PathBuf,

    /// Format of the output: text, or json with one document a line
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    output: Format,
}

/// Prints what was asked for.
pub(super) fn run(debug: &Debug) -> Result<(), CliError> {
    match debug {
        Debug::Log(directory) => log(directory),
        Debug::Verify(directory) => verify(directory),
    }
}

/// A path that holds no data is a mistake of the caller, not damage.
fn check(path: &Path) -> Result<(), CliError> {
    if path.join("data").is_dir() {
        return Ok(());
    }
    let path = path.display();
    Err(CliError::Failed(format!(
        "{path} is no data directory: there is no folder `data` in it. {DIRECTORY}"
    )))
}

fn log(directory: &Directory) -> Result<(), CliError> {
    check(&directory.path)?;
    let mut printer = Printer {
        out: BufWriter::new(io::stdout().lock()),
        format: directory.output,
        known: None,
        printed: Ok(()),
    };
    let inspected = inspect::log(&directory.path, &mut |record| printer.record(record));
    // What was read before damage is printed before the damage is told.
    let summary = inspected.as_ref().ok().map(Summary::new);
    let written = printer.finish(summary);
    inspected?;
    print::reader_may_go(written)
}

fn verify(directory: &Directory) -> Result<(), CliError> {
    check(&directory.path)?;
    let verified = Verified::new(&inspect::verify(&directory.path)?);
    match directory.output {
        Format::Text => print::text(&verified.text()),
        Format::Json => print::json(&verified),
    }
}

/// Prints records as they come: a log may be larger than memory.
struct Printer<W: Write> {
    out: W,
    format: Format,
    /// The hard state printed last.
    known: Option<HardState>,
    /// Nothing is printed after a failure.
    printed: io::Result<()>,
}

impl<W: Write> Printer<W> {
    fn record(&mut self, record: &LogRecord) {
        if self.printed.is_err() {
            return;
        }
        self.printed = match self.format {
            Format::Text => self.text(record),
            Format::Json => self.json(&Record::new(record)),
        };
    }

    fn text(&mut self, record: &LogRecord) -> io::Result<()> {
        if self.known.is_none() {
            writeln!(self.out, "{:>10} {:>6}  {:<13}  CONTENT", "INDEX", "TERM", "TYPE")?;
        }
        if self.known != Some(record.hard_state) {
            self.known = Some(record.hard_state);
            let (segment, offset) = (record.path.display(), record.offset);
            writeln!(self.out, "-- {}  ({segment}, byte {offset})", show::hard_state(&record.hard_state))?;
        }
        if let Some(from) = record.truncate_from {
            writeln!(self.out, "-- entries from {from} on are dropped")?;
        }
        for entry in &record.entries {
            let shown = Entry::new(entry);
            let (index, term) = (entry.position.index, entry.position.term);
            let line = format!("{index:>10} {term:>6}  {:<13}  {}", shown.kind(), shown.text());
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn json(&mut self, document: &impl serde::Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, document)?;
        self.out.write_all(b"\n")
    }

    fn finish(&mut self, summary: Option<Summary>) -> io::Result<()> {
        std::mem::replace(&mut self.printed, Ok(()))?;
        let printed = match (summary, self.format) {
            (None, _) => Ok(()),
            (Some(summary), Format::Text) => writeln!(self.out, "-- {}", summary.text()),
            (Some(summary), Format::Json) => self.json(&serde_json::json!({ "summary": summary })),
        };
        printed.and_then(|()| self.out.flush())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use bytes::Bytes;

    use super::*;
    use crate::kv::{Command, Condition, IdempotencyKey, Operation};
    use crate::raft::{AppendEntries, Entry as RaftEntry, Payload};
    use crate::storage::DataDir;
    use crate::storage::wal::{Options, StoredEntry};
    use crate::types::{ClusterId, IoId, LogIndex, LogPosition, LogTime, NodeId, Term};

    fn stored(index: u64, payload: &Payload) -> StoredEntry {
        let position = LogPosition { index: LogIndex(index), term: Term(2) };
        StoredEntry { position, kind: payload.kind() as u8, data: payload.data() }
    }

    fn record() -> LogRecord {
        let put = Command::from(Operation::Put {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v\xff"),
            condition: Condition::Absent,
        });
        LogRecord {
            path: PathBuf::from("wal/1"),
            offset: 512,
            number: 7,
            bytes: 100,
            hard_state: HardState { term: Term(2), voted_for: Some(NodeId(10)) },
            commit_index: LogIndex(3),
            truncate_from: Some(LogIndex(4)),
            entries: vec![
                stored(4, &Payload::Noop),
                stored(5, &Payload::Command(put.encode())),
                stored(6, &Payload::Command(Bytes::from_static(b"?"))),
                StoredEntry { kind: 99, ..stored(7, &Payload::Noop) },
            ],
        }
    }

    fn printed(format: Format) -> String {
        let mut printer = Printer { out: Vec::new(), format, known: None, printed: Ok(()) };
        printer.record(&record());
        printer.record(&LogRecord { truncate_from: None, entries: Vec::new(), ..record() });
        printer.finish(None).unwrap();
        String::from_utf8(printer.out).unwrap()
    }

    #[test]
    fn text_has_a_line_for_each_entry_and_each_change_of_the_hard_state() {
        let expected = "     INDEX   TERM  TYPE           CONTENT
-- term 2, vote for 000000000000000a  (wal/1, byte 512)
-- entries from 4 on are dropped
         4      2  noop
         5      2  command        put k = v\\xff (2 bytes) if absent
         6      2  command        not understood: not a command: ";
        let text = printed(Format::Text);
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains("         7      2  99             not understood: unknown entry kind 99"),
            "{text}"
        );
        assert_eq!(text.matches("-- term").count(), 1);
    }

    #[test]
    fn json_has_a_document_for_each_record() {
        let text = printed(Format::Json);
        let documents: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0]["voted_for"], "000000000000000a");
        assert_eq!(documents[0]["entries"][0]["type"], "noop");
        let put = &documents[0]["entries"][1]["command"];
        assert_eq!((put["op"].as_str(), put["key"].as_str()), (Some("put"), Some("k")));
        assert_eq!(put["value"]["base64"], "dv8=");
        assert_eq!(put["condition"], "absent");
        assert!(documents[0]["entries"][3]["error"].as_str().unwrap().contains("99"));
    }

    /// The data directory of a node that wrote two entries; returns its log's segment.
    fn data_directory(root: &Path) -> PathBuf {
        let options = Options { segment_bytes: 64 << 10, ..Options::default() };
        let mut data = DataDir::open(root, "one", options, &mut |_| ControlFlow::Break(())).unwrap();
        let delete = Command {
            operation: Operation::Delete { key: Bytes::from_static(b"gone"), condition: Condition::Present },
            idempotency_key: Some(IdempotencyKey::new(Bytes::from_static(b"once")).unwrap()),
        };
        let entry =
            |index, payload| RaftEntry { term: Term(2), index: LogIndex(index), time: LogTime(0), payload };
        let first = AppendEntries {
            io: IoId(1),
            truncate_from: None,
            hard_state: HardState { term: Term(2), voted_for: None },
            commit_index: LogIndex(1),
            entries: vec![entry(1, Payload::Noop), entry(2, Payload::Command(delete.encode()))],
        };
        data.join(ClusterId(7), Some(&first)).unwrap();
        std::fs::read_dir(root.join("data/wal")).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn a_sound_directory_is_verified_and_a_flipped_bit_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let segment = data_directory(dir.path());
        let verified = Verified::new(&inspect::verify(dir.path()).unwrap()).text();
        assert!(
            verified.contains("cluster 0000000000000007") && verified.contains("entries 1 to 2"),
            "{verified}"
        );
        assert!(verified.ends_with("No damage found.\n"), "{verified}");

        let mut printer = Printer { out: Vec::new(), format: Format::Text, known: None, printed: Ok(()) };
        inspect::log(dir.path(), &mut |record| printer.record(record)).unwrap();
        let text = String::from_utf8(printer.out).unwrap();
        assert!(text.contains("command        delete gone if present, idempotency key once"), "{text}");

        let mut bytes = std::fs::read(&segment).unwrap();
        let key = bytes.windows(4).position(|window| window == b"gone").unwrap();
        bytes[key] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        let error = CliError::from(inspect::verify(dir.path()).unwrap_err());
        assert_eq!(error.exit_code(), 3, "{error}");
    }

    #[test]
    fn what_is_no_data_directory_is_told_from_damage() {
        let dir = tempfile::tempdir().unwrap();
        let error = check(dir.path()).unwrap_err();
        assert!(error.exit_code() == 1 && error.to_string().contains("is no data directory"), "{error}");
    }
}
