//! The label that the leader Service selects by. A hint, never a lease: every member forwards to the leader.
//!
//! Only a leader moves it: it labels itself first, then takes the label off every other pod that still says leader,
//! dead ones too, and labels the learners. A leader that stops keeps its label until the next one takes it: a label
//! dropped first leaves the Service without a pod, one left on a dead pod for long sends clients there.

use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};

use super::{FIELD_MANAGER, Kube, KubeError, answer};
use crate::membership::Workload;

const LABEL: &str = "kuberaft.io/role";
const LEADER: &str = "leader";
/// What each process says of itself at its start.
pub(super) const FOLLOWER: &str = "follower";
const LEARNER: &str = "learner";

impl Kube {
    /// Labels this pod, if it is still there.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn label_own_pod(&self, role: &str) -> Result<(), KubeError> {
        match self.own_pod().await? {
            Some(pod) => self.label(&pod, role).await,
            None => Ok(()),
        }
    }

    /// Labels this pod as the leader's, then the others: members by what they are, and any other pod that still says
    /// leader as a follower. `is_learner` answers for members' pods.
    ///
    /// # Errors
    /// As [`Kube::label_own_pod`]; the other pods were tried nevertheless.
    pub async fn take_leader_label(
        &self,
        workload: &Workload,
        is_learner: impl Fn(&str) -> Option<bool>,
    ) -> Result<(), KubeError> {
        let mut result = self.label_own_pod(LEADER).await;
        for ordinal in 0..self.settings.members_max {
            let name = workload.pod(workload.first_ordinal + ordinal);
            if name != self.settings.pod {
                result = result.and(self.label_other_pod(&name, is_learner(&name)).await);
            }
        }
        result
    }

    async fn label_other_pod(&self, name: &str, is_learner: Option<bool>) -> Result<(), KubeError> {
        let Some(pod) = answer(self.pods().get_opt(name)).await? else { return Ok(()) };
        let says_leader = pod.labels().get(LABEL).is_some_and(|role| role == LEADER);
        match is_learner {
            Some(true) => self.label(&pod, LEARNER).await,
            Some(false) => self.label(&pod, FOLLOWER).await,
            None if says_leader => self.label(&pod, FOLLOWER).await,
            None => Ok(()),
        }
    }

    /// Sets the label on just this pod, not on one that has its name later.
    async fn label(&self, pod: &KubePod, role: &str) -> Result<(), KubeError> {
        if pod.labels().get(LABEL).is_some_and(|label| label == role) {
            return Ok(());
        }
        let name = pod.name_any();
        let patch = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "uid": pod.uid(), "labels": { LABEL: role } },
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match answer(self.pods().patch(&name, &parameters, &Patch::Apply(patch))).await {
            Ok(_) => Ok(()),
            // It is no longer that pod.
            Err(error) if matches!(error.code(), Some(404 | 409 | 422)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
