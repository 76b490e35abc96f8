//! Nodes as pods: real processes with a fake API server, which goes away, says something else than a volume
//! does, and is told of recoveries.

use std::fs;
use std::path::Path;
use std::process::Output;

use kuberaft::api::Consistency;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::cluster::{Cluster, Port, program};
use super::{alone, runtime, until};
use crate::api_server::{ApiServer, Fault};

const KEYS: usize = 20;

/// Pods `kv-0`, `kv-1`, … of StatefulSet `kv`.
pub(super) struct Pods {
    pub(super) server: ApiServer,
    pub(super) cluster: Cluster,
    kubeconfig: String,
    /// All peers have the same port, at loopback addresses of their own.
    peer: Port,
}

impl Pods {
    /// Pods of namespace `ns` that are not started yet.
    pub(super) fn prepare(size: usize) -> Self {
        let mut cluster = Cluster::prepare(size, &[]);
        let (server, peer) = (runtime().block_on(ApiServer::start()), Port::reserve());
        let path = cluster.directory.path().join("kubeconfig");
        fs::write(&path, server.kubeconfig()).unwrap();
        let kubeconfig = format!("KUBECONFIG={}", path.display());
        for (ordinal, node) in cluster.nodes.iter_mut().enumerate() {
            node.name = format!("kv-{ordinal}");
            node.wrapper = vec!["/usr/bin/env".into(), kubeconfig.clone()];
            server.put("pods", pod(ordinal));
        }
        let mut pods = Self { server, cluster, kubeconfig, peer };
        pods.live_in("ns");
        pods.server.put("statefulsets", stateful_set(size));
        pods.server.put("configmaps", latch(""));
        pods.server.put("endpointslices", pods.slice());
        pods
    }

    pub(super) fn start(size: usize) -> Self {
        let mut pods = Self::prepare(size);
        pods.cluster.nodes.iter_mut().for_each(super::cluster::Node::start);
        pods.cluster.ready();
        pods
    }

    /// Gives all nodes the flags of pods in this namespace.
    fn live_in(&mut self, namespace: &str) {
        for (ordinal, node) in self.cluster.nodes.iter_mut().enumerate() {
            let own = [
                format!("--client-addr={}", node.client.address()),
                format!("--peer-addr=127.0.0.{}:{}", ordinal + 11, self.peer.number),
                format!("--name=kv-{ordinal}"),
                format!("--kube-namespace={namespace}"),
            ];
            let shared = "--discovery=kube --pod-ip=127.0.0.1 --kube-statefulset=kv --kube-service=kv-peers \
                          --kube-latch=kv-cluster --join=always --shutdown-delay=0s";
            node.flags = own.into_iter().chain(shared.split_whitespace().map(str::to_owned)).collect();
        }
    }

    fn slice(&self) -> Value {
        let endpoint = |ordinal: usize| {
            json!({
                "addresses": [format!("127.0.0.{}", ordinal + 11)],
                "targetRef": {"kind": "Pod", "name": format!("kv-{ordinal}")},
            })
        };
        let endpoints: Vec<_> = (0..self.cluster.nodes.len()).map(endpoint).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "kv-peers-1", "labels": {"kubernetes.io/service-name": "kv-peers"}},
            "endpoints": endpoints,
        })
    }

    /// What the latch says.
    pub(super) fn latched(&self) -> String {
        let map = self.server.get("configmaps", "kv-cluster").unwrap();
        map["data"]["cluster-id"].as_str().unwrap().to_owned()
    }

    /// The latch names the cluster that this node is a member of.
    pub(super) fn assert_latched(&self, at: usize) {
        let cluster_id = self.cluster.nodes[at].status().unwrap().cluster_id;
        assert_eq!(self.latched(), cluster_id.unwrap().to_string());
    }

    fn role(&self, ordinal: usize) -> Option<String> {
        let pod = self.server.get("pods", &format!("kv-{ordinal}"))?;
        Some(pod["metadata"]["labels"]["kuberaft.io/role"].as_str()?.to_owned())
    }

    pub(super) fn is_announced(&self, reason: &str) -> bool {
        self.server.list("events").iter().any(|event| event["reason"] == reason)
    }

    /// Ends a node in order.
    pub(super) fn stop(&mut self, at: usize) {
        self.cluster.nodes[at].signal(Signal::TERM);
        assert!(self.cluster.nodes[at].ended().success());
    }

    /// Starts a node that refuses to run; returns what it said.
    pub(super) fn refused(&mut self, at: usize) -> String {
        let node = &mut self.cluster.nodes[at];
        node.start();
        assert_eq!(node.ended().code(), Some(5), "{}", node.log());
        node.log()
    }

    /// A command as in a pod that mounts the volume of node `at`.
    fn command(&self, at: usize, command: &[&str], namespace: &str, more: &[&str]) -> Output {
        let data = self.cluster.nodes[at].data();
        let place = ["--kube-namespace", namespace, "--kube-statefulset", "kv", "--kube-latch", "kv-cluster"];
        let wrapper = ["/usr/bin/env".to_owned(), self.kubeconfig.clone()];
        let mut program = program(&wrapper, self.cluster.directory.path());
        program.args(command).arg("--data-dir").arg(data).args(place).args(more);
        program.output().unwrap()
    }

    /// With all flags that say where the other members are.
    pub(super) fn recover(&self, at: usize, namespace: &str, more: &[&str]) -> (Option<i32>, String) {
        let port = self.peer.number.to_string();
        let peers = ["--kube-service", "kv-peers", "--kube-peer-port", &port];
        self.recover_unasked(at, namespace, &[&peers, more].concat())
    }

    /// Without them.
    pub(super) fn recover_unasked(&self, at: usize, namespace: &str, more: &[&str]) -> (Option<i32>, String) {
        said(&self.command(at, &["recover"], namespace, more))
    }

    pub(super) fn write_keys(&self) {
        let leader = self.cluster.leader();
        for key in 0..KEYS {
            self.cluster.nodes[leader].put(&format!("key-{key}"), format!("value-{key}")).unwrap();
        }
    }

    pub(super) fn assert_keys(&self, at: usize) {
        for key in 0..KEYS {
            let found = self.cluster.nodes[at].get(&format!("key-{key}"), Consistency::Linearizable).unwrap();
            assert_eq!(found.unwrap().content.value, format!("value-{key}"), "key-{key}");
        }
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

pub(super) fn stateful_set(replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "kv", "uid": "set", "generation": 1},
        "spec": {
            "replicas": replicas, "serviceName": "kv-peers", "selector": {}, "template": {},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
        },
        "status": {"replicas": replicas, "observedGeneration": 1, "updateRevision": "new"},
    })
}

fn pod(ordinal: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("kv-{ordinal}"), "uid": format!("pod-{ordinal}"),
            "labels": {"controller-revision-hash": "new"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "kv", "uid": "set"}],
        },
        "spec": {"containers": [], "nodeName": format!("node-{ordinal}")},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

pub(super) fn latch(id: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kv-cluster"}, "data": {"cluster-id": id},
    })
}

#[test]
fn a_cluster_serves_and_elects_while_the_api_server_is_away() {
    let _alone = alone();
    let mut pods = Pods::start(3);
    pods.assert_latched(0);
    let before = pods.cluster.leader();
    until("the label is at the leader", || (pods.role(before).as_deref() == Some("leader")).then_some(()));
    pods.server.set_away(true);
    pods.write_keys();
    pods.cluster.nodes[before].kill();
    let after = pods.cluster.leader();
    assert_ne!(before, after);
    pods.write_keys();
    pods.assert_keys(after);
    assert_eq!(pods.role(before).as_deref(), Some("leader"), "nobody can move it");
    pods.server.set_away(false);
    pods.cluster.nodes[before].start();
    pods.cluster.ready();
    until("the label is at the new leader alone", || {
        let leader = pods.cluster.leader();
        let others = (0..3).filter(|at| *at != leader).all(|at| pods.role(at).as_deref() == Some("follower"));
        (pods.role(leader).as_deref() == Some("leader") && others).then_some(())
    });
    until("Events say who leads", || pods.is_announced("LeaderElected").then_some(()));
}

#[test]
fn a_pod_waits_for_the_latch_and_refuses_another_ones() {
    let _alone = alone();
    let mut pods = Pods::prepare(1);
    pods.server.remove("configmaps", "kv-cluster");
    pods.cluster.nodes[0].start();
    pods.cluster.nodes[0].gives_reason("there is no ConfigMap kv-cluster");
    pods.server.put("configmaps", latch("0000000000000008"));
    let why = pods.cluster.nodes[0].gives_reason("cluster 0000000000000008 was formed");
    assert!(why.contains("(data-kv-0 hold nothing of it)"), "{why}");
    until("an Event says so", || pods.is_announced("WaitsForCluster").then_some(()));
    pods.server.fail("GET", "configmaps", Fault::Status(403), usize::MAX);
    pods.cluster.nodes[0].gives_reason("refuses ConfigMap kv-cluster (HTTP 403)");
    pods.server.heal();
    pods.server.put("configmaps", latch("mine"));
    pods.cluster.nodes[0].gives_reason("it was edited");
    pods.server.put("configmaps", latch(""));
    pods.cluster.ready();
    pods.stop(0);
    pods.server.put("configmaps", latch("0000000000000008"));
    let said = pods.refused(0);
    assert!(said.contains("says that cluster 0000000000000008 was formed"), "{said}");
    assert!(pods.is_announced("OtherCluster"), "before the process has ended");
}

#[test]
fn a_copied_volume_is_refused_until_it_is_adopted_as_a_cluster_of_its_own() {
    let _alone = alone();
    let mut pods = Pods::start(1);
    pods.write_keys();
    let original = pods.latched();
    pods.stop(0);
    pods.live_in("elsewhere");
    let told = pods.refused(0);
    assert!(told.contains("at home in StatefulSet kv of namespace ns"), "{told}");
    assert!(pods.is_announced("IdentityRefused"));

    let (code, told) = pods.recover(0, "elsewhere", &["--yes"]);
    assert!(code == Some(5) && told.contains("recover --adopt"), "{told}");
    let (code, told) = pods.recover(0, "elsewhere", &["--adopt"]);
    assert!(
        code == Some(1) && told.contains("It will be kv-0 of StatefulSet kv of namespace elsewhere"),
        "{told}"
    );
    assert_eq!(pods.latched(), original, "nothing is done unasked");
    let (code, told) = pods.recover(0, "elsewhere", &["--adopt", "--yes"]);
    assert!(code == Some(0) && told.contains("ConfigMap kv-cluster names it now"), "{told}");
    assert_ne!(pods.latched(), original);
    let (code, told) = pods.recover(0, "elsewhere", &["--adopt", "--yes"]);
    assert!(code == Some(1) && told.contains("nothing to adopt"), "{told}");
    let data = pods.cluster.nodes[0].data();
    let verified = super::backup::succeed(Path::new("/"), &["debug", "verify", data.to_str().unwrap()]);
    assert!(verified.contains(&format!("adopted from cluster {original}")), "{verified}");

    pods.cluster.nodes[0].start();
    pods.cluster.ready();
    pods.assert_keys(0);
    pods.assert_latched(0);
}

#[test]
fn a_lost_quorum_is_recovered_together_with_the_latch() {
    let _alone = alone();
    let mut pods = Pods::start(3);
    pods.write_keys();
    // The leader has all that was acknowledged.
    let survivor = pods.cluster.leader();
    let (old_one, lost) = ((survivor + 1) % 3, (survivor + 2) % 3);
    pods.cluster.nodes.iter_mut().for_each(super::cluster::Node::kill);
    fs::remove_dir_all(pods.cluster.nodes[lost].data()).unwrap();

    pods.server.set_away(true);
    let (code, told) = pods.recover(survivor, "ns", &[]);
    assert!(code == Some(1) && told.contains("cannot be read here"), "{told}");
    assert!(!told.contains("It will be"), "it stays where it is: {told}");
    // Nor does it say that the others are gone.
    let (code, told) = pods.recover(survivor, "ns", &["--yes", "--force"]);
    let patch = "kubectl --namespace ns patch configmap kv-cluster --type merge --patch '{\"data\":{\"cluster-id\":\"";
    assert!(code == Some(0) && told.contains(patch), "{told}");
    // As that command does.
    let id = told.split_once(patch).unwrap().1.split('"').next().unwrap().to_owned();
    pods.server.set_away(false);
    let (code, told) = pods.recover(survivor, "ns", &["--yes"]);
    assert!(code == Some(1) && told.contains(&id) && told.contains(patch), "once is enough: {told}");
    let (code, told) = pods.recover(survivor, "ns", &["--yes", "-o", "json"]);
    let document: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    let command = document["latch"]["command"].as_str().unwrap_or_default();
    assert!(
        code == Some(1) && document["done"] == false && command.contains(&format!("{patch}{id}")),
        "{told}"
    );
    pods.server.put("configmaps", latch(&id));

    let told = pods.refused(old_one);
    assert!(told.contains(&format!("cluster {id} was formed")), "{told}");
    fs::remove_dir_all(pods.cluster.nodes[old_one].data()).unwrap();
    pods.cluster.nodes.iter_mut().for_each(super::cluster::Node::start);
    pods.cluster.ready();
    pods.cluster.settled(&["kv-0", "kv-1", "kv-2"]);
    pods.assert_keys(old_one);
}

#[test]
fn a_backup_is_restored_together_with_the_latch() {
    let _alone = alone();
    let mut pods = Pods::start(1);
    pods.write_keys();
    let original = pods.latched();
    let backup = pods.cluster.directory.path().join("backup");
    let backup = backup.to_str().unwrap();
    assert!(pods.cluster.command(&["snapshot", "save", backup]).status.success());
    pods.cluster.nodes[0].kill();
    fs::remove_dir_all(pods.cluster.nodes[0].data()).unwrap();

    let restore =
        |more: &[&str]| said(&pods.command(0, &["snapshot", "restore", backup, "-o", "table"], "ns", more));
    let (code, told) = restore(&["--name", "other-0"]);
    assert!(code == Some(2) && told.contains("no pod of StatefulSet kv"), "{told}");
    pods.server.put("configmaps", latch("0000000000000008"));
    let (code, told) = restore(&["--name", "kv-0"]);
    assert!(code == Some(5) && told.contains("--force"), "{told}");
    assert!(!pods.cluster.nodes[0].data().join("data").exists());
    pods.server.put("configmaps", latch(&original));
    let (code, told) = restore(&["--name", "kv-0"]);
    assert!(code == Some(0) && told.contains("ConfigMap kv-cluster names it now"), "{told}");

    pods.cluster.nodes[0].start();
    pods.cluster.ready();
    pods.assert_keys(0);
    assert_ne!(pods.latched(), original);
    pods.assert_latched(0);
}
