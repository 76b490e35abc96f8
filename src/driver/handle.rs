//! What the rest of the process may ask of a running replica.

use std::sync::RwLockReadGuard;
use std::time::Duration;

use bytes::Bytes;

use crate::kv;
use crate::raft::{Configuration, Refusal, RoleName};
use crate::types::{ClusterId, LogIndex, NodeId, Term};

/// A clonable way to write, read and look.
#[derive(Clone)]
pub struct Handle {}

/// A write that was not applied, or whose outcome is not known.
pub type WriteError = Refusal;
/// A read that could not be confirmed.
pub type ReadError = Refusal;

/// A replica's state as of its latest turn.
#[derive(Clone, Debug)]
pub struct Status {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// This node.
    pub node_id: NodeId,
    /// Role now.
    pub role: RoleName,
    /// Term now.
    pub term: Term,
    /// Leader of the term, if known.
    pub leader: Option<NodeId>,
    /// Latest index known to be committed.
    pub commit_index: LogIndex,
    /// Latest index applied here.
    pub applied_index: LogIndex,
    /// Last entry of the log.
    pub last_log_index: LogIndex,
    /// Members as of the latest configuration in the log.
    pub configuration: std::sync::Arc<Configuration>,
    /// At a leader: whether a majority answers; at a follower: whether a leader is heard.
    pub has_quorum: bool,
}

impl Handle {
    /// Replicates an encoded command and returns what applying it answered.
    ///
    /// # Errors
    /// The reason and whether the write may still take effect. Returns within `timeout`.
    pub async fn propose(&self, _command: Bytes, _timeout: Duration) -> Result<kv::Answer, WriteError> {
        todo!()
    }

    /// Waits until a read of [`Handle::store`] is linearizable (thesis, 6.4).
    ///
    /// # Errors
    /// The reason; returns within `timeout`.
    pub async fn read_barrier(&self, _timeout: Duration) -> Result<(), ReadError> {
        todo!()
    }

    /// The applied state. Hold the guard only briefly and never across an await: apply waits for it.
    #[must_use]
    pub fn store(&self) -> RwLockReadGuard<'_, kv::Store> {
        todo!()
    }

    /// The state of the replica as of its latest turn.
    #[must_use]
    pub fn status(&self) -> Status {
        todo!()
    }
}
