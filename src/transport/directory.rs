//! What peers have said of themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::proto;
use crate::types::NodeId;

/// Names longer than this are not kept, nor more nodes than `NODES_MAX`: peers may be wrong, not costly.
const TEXT_BYTES_MAX: usize = 512;
const NODES_MAX: usize = 256;

/// A peer, as it introduced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The name its address is looked up by.
    pub name: String,
    /// Where its clients reach it, `host:port`.
    pub client_addr: String,
}

/// The latest introduction of each peer. Clones share it.
#[derive(Clone, Default)]
pub struct PeerDirectory(Arc<RwLock<BTreeMap<NodeId, PeerInfo>>>);

impl PeerDirectory {
    /// What `id` said of itself last; none if it was not heard of since this process started.
    #[must_use]
    pub fn get(&self, id: NodeId) -> Option<PeerInfo> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Remembers an introduction; of hostile size or number, it is dropped.
    pub(super) fn record(&self, id: NodeId, introduction: &proto::Introduction) {
        let proto::Introduction { name, client_addr } = introduction;
        if name.len() > TEXT_BYTES_MAX || client_addr.len() > TEXT_BYTES_MAX {
            return;
        }
        let mut peers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if peers.len() < NODES_MAX || peers.contains_key(&id) {
            peers.insert(id, PeerInfo { name: name.clone(), client_addr: client_addr.clone() });
        }
    }
}
