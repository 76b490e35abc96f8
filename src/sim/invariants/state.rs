//! That all nodes have one state: what applying the log led to, and what reads found.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Checked, Invariants, broken};
use crate::kv::{Record, Remembered, Row};
use crate::types::{LogIndex, Revision};

/// What has been made of the log so far.
#[derive(Default)]
pub(super) struct States {
    rows: BTreeMap<Revision, Row>,
    outcomes: BTreeMap<LogIndex, Remembered>,
    /// Digest of the whole state by the last entry applied.
    digests: BTreeMap<LogIndex, u64>,
}

impl Invariants {
    /// A node's state changed by these records, or a start found them. A node that is alone may apply entries in a start
    /// that nobody applied before, so that revisions may be missing here until then.
    ///
    /// # Errors
    /// Another node made another row of the same revision, or another outcome at the same index.
    pub fn applied(&mut self, node: usize, records: &[Record]) -> Checked {
        for record in records {
            let row = match record {
                Record::Row(row) => row,
                Record::Outcome(outcome) => {
                    self.remembered(node, outcome)?;
                    continue;
                }
            };
            let known = self.states.rows.entry(row.revision).or_insert_with(|| row.clone());
            if known != row {
                let what = format!("n{} made another row of revision {}", node + 1, row.revision);
                return broken("one state", what);
            }
        }
        Ok(())
    }

    fn remembered(&mut self, node: usize, outcome: &Remembered) -> Checked {
        let known = self.states.outcomes.entry(outcome.index).or_insert_with(|| outcome.clone());
        if known == outcome {
            return Ok(());
        }
        let what = format!("n{} remembers another outcome of entry {}", node + 1, outcome.index);
        broken("one state", what)
    }

    /// A node's state after it has applied everything up to `index`, however it came there.
    ///
    /// # Errors
    /// Another node's was another one.
    pub fn stands_at(&mut self, node: usize, index: LogIndex, digest: u64) -> Checked {
        if *self.states.digests.entry(index).or_insert(digest) == digest {
            return Ok(());
        }
        let what = format!("n{}'s state after entry {index} is not that of another node", node + 1);
        broken("one state", what)
    }

    /// A read found this, at any node and of any time.
    ///
    /// # Errors
    /// The key never held it.
    pub fn found(&self, node: usize, key: &Bytes, value: &Bytes, revision: Revision) -> Checked {
        let row = self.states.rows.get(&revision);
        if row.is_some_and(|row| row.key == key && row.value.as_ref() == Some(value)) {
            return Ok(());
        }
        let what = format!(
            "n{} reads key {} at revision {revision}, which never held it",
            node + 1,
            key.escape_ascii()
        );
        broken("one state", what)
    }
}
