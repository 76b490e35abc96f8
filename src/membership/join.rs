//! Joining and replacing: what the leader does with a node that asks to become a member.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{AdminError, AdminReason, HelloAnswer};
use crate::raft::{Change, Configuration, MEMBERS_MAX, NewMember};
use crate::types::{ClusterId, LogIndex, NodeId};

/// A member that was silent for so many election timeouts may be replaced by another node of its name.
const SILENT_ELECTION_TIMEOUTS: u32 = 10;

/// The cluster, as a member sees it that is asked.
#[derive(Clone, Copy, Debug)]
pub struct ClusterView<'a> {
    /// Who is asked.
    pub own: NodeId,
    /// The latest configuration in its log.
    pub configuration: &'a Configuration,
    /// At the leader: for how long each other member has not answered.
    pub silent: &'a BTreeMap<NodeId, Duration>,
    /// The smallest election timeout.
    pub election_timeout: Duration,
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

/// For how long a member must have been silent before it is replaced.
#[must_use]
pub fn silent_before_replaced(election_timeout: Duration) -> Duration {
    election_timeout * SILENT_ELECTION_TIMEOUTS
}

/// What the leader does for `new`.
///
/// A member of the same name under another id is the node's former self, or a second process that was started by
/// mistake. So it is replaced only once it has been silent for long, and in two changes: it is removed, which needs a
/// majority of the voters that stay, and then the new node is added as a learner, whose promotion makes it whole.
#[must_use]
pub fn on_join(view: &ClusterView<'_>, new: &NewMember) -> JoinStep {
    let ClusterView { own, configuration, silent, election_timeout } = *view;
    if configuration.member(new.id).is_some() {
        return JoinStep::Done;
    }
    if configuration.removed.contains_key(&new.id) {
        let why = format!("node {} was removed for ever: it needs an empty data directory", new.id);
        return refuse(AdminReason::Removed, why);
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
        let wanted = silent_before_replaced(election_timeout);
        if silent < wanted {
            let why = format!(
                "the name {name:?} belongs to member {holder}, silent for {} ms; it is replaced after {} ms",
                silent.as_millis(),
                wanted.as_millis()
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
/// removed. A leader that adds a node makes contact at once, and the addition is lost if that leader falls before it is
/// committed. Members that do not run yet count nobody, and a leader that counts the asker does nothing.
#[must_use]
pub fn forgotten_by(own: ClusterId, answers: &BTreeMap<String, HelloAnswer>) -> Vec<String> {
    let of_own = || answers.iter().filter(|(_, answer)| answer.cluster_id == Some(own));
    if of_own().any(|(_, answer)| answer.knows_asker || answer.removed_asker.is_some()) {
        return Vec::new();
    }
    of_own().map(|(name, _)| name.clone()).collect()
}

/// The entry that removed `id`, once nobody needs it any more: only then it is told so, as it gives up its data. While
/// the removal's configuration is joint, a majority of the voters before may need it.
#[must_use]
pub fn removed_by(
    configuration: &Configuration,
    configuration_index: LogIndex,
    commit_index: LogIndex,
    id: NodeId,
) -> Option<LogIndex> {
    let by = configuration.removed.get(&id).copied()?;
    let is_over = !configuration.is_joint() && configuration.member(id).is_none();
    (is_over && configuration_index <= commit_index).then_some(by)
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
