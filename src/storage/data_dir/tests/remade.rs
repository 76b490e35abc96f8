//! Data made again from a state, in place of what was there.

use super::*;
use crate::storage::{Fit, StateStore, check_fit};

const NEW_CLUSTER: ClusterId = ClusterId(0xc2);

fn remake(node_id: NodeId) -> Remake {
    let record = AuditRecord {
        unix_ms: 1_000,
        version: "0".to_owned(),
        cause: Cause::Recovered,
        from: None,
        to: None,
        old_cluster_id: CLUSTER,
        cluster_id: NEW_CLUSTER,
        last: LogPosition { index: LogIndex(40), term: Term(1) },
        dropped: vec![(NodeId(2), "two".to_owned())],
    };
    Remake { node_id, name: "one".to_owned(), cluster_id: NEW_CLUSTER, place: None, audit: vec![record] }
}

/// A state of so many rows, and a log that begins behind it in term 3.
fn install(root: &Path, lock: &Lock, node_id: NodeId, rows: u64) -> Option<PathBuf> {
    let new = NewData::begin(root, lock, remake(node_id), OPTIONS).unwrap();
    let mut staging = new.stage().unwrap();
    staging.write(&(1..=rows).map(row).collect::<Vec<_>>()).unwrap();
    staging.seal().unwrap();
    let first = Entry { term: Term(3), ..entry(rows + 1) };
    let first =
        AppendEntries { hard_state: HardState { term: Term(3), voted_for: None }, ..append(vec![first]) };
    new.install(staging, checkpoint(rows), &first).unwrap()
}

fn assert_remade(root: &Path, node_id: NodeId, rows: u64) {
    let directory = open(root).unwrap();
    assert_eq!(directory.identity().node_id, node_id);
    assert_eq!(directory.identity().cluster_id, Some(NEW_CLUSTER));
    assert_eq!(directory.audit().unwrap(), remake(node_id).audit);
    let Opened { wal, recovered, state, .. } = directory.into_parts().unwrap();
    assert_eq!(check_fit(root, &recovered, state.checkpoint()).unwrap(), Fit::Joined);
    assert_eq!(recovered.hard_state, HardState { term: Term(3), voted_for: None });
    assert_eq!((wal.first_index(), wal.last().index), (LogIndex(rows + 1), LogIndex(rows + 1)));
    let mut restored = Vec::new();
    state.restore(&mut |record| restored.push(record)).unwrap();
    assert_eq!(restored, (1..=rows).map(row).collect::<Vec<_>>());
    drop((wal, state));
    let report = inspect::verify(root).unwrap();
    assert_eq!(report.audit, remake(node_id).audit);
}

/// The directory of a member, ready to be made again.
fn lock(root: &Path) -> (Lock, NodeId) {
    let node_id = member(root, 40);
    let Opened { lock, wal, state, .. } =
        DataDir::open_existing(root, OPTIONS).unwrap().into_parts().unwrap();
    drop((wal, state));
    (lock, node_id)
}

#[test]
fn the_new_data_takes_the_place_of_the_old_which_is_kept() {
    let root = temporary();
    let root = root.path();
    let (lock, node_id) = lock(root);
    let before = install(root, &lock, node_id, 40).unwrap();
    drop(lock);
    assert!(before.join("wal").is_dir());
    assert_remade(root, node_id, 40);
    // Once more: only the newest is kept.
    let Opened { lock, wal, state, .. } =
        DataDir::open_existing(root, OPTIONS).unwrap().into_parts().unwrap();
    drop((wal, state));
    assert_eq!(install(root, &lock, node_id, 50), Some(before));
    drop(lock);
    assert_remade(root, node_id, 50);
}

#[test]
fn what_is_not_whole_changes_nothing() {
    let root = temporary();
    let root = root.path();
    let (lock, node_id) = lock(root);
    let new = NewData::begin(root, &lock, remake(NodeId(9)), OPTIONS).unwrap();
    let mut staging = new.stage().unwrap();
    staging.write(&[row(1)]).unwrap();
    drop((staging, new));
    assert!(!root.join("data.new").exists());
    drop(lock);
    let directory = open(root).unwrap();
    assert_eq!(directory.identity().node_id, node_id);
    assert_eq!(directory.identity().cluster_id, Some(CLUSTER));
    assert_eq!(directory.audit().unwrap(), []);
}

#[test]
fn an_exchange_is_finished_after_a_crash_at_any_step() {
    // What the directory looks like when it is opened again, from the last step backwards.
    let steps: [Change; 2] = [
        |root| fs::rename(root.join("data"), root.join("data.recovered")).unwrap(),
        |root| fs::rename(root.join("data.before-recovery"), root.join("data")).unwrap(),
    ];
    for undone in 1..=steps.len() {
        let root = temporary();
        let root = root.path();
        let (lock, node_id) = lock(root);
        install(root, &lock, node_id, 40);
        drop(lock);
        steps[..undone].iter().for_each(|undo| undo(root));
        drop(DataDir::open_existing(root, OPTIONS).unwrap());
        assert_remade(root, node_id, 40);
        assert!(root.join("data.before-recovery/wal").is_dir() && !root.join("data.recovered").exists());
    }
}

#[test]
fn only_an_empty_directory_is_claimed() {
    let root = temporary();
    let root = root.path().join("new");
    let lock = claim_empty(&root).unwrap();
    assert!(matches!(claim_empty(&root), Err(StorageError::Locked { .. })));
    assert_eq!(install(&root, &lock, NodeId(9), 5), None);
    drop(lock);
    assert_remade(&root, NodeId(9), 5);
    let error = claim_empty(&root).unwrap_err();
    assert!(error.exit_code() == 5 && error.to_string().contains("it is not empty"), "{error}");
}

#[test]
fn what_is_nobodys_or_a_removed_nodes_is_not_opened() {
    let root = temporary();
    let root = root.path();
    let refused = |code: u8, what: &str| {
        let error = DataDir::open_existing(root, OPTIONS).err().unwrap();
        assert!(error.exit_code() == code && error.to_string().contains(what), "{error}");
    };
    refused(1, "holds no node's data");
    assert_eq!(fs::read_dir(root).unwrap().count(), 0, "nothing was made");
    member(root, 10);
    let database = Database::open_existing(&root.join("data/sled")).unwrap();
    let tombstone = Tombstone { cluster_id: CLUSTER, node_id: NodeId(1), removed_by: LogIndex(5) };
    database.put(set_aside::TOMBSTONE, &tombstone).unwrap();
    database.flush().unwrap();
    drop(database);
    refused(5, "was removed from its cluster");
}
