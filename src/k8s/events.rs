//! What people see with `kubectl describe`: Kubernetes Events about this pod, off the Raft path and in measure.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{FIELD_MANAGER, Kube, KubeError, answer};

/// So many Events wait to be published; further ones are dropped.
const QUEUE: usize = 32;
/// Pause between two Events.
const PAUSE: Duration = Duration::from_secs(1);
/// The same Event again within this time is not published; later it counts the first one up.
const REPEAT_INTERVAL: Duration = Duration::from_mins(10);
/// So many Events are remembered as the same again.
const REMEMBERED: usize = 32;
/// So often an Event is tried while the API server is away.
const TRIES: u32 = 5;
/// Most characters of a note; the API server takes 1024 bytes.
const NOTE_CHARS_MAX: usize = 500;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// In `PascalCase`, at most 128 characters.
    pub reason: &'static str,
    /// For people.
    pub note: String,
    /// Whether someone should have a look.
    pub is_warning: bool,
}

/// Takes Events to be published.
#[derive(Clone)]
pub struct Announcer(mpsc::Sender<Announcement>);

impl Announcer {
    /// About the pod of the settings. The future publishes, until the last clone is dropped.
    pub fn new(kube: &Kube) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (sender, mut receiver) = mpsc::channel::<Announcement>(QUEUE);
        let mut publisher = Publisher::new(kube);
        let publishing = async move {
            while let Some(announcement) = receiver.recv().await {
                for _ in 0..TRIES {
                    let is_over = publisher.publish(&announcement).await;
                    tokio::time::sleep(PAUSE).await;
                    if is_over {
                        break;
                    }
                }
            }
        };
        (Self(sender), publishing)
    }

    /// Never waits; while too many wait already, nothing is published.
    pub fn announce(&self, announcement: Announcement) {
        if let Err(error) = self.0.try_send(announcement) {
            tracing::debug!(%error, "an Event is not published");
        }
    }
}

/// An Event that was published.
struct Published {
    announcement: Announcement,
    name: String,
    count: i32,
    at: Instant,
}

/// Publishes Events about this pod.
pub struct Publisher {
    kube: Kube,
    published: VecDeque<Published>,
}

impl Publisher {
    /// About the pod of the settings.
    #[must_use]
    pub fn new(kube: &Kube) -> Self {
        Self { kube: kube.clone(), published: VecDeque::new() }
    }

    /// Publishes, unless the same was published a short time ago. What cannot be published is only logged; returns
    /// whether trying again is pointless.
    pub async fn publish(&mut self, announcement: &Announcement) -> bool {
        match self.try_publish(announcement).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, reason = announcement.reason, "an Event could not be published");
                error.code().is_some_and(|code| code < 500 && code != 429)
            }
        }
    }

    async fn try_publish(&mut self, announcement: &Announcement) -> Result<(), KubeError> {
        let before = self.published.iter().position(|published| published.announcement == *announcement);
        if let Some(before) = before {
            let published = &self.published[before];
            if published.at.elapsed() < REPEAT_INTERVAL {
                return Ok(());
            }
            if self.count_up(before).await? {
                return Ok(());
            }
            // The API server has forgotten it.
            self.published.remove(before);
        }
        let name = self.create(announcement).await?;
        if self.published.len() == REMEMBERED {
            self.published.pop_front();
        }
        let (announcement, at) = (announcement.clone(), Instant::now());
        self.published.push_back(Published { announcement, name, count: 1, at });
        Ok(())
    }

    fn events(&self) -> Api<Event> {
        Api::namespaced(self.kube.client.clone(), &self.kube.settings.namespace)
    }

    /// Says that an Event was seen again; false if it is gone.
    async fn count_up(&mut self, which: usize) -> Result<bool, KubeError> {
        let Published { name, count, .. } = &self.published[which];
        let count = count.saturating_add(1);
        let now = MicroTime(Timestamp::now());
        let patch =
            Patch::Merge(serde_json::json!({ "series": { "count": count, "lastObservedTime": now } }));
        match answer(self.events().patch(name, &PatchParams::default(), &patch)).await {
            Ok(_) => {
                let published = &mut self.published[which];
                (published.count, published.at) = (count, Instant::now());
                Ok(true)
            }
            Err(error) if error.code() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, announcement: &Announcement) -> Result<String, KubeError> {
        let settings = &self.kube.settings;
        // `kubectl describe` shows only Events that name the pod's uid.
        let uid = match self.kube.own_uid.get() {
            Some(uid) => Some(uid.clone()),
            None => self.kube.own_pod().await.ok().flatten().and_then(|pod| pod.metadata.uid),
        };
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", settings.pod, now.as_nanosecond())),
                namespace: Some(settings.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            action: Some(announcement.reason.into()),
            reason: Some(announcement.reason.into()),
            note: Some(announcement.note.chars().take(NOTE_CHARS_MAX).collect()),
            type_: Some(if announcement.is_warning { "Warning" } else { "Normal" }.into()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(settings.pod.clone()),
                namespace: Some(settings.namespace.clone()),
                uid,
                ..ObjectReference::default()
            }),
            reporting_controller: Some(FIELD_MANAGER.into()),
            reporting_instance: Some(settings.pod.clone()),
            ..Event::default()
        };
        answer(self.events().create(&PostParams::default(), &event)).await?;
        Ok(event.metadata.name.unwrap_or_default())
    }
}
