//! `kuberaft chaos`: the command itself, on a cluster of its own. What it finds is its own matter.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::cluster::{directory, program};
use super::{alone, report, until};

/// Starts `kuberaft chaos` with its nodes below `folder`.
fn start(folder: &TempDir, arguments: &[&str]) -> Child {
    let mut command = program(&[], folder.path());
    command.arg("chaos").args(arguments).arg("--dir").arg(nodes(folder));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn run(folder: &TempDir, arguments: &[&str]) -> Output {
    start(folder, arguments).wait_with_output().unwrap()
}

fn nodes(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("nodes")
}

/// The state of each process that has its data below this folder: `R`, `S`, `T` for one that is paused, …
fn processes(folder: &Path) -> Vec<char> {
    let part = folder.as_os_str().as_bytes();
    let state = |process: &Path| {
        let arguments = fs::read(process.join("cmdline")).ok()?;
        let is_node = arguments.split(|byte| *byte == 0).any(|argument| argument == b"serve");
        let is_here = arguments.windows(part.len()).any(|window| window == part);
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        // The name before it is in parentheses and may hold anything.
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        (is_node && is_here).then_some(state)
    };
    fs::read_dir("/proc").unwrap().filter_map(|entry| state(&entry.unwrap().path())).collect()
}

#[test]
fn four_kinds_of_faults_are_survived_and_nothing_is_left_running() {
    let _alone = alone();
    let folder = directory();
    let faults = ["--rounds", "4", "--faults", "kill,pause,cut,wipe", "--seed", "1", "--hold", "500ms"];
    let output = run(&folder, &faults);
    let (table, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}\n{table}");
    for line in table.lines() {
        report(line);
    }
    let rounds: Vec<_> = table.lines().skip(1).take_while(|line| !line.is_empty()).collect();
    assert_eq!(rounds.len(), 4, "{table}");
    assert!(rounds.iter().all(|round| round.ends_with("yes")), "{table}");
    for fault in ["kill:random", "pause:random", "cut:random", "wipe:random"] {
        // Once among the rounds, once among the kinds.
        assert_eq!(table.matches(fault).count(), 2, "{table}");
        assert_eq!(log.matches(fault).count(), 1, "{log}");
    }
    assert!(table.contains("0 lost"), "{table}");
    assert_eq!(processes(&nodes(&folder)), [], "all nodes have ended");
    assert!(nodes(&folder).join("3.log").exists(), "a folder that was given stays");

    let again = run(&folder, &faults);
    assert_eq!(again.status.code(), Some(2), "a folder with data is not used");
}

#[test]
fn ctrl_c_resumes_the_paused_ends_all_and_prints_what_there_is() {
    let _alone = alone();
    let folder = directory();
    let chaos = start(&folder, &["--faults", "pause:two", "--hold", "1h", "-o", "json"]);
    until("two of three nodes are paused", || {
        (processes(&nodes(&folder)).iter().filter(|state| **state == 'T').count() == 2).then_some(())
    });
    // Not waited for yet, so the id is still its own.
    let id = i32::try_from(chaos.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(id, Signal::INT).unwrap();
    let output = chaos.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["ok"], false);
    assert_eq!(printed["problems"][0], "interrupted after 0 of 1 rounds");
    assert_eq!(printed["final"]["lost_writes"], 0, "the two were woken, so all could be read: {log}");
    assert_eq!(processes(&nodes(&folder)), [], "all nodes have ended");
}
