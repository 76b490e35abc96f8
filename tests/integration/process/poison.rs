//! An entry in the log that no program can apply: the node halts and says what to do, and `recover --skip` goes around
//! it.

use std::ops::ControlFlow;
use std::path::Path;

use kuberaft::raft::{AppendEntries, Entry, Payload};
use kuberaft::storage::wal::Options;
use kuberaft::storage::{DataDir, Opened};
use kuberaft::types::{IoId, LogIndex, LogTime};

use super::alone;
use super::backup::{fail, succeed};
use super::cluster::Cluster;

/// Appends a committed entry to the log of a node that does not run, as a leader without checks would have; returns its
/// index.
fn poison(data: &Path, name: &str) -> LogIndex {
    let directory = DataDir::open(data, name, Options::default(), &mut |_| ControlFlow::Break(())).unwrap();
    let Opened { mut wal, recovered, .. } = directory.into_parts().unwrap();
    let index = recovered.last.index.next();
    let command = Payload::Command(bytes::Bytes::from_static(b"\xff from nowhere"));
    let time = LogTime(recovered.time.0 + 1);
    let entries = vec![Entry { term: recovered.last.term, index, time, payload: command }];
    let hard_state = recovered.hard_state;
    let append = AppendEntries { io: IoId(1), truncate_from: None, hard_state, commit_index: index, entries };
    wal.append(&append);
    wal.flush().unwrap();
    index
}

#[test]
fn a_poison_entry_halts_the_node_with_a_remedy_and_recovery_skips_it() {
    let _alone = alone();
    let mut cluster = Cluster::start(1);
    let directory = cluster.directory.path().to_owned();
    let node = &mut cluster.nodes[0];
    for key in 0..20 {
        node.put(&format!("key-{key}"), format!("value-{key}")).unwrap();
    }
    node.kill();
    let data = node.data();
    let index = poison(&data, &node.name);

    for _ in 0..2 {
        node.start();
        assert_eq!(node.ended().code(), Some(3));
        let log = node.log();
        let error = log.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_default();
        let said = [format!("entry {index}@"), format!("recover --data-dir DIR --skip {index}")];
        assert!(said.iter().all(|part| error.contains(part)), "{error}");
        assert!(!log.contains("panicked"), "{log}");
    }
    let path = data.to_str().unwrap();
    let told = fail(&directory, &["recover", "--data-dir", path, "--yes"], 3);
    assert!(told.contains(&format!("--skip {index}")), "{told}");
    let told = fail(&directory, &["recover", "--data-dir", path, "--yes", "--skip=2"], 1);
    assert!(told.contains("entry 2 is not to be skipped"), "{told}");
    let beyond = format!("--skip={}", index.next());
    let told = fail(&directory, &["recover", "--data-dir", path, "--yes", &beyond], 1);
    assert!(told.contains("the log holds no such entry"), "{told}");

    let skip = format!("--skip={index}");
    let told = succeed(&directory, &["recover", "--data-dir", path, "--yes", &skip, "--force"]);
    assert!(told.contains(&format!("Entry {index} is left out")), "{told}");
    let node = &mut cluster.nodes[0];
    node.start();
    node.ready();
    for key in 0..20 {
        assert_eq!(node.fetch(&format!("/get?key=key-{key}")), (200, format!("value-{key}")));
    }
    node.put("after", "the poison").unwrap();
    let status = node.status().unwrap();
    assert!(status.term.0 <= 4, "terms start again: {status:?}");
}
