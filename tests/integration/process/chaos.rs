//! `kuberaft chaos watch`: rounds marked over HTTP while a leader is killed, and a server that forgets.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;

use kuberaft::api::Consistency;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::cluster::{Cluster, directory, program};
use super::{alone, report, until};

/// `kuberaft chaos watch`, running.
pub(super) struct Watch {
    child: Child,
    control: String,
    directory: TempDir,
}

impl Watch {
    pub(super) fn start(endpoints: &str, flags: &[&str]) -> Self {
        let directory = directory();
        let file = |name| File::create(directory.path().join(name)).unwrap();
        let mut command = program(&[], directory.path());
        command
            .args(["chaos", "watch", "--listen=127.0.0.1:0", "--run=t", "--endpoints", endpoints])
            .args(flags);
        let child = command.stdout(file("out")).stderr(file("err")).spawn().unwrap();
        let mut watch = Self { child, control: String::new(), directory };
        watch.control = until("it says where rounds are marked", || {
            let told = watch.told("err");
            let (_, rest) = told.split_once("marked at http://")?;
            Some(rest.split_once("/rounds\n")?.0.to_owned())
        });
        watch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it printed: `out` or `err`.
    pub(super) fn told(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Asks for something; status and body.
    pub(super) fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.control).unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn terminate(&self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(id, Signal::TERM).unwrap();
    }

    pub(super) fn ended(&mut self) -> ExitStatus {
        until("the watch ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            report(format!("what the watch said:\n{}", self.told("err")));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watched_round_in_which_the_leader_is_killed_has_a_gap_and_nothing_lost() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let endpoints: Vec<_> =
        cluster.nodes.iter().map(|node| format!("{}={}", node.name, node.client.address())).collect();
    let mut watch = Watch::start(&endpoints.join(","), &["--service", &cluster.addresses()[0]]);
    let grows = |cluster: &Cluster, leader: usize| {
        let revision = || cluster.nodes[leader].status().map(|status| status.revision.0);
        let begin = until("the leader tells its revision", revision);
        until("a hundred writes are applied", || revision().filter(|now| *now > begin + 100));
    };
    let leader = cluster.leader();
    grows(&cluster, leader);
    assert_eq!(watch.ask("POST", "/rounds/kill").1["round"], "start");
    grows(&cluster, leader);
    cluster.nodes[leader].kill();
    let next = cluster.leader();
    grows(&cluster, next);
    let (status, round) = watch.ask("POST", "/rounds");
    assert_eq!((status, &round["round"]), (200, &Value::from("kill")), "{round}");
    assert_eq!((&round["linearizable"], &round["lost_writes"]), (&true.into(), &0.into()), "{round}");
    assert!(round["acknowledged_writes"].as_u64().unwrap() > 100, "{round}");
    let gaps =
        ["longest_write_gap_ms", "longest_write_gap_by_service_ms"].map(|name| round[name].as_f64().unwrap());
    report(format!(
        "longest write gap when the leader was killed: {} ms, at one address {} ms",
        gaps[0], gaps[1]
    ));
    assert!(gaps.iter().all(|gap| *gap > 0.0), "{round}");
    assert_eq!(watch.ask("POST", "/rounds").0, 204, "no round runs");
    assert_eq!(watch.ask("GET", "/rounds").1.as_array().map(Vec::len), Some(2));
    assert_eq!(watch.ask("DELETE", "/rounds/kill").0, 405);

    watch.terminate();
    let ended = watch.ended();
    let told = watch.told("out");
    assert!(ended.success(), "{ended}: {told}");
    assert!(told.contains("\nkill ") && told.contains("linearizable, nothing lost"), "{told}");
    for key in ["chaos/t/first", "chaos/t/1/p0/0", "chaos/t/1/p1/0", "chaos/t/1/r0/0"] {
        let found = cluster.nodes[next].get(key, Consistency::Linearizable).unwrap();
        assert!(found.is_none(), "{key} was left behind");
    }
}

#[test]
fn a_server_that_forgets_one_acknowledged_write_is_found_out() {
    let forgetful = Forgetful::start("chaos/t/0/p0/3");
    let mut watch = Watch::start(&format!("liar={}", forgetful.address), &["--patience=10s"]);
    until("the write and a later one were acknowledged", || forgetful.holds("chaos/t/0/p0/4").then_some(()));
    let (_, round) = watch.ask("POST", "/rounds/next");
    assert_eq!((&round["lost_writes"], &round["linearizable"]), (&1.into(), &true.into()), "{round}");
    assert_eq!(round["lost_keys"], serde_json::json!(["chaos/t/0/p0/3"]));
    let (status, last) = watch.ask("POST", "/finish");
    assert_eq!((status, &last["clean"], &last["lost_writes"]), (200, &false.into(), &1.into()), "{last}");
    assert_eq!(watch.ended().code(), Some(1));
    let told = watch.told("err");
    assert!(
        told.contains("error: ")
            && told.contains("1 acknowledged writes are lost, for example chaos/t/0/p0/3")
    );
    assert!(watch.told("out").contains("FAILED"));
}

/// A store that is right, but for one key that it acknowledges and never writes.
struct Forgetful {
    address: String,
    store: Arc<Mutex<Store>>,
}

#[derive(Default)]
struct Store {
    revision: u64,
    /// Value and revision.
    keys: BTreeMap<String, (Vec<u8>, u64)>,
}

impl Forgetful {
    fn start(forgets: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let store: Arc<Mutex<Store>> = Arc::default();
        let shared = Arc::clone(&store);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, store) = (stream.unwrap(), Arc::clone(&shared));
                thread::spawn(move || serve(&stream, &store, forgets));
            }
        });
        Self { address, store }
    }

    fn holds(&self, key: &str) -> bool {
        self.store.lock().unwrap().keys.contains_key(key)
    }
}

/// Answers the requests of one connection until it ends.
fn serve(mut stream: &TcpStream, store: &Mutex<Store>, forgets: &str) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let header = |name: &str| {
            let found = lines.iter().filter_map(|line| line.split_once(": "));
            found
                .into_iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        };
        let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut body).ok()?;
        let (method, target) = lines[0].split_once(' ').unwrap();
        let path = target.split(['?', ' ']).next().unwrap();
        let key = path.strip_prefix("/v1/kv/").unwrap().replace("%2F", "/");
        let condition = header("if-none-match").map(|_| "absent".to_owned()).or(header("if-match"));
        let is_forgotten = method == "PUT" && key == forgets;
        let answer = store.lock().unwrap().answer(method, &key, body, condition.as_deref(), is_forgotten);
        stream.write_all(&answer).ok()?;
    }
}

impl Store {
    fn answer(
        &mut self,
        method: &str,
        key: &str,
        body: Vec<u8>,
        condition: Option<&str>,
        forget: bool,
    ) -> Vec<u8> {
        let held = self.keys.get(key).cloned();
        let holds = match (condition, &held) {
            (None, _) | (Some("absent"), None) | (Some("*"), Some(_)) => true,
            (Some(wanted), Some((_, revision))) => wanted == format!("\"{revision}\""),
            _ => false,
        };
        if !holds {
            return problem(412, "precondition_failed");
        }
        match (method, held) {
            ("GET", Some((value, revision))) => {
                let headers = format!(
                    "ETag: \"{revision}\"\r\nX-Kuberaft-Revision: {}\r\nX-Kuberaft-Create-Revision: {revision}\r\nX-Kuberaft-Version: 1\r\n",
                    self.revision
                );
                respond(200, &headers, &value)
            }
            ("PUT", _) => {
                self.revision += 1;
                if !forget {
                    self.keys.insert(key.to_owned(), (body, self.revision));
                }
                let revision = self.revision;
                let answer =
                    serde_json::json!({"revision": revision, "create_revision": revision, "version": 1});
                respond(200, "", answer.to_string().as_bytes())
            }
            ("DELETE", Some(_)) => {
                self.revision += 1;
                self.keys.remove(key);
                respond(200, "", serde_json::json!({"revision": self.revision}).to_string().as_bytes())
            }
            _ => problem(404, "key_not_found"),
        }
    }
}

fn problem(status: u16, code: &str) -> Vec<u8> {
    let body = serde_json::json!({"type": "about:blank", "title": code, "status": status, "detail": code, "code": code});
    respond(status, "Content-Type: application/problem+json\r\n", body.to_string().as_bytes())
}

fn respond(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
