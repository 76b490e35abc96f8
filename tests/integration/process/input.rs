//! Bad input at the edge of the process: a clear message, the documented code, and the node lives on.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use kuberaft::api::Consistency;
use rustix::process::Signal;

use super::cluster::{Cluster, Node, Port, copy, directory, exchange, open, program};
use super::{Random, alone, until};

/// Runs `kuberaft serve` with these flags to its end.
fn serve(directory: &Path, flags: &[String]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        program(&[], directory).arg("serve").args(flags).output().expect("the program runs");
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// Flags for a node of its own.
fn flags(client: &str, peer: &str, rest: &[&str]) -> Vec<String> {
    let own = [format!("--client-addr={client}"), format!("--peer-addr={peer}")];
    own.into_iter().chain(rest.iter().map(|flag| (*flag).to_owned())).collect()
}

/// The segment of a log that has not outgrown its first.
pub(super) fn segment(node: &Node) -> PathBuf {
    node.data().join("data/wal/0000000000000001")
}

/// Bytes of a file up to its last one that is not zero.
pub(super) fn used(path: &Path) -> u64 {
    let content = fs::read(path).unwrap();
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// Turns one bit over.
pub(super) fn flip(path: &Path, offset: u64, bit: u8) {
    let file = open(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], offset).unwrap();
}

#[test]
fn an_unknown_flag_is_named_and_ends_with_2() {
    let directory = directory();
    let (code, message) = serve(directory.path(), &["--no-such-flag".into()]);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("--no-such-flag"), "{message}");
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none(), "nothing was made");
}

#[test]
fn an_address_in_use_is_named_and_ends_with_1() {
    let directory = directory();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, free) = (taken.local_addr().unwrap().to_string(), Port::reserve().address());
    for (flag, flags) in
        [("--client-addr", flags(&taken, &free, &[])), ("--peer-addr", flags(&free, &taken, &[]))]
    {
        let (code, message) = serve(directory.path(), &flags);
        assert_eq!(code, Some(1), "{message}");
        assert!(message.contains(&format!("cannot listen on {flag} {taken}")), "{message}");
        assert!(message.contains("choose another port"), "{message}");
    }
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none(), "nothing was made");
}

#[test]
fn paths_that_cannot_be_used_are_told_apart_from_a_disk_that_fails() {
    let directory = directory();
    let file = directory.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let (client, peer) = (Port::reserve(), Port::reserve());
    for below in ["file", "file/below"] {
        let data = format!("--data-dir={below}");
        let (code, message) = serve(directory.path(), &flags(&client.address(), &peer.address(), &[&data]));
        assert_eq!(code, Some(1), "{message}");
        assert!(message.contains("Name a folder") && !message.contains("disk failed"), "{message}");
    }
    let run = |arguments: &[&str]| {
        let Output { status, stderr, .. } = program(&[], directory.path())
            .args(arguments)
            .env("TMPDIR", directory.path().join("missing"))
            .output()
            .expect("the program runs");
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    let (code, message) = run(&["recover", "--data-dir", "nowhere", "--yes"]);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("nowhere holds no node's data"), "{message}");
    assert!(!directory.path().join("nowhere").exists());

    let _alone = alone();
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].kill();
    let data = cluster.nodes[0].data();
    let (code, message) = run(&["debug", "verify", data.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("set TMPDIR"), "{message}");
}

#[test]
fn a_disk_that_refuses_to_write_ends_the_node_with_4_and_loses_nothing() {
    let _alone = alone();
    let mut cluster = Cluster::start(1);
    let node = &mut cluster.nodes[0];
    node.put("key", "value").unwrap();
    node.kill();
    // Files end at 64 blocks, which is enough for what the node prints, and for nothing of its data.
    let limit = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    node.wrapper = ["sh", "-c", limit, "sh"].map(str::to_owned).into();
    node.start();
    assert_eq!(node.ended().code(), Some(4));
    let log = node.log();
    assert!(log.lines().any(|line| line.starts_with("error: disk failed")), "{log}");
    node.wrapper.clear();
    node.start();
    node.ready();
    let found = node.get("key", Consistency::Linearizable).unwrap().unwrap();
    assert_eq!(found.content.value, "value");
}

#[test]
fn a_damaged_record_is_named_with_what_to_do_ends_with_3_and_changes_nothing() {
    let _alone = alone();
    let mut cluster = Cluster::start(1);
    for number in 0..20 {
        cluster.nodes[0].put(&format!("key-{number}"), format!("value-{number}")).unwrap();
    }
    let node = &mut cluster.nodes[0];
    node.kill();
    let segment = segment(node);
    let offset = u64::midpoint(4096, used(&segment));
    flip(&segment, offset, 3);
    let damaged = fs::read(&segment).unwrap();
    node.start();
    assert_eq!(node.ended().code(), Some(3));
    let log = node.log();
    let message = log.lines().find(|line| line.starts_with("error: ")).unwrap();
    for part in ["data directory damaged", "wal/0000000000000001, byte ", "Put back an intact copy"] {
        assert!(message.contains(part), "{part:?} in {message}");
    }
    assert!(fs::read(&segment).unwrap() == damaged, "the log was changed");
    flip(&segment, offset, 3);
    node.start();
    node.ready();
    for number in 0..20 {
        let found = node.get(&format!("key-{number}"), Consistency::Linearizable).unwrap().unwrap();
        assert_eq!(found.content.value, format!("value-{number}"));
    }
}

#[test]
fn a_data_directory_of_another_name_ends_with_5() {
    let _alone = alone();
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].kill();
    let data = format!("--data-dir={}", cluster.nodes[0].data().display());
    let (client, peer) = (Port::reserve(), Port::reserve());
    let flags = flags(&client.address(), &peer.address(), &["--name=other", &data]);
    let (code, message) = serve(cluster.directory.path(), &flags);
    assert_eq!(code, Some(5), "{message}");
    assert!(message.contains("it was first used as \"1\", not \"other\""), "{message}");
    cluster.nodes[0].start();
    cluster.ready();
}

#[test]
fn a_log_of_another_cluster_ends_with_5() {
    let _alone = alone();
    let (mut one, mut other) = (Cluster::start(1), Cluster::start(1));
    one.nodes[0].kill();
    other.nodes[0].kill();
    let (wal, foreign) = (one.nodes[0].data().join("data/wal"), other.nodes[0].data().join("data/wal"));
    fs::remove_dir_all(&wal).unwrap();
    copy(&foreign, &wal);
    one.nodes[0].start();
    assert_eq!(one.nodes[0].ended().code(), Some(5));
    let log = one.nodes[0].log();
    assert!(
        log.lines().any(|line| line.starts_with("error: ") && line.contains("belongs to another")),
        "{log}"
    );
}

#[test]
fn a_node_with_the_data_directory_of_another_cluster_names_both_and_ends_with_5() {
    let _alone = alone();
    let (mut one, mut other) = (Cluster::start(3), Cluster::start(3));
    one.nodes[0].put("key", "here").unwrap();
    other.nodes[0].put("key", "there").unwrap();
    let [here, there] = [&one, &other].map(|cluster| cluster.nodes[2].status().unwrap().cluster_id.unwrap());
    other.nodes.iter_mut().for_each(Node::kill);
    one.nodes[2].kill();
    fs::remove_dir_all(one.nodes[2].data()).unwrap();
    copy(&other.nodes[2].data(), &one.nodes[2].data());
    one.nodes[2].start();
    assert_eq!(one.nodes[2].ended().code(), Some(5));
    let what =
        format!("belongs to cluster {there}, but a majority of the expected members to cluster {here}");
    assert!(one.nodes[2].log().contains(&what), "{}", one.nodes[2].log());
    for node in &one.nodes[..2] {
        assert_eq!(node.fetch("/get?key=key"), (200, "here".into()));
        assert_eq!(node.put("key", "here").unwrap().create_revision.0, 1);
    }
}

#[test]
fn a_second_process_on_a_data_directory_names_the_first_and_ends_or_waits_for_its_end() {
    let _alone = alone();
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].put("key", "value").unwrap();
    let data = format!("--data-dir={}", cluster.nodes[0].data().display());
    let (client, peer) = (Port::reserve(), Port::reserve());
    let flags = flags(&client.address(), &peer.address(), &["--name=1", &data, "--lock-timeout=100ms"]);
    let (code, message) = serve(cluster.directory.path(), &flags);
    assert_eq!(code, Some(1), "{message}");
    let holder = format!("is in use by process {}", cluster.nodes[0].process_id());
    assert!(message.contains(&holder), "{message}");

    // With time to wait, it takes over.
    let mut second = Cluster::prepare(1, &[&data, "--lock-timeout=30s"]);
    let second = &mut second.nodes[0];
    second.start();
    until("the second process says what it waits for", || {
        let reasons = second.status()?.reasons;
        reasons.iter().any(|reason| reason.contains("waiting for the data directory")).then_some(())
    });
    cluster.nodes[0].kill();
    second.ready();
    let found = second.get("key", Consistency::Linearizable).unwrap().unwrap();
    assert_eq!(found.content.value, "value");
}

#[test]
fn a_process_that_waits_for_the_data_directory_ends_when_told() {
    let _alone = alone();
    let cluster = Cluster::start(1);
    let data = format!("--data-dir={}", cluster.nodes[0].data().display());
    let mut second = Cluster::prepare(1, &[&data, "--lock-timeout=10m"]);
    let second = &mut second.nodes[0];
    second.start();
    until("the second process says what it waits for", || {
        let reasons = second.status()?.reasons;
        reasons.iter().any(|reason| reason.contains("waiting for the data directory")).then_some(())
    });
    second.signal(Signal::TERM);
    assert_eq!(second.ended().code(), Some(0));
}

/// Status and code of a problem that is answered to these bytes.
fn problem(node: &Node, request: &[u8]) -> (u16, String) {
    let answer = String::from_utf8_lossy(&exchange(&node.client, request)).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let code = answer.split_once("\"code\":\"").and_then(|(_, rest)| rest.split('"').next());
    (status.unwrap_or_else(|| panic!("no status: {answer:?}")), code.unwrap_or_default().to_owned())
}

fn put(key: &str, value_bytes: usize) -> Vec<u8> {
    let head = "Host: x\r\nConnection: close\r\n";
    let mut request =
        format!("PUT /v1/kv/{key} HTTP/1.1\r\n{head}Content-Length: {value_bytes}\r\n\r\n").into_bytes();
    request.resize(request.len() + value_bytes, b'v');
    request
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes()
}

/// What comes with a connection and never makes a request.
fn nonsense() -> Vec<Vec<u8>> {
    let mut random = Random(9);
    let mut noise: Vec<Vec<u8>> =
        (0..8).map(|_| (0..8 << 10).map(|_| random.next().to_le_bytes()[0]).collect()).collect();
    noise.push(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec());
    noise.push(b"POST /kuberaft.raft.v1.Peer/Stream HTTP/1.1\r\nHost: x\r\n\r\n".to_vec());
    noise.push(b"GET / HTTP/9.9\r\n\r\n".to_vec());
    noise.push([b"GET /".to_vec(), vec![b'a'; 1 << 20]].concat());
    noise
}

#[test]
fn bad_requests_are_refused_with_their_code_never_reach_the_log_and_the_node_lives_on() {
    let _alone = alone();
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let before = cluster.nodes[leader].put("before", "1").unwrap();
    let status_before = cluster.nodes[leader].status().unwrap();
    for node in &cluster.nodes {
        let too_large = (413, "too_large".to_owned());
        assert_eq!(problem(node, &put(&"k".repeat(4097), 1)), too_large);
        assert_eq!(problem(node, &put("key", (1536 << 10) + 1)), too_large);
        assert_eq!(problem(node, &get(&format!("/set?key={}&value=1", "k".repeat(4097)))), too_large);
        let bad_request = (400, "bad_request".to_owned());
        for target in
            ["/get?key=%ff", "/set?key=a&value=%c3%28", "/get?key=%zz", "/get", "/get?kye=a", "/get?key="]
        {
            assert_eq!(problem(node, &get(target)), bad_request, "{target}");
        }
        assert_eq!(problem(node, &get("/nowhere")), (404, "not_found".to_owned()));
        for whole in [put("half", 100), get("/set?key=half&value=1")] {
            for part in [1, 10, 40, whole.len() - 1] {
                let part = &whole[..part.min(whole.len() - 1)];
                // A request that ends before its end: nobody waits for an answer.
                TcpStream::connect(node.client.address()).unwrap().write_all(part).unwrap();
            }
        }
        for noise in nonsense() {
            for port in [&node.client, &node.peer] {
                let mut stream = TcpStream::connect(port.address()).unwrap();
                // It may be cut off before the end.
                let _ = stream.write_all(&noise);
            }
        }
    }
    let status = cluster.nodes[leader].status().unwrap();
    let grown = status.last_log_index.0 - status_before.last_log_index.0;
    assert!(grown <= status.term.0 - status_before.term.0, "only a new term's first entry, if there was one");
    for (node, nth) in cluster.nodes.iter().zip(1..) {
        assert_eq!(node.get("half", Consistency::Linearizable).unwrap(), None);
        assert_eq!(node.put("after", "2").unwrap().revision.0, before.revision.0 + nth);
    }
    // The largest key with the largest value goes through.
    assert_eq!(problem(&cluster.nodes[leader], &put(&"k".repeat(4096), 1536 << 10)).0, 200);
}

#[test]
fn the_largest_request_that_can_be_allowed_reaches_every_node() {
    let _alone = alone();
    let (value, request) = ("--value-bytes-max=3050KiB", "--request-bytes-max=3MiB");
    let cluster = Cluster::start_with(3, &[value, request, "--key-bytes-max=20KiB"]);
    let largest = 3050 << 10;
    for (node, nth) in cluster.nodes.iter().zip(0..) {
        let key = format!("{nth}{}", "k".repeat((20 << 10) - 1));
        assert_eq!(problem(node, &put(&key, largest)).0, 200);
        for reader in &cluster.nodes {
            let found = reader.get(&key, Consistency::Linearizable).unwrap().unwrap();
            assert_eq!(found.content.value.len(), largest);
        }
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_printing_and_not_the_simulation() {
    let directory = directory();
    let mut child = program(&[], directory.path())
        .args(["sim", "--replay", "2", "--time", "1s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), message.as_str()), (Some(0), ""));
}
