//! The cluster's members, as one log entry holds them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{NodeId, Session};

/// The members from one entry of the log on. Effective as soon as that entry is appended (paper, 6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// Members whose votes and durable logs count.
    pub voters: BTreeMap<NodeId, Member>,
}

/// What the cluster knows of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The name its address is looked up by: a pod's name, or a name of `--initial-cluster`.
    pub name: String,
    /// Index of the entry that added it.
    pub session: Session,
}

impl Configuration {
    /// Whether votes or durable logs of the members that `has` accepts make a majority of the voters.
    /// False when there are no voters.
    pub fn has_quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        let count = self.voters.keys().filter(|id| has(**id)).count();
        count > self.voters.len() / 2
    }

    /// Whether `id` is a voter.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains_key(&id)
    }

    /// As stored in the log and sent on the wire: JSON, keys in order, so that equal configurations have equal bytes.
    ///
    /// # Panics
    /// Never: string keys always encode.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).expect("a configuration has only string keys"))
    }

    /// The reverse of [`Configuration::encode`].
    ///
    /// # Errors
    /// Bytes that no configuration encodes to.
    pub fn decode(data: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(data)
    }
}
