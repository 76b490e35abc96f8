//! The feature level of the cluster: a leader raises it once all members' programs understand a higher one.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::driver::{Change, Handle, RoleName, Status};
use crate::transport::PeerDirectory;
use crate::types::{FeatureLevel, NodeId};

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long raising the level may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Looks again and again until it is dropped.
pub(super) fn keep_raising(handle: Handle, directory: PeerDirectory, own: FeatureLevel) -> JoinSet<()> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let status = handle.status();
            let of_peer = |id| directory.get(id).map(|peer| peer.feature_level);
            let Some(level) = level_to_raise_to(&status, own, of_peer) else { continue };
            let change = Change { feature_level: Some(level), ..Change::default() };
            match handle.change_members(change, Some(status.configuration_index), TIMEOUT).await {
                Ok(index) => tracing::info!(%level, index = index.0, "raised the cluster's feature level"),
                Err(error) => tracing::debug!(%error, "the feature level is not raised now"),
            }
        }
    });
    task
}

/// The level that all members understand, if this node leads and it is above the cluster's. A member that does not
/// answer now may come back with another program.
fn level_to_raise_to(
    status: &Status,
    own: FeatureLevel,
    of_peer: impl Fn(NodeId) -> Option<FeatureLevel>,
) -> Option<FeatureLevel> {
    if status.role != RoleName::Leader {
        return None;
    }
    let of_member = |id: NodeId| {
        if id == status.node_id {
            return Some(own);
        }
        let answers = status.peers.iter().any(|peer| peer.id == id && peer.active);
        of_peer(id).filter(|_| answers)
    };
    let levels: Option<Vec<_>> = status.configuration.members().into_keys().map(of_member).collect();
    levels?.into_iter().min().filter(|level| *level > status.configuration.feature_level)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::driver::{Configuration, Member, PeerStatus};
    use crate::types::LogIndex;

    fn leader(active: [bool; 2]) -> Status {
        let member = |id| (NodeId(id), Member::default());
        let voters = [member(1), member(2)].into();
        let learners = [member(3)].into();
        let feature_level = FeatureLevel(1);
        let configuration = Configuration { voters, learners, feature_level, ..Configuration::default() };
        let peer = |(id, active)| PeerStatus {
            id: NodeId(id),
            match_index: LogIndex(0),
            next_index: LogIndex(1),
            is_learner: false,
            active,
            caught_up: true,
            silent_for: Duration::ZERO,
            in_flight: (0, 0),
            gets_snapshot: false,
        };
        let peers: Vec<_> = [2, 3].into_iter().zip(active).map(peer).collect();
        let (role, configuration) = (RoleName::Leader, Arc::new(configuration));
        Status { role, configuration, peers: peers.into(), ..Status::sample() }
    }

    #[test]
    fn the_level_is_that_of_the_lowest_member_learners_included() {
        let raised = |status: &Status, own, peers: [u64; 2]| {
            let of_peer = |id: NodeId| Some(FeatureLevel(peers[usize::try_from(id.0).unwrap() - 2]));
            level_to_raise_to(status, FeatureLevel(own), of_peer).map(|level| level.0)
        };
        let status = leader([true, true]);
        assert_eq!(raised(&status, 4, [3, 2]), Some(2));
        assert_eq!(raised(&status, 4, [3, 1]), None, "it is that already");
        assert_eq!(raised(&status, 0, [3, 3]), None, "it never falls");
        assert_eq!(raised(&leader([true, false]), 4, [3, 2]), None, "one is silent");
        let follower = Status { role: RoleName::Follower, ..status.clone() };
        assert_eq!(raised(&follower, 4, [3, 2]), None);
        assert_eq!(level_to_raise_to(&status, FeatureLevel(4), |_| None), None, "nobody has told");
    }
}
