//! What administrators ask of a leader: other members, another leader. And why it may refuse.

use super::MEMBERS_MAX;
use crate::types::{FeatureLevel, LogIndex, NodeId};

/// A change of members, done as one: through a joint configuration if voters change (thesis, 4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Nodes to add, as learners.
    pub add: Vec<NewMember>,
    /// Learners to make voters.
    pub promote: Vec<NodeId>,
    /// Voters to make learners, which then stay learners.
    pub demote: Vec<NodeId>,
    /// Members to remove permanently.
    pub remove: Vec<NodeId>,
    /// A higher feature level for the cluster; alone in its change.
    pub feature_level: Option<FeatureLevel>,
}

/// A node to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its identity, from its data directory.
    pub id: NodeId,
    /// The name its address is looked up by; no two members have the same one.
    pub name: String,
    /// Where peers reach it, `host:port`, if its name alone does not tell.
    pub peer_addr: Option<String>,
    /// It is not made a voter when it has caught up.
    pub stays_learner: bool,
}

/// Why a change of members or a transfer was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminRefusal {
    /// Only a leader can do it.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Leadership moved while it was under way; it may still be done.
    #[error("leadership moved before the outcome was known")]
    LeadershipLost,
    /// Its time ran out; it may still be done.
    #[error("no outcome in time")]
    Timeout,
    /// Another change or transfer is under way.
    #[error("another change is under way")]
    InProgress,
    /// The leader has not committed an entry of its own term yet.
    #[error("the leader is new and not ready yet")]
    NotReady,
    /// The configuration is not the one that the request expects.
    #[error("the members changed meanwhile: the configuration is that of entry {current}")]
    Unexpected {
        /// Index of the configuration in force.
        current: LogIndex,
    },
    /// No such member.
    #[error("node {0} is no member")]
    NotAMember(NodeId),
    /// It is a member in the asked-for part already.
    #[error("node {0} is that already")]
    Already(NodeId),
    /// It was removed; it needs a new identity.
    #[error("node {0} was removed for ever: it must join with an empty data directory")]
    Removed(NodeId),
    /// Another member has the name.
    #[error("the name {name:?} belongs to member {id}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: NodeId,
    },
    /// There would be more members than [`MEMBERS_MAX`].
    #[error("a cluster has at most {MEMBERS_MAX} members, learners included")]
    TooMany,
    /// No voter would be left.
    #[error("no voter would be left")]
    NoVoters,
    /// The voters after the change could not commit.
    #[error("only {active} of the {voters} voters after the change are in touch and caught up: no majority")]
    NoQuorum {
        /// How many are.
        active: usize,
        /// How many there would be.
        voters: usize,
    },
    /// The learner to be promoted is not there yet.
    #[error("node {id} lacks {entries} entries")]
    NotCaughtUp {
        /// Which.
        id: NodeId,
        /// How many it lacks.
        entries: u64,
    },
    /// Nothing to do, or the same node named twice.
    #[error("{0}")]
    Invalid(&'static str),
    /// No voter could take over.
    #[error("no other voter can take over")]
    NoTarget,
}

impl AdminRefusal {
    /// Whether the same request may succeed later, or at another node.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NotLeader { .. }
                | Self::LeadershipLost
                | Self::Timeout
                | Self::InProgress
                | Self::NotReady
                | Self::NoQuorum { .. }
                | Self::NotCaughtUp { .. }
        )
    }
}
