//! Whose directory it is, and that nothing but what was promised comes out of a damaged one.

mod remade;

use bytes::Bytes;

use super::*;
use crate::kv::{Record, Row};
use crate::raft::{Entry, HardState, Payload};
use crate::storage::wal::Rules;
use crate::storage::{Checkpoint, Staging, inspect};
use crate::types::{IoId, LogIndex, LogPosition, LogTime, Revision, Term};

const CLUSTER: ClusterId = ClusterId(0xc1);
const OPTIONS: Options = Options { segment_bytes: 64 << 10, rules: Rules::SOUND };

/// What a test does to `data`.
type Change = fn(&Path);

/// In memory where the system has such a place: these tests flush often.
fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(root: &Path) -> Result<DataDir, StorageError> {
    DataDir::open(root, "one", OPTIONS, &mut |_| ControlFlow::Break(()))
}

fn append(entries: Vec<Entry>) -> AppendEntries {
    AppendEntries {
        io: IoId(1),
        truncate_from: None,
        hard_state: HardState { term: Term(1), voted_for: Some(NodeId(5)) },
        commit_index: LogIndex(0),
        entries,
    }
}

fn value(index: u64) -> Bytes {
    vec![u8::try_from(index % 256).unwrap(); 150].into()
}

fn entry(index: u64) -> Entry {
    Entry { term: Term(1), index: LogIndex(index), time: LogTime(0), payload: Payload::Command(value(index)) }
}

/// What applying [`entry`] gives.
fn row(index: u64) -> Record {
    Record::Row(Row {
        revision: Revision(index),
        key: format!("key-{index}").into(),
        value: Some(value(index)),
        create_revision: Revision(index),
        version: 1,
    })
}

fn checkpoint(index: u64) -> Checkpoint {
    Checkpoint {
        applied: LogPosition { index: LogIndex(index), term: Term(1) },
        revision: Revision(index),
        ..Checkpoint::default()
    }
}

/// A member with `last` entries in its log, of which a checkpoint each 30 covers all but the newest ones.
fn member(root: &Path, last: u64) -> NodeId {
    let mut directory = open(root).unwrap();
    directory.join(CLUSTER, Some(&append(vec![entry(1)]))).unwrap();
    let node_id = directory.identity().node_id;
    let Opened { mut wal, mut state, .. } = directory.into_parts().unwrap();
    wal.append(&append((2..=last).map(entry).collect()));
    wal.flush().unwrap();
    for end in (30..last).step_by(30) {
        let rows: Vec<Record> = (end - 29..=end).map(row).collect();
        state.write(&rows).unwrap();
        state.commit(checkpoint(end)).unwrap();
    }
    node_id
}

/// What a start would make of the directory: the rows of the checkpoint and, from the log, those above it.
fn start(root: &Path) -> Result<(NodeId, HardState, Vec<Record>), StorageError> {
    let opened = open(root)?.into_parts()?;
    let mut rows = Vec::new();
    opened.state.restore(&mut |row| rows.push(row))?;
    let from = opened.state.checkpoint().applied.index.next();
    let entries = opened.wal.read(from, LogIndex(u64::MAX), usize::MAX)?;
    rows.extend(entries.iter().map(|entry| row(entry.index.0)));
    Ok((opened.identity.node_id, opened.recovered.hard_state, rows))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn the_identity_is_drawn_once() {
    let root = temporary();
    let first = open(root.path()).unwrap().identity().clone();
    assert_eq!((first.name.as_str(), first.cluster_id), ("one", None));
    assert_eq!(open(root.path()).unwrap().identity(), &first);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(root.path().join("data")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o700);
    fs::remove_dir_all(root.path().join("data")).unwrap();
    assert_ne!(
        open(root.path()).unwrap().identity().node_id,
        first.node_id,
        "an emptied directory is another node"
    );
}

#[test]
fn another_name_is_refused() {
    let root = temporary();
    drop(open(root.path()).unwrap());
    let other = DataDir::open(root.path(), "two", OPTIONS, &mut |_| ControlFlow::Break(()));
    let error = other.map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("\"one\", not \"two\""), "{error}");
}

#[test]
fn a_held_lock_is_waited_for_and_named() {
    let root = temporary();
    let mut held = Some(open(root.path()).unwrap());
    let error = open(root.path()).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StorageError::Locked { .. }), "{text}");
    assert!(
        text.contains(&format!("process {}", std::process::id())) && text.contains("--data-dir"),
        "{text}"
    );
    let mut waited = 0;
    let opened = DataDir::open(root.path(), "one", OPTIONS, &mut |_| {
        waited += 1;
        held = None;
        ControlFlow::Continue(())
    });
    assert!(opened.is_ok());
    assert_eq!(waited, 1);
}

#[test]
fn a_member_stays_in_its_cluster() {
    let root = temporary();
    let node_id = member(root.path(), 40);
    let mut directory = open(root.path()).unwrap();
    assert_eq!(directory.identity().cluster_id, Some(CLUSTER));
    directory.join(CLUSTER, None).unwrap();
    assert_eq!(directory.join(ClusterId(2), None).unwrap_err().exit_code(), 5);
    drop(directory);
    let (id, hard_state, rows) = start(root.path()).unwrap();
    assert_eq!((id, hard_state.voted_for), (node_id, Some(NodeId(5))));
    assert_eq!(rows, (1..=40).map(row).collect::<Vec<_>>());
}

#[test]
fn the_intent_is_remembered() {
    let root = temporary();
    let intent = BootstrapIntent { cluster_id: CLUSTER, configuration: Configuration::default() };
    let mut directory = open(root.path()).unwrap();
    assert_eq!(directory.intent(), None);
    directory.record_intent(intent.clone()).unwrap();
    drop(directory);
    assert_eq!(open(root.path()).unwrap().intent(), Some(&intent));
}

#[test]
fn a_crash_between_log_and_cluster_id_is_settled() {
    let root = temporary();
    let directory = open(root.path()).unwrap();
    let owner = Owner { node_id: directory.identity().node_id, cluster_id: CLUSTER };
    let wal = directory.wal_path();
    drop(directory);
    drop(Wal::create(OsFiles, &wal, owner, OPTIONS, Some(&append(vec![entry(1)]))).unwrap());
    assert_eq!(open(root.path()).unwrap().identity().cluster_id, Some(CLUSTER));
    assert_eq!(start(root.path()).unwrap().2, [row(1)]);
}

#[test]
fn parts_that_are_missing_or_do_not_fit_are_refused() {
    let whole = temporary();
    member(whole.path(), 40);
    let changes: [(u8, Change); 7] = [
        (3, |data| fs::remove_dir_all(data.join("wal")).unwrap()),
        (3, |data| fs::remove_dir_all(data.join("sled")).unwrap()),
        (3, |data| fs::remove_file(data.join("sled").join("db")).unwrap()),
        (3, |data| fs::remove_dir_all(data.join("state-1")).unwrap()),
        (3, |data| {
            fs::remove_file(data.join("sled").join("db")).unwrap();
            fs::write(data.join("sled").join("db"), b"").unwrap();
        }),
        (3, |data| shorten_log(data, 10)),
        (5, |data| {
            fs::remove_dir_all(data.join("wal")).unwrap();
            let owner = Owner { node_id: NodeId(1), cluster_id: CLUSTER };
            drop(Wal::create(OsFiles, &data.join("wal"), owner, OPTIONS, None).unwrap());
        }),
    ];
    for (number, (code, change)) in changes.into_iter().enumerate() {
        let place = temporary();
        let root = place.path().join("copy");
        copy(whole.path(), &root);
        change(&root.join("data"));
        let error = start(&root).unwrap_err();
        assert_eq!(error.exit_code(), code, "change {number}: {error}");
    }
}

/// Makes the log end at `last`.
fn shorten_log(data: &Path, last: u64) {
    let wal = data.join("wal");
    let owner = Wal::owner(&OsFiles, &wal).unwrap();
    fs::remove_dir_all(&wal).unwrap();
    let mut wal = Wal::create(OsFiles, &wal, owner, OPTIONS, None).unwrap();
    wal.append(&append((1..=last).map(entry).collect()));
    wal.flush().unwrap();
}

#[test]
fn a_newer_layout_is_named() {
    let root = temporary();
    drop(open(root.path()).unwrap());
    let database = Database::open(&root.path().join("data").join("sled")).unwrap();
    database.put(IDENTITY, &serde_json::json!({ "format": 9, "something": "new" })).unwrap();
    database.flush().unwrap();
    drop(database);
    let error = open(root.path()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("format 9") && error.to_string().contains("newer version"), "{error}");
}

#[test]
fn inspecting_verifies_and_changes_nothing() {
    let root = temporary();
    let node_id = member(root.path(), 100);
    let wal = root.path().join("data").join("wal").join("0000000000000001");
    let (end, whole) = {
        let mut content = fs::read(&wal).unwrap();
        let end = content.iter().rposition(|byte| *byte != 0).unwrap();
        content[end - 5..=end].fill(0);
        fs::write(&wal, &content).unwrap();
        (end, content)
    };
    let sled = fs::read(root.path().join("data").join("sled").join("db")).unwrap();
    let mut records = 0;
    let log = inspect::log(root.path(), &mut |record| {
        records += 1;
        assert_eq!(record.entries[0].position.index.0, record.number);
    });
    assert_eq!(records, 1, "the second one was cut short");
    let torn = log.unwrap().recovered.torn_tail.unwrap();
    assert!((torn.offset..torn.offset + torn.bytes).contains(&(end as u64 - 6)));
    assert_eq!(inspect::verify(root.path()).unwrap_err().exit_code(), 3, "the state reaches beyond the log");
    shorten_log(&root.path().join("data"), 100);
    let report = inspect::verify(root.path()).unwrap();
    assert_eq!((report.identity.node_id, report.rows, report.outcomes), (node_id, 90, 0));
    assert_eq!((report.generation, &report.others[..]), (1, &[][..]));
    copy(&root.path().join("data").join("state-1"), &root.path().join("data").join("state-2"));
    assert_eq!(inspect::verify(root.path()).unwrap().others, [2]);
    assert!(root.path().join("data").join("state-2").exists(), "nothing is removed");
    assert_eq!(report.log.unwrap().recovered.last.index, LogIndex(100));
    assert_eq!(fs::read(root.path().join("data").join("sled").join("db")).unwrap(), sled);
    assert_eq!(whole.len(), 64 << 10);
    let _running = open(root.path()).unwrap();
    assert!(matches!(inspect::verify(root.path()), Err(StorageError::Locked { .. })));
}

#[test]
fn a_flipped_bit_in_any_of_sleds_files_is_found_or_harmless() {
    let whole = temporary();
    let node_id = member(whole.path(), 200);
    check_flips(whole.path(), node_id, 280);
}

#[test]
fn a_flipped_bit_next_to_unfinished_generations_is_found_or_harmless() {
    let whole = temporary();
    let node_id = member(whole.path(), 200);
    // A second generation is current, and a third one was left by a crash.
    let Opened { mut state, .. } = open(whole.path()).unwrap().into_parts().unwrap();
    let records: Vec<Record> = (1..=180).map(row).collect();
    state.begin_rewrite(state.checkpoint().applied, Box::new(records.into_iter())).unwrap();
    while state.continue_rewrite().unwrap() {}
    let mut staging = state.stage().unwrap();
    staging.write(&(1..=90).map(row).collect::<Vec<_>>()).unwrap();
    staging.seal().unwrap();
    let place = temporary();
    let crashed = place.path().join("crashed");
    copy(whole.path(), &crashed);
    check_flips(&crashed, node_id, 70);
}

/// Flips some `flips` bits, one at a time, all over each of sled's files, and starts.
fn check_flips(whole: &Path, node_id: NodeId, flips: usize) {
    let expected: Vec<Record> = (1..=200).map(row).collect();
    let place = temporary();
    let root = place.path().join("copy");
    let (mut tried, mut found) = (0, 0);
    let mut flip_and_start = |name: &Path, at: usize| {
        copy(whole, &root);
        let path = root.join(name);
        let mut content = fs::read(&path).unwrap();
        content[at] ^= 1 << (at % 8);
        fs::write(&path, content).unwrap();
        tried += 1;
        match start(&root) {
            Ok((id, hard_state, records)) => {
                assert_eq!((id, hard_state.voted_for), (node_id, Some(NodeId(5))), "{name:?} byte {at}");
                assert_eq!(records, expected, "{name:?} byte {at}");
            }
            Err(error) => {
                assert_eq!(error.exit_code(), 3, "{name:?} byte {at}: {error}");
                found += 1;
            }
        }
        fs::remove_dir_all(&root).unwrap();
    };
    let data = whole.join("data");
    let directories = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    for directory in directories.filter(|directory| !directory.ends_with("wal")) {
        for file in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if file.is_file() {
                let content = fs::read(&file).unwrap();
                let used: Vec<usize> = (0..content.len()).filter(|at| content[*at] != 0).collect();
                for at in used.iter().step_by((used.len() / flips).max(1)) {
                    flip_and_start(file.strip_prefix(whole).unwrap(), *at);
                }
            }
        }
    }
    assert!(tried >= 2 * flips && found > 20, "{tried} tried, {found} found");
}

#[test]
fn a_removed_nodes_data_is_set_aside_and_a_new_node_takes_its_place() {
    let root = temporary();
    let root = root.path();
    let before = member(root, 40);
    let opened = open(root).unwrap().into_parts().unwrap();
    let Opened { lock, wal, state, .. } = opened;
    drop((wal, state));
    let aside = set_aside(root, &lock, LogIndex(77)).unwrap();
    drop(lock);
    let after = open(root).unwrap();
    let tombstone = Tombstone { cluster_id: CLUSTER, node_id: before, removed_by: LogIndex(77) };
    assert_eq!(after.identity().retired, Some(tombstone));
    assert_eq!(after.identity().cluster_id, None);
    assert_ne!(after.identity().node_id, before);
    assert!(aside.join("wal").is_dir(), "the data is kept");
    let id = after.identity().node_id;
    drop(after);
    assert_eq!(open(root).unwrap().identity().node_id, id, "once is enough");
}

#[test]
fn setting_aside_is_finished_after_a_crash_at_any_step() {
    // What the directory looks like when it is opened again, from the last step backwards.
    let steps: [Change; 3] = [
        |root| fs::rename(root.join("data"), root.join("data.next")).unwrap(),
        |root| fs::rename(root.join("data.removed"), root.join("data")).unwrap(),
        // The new directory was not complete yet: it is made again.
        |root| fs::rename(root.join("data.next"), root.join("data.new")).unwrap(),
    ];
    for undone in 1..=steps.len() {
        let root = temporary();
        let root = root.path();
        let before = member(root, 10);
        let Opened { lock, wal, state, .. } = open(root).unwrap().into_parts().unwrap();
        drop((wal, state));
        set_aside(root, &lock, LogIndex(77)).unwrap();
        drop(lock);
        steps[..undone].iter().for_each(|undo| undo(root));
        let after = open(root).unwrap();
        assert_eq!(after.identity().retired.map(|tombstone| tombstone.node_id), Some(before), "{undone}");
        assert!(root.join("data.removed").join("wal").is_dir(), "{undone}");
        assert!(!root.join("data.next").exists() && !root.join("data.new").exists(), "{undone}");
    }
}

#[test]
fn of_one_cluster_only_the_newest_removed_data_is_kept() {
    let root = temporary();
    let root = root.path();
    for round in 1..=2 {
        let mut directory = open(root).unwrap();
        directory.join(CLUSTER, None).unwrap();
        let id = directory.identity().node_id;
        let Opened { lock, wal, state, .. } = directory.into_parts().unwrap();
        drop((wal, state));
        set_aside(root, &lock, LogIndex(round)).unwrap();
        drop(lock);
        let retired = open(root).unwrap().identity().retired;
        assert_eq!(
            retired.map(|tombstone| (tombstone.node_id, tombstone.removed_by)),
            Some((id, LogIndex(round)))
        );
    }
    let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["data", "data.removed", "lock"]);
}

/// A member of this cluster whose data is set aside.
fn removed_from(root: &Path, cluster_id: ClusterId) {
    let mut directory = open(root).unwrap();
    directory.join(cluster_id, None).unwrap();
    let Opened { lock, wal, state, .. } = directory.into_parts().unwrap();
    drop((wal, state));
    set_aside(root, &lock, LogIndex(1)).unwrap();
}

fn cluster_aside(root: &Path, name: &str) -> Option<ClusterId> {
    let database = Database::open_existing(&root.join(name).join("sled")).unwrap();
    read_identity(&database, root).unwrap().cluster_id
}

#[test]
fn data_of_another_cluster_is_never_deleted() {
    let root = temporary();
    let root = root.path();
    let clusters = [ClusterId(1), ClusterId(2), ClusterId(2), ClusterId(3)];
    for cluster in clusters {
        removed_from(root, cluster);
    }
    let expected = [("data.removed", 3), ("data.removed.1", 1), ("data.removed.2", 2)];
    for (name, cluster) in expected {
        assert_eq!(cluster_aside(root, name), Some(ClusterId(cluster)), "{name}");
    }
    // What cannot be read may be anything.
    fs::write(root.join("data.removed/sled/db"), b"no database").unwrap();
    removed_from(root, ClusterId(3));
    assert_eq!(fs::read(root.join("data.removed.3/sled/db")).unwrap(), b"no database");
    let kept = kept_aside(root).unwrap();
    let names: Vec<_> = kept.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["data.removed", "data.removed.1", "data.removed.2", "data.removed.3"]);
    assert!(kept.iter().all(|(_, bytes)| *bytes > 0), "{kept:?}");
}

fn place(namespace: &str) -> Place {
    Place { namespace: namespace.into(), stateful_set: "kv".into() }
}

#[test]
fn a_directory_stays_where_it_is_at_home() {
    let root = temporary();
    let node_id = member(root.path(), 10);
    let mut directory = open(root.path()).unwrap();
    assert_eq!(directory.identity().place, None, "as one from before places were recorded");
    directory.settle_in(&place("ns")).unwrap();
    directory.settle_in(&place("ns")).unwrap();
    drop(directory);
    let mut directory = open(root.path()).unwrap();
    assert_eq!(directory.identity().place, Some(place("ns")));
    let error = directory.settle_in(&place("copy")).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    for said in ["StatefulSet kv of namespace ns", "StatefulSet kv of namespace copy", "recover --adopt"] {
        assert!(error.to_string().contains(said), "{said} is not in {error}");
    }
    drop(directory);
    assert_eq!(start(root.path()).unwrap().0, node_id, "nothing was changed");
    assert_eq!(open(root.path()).unwrap().identity().place, Some(place("ns")));
}
