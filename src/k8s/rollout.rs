//! How far the pods of a StatefulSet are, for those who wait for an installation or an upgrade.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{Api, Client};

use super::{KubeError, answer};

/// A StatefulSet that is waited for. Needs the right to `get` it, and no other.
pub struct Rollout {
    stateful_sets: Api<StatefulSet>,
    name: String,
}

/// How far its pods are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not all pods are there, ready and of the newest template; says what is missing.
    Waiting(String),
    /// All are.
    Done,
    /// It is to have no pods.
    Asleep,
}

impl Rollout {
    /// The StatefulSet of this name in the namespace of this pod, or of the user's kubeconfig.
    ///
    /// # Errors
    /// There is no configuration to reach an API server with.
    pub async fn connect(name: &str) -> Result<Self, KubeError> {
        let config = kube::Config::infer().await.map_err(|error| KubeError::Config(error.to_string()))?;
        let client = Client::try_from(config)?;
        Ok(Self { stateful_sets: Api::default_namespaced(client), name: name.to_owned() })
    }

    /// Reads it again.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn progress(&self) -> Result<Progress, KubeError> {
        let set = answer(self.stateful_sets.get_opt(&self.name)).await?;
        let name = &self.name;
        Ok(set.map_or_else(
            || Progress::Waiting(format!("there is no StatefulSet {name}")),
            |set| progress(&set),
        ))
    }
}

/// With `OnDelete` the controller counts pods as with any other strategy.
fn progress(set: &StatefulSet) -> Progress {
    let status = set.status.clone().unwrap_or_default();
    if status.observed_generation != set.metadata.generation {
        return Progress::Waiting("the StatefulSet's controller has not seen the newest template".to_owned());
    }
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let counts = [
        ("are there", status.replicas),
        ("are of the newest template", status.updated_replicas.unwrap_or(0)),
        ("are ready", status.ready_replicas.unwrap_or(0)),
    ];
    match counts.into_iter().find(|(_, count)| *count != wanted) {
        Some((what, count)) => Progress::Waiting(format!("{count} of {wanted} pods {what}")),
        None if wanted == 0 => Progress::Asleep,
        None => Progress::Done,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Generation 2, with these counts of pods.
    fn set(wanted: i32, there: i32, updated: Option<i32>, ready: Option<i32>) -> StatefulSet {
        let status = json!({
            "observedGeneration": 2, "replicas": there, "updatedReplicas": updated, "readyReplicas": ready
        });
        serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "kv", "generation": 2 },
            "spec": {
                "replicas": wanted, "serviceName": "kv", "selector": {}, "template": {}
            },
            "status": status
        }))
        .unwrap()
    }

    #[test]
    fn done_is_all_there_updated_and_ready() {
        let waiting = |what: &str| Progress::Waiting(what.to_owned());
        assert_eq!(progress(&set(3, 3, Some(3), Some(3))), Progress::Done);
        assert_eq!(progress(&set(3, 2, Some(2), Some(2))), waiting("2 of 3 pods are there"));
        assert_eq!(progress(&set(3, 5, Some(5), Some(5))), waiting("5 of 3 pods are there"));
        assert_eq!(progress(&set(3, 3, None, Some(3))), waiting("0 of 3 pods are of the newest template"));
        assert_eq!(progress(&set(3, 3, Some(3), None)), waiting("0 of 3 pods are ready"));
        assert_eq!(progress(&set(0, 0, None, None)), Progress::Asleep);
        assert_eq!(progress(&set(0, 1, Some(1), None)), waiting("1 of 0 pods are there"));
    }

    #[test]
    fn what_the_controller_has_not_seen_is_not_done() {
        let mut set = set(3, 3, Some(3), Some(3));
        set.metadata.generation = Some(3);
        assert!(matches!(progress(&set), Progress::Waiting(what) if what.contains("has not seen")));
        set.status = None;
        assert!(matches!(progress(&set), Progress::Waiting(_)));
    }
}
