//! Kubernetes: where the other pods are, what their StatefulSet wants, which cluster was formed, and what people see.
//!
//! Raft never depends on the API server. What is read here are hints and wishes; while the API is away, the cluster
//! continues to serve with what was known. Decisions are made in [`membership`](crate::membership); this module reads,
//! writes and tries again.

mod addresses;
mod admin;
mod controller;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod latch;
mod peer_secret;
mod role_label;
mod rollout;
mod settings;
mod workload;

pub use addresses::Addresses;
pub use admin::{Admin, Deletion, Seen, SeenPod};
pub use controller::{Cluster, Controller, Led};
pub use events::{Announcement, Announcer, Publisher};
pub use latch::LatchMap;
pub use rollout::{Progress, Rollout};
pub use settings::Settings;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};

/// Longest wait for one answer of the API server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// A watch is started again after so long, in seconds; one that is silent for longer is broken.
const WATCH_SECONDS: u32 = 60;
/// Longest silence on a connection that something is read from.
const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 20);
/// Who changes of labels and of the latch are said to come from.
const FIELD_MANAGER: &str = "kuberaft";

/// The API server did not answer, or not with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// No configuration to reach an API server with.
    #[error("this process does not run in Kubernetes, or without a service account: {0}")]
    Config(String),
    /// The API server refused, or could not be reached.
    #[error("the Kubernetes API: {0}")]
    Api(#[from] Box<kube::Error>),
    /// No answer in time.
    #[error("the Kubernetes API did not answer in time")]
    Timeout,
}

impl From<kube::Error> for KubeError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl KubeError {
    /// The HTTP status that the API server refused with.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(error) => match &**error {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Config(_) | Self::Timeout => None,
        }
    }
}

/// The API server, as this pod may use it.
#[derive(Clone)]
pub struct Kube {
    client: Client,
    settings: Settings,
    /// The uid of this pod, once read: another one may have its name later.
    own_uid: Arc<OnceLock<String>>,
}

impl Kube {
    /// Uses the service account of this pod, or the user's kubeconfig.
    ///
    /// # Errors
    /// There is neither, or it cannot be used. Whether the server answers is not looked at.
    pub async fn connect(settings: Settings) -> Result<Self, KubeError> {
        let config = kube::Config::infer().await.map_err(|error| KubeError::Config(error.to_string()))?;
        Self::with(config, settings)
    }

    fn with(mut config: kube::Config, settings: Settings) -> Result<Self, KubeError> {
        // Whoever asks tries again by itself, and must see a 429 (a disruption budget's no) at once.
        config.default_retry = false;
        config.read_timeout = Some(READ_TIMEOUT.min(config.read_timeout.unwrap_or(READ_TIMEOUT)));
        let client = Client::try_from(config)?;
        Ok(Self { client, settings, own_uid: Arc::default() })
    }

    /// Names and limits.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    fn stateful_sets(&self) -> Api<StatefulSet> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    fn endpoint_slices(&self) -> Api<EndpointSlice> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }
}

/// Waits for one answer.
async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, KubeError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(result) => Ok(result?),
        Err(_elapsed) => Err(KubeError::Timeout),
    }
}

#[cfg(test)]
#[path = "../../tests/integration/api_server/mod.rs"]
mod api_server;

#[cfg(test)]
mod tests;
