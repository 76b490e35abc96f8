//! Logs and results that nobody reads, or that cannot be written.

use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::process::Stdio;

use rustix::fs::OFlags;
use rustix::process::Signal;

use super::cluster::{Cluster, Node, program};
use super::{alone, until};

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe without room for one more byte.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    for size in [1 << 12, 1] {
        while writer.write(&vec![b'x'; size]).is_ok() {}
    }
    rustix::fs::fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

/// A metric without labels.
fn metric(node: &Node, name: &str) -> u64 {
    let (status, page) = node.fetch("/metrics");
    assert_eq!(status, 200);
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// One node that logs all it can to `log`.
fn talkative(log: impl Into<Stdio>) -> Cluster {
    let mut cluster = Cluster::prepare(1, &["--log-level=trace"]);
    cluster.nodes[0].start_logging_to(log);
    cluster.ready();
    cluster
}

/// It serves while lines are dropped, and ends in order.
fn serves_and_ends(cluster: &mut Cluster) {
    let node = &mut cluster.nodes[0];
    until("lines are dropped", || {
        node.put("key", "value").unwrap();
        (metric(node, "kuberaft_log_lines_dropped_total") > 0).then_some(())
    });
    node.put("key", "value").unwrap();
    assert_eq!(node.fetch("/livez").0, 200);
    node.signal(Signal::HUP);
    node.put("key", "value").unwrap();
    node.signal(Signal::TERM);
    assert_eq!(node.ended().code(), Some(0));
}

#[test]
fn a_node_whose_log_goes_to_a_full_device_serves() {
    let _alone = alone();
    serves_and_ends(&mut talkative(full()));
}

#[test]
fn a_node_whose_log_reader_went_away_serves() {
    let _alone = alone();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    serves_and_ends(&mut talkative(writer));
}

#[test]
fn a_node_whose_log_nobody_drains_serves() {
    let _alone = alone();
    let (reader, writer) = full_pipe();
    let mut cluster = talkative(writer);
    let node = &mut cluster.nodes[0];
    node.put("key", "value").unwrap();
    node.signal(Signal::HUP);
    node.put("key", "value").unwrap();
    assert_eq!(node.fetch("/livez").0, 200);
    node.signal(Signal::TERM);
    assert_eq!(node.ended().code(), Some(0));
    drop(reader);
}

#[test]
fn a_node_that_cannot_start_says_so_and_ends_even_if_nobody_reads_that() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(1, &["--data-dir=/dev/null/nowhere"]);
    cluster.nodes[0].start();
    assert_eq!(cluster.nodes[0].ended().code(), Some(1));
    let log = cluster.nodes[0].log();
    assert!(log.lines().last().unwrap().starts_with("error: "), "{log}");
    cluster.nodes[0].start_logging_to(full());
    assert_eq!(cluster.nodes[0].ended().code(), Some(1));
    let (reader, writer) = full_pipe();
    cluster.nodes[0].start_logging_to(writer);
    assert_eq!(cluster.nodes[0].ended().code(), Some(1));
    drop(reader);
}

#[test]
fn a_result_that_cannot_be_printed_is_an_error() {
    let _alone = alone();
    let cluster = Cluster::start(1);
    cluster.insist(&["put", "key", "value"], &[]);
    let endpoint = cluster.nodes[0].client.address();
    let commands: [&[&str]; 11] = [
        &["status"],
        &["status", "-o", "json"],
        &["get", "key"],
        &["get", "key", "-o", "json"],
        &["put", "key", "value"],
        &["member", "list"],
        &["scenario", "--list"],
        &["scenario", "election-1"],
        &["sim", "--seeds", "1..2", "--time", "1s"],
        &["--help"],
        &["--version"],
    ];
    let run = |arguments: &[&str], stdout: Stdio| {
        let mut command = program(&[], cluster.directory.path());
        command.args(arguments).env("KUBERAFT_ENDPOINTS", &endpoint);
        let output = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for arguments in commands {
        let (code, error) = run(arguments, full().into());
        assert_eq!(code, Some(1), "{arguments:?}: {error}");
        assert!(
            error.contains("cannot write to standard output: No space left on device"),
            "{arguments:?}: {error}"
        );
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let (code, error) = run(arguments, writer.into());
        assert_eq!((code, error.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
