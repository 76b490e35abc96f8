//! The state at one moment: to read, to store, to send.

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use super::digest::{digest_key, mix};
use super::outcomes::Outcomes;
use super::{IdempotencyKey, Record, Row};
use crate::types::Revision;

/// One key's present content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The value.
    pub value: Bytes,
    /// Revision at which the key came into being.
    pub create_revision: Revision,
    /// Revision of the last write to it.
    pub mod_revision: Revision,
    /// Writes since it came into being, from 1.
    pub version: u64,
}

/// The state at one moment. Taking one costs the same for any number of keys, and later writes do not change it:
/// the maps are persistent and share what is equal.
///
/// Invariants: every key's `1 <= create_revision <= mod_revision <= revision`, no two keys have the same
/// `mod_revision`, `digest` is the sum of all keys' digests, and `content_bytes` that of their and their values' lengths.
#[derive(Clone, Debug, Default)]
pub struct View {
    keys: OrdMap<Arc<[u8]>, Arc<Slot>>,
    pub(super) outcomes: Outcomes,
    revision: Revision,
    /// The key that the change of `revision` deleted, if it did delete one.
    deleted_last: Option<Arc<[u8]>>,
    digest: u64,
    content_bytes: u64,
}

/// A key's content and what it adds to the digest.
#[derive(Debug)]
struct Slot {
    content: KeyValue,
    digest: u64,
}

impl View {
    /// What a key holds.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key).map(|slot| &slot.content)
    }

    /// One for each applied write.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A digest of the whole state, remembered outcomes included; equal on replicas that applied the same log. Costs
    /// nothing to ask for: it is kept up to date by every change. Finds divergence, not malice.
    #[must_use]
    pub fn hash(&self) -> u64 {
        mix(self.digest.wrapping_add(self.outcomes.digest()) ^ mix(self.revision.0))
    }

    /// What makes a new store equal to this one: the live rows by rising revision, then the outcomes by rising index.
    /// If the last change was a deletion, its row is there, too, since it carries the revision. Does not borrow the
    /// view, so that a checkpoint or a transfer can take its time over it.
    pub fn records(&self) -> impl Iterator<Item = Record> + Send + use<> {
        let mut live: Vec<(Arc<[u8]>, Arc<Slot>)> =
            self.keys.iter().map(|(key, slot)| (Arc::clone(key), Arc::clone(slot))).collect();
        live.sort_unstable_by_key(|(_, slot)| slot.content.mod_revision);
        let live = live.into_iter().map(|(key, slot)| live_row(&key, &slot.content));
        let revision = self.revision;
        let deleted = self
            .deleted_last
            .clone()
            .into_iter()
            .map(move |key| deletion(revision, Bytes::copy_from_slice(&key)));
        let outcomes = self.outcomes.records().map(Record::Outcome);
        live.chain(deleted).map(Record::Row).chain(outcomes)
    }

    /// A row behind all others that changes nothing but the revision, which must be above this one: the deletion of a key
    /// that is not there.
    #[must_use]
    pub fn raised(&self, revision: Revision) -> Row {
        let mut key = vec![0];
        while self.get(&key).is_some() {
            key.push(0);
        }
        deletion(revision, key.into())
    }

    /// How many [`View::records`] there are.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.keys.len() as u64 + u64::from(self.deleted_last.is_some()) + self.outcomes.len() as u64
    }

    /// At least as many bytes as [`View::records`] hold in keys and values. Costs nothing to ask for, as
    /// [`View::hash`].
    #[must_use]
    pub fn content_bytes_max(&self) -> u64 {
        let deleted = self.deleted_last.as_ref().map_or(0, |key| key.len() as u64);
        let outcomes = self.outcomes.len() as u64 * IdempotencyKey::BYTES_MAX as u64;
        self.content_bytes + deleted + outcomes
    }

    /// What a row does to the state, whether it is new or restored. Copies what it keeps, so that the state never
    /// keeps a whole log record or network message alive for the sake of one value in it.
    /// `is_there`: whether the key is.
    pub(super) fn change(&mut self, row: &Row, is_there: bool) {
        self.revision = row.revision;
        let Some(value) = &row.value else {
            if let Some(old) = self.keys.remove(&row.key[..]) {
                self.digest = self.digest.wrapping_sub(old.digest);
                self.content_bytes -= content_bytes(&row.key, &old.content.value);
            }
            self.deleted_last = Some(row.key[..].into());
            return;
        };
        self.deleted_last = None;
        let content = KeyValue {
            value: Bytes::copy_from_slice(value),
            create_revision: row.create_revision,
            mod_revision: row.revision,
            version: row.version,
        };
        let slot = Slot { digest: digest_key(&row.key, &content), content };
        self.digest = self.digest.wrapping_add(slot.digest);
        self.content_bytes += content_bytes(&row.key, value);
        let old = if is_there { self.keys.get_mut(&row.key[..]) } else { None };
        let Some(old) = old else {
            self.keys.insert(row.key[..].into(), Arc::new(slot));
            return;
        };
        self.digest = self.digest.wrapping_sub(old.digest);
        self.content_bytes -= content_bytes(&row.key, &old.content.value);
        match Arc::get_mut(old) {
            // No view has it.
            Some(old) => *old = slot,
            None => *old = Arc::new(slot),
        }
    }
}

fn content_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

fn live_row(key: &[u8], content: &KeyValue) -> Row {
    Row {
        revision: content.mod_revision,
        key: Bytes::copy_from_slice(key),
        value: Some(content.value.clone()),
        create_revision: content.create_revision,
        version: content.version,
    }
}

/// The row of a deletion.
pub(super) fn deletion(revision: Revision, key: Bytes) -> Row {
    Row { revision, key, value: None, create_revision: Revision(0), version: 0 }
}
