//! Does what administrators and joining nodes ask for: here, if this node leads, else at the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::kubernetes::{IsLivePod, StatefulSet};
use crate::driver::Handle;
use crate::membership::{
    AdminError, AdminReason, AdminRequest, Admission, ClusterView, JoinOrigin, JoinStep, RemovedBy, is_done,
    on_join, on_join_without_leader, removed_by, silent_before_replaced,
};
use crate::raft::{Configuration, NewMember};
use crate::transport::{AdminFuture, AdminOutcome, Administrator, Peers};
use crate::types::{FeatureLevel, NodeId};

/// Pause before a refused attempt is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Changes that joining may take: the old node out, the new one in; once more if others change the members meanwhile.
const JOIN_STEPS_MAX: usize = 4;

/// A running replica, to be administered. Clones share it.
#[derive(Clone)]
pub(super) struct Administration(Arc<Parts>);

struct Parts {
    handle: Handle,
    peers: Peers,
    rules: Rules,
}

/// Who may join, and when a silent member is replaced.
pub(super) struct Rules {
    pub(super) election_timeout: Duration,
    pub(super) replace_after: Duration,
    /// The names that may join; `None`: any.
    pub(super) admitted: Option<BTreeSet<String>>,
    /// In Kubernetes, what says who may join.
    pub(super) stateful_set: Option<StatefulSet>,
}

impl Administration {
    pub(super) fn new(handle: Handle, peers: Peers, rules: Rules) -> Self {
        Self(Arc::new(Parts { handle, peers, rules }))
    }
}

impl Administrator for Administration {
    fn at_leader(&self, request: AdminRequest, again: bool, timeout: Duration) -> AdminFuture {
        let parts = Arc::clone(&self.0);
        Box::pin(async move { parts.at_leader(request, again, timeout).await })
    }

    fn anywhere(&self, request: AdminRequest, timeout: Duration) -> AdminFuture {
        let parts = Arc::clone(&self.0);
        Box::pin(async move { parts.anywhere(request, timeout).await })
    }

    fn feature_level(&self) -> FeatureLevel {
        self.0.handle.status().configuration.feature_level
    }

    fn removed_by(&self, id: NodeId) -> Option<RemovedBy> {
        let status = self.0.handle.status();
        removed_by(&status.configuration, status.configuration_index, status.commit_index, id)
    }
}

impl Parts {
    /// Repeats what may succeed a moment later, until `timeout`.
    async fn anywhere(&self, request: AdminRequest, timeout: Duration) -> AdminOutcome {
        let deadline = Instant::now() + timeout;
        let mut again = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.attempt(&request, again, left).await {
                Ok(index) => return Ok(index),
                // What is refused now says nothing of an attempt before.
                Err(error) if again && !error.reason.is_retryable() => return Err(error.after_unknown()),
                Err(error) => error,
            };
            // Joining nodes ask again by themselves, and know better what has changed.
            let is_join = matches!(request, AdminRequest::Join { .. });
            let is_over = is_join || Instant::now() + RETRY_PAUSE >= deadline;
            if is_over || !error.reason.is_retryable() {
                return Err(if again { error.after_unknown() } else { error });
            }
            again |= error.reason.may_be_done();
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Once, at the present leader.
    async fn attempt(&self, request: &AdminRequest, again: bool, timeout: Duration) -> AdminOutcome {
        let status = self.handle.status();
        match (status.leader, request) {
            (Some(leader), _) if leader == status.node_id => {
                self.at_leader(request.clone(), again, timeout).await
            }
            (Some(leader), _) => self.peers.ask_leader(leader, request.clone(), again, timeout).await,
            (None, AdminRequest::Join { new, .. }) => Err(on_join_without_leader(&status.configuration, new)),
            (None, _) => Err(AdminError::new(AdminReason::NoLeader, "no leader is known")),
        }
    }

    async fn at_leader(&self, request: AdminRequest, again: bool, timeout: Duration) -> AdminOutcome {
        match request {
            AdminRequest::Change { change, expected } => {
                let status = self.handle.status();
                if again && is_done(&change, &status.configuration) {
                    return Ok(status.configuration_index);
                }
                Ok(self.handle.change_members(change, expected, timeout).await?)
            }
            AdminRequest::Transfer { to } => {
                let status = self.handle.status();
                if again && (to.is_none() || to == status.leader) {
                    return Ok(status.commit_index);
                }
                Ok(self.handle.transfer_leadership(to, timeout).await?)
            }
            AdminRequest::Join { new, origin } => self.join(&new, &origin, timeout).await,
        }
    }

    /// Why `new` is not admitted, and how long a silent member of its name is waited for.
    async fn admission(
        &self,
        configuration: &Configuration,
        new: &NewMember,
        origin: &JoinOrigin,
    ) -> (Option<AdminError>, Duration) {
        let Rules { election_timeout, replace_after, admitted, stateful_set } = &self.rules;
        let admission = admitted.as_ref().map_or(Admission::Anyone, Admission::Names);
        match stateful_set {
            None => (admission.refuses(configuration, new), *replace_after),
            Some(stateful_set) => match stateful_set.admits(new, origin).await {
                Ok(IsLivePod) => (None, silent_before_replaced(*election_timeout)),
                Err(error) => (admitted.is_some().then_some(error), *replace_after),
            },
        }
    }

    async fn join(&self, new: &NewMember, origin: &JoinOrigin, timeout: Duration) -> AdminOutcome {
        let deadline = Instant::now() + timeout;
        for _ in 0..JOIN_STEPS_MAX {
            let status = self.handle.status();
            if status.leader != Some(status.node_id) {
                return Err(AdminError::new(AdminReason::NoLeader, "this node does not lead any more"));
            }
            let silent: BTreeMap<NodeId, Duration> =
                status.peers.iter().map(|peer| (peer.id, peer.silent_for)).collect();
            let (not_admitted, replace_after) = self.admission(&status.configuration, new, origin).await;
            let view = ClusterView {
                own: status.node_id,
                configuration: &status.configuration,
                silent: &silent,
                election_timeout: self.rules.election_timeout,
                replace_after,
                not_admitted,
            };
            let change = match on_join(&view, new) {
                JoinStep::Done => return Ok(status.configuration_index),
                JoinStep::Refuse(error) => return Err(error),
                JoinStep::Change(change) => change,
            };
            tracing::info!(
                name = new.name,
                node_id = %new.id,
                replaces = change.remove.first().map(ToString::to_string),
                "a node joins"
            );
            let left = deadline.saturating_duration_since(Instant::now());
            match self.handle.change_members(change, Some(status.configuration_index), left).await {
                Ok(_) => {}
                Err(refusal) => {
                    let error = AdminError::from(refusal);
                    // The members changed meanwhile: read them again.
                    if error.reason != AdminReason::Unexpected {
                        return Err(error);
                    }
                }
            }
        }
        Err(AdminError::new(AdminReason::InProgress, "the members change too fast; ask again"))
    }
}
