//! Disks that fail or hang, with the real program on a real one: strace answers in the place of the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::cluster::{Cluster, Node};
use super::input::segment;
use super::load::{Load, Plan};
use super::{alone, report, until};

/// strace on a running node: what it injects happens from now until this is dropped.
struct Injected {
    strace: Child,
    trace: PathBuf,
}

impl Injected {
    /// Into every `call` of the node on `file`.
    fn into(node: &Node, call: &str, file: &Path, fault: &str) -> Self {
        let trace = node.home().join(format!("injected-{}", node.process_id()));
        let process = node.process_id().to_string();
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:{fault}"), "-p", &process])
            .arg("-P")
            .arg(file.canonicalize().unwrap())
            .arg("-o")
            .arg(&trace)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { strace, trace }
    }

    /// Calls so far that were answered in the kernel's place.
    fn count(&self) -> usize {
        fs::read_to_string(&self.trace).unwrap_or_default().matches("(INJECTED)").count()
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        // Told to end, it detaches from the node, which continues.
        if self.strace.try_wait().is_ok_and(|ended| ended.is_none())
            && let Some(id) = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(id, Signal::TERM);
        }
        let _ = self.strace.wait();
    }
}

fn can_inject() -> bool {
    let tried = Command::new("strace")
        .args(["-f", "-e", "inject=fdatasync:error=EIO", "true"])
        .stderr(Stdio::null())
        .status();
    let usable = tried.is_ok_and(|status| status.success());
    if !usable {
        report("SKIPPED, nothing was checked: strace is not installed or may not trace here");
    }
    usable
}

/// sled's file of the applied state.
fn state(node: &Node) -> PathBuf {
    let entries = fs::read_dir(node.data().join("data")).unwrap().map(|entry| entry.unwrap().path());
    let is_state = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("state-");
    entries.filter(is_state).max().unwrap().join("db")
}

#[test]
fn a_disk_that_fails_or_is_really_full_ends_the_process_with_code_4_and_loses_nothing() {
    let _alone = alone();
    if !can_inject() {
        return;
    }
    let mut cluster = Cluster::start_with(3, &["--checkpoint-interval=100ms"]);
    let load = Load::start(&Plan::new(&cluster));
    load.progress(200);
    let faults = [
        ("fdatasync", "EIO", "Input/output error"),
        ("pwrite64", "EIO", "Input/output error"),
        ("pwrite64", "ENOSPC", "No space left on device"),
    ];
    for (call, error, words) in faults {
        for file_of in [segment, state] {
            let leader = cluster.leader();
            let node = &mut cluster.nodes[leader];
            let (file, lines) = (file_of(node), node.log().lines().count());
            let injected = Injected::into(node, call, &file, &format!("error={error}"));
            let status = node.ended();
            let what = format!("{call} of {} answered {error}", file.display());
            let said: Vec<_> = node.log().lines().skip(lines).map(str::to_owned).collect();
            assert_eq!(status.code(), Some(4), "{what}: {said:#?}");
            let clear = |line: &&String| line.contains("disk failed") && line.contains(words);
            let line = said.iter().find(clear).unwrap_or_else(|| panic!("{what}: {said:#?}"));
            report(format!("{what}: {line}"));
            assert_eq!(injected.count(), 1, "{what}: not tried again");
            drop(injected);
            load.progress(100);
            cluster.nodes[leader].start();
            cluster.nodes[leader].ready();
        }
    }
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    history.check();
}

#[test]
fn a_leader_whose_disk_takes_seconds_steps_down_and_the_cluster_continues() {
    let _alone = alone();
    if !can_inject() {
        return;
    }
    let cluster = Cluster::start(3);
    let load = Load::start(&Plan::new(&cluster));
    load.progress(200);
    let slow = cluster.leader();
    let node = &cluster.nodes[slow];
    let injected = Injected::into(node, "fdatasync", &segment(node), "delay_enter=5000000");
    until("another node leads", || Some(cluster.leader()).filter(|leader| *leader != slow));
    load.progress(300);
    until("it says what is wrong", || {
        node.log().contains("the disk does not finish what was written").then_some(())
    });
    drop(injected);
    let applied = cluster.nodes[cluster.leader()].status().unwrap().applied_index;
    until("it has caught up", || node.status().filter(|status| status.applied_index >= applied));
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    history.check();
}
