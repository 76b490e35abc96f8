//! Backups: saved under load, verified, restored as another cluster; damaged ones refused.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use kuberaft::api::Consistency;
use kuberaft::kv::Condition;
use kuberaft::types::{ClusterId, Revision};
use serde_json::Value;

use super::cluster::{Cluster, Node, program};
use super::{alone, report, until};

/// Writes that are acknowledged before a backup is taken under load.
const WRITES_BEFORE: u64 = 50;

/// Runs a command of the program to its end.
pub(super) fn run(directory: &Path, arguments: &[&str]) -> Output {
    program(&[], directory).args(arguments).output().unwrap()
}

/// What a command that must succeed prints.
pub(super) fn succeed(directory: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = run(directory, arguments);
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{arguments:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// What a command that must fail prints to standard error.
pub(super) fn fail(directory: &Path, arguments: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = run(directory, arguments);
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
    stderr.into_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// One key after the other, until told to stop; `acknowledged` counts.
fn write(cluster: &Cluster, stop: &AtomicBool, acknowledged: &AtomicU64) {
    let leader = cluster.leader();
    for number in 1.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        cluster.nodes[leader].put(&format!("load-{number}"), vec![b'v'; 3_000]).unwrap();
        acknowledged.store(number, Ordering::SeqCst);
    }
}

#[test]
fn a_backup_taken_under_load_is_restored_as_a_new_cluster_with_every_acknowledged_write() {
    let _alone = alone();
    let cluster = Cluster::start(3);
    let directory = cluster.directory.path();
    let follower = cluster.other(cluster.leader());
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let (saved, before) = thread::scope(|scope| {
        scope.spawn(|| write(&cluster, &stop, &acknowledged));
        let before = until("some writes are acknowledged", || {
            Some(acknowledged.load(Ordering::SeqCst)).filter(|count| *count >= WRITES_BEFORE)
        });
        let endpoint = cluster.nodes[follower].client.address();
        let saved = run(directory, &["snapshot", "save", "a.snapshot", "--endpoints", &endpoint]);
        stop.store(true, Ordering::SeqCst);
        assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
        (json(&String::from_utf8_lossy(&saved.stdout)), before)
    });
    report(format!("saved {} keys in {} bytes under load", saved["keys"], saved["file_bytes"]));
    assert!(saved["keys"].as_u64().unwrap() >= before, "{saved}");
    let inspected = json(&succeed(directory, &["snapshot", "inspect", "a.snapshot"]));
    assert_eq!(inspected, saved);
    let table = succeed(directory, &["snapshot", "inspect", "a.snapshot", "-o", "table"]);
    assert!(table.contains("whole") && table.contains(saved["state_hash"].as_str().unwrap()), "{table}");

    // Another cluster, with the same content.
    let mut restored = Cluster::prepare(1, &[]);
    let (file, data) = (directory.join("a.snapshot"), restored.nodes[0].data());
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let told =
        succeed(directory, &["snapshot", "restore", file, "--data-dir", data, "--name", "1", "-o", "table"]);
    assert!(told.contains("Next: kuberaft serve --name 1"), "{told}");
    restored.nodes[0].start();
    restored.ready();
    let status = restored.nodes[0].status().unwrap();
    // No revision from before fits anything that is written from now on.
    assert!(status.revision.0 > saved["revision"].as_u64().unwrap() + 1_000_000_000, "{status:?}");
    let old = cluster.nodes[0].status().unwrap().cluster_id;
    assert!(status.cluster_id.is_some() && status.cluster_id != old, "{old:?}");
    for number in 1..=before {
        let found = restored.nodes[0].get(&format!("load-{number}"), Consistency::Linearizable).unwrap();
        assert_eq!(found.unwrap().content.value.len(), 3_000, "load-{number}");
    }
    let written = restored.nodes[0].put("after", "restored").unwrap();
    assert_eq!(written.revision, Revision(status.revision.0 + 1));

    // It stays so, and says where it is from.
    restored.nodes[0].kill();
    let verified = succeed(directory, &["debug", "verify", data]);
    let told = format!("restored from cluster {}", old.unwrap());
    assert!(verified.contains(&told), "{told} in {verified}");
    restored.nodes[0].start();
    restored.ready();
    assert_eq!(restored.nodes[0].fetch("/get?key=after"), (200, "restored".into()));
    assert_eq!(restored.nodes[0].status().unwrap().revision, written.revision);
}

#[test]
fn no_revision_from_before_a_restore_fits_a_write_behind_it() {
    let _alone = alone();
    let cluster = Cluster::start(1);
    let directory = cluster.directory.path();
    let endpoint = cluster.nodes[0].client.address();
    cluster.nodes[0].put("key", "saved").unwrap();
    succeed(directory, &["snapshot", "save", "a.snapshot", "--endpoints", &endpoint]);
    let mut seen = vec![cluster.nodes[0].put("key", "after the backup").unwrap().revision];
    let file = directory.join("a.snapshot");
    // The same backup twice: nor do those of the first restored cluster fit in the second one.
    for _ in 0..2 {
        let mut restored = Cluster::prepare(1, &[]);
        let (data, name) = (restored.nodes[0].data(), "1");
        let arguments = ["--data-dir", data.to_str().unwrap(), "--name", name];
        succeed(directory, &[&["snapshot", "restore", file.to_str().unwrap()][..], &arguments].concat());
        restored.nodes[0].start();
        restored.ready();
        let written = restored.nodes[0].put("key", "of another client").unwrap().revision;
        for revision in &seen {
            let condition = Condition::ModRevision(*revision);
            let put = restored.nodes[0]
                .ask(async |mut client| client.put(b"key", "lost update".into(), condition).await);
            let error = put.unwrap_err().to_string();
            assert!(error.contains("precondition") || error.contains("412"), "{error}");
        }
        seen.push(written);
    }
}

#[test]
fn damaged_backups_are_refused_and_leave_nothing_behind() {
    let _alone = alone();
    let mut cluster = Cluster::start(1);
    let directory = cluster.directory.path().to_owned();
    for number in 0..20 {
        cluster.nodes[0].put(&format!("key-{number}"), vec![b'v'; 50_000]).unwrap();
    }
    let endpoint = cluster.nodes[0].client.address();
    succeed(&directory, &["snapshot", "save", "a.snapshot", "--endpoints", &endpoint]);
    cluster.nodes[0].kill();

    let whole = fs::read(directory.join("a.snapshot")).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let damaged: [(&[u8], &str); 4] = [
        (&flipped, "is damaged at byte"),
        (&whole[..whole.len() - 1], "ends in the middle"),
        (&whole[..whole.len() / 2], "ends in the middle"),
        (b"something else", "is not a snapshot of kuberaft"),
    ];
    for (content, what) in damaged {
        fs::write(directory.join("bad.snapshot"), content).unwrap();
        let told = fail(&directory, &["snapshot", "inspect", "bad.snapshot"], 1);
        assert!(told.contains(what), "{told}");
        let restore = ["snapshot", "restore", "bad.snapshot", "--data-dir", "new", "--name", "n"];
        let told = fail(&directory, &restore, 1);
        assert!(told.contains(what), "{told}");
        assert!(!directory.join("new/data").exists() && !directory.join("new/data.new").exists());
    }

    // The next one is taken all the same, and then the directory is not empty any more.
    let restore = ["snapshot", "restore", "a.snapshot", "--data-dir", "new", "--name", "n"];
    succeed(&directory, &restore);
    let told = fail(&directory, &restore, 5);
    assert!(told.contains("not empty"), "{told}");
    let told = fail(&directory, &["snapshot", "save", "b.snapshot", "--endpoints", &endpoint], 1);
    assert!(told.contains("no node gives a snapshot"), "{told}");
    let left = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("b.snapshot")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_folder_of_backups_is_kept_short_and_stands_for_its_newest() {
    let _alone = alone();
    let cluster = Cluster::start(1);
    let directory = cluster.directory.path();
    let endpoint = cluster.nodes[0].client.address();
    succeed(directory, &["status", "--wait", "60s", "--endpoints", &endpoint]);
    let save = ["snapshot", "save", "--dir", "backups", "--keep", "2", "--endpoints", &endpoint];
    let told = fail(directory, &save, 1);
    assert!(told.contains("cannot read backups"), "{told}");
    let folder = directory.join("backups");
    fs::create_dir(&folder).unwrap();
    // Of an older time, of another cluster, and of somebody else.
    let id = cluster.nodes[0].status().unwrap().cluster_id.unwrap();
    let older = [1, 2, 3].map(|day| format!("kuberaft-{id}-2020010{day}T000000Z.snapshot"));
    let others = ["kuberaft-00000000000000aa-20200101T000000Z.snapshot", "notes.txt"];
    for name in older.iter().map(String::as_str).chain(others) {
        fs::write(folder.join(name), "older").unwrap();
    }
    cluster.nodes[0].put("key", "saved").unwrap();
    let saved = json(&succeed(directory, &save));
    assert_eq!(saved["removed"].as_array().unwrap().len(), 2, "{saved}");
    let name = Path::new(saved["file"].as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with(&format!("kuberaft-{id}-2")), "{name}");
    let mut left: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut expected = vec![older[2].clone(), name.clone(), others[0].to_owned(), others[1].to_owned()];
    expected.sort();
    assert_eq!(left, expected);

    let listed = json(&succeed(directory, &["snapshot", "list", "backups"]));
    assert_eq!(listed[0]["file"], saved["file"], "{listed}");
    assert!(listed.as_array().unwrap().len() == 3 && listed[1]["error"].is_string(), "{listed}");
    // Which of two clusters' is meant is not guessed.
    let told = fail(directory, &["snapshot", "inspect", "backups"], 2);
    assert!(told.contains("several clusters"), "{told}");
    fs::remove_file(folder.join(others[0])).unwrap();
    let inspected = json(&succeed(directory, &["snapshot", "inspect", "backups"]));
    assert_eq!(inspected["state_hash"], saved["state_hash"]);
    let restored =
        json(&succeed(directory, &["snapshot", "restore", "backups", "--data-dir", "new", "--name", "n"]));
    assert_eq!(restored["file"], saved["file"], "{restored}");
}

#[test]
fn nodes_join_a_restored_cluster_and_the_old_one_stays_away() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let directory = cluster.directory.path().to_owned();
    cluster.nodes[0].put("key", "saved").unwrap();
    let old: ClusterId = cluster.nodes[0].status().unwrap().cluster_id.unwrap();
    let endpoint = cluster.nodes[1].client.address();
    succeed(&directory, &["snapshot", "save", "a.snapshot", "--endpoints", &endpoint]);
    cluster.nodes.iter_mut().for_each(Node::kill);
    for node in &cluster.nodes {
        fs::remove_dir_all(node.data()).unwrap();
    }
    let data = cluster.nodes[1].data();
    let data = data.to_str().unwrap();
    succeed(&directory, &["snapshot", "restore", "a.snapshot", "--data-dir", data, "--name", "2"]);
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.ready();
    until("all are voters", || (cluster.nodes[1].status()?.voters.len() == 3).then_some(()));
    for node in &cluster.nodes {
        assert_eq!(node.fetch("/get?key=key"), (200, "saved".into()));
        assert_ne!(node.status().unwrap().cluster_id, Some(old));
    }
}
