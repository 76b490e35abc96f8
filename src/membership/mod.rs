//! Who forms a cluster and who becomes a member: pure decisions, from what was seen to what to do.
//!
//! A cluster is formed once and only once. The smallest name of the initial cluster forms it (in Kubernetes the pod with
//! the first ordinal), and only after every expected peer has answered "empty". Outside Kubernetes there is no other witness, so two rules carry
//! the safety: a node accepts membership of one cluster only, durably, before it says so; and a cluster is
//! used only once a majority of its founding members has accepted it.
//!
//! A node that finds a cluster which does not count it asks to join: [`decide`] at its side, [`on_join`] at the
//! leader's.

mod admin;
mod contact;
mod elsewhere;
mod formation;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod initial_cluster;
mod join;
pub mod latch;
mod new_member;
mod reconcile;
mod refounding;
mod removal;
pub mod rollout;
mod senders;
mod stranded;
mod workload;

pub use admin::{AdminError, AdminReason, AdminRequest, JoinOrigin, is_done};
pub use contact::{Refused, on_contact, on_form};
pub use elsewhere::{Astray, astray};
pub use formation::{
    Decision, Formed, HelloAnswer, Intent, Invitation, JoinPolicy, Local, Standing, decide, decide_anew,
};
pub use initial_cluster::{InitialCluster, InitialClusterError, InitialMember};
pub use join::{
    Admission, ClusterView, JoinStep, forgotten_by, on_join, on_join_without_leader, removed_by,
    silent_before_replaced,
};
pub use new_member::{NewMemberError, check_new_member};
pub use reconcile::{Reconciliation, reconcile};
pub use refounding::{Origin, Refounding, WasRemoved, refound, revision_after_refounding};
pub use removal::{Removal, RemovedBy, proven_removal};
pub use senders::{SenderStep, on_sender};
pub use stranded::stranded;
pub use workload::{Health, Pod, Workload, is_majority_on_one_node};
