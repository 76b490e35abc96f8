//! The latch as a ConfigMap that the chart renders empty. Filled by a patch with its resource version, so that of two
//! who try at once one finds out. Only `kuberaft recover` and `kuberaft snapshot restore` write over what it holds.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

use super::{FIELD_MANAGER, Kube, KubeError, answer};
use crate::membership::latch::Latch;
use crate::types::ClusterId;

/// The ConfigMap's key.
const KEY: &str = "cluster-id";
/// So often the latch is read again because it changed in between; then the caller tries later.
const CONFLICTS_MAX: u32 = 10;
/// Pause before a latch that changed meanwhile is read again.
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);

/// The latch of a cluster: a ConfigMap.
#[derive(Clone)]
pub struct LatchMap {
    maps: Api<ConfigMap>,
    name: String,
}

impl Kube {
    fn latch_map(&self) -> LatchMap {
        let (namespace, name) = (&self.settings.namespace, self.settings.latch.clone());
        LatchMap { maps: Api::namespaced(self.client.clone(), namespace), name }
    }

    /// What the latch says now.
    pub async fn latch(&self) -> Latch {
        self.latch_map().look().await
    }

    /// As [`LatchMap::fill`].
    pub async fn fill_latch(&self, id: ClusterId) -> Latch {
        self.latch_map().fill(id).await
    }
}

/// What an error says of the latch.
fn failed(error: &KubeError) -> Latch {
    match error.code() {
        Some(404) => Latch::Missing,
        Some(code) if code < 500 && code != 429 => Latch::Refused(code),
        _ => Latch::Unreachable,
    }
}

impl LatchMap {
    /// By the service account of this pod, or the user's kubeconfig.
    ///
    /// # Errors
    /// There is neither, or it cannot be used.
    pub async fn connect(namespace: &str, name: &str) -> Result<Self, KubeError> {
        let mut config = kube::Config::infer().await.map_err(|error| KubeError::Config(error.to_string()))?;
        config.default_retry = false;
        let maps = Api::namespaced(Client::try_from(config)?, namespace);
        Ok(Self { maps, name: name.to_owned() })
    }

    /// What it says now.
    pub async fn look(&self) -> Latch {
        match self.read().await {
            Ok((latch, _)) => latch,
            Err(error) => {
                tracing::debug!(%error, "the latch cannot be read");
                failed(&error)
            }
        }
    }

    /// What it says, and in which version.
    async fn read(&self) -> Result<(Latch, Option<String>), KubeError> {
        let Some(map) = answer(self.maps.get_opt(&self.name)).await? else {
            return Ok((Latch::Missing, None));
        };
        let id = map.data.as_ref().and_then(|data| data.get(KEY)).map(|text| text.trim());
        let latch = match id {
            None | Some("") => Latch::Empty,
            Some(text) => text.parse().map_or_else(
                |_| {
                    let config_map = &self.name;
                    tracing::debug!(config_map, text, "the latch holds no cluster id; it was edited");
                    Latch::Garbled
                },
                Latch::Filled,
            ),
        };
        Ok((latch, map.metadata.resource_version))
    }

    /// Writes the id into an empty latch. Returns what the latch says afterwards: `Filled(id)` if it holds this id,
    /// also if another node wrote it; `Empty` if it changes all the time.
    pub async fn fill(&self, id: ClusterId) -> Latch {
        for _ in 0..CONFLICTS_MAX {
            let (latch, version) = match self.read().await {
                Ok(found) => found,
                Err(error) => return failed(&error),
            };
            if latch != Latch::Empty {
                return latch;
            }
            match self.write(id, version).await {
                Ok(()) => return Latch::Filled(id),
                Err(error) if error.code() == Some(409) => tokio::time::sleep(CONFLICT_PAUSE).await,
                Err(error) => {
                    // The patch may have been done: the next look tells.
                    tracing::debug!(%error, "the latch cannot be filled");
                    return failed(&error);
                }
            }
        }
        Latch::Empty
    }

    /// Writes this id over whatever it holds. For the explicit ways to make a new cluster of an old one's data.
    ///
    /// # Errors
    /// There is none, or the API server refuses or does not answer.
    pub async fn replace(&self, id: ClusterId) -> Result<(), KubeError> {
        self.write(id, None).await
    }

    /// The command that does the same as [`LatchMap::replace`].
    #[must_use]
    pub fn replace_command(namespace: &str, name: &str, id: ClusterId) -> String {
        format!(
            "kubectl --namespace {namespace} patch configmap {name} --type merge --patch \
             '{{\"data\":{{\"{KEY}\":\"{id}\"}}}}'"
        )
    }

    /// Writes this id over what it holds, unless it has changed since that version.
    async fn write(&self, id: ClusterId, version: Option<String>) -> Result<(), KubeError> {
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": version },
            "data": { KEY: id.to_string() },
        });
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        answer(self.maps.patch(&self.name, &parameters, &Patch::Merge(patch))).await.map(drop)
    }
}
