//! Opens the data directory, once there is room for that and nobody else uses it.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::{Server, ServerError, kubernetes};
use crate::config::Config;
use crate::driver::FreeBytes;
use crate::storage::space;
use crate::storage::wal::Options;
use crate::storage::{Ballast, DataDir, StorageError, kept_aside};

/// Pause between two tries to take the data directory's lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// Pause between two looks at a disk that is too full to start on.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

impl Server {
    /// Waits for room on the disk, then for the data directory's lock: after a forced end the process before may live for a moment. The wait ends
    /// when this is dropped, since a process that is told to stop ends with its last thread.
    pub(super) async fn open_data_dir(&self) -> Result<DataDir, ServerError> {
        self.make_room().await?;
        self.api.set_waiting(Some("opening the data directory".into()));
        let (root, name) = (self.config.data_dir.clone(), self.config.name.to_string());
        let (begun, lock_timeout) = (Instant::now(), self.config.lock_timeout);
        let api = Arc::clone(&self.api);
        let mut reported = false;
        let (waits, is_waited_for) = oneshot::channel::<()>();
        let mut wait = move |holder: &str| {
            if waits.is_closed() || lock_timeout.is_some_and(|longest| begun.elapsed() >= longest) {
                return ControlFlow::Break(());
            }
            if !std::mem::replace(&mut reported, true) {
                tracing::info!(holder, "waiting for the data directory's lock");
                api.set_waiting(Some(format!("waiting for the data directory, which {holder} uses")));
            }
            std::thread::sleep(LOCK_RETRY);
            ControlFlow::Continue(())
        };
        let options = Options { segment_bytes: self.config.log_segment_bytes, ..Options::default() };
        let place = self.config.kubernetes.as_ref().map(kubernetes::place);
        let open = move || {
            let mut data = DataDir::open(&root, &name, options, &mut wait)?;
            if let Some(place) = place {
                data.settle_in(&place)?;
            }
            warn_of_kept(&root);
            Ok::<_, StorageError>(data)
        };
        let opened = spawn_blocking(open).await;
        drop(is_waited_for);
        Ok(opened.map_err(io::Error::other)??)
    }

    /// Waits until a start finds the space that it needs, and deletes the ballast for it. A start without would end
    /// in the middle of its writes with exit code 4, again and again.
    async fn make_room(&self) -> Result<(), ServerError> {
        let mut reported = false;
        loop {
            let ballast = ballast(&self.config);
            let mut needed = ballast.start_bytes();
            // If it cannot be told, opening the directory says why.
            if needed > 0 && !DataDir::has_log(&self.config.data_dir).unwrap_or(true) {
                needed += u64::from(self.config.log_segment_bytes);
            }
            let free = spawn_blocking(move || ballast.make_room()).await.map_err(io::Error::other)??;
            if free >= needed {
                return Ok(());
            }
            let path = self.config.data_dir.display();
            let what = format!(
                "waiting for disk space: {free} bytes are free for data directory {path}, a start needs {needed}"
            );
            if !std::mem::replace(&mut reported, true) {
                tracing::warn!("{what}");
            }
            self.api.set_waiting(Some(what));
            tokio::time::sleep(ROOM_INTERVAL).await;
        }
    }
}

/// Says what takes space without being used: only people know whether it is still needed.
fn warn_of_kept(root: &Path) {
    match kept_aside(root) {
        Ok(kept) => {
            for (path, bytes) in kept {
                let path = path.display();
                tracing::warn!(%path, bytes, "data that was set aside is kept; remove it when nobody needs it");
            }
        }
        Err(error) => tracing::warn!(%error, "cannot look for data that was set aside"),
    }
}

/// Looks at the space that the data directory's disk has left, and puts the ballast back when there is plenty.
pub(super) fn free_bytes(config: &Config) -> FreeBytes {
    let (root, ballast) = (config.data_dir.clone(), ballast(config));
    let is_refused = Mutex::new(false);
    Arc::new(move || {
        let free = space::free_bytes(&root)?;
        // Several threads look; one at a time puts it back.
        let mut is_refused = is_refused.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_refused {
            return Ok(free);
        }
        ballast.keep(free).or_else(|error| {
            *is_refused = true;
            tracing::warn!(%error, "no space can be kept back; a start on a full disk would have to wait for some");
            space::free_bytes(&root)
        })
    })
}

fn ballast(config: &Config) -> Ballast {
    Ballast::new(&config.data_dir, config.disk_reserve_bytes)
}
