//! The leader's controller, a fake cluster at one hand and a misbehaving API server at the other.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::driver::Member;
use crate::k8s::api_server::{ApiServer, Fault};
use crate::k8s::tests::{eventually, kube, latch, pod, role, settings, stateful_set};
use crate::metrics::Metrics;

const OWN: ClusterId = ClusterId(7);

/// A cluster that does what it is told, and remembers that.
#[derive(Default)]
struct Fake {
    led: Mutex<Option<Led>>,
    changes: Mutex<Vec<Change>>,
    hand_overs: Mutex<Vec<NodeId>>,
    waits: Mutex<Option<String>>,
}

impl Cluster for Arc<Fake> {
    fn cluster_id(&self) -> ClusterId {
        OWN
    }

    fn node_id(&self) -> NodeId {
        NodeId(1)
    }

    fn led(&self) -> Option<Led> {
        self.led.lock().unwrap().clone()
    }

    async fn change(&self, change: Change, expected: LogIndex) -> Result<(), String> {
        let mut led = self.led.lock().unwrap();
        let led = led.as_mut().ok_or("no leader")?;
        if led.index != expected {
            return Err("other members".into());
        }
        let mut configuration = (*led.configuration).clone();
        configuration.voters.retain(|id, _| !change.remove.contains(id));
        led.configuration = Arc::new(configuration);
        led.index = LogIndex(led.index.0 + 1);
        self.changes.lock().unwrap().push(change);
        Ok(())
    }

    async fn hand_over(&self, to: NodeId) -> Result<(), String> {
        self.hand_overs.lock().unwrap().push(to);
        *self.led.lock().unwrap() = None;
        Ok(())
    }

    fn waits(&self, why: Option<&str>) {
        *self.waits.lock().unwrap() = why.map(str::to_owned);
    }
}

impl Fake {
    /// Node 1, on pod kv-0, leads so many voters; those of `away` are out of touch.
    fn leading(voters: u64, away: &[u64]) -> Arc<Self> {
        let fake = Self::default();
        *fake.led.lock().unwrap() = Some(led(voters, away));
        Arc::new(fake)
    }

    fn waits_for(&self, what: &str) -> bool {
        self.waits.lock().unwrap().as_ref().is_some_and(|why| why.contains(what))
    }

    fn removed(&self) -> Vec<Vec<u64>> {
        let ids = |change: &Change| change.remove.iter().map(|id| id.0).collect();
        self.changes.lock().unwrap().iter().map(ids).collect()
    }
}

fn led(voters: u64, away: &[u64]) -> Led {
    let member = |id: u64| Member { name: format!("kv-{}", id - 1), ..Member::default() };
    let voters: BTreeMap<_, _> = (1..=voters).map(|id| (NodeId(id), member(id))).collect();
    let health = |id: &NodeId| Health { id: *id, in_touch: !away.contains(&id.0), caught_up: true };
    let health = voters.keys().map(health).collect();
    let configuration = Configuration { voters, ..Configuration::default() };
    Led { configuration: Arc::new(configuration), index: LogIndex(5), health }
}

/// An API server with a StatefulSet of so many replicas, a pod for each, a latch that this cluster filled, and the
/// chart's role: pods up to `maxMembers`.
async fn server(replicas: u32) -> ApiServer {
    let server = ApiServer::start().await;
    for resource in ["pods", "pods/eviction"] {
        server.restrict(resource, (0..settings().members_max).map(|ordinal| format!("kv-{ordinal}")));
    }
    server.put("configmaps", latch(&OWN.to_string()));
    server.put("statefulsets", stateful_set(replicas));
    for ordinal in 0..replicas {
        server.put("pods", pod(ordinal, None));
    }
    server
}

fn control(server: &ApiServer, cluster: &Arc<Fake>) -> IntGauge {
    let kube = kube(server);
    let (announcer, publishing) = Announcer::new(&kube);
    tokio::spawn(publishing);
    let majority_on_one_node = Metrics::new().kube_majority_on_one_node;
    let controller = Controller::new(kube, Arc::clone(cluster), announcer, majority_on_one_node.clone());
    tokio::spawn(controller.run(Arc::default()));
    majority_on_one_node
}

fn is_announced(server: &ApiServer, reason: &str) -> bool {
    server.list("events").iter().any(|event| event["reason"] == reason)
}

/// Waits for so many looks that begin from now on.
async fn looks(server: &ApiServer, number: usize) {
    let seen = || server.count("GET statefulsets kv");
    let enough = seen() + number;
    eventually("further looks", || seen() >= enough).await;
}

#[tokio::test]
async fn a_stale_watch_event_removes_nobody() {
    let server = server(3).await;
    let cluster = Fake::leading(3, &[]);
    control(&server, &cluster);
    eventually("the label", || role(&server, 0).as_deref() == Some("leader")).await;
    eventually("a watch", || server.count("WATCH statefulsets") > 0).await;
    let before = server.count("GET statefulsets kv");
    server.replay("statefulsets", stateful_set(1));
    eventually("a look", || server.count("GET statefulsets kv") > before).await;
    looks(&server, 1).await;
    assert!(cluster.removed().is_empty());
}

#[tokio::test]
async fn all_pods_that_are_too_many_are_removed_in_one_change() {
    let server = server(5).await;
    let cluster = Fake::leading(5, &[]);
    control(&server, &cluster);
    eventually("the label", || role(&server, 0).as_deref() == Some("leader")).await;
    assert!(cluster.removed().is_empty());
    server.put("statefulsets", stateful_set(1));
    eventually("a change", || !cluster.removed().is_empty()).await;
    looks(&server, 2).await;
    assert_eq!(cluster.removed(), [[2, 3, 4, 5]]);
    eventually("the Event", || is_announced(&server, "MembersRemoved")).await;
}

#[tokio::test]
async fn nobody_is_removed_before_a_majority_of_those_that_stay_is_in_touch() {
    let server = server(5).await;
    let cluster = Fake::leading(5, &[2, 3]);
    control(&server, &cluster);
    server.put("statefulsets", stateful_set(3));
    eventually("the Event", || is_announced(&server, "ScaleDownWaits")).await;
    looks(&server, 2).await;
    assert!(cluster.removed().is_empty());
    assert!(cluster.waits_for("only 1 of the 3 voters that stay"), "the status says why");
    *cluster.led.lock().unwrap() = Some(led(5, &[3]));
    eventually("a change", || cluster.removed() == [[4, 5]]).await;
    eventually("nothing to say", || cluster.waits.lock().unwrap().is_none()).await;
}

#[tokio::test]
async fn a_node_that_leads_no_longer_waits_for_nothing() {
    let server = server(5).await;
    let cluster = Fake::leading(5, &[2, 3]);
    let kube = kube(&server);
    let (announcer, publishing) = Announcer::new(&kube);
    tokio::spawn(publishing);
    let gauge = Metrics::new().kube_majority_on_one_node;
    let wake = Arc::new(Notify::new());
    let controller = Controller::new(kube, Arc::clone(&cluster), announcer, gauge);
    tokio::spawn(controller.run(Arc::clone(&wake)));
    server.put("statefulsets", stateful_set(3));
    eventually("it waits", || cluster.waits_for("scaling down to 3 waits")).await;
    *cluster.led.lock().unwrap() = None;
    wake.notify_one();
    eventually("nothing to say", || cluster.waits.lock().unwrap().is_none()).await;
}

#[tokio::test]
async fn at_zero_replicas_everybody_stays() {
    let server = server(3).await;
    let cluster = Fake::leading(3, &[]);
    control(&server, &cluster);
    server.put("statefulsets", stateful_set(0));
    looks(&server, 2).await;
    assert!(cluster.removed().is_empty());
}

#[tokio::test]
async fn an_api_server_that_was_away_is_found_again() {
    let server = server(5).await;
    let cluster = Fake::leading(5, &[]);
    control(&server, &cluster);
    eventually("the label", || role(&server, 0).as_deref() == Some("leader")).await;
    server.set_away(true);
    server.put("statefulsets", stateful_set(3));
    // Longer than a look, and than the next one.
    tokio::time::sleep(BUSY_INTERVAL * 3).await;
    assert!(cluster.removed().is_empty());
    server.set_away(false);
    eventually("a change", || cluster.removed() == [[4, 5]]).await;
}

#[tokio::test]
async fn refusals_and_silence_are_tried_again() {
    for fault in [Fault::Status(403), Fault::Status(500), Fault::RetryAfter(429, 30), Fault::Silence] {
        let server = server(5).await;
        server.fail("GET", "statefulsets", fault, 2);
        server.put("statefulsets", stateful_set(3));
        let cluster = Fake::leading(5, &[]);
        control(&server, &cluster);
        eventually("a change", || cluster.removed() == [[4, 5]]).await;
    }
}

#[tokio::test]
async fn labels_that_may_not_be_written_hold_up_nothing() {
    let server = server(5).await;
    server.fail("PATCH", "pods", Fault::Status(403), usize::MAX);
    server.put("statefulsets", stateful_set(3));
    let cluster = Fake::leading(5, &[]);
    control(&server, &cluster);
    eventually("a change", || cluster.removed() == [[4, 5]]).await;
    server.heal();
    eventually("the label", || role(&server, 0).as_deref() == Some("leader")).await;
}

#[tokio::test]
async fn a_pod_of_an_old_template_is_evicted_once_the_budget_allows() {
    let server = server(3).await;
    for ordinal in 0..3 {
        let mut old = pod(ordinal, None);
        old["metadata"]["labels"]["controller-revision-hash"] = json!("old");
        server.put("pods", old);
    }
    server.fail("POST", "pods/eviction", Fault::RetryAfter(429, 10), 2);
    let cluster = Fake::leading(3, &[]);
    control(&server, &cluster);
    eventually("the Event", || is_announced(&server, "RolloutWaits")).await;
    eventually("the Event", || is_announced(&server, "PodEvicted")).await;
    looks(&server, 2).await;
    assert_eq!(server.count("POST pods/eviction kv-1"), 3);
    assert_eq!(server.count("POST pods/eviction"), 3, "one at a time");
    server.put("pods", pod(1, None));
    eventually("the next", || server.count("POST pods/eviction kv-2") == 1).await;
    server.put("pods", pod(2, None));
    eventually("the leader hands over", || !cluster.hand_overs.lock().unwrap().is_empty()).await;
    assert_eq!(server.count("POST pods/eviction kv-0"), 0);
}

#[tokio::test]
async fn nothing_is_rolled_out_before_the_newest_template_is_observed() {
    let server = server(3).await;
    let mut set = stateful_set(3);
    set["metadata"]["generation"] = json!(2);
    set["status"]["updateRevision"] = json!("newer");
    server.put("statefulsets", set.clone());
    let cluster = Fake::leading(3, &[]);
    control(&server, &cluster);
    looks(&server, 2).await;
    assert_eq!(server.count("POST pods/eviction"), 0);
    set["status"]["observedGeneration"] = json!(2);
    server.put("statefulsets", set);
    eventually("an eviction", || server.count("POST pods/eviction") > 0).await;
}

#[tokio::test]
async fn an_empty_latch_is_filled_and_another_ones_is_announced() {
    let server = server(3).await;
    server.put("configmaps", latch(""));
    let cluster = Fake::leading(3, &[]);
    control(&server, &cluster);
    let filled = || server.get("configmaps", "kv-cluster").unwrap()["data"]["cluster-id"] == OWN.to_string();
    eventually("the latch", filled).await;
    server.put("configmaps", latch("0000000000000008"));
    eventually("the Event", || is_announced(&server, "OtherCluster")).await;
    server.put("configmaps", latch("what?"));
    eventually("the Event", || is_announced(&server, "LatchUnusable")).await;
    assert!(!filled(), "it is not written over");
}

#[tokio::test]
async fn too_many_replicas_and_a_majority_on_one_node_are_announced() {
    let server = server(3).await;
    for ordinal in 0..2 {
        let mut neighbour = pod(ordinal, None);
        neighbour["spec"]["nodeName"] = json!("one");
        server.put("pods", neighbour);
    }
    let cluster = Fake::leading(3, &[]);
    let majority_on_one_node = control(&server, &cluster);
    eventually("the Event", || is_announced(&server, "MajorityOnOneNode")).await;
    assert_eq!(majority_on_one_node.get(), 1);
    server.put("statefulsets", stateful_set(12));
    eventually("the Event", || is_announced(&server, "TooManyReplicas")).await;
    looks(&server, 3).await;
    let said = server.list("events").iter().filter(|event| event["reason"] == "TooManyReplicas").count();
    assert_eq!(said, 1, "once, not at each look");
}

#[tokio::test]
async fn a_rollout_continues_with_pods_too_many_to_become_members() {
    let server = server(7).await;
    for ordinal in 0..7 {
        let mut old = pod(ordinal, None);
        old["metadata"]["labels"]["controller-revision-hash"] = json!("old");
        if ordinal >= 5 {
            old["status"]["conditions"][0]["status"] = json!("False");
        }
        server.put("pods", old);
    }
    let cluster = Fake::leading(5, &[]);
    let majority_on_one_node = control(&server, &cluster);
    for ordinal in 1..5 {
        let eviction = format!("POST pods/eviction kv-{ordinal}");
        eventually("an eviction", || server.count(&eviction) == 1).await;
        server.put("pods", pod(ordinal, None));
    }
    eventually("the leader hands over", || !cluster.hand_overs.lock().unwrap().is_empty()).await;
    assert_eq!(server.count("GET pods kv-5") + server.count("POST pods/eviction kv-5"), 0, "not in the role");
    assert_eq!(majority_on_one_node.get(), 0);
    eventually("the Event", || is_announced(&server, "TooManyReplicas")).await;
}

#[tokio::test]
async fn a_node_that_does_not_lead_does_nothing() {
    let server = server(3).await;
    server.put("statefulsets", stateful_set(1));
    let cluster = Arc::new(Fake::default());
    control(&server, &cluster);
    eventually("its own label", || role(&server, 0).as_deref() == Some("follower")).await;
    eventually("a watch", || server.count("WATCH statefulsets") > 0).await;
    server.put("statefulsets", stateful_set(2));
    eventually("the watch reports", || server.count("WATCH statefulsets") > 0).await;
    assert_eq!(server.count("GET statefulsets kv"), 0);
}
