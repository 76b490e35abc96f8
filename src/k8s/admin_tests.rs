//! What an administrator reads and deletes, against an API server that gives prepared answers.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Answers requests in turn, each with a status and a body; remembers what was asked.
struct Server {
    admin: Admin,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    async fn start(answers: Vec<(u16, Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut config = kube::Config::new(url.parse().unwrap());
        config.default_retry = false;
        let admin = Admin::new(Client::try_from(config).unwrap(), "ns".into());
        let requests: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let asked = Arc::clone(&requests);
        tokio::spawn(async move {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read(&mut stream).await;
                asked.lock().unwrap().push(request);
                let body = body.to_string();
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                     connection: close\r\n\r\n"
                );
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        Self { admin, requests }
    }

    fn requests(&self) -> Vec<(String, Value)> {
        self.requests.lock().unwrap().clone()
    }
}

/// Method and target, and the body.
async fn read(stream: &mut TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    loop {
        stream.read_buf(&mut bytes).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() < length.unwrap_or(0) {
            continue;
        }
        let target = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
        return (target, serde_json::from_str(body).unwrap_or(Value::Null));
    }
}

fn set() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "kv", "uid": "set"},
        "spec": {
            "replicas": 2, "serviceName": "kv-headless",
            "selector": {"matchLabels": {"app": "kv", "part": "member"}},
            "template": {"spec": {"containers": [
                {"name": "side"},
                {"name": "kuberaft", "ports": [
                    {"name": "peer", "containerPort": 7000},
                    {"name": "client", "containerPort": 8001},
                ]},
            ]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
        },
    })
}

fn pod(name: &str, owner: &str, is_ready: bool) -> Value {
    json!({
        "metadata": {
            "name": name, "uid": format!("{name}-uid"),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "kv", "uid": owner}],
        },
        "spec": {"nodeName": "node-1", "containers": []},
        "status": {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": if is_ready { "True" } else { "False" }}]},
    })
}

fn list(kind: &str, items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {}, "items": items})
}

fn refusal(code: u16) -> (u16, Value) {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        429 => "TooManyRequests",
        _ => "ServiceUnavailable",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code,
    });
    (code, status)
}

async fn seen(pods: &[Value]) -> Seen {
    let server = Server::start(vec![(200, set()), (200, list("PodList", pods))]).await;
    let seen = server.admin.look("kv").await.unwrap().unwrap();
    let asked: Vec<_> = server.requests().into_iter().map(|(target, _)| target).collect();
    assert_eq!(asked[0], "GET /apis/apps/v1/namespaces/ns/statefulsets/kv");
    assert!(asked[1].starts_with("GET /api/v1/namespaces/ns/pods?"), "{asked:?}");
    assert!(asked[1].ends_with("labelSelector=app%3Dkv%2Cpart%3Dmember"), "{asked:?}");
    seen
}

#[tokio::test]
async fn a_look_tells_whether_clients_need_tls() {
    assert!(!seen(&[]).await.is_client_tls);
    let mut set = set();
    let env = json!([{"name": "KUBERAFT_CLIENT_TLS_CERT", "value": "/etc/kuberaft/tls/client/tls.crt"}]);
    set["spec"]["template"]["spec"]["containers"][0]["env"] = env;
    let server = Server::start(vec![(200, set), (200, list("PodList", &[]))]).await;
    assert!(server.admin.look("kv").await.unwrap().unwrap().is_client_tls);
}

#[tokio::test]
async fn a_look_tells_the_pods_and_what_is_lacking() {
    let both = [pod("kv-0", "set", true), pod("kv-1", "set", true)];
    let all = seen(&both).await;
    assert_eq!(
        (all.client_port, &all.volumes[..], all.workload.replicas),
        (8001, &["data".to_owned()][..], 2)
    );
    assert_eq!(all.pods["kv-1"].ip, Some("10.0.0.7".parse().unwrap()));
    assert_eq!((&*all.pods["kv-1"].pod.uid, &*all.pods["kv-1"].pod.node), ("kv-1-uid", "node-1"));
    assert_eq!(all.lacks(), None);

    let lacking = async |pods: &[Value]| seen(pods).await.lacks().unwrap();
    assert_eq!(lacking(&both[..1]).await, "pod kv-1 is not there");
    assert_eq!(lacking(&[both[0].clone(), pod("kv-1", "older", true)]).await, "pod kv-1 is not there");
    assert_eq!(lacking(&[both[0].clone(), pod("kv-1", "set", false)]).await, "pod kv-1 is not ready");
    let mut going = both.clone();
    going[1]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(lacking(&going).await, "pod kv-1 is being deleted");
    let three = [&both[..], &[pod("kv-2", "set", true)]].concat();
    assert_eq!(lacking(&three).await, "pod kv-2 is one too many");
}

#[tokio::test]
async fn a_pod_is_deleted_only_if_it_is_the_one_that_was_meant() {
    let server = Server::start(vec![(200, pod("kv-0", "set", true)), (200, pod("kv-0", "set", true))]).await;
    server.admin.delete_pod("kv-0", "kv-0-uid", Deletion::Graceful).await.unwrap();
    server.admin.delete_pod("kv-0", "kv-0-uid", Deletion::Forced).await.unwrap();
    let requests = server.requests();
    assert!(requests.iter().all(|(target, body)| {
        target.starts_with("DELETE /api/v1/namespaces/ns/pods/kv-0")
            && body["preconditions"]["uid"] == "kv-0-uid"
    }));
    assert_eq!(requests[0].1.get("gracePeriodSeconds"), None);
    assert_eq!(requests[1].1["gracePeriodSeconds"], 0);
}

#[tokio::test]
async fn what_is_gone_already_is_as_good_as_deleted() {
    let server = Server::start(vec![refusal(404), refusal(409), refusal(403)]).await;
    server.admin.delete_volume("data", "kv-0").await.unwrap();
    server.admin.delete_pod("kv-0", "older", Deletion::Forced).await.unwrap();
    let refused = server.admin.delete_volume("data", "kv-0").await;
    assert_eq!(refused.unwrap_err().code(), Some(403));
    assert!(
        server.requests()[0].0.starts_with("DELETE /api/v1/namespaces/ns/persistentvolumeclaims/data-kv-0")
    );
}

#[tokio::test]
async fn an_api_server_that_is_busy_is_asked_again() {
    let sets = list("StatefulSetList", &[set()]);
    let server = Server::start(vec![refusal(503), refusal(429), (200, sets)]).await;
    assert_eq!(server.admin.stateful_sets().await.unwrap(), ["kv"]);
    assert_eq!(server.requests().len(), 3);
    assert!(server.requests()[0].0.contains("labelSelector=app.kubernetes.io%2Fname%3Dkuberaft"));
}

#[tokio::test]
async fn there_may_be_no_such_stateful_set() {
    let server = Server::start(vec![refusal(404)]).await;
    assert_eq!(server.admin.look("kv").await.unwrap(), None);
}
