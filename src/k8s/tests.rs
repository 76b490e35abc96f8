//! What is read and written of Kubernetes, against an API server that misbehaves as real ones do.

use std::time::Duration;

use serde_json::{Value, json};

use super::api_server::{ApiServer, Fault};
use super::{Addresses, Announcement, Announcer, Kube, Publisher, Settings};
use crate::membership::Workload;
use crate::membership::latch::Latch;
use crate::types::ClusterId;

const OWN: ClusterId = ClusterId(7);
const OTHER: ClusterId = ClusterId(8);

pub(super) fn settings() -> Settings {
    Settings {
        namespace: "ns".into(),
        pod: "kv-0".into(),
        stateful_set: "kv".into(),
        service: "kv-peers".into(),
        latch: "kv-cluster".into(),
        members_max: 5,
        peer_port: 7000,
    }
}

pub(super) fn kube(server: &ApiServer) -> Kube {
    let mut config = kube::Config::new(server.url().parse().unwrap());
    // A watch that says nothing for so long is broken.
    config.read_timeout = Some(Duration::from_secs(1));
    Kube::with(config, settings()).unwrap()
}

/// Waits until it is so.
pub(super) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited for 30 s in vain: {what}");
}

pub(super) fn stateful_set(replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "kv", "uid": "set", "generation": 1},
        "spec": {"replicas": replicas, "serviceName": "kv-peers", "selector": {}, "template": {}},
        "status": {"replicas": replicas, "observedGeneration": 1, "updateRevision": "new"},
    })
}

pub(super) fn pod(ordinal: u32, role: Option<&str>) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("kv-{ordinal}"), "uid": format!("pod-{ordinal}"),
            "labels": {"controller-revision-hash": "new"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "kv", "uid": "set"}],
        },
        "spec": {"containers": [], "nodeName": format!("node-{ordinal}")},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    if let Some(role) = role {
        pod["metadata"]["labels"]["kuberaft.io/role"] = json!(role);
    }
    pod
}

pub(super) fn latch(id: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kv-cluster"}, "data": {"cluster-id": id}})
}

pub(super) fn role(server: &ApiServer, ordinal: u32) -> Option<String> {
    let pod = server.get("pods", &format!("kv-{ordinal}"))?;
    Some(pod["metadata"]["labels"]["kuberaft.io/role"].as_str()?.to_owned())
}

fn slice(ip: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kv-peers-1", "labels": {"kubernetes.io/service-name": "kv-peers"}},
        "endpoints": [{
            "addresses": [ip], "conditions": {"ready": false, "serving": false, "terminating": true},
            "targetRef": {"kind": "Pod", "name": "kv-1"},
        }],
    })
}

fn begin_to_follow(server: &ApiServer) -> Addresses {
    let addresses = Addresses::new(settings());
    tokio::spawn(addresses.clone().follow(kube(server)));
    addresses
}

async fn shows(addresses: &Addresses, ip: &str) {
    let expected = format!("{ip}:7000");
    eventually(ip, || addresses.peer("kv-1")[0] == expected).await;
}

#[tokio::test]
async fn addresses_follow_the_slices_whatever_their_conditions_say() {
    let server = ApiServer::start().await;
    let addresses = begin_to_follow(&server);
    assert_eq!(addresses.peer("kv-1"), ["kv-1.kv-peers.ns.svc:7000"], "DNS before anything is known");
    server.put("endpointslices", slice("10.0.0.1"));
    shows(&addresses, "10.0.0.1").await;
    let mut other = slice("10.9.9.9");
    other["metadata"] = json!({"name": "other-1", "labels": {"kubernetes.io/service-name": "other"}});
    server.put("endpointslices", other);
    server.put("endpointslices", slice("10.0.0.2"));
    shows(&addresses, "10.0.0.2").await;
    server.remove("endpointslices", "kv-peers-1");
    eventually("DNS again", || addresses.peer("kv-1") == ["kv-1.kv-peers.ns.svc:7000"]).await;
}

#[tokio::test]
async fn addresses_survive_a_cut_watch() {
    let server = ApiServer::start().await;
    server.put("endpointslices", slice("10.0.0.1"));
    let addresses = begin_to_follow(&server);
    shows(&addresses, "10.0.0.1").await;
    eventually("a watch", || server.count("WATCH endpointslices") == 1).await;
    server.cut_watches();
    server.put("endpointslices", slice("10.0.0.2"));
    shows(&addresses, "10.0.0.2").await;
}

#[tokio::test]
async fn addresses_survive_an_expired_resource_version() {
    let server = ApiServer::start().await;
    server.put("endpointslices", slice("10.0.0.1"));
    let addresses = begin_to_follow(&server);
    shows(&addresses, "10.0.0.1").await;
    eventually("a watch", || server.count("WATCH endpointslices") == 1).await;
    server.put("endpointslices", slice("10.0.0.2"));
    server.expire();
    shows(&addresses, "10.0.0.2").await;
    server.put("endpointslices", slice("10.0.0.3"));
    shows(&addresses, "10.0.0.3").await;
}

#[tokio::test]
async fn addresses_survive_a_silent_watch_and_refusals() {
    let server = ApiServer::start().await;
    server.put("endpointslices", slice("10.0.0.1"));
    server.fail("WATCH", "endpointslices", Fault::Silence, 1);
    server.fail("WATCH", "endpointslices", Fault::Status(500), 1);
    server.fail("WATCH", "endpointslices", Fault::RetryAfter(429, 1), 1);
    let addresses = begin_to_follow(&server);
    shows(&addresses, "10.0.0.1").await;
    eventually("a silent watch", || server.count("WATCH endpointslices") == 1).await;
    server.put("endpointslices", slice("10.0.0.2"));
    shows(&addresses, "10.0.0.2").await;
    assert!(server.count("WATCH endpointslices") >= 4);
}

#[tokio::test]
async fn addresses_stay_while_the_api_server_is_away() {
    let server = ApiServer::start().await;
    server.put("endpointslices", slice("10.0.0.1"));
    let addresses = begin_to_follow(&server);
    shows(&addresses, "10.0.0.1").await;
    eventually("a watch", || server.count("WATCH endpointslices") == 1).await;
    server.set_away(true);
    server.put("endpointslices", slice("10.0.0.2"));
    assert_eq!(addresses.peer("kv-1"), ["10.0.0.1:7000", "kv-1.kv-peers.ns.svc:7000"]);
    server.set_away(false);
    shows(&addresses, "10.0.0.2").await;
}

#[tokio::test]
async fn a_latch_that_changes_meanwhile_is_read_again() {
    let server = ApiServer::start().await;
    server.put("configmaps", latch(""));
    server.fail("PATCH", "configmaps", Fault::Meanwhile("configmaps", latch(" ")), 1);
    assert_eq!(kube(&server).fill_latch(OWN).await, Latch::Filled(OWN));
    assert_eq!(server.count("PATCH configmaps kv-cluster"), 2);
    assert_eq!(server.get("configmaps", "kv-cluster").unwrap()["data"]["cluster-id"], OWN.to_string());
}

#[tokio::test]
async fn of_two_who_fill_the_latch_one_finds_the_others_id() {
    let server = ApiServer::start().await;
    server.put("configmaps", latch(""));
    let filled = latch(&OTHER.to_string());
    server.fail("PATCH", "configmaps", Fault::Meanwhile("configmaps", filled.clone()), 1);
    assert_eq!(kube(&server).fill_latch(OWN).await, Latch::Filled(OTHER));
    assert_eq!(server.get("configmaps", "kv-cluster").unwrap()["data"], filled["data"]);
}

#[tokio::test]
async fn a_patch_of_unknown_outcome_is_recognized_later() {
    let server = ApiServer::start().await;
    server.put("configmaps", latch(""));
    server.fail("PATCH", "configmaps", Fault::DoneInSilence, 1);
    let kube = kube(&server);
    assert_eq!(kube.fill_latch(OWN).await, Latch::Unreachable);
    assert_eq!(kube.fill_latch(OWN).await, Latch::Filled(OWN), "by the patch that was not answered");
    assert_eq!(server.count("PATCH configmaps"), 1);
}

#[tokio::test]
async fn a_latch_that_cannot_be_read_is_not_an_empty_one() {
    let server = ApiServer::start().await;
    let kube = kube(&server);
    assert_eq!(kube.latch().await, Latch::Missing);
    assert_eq!(kube.fill_latch(OWN).await, Latch::Missing);
    server.put("configmaps", latch("what?"));
    assert_eq!(kube.latch().await, Latch::Garbled);
    assert_eq!(kube.fill_latch(OWN).await, Latch::Garbled);
    server.put("configmaps", json!({"metadata": {"name": "kv-cluster"}}));
    assert_eq!(kube.latch().await, Latch::Empty, "as the chart renders it");
    for code in [401, 403] {
        for method in ["GET", "PATCH"] {
            server.fail(method, "configmaps", Fault::Status(code), 1);
            assert_eq!(kube.fill_latch(OWN).await, Latch::Refused(code), "{code} on {method}");
        }
    }
    for fault in [Fault::Status(429), Fault::Status(500), Fault::Silence] {
        server.fail("GET", "configmaps", fault.clone(), 1);
        assert_eq!(kube.latch().await, Latch::Unreachable, "{fault:?}");
    }
    server.set_away(true);
    assert_eq!(kube.latch().await, Latch::Unreachable);
}

#[tokio::test]
async fn a_latch_that_always_conflicts_is_left_for_now() {
    let server = ApiServer::start().await;
    server.put("configmaps", latch(""));
    server.fail("PATCH", "configmaps", Fault::Status(409), usize::MAX);
    assert_eq!(kube(&server).fill_latch(OWN).await, Latch::Empty);
    assert!(server.count("PATCH configmaps") <= 10);
}

/// The rows of "Is this stop a scale-down?".
#[tokio::test]
async fn only_a_fresh_and_sure_answer_makes_a_stop_a_scale_down() {
    let of = |replicas: u32, start: u32| {
        let mut set = stateful_set(replicas);
        set["spec"]["ordinals"] = json!({"start": start});
        set
    };
    let mut deleted = of(1, 0);
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut another = of(1, 0);
    another["metadata"]["uid"] = json!("another");
    let cases = [
        ("wanted", of(4, 0), false),
        ("scaled below", of(3, 0), true),
        ("scaled to one", of(1, 0), true),
        ("hibernation", of(0, 0), false),
        ("ordinals from two on, still wanted", of(2, 2), false),
        ("ordinals from two on, scaled below", of(1, 2), true),
        ("being deleted", deleted, false),
        ("another StatefulSet of that name", another, false),
    ];
    let server = ApiServer::start().await;
    server.put("pods", pod(3, None));
    let mut kube = kube(&server);
    kube.settings.pod = "kv-3".into();
    for (what, set, expected) in cases {
        server.put("statefulsets", set);
        assert_eq!(kube.is_scaled_below().await, expected, "{what}");
    }
    server.put("statefulsets", of(1, 0));
    for resource in ["statefulsets", "pods"] {
        for code in [401, 403, 404, 429, 500, 503] {
            server.fail("GET", resource, Fault::Status(code), 1);
            assert!(!kube.is_scaled_below().await, "{code} on {resource}");
        }
        server.fail("GET", resource, Fault::Silence, 1);
        assert!(!kube.is_scaled_below().await, "no answer on {resource}");
    }
    assert!(kube.is_scaled_below().await, "asked again");
    let mut successor = pod(3, None);
    successor["metadata"]["uid"] = json!("successor");
    server.put("pods", successor);
    assert!(!kube.is_scaled_below().await, "the pod of this name is another one now");
    server.remove("statefulsets", "kv");
    assert!(!kube.is_scaled_below().await, "no StatefulSet");
    server.set_away(true);
    assert!(!kube.is_scaled_below().await, "no API server");
}

fn workload() -> Workload {
    Workload { name: "kv".into(), replicas: 3, ..Workload::default() }
}

#[tokio::test]
async fn a_leader_labels_itself_first_and_then_takes_the_label_from_others() {
    let server = ApiServer::start().await;
    let roles = [Some("follower"), Some("leader"), None, Some("leader"), Some("learner")];
    for (ordinal, role) in (0..).zip(roles) {
        server.put("pods", pod(ordinal, role));
    }
    let members = |name: &str| match name {
        "kv-1" | "kv-4" => Some(false),
        "kv-2" => Some(true),
        _ => None,
    };
    kube(&server).take_leader_label(&workload(), members).await.unwrap();
    let now: Vec<_> = (0..5).map(|ordinal| role(&server, ordinal).unwrap()).collect();
    assert_eq!(now, ["leader", "follower", "learner", "follower", "follower"]);
    let patches: Vec<_> =
        server.requests().into_iter().filter(|request| request.starts_with("PATCH")).collect();
    assert_eq!(patches[0], "PATCH pods kv-0");
    assert_eq!(patches.len(), 5);
    kube(&server).take_leader_label(&workload(), members).await.unwrap();
    assert_eq!(server.count("PATCH"), 5, "what is so already is not written");
}

#[tokio::test]
async fn a_pod_that_is_another_one_now_is_not_labelled() {
    let server = ApiServer::start().await;
    let kube = kube(&server);
    server.put("pods", pod(0, None));
    kube.label_own_pod("follower").await.unwrap();
    for code in [404, 409, 422] {
        server.fail("PATCH", "pods", Fault::Status(code), 1);
        kube.label_own_pod("leader").await.unwrap();
    }
    let mut successor = pod(0, None);
    successor["metadata"]["uid"] = json!("successor");
    // Between reading and writing.
    server.fail("PATCH", "pods", Fault::Meanwhile("pods", successor), 1);
    kube.label_own_pod("leader").await.unwrap();
    assert_eq!(role(&server, 0), None);
    let before = server.count("PATCH pods");
    // From then on.
    kube.label_own_pod("leader").await.unwrap();
    server.remove("pods", "kv-0");
    kube.label_own_pod("leader").await.unwrap();
    assert_eq!((role(&server, 0), server.count("PATCH pods")), (None, before));
}

#[tokio::test]
async fn one_label_that_is_refused_leaves_the_others_correct() {
    let server = ApiServer::start().await;
    server.put("pods", pod(0, Some("follower")));
    server.put("pods", pod(1, Some("leader")));
    server.put("pods", pod(2, Some("leader")));
    server.fail("GET", "pods", Fault::Status(500), 1);
    let kube = kube(&server);
    assert!(kube.take_leader_label(&workload(), |_| Some(false)).await.is_err());
    assert_eq!(role(&server, 1).as_deref(), Some("follower"));
    kube.take_leader_label(&workload(), |_| Some(false)).await.unwrap();
    assert_eq!(role(&server, 0).as_deref(), Some("leader"));
}

#[tokio::test]
async fn an_eviction_is_of_one_pod_and_a_budgets_no_is_seen_at_once() {
    let server = ApiServer::start().await;
    server.put("pods", pod(1, None));
    let kube = kube(&server);
    assert_eq!(kube.evict("kv-1", "its successor").await.unwrap_err().code(), Some(409));
    server.fail("POST", "pods/eviction", Fault::RetryAfter(429, 10), 1);
    assert_eq!(kube.evict("kv-1", "pod-1").await.unwrap_err().code(), Some(429));
    kube.evict("kv-1", "pod-1").await.unwrap();
    assert_eq!(server.count("POST pods/eviction kv-1"), 3, "the client repeats nothing by itself");
    assert!(server.get("pods", "kv-1").unwrap()["metadata"]["deletionTimestamp"].is_string());
}

fn announcement(reason: &'static str, note: &str) -> Announcement {
    Announcement { reason, note: note.into(), is_warning: true }
}

#[tokio::test]
async fn an_event_names_the_pods_uid_and_is_published_once() {
    let server = ApiServer::start().await;
    server.put("pods", pod(0, None));
    let mut publisher = Publisher::new(&kube(&server));
    for note in ["one", "one", "two", "one"] {
        assert!(publisher.publish(&announcement("Something", note)).await);
    }
    let events = server.list("events");
    let notes: Vec<_> = events.iter().map(|event| event["note"].as_str().unwrap()).collect();
    assert_eq!(notes, ["one", "two"], "another note is another Event");
    assert_eq!(events[0]["regarding"]["uid"], "pod-0");
    assert_eq!(events[0]["type"], "Warning");
    assert_eq!((&events[0]["reason"], &events[0]["action"]), (&json!("Something"), &json!("Something")));
}

#[tokio::test]
async fn an_event_is_tried_again_unless_it_is_refused() {
    let server = ApiServer::start().await;
    let mut publisher = Publisher::new(&kube(&server));
    for (fault, is_over) in
        [(Fault::Status(500), false), (Fault::Status(429), false), (Fault::Status(403), true)]
    {
        server.fail("POST", "events", fault.clone(), 1);
        assert_eq!(publisher.publish(&announcement("Something", "one")).await, is_over, "{fault:?}");
    }
    let (announcer, publishing) = Announcer::new(&kube(&server));
    tokio::spawn(publishing);
    server.fail("POST", "events", Fault::Status(500), 1);
    announcer.announce(announcement("Something", "one"));
    eventually("the Event", || server.list("events").len() == 1).await;
}

#[tokio::test]
async fn events_never_wait_and_too_many_are_dropped() {
    let server = ApiServer::start().await;
    server.fail("POST", "events", Fault::Silence, usize::MAX);
    let (announcer, publishing) = Announcer::new(&kube(&server));
    tokio::spawn(publishing);
    for number in 0..100_000 {
        // Not a future: nobody can be held up by it.
        announcer.announce(announcement("Something", &number.to_string()));
    }
    eventually("a try", || server.count("POST events") > 0).await;
    assert!(server.count("POST events") <= 2);
}
