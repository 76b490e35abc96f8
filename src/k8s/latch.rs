//! The latch as a ConfigMap that the chart renders empty. Filled by a patch with its resource version, so that of two
//! who try at once one finds out.

use std::time::Duration;

use kube::api::{Patch, PatchParams};

use super::{FIELD_MANAGER, Kube, KubeError, answer};
use crate::membership::latch::Latch;
use crate::types::ClusterId;

/// The ConfigMap's key.
const KEY: &str = "cluster-id";
/// Pause before a latch that changed meanwhile is read again.
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);

impl Kube {
    /// What the latch says now.
    pub async fn latch(&self) -> Latch {
        match self.read_latch().await {
            Ok((latch, _)) => latch,
            Err(error) => {
                tracing::debug!(%error, "the latch cannot be read");
                Latch::Unreachable
            }
        }
    }

    async fn read_latch(&self) -> Result<(Latch, Option<String>), KubeError> {
        let name = &self.settings.latch;
        let Some(map) = answer(self.config_maps().get_opt(name)).await? else {
            return Ok((Latch::Missing, None));
        };
        let id = map.data.as_ref().and_then(|data| data.get(KEY)).map(|text| text.trim());
        let latch = match id {
            None | Some("") => Latch::Empty,
            Some(text) => text.parse().map_or_else(
                |_| {
                    tracing::error!(config_map = name, text, "the latch holds no cluster id; it was edited");
                    Latch::Unreachable
                },
                Latch::Filled,
            ),
        };
        Ok((latch, map.metadata.resource_version))
    }

    /// Writes the id into an empty latch. Returns what the latch says afterwards: `Filled(id)` if it holds this id,
    /// whoever wrote it.
    pub async fn fill_latch(&self, id: ClusterId) -> Latch {
        loop {
            let Ok((latch, version)) = self.read_latch().await else { return Latch::Unreachable };
            if latch != Latch::Empty {
                return latch;
            }
            let patch = serde_json::json!({
                "metadata": { "resourceVersion": version },
                "data": { KEY: id.to_string() },
            });
            let parameters =
                PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            let maps = self.config_maps();
            match answer(maps.patch(&self.settings.latch, &parameters, &Patch::Merge(patch))).await {
                Ok(_) => return Latch::Filled(id),
                Err(error) if error.code() == Some(409) => tokio::time::sleep(CONFLICT_PAUSE).await,
                Err(error) => {
                    // The patch may have been done: the next look tells.
                    tracing::debug!(%error, "the latch cannot be filled");
                    return Latch::Unreachable;
                }
            }
        }
    }
}
