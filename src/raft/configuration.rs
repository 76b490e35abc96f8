//! The cluster's members, as one log entry holds them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{FeatureLevel, LogIndex, NodeId, Session};

/// The highest feature level that this program understands.
pub const FEATURE_LEVEL: FeatureLevel = FeatureLevel(0);

/// Most members that a cluster may have, learners included.
pub const MEMBERS_MAX: usize = 9;

/// The members from one entry of the log on. Effective as soon as that entry is appended (paper, 6).
///
/// While voters change it is *joint*: `outgoing` holds the voters before the change, and every decision needs a
/// majority of both sets (thesis, 4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// Members whose votes and durable logs count.
    pub voters: BTreeMap<NodeId, Member>,
    /// The voters before the change that is under way; empty unless joint.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outgoing: BTreeMap<NodeId, Member>,
    /// Members that receive the log and do not count (thesis, 4.2.1).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub learners: BTreeMap<NodeId, Member>,
    /// Nodes that were members and never will be again, with the entry that removed each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub removed: BTreeMap<NodeId, LogIndex>,
    /// The feature level of the cluster: that of its lowest member when a leader raised it last. It never falls. No
    /// entry of a higher level is in the log.
    #[serde(default, skip_serializing_if = "is_first_level")]
    pub feature_level: FeatureLevel,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first_level(level: &FeatureLevel) -> bool {
    *level == FeatureLevel(0)
}

/// What the cluster knows of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The name its address is looked up by: a pod's name, or a name of `--initial-cluster`.
    pub name: String,
    /// Index of the entry that added it.
    pub session: Session,
    /// Where peers reach it, `host:port`, if its name alone does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_addr: Option<String>,
    /// Of a learner: is not made a voter when it has caught up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stays_learner: bool,
}

impl Configuration {
    /// Whether votes or durable logs of the members that `has` accepts make a majority of the voters; of both sets
    /// of voters while joint. False when there are no voters.
    pub fn has_quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        let majority = |voters: &BTreeMap<NodeId, Member>| {
            voters.keys().filter(|id| has(**id)).count() > voters.len() / 2
        };
        majority(&self.voters) && (!self.is_joint() || majority(&self.outgoing))
    }

    /// Whether a change of voters is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` is a voter, before or after the change that is under way.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains_key(&id) || self.outgoing.contains_key(&id)
    }

    /// Whether `id` receives the log and does not count.
    #[must_use]
    pub fn is_learner(&self, id: NodeId) -> bool {
        self.learners.contains_key(&id) && !self.is_voter(id)
    }

    /// The member of this id, whatever its part.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.voters.get(&id).or_else(|| self.outgoing.get(&id)).or_else(|| self.learners.get(&id))
    }

    /// All members: voters of both sets, then learners; each once, in order of their ids.
    #[must_use]
    pub fn members(&self) -> BTreeMap<NodeId, &Member> {
        let all = self.learners.iter().chain(&self.outgoing).chain(&self.voters);
        all.map(|(id, member)| (*id, member)).collect()
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
