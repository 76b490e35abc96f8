//! Looks at a log without changing it: for tools.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::format::Record;
use super::scan::{Seen, scan};
use super::{Owner, Recovered};
use crate::raft::HardState;
use crate::storage::StorageError;
use crate::storage::files::Files;
use crate::types::{LogIndex, LogPosition};

/// A log as a whole.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Whose it is.
    pub owner: Owner,
    /// Number of segments.
    pub segments: usize,
    /// Number of records.
    pub records: u64,
    /// What a node would find in it. A torn tail is reported and left as it is.
    pub recovered: Recovered,
}

/// One record: what one flush made durable.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Its segment.
    pub path: PathBuf,
    /// Where it begins there.
    pub offset: u64,
    /// Rises by one through all segments.
    pub number: u64,
    /// Its length in bytes.
    pub bytes: u32,
    /// Term and vote.
    pub hard_state: HardState,
    /// Commit index as known when it was written.
    pub commit_index: LogIndex,
    /// Entries from here on were dropped.
    pub truncate_from: Option<LogIndex>,
    /// Then these were added.
    pub entries: Vec<StoredEntry>,
}

/// An entry as it is stored; `Payload::from_parts` makes sense of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Index and term.
    pub position: LogPosition,
    /// The payload's kind: see [`crate::raft::EntryKind`].
    pub kind: u8,
    /// The payload's content.
    pub data: Bytes,
}

/// Reads the log in `directory` and calls `see` with every record in order. `owner`, if given, is whose it must be.
///
/// # Errors
/// As [`super::Wal::open`]; the records before damage have been seen.
pub fn inspect<F: Files>(
    files: &F,
    directory: &Path,
    owner: Option<Owner>,
    see: &mut dyn FnMut(&LogRecord),
) -> Result<Inspected, StorageError> {
    let mut records = 0;
    let scan = scan(files, directory, owner, &mut |seen| {
        records += 1;
        see(&LogRecord::from_seen(seen));
    })?;
    Ok(Inspected { owner: scan.owner, segments: scan.segments.len(), records, recovered: scan.recovered() })
}

impl LogRecord {
    fn from_seen(seen: &Seen<'_>) -> Self {
        let header = seen.record.header;
        Self {
            path: seen.path.to_owned(),
            offset: seen.offset,
            number: header.number,
            bytes: header.bytes,
            hard_state: header.hard_state,
            commit_index: header.commit_index,
            truncate_from: header.truncate_from,
            entries: entries(seen.record),
        }
    }
}

fn entries(record: &Record) -> Vec<StoredEntry> {
    let views = record.entries().flatten();
    views
        .map(|view| StoredEntry {
            position: view.position,
            kind: view.kind,
            data: Bytes::copy_from_slice(view.data),
        })
        .collect()
}
