//! Where a snapshot that arrived whole waits until the core decides. Its two halves are taken by two parts: the
//! staging by the log's, the store by apply's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kv::Store;
use crate::raft::Snapshot;
use crate::types::{Revision, StagedId};

/// A snapshot that arrived whole and was verified.
pub struct Content<G> {
    /// Its position in the log.
    pub snapshot: Snapshot,
    /// On disk, sealed.
    pub staging: G,
    /// In memory.
    pub store: Store,
}

/// What waits. Clones share it.
pub struct Shelf<G> {
    stagings: Arc<Mutex<Stagings<G>>>,
    stores: StagedStores,
}

struct Stagings<G> {
    last: StagedId,
    waiting: BTreeMap<StagedId, (G, Revision)>,
}

/// The part of a [`Shelf`] that is in memory. Clones share it.
#[derive(Clone, Default)]
pub struct StagedStores(Arc<Mutex<BTreeMap<StagedId, Store>>>);

impl<G> Clone for Shelf<G> {
    fn clone(&self) -> Self {
        Self { stagings: Arc::clone(&self.stagings), stores: self.stores.clone() }
    }
}

impl<G> Default for Shelf<G> {
    fn default() -> Self {
        let stagings = Stagings { last: StagedId(0), waiting: BTreeMap::new() };
        Self { stagings: Arc::new(Mutex::new(stagings)), stores: StagedStores::default() }
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<G> Shelf<G> {
    /// Keeps a snapshot's content under a new name.
    #[must_use]
    pub fn put(&self, content: Content<G>) -> StagedId {
        let mut stagings = lock(&self.stagings);
        stagings.last = stagings.last.next();
        let id = stagings.last;
        stagings.waiting.insert(id, (content.staging, content.store.revision()));
        lock(&self.stores.0).insert(id, content.store);
        id
    }

    /// Whether nothing waits to be made the state.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        lock(&self.stagings).waiting.is_empty() && lock(&self.stores.0).is_empty()
    }

    /// Lets go of a snapshot that is not wanted.
    pub fn remove(&self, id: StagedId) {
        // Both may be large: they are dropped when the locks are free again.
        let staging = lock(&self.stagings).waiting.remove(&id);
        let store = self.stores.take(id);
        drop((staging, store));
    }

    /// The halves in memory, for apply's part.
    #[must_use]
    pub fn stores(&self) -> StagedStores {
        self.stores.clone()
    }

    /// For the log's part: the half on disk, and the revision of its state.
    pub(crate) fn take_staging(&self, id: StagedId) -> Option<(G, Revision)> {
        lock(&self.stagings).waiting.remove(&id)
    }
}

impl StagedStores {
    pub(crate) fn take(&self, id: StagedId) -> Option<Store> {
        lock(&self.0).remove(&id)
    }
}
