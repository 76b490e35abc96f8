//! The leader's work in Kubernetes: members follow the StatefulSet, pods follow their template, the label follows the
//! leader. Runs on every member and acts only where this node leads; the StatefulSet is read again before each step.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::events::{Announcement, Announcer};
use super::role_label::FOLLOWER;
use super::{Kube, KubeError, WATCH_SECONDS};
use crate::driver::{Change, Configuration};
use crate::membership::latch::{self, Latch};
use crate::membership::rollout::{self, Rollout};
use crate::membership::{Health, Pod, Reconciliation, Workload, is_majority_on_one_node, reconcile};
use crate::metrics::IntGauge;
use crate::types::{ClusterId, LogIndex, NodeId};

/// Time between looks while nothing happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Time between looks while something is under way.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);
/// Reason of the Event that says what a rollout waits for.
const ROLLOUT_WAITS: &str = "RolloutWaits";
/// The label is asserted again this often.
const LABEL_INTERVAL: Duration = Duration::from_secs(30);

/// The cluster as this node sees it, and what may be asked of it.
pub trait Cluster: Send + Sync + 'static {
    /// Its id.
    fn cluster_id(&self) -> ClusterId;
    /// This node.
    fn node_id(&self) -> NodeId;
    /// The members and their health, where this node leads.
    fn led(&self) -> Option<Led>;
    /// Changes the members, unless they are others than those of this entry.
    fn change(&self, change: Change, expected: LogIndex) -> impl Future<Output = Result<(), String>> + Send;
    /// Hands leadership to this member.
    fn hand_over(&self, to: NodeId) -> impl Future<Output = Result<(), String>> + Send;
    /// Tells those who ask this node for its status what scaling or a rollout waits for; `None` takes it back.
    fn waits(&self, why: Option<&str>);
}

/// A cluster's members, as its leader sees them.
#[derive(Clone, Debug)]
pub struct Led {
    /// Who they are.
    pub configuration: Arc<Configuration>,
    /// The entry that says so.
    pub index: LogIndex,
    /// How they are, the leader included.
    pub health: Vec<Health>,
}

/// Runs the leader's work.
pub struct Controller<C> {
    kube: Kube,
    cluster: C,
    announcer: Announcer,
    /// What was last said to be waited for.
    waiting: String,
    /// Whether a majority of the voters was on one Kubernetes node at the latest look.
    majority_on_one_node: IntGauge,
    /// The API server did not answer at the latest look.
    is_api_away: bool,
    /// When the labels are asserted again, as of which configuration they were.
    labelled: Option<(Instant, LogIndex)>,
}

impl<C: Cluster> Controller<C> {
    /// Nothing happens before [`Controller::run`]. The gauge is 1 while this node leads and a majority of the voters
    /// runs on one Kubernetes node.
    #[must_use]
    pub fn new(kube: Kube, cluster: C, announcer: Announcer, majority_on_one_node: IntGauge) -> Self {
        let (waiting, labelled) = (String::new(), None);
        Self { kube, cluster, announcer, waiting, majority_on_one_node, is_api_away: false, labelled }
    }

    /// Runs until dropped. `wake` is notified when leadership changed; the StatefulSet's changes have the same effect.
    pub async fn run(mut self, wake: Arc<Notify>) {
        if let Err(error) = self.kube.label_own_pod(FOLLOWER).await {
            tracing::debug!(%error, "the pod's role label cannot be set");
        }
        let selector = format!("metadata.name={}", self.kube.settings().stateful_set);
        let config = watcher::Config::default().fields(&selector).timeout(WATCH_SECONDS);
        let mut changes = pin!(watcher(self.kube.stateful_sets(), config).default_backoff());
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                () = wake.notified() => {}
                Some(_) = changes.next() => {}
            }
            let busy = if let Some(led) = self.cluster.led() {
                self.try_to_look(&led).await
            } else {
                self.labelled = None;
                self.majority_on_one_node.set(0);
                self.go_on();
                false
            };
            next = Instant::now() + if busy { BUSY_INTERVAL } else { LOOK_INTERVAL };
        }
    }

    /// Looks, and says once when the API server lets no look end, and once when it does again.
    async fn try_to_look(&mut self, led: &Led) -> bool {
        let looked = self.look(led).await;
        let was_away = std::mem::replace(&mut self.is_api_away, looked.is_err());
        match &looked {
            Err(error) if !was_away => {
                tracing::warn!(%error, "scaling, rollouts and labels wait for the Kubernetes API");
            }
            Ok(_) if was_away => tracing::info!("the Kubernetes API answers again"),
            Ok(_) | Err(_) => {}
        }
        looked.unwrap_or(true)
    }

    /// One look, and at most one step. Returns whether the next look is due soon.
    async fn look(&mut self, led: &Led) -> Result<bool, KubeError> {
        let Some(workload) = self.kube.workload().await? else { return Ok(false) };
        let is_labelled = self.label(led, &workload).await;
        self.keep_latch().await;
        let members_max = self.kube.settings().members_max;
        if workload.replicas > members_max {
            let note = format!(
                "{} replicas are wanted, but only {members_max} members may join (maxMembers)",
                workload.replicas
            );
            self.announce("TooManyReplicas", note, true);
        }
        if let Some(busy) = self.scale(led, &workload).await {
            return Ok(busy);
        }
        // Pods beyond that never get ready, and the role does not cover them.
        let workload = workload.at_most(members_max);
        let pods = self.kube.pods_named(&workload.pods()).await?;
        self.look_at_nodes(&led.configuration, &pods);
        Ok(self.roll_out(led, &workload, &pods).await? || !is_labelled)
    }

    /// Asserts the labels when they are due, or members have changed. They are hints: nothing else waits for them.
    async fn label(&mut self, led: &Led, workload: &Workload) -> bool {
        let now = Instant::now();
        if self.labelled.is_some_and(|(due, index)| now < due && index == led.index) {
            return true;
        }
        let learners: Vec<&str> =
            led.configuration.learners.values().map(|member| member.name.as_str()).collect();
        let members = led.configuration.members();
        let is_learner =
            |pod: &str| members.values().any(|member| member.name == pod).then(|| learners.contains(&pod));
        match self.kube.take_leader_label(workload, is_learner).await {
            Ok(()) => {
                self.labelled = Some((now + LABEL_INTERVAL, led.index));
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the role labels cannot be set; trying again");
                false
            }
        }
    }

    /// A leader writes its cluster's id into an empty latch, and says so where it finds another one's, or none that it can
    /// use.
    async fn keep_latch(&self) {
        let own = self.cluster.cluster_id();
        let latch = self.kube.fill_latch(own).await;
        let name = &self.kube.settings().latch;
        if let Latch::Filled(other) = latch
            && other != own
        {
            let note = format!(
                "this is cluster {own}, but ConfigMap {name} says {other}: no pod of it will start again"
            );
            self.announce("OtherCluster", note, true);
        } else if let Some(note) = latch::unusable(latch, name) {
            self.announce("LatchUnusable", format!("this is cluster {own}, but {note}"), true);
        }
    }

    async fn scale(&mut self, led: &Led, workload: &Workload) -> Option<bool> {
        let Led { configuration, index, health } = led;
        match reconcile(self.cluster.node_id(), configuration, health, workload) {
            Reconciliation::Settled => None,
            Reconciliation::Wait { why } => {
                self.wait("ScaleDownWaits", why);
                Some(true)
            }
            Reconciliation::HandOver(to) => {
                Self::report("hand over before leaving", self.cluster.hand_over(to).await);
                Some(true)
            }
            Reconciliation::Remove(change) => {
                let members = configuration.members();
                let names: Vec<_> = change.remove.iter().map(|id| members[id].name.clone()).collect();
                match self.cluster.change(change, *index).await {
                    Ok(()) => {
                        let note = format!(
                            "removed {}: {} replicas are wanted",
                            names.join(", "),
                            workload.replicas
                        );
                        self.announce("MembersRemoved", note, false);
                    }
                    Err(error) => Self::report("remove members", Err(error)),
                }
                Some(true)
            }
        }
    }

    async fn roll_out(&mut self, led: &Led, workload: &Workload, pods: &[Pod]) -> Result<bool, KubeError> {
        match rollout::next(self.cluster.node_id(), &led.configuration, &led.health, workload, pods) {
            Rollout::Done => {
                self.go_on();
                Ok(false)
            }
            Rollout::Wait { why } => {
                self.wait(ROLLOUT_WAITS, why);
                Ok(true)
            }
            Rollout::Evict { pod, uid } => {
                match self.kube.evict(&pod, &uid).await {
                    Ok(()) => {
                        self.announce("PodEvicted", format!("{pod} gets the newest template"), false);
                    }
                    // The budget says no, the pod is another one now, or two budgets cover it.
                    Err(error) if error.code().is_some() => {
                        self.wait(ROLLOUT_WAITS, format!("{pod} cannot be evicted yet: {error}"));
                    }
                    Err(error) => return Err(error),
                }
                Ok(true)
            }
            Rollout::HandOver(to) => {
                Self::report("hand over for the rollout", self.cluster.hand_over(to).await);
                Ok(true)
            }
        }
    }

    /// A majority on one Kubernetes node is lost with it: a metric as long as it is so, an Event when it begins.
    fn look_at_nodes(&self, configuration: &Configuration, pods: &[Pod]) {
        let is_so = is_majority_on_one_node(configuration, pods);
        let was_so = self.majority_on_one_node.get() == 1;
        self.majority_on_one_node.set(i64::from(is_so));
        if is_so && !was_so {
            let note = "a majority of the voters runs on one node: losing it stops the cluster".into();
            self.announce("MajorityOnOneNode", note, true);
        }
    }

    fn report(what: &'static str, result: Result<(), String>) {
        if let Err(error) = result {
            tracing::info!(what, error, "not done; trying again");
        }
    }

    /// Nothing is waited for any more.
    fn go_on(&mut self) {
        self.waiting.clear();
        self.cluster.waits(None);
    }

    /// Says what is waited for, once.
    fn wait(&mut self, reason: &'static str, why: String) {
        if self.waiting != why {
            self.cluster.waits(Some(&why));
            tracing::info!(reason, "{why}");
            // A rollout waits at each of its steps.
            self.announce(reason, why.clone(), reason != ROLLOUT_WAITS);
            self.waiting = why;
        }
    }

    fn announce(&self, reason: &'static str, note: String, is_warning: bool) {
        self.announcer.announce(Announcement { reason, note, is_warning });
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
