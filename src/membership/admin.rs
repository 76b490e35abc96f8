//! What administrators and joining nodes ask of a cluster, and how it is answered to them, wherever they ask.

use std::net::IpAddr;

use crate::raft::{AdminRefusal, Change, Configuration, NewMember};
use crate::types::{LogIndex, NodeId};

/// Asked of any node; done by the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminRequest {
    /// Other members.
    Change {
        /// What to change.
        change: Change,
        /// Refused unless the configuration in force is that of this entry.
        expected: Option<LogIndex>,
    },
    /// Another leader.
    Transfer {
        /// Who; `None`: the voter that is furthest.
        to: Option<NodeId>,
    },
    /// A node without a cluster asks to become a learner.
    Join {
        /// The node.
        new: NewMember,
        /// Where it asks from.
        origin: JoinOrigin,
    },
}

/// What tells a node that asks to join from another one that takes its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinOrigin {
    /// In Kubernetes, the uid of its pod.
    pub pod_uid: Option<String>,
    /// The IP address that it asked from; `None` if that is not known.
    pub asked_from: Option<IpAddr>,
}

/// Why a request was not done: what programs act on, and what people read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct AdminError {
    /// For programs.
    pub reason: AdminReason,
    /// For people.
    pub detail: String,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// Why a request was not done, with a stable name for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum AdminReason {
            $($(#[$doc])* $name,)*
        }

        impl AdminReason {
            /// The stable name.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// The reason of this name; `None` for a name that a later version may have.
            #[must_use]
            pub fn from_code(code: &str) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    /// No leader is known, or the one that was asked does not lead any more.
    NoLeader = "no_leader",
    /// Leadership moved while it was under way; it may still be done.
    LeadershipLost = "leadership_lost",
    /// Its time ran out; it may still be done.
    Timeout = "timeout",
    /// An attempt has an unknown outcome, and a later one could not tell it.
    Unknown = "outcome_unknown",
    /// The cluster admits the node only if an administrator adds it.
    NotAdmitted = "not_admitted",
    /// Another change or transfer is under way.
    InProgress = "in_progress",
    /// The leader is new.
    NotReady = "not_ready",
    /// The members changed meanwhile.
    Unexpected = "unexpected_configuration",
    /// No such member.
    NotAMember = "not_a_member",
    /// Nothing to do.
    Already = "already",
    /// The node was removed permanently.
    Removed = "removed",
    /// Another member has the name.
    NameTaken = "name_taken",
    /// The member that has the joining node's name answers: it is not to be replaced.
    NameInUse = "name_in_use",
    /// The member that has the joining node's name was silent, but not for long enough to be replaced.
    NameHeld = "name_held",
    /// The cluster cannot replace the lost member by itself: too few voters are left.
    NeedsRecovery = "needs_recovery",
    /// No voter would be left.
    NoVoters = "no_voters",
    /// The voters after the change could not commit.
    NoQuorum = "no_quorum",
    /// The learner to be promoted is behind.
    NotCaughtUp = "not_caught_up",
    /// More members than a cluster may have.
    TooMany = "too_many_members",
    /// The request makes no sense.
    Invalid = "invalid",
    /// No other voter can lead.
    NoTarget = "no_target",
    /// The joining node's program does not understand what the cluster writes.
    FeatureLevel = "feature_level",
}

impl AdminReason {
    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::NoLeader
            | Self::LeadershipLost
            | Self::Timeout
            | Self::InProgress
            | Self::NotReady
            | Self::NoQuorum
            | Self::NotCaughtUp => true,
            Self::Unexpected
            | Self::NotAMember
            | Self::Already
            | Self::Removed
            | Self::Unknown
            | Self::NotAdmitted
            | Self::NameTaken
            | Self::NameInUse
            | Self::NameHeld
            | Self::NeedsRecovery
            | Self::NoVoters
            | Self::TooMany
            | Self::Invalid
            | Self::NoTarget
            | Self::FeatureLevel => false,
        }
    }

    /// Whether the request may have been done, or may still be.
    #[must_use]
    pub fn may_be_done(self) -> bool {
        matches!(self, Self::LeadershipLost | Self::Timeout | Self::Unknown)
    }
}

impl AdminError {
    /// An error of this reason.
    pub fn new(reason: AdminReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The outcome of a request of which an earlier attempt may have been done, and whose latest one failed for this
    /// reason: that refuses only the latest.
    #[must_use]
    pub fn after_unknown(self) -> Self {
        if self.reason.may_be_done() {
            return self;
        }
        let detail = format!("an earlier attempt may have been done; the latest one: {}", self.detail);
        Self::new(AdminReason::Unknown, detail)
    }
}

impl From<AdminRefusal> for AdminError {
    fn from(refusal: AdminRefusal) -> Self {
        let reason = match &refusal {
            AdminRefusal::NotLeader { .. } => AdminReason::NoLeader,
            AdminRefusal::LeadershipLost => AdminReason::LeadershipLost,
            AdminRefusal::Timeout => AdminReason::Timeout,
            AdminRefusal::InProgress => AdminReason::InProgress,
            AdminRefusal::NotReady => AdminReason::NotReady,
            AdminRefusal::Unexpected { .. } => AdminReason::Unexpected,
            AdminRefusal::NotAMember(_) => AdminReason::NotAMember,
            AdminRefusal::Already(_) => AdminReason::Already,
            AdminRefusal::Removed(_) => AdminReason::Removed,
            AdminRefusal::NameTaken { .. } => AdminReason::NameTaken,
            AdminRefusal::TooMany => AdminReason::TooMany,
            AdminRefusal::NoVoters => AdminReason::NoVoters,
            AdminRefusal::NoQuorum { .. } => AdminReason::NoQuorum,
            AdminRefusal::NotCaughtUp { .. } => AdminReason::NotCaughtUp,
            AdminRefusal::Invalid(_) => AdminReason::Invalid,
            AdminRefusal::NoTarget => AdminReason::NoTarget,
        };
        Self { reason, detail: refusal.to_string() }
    }
}

/// Whether `configuration` is what `change` asks for: an earlier attempt with an unknown outcome was done.
#[must_use]
pub fn is_done(change: &Change, configuration: &Configuration) -> bool {
    let Change { add, promote, demote, remove, feature_level } = change;
    !configuration.is_joint()
        && add.iter().all(|new| configuration.member(new.id).is_some())
        && promote.iter().all(|id| configuration.voters.contains_key(id))
        && demote.iter().all(|id| configuration.learners.contains_key(id))
        && remove.iter().all(|id| configuration.removed.contains_key(id))
        && feature_level.is_none_or(|level| configuration.feature_level >= level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;

    #[test]
    fn every_reason_is_found_by_its_name() {
        for reason in [AdminReason::NoLeader, AdminReason::NameInUse, AdminReason::NoTarget] {
            assert_eq!(AdminReason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(AdminReason::from_code("later"), None);
    }

    #[test]
    fn what_is_retried_may_succeed() {
        let refused = |refusal: AdminRefusal| {
            let retryable = refusal.is_retryable();
            let error = AdminError::from(refusal);
            assert_eq!(error.reason.is_retryable(), retryable, "{error}");
        };
        refused(AdminRefusal::NotLeader { leader: None });
        refused(AdminRefusal::LeadershipLost);
        refused(AdminRefusal::Timeout);
        refused(AdminRefusal::InProgress);
        refused(AdminRefusal::NotReady);
        refused(AdminRefusal::Unexpected { current: LogIndex(1) });
        refused(AdminRefusal::Already(NodeId(1)));
        refused(AdminRefusal::NoQuorum { active: 1, voters: 3 });
        refused(AdminRefusal::NotCaughtUp { id: NodeId(1), entries: 9 });
        refused(AdminRefusal::NoTarget);
    }

    #[test]
    fn after_an_attempt_of_unknown_outcome_no_refusal_says_that_nothing_was_done() {
        for reason in [
            AdminReason::NoLeader,
            AdminReason::InProgress,
            AdminReason::Unexpected,
            AdminReason::NotAMember,
            AdminReason::Already,
            AdminReason::Timeout,
        ] {
            let error = AdminError::new(reason, "why").after_unknown();
            assert!(error.reason.may_be_done(), "{reason:?}");
            assert!(error.detail.contains("why"));
        }
    }

    #[test]
    fn a_change_is_done_when_all_of_it_is() {
        let mut configuration = Configuration::default();
        configuration.voters.insert(NodeId(1), Member::default());
        configuration.learners.insert(NodeId(2), Member::default());
        configuration.removed.insert(NodeId(3), LogIndex(7));
        let done = |change: Change| is_done(&change, &configuration);
        assert!(done(Change { promote: vec![NodeId(1)], remove: vec![NodeId(3)], ..Change::default() }));
        assert!(done(Change { demote: vec![NodeId(2)], ..Change::default() }));
        assert!(!done(Change { promote: vec![NodeId(1), NodeId(2)], ..Change::default() }));
        assert!(!done(Change { remove: vec![NodeId(9)], ..Change::default() }));
        let joint = Configuration { outgoing: configuration.voters.clone(), ..configuration.clone() };
        assert!(!is_done(&Change { promote: vec![NodeId(1)], ..Change::default() }, &joint));
    }
}
