//! A node that stops does not lead: it hands over at once, and again whenever it is made the leader meanwhile.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::driver::{AdminRefusal, Handle, PeerStatus, Status};
use crate::types::NodeId;

/// A leader that stops waits so many election timeouts at most for another to take over.
const ELECTION_TIMEOUTS: u32 = 4;
/// Pause between two looks at who leads, and between two tries while another transfer is under way.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// One that led meanwhile may be stopping, too: where all are, leadership moves no faster than this.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);

/// Lets another node lead, if this one does and there is another.
pub(super) async fn hand_over(handle: &Handle, config: &Config) {
    hand_over_to(None, handle, config).await;
}

async fn hand_over_to(to: Option<NodeId>, handle: &Handle, config: &Config) {
    let timeout = (config.raft.election_timeout * ELECTION_TIMEOUTS).min(config.shutdown_timeout);
    let give_up = Instant::now() + timeout;
    loop {
        let status = handle.status();
        if !leads(&status) || status.configuration.voters.len() < 2 {
            return;
        }
        match handle.transfer_leadership(to, give_up.saturating_duration_since(Instant::now())).await {
            Ok(_) => return tracing::info!("another node leads now"),
            // The lead is handed over already.
            Err(AdminRefusal::InProgress) if Instant::now() < give_up => sleep(LOOK_INTERVAL).await,
            Err(refusal) => return tracing::warn!("leadership was not handed over: {refusal}"),
        }
    }
}

/// Hands over whenever this node leads, until dropped. Two nodes that stop at the same time choose each other easily.
pub(super) async fn keep_handing_over(handle: &Handle, config: &Config) {
    let mut former = Vec::new();
    let mut leads_since = None;
    loop {
        let status = handle.status();
        match status.leader {
            Some(leader) if leader != status.node_id => remember(&mut former, leader),
            Some(_) | None => {}
        }
        if leads(&status) {
            let since = *leads_since.get_or_insert_with(Instant::now);
            let may_go_round = since.elapsed() >= ROUND_INTERVAL;
            if let Some(to) = successor(&status, &former, may_go_round) {
                hand_over_to(Some(to), handle, config).await;
            }
        } else {
            leads_since = None;
        }
        sleep(LOOK_INTERVAL).await;
    }
}

fn leads(status: &Status) -> bool {
    status.leader == Some(status.node_id)
}

/// Moves the latest leader to the end.
fn remember(former: &mut Vec<NodeId>, leader: NodeId) {
    if former.last() != Some(&leader) {
        former.retain(|id| *id != leader);
        former.push(leader);
    }
}

/// Of the voters in touch, the furthest one that has not led since this node stops; or else, if `may_go_round`, the one
/// that led the longest time ago.
fn successor(status: &Status, former: &[NodeId], may_go_round: bool) -> Option<NodeId> {
    let led = |peer: &PeerStatus| former.iter().position(|id| *id == peer.id);
    let able = status.peers.iter().filter(|peer| {
        peer.active
            && status.configuration.voters.contains_key(&peer.id)
            && (may_go_round || led(peer).is_none())
    });
    able.min_by_key(|peer| (led(peer), std::cmp::Reverse(peer.match_index))).map(|peer| peer.id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::driver::{Configuration, Member, RoleName};
    use crate::types::LogIndex;

    /// Node 1 leads; the others are as far as said, or silent.
    fn status(peers: &[(u64, Option<u64>)]) -> Status {
        let peer = |(id, durable): &(u64, Option<u64>)| PeerStatus {
            id: NodeId(*id),
            match_index: LogIndex(durable.unwrap_or(0)),
            next_index: LogIndex(1),
            is_learner: false,
            active: durable.is_some(),
            caught_up: durable.is_some(),
            silent_for: Duration::ZERO,
            in_flight: (0, 0),
            gets_snapshot: false,
        };
        let voters = (1..=4).map(|id| (NodeId(id), Member::default())).collect();
        Status {
            role: RoleName::Leader,
            leader: Some(NodeId(1)),
            configuration: Arc::new(Configuration { voters, ..Configuration::default() }),
            peers: peers.iter().map(peer).collect(),
            has_quorum: true,
            is_heard: true,
            ..Status::sample()
        }
    }

    #[test]
    fn the_furthest_that_has_not_led_leads_next() {
        let all = status(&[(2, Some(8)), (3, Some(9)), (4, Some(7)), (5, Some(9))]);
        assert_eq!(successor(&all, &[], false), Some(NodeId(3)));
        assert_eq!(successor(&all, &[NodeId(3)], true), Some(NodeId(2)));
        let silent = status(&[(2, None), (3, None), (4, Some(7)), (5, Some(9))]);
        assert_eq!(successor(&silent, &[], false), Some(NodeId(4)), "5 is no voter");
    }

    #[test]
    fn where_all_have_led_leadership_moves_slowly() {
        let all = status(&[(2, Some(8)), (3, Some(9))]);
        let mut former = Vec::new();
        for leader in [2, 3, 3, 2] {
            remember(&mut former, NodeId(leader));
        }
        assert_eq!(former, [NodeId(3), NodeId(2)]);
        assert_eq!(successor(&all, &former, false), None);
        assert_eq!(successor(&all, &former, true), Some(NodeId(3)));
    }
}
