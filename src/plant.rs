//! Bugs that can be planted, to show that the simulator finds them. Those of the core and of the log are wrong answers
//! to a question that safety depends on: `raft/rules/planted.rs` and `storage/wal/rules/planted.rs`, which take the
//! place of the sound rules with the cargo feature `planted-bugs`. The others ask [`Planted::is`] where they are. Without
//! the feature that is false at compile time, and nothing of this is in the program.

/// A bug of a class that others have shipped, or that is easily made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// A vote is given before it is durable, and not written.
    VoteNotPersisted,
    /// A second candidate gets a vote in the same term.
    TwoVotesATerm,
    /// Votes are given to candidates whose log is behind.
    VoteWithoutLogCheck,
    /// A refused vote counts as granted.
    RefusalCountsAsVote,
    /// A candidate asks for votes, and can win, before its own vote is durable.
    AskBeforeOwnVote,
    /// Refusals do not carry the term to the candidate.
    RefusalWithoutTerm,
    /// Entries of earlier terms are committed by counting.
    CommitEarlierTerm,
    /// One durable copy commits.
    CommitWithoutQuorum,
    /// The leader's own log counts before it is durable.
    CountUnflushed,
    /// A follower commits up to the leader's commit index without knowing that its entries are the leader's.
    CommitUnverified,
    /// What is durable is applied, committed or not.
    ApplyBeforeCommit,
    /// A voter that is alone applies, and so acknowledges, before it flushes.
    AloneAppliesUnflushed,
    /// Followers acknowledge before they flush.
    AcknowledgeBeforeFlush,
    /// A conflicting tail is kept.
    KeepConflict,
    /// Truncations are not written to the log.
    TruncationNotWritten,
    /// The flush of a replaced entry makes its successor durable.
    ReplacedCountsDurable,
    /// The log is written but never flushed.
    NoFlush,
    /// A failed flush is tried again and then believed.
    RetriedFlush,
    /// A log that restarts behind a snapshot forgets the vote.
    ResetDropsVote,
    /// Reads are served without a round of heartbeats.
    ReadWithoutRound,
    /// A new leader serves reads before its no-op is committed.
    ReadBeforeNoop,
    /// Any answer to a question for a read index is taken for the latest one's.
    ReadAnswerMixedUp,
    /// A read round continues to wait for voters that were removed meanwhile.
    ReadWaitsForRemoved,
    /// A forwarded write whose fate is unknown is sent again.
    ForwardTwice,
    /// A leader takes writes however many bytes are not committed.
    UnboundedWrites,
    /// An invitation to a new cluster is accepted although the answer that it depends on is not the newest.
    NonceNotChecked,
    /// The intent to form a cluster is not durable before others are told.
    IntentNotPersisted,
    /// While voters change, a majority of the new ones alone decides.
    JointOneMajority,
    /// A joint configuration is left before it is committed.
    LeaveJointEarly,
    /// A leader that leaves steps down, and asks for no more votes, as soon as its log says so.
    LeaverStepsDownEarly,
    /// A new leader changes members before it has committed an entry of its own term.
    ChangeBeforeNoop,
    /// Learners are made voters before they have caught up.
    PromoteBeforeCatchUp,
    /// Leadership is transferred to a node whose log is behind.
    TransferWithoutLogCheck,
    /// Removed nodes are listened to, and added again.
    RemovedRejoins,
    /// A start does not restore what is remembered of requests with idempotency keys.
    ForgetOutcomes,
    /// A received snapshot does not bring its configuration.
    SnapshotDropsConfiguration,
    /// The log is kept behind a snapshot although its entry there is another one.
    StaleEntryAtSnapshot,
    /// The log is compacted up to what is applied, durable or not.
    CompactWithoutSnapshot,
    /// A lease starts when the echo arrives.
    LeaseFromReceipt,
    /// A lease lasts as long as the followers' promise, whatever their clocks.
    LeaseWithoutMargin,
    /// With leases on, a node votes right after its start.
    VoteAtOnceWithLeases,
    /// A leader whose disk stalls continues to lead.
    StalledLeaderStays,
    /// A node whose disk was emptied continues under its old identity.
    WipedDiskSameId,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 43] = [
        Self::VoteNotPersisted,
        Self::TwoVotesATerm,
        Self::VoteWithoutLogCheck,
        Self::RefusalCountsAsVote,
        Self::AskBeforeOwnVote,
        Self::RefusalWithoutTerm,
        Self::CommitEarlierTerm,
        Self::CommitWithoutQuorum,
        Self::CountUnflushed,
        Self::CommitUnverified,
        Self::ApplyBeforeCommit,
        Self::AloneAppliesUnflushed,
        Self::AcknowledgeBeforeFlush,
        Self::KeepConflict,
        Self::TruncationNotWritten,
        Self::ReplacedCountsDurable,
        Self::NoFlush,
        Self::RetriedFlush,
        Self::ResetDropsVote,
        Self::ReadWithoutRound,
        Self::ReadBeforeNoop,
        Self::ReadAnswerMixedUp,
        Self::ReadWaitsForRemoved,
        Self::ForwardTwice,
        Self::UnboundedWrites,
        Self::NonceNotChecked,
        Self::IntentNotPersisted,
        Self::JointOneMajority,
        Self::LeaveJointEarly,
        Self::LeaverStepsDownEarly,
        Self::ChangeBeforeNoop,
        Self::PromoteBeforeCatchUp,
        Self::TransferWithoutLogCheck,
        Self::RemovedRejoins,
        Self::ForgetOutcomes,
        Self::SnapshotDropsConfiguration,
        Self::StaleEntryAtSnapshot,
        Self::CompactWithoutSnapshot,
        Self::LeaseFromReceipt,
        Self::LeaseWithoutMargin,
        Self::VoteAtOnceWithLeases,
        Self::StalledLeaderStays,
        Self::WipedDiskSameId,
    ];

    /// As written on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VoteNotPersisted => "vote-not-persisted",
            Self::TwoVotesATerm => "two-votes-a-term",
            Self::VoteWithoutLogCheck => "vote-without-log-check",
            Self::RefusalCountsAsVote => "refusal-counts-as-vote",
            Self::AskBeforeOwnVote => "ask-before-own-vote",
            Self::RefusalWithoutTerm => "refusal-without-term",
            Self::CommitEarlierTerm => "commit-earlier-term",
            Self::CommitWithoutQuorum => "commit-without-quorum",
            Self::CountUnflushed => "count-unflushed",
            Self::CommitUnverified => "commit-unverified",
            Self::ApplyBeforeCommit => "apply-before-commit",
            Self::AloneAppliesUnflushed => "alone-applies-unflushed",
            Self::AcknowledgeBeforeFlush => "acknowledge-before-flush",
            Self::KeepConflict => "keep-conflict",
            Self::TruncationNotWritten => "truncation-not-written",
            Self::ReplacedCountsDurable => "replaced-counts-durable",
            Self::NoFlush => "no-flush",
            Self::RetriedFlush => "retried-flush",
            Self::ResetDropsVote => "wal-drops-vote",
            Self::ReadWithoutRound => "read-without-round",
            Self::ReadBeforeNoop => "read-before-noop",
            Self::ReadAnswerMixedUp => "read-answer-mixed-up",
            Self::ReadWaitsForRemoved => "read-waits-for-removed",
            Self::ForwardTwice => "forward-twice",
            Self::UnboundedWrites => "unbounded-writes",
            Self::NonceNotChecked => "nonce-not-checked",
            Self::IntentNotPersisted => "intent-not-persisted",
            Self::JointOneMajority => "joint-one-majority",
            Self::LeaveJointEarly => "leave-joint-early",
            Self::LeaverStepsDownEarly => "leaver-steps-down-early",
            Self::ChangeBeforeNoop => "change-before-noop",
            Self::PromoteBeforeCatchUp => "promote-before-catch-up",
            Self::TransferWithoutLogCheck => "transfer-without-log-check",
            Self::RemovedRejoins => "removed-rejoins",
            Self::ForgetOutcomes => "forget-outcomes",
            Self::SnapshotDropsConfiguration => "snapshot-drops-configuration",
            Self::StaleEntryAtSnapshot => "stale-entry-at-snapshot",
            Self::CompactWithoutSnapshot => "compact-without-snapshot",
            Self::LeaseFromReceipt => "lease-from-receipt",
            Self::LeaseWithoutMargin => "lease-without-margin",
            Self::VoteAtOnceWithLeases => "vote-at-once-with-leases",
            Self::StalledLeaderStays => "stalled-leader-stays",
            Self::WipedDiskSameId => "wiped-disk-same-id",
        }
    }

    /// The bug of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| plant.name() == name)
    }

    /// What it does, in a sentence.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::VoteNotPersisted => "A vote is given before it is durable, and not written",
            Self::TwoVotesATerm => "A second candidate gets a vote in the same term",
            Self::VoteWithoutLogCheck => "Votes are given to candidates whose log is behind",
            Self::RefusalCountsAsVote => "A refused vote counts as granted",
            Self::AskBeforeOwnVote => {
                "A candidate asks for votes, and can win, before its own vote is durable"
            }
            Self::RefusalWithoutTerm => "Refusals do not carry the term to the candidate",
            Self::CommitEarlierTerm => "Entries of earlier terms are committed by counting",
            Self::CommitWithoutQuorum => "One durable copy commits",
            Self::CountUnflushed => "The leader's own log counts before it is durable",
            Self::CommitUnverified => {
                "A follower commits up to the leader's commit index without knowing that its entries are the leader's"
            }
            Self::ApplyBeforeCommit => "What is durable is applied, committed or not",
            Self::AloneAppliesUnflushed => {
                "A voter that is alone applies, and so acknowledges, before it flushes"
            }
            Self::AcknowledgeBeforeFlush => "Followers acknowledge before they flush",
            Self::KeepConflict => "A conflicting tail is kept",
            Self::TruncationNotWritten => "Truncations are not written to the log",
            Self::ReplacedCountsDurable => "The flush of a replaced entry makes its successor durable",
            Self::NoFlush => "The log is written but never flushed",
            Self::RetriedFlush => "A failed flush is tried again and then believed",
            Self::ResetDropsVote => "A log that restarts behind a snapshot forgets the vote",
            Self::ReadWithoutRound => "Reads are served without a round of heartbeats",
            Self::ReadBeforeNoop => "A new leader serves reads before its no-op is committed",
            Self::ReadAnswerMixedUp => {
                "Any answer to a question for a read index is taken for the latest one's"
            }
            Self::ReadWaitsForRemoved => {
                "A read round continues to wait for voters that were removed meanwhile"
            }
            Self::ForwardTwice => "A forwarded write whose fate is unknown is sent again",
            Self::UnboundedWrites => "A leader takes writes however many bytes are not committed",
            Self::NonceNotChecked => {
                "An invitation to a new cluster is accepted although the answer that it depends on is not the newest"
            }
            Self::IntentNotPersisted => "The intent to form a cluster is not durable before others are told",
            Self::JointOneMajority => "While voters change, a majority of the new ones alone decides",
            Self::LeaveJointEarly => "A joint configuration is left before it is committed",
            Self::LeaverStepsDownEarly => {
                "A leader that leaves steps down, and asks for no more votes, as soon as its log says so"
            }
            Self::ChangeBeforeNoop => {
                "A new leader changes members before it has committed an entry of its own term"
            }
            Self::PromoteBeforeCatchUp => "Learners are made voters before they have caught up",
            Self::TransferWithoutLogCheck => "Leadership is transferred to a node whose log is behind",
            Self::RemovedRejoins => "Removed nodes are listened to, and added again",
            Self::ForgetOutcomes => {
                "A start does not restore what is remembered of requests with idempotency keys"
            }
            Self::SnapshotDropsConfiguration => "A received snapshot does not bring its configuration",
            Self::StaleEntryAtSnapshot => {
                "The log is kept behind a snapshot although its entry there is another one"
            }
            Self::CompactWithoutSnapshot => "The log is compacted up to what is applied, durable or not",
            Self::LeaseFromReceipt => "A lease starts when the echo arrives",
            Self::LeaseWithoutMargin => {
                "A lease lasts as long as the followers' promise, whatever their clocks"
            }
            Self::VoteAtOnceWithLeases => "With leases on, a node votes right after its start",
            Self::StalledLeaderStays => "A leader whose disk stalls continues to lead",
            Self::WipedDiskSameId => "A node whose disk was emptied continues under its old identity",
        }
    }
}

/// The bug that is planted, if any. Handed down with the settings of each part, so that it is no global switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    #[cfg(feature = "planted-bugs")]
    plant: Option<Plant>,
}

impl Planted {
    /// No bug.
    pub const NONE: Self = Self {
        #[cfg(feature = "planted-bugs")]
        plant: None,
    };

    /// Whether this program can plant bugs.
    pub const POSSIBLE: bool = cfg!(feature = "planted-bugs");

    /// Plants `plant`; nothing, if that is not [`Planted::POSSIBLE`].
    #[must_use]
    pub fn new(plant: Plant) -> Self {
        #[cfg(not(feature = "planted-bugs"))]
        let _ = plant;
        Self {
            #[cfg(feature = "planted-bugs")]
            plant: Some(plant),
        }
    }

    /// What is planted.
    #[must_use]
    pub fn get(self) -> Option<Plant> {
        #[cfg(feature = "planted-bugs")]
        let plant = self.plant;
        #[cfg(not(feature = "planted-bugs"))]
        let plant = None;
        plant
    }

    /// Whether this bug is planted.
    #[must_use]
    #[inline]
    pub fn is(self, plant: Plant) -> bool {
        #[cfg(feature = "planted-bugs")]
        let planted = self.plant == Some(plant);
        #[cfg(not(feature = "planted-bugs"))]
        let planted = {
            let _ = plant;
            false
        };
        planted
    }
}
