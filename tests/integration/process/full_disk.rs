//! A disk that is really full: a small one in memory, mounted where only one process sees it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use kuberaft::kv::{Record, Row};
use kuberaft::storage::space::free_bytes;
use kuberaft::storage::state::{SledStaging, SledState};
use kuberaft::storage::wal::Options;
use kuberaft::storage::{Checkpoint, DataDir, Staging, StateStore, StorageError};
use kuberaft::types::{ClusterId, LogIndex, LogPosition, Revision, Term};

use super::cluster::{Cluster, Node, directory};
use super::{alone, report, until};

/// Named in the environment of the process that has the small disk: where that is.
const SMALL_DISK: &str = "KUBERAFT_TEST_SMALL_DISK";

/// What runs a program that sees a disk of this size at `at`, which must be there; `first` is done before.
fn on_small_disk(mebibytes: u32, at: &str, first: &str) -> Vec<String> {
    let script = format!("mount -t tmpfs -o size={mebibytes}m tmpfs '{at}' && {first} && exec \"$@\"");
    ["unshare", "--map-root-user", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).into()
}

/// Whether this system lets a process mount a disk for itself alone; says so if not.
fn can_mount() -> bool {
    let place = directory();
    let at = place.path().display().to_string();
    let words = on_small_disk(1, &at, "true");
    let tried = Command::new(&words[0]).args(&words[1..]).arg("true").stderr(Stdio::null()).status();
    let can = tried.is_ok_and(|status| status.success());
    if !can {
        report("SKIPPED, nothing was checked: this system does not let a process mount a disk of its own");
    }
    can
}

fn row(revision: u64) -> Record {
    Record::Row(Row {
        revision: Revision(revision),
        key: format!("key-{revision}").into(),
        value: Some(Bytes::from(vec![7; 10_000])),
        create_revision: Revision(revision),
        version: 1,
    })
}

/// Writes records until the staging fails or `most` were written.
fn fill(staging: &mut SledStaging, most: u64) -> Result<(), StorageError> {
    for revision in 1..=most {
        staging.write(&[row(revision)])?;
    }
    staging.seal()
}

/// Generations that are there.
fn generations(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory.join("data")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("state-")).count()
}

/// Runs the test `name` of this module on a small disk, in a process of its own. In that process: the disk.
fn small_disk(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os(SMALL_DISK).map(PathBuf::from);
    if found.is_none() && can_mount() {
        let place = directory();
        let at = place.path().display().to_string();
        let words = on_small_disk(64, &at, "true");
        let own = std::env::current_exe().unwrap();
        let name = format!("process::full_disk::{name}");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(own).args(["--exact", &name, "--nocapture"]).env(SMALL_DISK, &at);
        assert!(command.status().unwrap().success());
    }
    found
}

/// The state store of a member's data directory.
fn state(at: &Path) -> SledState {
    let mut wait = |_: &str| ControlFlow::Break(());
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    let mut directory = DataDir::open(at, "one", options, &mut wait).unwrap();
    if directory.identity().cluster_id.is_none() {
        directory.join(ClusterId(7), None).unwrap();
    }
    directory.into_parts().unwrap().state
}

/// Other files take all but so many bytes.
fn fill_but(at: &Path, free: u64) -> PathBuf {
    let filler = at.join("filler");
    let size = free_bytes(at).unwrap() - free;
    std::fs::write(&filler, vec![1; usize::try_from(size).unwrap()]).unwrap();
    filler
}

#[test]
fn a_checkpoint_is_not_begun_without_room_and_nobody_takes_the_room_of_one_that_was() {
    let name = "a_checkpoint_is_not_begun_without_room_and_nobody_takes_the_room_of_one_that_was";
    let Some(at) = small_disk(name) else { return };
    let mut state = state(&at);
    let filler = fill_but(&at, 8 << 20);
    assert!(!state.make_room(&[row(1)]).unwrap());
    std::fs::remove_file(filler).unwrap();
    for count in [0, 10, 100, 400] {
        let from = state.checkpoint().revision.0;
        let rows: Vec<_> = (1..=count).map(|number| row(from + number)).collect();
        assert!(state.make_room(&rows).unwrap());
        let filler = fill_but(&at, 0);
        let revision = Revision(from + count);
        let applied = LogPosition { index: LogIndex(revision.0 + 1), term: Term(1) };
        state.write(&rows).unwrap();
        state.commit(Checkpoint { applied, revision, ..Checkpoint::default() }).unwrap();
        assert_eq!(free_bytes(&at).unwrap(), 0);
        std::fs::remove_file(filler).unwrap();
    }
    let mut revisions = Vec::new();
    let mut take = |record| match record {
        Record::Row(row) => revisions.push(row.revision.0),
        Record::Outcome(outcome) => panic!("{outcome:?}"),
    };
    state.restore(&mut take).unwrap();
    assert!(revisions.into_iter().eq(1..=state.checkpoint().revision.0));
}

#[test]
fn a_rewrite_that_fills_the_disk_is_cancelled() {
    let Some(at) = small_disk("a_rewrite_that_fills_the_disk_is_cancelled") else { return };
    let mut state = state(&at);
    let committed = state.checkpoint().clone();
    for free in [0, 600 << 10, 9 << 20] {
        let filler = fill_but(&at, free);
        state.begin_rewrite(committed.applied, Box::new((1..=400).map(row))).unwrap();
        while state.continue_rewrite().unwrap() {}
        assert_eq!((generations(&at), state.checkpoint()), (1, &committed), "with {free} bytes free");
        std::fs::remove_file(filler).unwrap();
    }
}

#[test]
fn a_staging_that_fills_the_disk_fails_as_such_leaves_nothing_and_the_next_one_does_well() {
    let name = "a_staging_that_fills_the_disk_fails_as_such_leaves_nothing_and_the_next_one_does_well";
    let Some(at) = small_disk(name) else { return };
    let state = state(&at);
    let mut too_much = state.stage().unwrap();
    let error = fill(&mut too_much, 100_000).unwrap_err();
    assert!(error.is_full(), "{error}");
    drop(too_much);
    assert_eq!(generations(&at), 1);
    // However far it gets.
    for free in [0, 20 << 10, 600 << 10, 8 << 20, 9 << 20] {
        let filler = fill_but(&at, free);
        let error = state.stage().and_then(|mut staging| fill(&mut staging, 400)).unwrap_err();
        assert!(error.is_full(), "with {free} bytes free: {error}");
        assert_eq!(generations(&at), 1, "with {free} bytes free");
        std::fs::remove_file(filler).unwrap();
    }
    let before = free_bytes(&at).unwrap();
    let mut staging = state.stage().unwrap();
    fill(&mut staging, 400).unwrap();
    let took = before - free_bytes(&at).unwrap();
    assert!(took <= SledStaging::disk_bytes_max(400 * 10_100), "it took {took} bytes");
}

const REFUSED: &str = "kuberaft_raft_snapshots_refused_total";
const RECEIVED: &str = "kuberaft_raft_snapshots_received_total";

#[test]
fn a_node_without_room_for_a_snapshot_refuses_it_runs_on_and_takes_it_when_there_is_room() {
    let _alone = alone();
    if !can_mount() {
        return;
    }
    let flags = [
        "--trailing-entries=50",
        "--log-segment-bytes=256KiB",
        "--checkpoint-interval=100ms",
        "--admit=anyone",
    ];
    let mut cluster = Cluster::start_with(1, &flags);
    for number in 0..300 {
        cluster.nodes[0].put(&format!("key-{number}"), vec![b'v'; 32 << 10]).unwrap();
    }
    until("the log was cut", || cluster.nodes[0].status().filter(|status| status.snapshot_index.0 > 250));

    // More than the reserve is free, but not as much as the state of 10 MB needs in addition.
    let later =
        cluster.prepare_later(&[0], &[&flags[..], &["--disk-reserve=8MiB", "--join=always"]].concat());
    let data = cluster.nodes[later].data();
    std::fs::create_dir_all(&data).unwrap();
    let filler = data.join("filler");
    let at = data.display();
    let fill = format!("head -c 90M /dev/zero > '{}'", filler.display());
    let node = &mut cluster.nodes[later];
    node.wrapper = on_small_disk(120, &at.to_string(), &fill);
    node.start();
    let node = &cluster.nodes[later];
    let refused = until("a snapshot was refused", || {
        node.status()?;
        Some(metric(node, REFUSED)).filter(|refused| *refused > 1)
    });
    let log = node.log();
    let warning =
        log.lines().find(|line| line.contains("is refused until there is more disk space")).unwrap();
    assert!(warning.contains("8 MiB are kept in reserve, but only "), "{warning}");
    cluster.nodes[0].put("meanwhile", "written").unwrap();
    assert!(node.status().is_some() && metric(node, RECEIVED) == 0);

    std::fs::remove_file(format!("/proc/{}/root{}", node.process_id(), filler.display())).unwrap();
    until("the snapshot was taken", || Some(()).filter(|()| metric(node, RECEIVED) > 0));
    until("the node holds what the other one does", || {
        let (one, two) = (cluster.nodes[0].status()?, node.status()?);
        (one.state_hash == two.state_hash).then_some(())
    });
    report(format!("refused {refused} times or more: {}", warning.split(": ").last().unwrap_or_default()));
}

/// A counter of a node.
fn metric(node: &Node, name: &str) -> u64 {
    let (_, metrics) = node.fetch("/metrics");
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}
