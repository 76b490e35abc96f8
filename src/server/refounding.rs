//! A new cluster out of what one directory or one backup holds, while no node runs: `kuberaft recover` and
//! `kuberaft snapshot restore`. What that means is decided in [`membership`](crate::membership); how it survives a crash,
//! in [`NewData`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::alive::{OtherMember, PeerPods, Peers, Presence, ask};
use super::ownership::Ownership;
use super::peer_secret::kept_secret;
use crate::k8s;
use crate::kv::{Record, View};
use crate::membership::{
    InitialClusterError, Origin, Refounding, WasRemoved, refound, revision_after_refounding,
};
use crate::raft::Snapshot;
use crate::replica::Unappliable;
use crate::replica::recovery::{Disk, Survivor, SurvivorError, survivor};
use crate::replica::snapshot::file::{About, FileError, Reader, Totals};
use crate::storage::wal::Options;
use crate::storage::{
    AuditRecord, Cause, Checkpoint, DataDir, Elsewhere, Identity, Lock, NewData, Opened, Place, Remake,
    Staging, StorageError, claim_empty,
};
use crate::tls::TlsError;
use crate::types::{ClusterId, LogIndex, LogPosition, NodeId, Revision};

/// Records are written to the new state so many at a time.
const RECORDS_AT_ONCE: usize = 1024;

/// Why no cluster was made.
#[derive(Debug, thiserror::Error)]
pub enum RefoundError {
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An entry that this program cannot apply.
    #[error(transparent)]
    Unappliable(#[from] Unappliable),
    /// An entry that is to be skipped, and need not be.
    #[error("{0}")]
    NotSkipped(String),
    /// The backup.
    #[error("snapshot {} {error}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        error: FileError,
    },
    /// There is nothing that a cluster could be made of.
    #[error("{} holds nothing to recover: {what}", path.display())]
    Nothing {
        /// The data directory.
        path: PathBuf,
        /// Why.
        what: &'static str,
    },
    /// The node is no member.
    #[error(transparent)]
    WasRemoved(#[from] WasRemoved),
    /// The members' list makes no sense.
    #[error(transparent)]
    Members(#[from] InitialClusterError),
    /// What the other members are asked by.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system refused something.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl RefoundError {
    /// As of [`StorageError::exit_code`]; 5 for a node that was removed, otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Storage(error) | Self::File { error: FileError::Storage(error), .. } => error.exit_code(),
            Self::Unappliable(_) => 3,
            Self::WasRemoved(_) => 5,
            Self::NotSkipped(_)
            | Self::File { .. }
            | Self::Nothing { .. }
            | Self::Members(_)
            | Self::Tls(_)
            | Self::System(_) => 1,
        }
    }
}

impl From<SurvivorError> for RefoundError {
    fn from(error: SurvivorError) -> Self {
        match error {
            SurvivorError::Storage(error) => Self::Storage(error),
            SurvivorError::Unappliable(error) => Self::Unappliable(error),
            SurvivorError::NotSkipped { .. } => Self::NotSkipped(error.to_string()),
        }
    }
}

/// Where and as whom a recovered directory continues.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Where in Kubernetes it will be used, if there.
    pub place: Option<Place>,
    /// The node's name, if it is to be another one.
    pub name: Option<String>,
    /// It may be at home elsewhere, and have another name: it is a copy, or was moved.
    pub adopt: bool,
    /// Entries to leave out, since no program can apply them.
    pub skip: BTreeSet<LogIndex>,
}

/// What `recover` would do: everything is known, nothing is changed yet. Holds the directory's lock.
pub struct Recovery {
    root: PathBuf,
    lock: Lock,
    /// Whose data it is.
    pub identity: Identity,
    /// The name that the node will have.
    pub name: String,
    /// Where in Kubernetes it will be at home.
    pub place: Option<Place>,
    cause: Cause,
    /// The cluster that it is of.
    pub old_cluster_id: ClusterId,
    /// The cluster that it will be of.
    pub cluster_id: ClusterId,
    /// What it holds.
    pub survivor: Survivor,
    /// The entries that are left out.
    pub skipped: BTreeSet<LogIndex>,
    /// What becomes of the members.
    pub plan: Refounding,
    /// The other members of the old cluster, by id.
    pub others: BTreeMap<NodeId, OtherMember>,
    /// Whether the cluster needs a recovery.
    pub majority: Majority,
    audit: Vec<AuditRecord>,
}

/// Whether a majority of a cluster's voters is there, this node among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Majority {
    /// It is: the cluster needs no recovery.
    There,
    /// It may be: too many could not be asked.
    Unknown,
    /// It is not.
    Lost,
}

/// What `recover` did.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Where the data is as it was before.
    pub before: Option<PathBuf>,
    /// What is left to be done about the owner of the files.
    pub warning: Option<String>,
}

/// Looks at the directory `root`, whose node must not be running, and asks the other members whether they live.
///
/// # Errors
/// [`RefoundError`]; [`StorageError::Locked`] while a node runs on the directory; [`StorageError::Place`] and
/// [`StorageError::Identity`] if it is at home elsewhere, or has another name, and is not to be adopted.
pub fn survey(root: &Path, target: Target, mut peers: Peers) -> Result<Recovery, RefoundError> {
    peers.tls = peers.tls.or_else(|| kept_secret(root));
    let data = DataDir::open_existing(root, Options::default())?;
    let nothing = |what| RefoundError::Nothing { path: root.to_owned(), what };
    let Target { place, name, adopt, skip } = target;
    if !adopt {
        check_home(root, data.identity(), place.as_ref(), name.as_deref())?;
    }
    let cause = if adopt { Cause::Adopted } else { Cause::Recovered };
    let name = name.unwrap_or_else(|| data.identity().name.clone());
    let place = place.or_else(|| data.identity().place.clone());
    let old_cluster_id =
        data.identity().cluster_id.ok_or_else(|| nothing("its node belongs to no cluster yet"))?;
    let audit = data.audit()?;
    let Opened { lock, identity, wal, recovered: found, state } = data.into_parts()?;
    let survivor = survivor(Disk { node_id: identity.node_id, wal, found, state }, &skip)?;
    let Snapshot { position, time, configuration, .. } = &survivor.snapshot;
    if position.index.0 == 0 || configuration.members().is_empty() {
        return Err(nothing("its node was added to a cluster, and nothing of it has arrived yet"));
    }
    let plan = refound(&Origin {
        node_id: identity.node_id,
        name: name.clone(),
        configuration: (**configuration).clone(),
        last: *position,
        time: *time,
    })?;
    let pod = peers.pods.as_ref().zip(place.as_ref()).map(|(pods, place)| as_pod(&name, place, pods));
    let others = ask(&identity, old_cluster_id, configuration, peers, pod)?;
    let is = |id: NodeId, presence| others.get(&id).is_some_and(|other| other.presence == presence);
    let lives = |id| id == identity.node_id || is(id, Presence::Running);
    let majority = match configuration.has_quorum(lives) {
        true => Majority::There,
        false if configuration.has_quorum(|id| lives(id) || is(id, Presence::Unknown)) => Majority::Unknown,
        false => Majority::Lost,
    };
    let cluster_id = new_cluster_id()?;
    let root = root.to_owned();
    Ok(Recovery {
        root,
        lock,
        identity,
        name,
        place,
        cause,
        old_cluster_id,
        cluster_id,
        survivor,
        skipped: skip,
        plan,
        others,
        majority,
        audit,
    })
}

fn as_pod(name: &str, place: &Place, peers: &PeerPods) -> k8s::Settings {
    k8s::Settings {
        namespace: place.namespace.clone(),
        pod: name.to_owned(),
        stateful_set: place.stateful_set.clone(),
        service: peers.service.clone(),
        // Neither is asked for here.
        latch: String::new(),
        members_max: 0,
        peer_port: peers.port,
    }
}

/// Whether the directory is of this place and name, as far as given.
fn check_home(
    root: &Path,
    identity: &Identity,
    place: Option<&Place>,
    name: Option<&str>,
) -> Result<(), StorageError> {
    let path = root.to_owned();
    if let (Some(home), Some(present)) = (&identity.place, place)
        && home != present
    {
        let (home, present) = (home.clone(), present.clone());
        return Err(StorageError::Place(Box::new(Elsewhere { path, home, present })));
    }
    match name {
        Some(name) if name != identity.name => {
            let what = format!("it was first used as {:?}, not {name:?}; --adopt renames it", identity.name);
            Err(StorageError::Identity { path, what })
        }
        _ => Ok(()),
    }
}

impl Recovery {
    /// The other members that are found so, by id, with their names.
    #[must_use]
    pub fn others_that_are(&self, presence: Presence) -> BTreeMap<NodeId, String> {
        let found = self.others.iter().filter(|(_, other)| other.presence == presence);
        found.map(|(id, other)| (*id, other.name.clone())).collect()
    }

    /// Does it.
    ///
    /// # Errors
    /// As any write, whereupon the directory is as it was.
    pub fn carry_out(self) -> Result<Recovered, RefoundError> {
        let Self { root, lock, identity, name, place, cause, survivor, plan, mut audit, .. } = self;
        let (old_cluster_id, cluster_id) = (self.old_cluster_id, self.cluster_id);
        let record = record(cause, old_cluster_id, cluster_id, survivor.snapshot.position, &plan)?;
        audit.push(AuditRecord { from: identity.place, to: place.clone(), ..record });
        let remake = Remake { node_id: identity.node_id, name, cluster_id, place, audit };
        let ownership = Ownership::of(&root);
        let new = NewData::begin(&root, &lock, remake, Options::default())?;
        let mut staging = new.stage()?;
        let mut batch = Vec::with_capacity(RECORDS_AT_ONCE);
        for record in survivor.view.records() {
            batch.push(record);
            if batch.len() == RECORDS_AT_ONCE {
                staging.write(&batch)?;
                batch.clear();
            }
        }
        staging.write(&batch)?;
        let revision = raise(&survivor.view, &mut staging)?;
        let before = new.install(staging, checkpoint(survivor.snapshot, revision, &plan), &plan.record())?;
        Ok(Recovered { before, warning: ownership.and_then(|owner| owner.restore()) })
    }
}

/// What `snapshot restore` did.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the file said of itself.
    pub about: About,
    /// What it held.
    pub totals: Totals,
    /// The new cluster.
    pub cluster_id: ClusterId,
    /// Its only voter.
    pub node_id: NodeId,
    /// The revision that it begins with.
    pub revision: Revision,
    /// What is left to be done about the owner of the files.
    pub warning: Option<String>,
}

/// A backup that is read from its beginning to its end.
pub struct Backup<'a, R> {
    /// What it is called in messages.
    pub file: &'a Path,
    /// Its bytes.
    pub from: R,
}

/// Makes the directory `root`, which must be empty, the data of a new node `name`: the only voter of a new cluster whose
/// state is that of the snapshot `backup`, at home in `place`, if that is in Kubernetes. `may_replace` is asked with the
/// snapshot's cluster before anything is written.
///
/// # Errors
/// [`RefoundError`]; the directory is as it was then.
pub fn restore<E: From<RefoundError>>(
    backup: Backup<'_, impl Read>,
    root: &Path,
    name: &str,
    place: Option<Place>,
    may_replace: impl FnOnce(ClusterId) -> Result<(), E>,
) -> Result<Restored, E> {
    let Backup { file, from } = backup;
    let reader = Reader::open(from).map_err(|error| RefoundError::File { path: file.to_owned(), error })?;
    let about = reader.about().clone();
    may_replace(about.cluster_id)?;
    Ok(restore_from(reader, about, file, root, name, place)?)
}

fn restore_from(
    mut reader: Reader<impl Read>,
    about: About,
    file: &Path,
    root: &Path,
    name: &str,
    place: Option<Place>,
) -> Result<Restored, RefoundError> {
    let failed = |error| RefoundError::File { path: file.to_owned(), error };
    let (node_id, cluster_id) = (NodeId(random()?), new_cluster_id()?);
    let plan = refound(&Origin {
        node_id,
        name: name.to_owned(),
        configuration: about.configuration.clone(),
        last: about.position,
        time: about.time,
    })?;
    let ownership = Ownership::of(root);
    let lock = claim_empty(root)?;
    let record = record(Cause::Restored, about.cluster_id, cluster_id, about.position, &plan)?;
    let audit = vec![AuditRecord { to: place.clone(), ..record }];
    let remake = Remake { node_id, name: name.to_owned(), cluster_id, place, audit };
    let new = NewData::begin(root, &lock, remake, Options::default())?;
    let mut content = reader.restore(new.stage()?).map_err(failed)?;
    let revision = raise(&content.store.view(), &mut content.staging)?;
    new.install(content.staging, checkpoint(content.snapshot, revision, &plan), &plan.record())?;
    let warning = ownership.and_then(|owner| owner.restore());
    Ok(Restored { about, totals: reader.totals(), cluster_id, node_id, revision, warning })
}

/// Raises the revision of a staged state above every revision that clients may have seen before, and seals it. A revision
/// or an `ETag` from before then never fits a key that the new cluster writes.
fn raise(view: &View, staging: &mut impl Staging) -> Result<Revision, RefoundError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    let revision = revision_after_refounding(view.revision(), now_us, random()?);
    staging.write(&[Record::Row(view.raised(revision))])?;
    staging.seal()?;
    Ok(revision)
}

fn checkpoint(snapshot: Snapshot, revision: Revision, plan: &Refounding) -> Checkpoint {
    let Snapshot { position: _, time, configuration, configuration_index } = snapshot;
    Checkpoint {
        applied: plan.covered(),
        time,
        revision,
        configuration,
        configuration_index,
        installed: true,
    }
}

fn record(
    cause: Cause,
    old_cluster_id: ClusterId,
    cluster_id: ClusterId,
    last: LogPosition,
    plan: &Refounding,
) -> Result<AuditRecord, RefoundError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    Ok(AuditRecord {
        unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cause,
        old_cluster_id,
        cluster_id,
        last,
        dropped: plan.dropped.iter().map(|(id, name)| (*id, name.clone())).collect(),
        from: None,
        to: None,
    })
}

fn random() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
}

/// Zero stands for no cluster.
fn new_cluster_id() -> io::Result<ClusterId> {
    loop {
        match random()? {
            0 => {}
            id => return Ok(ClusterId(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::CommandError;
    use crate::types::Term;

    #[test]
    fn every_cause_has_its_exit_code() {
        let path = || PathBuf::from("/data");
        let unappliable = Unappliable {
            position: LogPosition { index: LogIndex(7), term: Term(2) },
            source: CommandError("unknown version"),
        };
        let file = |error| RefoundError::File { path: path(), error };
        let causes = [
            (StorageError::damaged(&path(), "odd").into(), 3),
            (StorageError::Poisoned.into(), 4),
            (file(FileError::Storage(StorageError::Poisoned)), 4),
            (file(FileError::NotASnapshot), 1),
            (unappliable.into(), 3),
            (WasRemoved(LogIndex(7)).into(), 5),
            (RefoundError::NotSkipped("entry 7 can be applied".into()), 1),
            (RefoundError::Nothing { path: path(), what: "no log" }, 1),
            (InitialClusterError::Empty.into(), 1),
            (io::Error::from(io::ErrorKind::Other).into(), 1),
        ];
        for (cause, code) in causes {
            assert_eq!(cause.exit_code(), code, "{cause}");
        }
    }
}
