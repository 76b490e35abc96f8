//! What people see with `kubectl describe`: Kubernetes Events about this pod, off the Raft path.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use super::Kube;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// In `PascalCase`, at most 128 characters; the same reason again within minutes counts up one Event.
    pub reason: &'static str,
    /// For people.
    pub note: String,
    /// Whether someone should have a look.
    pub is_warning: bool,
}

/// Publishes Events about this pod.
pub struct Announcer {
    recorder: Recorder,
    reference: ObjectReference,
}

impl Announcer {
    /// About the pod of the settings.
    #[must_use]
    pub fn new(kube: &Kube) -> Self {
        let settings = kube.settings();
        let reporter = Reporter { controller: "kuberaft".into(), instance: Some(settings.pod.clone()) };
        let reference = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(settings.pod.clone()),
            namespace: Some(settings.namespace.clone()),
            ..ObjectReference::default()
        };
        Self { recorder: Recorder::new(kube.client.clone(), reporter), reference }
    }

    /// Publishes; what cannot be published is only logged.
    pub async fn announce(&self, announcement: &Announcement) {
        let event = Event {
            type_: if announcement.is_warning { EventType::Warning } else { EventType::Normal },
            reason: announcement.reason.into(),
            note: Some(announcement.note.chars().take(1000).collect()),
            action: announcement.reason.into(),
            secondary: None,
        };
        if let Err(error) = super::answer(self.recorder.publish(&event, &self.reference)).await {
            tracing::debug!(%error, reason = announcement.reason, "an Event could not be published");
        }
    }
}
