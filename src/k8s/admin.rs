//! A StatefulSet as an administrator sees and treats it, from inside or outside of Kubernetes: its pods and volumes,
//! and a way to a pod's port.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod as KubePod};
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::io::{AsyncRead, AsyncWrite};

use super::KubeError;
use super::workload::{view, wishes};
use crate::membership::{Pod, Workload};

/// Which `StatefulSet`s the chart makes.
const SELECTOR: &str = "app.kubernetes.io/name=kuberaft";
/// What the chart calls the port for clients, and its number if the pods do not say.
const CLIENT_PORT: &str = "client";
const CLIENT_PORT_DEFAULT: u16 = 7001;
/// The variable by which a pod of the chart has TLS at that port.
const CLIENT_TLS_CERT: &str = "KUBERAFT_CLIENT_TLS_CERT";
/// Longest wait for one answer: an administrator is more patient than a member.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A request that got no answer, or one that says "later", is sent so often, after a pause each time.
const TRIES: u32 = 6;
const TRY_PAUSE: Duration = Duration::from_millis(500);

/// The API server with the rights of its user, and a namespace.
#[derive(Clone)]
pub struct Admin {
    client: Client,
    namespace: String,
}

/// A StatefulSet and its pods at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What the StatefulSet wants.
    pub workload: Workload,
    /// Its pods, also those that it does not want any more, by name.
    pub pods: BTreeMap<String, SeenPod>,
    /// The port for clients.
    pub client_port: u16,
    /// Whether that port speaks TLS only.
    pub is_client_tls: bool,
    /// Names of its volume claim templates.
    pub volumes: Vec<String>,
}

/// A pod at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPod {
    /// Name, uid, state.
    pub pod: Pod,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
}

/// How a pod is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It has as much time to stop as it wants.
    Graceful,
    /// With a grace period of zero: the pod's object is gone at once, and its containers are killed.
    Forced,
}

impl Admin {
    /// Uses the user's kubeconfig, or this pod's service account; without `namespace` the one that this says.
    ///
    /// # Errors
    /// There is neither, or it cannot be used. Whether the server answers is not looked at.
    pub async fn connect(namespace: Option<&str>) -> Result<Self, KubeError> {
        let mut config = kube::Config::infer().await.map_err(|error| KubeError::Config(error.to_string()))?;
        // What is to be sent again is decided here.
        config.default_retry = false;
        let namespace = namespace.unwrap_or(&config.default_namespace).to_owned();
        Ok(Self::new(Client::try_from(config)?, namespace))
    }

    fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    /// The namespace that it looks at.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Names of the `StatefulSet`s that have the label of kuberaft's chart.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn stateful_sets(&self) -> Result<Vec<String>, KubeError> {
        let parameters = ListParams::default().labels(SELECTOR);
        let sets: Api<StatefulSet> = self.api();
        let found = insist(|| sets.list(&parameters)).await?;
        Ok(found.iter().map(ResourceExt::name_any).collect())
    }

    /// The StatefulSet of this name with its pods; `None` if there is none.
    ///
    /// # Errors
    /// As [`Admin::stateful_sets`].
    pub async fn look(&self, name: &str) -> Result<Option<Seen>, KubeError> {
        let (sets, pods): (Api<StatefulSet>, Api<KubePod>) = (self.api(), self.api());
        let Some(set) = insist(|| sets.get_opt(name)).await? else { return Ok(None) };
        let spec = set.spec.as_ref();
        let labels = spec.and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let parameters = ListParams::default().labels(&labels.join(","));
        let pods = insist(|| pods.list(&parameters)).await?;
        let uid = set.uid().unwrap_or_default();
        let is_own = |pod: &&KubePod| pod.owner_references().iter().any(|owner| owner.uid == uid);
        let pods = pods.iter().filter(is_own).map(|pod| (pod.name_any(), seen(pod))).collect();
        let templates = spec.and_then(|spec| spec.volume_claim_templates.as_ref());
        Ok(Some(Seen {
            workload: wishes(&set),
            pods,
            client_port: client_port(&set).unwrap_or(CLIENT_PORT_DEFAULT),
            is_client_tls: is_client_tls(&set),
            volumes: templates.into_iter().flatten().map(ResourceExt::name_any).collect(),
        }))
    }

    /// Deletes the pod of this name if it is still the one of this uid. One that is gone is no failure.
    ///
    /// # Errors
    /// As [`Admin::stateful_sets`].
    pub async fn delete_pod(&self, name: &str, uid: &str, deletion: Deletion) -> Result<(), KubeError> {
        let parameters = DeleteParams {
            grace_period_seconds: (deletion == Deletion::Forced).then_some(0),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        let pods: Api<KubePod> = self.api();
        gone(insist(|| pods.delete(name, &parameters)).await)
    }

    /// Deletes the claim that a pod has by this template, and with it its volume, as soon as no pod uses it.
    ///
    /// # Errors
    /// As [`Admin::stateful_sets`].
    pub async fn delete_volume(&self, template: &str, pod: &str) -> Result<(), KubeError> {
        let name = format!("{template}-{pod}");
        let (claims, parameters): (Api<PersistentVolumeClaim>, _) = (self.api(), DeleteParams::default());
        gone(insist(|| claims.delete(&name, &parameters)).await)
    }

    /// Opens a connection to a pod's port through the API server. It breaks when the pod ends.
    ///
    /// # Errors
    /// As [`Admin::stateful_sets`]; the pod is not there or has no container that runs.
    pub async fn forward(
        &self,
        pod: &str,
        port: u16,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, KubeError> {
        let pods: Api<KubePod> = self.api();
        let opened = tokio::time::timeout(ANSWER_TIMEOUT, pods.portforward(pod, &[port])).await;
        let mut forwarder = opened.map_err(|_elapsed| KubeError::Timeout)??;
        let streams = forwarder.take_stream(port).zip(forwarder.take_error(port));
        let (stream, error) = streams.ok_or(KubeError::Timeout)?;
        tokio::spawn(async move {
            // Nobody listens there, or the like. The stream does not end by itself then.
            if let Some(error) = error.await {
                tracing::debug!(error, "a forwarded connection failed");
                forwarder.abort();
            }
        });
        Ok(stream)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

impl Seen {
    /// Whether there are all pods that the StatefulSet wants and no others, each ready; if not, what is lacking.
    #[must_use]
    pub fn lacks(&self) -> Option<String> {
        let wanted = self.workload.pods();
        let lack = |name: &String| match self.pods.get(name) {
            None => Some(format!("pod {name} is not there")),
            Some(seen) if seen.pod.is_terminating => Some(format!("pod {name} is being deleted")),
            Some(seen) if !seen.pod.is_ready => Some(format!("pod {name} is not ready")),
            Some(_) => None,
        };
        let surplus = || self.pods.keys().find(|name| !wanted.contains(name));
        wanted.iter().find_map(lack).or_else(|| surplus().map(|name| format!("pod {name} is one too many")))
    }
}

fn seen(pod: &KubePod) -> SeenPod {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
    SeenPod { pod: view(pod), ip }
}

fn client_port(set: &StatefulSet) -> Option<u16> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    let mut ports = pod.containers.iter().filter_map(|container| container.ports.as_ref()).flatten();
    let port = ports.find(|port| port.name.as_deref() == Some(CLIENT_PORT))?;
    u16::try_from(port.container_port).ok()
}

fn is_client_tls(set: &StatefulSet) -> bool {
    let pod = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let containers = pod.into_iter().flat_map(|pod| &pod.containers);
    containers.flat_map(|container| container.env.iter().flatten()).any(|env| env.name == CLIENT_TLS_CERT)
}

/// What was to be deleted is not there, or is another one of the name: that is as good.
fn gone<T>(deleted: Result<T, KubeError>) -> Result<(), KubeError> {
    match deleted {
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
        deleted => deleted.map(drop),
    }
}

/// Sends a request until it is answered; stops after some tries, and at once where trying again does not help.
async fn insist<T, F>(request: impl Fn() -> F) -> Result<T, KubeError>
where
    F: Future<Output = kube::Result<T>>,
{
    let mut tries = 0;
    loop {
        let error = match tokio::time::timeout(ANSWER_TIMEOUT, request()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => KubeError::from(error),
            Err(_elapsed) => KubeError::Timeout,
        };
        tries += 1;
        if tries == TRIES || error.code().is_some_and(|code| code < 500 && code != 429) {
            return Err(error);
        }
        tokio::time::sleep(TRY_PAUSE).await;
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
