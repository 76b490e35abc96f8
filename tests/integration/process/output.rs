//! Logs and results that nobody reads, or that cannot be written.

use std::fs::{File, OpenOptions};
use std::io::{PipeReader, Read, pipe};
use std::process::Stdio;

use rustix::process::Signal;

use super::cluster::{Cluster, Node, program};
use super::{alone, report, until};

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
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
    let (reader, writer) = pipe().unwrap();
    serves_and_ends(&mut talkative(writer));
    drop(reader);
}

#[test]
fn a_log_that_is_read_again_says_how_many_lines_it_lacks() {
    let _alone = alone();
    let (reader, writer) = pipe().unwrap();
    let cluster = talkative(writer);
    let node = &cluster.nodes[0];
    until("lines are dropped", || {
        node.put("key", "value").unwrap();
        (metric(node, "kuberaft_log_lines_dropped_total") > 0).then_some(())
    });
    let reading = std::thread::spawn(move || read_until(reader, "log lines dropped"));
    until("the log says so", || reading.is_finished().then_some(()));
    report(reading.join().unwrap());
}

/// The first line with this in it.
fn read_until(mut reader: PipeReader, part: &str) -> String {
    let mut text = String::new();
    let mut bytes = [0; 1 << 12];
    loop {
        let count = reader.read(&mut bytes).unwrap();
        assert!(count > 0, "the log ends: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        if let Some(line) = text.lines().rfind(|line| line.contains(part)) {
            return line.to_owned();
        }
        text.drain(..text.rfind('\n').map_or(0, |end| end + 1));
    }
}

#[test]
fn a_node_that_cannot_start_says_so_and_ends_even_if_nobody_reads_that() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(1, &["--data-dir=/dev/null/nowhere"]);
    cluster.nodes[0].start();
    assert_eq!(cluster.nodes[0].ended().code(), Some(4));
    let log = cluster.nodes[0].log();
    assert!(log.lines().last().unwrap().starts_with("error: "), "{log}");
    cluster.nodes[0].start_logging_to(full());
    assert_eq!(cluster.nodes[0].ended().code(), Some(4));
    let (reader, mut writer) = pipe().unwrap();
    // Full, and never drained.
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    while std::io::Write::write(&mut writer, &[b'x'; 1 << 12]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
    cluster.nodes[0].start_logging_to(writer);
    assert_eq!(cluster.nodes[0].ended().code(), Some(4));
    drop(reader);
}

#[test]
fn a_result_that_cannot_be_printed_is_an_error() {
    let _alone = alone();
    let cluster = Cluster::start(1);
    cluster.insist(&["put", "key", "value"], &[]);
    let endpoint = cluster.nodes[0].client.address();
    let commands: [&[&str]; 12] = [
        &["status"],
        &["status", "-o", "json"],
        &["get", "key"],
        &["get", "key", "-o", "json"],
        &["put", "key", "value"],
        &["del", "other"],
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
