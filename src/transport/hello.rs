//! What a node says of itself, from the wire.

use super::proto;
use crate::membership::{HelloAnswer, RemovedBy};
use crate::raft::{Configuration, MEMBERS_MAX};
use crate::types::{ClusterId, LogIndex, Name, NodeId};

/// Names that are taken from one answer; a cluster has fewer members.
const TAKEN_MAX: usize = 8 * MEMBERS_MAX;

/// Longest address that a peer may tell, in bytes.
const ADDRESS_BYTES_MAX: usize = 512;

impl TryFrom<proto::HelloResponse> for HelloAnswer {
    type Error = &'static str;

    fn try_from(wire: proto::HelloResponse) -> Result<Self, Self::Error> {
        let (Some(route), Some(sender)) = (wire.route, wire.sender) else {
            return Err("an answer without route or sender");
        };
        if route.from == 0 {
            return Err("an answer from node 0");
        }
        // They are shown in reasons and messages.
        let addresses = [Some(&sender.client_addr), sender.peer_addr.as_ref()];
        if sender.name.len() > Name::BYTES_MAX
            || addresses.into_iter().flatten().any(|address| address.len() > ADDRESS_BYTES_MAX)
        {
            return Err("an answer with a name or an address that is too long");
        }
        let removed_asker = (wire.removed_asker != 0).then(|| RemovedBy {
            index: LogIndex(wire.removed_asker),
            // One that cannot be read proves nothing.
            configuration: Configuration::decode(&wire.configuration).ok(),
        });
        let is_name = |name: &String| name.parse::<Name>().is_ok();
        Ok(Self {
            node_id: NodeId(route.from),
            name: sender.name,
            client_addr: sender.client_addr,
            peer_addr: sender.peer_addr,
            cluster_id: (route.cluster_id != 0).then_some(ClusterId(route.cluster_id)),
            nonce: wire.nonce,
            knows_asker: wire.knows_asker,
            removed_asker,
            is_intent: wire.intent,
            listed: wire.listed.into_iter().take(TAKEN_MAX).filter(is_name).collect(),
        })
    }
}
