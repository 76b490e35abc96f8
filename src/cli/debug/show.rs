//! What a log holds, as shown to people and to programs.

use std::fmt::Write;

use serde::Serialize;

use crate::cli::output::{Text, utc};
use crate::kv::{Command, Condition, Operation};
use crate::raft::{Configuration, EntryKind, HardState, Payload};
use crate::storage::inspect::Report;
use crate::storage::wal::{Inspected, LogRecord, StoredEntry};
use crate::storage::{AuditRecord, Cause};
use crate::types::{ClusterId, LogIndex, NodeId, Revision, Term};

/// Bytes of a key or value shown to people.
const SHOWN_BYTES: usize = 40;

/// One record: what one flush made durable.
#[derive(Serialize)]
pub(super) struct Record {
    segment: String,
    offset: u64,
    number: u64,
    term: Term,
    voted_for: Option<NodeId>,
    commit_index: LogIndex,
    truncate_from: Option<LogIndex>,
    entries: Vec<Entry>,
}

impl Record {
    pub(super) fn new(record: &LogRecord) -> Self {
        Self {
            segment: record.path.display().to_string(),
            offset: record.offset,
            number: record.number,
            term: record.hard_state.term,
            voted_for: record.hard_state.voted_for,
            commit_index: record.commit_index,
            truncate_from: record.truncate_from,
            entries: record.entries.iter().map(Entry::new).collect(),
        }
    }
}

/// One entry.
#[derive(Serialize)]
pub(super) struct Entry {
    index: LogIndex,
    term: Term,
    #[serde(flatten)]
    content: Content,
}

/// An entry's type and content.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content {
    Noop,
    Command {
        #[serde(skip_serializing_if = "Option::is_none")]
        command: Option<Shown>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    Configuration {
        configuration: Configuration,
    },
    Unknown {
        kind: u8,
        error: String,
    },
}

/// A command.
#[derive(Serialize)]
struct Shown {
    op: &'static str,
    key: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Text>,
    condition: Rule,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<Text>,
    /// For people.
    #[serde(skip)]
    text: String,
}

/// A command's condition.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Rule {
    Always,
    Absent,
    Present,
    ModRevision(Revision),
}

impl Entry {
    pub(super) fn new(stored: &StoredEntry) -> Self {
        let content = match Payload::from_parts(stored.kind, stored.data.clone()) {
            Ok(Payload::Noop) => Content::Noop,
            Ok(Payload::Command(command)) => match Command::decode(&command) {
                Ok(command) => Content::Command { command: Some(Shown::new(&command)), error: None },
                Err(error) => Content::Command { command: None, error: Some(error.to_string()) },
            },
            Ok(Payload::Configuration(configuration)) => {
                Content::Configuration { configuration: (*configuration).clone() }
            }
            Err(error) => Content::Unknown { kind: stored.kind, error: error.to_string() },
        };
        Self { index: stored.position.index, term: stored.position.term, content }
    }

    /// The entry's type.
    pub(super) fn kind(&self) -> String {
        match &self.content {
            Content::Noop => "noop".to_owned(),
            Content::Command { .. } => "command".to_owned(),
            Content::Configuration { .. } => "configuration".to_owned(),
            Content::Unknown { kind, .. } if *kind == EntryKind::Noop as u8 => "noop".to_owned(),
            Content::Unknown { kind, .. } if *kind == EntryKind::Configuration as u8 => {
                "configuration".to_owned()
            }
            Content::Unknown { kind, .. } => kind.to_string(),
        }
    }

    /// The entry's content on one line.
    pub(super) fn text(&self) -> String {
        match &self.content {
            Content::Noop => String::new(),
            Content::Command { command: Some(command), .. } => command.text.clone(),
            Content::Configuration { configuration } => format!("voters {}", members(configuration)),
            Content::Command { error, .. } => {
                format!("not understood: {}", error.as_deref().unwrap_or_default())
            }
            Content::Unknown { error, .. } => format!("not understood: {error}"),
        }
    }
}

impl Shown {
    fn new(command: &Command) -> Self {
        let idempotency_key = command.idempotency_key.as_ref();
        let once = idempotency_key.map(|key| format!(", idempotency key {key}")).unwrap_or_default();
        let idempotency_key = idempotency_key.map(|key| Text::new(key.as_bytes()));
        match &command.operation {
            Operation::Put { key, value, condition } => {
                let what = format!("put {} = {} ({} bytes)", shortened(key), shortened(value), value.len());
                let text = what + &condition_text(*condition) + &once;
                let value = Some(Text::new(value));
                let condition = Rule::new(*condition);
                Self { op: "put", key: Text::new(key), value, condition, idempotency_key, text }
            }
            Operation::Delete { key, condition } => {
                let text = format!("delete {}{}{once}", shortened(key), condition_text(*condition));
                Self {
                    op: "delete",
                    key: Text::new(key),
                    value: None,
                    condition: Rule::new(*condition),
                    idempotency_key,
                    text,
                }
            }
        }
    }
}

impl Rule {
    fn new(condition: Condition) -> Self {
        match condition {
            Condition::Always => Self::Always,
            Condition::Absent => Self::Absent,
            Condition::Present => Self::Present,
            Condition::ModRevision(revision) => Self::ModRevision(revision),
        }
    }
}

fn condition_text(condition: Condition) -> String {
    match condition {
        Condition::Always => String::new(),
        Condition::Absent => " if absent".to_owned(),
        Condition::Present => " if present".to_owned(),
        Condition::ModRevision(revision) => format!(" if at revision {revision}"),
    }
}

/// Bytes for people: what is not printable is escaped, what is long is cut.
fn shortened(bytes: &[u8]) -> String {
    match bytes.get(..SHOWN_BYTES) {
        Some(start) if bytes.len() > SHOWN_BYTES => format!("{}…", start.escape_ascii()),
        _ => bytes.escape_ascii().to_string(),
    }
}

fn members(configuration: &Configuration) -> String {
    let members = configuration.voters.iter().map(|(id, member)| format!("{} ({id})", member.name));
    members.collect::<Vec<_>>().join(", ")
}

/// Term and vote, for people.
pub(super) fn hard_state(state: &HardState) -> String {
    let vote = state.voted_for.map_or("no vote".to_owned(), |id| format!("vote for {id}"));
    format!("term {}, {vote}", state.term)
}

/// A log as a whole.
#[derive(Serialize)]
pub(super) struct Summary {
    node_id: NodeId,
    cluster_id: ClusterId,
    segments: usize,
    records: u64,
    term: Term,
    voted_for: Option<NodeId>,
    /// Null if the log holds no entries.
    first_index: Option<LogIndex>,
    last_index: LogIndex,
    last_term: Term,
    /// At least this is committed.
    commit_index: LogIndex,
    /// Null if the log ends where a write ended.
    torn_tail: Option<Torn>,
}

/// The remains of a write that a crash cut short.
#[derive(Serialize)]
struct Torn {
    segment: String,
    offset: u64,
    bytes: u64,
}

impl Summary {
    pub(super) fn new(log: &Inspected) -> Self {
        let recovered = &log.recovered;
        let has_entries = recovered.last.index > recovered.before.index;
        Self {
            node_id: log.owner.node_id,
            cluster_id: log.owner.cluster_id,
            segments: log.segments,
            records: log.records,
            term: recovered.hard_state.term,
            voted_for: recovered.hard_state.voted_for,
            first_index: has_entries.then(|| recovered.before.index.next()),
            last_index: recovered.last.index,
            last_term: recovered.last.term,
            commit_index: recovered.commit_index,
            torn_tail: recovered.torn_tail.as_ref().map(|torn| Torn {
                segment: torn.path.display().to_string(),
                offset: torn.offset,
                bytes: torn.bytes,
            }),
        }
    }

    pub(super) fn text(&self) -> String {
        let entries = match self.first_index {
            Some(first) => format!("entries {first} to {}", self.last_index),
            None => "no entries".to_owned(),
        };
        let state = hard_state(&HardState { term: self.term, voted_for: self.voted_for });
        let mut text = format!(
            "{entries}, {state}, committed up to at least {}; records: {}, segments: {}",
            self.commit_index, self.records, self.segments
        );
        if let Some(Torn { segment, offset, bytes }) = &self.torn_tail {
            write!(
                text,
                "; torn tail: {bytes} bytes from byte {offset} of {segment} on were being written in a crash, never \
                 acknowledged, and are dropped at the next start"
            )
            .expect("writing to a string cannot fail");
        }
        text
    }
}

/// What `verify` found in order.
#[derive(Serialize)]
pub(super) struct Verified {
    node_id: NodeId,
    name: String,
    cluster_id: Option<ClusterId>,
    /// Null before the node belongs to a cluster.
    log: Option<Summary>,
    checkpoint: Checkpoint,
    /// What was done to the data other than by a running node, the oldest first.
    audit: Vec<AuditRecord>,
}

#[derive(Serialize)]
struct Checkpoint {
    applied_index: LogIndex,
    applied_term: Term,
    revision: Revision,
    /// The sled directory `state-<generation>`.
    generation: u64,
    rows: u64,
    outcomes: u64,
    /// Generations that the next start removes.
    unfinished_generations: Vec<u64>,
}

impl Verified {
    pub(super) fn new(report: &Report) -> Self {
        let checkpoint = &report.checkpoint;
        Self {
            node_id: report.identity.node_id,
            name: report.identity.name.clone(),
            cluster_id: report.identity.cluster_id,
            log: report.log.as_ref().map(Summary::new),
            checkpoint: Checkpoint {
                applied_index: checkpoint.applied.index,
                applied_term: checkpoint.applied.term,
                revision: checkpoint.revision,
                generation: report.generation,
                rows: report.rows,
                outcomes: report.outcomes,
                unfinished_generations: report.others.clone(),
            },
            audit: report.audit.clone(),
        }
    }

    pub(super) fn text(&self) -> String {
        let cluster = self.cluster_id.map_or("no cluster yet".to_owned(), |id| format!("cluster {id}"));
        let log = match &self.log {
            Some(log) => format!("{}; every checksum, their chain and the order hold", log.text()),
            None => "none yet".to_owned(),
        };
        let Checkpoint { applied_index, revision, generation, rows, outcomes, .. } = &self.checkpoint;
        let others = match self.checkpoint.unfinished_generations.len() {
            0 => String::new(),
            count => format!("; {count} unfinished in addition, which the next start removes"),
        };
        format!(
            "identity    node {} named {}, {cluster}\nlog         {log}\n\
             checkpoint  up to entry {applied_index}, revision {revision}; all of its {rows} rows and {outcomes} \
             remembered outcomes hold (generation {generation}{others})\n\
             {}No damage found.\n",
            self.node_id,
            self.name,
            self.audit.iter().map(audit).collect::<String>()
        )
    }
}

fn audit(record: &AuditRecord) -> String {
    let cause = match record.cause {
        Cause::Recovered => "recovered",
        Cause::Restored => "restored",
        Cause::Adopted => "adopted",
    };
    let dropped = record.dropped.iter().map(|(id, name)| format!("{name} ({id})"));
    let dropped = dropped.collect::<Vec<_>>().join(", ");
    format!(
        "audit       {}: {cause} from cluster {} at {} as cluster {}, without its members {}\n",
        utc(record.unix_ms),
        record.old_cluster_id,
        record.last,
        record.cluster_id,
        if dropped.is_empty() { "(none)" } else { &dropped }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_and_odd_bytes_escaped() {
        assert_eq!(shortened(b"a\n"), "a\\n");
        assert_eq!(shortened(&[b'x'; 40]), "x".repeat(40));
        assert_eq!(shortened(&[b'x'; 41]), format!("{}…", "x".repeat(40)));
    }
}
