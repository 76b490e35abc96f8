//! Turns what the core reports into metrics and log lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::events::Events;
use super::{OnConfiguration, clock};
use crate::metrics::{IntGauge, Metrics};
use crate::raft::{Configuration, Observation, Refusal, RefusalReason, RoleName, Status, VoteAnswer};
use crate::replica::Core;
use crate::types::{Instant, LogIndex, NodeId};

/// Time between updates of what is shown of each peer.
const PEERS_INTERVAL: Duration = Duration::from_millis(200);
const REFUSAL_REASONS: [RefusalReason; 8] = [
    RefusalReason::NoLeader,
    RefusalReason::NoQuorum,
    RefusalReason::Overloaded,
    RefusalReason::LeadershipLost,
    RefusalReason::Timeout,
    RefusalReason::SpaceLow,
    RefusalReason::NotHeard,
    RefusalReason::ClusterVersion,
];
/// Why the core ignores messages; see [`Observation::MessageIgnored`].
const IGNORED: [&str; 6] =
    ["term_leap", "time_leap", "snapshot_leap", "committed_conflict", "falling_term", "falling_time"];
const VOTE_ANSWERS: [VoteAnswer; 5] = [
    VoteAnswer::Granted,
    VoteAnswer::OldTerm,
    VoteAnswer::VotedForAnother,
    VoteAnswer::LogBehind,
    VoteAnswer::LeaderAlive,
];
const ROLES: [RoleName; 4] =
    [RoleName::Follower, RoleName::PreCandidate, RoleName::Candidate, RoleName::Leader];

pub(super) struct Observer {
    node_id: NodeId,
    metrics: Metrics,
    /// What waits in the core's queues; set after every turn.
    queues: [IntGauge; 5],
    on_configuration: OnConfiguration,
    events: Events,
    configuration: Option<Arc<Configuration>>,
    peers_due: Instant,
    /// When any leader was last heard; the start, before.
    leader_heard: Instant,
    /// The leader last counted as a change.
    leader: Option<NodeId>,
}

impl Observer {
    pub(super) fn new(
        node_id: NodeId,
        metrics: Metrics,
        on_configuration: OnConfiguration,
        events: Events,
    ) -> Self {
        show_counters_at_zero(&metrics);
        let queues = ["messages", "requests", "log", "apply", "done"]
            .map(|queue| metrics.queue_length.with_label_values(&[queue]));
        Self {
            node_id,
            metrics,
            queues,
            on_configuration,
            events,
            configuration: None,
            peers_due: Instant::default(),
            leader_heard: clock::now(),
            leader: None,
        }
    }

    /// After each turn: the gauges, and what the core reported.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        core: &Core,
        status: &Status,
        observations: Vec<Observation>,
    ) {
        self.watch_configuration(status);
        for observation in observations {
            self.on_observation(&observation);
            self.events.publish(&observation);
        }
        let metrics = &self.metrics;
        metrics.raft_commit_index.set(gauge(status.commit_index));
        metrics.raft_applied_index.set(gauge(core.applied()));
        metrics.raft_last_log_index.set(gauge(status.last_log_index));
        metrics.raft_proposals_pending.set(i64::try_from(status.proposals_pending).unwrap_or(i64::MAX));
        let silence = self.silence(now, status.leader_contact_micros);
        if now >= self.peers_due {
            self.peers_due = now.after(PEERS_INTERVAL);
            self.show_role(status, silence);
            let differing = core.raft().differing_members();
            self.metrics.raft_differing_members.set(i64::try_from(differing).unwrap_or(i64::MAX));
            self.show_peers(now, core, status);
        }
    }

    /// For how long no leader was heard. `contact_micros` is the core's answer, which has none while no leader is known.
    fn silence(&mut self, now: Instant, contact_micros: Option<u64>) -> Duration {
        if let Some(micros) = contact_micros {
            self.leader_heard = Instant(now.0.saturating_sub(micros));
        }
        now.since(self.leader_heard)
    }

    /// What waits for the core (`messages`, `requests`, `done`) and for what it hands on.
    pub(super) fn queues(&self, messages: usize, requests: usize, log: usize, apply: usize, done: usize) {
        for (gauge, length) in self.queues.iter().zip([messages, requests, log, apply, done]) {
            gauge.set(i64::try_from(length).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn count_failed_write(&self, refusal: Refusal) {
        let reason = refusal_reason(refusal.reason);
        self.metrics.raft_proposals_failed_total.with_label_values(&[reason]).inc();
    }

    fn watch_configuration(&mut self, status: &Status) {
        let same = match (&self.configuration, &status.configuration) {
            (Some(known), Some(current)) => Arc::ptr_eq(known, current),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.configuration.clone_from(&status.configuration);
            self.metrics.raft_peer_lag_entries.reset();
            self.metrics.raft_peer_rtt_seconds.reset();
            if let Some(configuration) = &self.configuration {
                self.metrics.raft_voters.set(i64::try_from(configuration.voters.len()).unwrap_or(i64::MAX));
                self.metrics
                    .raft_learners
                    .set(i64::try_from(configuration.learners.len()).unwrap_or(i64::MAX));
                (self.on_configuration)(configuration);
            }
        }
    }

    fn name(&self, id: NodeId) -> String {
        let member = self.configuration.as_ref().and_then(|configuration| configuration.member(id));
        member.map_or_else(|| id.to_string(), |member| member.name.clone())
    }

    fn names(&self, ids: &[NodeId]) -> String {
        ids.iter().map(|id| self.name(*id)).collect::<Vec<_>>().join(" ")
    }

    fn on_observation(&mut self, observation: &Observation) {
        let metrics = &self.metrics;
        match *observation {
            Observation::RoleChanged { role, term, why } => {
                metrics.raft_term.set(gauge(LogIndex(term.0)));
                tracing::info!(role = role.as_str(), term = term.0, why, "role changed");
                self.show_role_name(role);
            }
            Observation::LeaderChanged { leader, term } => {
                if leader.is_some() && leader != self.leader {
                    metrics.raft_leader_changes_total.inc();
                    self.leader = leader;
                }
                let leader = leader.map(|id| self.name(id));
                tracing::debug!(leader, term = term.0, "leader changed");
            }
            Observation::ElectionStarted { .. } => metrics.raft_elections_started_total.inc(),
            Observation::ElectionWon { .. } => metrics.raft_elections_won_total.inc(),
            Observation::VoteAnswered { to, term, pre_vote, answer } => {
                let outcome = vote_outcome(answer);
                let counter = if pre_vote { &metrics.raft_prevotes_total } else { &metrics.raft_votes_total };
                counter.with_label_values(&[outcome]).inc();
                tracing::debug!(candidate = self.name(to), term = term.0, pre_vote, outcome, "vote answered");
            }
            Observation::PeerFound { peer } => tracing::info!(peer = self.name(peer), "peer answers again"),
            Observation::PeerLost { peer } => tracing::warn!(peer = self.name(peer), "peer does not answer"),
            Observation::PeerRoundTrip { peer, micros } => {
                let rtt = Duration::from_micros(micros).as_secs_f64();
                metrics.raft_peer_rtt_seconds.with_label_values(&[self.name(peer).as_str()]).set(rtt);
            }
            Observation::Committed { micros, .. } => {
                metrics.raft_commit_duration_seconds.observe(Duration::from_micros(micros).as_secs_f64());
            }
            Observation::ConfigurationChanged { index, joint, ref voters, ref learners } => {
                let (voters, learners) = (self.names(voters), self.names(learners));
                tracing::info!(index = index.0, joint, voters, learners, "members changed");
            }
            Observation::MemberPromoted { member } => {
                tracing::info!(member = self.name(member), "learner has caught up and becomes a voter");
            }
            Observation::MemberRemoved { member } => {
                tracing::info!(member = self.name(member), "member removed");
            }
            Observation::TransferStarted { to } => {
                tracing::info!(to = self.name(to), "begins a leadership transfer");
            }
            Observation::TransferEnded { to, done } => {
                tracing::info!(to = self.name(to), done, "the leadership transfer has ended");
            }
            Observation::MessageIgnored { from, why } => {
                metrics.raft_messages_ignored_total.with_label_values(&[why]).inc();
                tracing::warn!(peer = self.name(from), why, "ignored a message that no correct peer sends");
            }
            Observation::LogCompacted { .. }
            | Observation::SnapshotStarted { .. }
            | Observation::SnapshotSent { .. }
            | Observation::SnapshotReceived { .. }
            | Observation::SnapshotInstalled { .. } => self.on_snapshot(observation),
            Observation::DiskStalls { .. }
            | Observation::DiskWorks
            | Observation::SpaceLow
            | Observation::SpaceFreed
            | Observation::DataLost { .. } => on_disk_trouble(observation),
            Observation::StateDiffers { .. }
            | Observation::StateAgrees { .. }
            | Observation::StateDiverged { .. } => self.on_state(observation),
        }
    }

    fn on_state(&self, observation: &Observation) {
        match *observation {
            Observation::StateDiffers { peer, index } => tracing::error!(
                peer = self.name(peer),
                index = index.0,
                "this member's state differs from ours"
            ),
            Observation::StateAgrees { peer, index } => {
                tracing::info!(
                    peer = self.name(peer),
                    index = index.0,
                    "this member's state equals ours again"
                );
            }
            Observation::StateDiverged { index, own, majority } => tracing::error!(
                index = index.0,
                own = format!("{:016x}", own.value),
                majority = format!("{:016x}", majority.value),
                "our state differs from that of a majority of the voters"
            ),
            _ => {}
        }
    }

    fn on_snapshot(&self, observation: &Observation) {
        match *observation {
            Observation::LogCompacted { through } => tracing::debug!(through = through.0, "log compacted"),
            Observation::SnapshotStarted { to } => {
                tracing::info!(
                    peer = self.name(to),
                    "peer lacks entries that the log no longer holds: sending it a snapshot"
                );
            }
            Observation::SnapshotSent { to, index: Some(index) } => {
                tracing::info!(peer = self.name(to), index = index.0, "snapshot sent");
            }
            Observation::SnapshotSent { to, index: None } => {
                tracing::warn!(peer = self.name(to), "snapshot could not be sent; it is tried again");
            }
            Observation::SnapshotReceived { from, index } => {
                tracing::info!(peer = self.name(from), index = index.0, "snapshot received");
            }
            Observation::SnapshotInstalled { index } => tracing::info!(index = index.0, "snapshot installed"),
            _ => {}
        }
    }

    fn show_role_name(&self, role: RoleName) {
        for name in ROLES {
            self.metrics.raft_role.with_label_values(&[name.as_str()]).set(i64::from(name == role));
        }
        self.metrics.raft_is_leader.set(i64::from(role == RoleName::Leader));
    }

    fn show_role(&self, status: &Status, silence: Duration) {
        self.show_role_name(status.role);
        self.metrics.raft_term.set(gauge(LogIndex(status.term.0)));
        self.metrics.raft_has_leader.set(i64::from(status.leader.is_some()));
        self.metrics.raft_election_timeout_seconds.set(status.election_timeout.as_secs_f64());
        self.metrics.raft_leader_last_contact_seconds.set(silence.as_secs_f64());
    }

    /// A leader shows how far each follower lags and how many may fail; the others do not know.
    fn show_peers(&self, now: Instant, core: &Core, status: &Status) {
        let Some(configuration) = &self.configuration else { return };
        let metrics = &self.metrics;
        if status.role != RoleName::Leader {
            metrics.raft_peer_lag_entries.reset();
            metrics.raft_peer_rtt_seconds.reset();
            metrics.raft_failure_tolerance.set(0);
            return;
        }
        let peers: BTreeMap<_, _> = core.raft().peers(now).into_iter().map(|peer| (peer.id, peer)).collect();
        for (id, peer) in &peers {
            let lag = status.last_log_index.0.saturating_sub(peer.match_index.0);
            let gauge = metrics.raft_peer_lag_entries.with_label_values(&[self.name(*id).as_str()]);
            gauge.set(i64::try_from(lag).unwrap_or(i64::MAX));
        }
        let is_active = |id: &&NodeId| **id == self.node_id || peers.get(*id).is_some_and(|peer| peer.active);
        let active = configuration.voters.keys().filter(is_active).count();
        let tolerance = active.saturating_sub(configuration.voters.len() / 2 + 1);
        metrics.raft_failure_tolerance.set(i64::try_from(tolerance).unwrap_or(i64::MAX));
    }
}

fn on_disk_trouble(observation: &Observation) {
    match *observation {
        Observation::DiskStalls { micros } => {
            tracing::error!(
                waited_ms = micros / 1000,
                "the disk does not finish what was written to the log"
            );
        }
        Observation::DiskWorks => tracing::info!("the disk works again"),
        Observation::SpaceLow => tracing::error!("free space is below the reserve: no new entries"),
        Observation::SpaceFreed => tracing::info!("there is room for new entries again"),
        Observation::DataLost { match_index, last_index } => tracing::error!(
            acknowledged = match_index.0,
            last = last_index.0,
            "the log lacks entries that this node acknowledged"
        ),
        _ => {}
    }
}

/// A counter that appears with its first event hides that event from `rate` and `increase`.
fn show_counters_at_zero(metrics: &Metrics) {
    for reason in REFUSAL_REASONS {
        metrics.raft_proposals_failed_total.with_label_values(&[refusal_reason(reason)]);
    }
    for answer in VOTE_ANSWERS {
        metrics.raft_votes_total.with_label_values(&[vote_outcome(answer)]);
        metrics.raft_prevotes_total.with_label_values(&[vote_outcome(answer)]);
    }
    for why in IGNORED {
        metrics.raft_messages_ignored_total.with_label_values(&[why]);
    }
    for direction in ["sent", "received"] {
        metrics.raft_snapshot_bytes_total.with_label_values(&[direction]);
    }
}

fn refusal_reason(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::NoLeader => "no_leader",
        RefusalReason::NoQuorum => "no_quorum",
        RefusalReason::Overloaded => "overloaded",
        RefusalReason::LeadershipLost => "leadership_lost",
        RefusalReason::Timeout => "timeout",
        RefusalReason::SpaceLow => "space_low",
        RefusalReason::NotHeard => "not_heard",
        RefusalReason::ClusterVersion => "cluster_version",
    }
}

fn gauge(index: LogIndex) -> i64 {
    i64::try_from(index.0).unwrap_or(i64::MAX)
}

fn vote_outcome(answer: VoteAnswer) -> &'static str {
    match answer {
        VoteAnswer::Granted => "granted",
        VoteAnswer::OldTerm => "refused_old_term",
        VoteAnswer::VotedForAnother => "refused_voted_for_another",
        VoteAnswer::LogBehind => "refused_log_behind",
        VoteAnswer::LeaderAlive => "ignored_leader_alive",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// The values of labels that docs/metrics.md lists, by label.
    fn documented() -> BTreeMap<String, BTreeSet<String>> {
        let (_, table) = include_str!("../../docs/metrics.md").split_once("## Values of labels").unwrap();
        let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let rows = table.lines().map(quoted).filter(|values| !values.is_empty());
        rows.map(|row| (row[0].clone(), row[1..].iter().cloned().collect())).collect()
    }

    #[test]
    fn the_reference_lists_every_value_of_a_label_and_no_other() {
        let metrics = Metrics::new();
        show_counters_at_zero(&metrics);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        let mut documented = documented();
        for label in ["direction", "outcome", "reason", "why"] {
            let shown = text.lines().filter_map(|line| {
                let (_, rest) = line.split_once(&format!("{{{label}=\""))?;
                Some(rest.split_once('"')?.0.to_owned())
            });
            assert_eq!(documented.remove(label), Some(shown.collect()), "{label}");
        }
    }

    #[test]
    fn the_silence_of_leaders_grows_until_one_is_heard() {
        let on_configuration: OnConfiguration = Box::new(|_| {});
        let mut observer = Observer::new(NodeId(1), Metrics::new(), on_configuration, Events::default());
        let start = observer.leader_heard;
        let at = |seconds: u64| start.after(Duration::from_secs(seconds));
        assert_eq!(observer.silence(at(3), None), Duration::from_secs(3), "none since the start");
        assert_eq!(observer.silence(at(10), Some(200_000)), Duration::from_millis(200));
        // A candidate knows of no leader.
        assert_eq!(observer.silence(at(12), None), Duration::from_millis(2_200));
        assert_eq!(observer.silence(at(20), None), Duration::from_millis(10_200));
        assert_eq!(observer.silence(at(21), Some(0)), Duration::ZERO);
    }
}
