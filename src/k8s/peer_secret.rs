//! The members' secret as a Secret that the chart renders empty. The first member fills it, by a patch with its resource
//! version, so that of two who try at once one finds the other's.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::{FIELD_MANAGER, Kube, KubeError, answer};

/// The Secret's key.
const KEY: &str = "secret";
/// So often the Secret is read again because it changed in between.
const CONFLICTS_MAX: u32 = 10;
/// Pause before it is read again then.
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);

impl Kube {
    /// The text of the members' secret in the Secret called `name`; fills an empty one with 32 random bytes, in base64.
    ///
    /// # Errors
    /// There is no such Secret, the API server refuses or does not answer, or it changes all the time. What to wait for, in
    /// words.
    pub async fn peer_secret(&self, name: &str) -> Result<Vec<u8>, String> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let failed =
            |error: KubeError| format!("the members' secret, Secret {name}, cannot be read: {error}");
        for _ in 0..CONFLICTS_MAX {
            let Some(found) = answer(secrets.get_opt(name)).await.map_err(failed)? else {
                return Err(format!("there is no Secret {name}, which must hold the members' secret"));
            };
            let text = found.data.as_ref().and_then(|data| data.get(KEY)).map(|text| text.0.trim_ascii());
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                return Ok(text.to_vec());
            }
            let text = new_secret().map_err(|error| format!("no random numbers: {error}"))?;
            let written = write(&secrets, name, found.metadata.resource_version, &text).await;
            match written {
                Ok(()) => {
                    tracing::info!(secret = name, "filled the members' secret");
                    return Ok(text);
                }
                Err(error) if error.code() == Some(409) => tokio::time::sleep(CONFLICT_PAUSE).await,
                // The patch may have been done: the next look tells.
                Err(error) => return Err(format!("Secret {name} cannot be filled: {error}")),
            }
        }
        Err(format!("Secret {name} changes all the time"))
    }
}

fn new_secret() -> Result<Vec<u8>, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(STANDARD.encode(bytes).into_bytes())
}

/// Writes the text, unless the Secret has changed since that version.
async fn write(
    secrets: &Api<Secret>,
    name: &str,
    version: Option<String>,
    text: &[u8],
) -> Result<(), KubeError> {
    let data = BTreeMap::from([(KEY, ByteString(text.to_vec()))]);
    let patch = serde_json::json!({ "metadata": { "resourceVersion": version }, "data": data });
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    answer(secrets.patch(name, &parameters, &Patch::Merge(patch))).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::k8s::api_server::{ApiServer, Fault};
    use crate::k8s::tests::kube;

    fn secret(text: Option<&str>) -> Value {
        let data = text.map(|text| json!({ KEY: STANDARD.encode(text) }));
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kv-peer"}, "data": data})
    }

    #[tokio::test]
    async fn the_first_member_fills_an_empty_secret_and_the_others_read_it() {
        let server = ApiServer::start().await;
        server.put("secrets", secret(None));
        let text = kube(&server).peer_secret("kv-peer").await.unwrap();
        assert_eq!(STANDARD.decode(&text).unwrap().len(), 32);
        assert_eq!(kube(&server).peer_secret("kv-peer").await.unwrap(), text);
        assert_eq!(server.count("PATCH secrets"), 1);
    }

    #[tokio::test]
    async fn of_two_who_fill_it_one_finds_the_others() {
        let server = ApiServer::start().await;
        server.put("secrets", secret(Some(" ")));
        server.fail("PATCH", "secrets", Fault::Meanwhile("secrets", secret(Some("theirs\n"))), 1);
        assert_eq!(kube(&server).peer_secret("kv-peer").await.unwrap(), b"theirs");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_filled() {
        let server = ApiServer::start().await;
        let why = async || kube(&server).peer_secret("kv-peer").await.unwrap_err();
        assert!(why().await.contains("there is no Secret kv-peer"));
        server.put("secrets", secret(None));
        server.fail("GET", "secrets", Fault::Status(403), 1);
        assert!(why().await.contains("cannot be read"));
        server.fail("PATCH", "secrets", Fault::Status(403), 1);
        assert!(why().await.contains("cannot be filled"));
        assert_eq!(server.count("PATCH secrets"), 1);
    }
}
