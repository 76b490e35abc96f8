//! A node as a pod: whom it expects, what the latch says, and the leader's work next to its replica.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::ServerError;
use super::announcements::{self, follow, waits};
use super::stranded::advise;
use crate::api::Api;
use crate::driver::{Change, Handle, NewMember, RoleName};
use crate::k8s::{Addresses, Announcer, Cluster, Controller, Kube, Led, Publisher, Settings};
use crate::membership::latch::{self, Latch, Wake};
use crate::membership::{
    AdminError, AdminReason, Health, InitialCluster, InitialMember, JoinOrigin, Workload,
};
use crate::metrics::Metrics;
use crate::storage::Place;
use crate::supervision::Tasks;
use crate::transport::{Answer, Surroundings};
use crate::types::{ClusterId, LogIndex, NodeId};

/// How long a change of members or leaders is waited for.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The Kubernetes that this node runs in.
pub(super) struct Kubernetes {
    kube: Kube,
    addresses: Addresses,
    announcer: Announcer,
    tasks: Vec<JoinHandle<()>>,
    watched: Tasks,
}

impl Kubernetes {
    /// Begins to follow the peers' addresses. Whether the API server answers is not waited for.
    pub(super) async fn connect(settings: &Settings, watched: &Tasks) -> Result<Self, ServerError> {
        let kube = Kube::connect(settings.clone()).await?;
        let addresses = Addresses::new(settings.clone());
        let (announcer, publishing) = Announcer::new(&kube);
        let tasks = vec![
            watched.spawn("pods' addresses", addresses.clone().follow(kube.clone())),
            watched.spawn("events", publishing),
        ];
        Ok(Self { kube, addresses, announcer, tasks, watched: watched.clone() })
    }

    /// As [`Kube::peer_secret`].
    pub(super) async fn peer_secret(&self, name: &str) -> Result<Vec<u8>, String> {
        self.kube.peer_secret(name).await
    }

    pub(super) fn clone_kube(&self) -> Kube {
        self.kube.clone()
    }

    pub(super) fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// Says as Events what the way into a cluster waits for, once it has waited for long.
    pub(super) fn announce_waiting(
        &self,
        reasons: watch::Receiver<String>,
    ) -> impl Future<Output = Infallible> + use<> {
        waits(self.announcer.clone(), reasons)
    }

    pub(super) fn stateful_set(&self) -> StatefulSet {
        StatefulSet { kube: self.kube.clone(), addresses: self.addresses.clone() }
    }

    /// Begins the leader's work, which continues until this is dropped.
    pub(super) fn control(&mut self, handle: &Handle, metrics: &Metrics, api: &Arc<Api<Handle>>) {
        let wake = Arc::new(Notify::new());
        let announcer = self.announcer.clone();
        let majority_on_one_node = metrics.kube_majority_on_one_node.clone();
        let replica = Replica { handle: handle.clone(), api: Arc::clone(api) };
        let controller = Controller::new(self.kube.clone(), replica, announcer.clone(), majority_on_one_node);
        let following = follow(handle.clone(), Arc::clone(&wake), announcer.clone());
        let advising = advise(self.kube.clone(), handle.clone(), Arc::clone(api), announcer);
        self.tasks.push(self.watched.spawn("controller", controller.run(wake)));
        self.tasks.push(self.watched.spawn("announcements", following));
        self.tasks.push(self.watched.spawn("advice", advising));
    }

    /// Whether the pod stops since its StatefulSet was scaled down, by a fresh look.
    pub(super) async fn is_scaled_below(&self) -> bool {
        self.kube.is_scaled_below().await
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Where a pod is, as its data directory remembers it.
pub(super) fn place(settings: &Settings) -> Place {
    Place { namespace: settings.namespace.clone(), stateful_set: settings.stateful_set.clone() }
}

/// Says as an Event why a pod's node ends, where someone should have a look. Waits for the API server, but not for long.
pub(super) async fn announce_end(settings: &Settings, error: &ServerError) {
    let Some(announcement) = announcements::end(error) else { return };
    if let Ok(kube) = Kube::connect(settings.clone()).await {
        Publisher::new(&kube).publish(&announcement).await;
    }
}

/// The node that asks is the live pod of its name.
pub(super) struct IsLivePod;

/// The pods of a StatefulSet are the expected members, and its latch says which cluster was formed.
#[derive(Clone)]
pub(super) struct StatefulSet {
    kube: Kube,
    addresses: Addresses,
}

/// The wanted pods, as far as they may become members. This pod is among them, or else says why not.
fn members(
    settings: &Settings,
    addresses: &Addresses,
    workload: &Workload,
) -> Result<InitialCluster, String> {
    let Settings { pod, members_max, stateful_set, .. } = settings;
    if workload.is_deleted {
        return Err(format!("StatefulSet {stateful_set} is being deleted"));
    }
    if !workload.wants(pod) {
        return Err(format!(
            "StatefulSet {stateful_set} wants {} replicas, so pod {pod} does not ask to join",
            workload.replicas
        ));
    }
    let names = member_pods(settings, workload);
    if !names.contains(pod) {
        return Err(format!(
            "a cluster has at most {members_max} members (maxMembers), so pod {pod} does not ask to join"
        ));
    }
    listed(names, addresses)
}

/// The wanted pods that may become members.
fn member_pods(settings: &Settings, workload: &Workload) -> Vec<String> {
    let mut names = workload.pods();
    names.truncate(settings.members_max as usize);
    names
}

fn listed(names: Vec<String>, addresses: &Addresses) -> Result<InitialCluster, String> {
    let member = |name: String| InitialMember { address: addresses.by_name(&name), name };
    let listed = InitialCluster::new(names.into_iter().map(member).collect());
    listed.map(InitialCluster::founded_by_first).map_err(|error| error.to_string())
}

impl StatefulSet {
    /// A cluster starts again only where the latch is its own, empty, or out of reach.
    pub(super) async fn may_wake(&self, own: ClusterId) -> Result<(), ServerError> {
        match latch::wake(self.kube.latch().await, own) {
            Wake::Start | Wake::StartAndFill => Ok(()),
            Wake::Refuse(other) => {
                Err(ServerError::Latch { own, other, config_map: self.kube.settings().latch.clone() })
            }
        }
    }

    /// The wanted pods that may become members, whether this one is among them or not; `None` if that is not known, or there
    /// are none.
    pub(super) async fn pods(&self) -> Option<InitialCluster> {
        let workload = self.kube.workload().await.ok()??;
        listed(member_pods(self.kube.settings(), &workload), &self.addresses).ok()
    }

    /// Why `new`, which asks to join from `origin`, is not admitted, and whether it is for sure the pod of its name.
    pub(super) async fn admits(&self, new: &NewMember, origin: &JoinOrigin) -> Result<IsLivePod, AdminError> {
        let unknown = |error: String| {
            let why = format!("whether the StatefulSet wants {} cannot be read: {error}", new.name);
            AdminError::new(AdminReason::NotReady, why)
        };
        let workload = self.kube.workload().await.map_err(|error| unknown(error.to_string()))?;
        if !workload.is_some_and(|workload| workload.wants(&new.name)) {
            let why =
                format!("the StatefulSet {} wants no pod {}", self.kube.settings().stateful_set, new.name);
            return Err(AdminError::new(AdminReason::NotAdmitted, why));
        }
        let pods = self.kube.pods_named(std::slice::from_ref(&new.name)).await;
        let pods = pods.map_err(|error| unknown(error.to_string()))?;
        let is_live = pods.iter().any(|pod| !pod.is_terminating && Some(&pod.uid) == origin.pod_uid.as_ref());
        if !is_live {
            let why = format!("the node that asks to join as {} is not the pod of that name", new.name);
            return Err(AdminError::new(AdminReason::NotReady, why));
        }
        // A mesh's proxy connects from loopback.
        let from = origin.asked_from.map(|ip| ip.to_canonical()).filter(|ip| !ip.is_loopback());
        if let Some(from) = from.filter(|from| !self.addresses.has(&new.name, *from)) {
            let why =
                format!("{} asks to join from {from}, where no EndpointSlice says that it is", new.name);
            return Err(AdminError::new(AdminReason::NotReady, why));
        }
        Ok(IsLivePod)
    }

    async fn latch_allows(&self, latch: Latch, intended: Option<ClusterId>) -> Result<(), String> {
        let settings = self.kube.settings();
        let workload = match latch {
            Latch::Filled(id) if Some(id) != intended => self.kube.workload().await.ok().flatten(),
            _ => None,
        };
        let claims = workload.map(|workload| workload.claims(&member_pods(settings, &workload)));
        latch::may_form(latch, intended, &settings.latch, &claims.unwrap_or_default())
    }
}

impl Surroundings for StatefulSet {
    fn expected(&self) -> Answer<'_, InitialCluster> {
        Box::pin(async {
            let name = &self.kube.settings().stateful_set;
            match self.kube.workload().await {
                Ok(Some(workload)) => members(self.kube.settings(), &self.addresses, &workload),
                Ok(None) => Err(format!("there is no StatefulSet {name}")),
                Err(error) => Err(format!("StatefulSet {name} must be read first: {error}")),
            }
        })
    }

    fn may_intend(&self) -> Answer<'_, ()> {
        Box::pin(async { self.latch_allows(self.kube.latch().await, None).await })
    }

    fn may_form(&self, cluster_id: ClusterId) -> Answer<'_, ()> {
        Box::pin(async move {
            match self.kube.fill_latch(cluster_id).await {
                Latch::Empty => Err("the latch could not be filled; trying again".into()),
                latch => self.latch_allows(latch, Some(cluster_id)).await,
            }
        })
    }

    /// Only the cluster that the latch names may have this pod.
    fn may_be_bound(&self, cluster_id: ClusterId) -> Answer<'_, ()> {
        Box::pin(async move {
            match self.kube.latch().await {
                Latch::Filled(id) if id == cluster_id => Ok(()),
                Latch::Filled(id) => Err(format!(
                    "ConfigMap {} names cluster {id}, so this pod does not become a member of {cluster_id}",
                    self.kube.settings().latch
                )),
                _ => Err(format!(
                    "ConfigMap {} must name the cluster before this pod becomes a member of one",
                    self.kube.settings().latch
                )),
            }
        })
    }

    fn pod_uid(&self) -> Pin<Box<dyn Future<Output = Option<String>> + Send + '_>> {
        Box::pin(async { self.kube.own_pod_uid().await })
    }

    /// The latch is filled before anyone is told.
    fn is_untold(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async { self.kube.latch().await == Latch::Empty })
    }
}

/// A replica, to the controller.
struct Replica {
    handle: Handle,
    api: Arc<Api<Handle>>,
}

impl Cluster for Replica {
    fn cluster_id(&self) -> ClusterId {
        self.handle.status().cluster_id
    }

    fn node_id(&self) -> NodeId {
        self.handle.status().node_id
    }

    fn led(&self) -> Option<Led> {
        let status = self.handle.status();
        if status.role != RoleName::Leader {
            return None;
        }
        let health = |id: NodeId| match status.peers.iter().find(|peer| peer.id == id) {
            Some(peer) => Health { id, in_touch: peer.active, caught_up: peer.caught_up },
            // A new leader has not heard of the others yet.
            None => Health { id, in_touch: id == status.node_id, caught_up: true },
        };
        let health = status.configuration.members().into_keys().map(health).collect();
        Some(Led { health, configuration: status.configuration, index: status.configuration_index })
    }

    async fn change(&self, change: Change, expected: LogIndex) -> Result<(), String> {
        let done = self.handle.change_members(change, Some(expected), CHANGE_TIMEOUT).await;
        done.map(drop).map_err(|refusal| refusal.to_string())
    }

    async fn hand_over(&self, to: NodeId) -> Result<(), String> {
        let done = self.handle.transfer_leadership(Some(to), CHANGE_TIMEOUT).await;
        done.map(drop).map_err(|refusal| refusal.to_string())
    }

    fn waits(&self, why: Option<&str>) {
        self.api.mention(why.map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(pod: &str, replicas: u32, members_max: u32) -> Result<Vec<String>, String> {
        let settings = Settings {
            namespace: "ns".into(),
            pod: pod.into(),
            stateful_set: "kv".into(),
            service: "kv-peers".into(),
            latch: "kv-cluster".into(),
            members_max,
            peer_port: 7000,
        };
        let workload = Workload { name: "kv".into(), replicas, ..Workload::default() };
        let cluster = members(&settings, &Addresses::new(settings.clone()), &workload)?;
        Ok(cluster.members().iter().map(|member| format!("{}/{}", member.name, member.address)).collect())
    }

    #[test]
    fn the_wanted_pods_are_expected_and_the_first_one_forms() {
        assert_eq!(
            expected("kv-1", 2, 9).unwrap(),
            ["kv-0/kv-0.kv-peers.ns.svc:7000", "kv-1/kv-1.kv-peers.ns.svc:7000"]
        );
        assert_eq!(expected("kv-0", 12, 9).unwrap().len(), 9);
    }

    #[test]
    fn a_pod_too_many_expects_nobody() {
        assert!(expected("kv-3", 3, 9).unwrap_err().contains("wants 3 replicas"));
        assert!(expected("kv-0", 0, 9).unwrap_err().contains("wants 0 replicas"));
        assert!(expected("kv-9", 12, 9).unwrap_err().contains("at most 9 members"));
    }
}
