//! Three nodes under TLS: they work, they keep strangers out, and they take over new certificates while they run.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use kuberaft::raft::Outcome;
use kuberaft::tls::{Connector, ConnectorSettings, IdentitySettings};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustix::process::Signal;
use tempfile::TempDir;

use super::chaos::Watch;
use super::cluster::{Cluster, Node, directory, exchange, program};
use super::{alone, report, runtime, until};

/// Unix time of 1 January 2100 and 2101.
const ENDS: [&str; 2] = ["4102444800", "4133980800"];

/// An authority, and a folder for what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = directory();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // No two of one name.
        params.distinguished_name.push(DnType::CommonName, folder.path().display().to_string());
        fs::write(folder.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// A certificate for this machine, until 1 January of a year, in `<file>.crt` and `<file>.key`.
    fn sign(&self, file: &str, until_year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(until_year, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        // As a mounted secret changes: each file is there, old or new.
        for (ending, text) in [("crt", cert.pem()), ("key", key.serialize_pem())] {
            let (part, path) = (self.path(&format!("{file}.part")), self.path(&format!("{file}.{ending}")));
            fs::write(&part, text).unwrap();
            fs::rename(part, path).unwrap();
        }
    }

    /// The flags of `serve` for both ports, with client certificates demanded or not.
    fn flags(&self, wants_client_certificates: bool) -> Vec<String> {
        let flag = |name: &str, file: &str| format!("--{name}={}", self.path(file).display());
        let mut flags = vec![
            flag("peer-tls-cert", "node.crt"),
            flag("peer-tls-key", "node.key"),
            flag("peer-tls-ca", "ca.crt"),
            flag("client-tls-cert", "node.crt"),
            flag("client-tls-key", "node.key"),
        ];
        if wants_client_certificates {
            flags.push(flag("client-tls-client-ca", "ca.crt"));
        }
        flags
    }

    fn connector(&self, identity: Option<&str>) -> Connector {
        let identity = identity.map(|file| IdentitySettings {
            cert: self.path(&format!("{file}.crt")),
            key: self.path(&format!("{file}.key")),
        });
        let ca = Some(self.path("ca.crt"));
        Connector::new(&ConnectorSettings { ca, identity, ..ConnectorSettings::default() }).unwrap()
    }
}

/// A cluster whose nodes have these flags, and its authority. `more`: further flags of each.
fn start(size: usize, wants_client_certificates: bool, more: &[&str]) -> (Authority, Cluster) {
    let authority = Authority::new();
    authority.sign("node", 2100);
    let flags = authority.flags(wants_client_certificates);
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let mut cluster = Cluster::prepare(size, &flags);
    for node in &mut cluster.nodes {
        node.tls = Some(authority.connector(wants_client_certificates.then_some("node")));
        node.start();
    }
    cluster.ready();
    (authority, cluster)
}

/// Where its nodes are, as URLs.
fn https(cluster: &Cluster) -> String {
    let addresses = cluster.addresses();
    addresses.iter().map(|address| format!("https://{address}")).collect::<Vec<_>>().join(",")
}

/// What `kuberaft` with these arguments says to the cluster's nodes, under TLS.
fn command(cluster: &Cluster, ca: &Path, arguments: &[&str]) -> Output {
    let (endpoints, ca) = (https(cluster), ca.display().to_string());
    let flags = ["--endpoints", &endpoints, "--tls-ca", &ca];
    cluster.command(&[arguments, &flags].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One metric of a node.
fn metric(node: &Node, name: &str) -> String {
    let metrics = node.fetch_tls("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).to_owned()
}

#[test]
fn three_nodes_under_tls_serve_those_they_know_and_nobody_else() {
    let _alone = alone();
    let (authority, mut cluster) = start(3, false, &[]);
    let ca = authority.path("ca.crt");
    for (arguments, said) in [
        (vec!["put", "k", "v"], "revision "),
        (vec!["get", "k"], "v"),
        (vec!["status", "-o", "table"], "ok"),
        (vec!["member", "list", "-o", "table"], "voter"),
    ] {
        let output = command(&cluster, &ca, &arguments);
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && out.contains(said), "{arguments:?}: {out}{error}");
    }
    let backup = cluster.directory.path().join("backup").display().to_string();
    let saved = command(&cluster, &ca, &["snapshot", "save", &backup]);
    assert!(saved.status.success(), "{}", text(&saved.stderr));

    // Without TLS, and with another authority. What does not ask again reports the first answer.
    let plain = cluster.command(&["get", "k", "--timeout", "30s"]);
    assert!(!plain.status.success() && text(&plain.stderr).contains("use https"), "{}", text(&plain.stderr));
    let foreign = Authority::new();
    let said = command(&cluster, &foreign.path("ca.crt"), &["status", "--timeout", "30s"]);
    assert!(!said.status.success() && text(&said.stdout).contains("UnknownIssuer"), "{}", text(&said.stdout));

    // Neither noise nor silence holds up the others, on either port.
    let mut silent = Vec::new();
    for node in &cluster.nodes {
        for port in [&node.client, &node.peer] {
            exchange(port, &[0xee; 1000]);
            exchange(port, &[[22, 3, 1, 0, 200].as_slice(), &[1; 900]].concat());
            for begun in [&[][..], &[22, 3, 1, 2, 0, 1]] {
                let mut stream = TcpStream::connect(port.address()).unwrap();
                stream.write_all(begun).unwrap();
                silent.push(stream);
            }
        }
    }
    cluster.nodes[0].put("k", "w").unwrap();
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // Cut by the node: it ends or is reset, where a stream that stays open would run into the time-out.
        let mut answer = [0];
        let ended = match stream.read(&mut answer) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        };
        assert!(ended, "a handshake that does not continue is cut");
    }
    cluster.ready();
    assert_eq!(
        cluster.nodes[1].get("k", kuberaft::api::Consistency::Linearizable).unwrap().unwrap().content.value,
        "w"
    );
}

#[test]
fn a_member_of_another_authority_stays_out_and_the_others_continue() {
    let _alone = alone();
    let (_authority, mut cluster) = start(3, false, &[]);
    let other = Authority::new();
    other.sign("node", 2100);
    let strangers = [other.flags(false), Vec::new()];
    for flags in strangers {
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--join=auto"]).collect();
        let at = cluster.prepare_later(&[0, 1, 2], &flags);
        let is_plain = flags.len() == 1;
        cluster.nodes[at].tls = (!is_plain).then(|| other.connector(None));
        cluster.nodes[at].start();
        cluster.nodes[at].gives_reason("waiting for");
        // Its connections were looked at, and refused.
        let why = if is_plain { "it does not speak TLS" } else { "refused a connection" };
        until(format!("a node says: {why}"), || {
            cluster.nodes[..3].iter().any(|node| node.log().contains(why)).then_some(())
        });
        cluster.nodes[0].put("k", "v").unwrap();
        cluster.nodes[at].kill();
    }
    cluster.settled(&["1", "2", "3"]);
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_wanted() {
    let _alone = alone();
    let (authority, mut cluster) = start(1, true, &[]);
    let ca = authority.path("ca.crt");
    let said = command(&cluster, &ca, &["status", "--timeout", "30s"]);
    assert!(text(&said.stdout).contains("the node wants a certificate"), "{}", text(&said.stdout));
    cluster.nodes[0].tls = Some(authority.connector(None));
    let refused = cluster.nodes[0].put("k", "v").unwrap_err();
    assert!(refused.to_string().contains("the node wants a certificate"), "{refused}");
    assert_eq!(refused.outcome(), Outcome::NotApplied);
    let (cert, key) =
        (authority.path("node.crt").display().to_string(), authority.path("node.key").display().to_string());
    let taken = command(&cluster, &ca, &["put", "k", "v", "--tls-cert", &cert, "--tls-key", &key]);
    assert!(taken.status.success(), "{}", text(&taken.stderr));
}

#[test]
fn new_certificates_are_taken_over_without_a_restart() {
    let _alone = alone();
    let (authority, mut cluster) = start(3, false, &["--tls-reload-interval=100ms"]);
    let expiry = |node: &Node, port| {
        metric(node, &format!("kuberaft_tls_certificate_expiry_seconds{{use=\"{port}\"}}"))
    };
    assert_eq!(expiry(&cluster.nodes[0], "peer"), ENDS[0]);
    let ids: Vec<_> = cluster.nodes.iter().map(Node::process_id).collect();

    // Half of a change is none.
    fs::write(authority.path("node.key"), "no key").unwrap();
    until("the broken key is reported", || {
        cluster.nodes.iter().all(|node| node.log().contains("the ones before stay")).then_some(())
    });
    cluster.nodes[0].put("k", "before").unwrap();

    authority.sign("node", 2101);
    for node in &cluster.nodes {
        for port in ["peer", "client"] {
            until(format!("node {} has the new {port} certificate", node.name), || {
                (expiry(node, port) == ENDS[1]).then_some(())
            });
        }
    }
    // A client that trusts the new authority alone sees it; and peers that dial again show it to each other.
    cluster.nodes[0].put("k", "after").unwrap();
    cluster.nodes[2].kill();
    cluster.nodes[2].start();
    cluster.ready();
    let now: Vec<_> = cluster.nodes.iter().map(Node::process_id).collect();
    assert_eq!((ids[0], ids[1]), (now[0], now[1]));
    cluster.settled(&["1", "2", "3"]);
}

#[test]
fn another_authority_is_moved_to_in_three_steps_with_sighup() {
    let _alone = alone();
    // An interval that never comes: each step is told.
    let (old, mut cluster) = start(3, false, &["--tls-reload-interval=24h"]);
    let new = Authority::new();
    let both = [fs::read(old.path("ca.crt")).unwrap(), fs::read(new.path("ca.crt")).unwrap()].concat();
    let take_over = |cluster: &Cluster, times: usize| {
        for node in &cluster.nodes {
            node.signal(Signal::HUP);
            until(format!("node {} takes over step {times}", node.name), || {
                let log = node.log();
                (log.matches("took over new certificates port=\"peer\"").count() == times).then_some(())
            });
        }
    };
    fs::write(old.path("ca.crt"), both).unwrap();
    take_over(&cluster, 1);
    new.sign("node", 2100);
    for file in ["node.crt", "node.key"] {
        fs::copy(new.path(file), old.path(file)).unwrap();
    }
    take_over(&cluster, 2);
    fs::copy(new.path("ca.crt"), old.path("ca.crt")).unwrap();
    take_over(&cluster, 3);
    let connector = new.connector(None);
    for node in &mut cluster.nodes {
        node.tls = Some(connector.clone());
        assert!(node.status().is_some(), "node {} shows the new authority's certificate", node.name);
    }
    cluster.nodes[1].kill();
    cluster.nodes[1].start();
    cluster.ready();
    cluster.nodes[1].put("k", "v").unwrap();
}

#[test]
fn the_whole_state_is_sent_under_tls() {
    let _alone = alone();
    let few = ["--trailing-entries=10", "--log-segment-bytes=64KiB", "--checkpoint-interval=100ms"];
    let (_authority, mut cluster) = start(3, false, &few);
    let late = (cluster.leader() + 1) % 3;
    cluster.nodes[late].kill();
    let serving = (late + 1) % 3;
    let value = vec![b'x'; 20_000];
    until("a node's entries are dropped", || {
        for number in 0..20 {
            cluster.nodes[serving].put(&format!("k{number}"), value.clone()).unwrap();
        }
        let status = cluster.nodes[cluster.leader()].status()?;
        let first = metric(&cluster.nodes[serving], "kuberaft_raft_snapshot_index").parse::<u64>().unwrap();
        (first > 100 && status.commit_index.0 > 200).then_some(())
    });
    cluster.nodes[late].start();
    cluster.ready();
    until("the node that was away has received the state", || {
        (metric(&cluster.nodes[late], "kuberaft_raft_snapshots_received_total") == "1").then_some(())
    });
}

#[test]
fn wrong_files_end_the_start_with_a_clear_message() {
    let _alone = alone();
    let authority = Authority::new();
    authority.sign("node", 2001);
    let flags = authority.flags(false);
    let all: Vec<&str> = flags.iter().map(String::as_str).collect();
    for (flags, code, part) in [
        (&all[..1], 2, "--peer-tls-cert needs --peer-tls-key, too"),
        (&all[..3], 1, "has expired: it was valid until Jan  1"),
        (&all[3..4], 2, "--client-tls-cert needs --client-tls-key, too"),
        (&["--peer-tls-allowed-name=x"], 2, "--peer-tls-allowed-name needs --peer-tls-cert, too"),
        (&["--client-tls-cert=/nowhere", "--client-tls-key=/nowhere"], 1, "cannot read /nowhere"),
    ] {
        let mut cluster = Cluster::prepare(1, flags);
        cluster.nodes[0].start();
        let status = cluster.nodes[0].ended();
        let log = cluster.nodes[0].log();
        assert!(status.code() == Some(code) && log.contains(part), "{flags:?}: {status} {log}");
    }
}

#[test]
fn bench_measures_three_nodes_under_tls() {
    let _alone = alone();
    let (authority, cluster) = start(3, true, &[]);
    let ca = authority.path("ca.crt");
    let identity =
        ["crt", "key"].map(|ending| authority.path(&format!("node.{ending}")).display().to_string());
    let load =
        ["bench", "--op=mixed", "--duration=0s", "--requests=300", "--clients=6", "--keys=20", "-o=json"];
    let known = ["--tls-cert", &identity[0], "--tls-key", &identity[1]];
    let done = command(&cluster, &ca, &[&load[..], &known].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    let printed: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let count = |what: &str| printed[what]["count"].as_u64().unwrap();
    assert_eq!((count("writes") + count("reads"), &printed["errors"]), (300, &serde_json::json!({})));
    report(format!(
        "bench under TLS: {} reads, p50 {} ms",
        count("reads"),
        printed["reads"]["latency_ms"]["p50"]
    ));

    // What cannot work is said at once, and not after the run.
    let plain = Cluster::start(1);
    let load = ["bench", "--clients=1"];
    let (ca, at_plain) = (ca.display().to_string(), format!("https://{}", plain.addresses()[0]));
    for (more, part) in [
        (vec!["--endpoints", &https(&cluster), "--tls-ca", &ca], "the node wants a certificate"),
        (vec!["--endpoints", &https(&cluster)], "--tls-ca"),
        (vec![], "speaks TLS only: use https"),
        (vec!["--endpoints", &at_plain, "--tls-ca", &ca], "does not answer in TLS; use http://"),
    ] {
        let refused = cluster.command(&[&load[..], &more].concat());
        let error = text(&refused.stderr);
        assert!(refused.status.code() == Some(1) && error.contains(part), "{more:?}: {error}");
    }
}

#[test]
fn chaos_watches_three_nodes_under_tls() {
    let _alone = alone();
    let (authority, mut cluster) = start(3, false, &[]);
    let ca = authority.path("ca.crt").display().to_string();
    let endpoints: Vec<_> =
        cluster.nodes.iter().map(|node| format!("{}=https://{}", node.name, node.client.address())).collect();
    let endpoints = endpoints.join(",");
    // The service says no scheme: the authority does.
    let service = cluster.addresses()[0].clone();
    let mut watch = Watch::start(&endpoints, &["--service", &service, "--tls-ca", &ca]);
    let leader = cluster.leader();
    assert_eq!(watch.ask("POST", "/rounds/kill").1["round"], "start");
    cluster.nodes[leader].kill();
    let next = cluster.leader();
    let revision = || cluster.nodes[next].status().map(|status| status.revision.0);
    let begin = until("the next leader tells its revision", revision);
    until("it applies a hundred writes", || revision().filter(|now| *now > begin + 100));
    let (status, last) = watch.ask("POST", "/finish");
    assert_eq!((status, &last["clean"]), (200, &true.into()), "{last}");
    assert!(last["acknowledged_writes"].as_u64().unwrap() > 100, "{last}");
    assert!(watch.ended().success(), "{}", watch.told("err"));

    let alive = cluster.addresses()[next].clone();
    for (flags, part) in [
        (vec!["--endpoints", &alive], "speaks TLS only: use https"),
        (vec!["--endpoints", &endpoints, "--tls-ca", &ca, "--tls-server-name", "other"], "--tls-server-name"),
    ] {
        let watch = ["chaos", "watch", "--listen=127.0.0.1:0"];
        let refused = cluster.command(&[&watch[..], &flags].concat());
        let error = text(&refused.stderr);
        assert!(refused.status.code() == Some(1) && error.contains(part), "{flags:?}: {error}");
    }
}

#[test]
fn chaos_strikes_a_cluster_of_its_own_under_tls() {
    let _alone = alone();
    let authority = Authority::new();
    authority.sign("node", 2100);
    let folder = directory();
    let strike = |ca: &Path, name: &str| {
        let mut command = program(&[], folder.path());
        command.args(["chaos", "--faults=kill:leader,cut:leader", "--hold=500ms", "--tls-ca"]).arg(ca);
        command.arg("--dir").arg(folder.path().join(name)).arg("--").args(authority.flags(false));
        command.output().unwrap()
    };
    let struck = strike(&authority.path("ca.crt"), "nodes");
    let table = text(&struck.stdout);
    assert!(struck.status.success() && table.contains("0 lost"), "{}{table}", text(&struck.stderr));
    let foreign = Authority::new();
    let refused = strike(&foreign.path("ca.crt"), "others");
    let error = text(&refused.stderr);
    assert!(refused.status.code() == Some(1) && error.contains("UnknownIssuer"), "{error}");
}

impl Node {
    /// Its answer's body to `GET path` under TLS, or plain.
    fn fetch_tls(&self, path: &str) -> String {
        let Some(tls) = &self.tls else { return self.fetch(path).1 };
        runtime().block_on(async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let address = self.client.address();
            let tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
            let mut wire = tls.connect("127.0.0.1", tcp).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            wire.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            wire.read_to_string(&mut answer).await.unwrap();
            answer.split_once("\r\n\r\n").unwrap().1.to_owned()
        })
    }
}
