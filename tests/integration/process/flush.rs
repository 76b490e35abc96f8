//! What the kernel is asked for, seen through strace: one `fdatasync` a group commit, nothing acknowledged before.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use kuberaft::kv::Condition;
use rustix::process::Signal;

use super::cluster::{Cluster, Node};
use super::load::{Load, Plan};
use super::{alone, report, until};

/// Writes by one client, one after the other.
const WRITES: usize = 100;

/// What one line of the trace says. A call that another thread's line interrupts has two lines.
struct Line<'a> {
    thread: &'a str,
    call: &'a str,
    /// From the first argument on.
    rest: &'a str,
    begins: bool,
    ends: bool,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (thread, event) = line.split_once(' ')?;
        let event = event.trim_start();
        if let Some(resumed) = event.strip_prefix("<... ") {
            let (call, rest) = resumed.split_once(" resumed>")?;
            return Some(Self { thread, call, rest, begins: false, ends: true });
        }
        let (call, rest) = event.split_once('(')?;
        Some(Self { thread, call, rest, begins: true, ends: !rest.ends_with("<unfinished ...>") })
    }

    fn is_on_log(&self) -> bool {
        let path = self.rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path);
        path.is_some_and(|path| is_segment(Path::new(path)))
    }

    fn is_answer(&self) -> bool {
        matches!(self.call, "write" | "writev" | "sendto" | "sendmsg") && self.rest.contains("HTTP/1.1 200")
    }
}

fn is_segment(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.parent().is_some_and(|parent| parent.ends_with("wal"))
        && name.len() == 16
        && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What happened to the log and to the clients, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Write,
    Written,
    Flush,
    Flushed,
    Answer,
}

fn steps(trace: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    // Threads that are within a call on the log, and which.
    let mut within: Vec<(&str, Step)> = Vec::new();
    for line in trace.lines().filter_map(Line::parse) {
        if line.begins && line.is_answer() {
            steps.push(Step::Answer);
        }
        if line.begins && line.is_on_log() {
            let (begin, end) = match line.call {
                "pwrite64" | "pwritev" | "write" | "writev" => (Step::Write, Step::Written),
                "fdatasync" | "fsync" => (Step::Flush, Step::Flushed),
                other => panic!("{other} on the log"),
            };
            steps.push(begin);
            within.push((line.thread, end));
        }
        if line.ends
            && let Some(at) = within.iter().position(|(thread, _)| *thread == line.thread)
        {
            steps.push(within.remove(at).1);
        }
    }
    steps
}

fn metric(node: &Node, name: &str) -> usize {
    let (_, metrics) = node.fetch("/metrics");
    let line = metrics.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// One client that writes on one connection.
fn write_one_by_one(node: &Node) {
    let all = async |mut client: kuberaft::api::client::Client| {
        for number in 0..WRITES {
            let key = format!("key-{number}");
            client.put(key.as_bytes(), Bytes::from_static(b"value"), Condition::Always).await?;
        }
        Ok(())
    };
    node.ask(all).unwrap();
}

fn can_trace() -> bool {
    let tried = Command::new("strace").args(["-f", "true"]).stderr(Stdio::null()).status();
    let usable = tried.is_ok_and(|status| status.success());
    if !usable {
        report("SKIPPED, nothing was checked: strace is not installed or may not trace here");
    }
    usable
}

#[test]
fn every_directory_on_the_way_to_a_new_data_directory_is_flushed() {
    let _alone = alone();
    if !can_trace() {
        return;
    }
    for data_dir in ["one", "some/way/down"] {
        let mut cluster = Cluster::prepare(1, &[&format!("--data-dir={data_dir}")]);
        let home = cluster.directory.path().canonicalize().unwrap();
        let trace = home.join("trace");
        let wrapper = ["strace", "-D", "-f", "-y", "-e", "signal=none", "-e", "trace=fsync", "-o"];
        cluster.nodes[0].wrapper =
            wrapper.map(str::to_owned).into_iter().chain([trace.display().to_string()]).collect();
        cluster.nodes[0].start();
        cluster.ready();
        let made = home.join(data_dir);
        for directory in made.ancestors().take_while(|path| path.starts_with(&home)) {
            let flushed = format!("<{}>", directory.display());
            until(format!("{} is flushed", directory.display()), || {
                fs::read_to_string(&trace).ok()?.contains(&flushed).then_some(())
            });
        }
    }
}

#[test]
fn one_fdatasync_a_group_commit_no_sync_file_range_and_nothing_acknowledged_before() {
    let _alone = alone();
    if !can_trace() {
        return;
    }
    let mut cluster = Cluster::prepare(1, &["--checkpoint-interval=200ms"]);
    let trace = cluster.directory.path().join("trace");
    let calls = "trace=fdatasync,fsync,sync_file_range,pwrite64,pwritev,write,writev,sendto,sendmsg";
    let wrapper = ["strace", "-D", "-f", "-y", "-s", "12", "-e", "signal=none", "-e", calls, "-o"];
    cluster.nodes[0].wrapper =
        wrapper.map(str::to_owned).into_iter().chain([trace.display().to_string()]).collect();
    cluster.nodes[0].start();
    cluster.ready();
    let load = Load::start(&Plan { clients: 16, ..Plan::new(&cluster) });
    load.progress(400);
    load.stop().check();
    let node = &mut cluster.nodes[0];
    let before_single = metric(node, "kuberaft_storage_flush_duration_seconds_count");
    let entries = metric(node, "kuberaft_storage_flush_entries_sum");
    write_one_by_one(node);
    let flushes = metric(node, "kuberaft_storage_flush_duration_seconds_count");
    let process = node.process_id().to_string();
    let is_last = |line: &str| {
        line.split_once(' ').is_some_and(|(id, event)| id == process && event.trim_start().starts_with("+++"))
    };
    node.signal(Signal::TERM);
    assert_eq!(node.ended().code(), Some(0));
    let trace = until("the trace is complete", || {
        let text = fs::read_to_string(&trace).ok()?;
        text.lines().any(is_last).then_some(text)
    });

    assert!(!trace.contains("sync_file_range("), "sled's flush is replaced");
    let state_flushes =
        trace.lines().filter(|line| line.contains("fdatasync(") && line.contains("/state-1/db>")).count();
    assert!(state_flushes > 0, "checkpoints were flushed");
    let steps = steps(&trace);
    // Each group: one write, then one flush, one after the other. Opening the log does the same once.
    let on_log: Vec<_> = steps.iter().copied().filter(|step| *step != Step::Answer).collect();
    for group in on_log.chunks(4) {
        assert_eq!(group, [Step::Write, Step::Written, Step::Flush, Step::Flushed]);
    }
    assert_eq!(
        on_log.len() / 4,
        flushes + 1,
        "one fdatasync a flush that the metrics count, one for opening"
    );
    // Of the last answers each but the reads of metrics is one write's.
    let answers: Vec<_> =
        steps.iter().enumerate().filter(|(_, step)| **step == Step::Answer).map(|(at, _)| at).collect();
    report(format!(
        "{} flushes of the log for {entries} entries by 16 clients, {} by one for {WRITES}",
        before_single,
        flushes - before_single
    ));
    // The last answer is that of the metrics.
    let (_, answers) = answers.split_last().unwrap();
    for pair in answers[answers.len() - WRITES - 1..].windows(2) {
        let between = &steps[pair[0] + 1..pair[1]];
        assert_eq!(
            between,
            [Step::Write, Step::Written, Step::Flush, Step::Flushed],
            "before an acknowledgement"
        );
    }
}
