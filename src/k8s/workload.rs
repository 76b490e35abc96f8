//! The StatefulSet and its pods, read from the API server each time: a watch can be minutes behind and replays old
//! states.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod as KubePod;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::ResourceExt;
use kube::api::PostParams;

use super::{Kube, KubeError, answer};
use crate::membership::{Pod, Workload};

/// Where the controller writes the revision of the template that a pod was made from.
const REVISION: &str = "controller-revision-hash";

impl Kube {
    /// The StatefulSet as it is now; `None` if there is none.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn workload(&self) -> Result<Option<Workload>, KubeError> {
        let name = &self.settings.stateful_set;
        let Some(set) = answer(self.stateful_sets().get_opt(name)).await? else { return Ok(None) };
        Ok(Some(wishes(&set)))
    }

    /// This pod, as it is now; `None` if it is gone, or another one has its name.
    ///
    /// # Errors
    /// As [`Kube::workload`].
    pub(super) async fn own_pod(&self) -> Result<Option<KubePod>, KubeError> {
        let Some(pod) = answer(self.pods().get_opt(&self.settings.pod)).await? else { return Ok(None) };
        let is_own = pod.uid().is_some_and(|uid| *self.own_uid.get_or_init(|| uid.clone()) == uid);
        Ok(is_own.then_some(pod))
    }

    /// The uid of this pod; `None` if it is not known now.
    pub async fn own_pod_uid(&self) -> Option<String> {
        self.own_pod().await.ok().flatten()?.uid()
    }

    /// The uid of the StatefulSet that owns this pod.
    async fn owner_uid(&self) -> Result<Option<String>, KubeError> {
        let Some(pod) = self.own_pod().await? else { return Ok(None) };
        let owner = pod.owner_references().iter().find(|owner| owner.kind == "StatefulSet");
        Ok(owner.map(|owner| owner.uid.clone()))
    }

    /// Whether this pod stops for good, as its StatefulSet was scaled down. Without a sure sign it does not.
    pub async fn is_scaled_below(&self) -> bool {
        let found = tokio::try_join!(self.workload(), self.owner_uid());
        match found {
            Ok((Some(workload), Some(owner))) => workload.is_scaled_below(&self.settings.pod, &owner),
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(%error, "the StatefulSet cannot be read; this is taken for a plain stop");
                false
            }
        }
    }

    /// The pods of these names that there are.
    ///
    /// # Errors
    /// As [`Kube::workload`].
    pub async fn pods_named(&self, names: &[String]) -> Result<Vec<Pod>, KubeError> {
        let mut pods = Vec::with_capacity(names.len());
        for name in names {
            pods.extend(answer(self.pods().get_opt(name)).await?.as_ref().map(view));
        }
        Ok(pods)
    }

    /// Evicts the pod of this name if it is still the one of this uid; the disruption budget may refuse.
    ///
    /// # Errors
    /// As [`Kube::workload`]; 429 if the budget does not allow it now.
    pub async fn evict(&self, name: &str, uid: &str) -> Result<(), KubeError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let delete_options =
            Some(DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() });
        // Not by `Api::evict`: kube 5.0 misspells the options there, and the API server passes over them.
        let (pods, parameters) = (self.pods(), PostParams::default());
        let eviction = Eviction { metadata, delete_options };
        let done = pods.create_subresource::<_, serde_json::Value>("eviction", name, &parameters, &eviction);
        answer(done).await.map(drop)
    }
}

/// What a StatefulSet wants.
pub(super) fn wishes(set: &StatefulSet) -> Workload {
    let spec = set.spec.as_ref();
    let status = set.status.as_ref();
    let number = |value: Option<i32>| u32::try_from(value.unwrap_or(0)).unwrap_or(0);
    let ordinals = spec.and_then(|spec| spec.ordinals.as_ref());
    let volumes = spec.and_then(|spec| spec.volume_claim_templates.as_ref());
    Workload {
        name: set.name_any(),
        uid: set.uid().unwrap_or_default(),
        // Left out, it is 1.
        replicas: number(spec.map(|spec| spec.replicas.unwrap_or(1))),
        first_ordinal: number(ordinals.and_then(|ordinals| ordinals.start)),
        is_deleted: set.metadata.deletion_timestamp.is_some(),
        is_observed: status.and_then(|status| status.observed_generation) == set.metadata.generation,
        update_revision: status.and_then(|status| status.update_revision.clone()).unwrap_or_default(),
        volumes: volumes.into_iter().flatten().map(ResourceExt::name_any).collect(),
    }
}

/// A pod, as far as membership depends on it.
pub(super) fn view(pod: &KubePod) -> Pod {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let is_ready = conditions
        .is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    let is_terminating = pod.metadata.deletion_timestamp.is_some();
    Pod {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        revision: pod.labels().get(REVISION).cloned().unwrap_or_default(),
        is_ready: is_ready && !is_terminating,
        is_terminating,
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
    }
}
