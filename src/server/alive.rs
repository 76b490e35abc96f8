//! Which members of a cluster live, asked by a command that runs while this node does not. Who cannot be asked is told
//! apart from who does not answer: a cluster must not get a twin because nobody could look.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::RefoundError;
use crate::k8s::{self, Kube};
use crate::membership::{HelloAnswer, InitialCluster, InitialMember, Local};
use crate::metrics::Metrics;
use crate::raft::{Configuration, Member};
use crate::storage::Identity;
use crate::tls::{PeerSource, PeerTls, Port};
use crate::transport::{self, Silence, who_answers};
use crate::types::{ClusterId, NodeId};

/// What every DNS server of a Kubernetes cluster knows: if it is found, a pod's name that is not is that of no pod.
const KNOWN_TO_DNS: &str = "kubernetes.default.svc:443";

/// Where the other members are asked, besides the addresses that their configuration has.
#[derive(Default)]
pub struct Peers {
    /// By name.
    pub listed: Vec<InitialMember>,
    /// The pods of a StatefulSet.
    pub pods: Option<PeerPods>,
    /// What they are asked under.
    pub tls: Option<PeerSource>,
}

/// How pods reach each other.
#[derive(Clone, Debug)]
pub struct PeerPods {
    /// The headless Service that names them.
    pub service: String,
    /// Their port.
    pub port: u16,
}

/// What was found out about another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherMember {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub presence: Presence,
}

/// Whether a member runs, as far as can be told from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It runs, and is of this cluster.
    Running,
    /// Under its name answers a node of another id, or of another cluster, or of none.
    AnotherNode,
    /// It does not run.
    NotRunning,
    /// It may run.
    Unknown,
}

/// Asks the other members of the cluster; what came of it by id. `pod` is this node as a pod, if it is one and knows the
/// others' Service.
pub(super) fn ask(
    identity: &Identity,
    cluster_id: ClusterId,
    configuration: &Configuration,
    peers: Peers,
    pod: Option<k8s::Settings>,
) -> Result<BTreeMap<NodeId, OtherMember>, RefoundError> {
    let mut members = configuration.members();
    members.remove(&identity.node_id);
    if members.is_empty() {
        return Ok(BTreeMap::new());
    }
    let local = Local {
        node_id: identity.node_id,
        name: identity.name.clone(),
        client_addr: String::new(),
        peer_addr: None,
    };
    let metrics = Metrics::new();
    let port = peers.tls.map(|tls| Port::peer(tls, &identity.name, &metrics)).transpose()?;
    let tls = port.map(|port| PeerTls::new(Arc::new(port), None, &metrics));
    let settings = transport::Settings { tls, ..transport::Settings::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let is_pod = identity.place.is_some() || pod.is_some();
    let (pods, answers) = runtime.block_on(async {
        let pods = match pod {
            Some(pod) => Some(Pods::find(pod).await),
            None => None,
        };
        let addresses = addresses(&members, peers.listed, pods.as_ref());
        let answers = answers(&local, addresses, &settings).await;
        Ok::<_, RefoundError>((pods, answers?))
    })?;
    let presence = |id: NodeId, name: &str| match answers.get(name) {
        Some(Ok(answer)) if answer.node_id == id && answer.cluster_id == Some(cluster_id) => {
            Presence::Running
        }
        Some(Ok(_)) => Presence::AnotherNode,
        // A machine that is away, or a pod that is there behind a policy.
        Some(Err(Silence::Lost)) if !is_pod => Presence::NotRunning,
        Some(Err(Silence::Nobody)) if pods.as_ref().is_none_or(|pods| pods.tells) => Presence::NotRunning,
        Some(Err(_)) | None => Presence::Unknown,
    };
    let other = |(id, member): (NodeId, &Member)| {
        (id, OtherMember { name: member.name.clone(), presence: presence(id, &member.name) })
    };
    Ok(members.into_iter().map(other).collect())
}

/// Where each member may be, by name.
fn addresses(
    members: &BTreeMap<NodeId, &Member>,
    listed: Vec<InitialMember>,
    pods: Option<&Pods>,
) -> BTreeMap<String, Vec<String>> {
    let mut addresses: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let listed = listed.into_iter().map(|member| (member.name, member.address));
    let configured =
        members.values().filter_map(|member| Some((member.name.clone(), member.peer_addr.clone()?)));
    for (name, address) in configured.chain(listed) {
        addresses.entry(name).or_default().push(address);
    }
    for member in members.values() {
        let of_pod = pods.map(|pods| pods.addresses.peer(&member.name));
        for address in of_pod.into_iter().flatten() {
            addresses.entry(member.name.clone()).or_default().push(address);
        }
    }
    addresses
}

async fn answers(
    local: &Local,
    addresses: BTreeMap<String, Vec<String>>,
    settings: &transport::Settings,
) -> Result<BTreeMap<String, Result<HelloAnswer, Silence>>, RefoundError> {
    if addresses.is_empty() {
        return Ok(BTreeMap::new());
    }
    // Only the names count; where they are, the resolver says.
    let member = |name: &String| InitialMember { name: name.clone(), address: name.clone() };
    let cluster = InitialCluster::new(addresses.keys().map(member).collect())?;
    let resolver: transport::Resolver =
        Arc::new(move |name| addresses.get(name).cloned().unwrap_or_default());
    Ok(who_answers(local, &cluster, &resolver, settings).await)
}

/// Where pods are.
struct Pods {
    addresses: k8s::Addresses,
    /// A member that is found nowhere does not run: the API server answers, or DNS does.
    tells: bool,
}

impl Pods {
    async fn find(pod: k8s::Settings) -> Self {
        let addresses = k8s::Addresses::new(pod.clone());
        let looked = match Kube::connect(pod).await {
            Ok(kube) => addresses.look(&kube).await,
            Err(error) => Err(error),
        };
        let tells = match looked {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "where the pods are is asked of DNS alone");
                tokio::net::lookup_host(KNOWN_TO_DNS).await.is_ok()
            }
        };
        Self { addresses, tells }
    }
}
