//! The members' secret of a pod: read through the API server, and kept next to the data, so that a pod that starts again
//! needs the API server no more than Raft does.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::ServerError;
use super::kubernetes::Kubernetes;
use super::tls::SecretTls;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::supervision::Tasks;
use crate::tls::{HeldSecret, PeerSource, PeerTls, SecretSettings, SecretSource};

/// Pause before the API server is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// For how long a certificate is valid that one run of a command makes for itself.
const ONE_COMMAND: Duration = Duration::from_hours(24);
/// The copy's name, next to the folder with the data.
const COPY: &str = "peer-secret";

/// The copy next to the data in `root`, if there is one: what a pod's members are asked under.
pub(super) fn kept_secret(root: &Path) -> Option<PeerSource> {
    let copy = root.with_file_name(COPY);
    let source = copy.is_file().then_some(SecretSource::File(copy))?;
    Some(PeerSource::Secret(SecretSettings { source, lifetime: ONE_COMMAND }))
}

/// TLS by that secret, kept up to date until dropped.
pub(super) struct PodSecret {
    tls: SecretTls,
    follow: JoinHandle<()>,
}

impl PodSecret {
    /// Waits for the secret, as far as there is no copy of it; `None`: this node has none in Kubernetes. Tells `waits` what
    /// it waits for.
    ///
    /// # Errors
    /// The secret cannot be used.
    pub(super) async fn wait(
        config: &Config,
        kubernetes: Option<&Kubernetes>,
        metrics: &Metrics,
        tasks: &Tasks,
        waits: impl Fn(String),
    ) -> Result<Option<Self>, ServerError> {
        let Some(PeerSource::Secret(secret)) = &config.tls.peer else { return Ok(None) };
        let SecretSettings { source: SecretSource::Kubernetes(name), .. } = secret else { return Ok(None) };
        let Some(kubernetes) = kubernetes else { return Err(ServerError::Ended("the peers' secret")) };
        let copy = config.data_dir.with_file_name(COPY);
        let text = loop {
            match kubernetes.peer_secret(name).await {
                Ok(text) => break text,
                Err(why) => match fs::read(&copy) {
                    Ok(text) if !text.is_empty() => {
                        tracing::warn!("{why}; the copy next to the data is used until then");
                        break text;
                    }
                    _ => waits(why),
                },
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        let held = HeldSecret::new(text.clone());
        let tls = SecretTls::new(config, secret, held.clone(), metrics, tasks)?;
        keep(&copy, &text);
        let (kube, interval) = (kubernetes.clone_kube(), config.tls.reload_interval);
        let following = follow(kube, name.clone(), copy, held, text, interval);
        let follow = tasks.spawn("the peers' secret", following);
        Ok(Some(Self { tls, follow }))
    }

    pub(super) fn tls(&self) -> PeerTls {
        self.tls.peer.clone()
    }
}

impl Drop for PodSecret {
    fn drop(&mut self) {
        self.follow.abort();
    }
}

/// Reads the Secret again and again.
async fn follow(
    kube: crate::k8s::Kube,
    name: String,
    copy: PathBuf,
    held: HeldSecret,
    mut text: Vec<u8>,
    interval: Duration,
) {
    loop {
        tokio::time::sleep(interval).await;
        match kube.peer_secret(&name).await {
            Ok(now) if now != text => {
                held.set(now.clone());
                keep(&copy, &now);
                text = now;
            }
            Ok(_) => {}
            Err(why) => tracing::debug!("{why}"),
        }
    }
}

/// Keeps a copy. Without one, the next start needs the API server.
fn keep(path: &Path, text: &[u8]) {
    if let Err(error) = write(path, text) {
        tracing::warn!(%error, "cannot keep a copy of the members' secret in {}", path.display());
    }
}

/// Whole or not at all, for its owner alone.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|before| before == text) {
        return Ok(());
    }
    let unfinished = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(unfinished, path)
}
