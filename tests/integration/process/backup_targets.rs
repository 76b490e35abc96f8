//! Where backups are written to and read from, besides plain files.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::alone;
use super::backup::{fail, run, succeed};
use super::cluster::{Cluster, program};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// One node that holds something.
fn cluster() -> Cluster {
    let cluster = Cluster::start(1);
    cluster.nodes[0].put("key", "saved").unwrap();
    cluster
}

fn save(cluster: &Cluster, to: &str) -> Value {
    let endpoint = cluster.nodes[0].client.address();
    let told = succeed(cluster.directory.path(), &["snapshot", "save", to, "--endpoints", &endpoint]);
    serde_json::from_str(&told).unwrap()
}

#[test]
fn a_backup_is_for_its_owner_alone_or_keeps_the_mode_of_what_it_replaces() {
    let _alone = alone();
    let cluster = cluster();
    let path = cluster.directory.path().join("a.snapshot");
    save(&cluster, "a.snapshot");
    assert_eq!(mode(&path), 0o600);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    save(&cluster, "a.snapshot");
    assert_eq!(mode(&path), 0o640);
    // In a folder, too.
    fs::create_dir(cluster.directory.path().join("backups")).unwrap();
    let endpoint = cluster.nodes[0].client.address();
    succeed(cluster.directory.path(), &["snapshot", "save", "--dir", "backups", "--endpoints", &endpoint]);
    let entry = fs::read_dir(cluster.directory.path().join("backups")).unwrap().next().unwrap();
    assert_eq!(mode(&entry.unwrap().path()), 0o600);
}

#[test]
fn links_devices_and_pipes_stay_what_they_are() {
    let _alone = alone();
    let cluster = cluster();
    let directory = cluster.directory.path();
    symlink("real.snapshot", directory.join("link")).unwrap();
    for _ in 0..2 {
        save(&cluster, "link");
        assert!(fs::symlink_metadata(directory.join("link")).unwrap().is_symlink());
    }
    let saved = succeed(directory, &["snapshot", "inspect", "real.snapshot"]);
    assert!(saved.contains("state_hash"), "{saved}");

    save(&cluster, "/dev/null");
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let endpoint = cluster.nodes[0].client.address();
    let told = fail(directory, &["snapshot", "save", "/dev/full", "--endpoints", &endpoint], 1);
    assert!(told.contains("No space left on device"), "{told}");

    let pipe = directory.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (reader, copy) = (pipe.clone(), directory.join("copy.snapshot"));
    let reading = std::thread::spawn(move || {
        io::copy(&mut File::open(reader).unwrap(), &mut File::create(copy).unwrap()).unwrap()
    });
    let told = save(&cluster, "pipe");
    assert_eq!(reading.join().unwrap(), told["file_bytes"].as_u64().unwrap());
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    let inspected: Value =
        serde_json::from_str(&succeed(directory, &["snapshot", "inspect", "copy.snapshot"])).unwrap();
    assert_eq!(inspected["state_hash"], told["state_hash"]);
}

#[test]
fn a_backup_goes_through_standard_output_and_input() {
    let _alone = alone();
    let cluster = cluster();
    let directory = cluster.directory.path();
    let endpoint = cluster.nodes[0].client.address();
    for name in ["-", "/dev/stdout"] {
        let saved = run(directory, &["snapshot", "save", name, "--endpoints", &endpoint]);
        let told = String::from_utf8(saved.stderr).unwrap();
        assert!(saved.status.success() && told.contains("DIGEST"), "{told}");
        fs::write(directory.join("out.snapshot"), &saved.stdout).unwrap();
        assert!(!directory.join("-").exists());
    }
    let read = |arguments: &[&str]| {
        let file = File::open(directory.join("out.snapshot")).unwrap();
        let output = program(&[], directory).args(arguments).stdin(Stdio::from(file)).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let size = fs::metadata(directory.join("out.snapshot")).unwrap().len();
    for name in ["-", "/dev/stdin"] {
        assert_eq!(read(&["snapshot", "inspect", name])["file_bytes"], size);
    }
    let restored = read(&["snapshot", "restore", "-", "--data-dir", "new", "--name", "n"]);
    assert_eq!(restored["keys"], 1);
    assert!(directory.join("new/data").is_dir());
}
