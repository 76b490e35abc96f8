//! Joining and replacing: what the leader does with a node that asks to become a member.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{AdminError, AdminReason, HelloAnswer, RemovedBy};
use crate::raft::{Change, Configuration, MEMBERS_MAX, NewMember};
use crate::types::{ClusterId, LogIndex, NodeId};

/// A node whose name is taken stops asking once the holder has answered for so many election timeouts. In Kubernetes, a member
/// that was silent for so many is replaced by its name's new pod.
const SILENT_ELECTION_TIMEOUTS: u32 = 10;

/// The cluster, as a member sees it that is asked.
#[derive(Clone, Debug)]
pub struct ClusterView<'a> {
    /// The member that is asked.
    pub own: NodeId,
    /// The latest configuration in its log.
    pub configuration: &'a Configuration,
    /// At the leader: for how long each other member has not answered.
    pub silent: &'a BTreeMap<NodeId, Duration>,
    /// The smallest election timeout.
    pub election_timeout: Duration,
    /// For how long a member must have been silent before it is replaced by another node of its name.
    pub replace_after: Duration,
    /// Why a node is not admitted that is no member; `None`: it is.
    pub not_admitted: Option<AdminError>,
}

/// What to do for a node that asks to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinStep {
    /// It is a member already: nothing.
    Done,
    /// This, then ask again.
    Change(Change),
    /// Nothing, and tell it why.
    Refuse(AdminError),
}

/// Whether this cluster admits a node that asks to join and that no administrator added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// Whatever its name.
    Anyone,
    /// Only under these names.
    Names(&'a BTreeSet<String>),
}

impl Admission<'_> {
    /// Why `new` is not admitted to a cluster of this configuration; `None` if it is. A member's name is admitted, too: it
    /// may have lost its data.
    #[must_use]
    pub fn refuses(self, configuration: &Configuration, new: &NewMember) -> Option<AdminError> {
        let Self::Names(names) = self else { return None };
        let is_member = |name: &str| configuration.members().values().any(|member| member.name == name);
        if names.contains(&new.name) || is_member(&new.name) {
            return None;
        }
        let address =
            new.peer_addr.as_ref().map(|address| format!(" --peer-addr {address}")).unwrap_or_default();
        let why = format!(
            "the name {:?} is not on the members' list, and this cluster admits no others (--admit names): add the node with \
             `kuberaft member add {} --id {}{address}`, or start the members with --admit anyone",
            new.name, new.name, new.id
        );
        Some(AdminError::new(AdminReason::NotAdmitted, why))
    }
}

/// For how long a name's holder is waited for: to answer, until the node that wants its name stops asking; or to stay silent,
/// until the name's new pod replaces it.
#[must_use]
pub fn silent_before_replaced(election_timeout: Duration) -> Duration {
    election_timeout * SILENT_ELECTION_TIMEOUTS
}

/// What the leader does for `new`.
///
/// A member of the same name under another id is the previous node, or a second process that was started by
/// mistake. So it is replaced only once it has been silent for long, and in two changes: it is removed, which needs a
/// majority of the voters that stay, and then the new node is added as a learner, whose promotion makes it whole.
#[must_use]
pub fn on_join(view: &ClusterView<'_>, new: &NewMember) -> JoinStep {
    let ClusterView { own, configuration, silent, election_timeout, .. } = *view;
    if configuration.member(new.id).is_some() {
        return JoinStep::Done;
    }
    if configuration.removed.contains_key(&new.id) {
        let why = format!("node {} was removed for ever: it needs an empty data directory", new.id);
        return refuse(AdminReason::Removed, why);
    }
    if let Some(error) = &view.not_admitted {
        return JoinStep::Refuse(error.clone());
    }
    let members = configuration.members();
    if let Some((holder, _)) = members.iter().find(|(_, member)| member.name == new.name) {
        let silent = silent.get(holder).copied().unwrap_or_default();
        let name = &new.name;
        if *holder == own || silent <= election_timeout {
            let why = format!(
                "the name {name:?} belongs to member {holder}, which answers: if that is another node, give this \
                 one its own name; if it is to be replaced, stop it first or remove it"
            );
            return refuse(AdminReason::NameInUse, why);
        }
        let wanted = view.replace_after;
        if silent < wanted {
            let why = format!(
                "the name {name:?} belongs to member {holder}, silent for {} s; it is replaced after {} s \
                 (--replace-after of the members), or at once by `kuberaft member remove {holder}`",
                silent.as_secs(),
                wanted.as_secs_f64()
            );
            return refuse(AdminReason::NameHeld, why);
        }
        if let Some(error) = lost_majority(configuration, *holder, name) {
            return JoinStep::Refuse(error);
        }
        return JoinStep::Change(Change { remove: vec![*holder], ..Change::default() });
    }
    if members.len() >= MEMBERS_MAX {
        let why = format!("the cluster has {} members, the most that it may have", members.len());
        return refuse(AdminReason::TooMany, why);
    }
    JoinStep::Change(Change { add: vec![new.clone()], ..Change::default() })
}

fn refuse(reason: AdminReason, detail: String) -> JoinStep {
    JoinStep::Refuse(AdminError::new(reason, detail))
}

/// What a member that knows no leader tells a node that asks to join.
#[must_use]
pub fn on_join_without_leader(configuration: &Configuration, new: &NewMember) -> AdminError {
    let holder = configuration.members().into_iter().find(|(_, member)| member.name == new.name);
    let lost = holder.filter(|(id, _)| *id != new.id);
    lost.and_then(|(id, _)| lost_majority(configuration, id, &new.name)).unwrap_or_else(|| {
        AdminError::new(AdminReason::NoLeader, "no leader is known at the node that was asked")
    })
}

/// Whether the voters cannot decide anything without `lost`, not even to remove it.
fn lost_majority(configuration: &Configuration, lost: NodeId, name: &str) -> Option<AdminError> {
    if configuration.has_quorum(|id| id != lost) {
        return None;
    }
    let why = format!(
        "this node was member {lost}, {name:?}, and lost its data; without it the other voters have no majority, so \
         they cannot replace it: `kuberaft recover` is needed"
    );
    Some(AdminError::new(AdminReason::NeedsRecovery, why))
}

/// Whom a node of cluster `own` asks to be added again, by name: nobody whose answer it has counts it, or says that it was
/// removed. A leader that adds a node makes contact at once, and the addition is lost if that leader crashes before it
/// is committed. Members that do not run yet count nobody, and a leader that counts the asker does nothing.
#[must_use]
pub fn forgotten_by(own: ClusterId, answers: &BTreeMap<String, HelloAnswer>) -> Vec<String> {
    let of_own = || answers.iter().filter(|(_, answer)| answer.cluster_id == Some(own));
    if of_own().any(|(_, answer)| answer.knows_asker || answer.removed_asker.is_some()) {
        return Vec::new();
    }
    of_own().map(|(name, _)| name.clone()).collect()
}

/// The entry that removed `id`, once nobody needs it any more: only then it is told so, as it sets its data aside.
/// While the removal's configuration is joint, a majority of the voters before may need it.
#[must_use]
pub fn removed_by(
    configuration: &Configuration,
    configuration_index: LogIndex,
    commit_index: LogIndex,
    id: NodeId,
) -> Option<RemovedBy> {
    let index = configuration.removed.get(&id).copied()?;
    let is_over = !configuration.is_joint() && configuration.member(id).is_none();
    (is_over && configuration_index <= commit_index)
        .then(|| RemovedBy { index, configuration: Some(configuration.clone()) })
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
