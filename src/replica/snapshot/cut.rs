//! The sending side: the state as of one entry, and the chunks it is sent in.

use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::{CHUNK_BYTES, Chunk, Header, records};
use crate::kv::View;
use crate::raft::Snapshot;
use crate::types::{NodeId, Session, Term};

/// A leader's state as of one entry, for one follower. Later writes do not change it.
pub struct Cut {
    /// For whom.
    pub to: NodeId,
    /// The receiver's session.
    pub session: Session,
    /// The leader's term.
    pub term: Term,
    /// Its position in the log.
    pub snapshot: Snapshot,
    /// The state.
    pub view: View,
}

impl Cut {
    /// What the receiver is told first. `id` is to be drawn once for each cut.
    #[must_use]
    pub fn header(&self, id: u64) -> Header {
        Header {
            id,
            term: self.term,
            session: self.session,
            snapshot: self.snapshot.clone(),
            revision: self.view.revision(),
            keys: self.view.len() as u64,
            hash: self.view.hash(),
            bytes_max: records::bytes_max(&self.view),
        }
    }

    /// Hands out the chunks from number `first` on, until the last one or until `take` breaks. The same cut has the
    /// same chunks each time. At most one chunk is in memory at a time.
    pub fn chunks(&self, id: u64, first: u64, take: impl FnMut(Chunk) -> ControlFlow<()>) {
        self.chunks_of(CHUNK_BYTES, id, first, take);
    }

    /// As [`Cut::chunks`], with chunks of up to `bytes_max` bytes.
    pub(crate) fn chunks_of(
        &self,
        bytes_max: usize,
        id: u64,
        first: u64,
        mut take: impl FnMut(Chunk) -> ControlFlow<()>,
    ) {
        let mut number = 0;
        let mut total = 0;
        let mut content = Vec::with_capacity(bytes_max);
        let mut close = |records: &[u8], total: Option<u64>| {
            number += 1;
            if number <= first {
                return ControlFlow::Continue(());
            }
            let (number, records) = (number - 1, Bytes::copy_from_slice(records));
            take(Chunk { number, crc: Chunk::checksum(id, number, &records), records, total })
        };
        for record in self.view.records() {
            let end = content.len();
            records::encode(&record, &mut content);
            total += 1;
            if end > 0 && content.len() > bytes_max {
                if close(&content[..end], None).is_break() {
                    return;
                }
                content.drain(..end);
            }
        }
        let _ = close(&content, Some(total));
    }
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cut at {} for {}", self.snapshot.position, self.to)
    }
}

#[cfg(test)]
impl Cut {
    /// For tests: the state of so many keys with values of 60,000 bytes, at this entry, for node 2.
    pub(crate) fn sample(keys: u64, term: Term, position: crate::types::LogPosition) -> Self {
        use crate::kv::{Command, Condition, Operation, Store};
        use crate::types::{LogIndex, LogTime};

        let mut store = Store::default();
        for index in 1..=keys {
            let (key, value) = (Bytes::from(format!("key-{index}")), Bytes::from(vec![7; 60_000]));
            let operation = Operation::Put { key, value, condition: Condition::Always };
            let command = Command { operation, idempotency_key: None };
            store.apply(LogIndex(index), LogTime(index), command, &mut Vec::new());
        }
        let snapshot = Snapshot {
            position,
            time: LogTime(1_000),
            configuration: std::sync::Arc::new(crate::raft::Configuration {
                voters: [(NodeId(1), crate::raft::Member::default())].into(),
                ..crate::raft::Configuration::default()
            }),
            configuration_index: LogIndex(1),
        };
        Self { to: NodeId(2), session: Session(1), term, snapshot, view: store.view() }
    }
}
