//! A pod that finds no leader says so if that is because too few pods are wanted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::api::Api;
use crate::driver::Handle;
use crate::k8s::{Announcement, Announcer, Kube};
use crate::membership::stranded;

/// Pause between looks. Without a leader at two of them in a row, it is more than an election.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Tells those who ask this pod, and once each time by an Event, until dropped.
pub(super) async fn advise(kube: Kube, handle: Handle, api: Arc<Api<Handle>>, announcer: Announcer) {
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut is_lost, mut said) = (false, None);
    loop {
        looks.tick().await;
        let status = handle.status();
        let was_lost = std::mem::replace(&mut is_lost, status.leader.is_none());
        let advice = match (was_lost && is_lost).then_some(kube.workload()) {
            Some(workload) => match workload.await {
                Ok(Some(workload)) => stranded(&status.configuration, &workload),
                // Nothing is known of what is wanted.
                Ok(None) | Err(_) => None,
            },
            None => None,
        };
        if let Some(note) = &advice
            && said != advice
        {
            tracing::warn!("{note}");
            let announcement =
                Announcement { reason: "TooFewReplicas", note: note.clone(), is_warning: true };
            announcer.announce(announcement);
        }
        api.advise(advice.clone());
        said = advice;
    }
}
