//! Every metric, in one struct that is handed to all that count. Simulated nodes must not share counters,
//! so nothing here is static.

use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntGaugeVec, Opts, Registry, TextEncoder,
};
/// Handles that other modules resolve once and keep; prometheus itself is used only here.
pub use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

/// Durations from 50 µs to 13 s, doubling.
const DURATION_BUCKETS_S: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_6, 0.003_2, 0.006_4, 0.012_8, 0.025_6, 0.051_2,
    0.102_4, 0.204_8, 0.409_6, 0.819_2, 1.638_4, 3.276_8, 13.107_2,
];

/// Counts from 1 to 4096, doubling.
const COUNT_BUCKETS: [f64; 13] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

macro_rules! metrics {
    ($( $(#[$doc:meta])* $field:ident : $kind:ident = $name:literal, $help:literal $(, [$($label:literal),+])? ; )+) => {
        /// All metrics of one node. Field names are the metric names without the `kuberaft_` prefix.
        #[derive(Clone)]
        pub struct Metrics {
            registry: Registry,
            $( $(#[$doc])* #[doc = $help] pub $field: $kind, )+
        }

        /// Name, kind, labels and meaning of each metric, in the order above.
        #[cfg(test)]
        const DESCRIPTIONS: &[(&str, &str, &[&str], &str)] =
            &[$( ($name, stringify!($kind), &[$($($label),+)?], $help) ),+];

        impl Metrics {
            /// Registers every metric in a registry of its own.
            ///
            /// # Panics
            /// Never in practice: names are checked by the tests.
            #[must_use]
            pub fn new() -> Self {
                let registry = Registry::new();
                $(
                    let $field = <$kind as Make>::make($name, $help, &[$($($label),+)?]);
                    registry.register(Box::new($field.clone())).expect("metric names are unique");
                )+
                Self { registry, $($field),+ }
            }
        }
    };
}

metrics! {
    raft_term: IntGauge = "kuberaft_raft_term", "Current term";
    raft_role: IntGaugeVec = "kuberaft_raft_role", "1 for the role this node has, 0 for the others", ["role"];
    raft_is_leader: IntGauge = "kuberaft_raft_is_leader", "1 while this node is the leader";
    raft_has_leader: IntGauge = "kuberaft_raft_has_leader", "1 while this node knows a leader";
    raft_leader_changes_total: IntCounter = "kuberaft_raft_leader_changes_total", "Times another leader was seen";
    raft_elections_started_total: IntCounter = "kuberaft_raft_elections_started_total", "Elections that this node started";
    raft_elections_won_total: IntCounter = "kuberaft_raft_elections_won_total", "Elections that this node won";
    raft_prevotes_total: IntCounterVec = "kuberaft_raft_prevotes_total", "Pre-vote requests answered, by outcome", ["outcome"];
    raft_votes_total: IntCounterVec = "kuberaft_raft_votes_total", "Vote requests answered, by outcome", ["outcome"];
    raft_commit_index: IntGauge = "kuberaft_raft_commit_index", "Latest index known to be committed";
    raft_applied_index: IntGauge = "kuberaft_raft_applied_index", "Latest index applied to the state machine";
    raft_last_log_index: IntGauge = "kuberaft_raft_last_log_index", "Last index of the log";
    raft_snapshot_index: IntGauge = "kuberaft_raft_snapshot_index", "Latest index that the durable checkpoint covers";
    raft_snapshots_sent_total: IntCounter = "kuberaft_raft_snapshots_sent_total", "Snapshots that a peer received whole from this node";
    raft_snapshots_received_total: IntCounter = "kuberaft_raft_snapshots_received_total", "Snapshots that this node received whole";
    raft_snapshots_refused_total: IntCounter = "kuberaft_raft_snapshots_refused_total", "Snapshots refused, or discarded half received, for want of disk space";
    raft_snapshot_bytes_total: IntCounterVec = "kuberaft_raft_snapshot_bytes_total", "Bytes of snapshots' content, sent or received", ["direction"];
    raft_messages_ignored_total: IntCounterVec = "kuberaft_raft_messages_ignored_total", "Seconds in which peers' messages were ignored that no correct peer sends to this node, by reason", ["why"];
    raft_messages_refused_total: IntCounterVec = "kuberaft_raft_messages_refused_total", "Streams of peers closed because of a malformed message", ["peer"];
    raft_proposals_pending: IntGauge = "kuberaft_raft_proposals_pending", "Writes that wait for their outcome here";
    raft_proposals_failed_total: IntCounterVec = "kuberaft_raft_proposals_failed_total", "Writes refused or of unknown outcome, by reason", ["reason"];
    raft_commit_duration_seconds: Histogram = "kuberaft_raft_commit_duration_seconds", "From append on the leader to commit";
    raft_apply_duration_seconds: Histogram = "kuberaft_raft_apply_duration_seconds", "Applying one batch";
    storage_flush_duration_seconds: Histogram = "kuberaft_storage_flush_duration_seconds", "One write and fdatasync of the log";
    storage_flush_entries: Histogram = "kuberaft_storage_flush_entries", "Entries made durable by one flush";
    storage_bytes: IntGauge = "kuberaft_storage_bytes", "Bytes of the data directory's log and state files";
    storage_free_bytes: IntGauge = "kuberaft_storage_free_bytes", "Bytes that are free on the data directory's disk";
    storage_scrubbed_bytes_total: IntCounter = "kuberaft_storage_scrubbed_bytes_total", "Bytes of older log segments read again to find damage";
    storage_scrub_end_seconds: IntGauge = "kuberaft_storage_scrub_end_seconds", "Unix time at which all older log segments were last found sound; 0 before the first time";
    storage_damaged_segments: IntGauge = "kuberaft_storage_damaged_segments", "Older log segments found damaged";
    raft_peer_rtt_seconds: GaugeVec = "kuberaft_raft_peer_rtt_seconds", "Latest heartbeat round trip, measured by the leader", ["peer"];
    raft_peer_lag_entries: IntGaugeVec = "kuberaft_raft_peer_lag_entries", "Entries of the leader's log that the peer has not acknowledged", ["peer"];
    raft_peer_send_failures_total: IntCounterVec = "kuberaft_raft_peer_send_failures_total", "Messages dropped before they were sent", ["peer"];
    raft_peer_receive_drops_total: IntCounterVec = "kuberaft_raft_peer_receive_drops_total", "Messages received from the peer and dropped for want of room", ["peer"];
    raft_election_timeout_seconds: Gauge = "kuberaft_raft_election_timeout_seconds", "Election timeout in force: as configured, or twice what a majority's answer and a flush take, if that is longer";
    raft_leader_last_contact_seconds: Gauge = "kuberaft_raft_leader_last_contact_seconds", "Since a leader was last heard, or since the start; 0 at the leader";
    raft_voters: IntGauge = "kuberaft_raft_voters", "Voters of the latest configuration";
    raft_learners: IntGauge = "kuberaft_raft_learners", "Learners of the latest configuration";
    raft_failure_tolerance: IntGauge = "kuberaft_raft_failure_tolerance", "Voters that may fail before writes stop, as the leader sees it";
    raft_differing_members: IntGauge = "kuberaft_raft_differing_members", "Members whose state differs from this node's after the same entry";
    kube_majority_on_one_node: IntGauge = "kuberaft_kube_majority_on_one_node", "1 at a leader with a majority of its voters on one Kubernetes node";
    queue_length: IntGaugeVec = "kuberaft_queue_length", "Items waiting in a queue between threads", ["queue"];
    kv_keys: IntGauge = "kuberaft_kv_keys", "Keys in the store";
    http_requests_total: IntCounterVec = "kuberaft_http_requests_total", "HTTP requests by route and status code", ["route", "code"];
    http_request_duration_seconds: HistogramVec = "kuberaft_http_request_duration_seconds", "HTTP requests, until the response is ready", ["route"];
    http_memory_bytes: IntGaugeVec = "kuberaft_http_memory_bytes", "Memory taken by bodies of requests or large answers that are in progress", ["kind"];
    http_memory_max_bytes: IntGaugeVec = "kuberaft_http_memory_max_bytes", "Memory that bodies of requests or large answers may take; further ones wait", ["kind"];
    tls_certificate_expiry_seconds: IntGaugeVec = "kuberaft_tls_certificate_expiry_seconds", "Unix time at which the certificate in use ends, by port; `peer_secret`: one that the member made of the shared secret", ["use"];
    tls_handshakes_failed_total: IntCounterVec = "kuberaft_tls_handshakes_failed_total", "Connections refused for want of TLS or of a certificate, by port", ["use"];
    log_lines_dropped_total: IntCounter = "kuberaft_log_lines_dropped_total", "Log lines dropped because their reader was slow or gone";
    cluster_info: IntGaugeVec = "kuberaft_cluster_info", "Always 1; the cluster that this node belongs to", ["cluster_id"];
    build_info: IntGaugeVec = "kuberaft_build_info", "Always 1; what runs", ["version", "revision"];
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The text exposition of all metrics, those of the process included.
    ///
    /// # Errors
    /// A metric that cannot be encoded.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Adds the metrics of this operating system process; once for each process, not for each node in it.
    ///
    /// # Errors
    /// They are there already.
    pub fn add_process(&self) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
    }
}

/// Builds one kind of metric.
trait Make {
    fn make(name: &str, help: &str, labels: &[&str]) -> Self;
}

macro_rules! make {
    ($kind:ident, |$name:ident, $help:ident, $labels:ident| $body:expr) => {
        impl Make for $kind {
            fn make($name: &str, $help: &str, $labels: &[&str]) -> Self {
                $body.expect("metric names and labels are valid")
            }
        }
    };
}

make!(IntGauge, |name, help, _labels| IntGauge::new(name, help));
make!(Gauge, |name, help, _labels| Gauge::new(name, help));
make!(IntCounter, |name, help, _labels| IntCounter::new(name, help));
make!(IntGaugeVec, |name, help, labels| IntGaugeVec::new(Opts::new(name, help), labels));
make!(GaugeVec, |name, help, labels| GaugeVec::new(Opts::new(name, help), labels));
make!(IntCounterVec, |name, help, labels| IntCounterVec::new(Opts::new(name, help), labels));
make!(Histogram, |name, help, _labels| Histogram::with_opts(
    HistogramOpts::new(name, help).buckets(buckets(name))
));
make!(HistogramVec, |name, help, labels| HistogramVec::new(
    HistogramOpts::new(name, help).buckets(buckets(name)),
    labels
));

fn buckets(name: &str) -> Vec<f64> {
    if name.ends_with("_seconds") { DURATION_BUCKETS_S.to_vec() } else { COUNT_BUCKETS.to_vec() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn renders_a_counter_under_its_name() {
        let metrics = Metrics::new();
        metrics.raft_elections_won_total.inc();
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(text.contains("kuberaft_raft_elections_won_total 1"), "{text}");
    }

    /// The row of `docs/metrics.md` for one metric.
    fn row((name, kind, labels, help): &(&str, &str, &[&str], &str)) -> String {
        let kind = if kind.contains("Counter") {
            "counter"
        } else if kind.contains("Gauge") {
            "gauge"
        } else {
            "histogram"
        };
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
    }

    #[test]
    fn the_reference_lists_every_metric_and_no_other() {
        let page = include_str!("../docs/metrics.md");
        let listed: BTreeSet<_> =
            page.lines().filter(|line| line.starts_with("| `kuberaft_")).map(str::to_owned).collect();
        let wanted: BTreeSet<_> = DESCRIPTIONS.iter().map(row).collect();
        let join =
            |one: &BTreeSet<String>, other| one.difference(other).cloned().collect::<Vec<_>>().join("\n");
        let (missing, extra) = (join(&wanted, &listed), join(&listed, &wanted));
        assert!(
            missing.is_empty() && extra.is_empty(),
            "docs/metrics.md lacks:\n{missing}\nand should not have:\n{extra}"
        );
    }

    #[test]
    fn two_nodes_do_not_share_counters() {
        let (one, two) = (Metrics::new(), Metrics::new());
        one.raft_elections_won_total.inc();
        assert_eq!(two.raft_elections_won_total.get(), 0);
    }
}
