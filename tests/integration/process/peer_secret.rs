//! Members that share a secret: they talk under TLS with nothing else set up, keep strangers out, and continue while the secret
//! is replaced and certificates end.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use super::cluster::{Cluster, Node, directory, program};
use super::load::{Load, Plan};
use super::{alone, until};

const OLD: &str = "mKcXlA3uQ0Jd2uYF6n1o8s7w5t4r3e2q1z0xCvBnM9k=";
const NEW: &str = "Zz8y7X6w5V4u3T2s1R0qPoNmLkJiHgFeDcBa9876543=";

/// Written whole, as an editor or a mounted Secret does it.
fn write(path: &Path, lines: &[&str]) {
    let part = path.with_extension("part");
    fs::write(&part, lines.join("\n")).unwrap();
    fs::rename(part, path).unwrap();
}

fn secret(folder: &Path, name: &str, lines: &[&str]) -> (PathBuf, String) {
    let path = folder.join(name);
    write(&path, lines);
    let flag = format!("--peer-secret-file={}", path.display());
    (path, flag)
}

/// When the certificate ends that the node shows to its peers, in seconds since 1970.
fn expiry(node: &Node) -> u64 {
    let name = "kuberaft_tls_certificate_expiry_seconds{use=\"peer_secret\"} ";
    let (_, metrics) = node.fetch("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

#[test]
fn three_nodes_of_one_secret_serve_and_keep_strangers_out() {
    let _alone = alone();
    let folder = directory();
    let (_, flag) = secret(folder.path(), "secret", &[OLD]);
    let mut cluster = Cluster::start_with(3, &[&flag, "--admit=anyone"]);
    cluster.nodes[0].put("k", "v").unwrap();
    let (_, other) = secret(folder.path(), "other", &[NEW]);
    for (flags, why) in [
        (vec!["--join=auto"], "it does not speak TLS"),
        (vec!["--join=auto", other.as_str()], "refused a connection"),
    ] {
        let at = cluster.prepare_later(&[0, 1, 2], &flags);
        cluster.nodes[at].start();
        cluster.nodes[at].gives_reason("waiting for");
        until(format!("a node says: {why}"), || {
            cluster.nodes[..3].iter().any(|node| node.log().contains(why)).then_some(())
        });
        cluster.nodes[at].kill();
    }
    let at = cluster.prepare_later(&[0, 1, 2], &["--join=auto", &flag]);
    cluster.nodes[at].start();
    let name = cluster.nodes[at].name.clone();
    cluster.settled(&["1", "2", "3", &name]);
}

#[test]
fn a_secret_is_replaced_under_load_and_certificates_end_meanwhile() {
    let _alone = alone();
    let folder = directory();
    let (path, flag) = secret(folder.path(), "secret", &[OLD]);
    let short = ["--tls-reload-interval=100ms", "--peer-certificate-lifetime=4s"];
    let mut cluster = Cluster::start_with(3, &[&flag, short[0], short[1]]);
    let load = Load::start(&Plan::new(&cluster));
    load.progress(20);
    for lines in [&[OLD, NEW][..], &[NEW, OLD], &[NEW]] {
        write(&path, lines);
        // Each node has made itself a certificate since, twice at least: of what the file says now.
        for node in &cluster.nodes {
            let before = expiry(node);
            until("another certificate", || (expiry(node) > before + 3).then_some(()));
        }
        // New connections use what is new.
        let at = (cluster.leader() + 1) % 3;
        cluster.nodes[at].kill();
        cluster.nodes[at].start();
        cluster.ready();
        load.progress(20);
    }
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    history.check();
}

#[test]
fn what_is_no_secret_and_a_port_that_others_reach_end_the_start() {
    let _alone = alone();
    let folder = directory();
    let (_, short) = secret(folder.path(), "short", &["sesame"]);
    let (_, empty) = secret(folder.path(), "empty", &[""]);
    for (flags, code, part) in [
        (vec![short.as_str()], 1, "has 6 characters, but needs at least 43"),
        (vec![empty.as_str()], 1, "it is empty"),
        (vec!["--peer-secret-file=/nowhere"], 1, "cannot read /nowhere"),
        (vec!["--peer-addr=0.0.0.0:1"], 2, "--insecure-peers"),
        (vec!["--kube-peer-secret=x"], 2, "needs --discovery kube"),
    ] {
        let mut cluster = Cluster::prepare(1, &flags);
        // The last one counts.
        cluster.nodes[0]
            .flags
            .retain(|flag| !flag.starts_with("--raft_addr") || !flags[0].contains("peer-addr"));
        cluster.nodes[0].start();
        let status = cluster.nodes[0].ended();
        let log = cluster.nodes[0].log();
        assert!(status.code() == Some(code) && log.contains(part), "{flags:?}: {status} {log}");
    }
}

/// A proxy in front of the address that says so in each request, as those on other machines do. Returns its own.
fn proxy(node: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, node) = (client.unwrap(), node.clone());
            thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if client.read(&mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    head.push(byte[0]);
                }
                head.truncate(head.len() - 2);
                head.extend(b"Via: 1.1 elsewhere\r\nConnection: close\r\n\r\n");
                let mut server = TcpStream::connect(node).unwrap();
                server.write_all(&head).unwrap();
                let _ = std::io::copy(&mut server, &mut client);
            });
        }
    });
    address
}

/// `snapshot save`, by way of the proxy; what it said if it failed.
fn save(folder: &Path, endpoint: &str, flags: &[&str]) -> Result<(), String> {
    let mut command = program(&[], folder);
    command.args(["snapshot", "save", "backup", "--endpoints", endpoint]).args(flags);
    let output = command.output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn a_backup_from_elsewhere_needs_the_secret_that_members_have_now() {
    let _alone = alone();
    let folder = directory();
    let (path, flag) = secret(folder.path(), "secret", &[OLD]);
    let (_, old) = secret(folder.path(), "old", &[OLD]);
    let (_, new) = secret(folder.path(), "new", &[NEW]);
    let cluster = Cluster::start_with(1, &[&flag, "--tls-reload-interval=100ms"]);
    cluster.nodes[0].put("k", "v").unwrap();
    let endpoint = proxy(cluster.nodes[0].client.address());
    let refused = save(folder.path(), &endpoint, &[]).unwrap_err();
    assert!(refused.contains("administrator"), "{refused}");
    save(folder.path(), &endpoint, &[&new]).unwrap_err();
    save(folder.path(), &endpoint, &[&old]).unwrap();
    write(&path, &[NEW]);
    until("the other secret", || save(folder.path(), &endpoint, &[&new]).ok());
    save(folder.path(), &endpoint, &[&old]).unwrap_err();
    // A node's own machine needs nothing.
    save(folder.path(), &cluster.nodes[0].client.address(), &[]).unwrap();
}
