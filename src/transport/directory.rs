//! What peers have said of themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::proto;
use crate::types::{FeatureLevel, NodeId};

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
    /// Where its peers reach it, `host:port`, if it has told.
    pub peer_addr: Option<String>,
    /// Version of its program; empty if it has not told.
    pub version: String,
    /// The highest feature level that its program understands.
    pub feature_level: FeatureLevel,
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

    /// Where nodes called `name` say that their peers reach them.
    #[must_use]
    pub fn peer_addrs(&self, name: &str) -> Vec<String> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().filter(|peer| peer.name == name).filter_map(|peer| peer.peer_addr.clone()).collect()
    }

    /// Remembers an introduction; of hostile size or number, it is dropped.
    pub(super) fn record(&self, id: NodeId, introduction: &proto::Introduction) {
        let proto::Introduction { name, client_addr, peer_addr, version, feature_level } = introduction;
        let peer_addr_bytes = peer_addr.as_ref().map_or(0, String::len);
        let longest = [name.len(), client_addr.len(), peer_addr_bytes, version.len()];
        if longest.iter().any(|length| *length > TEXT_BYTES_MAX) {
            return;
        }
        let mut peers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if peers.len() < NODES_MAX || peers.contains_key(&id) {
            let (name, client_addr) = (name.clone(), client_addr.clone());
            let (peer_addr, version) = (peer_addr.clone(), version.clone());
            let feature_level = FeatureLevel(*feature_level);
            peers.insert(id, PeerInfo { name, client_addr, peer_addr, version, feature_level });
        }
    }
}
