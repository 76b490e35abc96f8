//! A node that is part of its cluster: how it notices that it no longer is, and how its parts stop.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::elsewhere::{Found, Watch};
use super::kubernetes::Kubernetes;
use super::{Joined, ServerError};
use crate::api::Api;
use crate::driver::{Failure, Handle};
use crate::storage::Lock;
use crate::supervision::Tasks;
use crate::types::LogIndex;

/// A task that ends because of the replica does so this much before it, at most.
const CAUSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two looks, while a pod stops, whether it was scaled down.
const SCALE_INTERVAL: Duration = Duration::from_secs(1);

impl Joined {
    pub(super) fn watch(&self, rejoins: bool, api: &Arc<Api<Handle>>) -> Watch {
        Watch {
            handle: self.handle.clone(),
            local: self.local.clone(),
            addresses: self.addresses.clone(),
            settings: self.settings.clone(),
            stateful_set: self.kubernetes.as_ref().map(Kubernetes::stateful_set),
            data_dir: self.data_dir.clone(),
            api: Arc::clone(api),
            rejoins,
        }
    }

    /// Waits until the cluster has removed this node, by the entry that is returned, or until something failed.
    pub(super) async fn removed(&mut self, tasks: &Tasks) -> Result<LogIndex, ServerError> {
        let failure = tokio::select! {
            failure = self.running.failed() => failure,
            // Tasks may end because the replica did.
            ended = tasks.ended() => match timeout(CAUSE_TIMEOUT, self.running.failed()).await {
                Ok(failure) => failure,
                Err(_) => return Err(ended.into()),
            },
        };
        match failure {
            Failure::Removed { index } => Ok(index),
            failure => Err(failure.into()),
        }
    }

    /// Waits until `until`, and for as long as this pod is one of too many: as a member it is needed until those that
    /// stay have removed it. Returns the entry that did so.
    pub(super) async fn removed_before(
        &mut self,
        until: tokio::time::Instant,
        api: &Arc<Api<Handle>>,
    ) -> Result<Option<LogIndex>, ServerError> {
        let Some(kubernetes) = &self.kubernetes else {
            tokio::time::sleep_until(until).await;
            return Ok(None);
        };
        let elsewhere = self.watch(false, api);
        let mut elsewhere = pin!(elsewhere.run());
        let mut reported = false;
        loop {
            let is_leaving = kubernetes.is_scaled_below().await;
            if !is_leaving && tokio::time::Instant::now() >= until {
                return Ok(None);
            }
            if is_leaving && !std::mem::replace(&mut reported, true) {
                tracing::info!("the StatefulSet was scaled down: waiting to be removed from the cluster");
            }
            tokio::select! {
                () = tokio::time::sleep(SCALE_INTERVAL) => {}
                failure = self.running.failed() => match failure {
                    Failure::Removed { index } => return Ok(Some(index)),
                    failure => return Err(failure.into()),
                },
                found = &mut elsewhere => return Ok(match found {
                    Found::Removed(index) => Some(index),
                    Found::Refused(_) => None,
                }),
            }
        }
    }

    /// Ends the replica with its last flush, then the peer port. Nothing else uses the data directory then.
    pub(super) async fn stop(self, peers_stop: &watch::Sender<bool>) -> Result<Lock, ServerError> {
        drop(self.versions);
        // Blocks until the threads have flushed.
        let stopped = spawn_blocking(|| self.running.stop()).await;
        peers_stop.send_replace(true);
        if let Err(error) = self.peer_port.server.await {
            tracing::error!(%error, "the peer port failed");
        }
        match stopped.map_err(io::Error::other)? {
            Ok(()) | Err(Failure::Removed { .. }) => Ok(self.lock),
            Err(failure) => Err(failure.into()),
        }
    }
}
