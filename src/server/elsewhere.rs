//! A node looks whether it is in the right place: removed from its cluster, or with the data of another one than that of
//! the nodes on its list. One whose addition was lost is added again.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::ServerError;
use super::addresses::Addresses;
use super::kubernetes::StatefulSet;
use crate::api::Api;
use crate::driver::Handle;
use crate::membership::Local;
use crate::transport::{self, Asked, Elsewhere, Surroundings, Trouble, Watched};
use crate::types::LogIndex;

/// A node that finds a leader asks in one of so many rounds.
const ROUNDS_LED: u32 = 5;
/// Pause between looks at the latch. Without a leader at two of them in a row, it is more than an election.
const LATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Why a node must not continue as the one that it is.
pub(super) enum Found {
    /// Its cluster removed it by this entry.
    Removed(LogIndex),
    /// Its data is of another cluster.
    Refused(ServerError),
}

/// A node that runs, and what is to be known to look.
pub(super) struct Watch {
    pub(super) handle: Handle,
    pub(super) local: Local,
    pub(super) addresses: Addresses,
    pub(super) settings: transport::Settings,
    pub(super) stateful_set: Option<StatefulSet>,
    pub(super) data_dir: PathBuf,
    /// Is told what is wrong, for those who ask whether this node is ready.
    pub(super) api: Arc<Api<Handle>>,
    /// Whether it asks to be added again, if its addition was lost.
    pub(super) rejoins: bool,
}

impl Watch {
    /// Returns when the latch or its peers show that this node is not one of theirs.
    pub(super) async fn run(&self) -> Found {
        tokio::select! {
            found = self.ask_peers() => found,
            refused = self.read_latch() => Found::Refused(refused),
        }
    }

    fn is_lost(&self) -> bool {
        self.handle.status().leader.is_none()
    }

    async fn ask_peers(&self) -> Found {
        let Self { local, addresses, settings, api, .. } = self;
        let own = self.handle.status().cluster_id;
        let pod_uid = match &self.stateful_set {
            Some(stateful_set) => stateful_set.pod_uid().await,
            None => None,
        };
        let resolver = addresses.resolver();
        let watched = Watched { local, own, resolver: &resolver, settings, pod_uid };
        let rounds_led = AtomicU32::new(0);
        let report = |Trouble { astray, lost }| api.report_trouble(astray, lost);
        match watched.watch(|| self.whom(&rounds_led), report).await {
            Elsewhere::Removed(index) => Found::Removed(index),
            Elsewhere::OtherCluster(other) => {
                let path = self.data_dir.clone();
                Found::Refused(ServerError::OtherCluster { path, own, other })
            }
        }
    }

    /// The pods that are wanted, where this is one: one that has received nothing yet knows no other member. A node that
    /// finds a leader asks only if its cluster works without some of its list, and not in each round.
    async fn whom(&self, rounds_led: &AtomicU32) -> Option<Asked> {
        let status = self.handle.status();
        let is_lost = status.leader.is_none();
        let round = if is_lost { 0 } else { rounds_led.load(Ordering::Relaxed) + 1 };
        rounds_led.store(round % ROUNDS_LED, Ordering::Relaxed);
        let pods = match &self.stateful_set {
            Some(stateful_set) if round <= 1 => stateful_set.pods().await,
            _ => None,
        };
        let expected = pods.unwrap_or_else(|| self.addresses.listed().clone());
        let members = status.configuration.members();
        let is_member = |name: &str| members.values().any(|member| member.name == name);
        if !is_lost && expected.members().iter().all(|listed| is_member(&listed.name)) {
            return None;
        }
        let everyone = self.addresses.everyone(&expected);
        // A voter was a member before it became one.
        let rejoins = self.rejoins && !status.configuration.is_voter(status.node_id);
        let known = Arc::clone(&status.configuration);
        Some(Asked { expected, everyone, rejoins, known, is_lost })
    }

    /// The latch may have been empty, or out of reach, when this node started.
    async fn read_latch(&self) -> ServerError {
        let Some(stateful_set) = &self.stateful_set else { return pending().await };
        let own = self.handle.status().cluster_id;
        let mut looks = interval(LATCH_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_lost = false;
        loop {
            looks.tick().await;
            let is_lost = self.is_lost();
            if std::mem::replace(&mut was_lost, is_lost)
                && is_lost
                && let Err(refused) = stateful_set.may_wake(own).await
            {
                return refused;
            }
        }
    }
}
