//! Whether a node that starts on an image has what it acknowledged, and continues.

use std::path::Path;

use kuberaft::plant::Planted;
use kuberaft::raft::{self, AppendEntries, Entry, HardState, Payload};
use kuberaft::replica::recovery::{Disk, Recovered, recover};
use kuberaft::storage::files::OsFiles;
use kuberaft::storage::state::SledState;
use kuberaft::storage::{Opened, StateStore, wal};
use kuberaft::types::{Instant, IoId, LogIndex, LogPosition, LogTime};

use super::run::{CLUSTER, Model, open};

/// What was notable about an image, beyond that it was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Notable {
    /// The step under way had taken effect.
    Ahead,
    /// The log's last record was cut.
    Torn,
    /// An installation was finished by the start.
    Finished,
    /// The log does not begin at entry 1.
    BeginsLater,
    /// There was a generation of the state next to the one that counts.
    Beside,
}

/// Starts on the directory `root`: it must hold what one of `possible` says. The first was acknowledged, the others are
/// what the step under way goes through, up to the last.
pub(crate) fn check(
    root: &Path,
    possible: &[(usize, Model)],
    hashes: &[u64],
    reopen: bool,
) -> Result<Vec<Notable>, String> {
    let (Some((_, before)), Some((_, after))) = (possible.first(), possible.last()) else {
        return Err("nothing is possible".into());
    };
    let beside = generations(root) > 1;
    let text = |error: kuberaft::storage::StorageError| error.to_string();
    let mut directory = open(root, Planted::NONE).map_err(text)?;
    let node_id = directory.identity().node_id;
    if before.node_id.is_some_and(|known| known != node_id) {
        return Err(format!("it is node {node_id} now"));
    }
    if directory.identity().cluster_id.is_none() {
        if before.is_member {
            return Err("it is no member any more".into());
        }
        directory.join(CLUSTER, None).map_err(text)?;
        drop(directory.into_parts().map_err(text)?);
        return Ok(Vec::new());
    }
    let opened = directory.into_parts().map_err(text)?;
    let (mut found, covered) = (opened.recovered.clone(), opened.state.checkpoint().applied);
    let mut replica = start(opened)?;
    let begin = replica.log.wal().first_index().prev();
    let finished = begin != found.before.index;
    if finished && found.hard_state.term < covered.term {
        // What the start makes of it; read back below.
        found.hard_state = HardState { term: covered.term, voted_for: None };
    }
    let mut differences = Vec::new();
    for (_, model) in possible {
        match holds(&mut replica, &found, covered, model) {
            Ok(()) => break,
            Err(difference) => differences.push(difference),
        }
    }
    if differences.len() == possible.len() {
        return Err(format!("not as before, within or after the step: {}", differences.join("; ")));
    }
    if generations(root) != 1 {
        return Err("the start left a generation that does not count".into());
    }
    check_state(&replica, after, hashes)?;
    let last = go_on(&mut replica, found.hard_state)?;
    drop(replica);
    if reopen {
        let opened =
            open(root, Planted::NONE).and_then(kuberaft::storage::DataDir::into_parts).map_err(text)?;
        let again = &opened.recovered;
        if again.torn_tail.is_some() || again.last != last || again.hard_state != found.hard_state {
            return Err(format!("after going on to {last} a second start finds {again:?}"));
        }
    }
    let notable = [
        (!differences.is_empty(), Notable::Ahead),
        (found.torn_tail.is_some(), Notable::Torn),
        (finished, Notable::Finished),
        (begin > LogIndex(0), Notable::BeginsLater),
        (beside, Notable::Beside),
    ];
    Ok(notable.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what).collect())
}

/// Generations of the state, whole or not.
fn generations(root: &Path) -> usize {
    let names = std::fs::read_dir(root.join("data")).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"state-")).count()
}

fn start(opened: Opened) -> Result<Recovered<OsFiles, SledState>, String> {
    let Opened { identity, wal, recovered: found, state, lock: _lock } = opened;
    let disk = Disk { node_id: identity.node_id, wal, found, state };
    recover(disk, raft::Settings::default(), 1, Instant(0)).map_err(|error| error.to_string())
}

/// Whether log and checkpoint are those of the model.
fn holds(
    replica: &mut Recovered<OsFiles, SledState>,
    found: &wal::Recovered,
    covered: LogPosition,
    model: &Model,
) -> Result<(), String> {
    if found.hard_state != model.hard_state {
        return Err(format!("{:?} instead of {:?}", found.hard_state, model.hard_state));
    }
    if covered != model.checkpoint {
        return Err(format!("a checkpoint of {covered} instead of {}", model.checkpoint));
    }
    let log = replica.log.wal();
    let (first, last) = (log.first_index(), log.last());
    if last != model.last() {
        return Err(format!("the log ends at {last} instead of {}", model.last()));
    }
    if first <= model.before.index || first.prev() > model.dropped {
        return Err(format!("the log begins at {first}, {} were dropped", model.dropped));
    }
    let entries = log.read(first, last.index, usize::MAX).map_err(|error| error.to_string())?;
    let expected: &[Entry] = model.entries_from(first);
    let differs = entries.iter().zip(expected).find(|(one, other)| one != other);
    match differs {
        Some((entry, _)) => Err(format!("entry {} is another", entry.position())),
        None if entries.len() == expected.len() => Ok(()),
        None => Err(format!("{} entries instead of {}", entries.len(), expected.len())),
    }
}

/// Whether what was applied is what the log says.
fn check_state(replica: &Recovered<OsFiles, SledState>, after: &Model, hashes: &[u64]) -> Result<(), String> {
    let applied = replica.applied;
    if applied > after.commit_index.max(after.checkpoint.index) {
        return Err(format!("entry {applied} is applied, {} is committed", after.commit_index));
    }
    let hash = replica.store.read().map_err(|error| error.to_string())?.hash();
    // What was committed but not applied by the time the run ended was never hashed.
    match usize::try_from(applied.0).ok().and_then(|at| hashes.get(at)) {
        Some(expected) if *expected != hash => Err(format!("the state at entry {applied} is another")),
        _ => Ok(()),
    }
}

/// Writes one entry more.
fn go_on(replica: &mut Recovered<OsFiles, SledState>, hard_state: HardState) -> Result<LogPosition, String> {
    let index = replica.log.wal().last().index.next();
    let entry = Entry { term: hard_state.term, index, time: LogTime(index.0), payload: Payload::Noop };
    let position = entry.position();
    let append = AppendEntries {
        io: IoId(1),
        truncate_from: None,
        hard_state,
        commit_index: LogIndex(0),
        entries: vec![entry],
    };
    replica.log.wal().append(&append);
    replica.log.wal().flush().map_err(|error| error.to_string())?;
    let checkpoint = replica.apply.checkpoint();
    let mut state = replica.state.lock().map_err(|error| error.to_string())?;
    state.commit(checkpoint).map_err(|error| error.to_string())?;
    Ok(position)
}
