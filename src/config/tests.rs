//! What the layers make of each other, and every refusal.

use super::*;
use crate::driver;
use crate::tls::{PeerSource, SecretSource};

fn load(args: &str) -> Result<Config, ConfigError> {
    Config::load(args.split_whitespace(), |_| None)
}

fn refusal(args: &str) -> String {
    load(args).unwrap_err().to_string()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn load_file(text: &str) -> Result<Config, ConfigError> {
    let file = file(text);
    Config::load(["--config".as_ref(), file.path().as_os_str()], |_| None)
}

fn load_env(args: &str, name: &'static str, value: &str) -> Result<Config, ConfigError> {
    Config::load(args.split_whitespace(), |wanted| (wanted == name).then(|| value.into()))
}

#[test]
fn defaults_are_a_cluster_of_one() {
    let config = load("").unwrap();
    assert_eq!(config.name.as_str(), "1");
    assert_eq!(config.initial_cluster.peers().len(), 1);
    assert_eq!(config.initial_cluster.peers()[0].address, config.peer_addr);
    assert_eq!(config.data_dir, PathBuf::from("./kuberaft-data/1"));
    assert_eq!(config.raft, raft::Settings::default());
    assert_eq!(config.request_timeout, Duration::from_secs(5));
    assert_eq!(config.limits.value_bytes_max, 1_572_864);
    assert_eq!(config.lock_timeout, Some(Duration::from_secs(10)));
    let driver = driver::Settings::default();
    assert_eq!(config.disk_reserve_bytes, driver.disk_reserve_bytes);
    assert_eq!(config.log_scrub_interval, driver.log_scrub_interval);
    assert_eq!(config.advertise_client_addr.unwrap().to_string(), "127.0.0.1:7001");
}

#[test]
fn what_is_kept_of_the_log_can_be_set() {
    let config =
        load("--trailing-entries 500 --transfer-log-entries-max 9000 --log-segment-bytes 1MiB").unwrap();
    assert_eq!((config.raft.trailing_entries, config.raft.transfer_log_entries_max), (500, 9000));
    assert_eq!(config.log_segment_bytes, 1 << 20);
    let defaults = load("").unwrap();
    assert_eq!((defaults.raft.trailing_entries, defaults.log_segment_bytes), (10_000, 64 << 20));
    for size in ["1KiB", "2GiB", "8GiB"] {
        let error = load(&format!("--log-segment-bytes {size}")).unwrap_err().to_string();
        assert!(error.contains("is not between 64KiB and 1GiB"), "{error}");
    }
}

#[test]
fn leases_need_followers_that_ignore_other_candidates() {
    let config = load("--lease-reads --clock-drift-ppm 500 --disk-stall-timeout 3s").unwrap();
    assert!(config.raft.lease_reads && config.raft.clock_drift_ppm == 500);
    assert_eq!(config.raft.disk_stall_timeout, Duration::from_secs(3));
    load("--lease-reads --check-quorum=false").unwrap_err();
}

#[test]
fn the_disk_reserve_is_a_size_from_any_layer() {
    let bytes = |config: Result<Config, ConfigError>| config.unwrap().disk_reserve_bytes;
    assert_eq!(bytes(load("--disk-reserve=1GiB")), 1 << 30);
    assert_eq!(bytes(load("--disk-reserve=0")), 0);
    assert_eq!(bytes(load_env("", "KUBERAFT_DISK_RESERVE", "200000")), 200_000);
    assert_eq!(bytes(load_file("disk-reserve = '5MiB'\n")), 5 << 20);
    assert!(refusal("--disk-reserve=much").contains("--disk-reserve"));
}

#[test]
fn others_are_told_a_peer_address_that_they_can_dial() {
    let told = |args: &str| load(args).unwrap().advertise_peer_addr.map(|address| address.to_string());
    assert_eq!(told("").unwrap(), "127.0.0.1:7000");
    assert_eq!(told("--peer-addr 0.0.0.0:7000 --insecure-peers"), None);
    let listed = "--name 1 --initial-cluster 1/a:1,2/b:1 --peer-addr 0.0.0.0:7000 --insecure-peers";
    assert_eq!(told(listed).unwrap(), "a:1");
    assert_eq!(told(&format!("{listed} --advertise-peer-addr c:1")).unwrap(), "c:1");
    assert_eq!(told(&format!("{listed} --hide-peer-addr")), None);
    let joining = "--name 3 --initial-cluster 1/a:1,2/b:1 --join wait --peer-addr d:1 --insecure-peers";
    assert_eq!(told(joining).unwrap(), "d:1");
}

#[test]
fn the_older_spellings_of_flags_work() {
    let config = load(
        "--http_addr=127.0.0.1:8001 --raft_addr=127.0.0.1:8000 --raft_id=2 \
         --raft_cluster=1/127.0.0.1:7000,2/127.0.0.1:8000,3/127.0.0.1:9000",
    )
    .unwrap();
    assert_eq!(config.name.as_str(), "2");
    assert_eq!(config.client_addr.to_string(), "127.0.0.1:8001");
    assert_eq!(config.peer_addr.to_string(), "127.0.0.1:8000");
    assert_eq!(config.initial_cluster.names(), "1, 2, 3");
    assert_eq!(config.data_dir, PathBuf::from("./kuberaft-data/2"));
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let file = file("request-timeout = '3s'\n");
    let path = file.path().display();
    let timeout = |config: Config| config.request_timeout.as_secs();
    let env = "KUBERAFT_REQUEST_TIMEOUT";
    assert_eq!(timeout(load("").unwrap()), 5);
    assert_eq!(timeout(load(&format!("--config {path}")).unwrap()), 3);
    assert_eq!(timeout(load_env(&format!("--config {path}"), env, "2s").unwrap()), 2);
    assert_eq!(timeout(load_env(&format!("--config {path} --request-timeout=1s"), env, "2s").unwrap()), 1);
    assert_eq!(timeout(load_env("", "KUBERAFT_CONFIG", &path.to_string()).unwrap()), 3);
}

#[test]
fn an_empty_variable_counts_as_unset_and_foreign_ones_are_ignored() {
    assert!(load_env("", "KUBERAFT_OPS_ADDR", "").unwrap().ops_addr.is_none());
    assert!(load_env("", "KUBERAFT_SERVICE_HOST", "10.0.0.1").is_ok());
}

#[test]
fn a_file_sets_every_kind_of_value() {
    let config = load_file(
        "name = 'b'\ninitial-cluster = 'a/h:1,b/h:2'\npre-vote = false\nworker-threads = 3\n\
         key-bytes-max = 100\nvalue-bytes-max = '1KiB'\nlog-format = 'json'\n",
    )
    .unwrap();
    assert_eq!(config.name.as_str(), "b");
    assert!(!config.raft.pre_vote && config.raft.check_quorum);
    assert_eq!(config.worker_threads, 3);
    assert_eq!((config.limits.key_bytes_max, config.limits.value_bytes_max), (100, 1024));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn wrong_files_are_told_what_is_wrong() {
    let check = |text: &str, part: &str| {
        let message = load_file(text).unwrap_err().to_string();
        assert!(message.starts_with("configuration file /") && message.contains(part), "{text}: {message}");
    };
    check("nmae = 'a'", "unknown key `nmae`; the keys are: name, initial-cluster");
    check("config = 'other.toml'", "unknown key `config`");
    check("name = 'a", "TOML parse error");
    check("name = 'a'\nname = 'b'", "duplicate key");
    check(
        "request-timeout = 5",
        "`request-timeout`: invalid value `5`: a duration is a whole number and a unit",
    );
    check("pre-vote = 'maybe'", "`pre-vote`: invalid value `maybe`; use one of true, false");
    check("log-format = 'xml'", "use one of text, json");
    check("worker-threads = 0", "`worker-threads`: invalid value `0`");
    check("limits = { key = 1 }", "`limits`");
    check("name = ['a']", "`name` must be a string, a number or a boolean");
    let missing = refusal("--config /nowhere/kuberaft.toml");
    assert!(missing.contains("cannot read the configuration file /nowhere/kuberaft.toml"), "{missing}");
}

#[test]
fn a_wrong_value_counts_even_where_it_is_overridden() {
    let file = file("request-timeout = 'soon'\n");
    let args = format!("--config {} --request-timeout=1s", file.path().display());
    assert!(refusal(&args).contains("invalid value `soon`"));
    let message =
        load_env("--election-timeout 1s", "KUBERAFT_ELECTION_TIMEOUT", "soon").unwrap_err().to_string();
    assert!(
        message.starts_with("environment variable KUBERAFT_ELECTION_TIMEOUT: invalid value `soon`"),
        "{message}"
    );
}

#[test]
fn what_cannot_work_together_is_refused() {
    let check = |args: &str, part: &str| {
        let message = refusal(args);
        assert!(message.contains(part), "{args}: {message}");
    };
    check("--initial-cluster 1/a:1,2/b:1", "say which of its members this node is (1, 2)");
    check("--name 3 --initial-cluster 1/a:1,2/b:1", "--name 3 is not in --initial-cluster, which has 1, 2");
    check("--advertise-peer-addr 0.0.0.0:7000", "give the address where peers reach this node");
    check(
        "--name 3 --initial-cluster 1/a:1 --join auto --peer-addr 0.0.0.0:7000 --insecure-peers",
        "give --advertise-peer-addr",
    );
    check("--initial-cluster 1:a:1", "expected name/host:port");
    check("--name ../x", "is no name");
    check("--peer-addr 127.0.0.1:0", "--peer-addr 127.0.0.1:0 has port 0");
    check("--client-addr a:1 --peer-addr a:1", "--client-addr and --peer-addr are both a:1");
    check("--ops-addr 127.0.0.1:7001", "--client-addr and --ops-addr are both 127.0.0.1:7001");
    check("--advertise-client-addr 0.0.0.0:7001", "is a wildcard or has port 0");
    check("--heartbeat-interval 200ms", "at most half of the election timeout, 300 ms");
    check("--heartbeat-interval 0s", "must be positive");
    check("--request-timeout 0s", "--request-timeout must be above zero");
    check("--value-bytes-max 2MiB", "--request-bytes-max 2MiB is too small");
    check("--request-bytes-max 1GiB", "above 3MiB");
    check("--key-bytes-max 20481", "--key-bytes-max 20481 is above 20KiB");
    check("--key-bytes-max 0", "--key-bytes-max must be above zero");
    check("--log-level kuberaft=loud", "--log-level `kuberaft=loud` is not understood");
    check("--discovery dns", "possible values: static, kube");
    check("--discovery kube", "--discovery kube needs --name");
    check("--frobnicate", "unexpected argument '--frobnicate'");
    check("--name 1 --name 2", "cannot be used multiple times");
    check("stray", "unexpected argument 'stray'");
}

#[test]
fn booleans_may_stand_without_a_value() {
    assert!(!load("--pre-vote=false").unwrap().raft.pre_vote);
    assert!(load("--pre-vote --check-quorum=true").unwrap().raft.pre_vote);
}

#[test]
fn the_own_entry_may_differ_from_the_peer_address() {
    let config = load(
        "--name a --peer-addr 0.0.0.0:7000 --client-addr 0.0.0.0:7001 --initial-cluster a/node-a:9000 --insecure-peers",
    );
    let config = config.unwrap();
    assert_eq!(config.peer_addr.to_string(), "0.0.0.0:7000");
    assert_eq!(config.advertise_client_addr.unwrap().to_string(), "node-a:7001");
}

#[test]
fn a_port_still_to_be_chosen_is_advertised_once_bound() {
    assert_eq!(load("--client-addr 127.0.0.1:0").unwrap().advertise_client_addr, None);
}

const POD: &str = "--discovery kube --name kv-1 --kube-namespace ns --kube-statefulset kv --kube-service kv-peers \
    --kube-latch kv-cluster --client-addr 0.0.0.0:7001 --peer-addr 0.0.0.0:7000 --pod-ip 10.0.0.7 \
    --kube-peer-secret kv-peer";

#[test]
fn a_pod_knows_itself_and_its_stateful_set() {
    let config = load(POD).unwrap();
    assert_eq!(config.lock_timeout, None, "as long as it takes");
    let pod = config.kubernetes.unwrap();
    assert_eq!((pod.namespace.as_str(), pod.stateful_set.as_str(), pod.members_max), ("ns", "kv", 9));
    assert_eq!(config.initial_cluster.peers().len(), 1);
    assert_eq!(config.initial_cluster.peers()[0].address.to_string(), "kv-1.kv-peers.ns.svc:7000");
    assert_eq!(config.advertise_client_addr.unwrap().to_string(), "10.0.0.7:7001");
    assert_eq!(config.advertise_peer_addr, None, "peers look up the name");
    assert_eq!(load("").unwrap().kubernetes, None);
}

#[test]
fn a_pod_that_does_not_know_itself_is_refused() {
    let without = |flag: &str| {
        let words: Vec<&str> = POD.split_whitespace().collect();
        let at = words.iter().position(|word| *word == flag).unwrap();
        refusal(&[&words[..at], &words[at + 2..]].concat().join(" "))
    };
    for flag in ["--name", "--kube-namespace", "--kube-statefulset", "--kube-service", "--kube-latch"] {
        assert!(without(flag).contains(&format!("needs {flag}")), "{flag}");
    }
    assert!(refusal(&format!("{POD} --initial-cluster kv-1/a:1")).contains("exclude each other"));
    assert!(refusal(&POD.replace("kv-1", "kv-x")).contains("expected kv-<ordinal>"));
}

#[test]
fn certificate_key_and_authority_come_together_from_any_layer() {
    let config = load("--peer-tls-cert=c --peer-tls-key=k --peer-tls-ca=a --tls-reload-interval=5s").unwrap();
    let Some(PeerSource::Files(peer)) = config.tls.peer else { panic!("{:?}", config.tls.peer) };
    assert_eq!((peer.identity.cert, peer.identity.key, peer.ca), ("c".into(), "k".into(), "a".into()));
    assert_eq!((config.tls.client, config.tls.reload_interval), (None, Duration::from_secs(5)));
    let file =
        load_file("client-tls-cert = 'c'\nclient-tls-key = 'k'\nclient-tls-client-ca = 'a'\n").unwrap();
    assert_eq!(file.tls.client.unwrap().client_ca, Some("a".into()));
    assert!(load("").unwrap().tls.peer.is_none());
    for (args, part) in [
        ("--peer-tls-cert=c", "--peer-tls-cert needs --peer-tls-key, too"),
        ("--peer-tls-cert=c --peer-tls-key=k", "--peer-tls-cert needs --peer-tls-ca, too"),
        ("--peer-tls-ca=a", "--peer-tls-ca needs --peer-tls-cert, too"),
        ("--peer-tls-allowed-name=n", "--peer-tls-allowed-name needs --peer-tls-cert, too"),
        ("--client-tls-key=k", "--client-tls-key needs --client-tls-cert, too"),
        ("--client-tls-client-ca=a", "--client-tls-client-ca needs --client-tls-cert, too"),
        ("--tls-reload-interval=0s", "--tls-reload-interval must be above zero"),
    ] {
        let error = refusal(args);
        assert!(error.contains(part), "{args}: {error}");
    }
    let error = load_env("", "KUBERAFT_PEER_TLS_CA", "a").unwrap_err().to_string();
    assert!(error.contains("--peer-tls-ca needs --peer-tls-cert, too"), "{error}");
}

#[test]
fn a_plain_peer_port_that_others_can_reach_must_be_wanted() {
    for address in ["0.0.0.0:7000", "[::]:7000", "10.0.0.1:7000", "node-a:7000"] {
        let alone = format!("--peer-addr {address} --advertise-peer-addr node-a:7000");
        let error = refusal(&alone);
        assert!(error.contains("--peer-secret-file") && error.contains("--insecure-peers"), "{error}");
        for identity in
            ["--insecure-peers", "--peer-secret-file=s", "--peer-tls-cert=c --peer-tls-key=k --peer-tls-ca=a"]
        {
            load(&format!("{alone} {identity}")).unwrap();
        }
        assert!(refusal(&format!("{alone} --insecure-peers=false")).contains("--insecure-peers"));
    }
    for address in
        ["127.0.0.1:7000", "127.3.2.1:7000", "[::1]:7000", "localhost:7000", "[::ffff:127.0.0.1]:7000"]
    {
        load(&format!("--peer-addr {address}")).unwrap();
    }
}

#[test]
fn members_identify_themselves_in_one_way() {
    let files = "--peer-tls-cert=c --peer-tls-key=k --peer-tls-ca=a";
    assert!(refusal("--kube-peer-secret=s").contains("needs --discovery kube"));
    for twice in [
        format!("--peer-secret-file=s {files}"),
        format!("{POD} {files}"),
        format!("{POD} --peer-secret-file=s"),
    ] {
        assert!(refusal(&twice).contains("exclude each other"), "{twice}");
    }
    let config = load("--peer-secret-file=s --peer-certificate-lifetime=2s").unwrap();
    let Some(PeerSource::Secret(secret)) = config.tls.peer else { panic!("{:?}", config.tls.peer) };
    assert_eq!((secret.source, secret.lifetime), (SecretSource::File("s".into()), Duration::from_secs(2)));
}
