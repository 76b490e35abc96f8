//! Remembers in the data directory how this node came into its cluster.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::membership::{Formed, Intent, Standing};
use crate::raft::{AppendEntries, Configuration, Entry, HardState, Payload};
use crate::storage::{BootstrapIntent, DataDir};
use crate::transport::{BootstrapStore, StoreError};
use crate::types::{IoId, LogIndex, LogTime, NodeId, Term};

/// The data directory until its log is opened. Clones share it.
#[derive(Clone)]
pub(super) struct BootstrapRecords(Arc<Mutex<Option<DataDir>>>);

impl BootstrapRecords {
    pub(super) fn new(data: DataDir) -> Self {
        Self(Arc::new(Mutex::new(Some(data))))
    }

    /// The directory itself, once its node belongs to a cluster. Nothing is remembered from then on.
    pub(super) fn take(&self) -> Option<DataDir> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<DataDir>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who a directory's node is, and how it stands to clusters.
pub(super) fn standing(data: &DataDir) -> (NodeId, Standing) {
    let identity = data.identity();
    let standing = match (identity.cluster_id, data.intent()) {
        // The configuration is in the log by now.
        (Some(cluster_id), _) => Standing::Member(Formed { cluster_id, configuration: None }),
        (None, Some(BootstrapIntent { cluster_id, configuration })) => {
            Standing::Intent(Intent { cluster_id: *cluster_id, configuration: configuration.clone() })
        }
        (None, None) => match identity.retired {
            Some(before) => Standing::Retired(before.cluster_id),
            None => Standing::Empty,
        },
    };
    (identity.node_id, standing)
}

/// The first record of every founding member's log: the configuration, as if a leader of term 1 had sent it.
fn founding_record(configuration: &Configuration) -> AppendEntries {
    let payload = Payload::Configuration(Arc::new(configuration.clone()));
    AppendEntries {
        io: IoId(0),
        truncate_from: None,
        hard_state: HardState { term: Term(1), voted_for: None },
        commit_index: LogIndex(0),
        entries: vec![Entry { term: Term(1), index: LogIndex(1), time: LogTime(0), payload }],
    }
}

impl BootstrapStore for BootstrapRecords {
    fn save_intent(&self, intent: &Intent) -> Result<(), StoreError> {
        let Intent { cluster_id, configuration } = intent.clone();
        let mut data = self.lock();
        let data = data.as_mut().ok_or("the log is open")?;
        Ok(data.record_intent(BootstrapIntent { cluster_id, configuration })?)
    }

    fn save_membership(&self, formed: &Formed) -> Result<(), StoreError> {
        let first = formed.configuration.as_ref().map(founding_record);
        let mut data = self.lock();
        let data = data.as_mut().ok_or("the log is open")?;
        Ok(data.join(formed.cluster_id, first.as_ref())?)
    }
}
