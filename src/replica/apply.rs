//! The state machine's part: applies, answers, replaces the state by a snapshot, cuts snapshots for others.

use std::sync::{Arc, PoisonError, RwLock};

use super::ApplyInput;
use super::snapshot::{Cut, StagedStores};
use crate::kv::{self, Command, CommandError, Record};
use crate::raft::{Committed, Configuration, Payload, Snapshot};
use crate::storage::Checkpoint;
use crate::types::{
    LogIndex, LogPosition, LogTime, NodeId, ProposalId, ReadId, Session, StagedId, StateDigest,
};

/// Between two marks, by the log's clock.
const MARK_MICROS: u64 = 1_000_000;

/// The state machine's part. Readers share the store; apply takes its lock once a batch.
pub struct Apply {
    store: Arc<RwLock<kv::Store>>,
    /// Received snapshots.
    staged: StagedStores,
    applied: LogPosition,
    /// The log's clock at that entry.
    time: LogTime,
    configuration: (LogIndex, Arc<Configuration>),
}

/// A committed entry that this program cannot apply. Without it, the state would differ from the other replicas'.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "entry {position} cannot be applied: {source}. Nothing was overwritten, and a restart meets it again. If a newer \
     version of this program wrote the entry, run that version. The last resort, on one stopped node, is `kuberaft \
     recover --data-dir DIR --skip {}`: it makes a new cluster of all other entries", position.index
)]
pub struct Unappliable {
    /// The entry.
    pub position: LogPosition,
    /// What is wrong with its command.
    pub source: CommandError,
}

/// What the apply part did.
#[derive(Debug, Default)]
pub struct ApplyOutput {
    /// Answers for this node's clients, in the order of the entries.
    pub answers: Vec<(ProposalId, kv::Answer)>,
    /// Reads that may be served now.
    pub ready_reads: Vec<ReadId>,
    /// Changes for the checkpoint, in the order of the entries.
    pub records: Vec<Record>,
    /// The state was replaced: changes before these are of no use to a checkpoint.
    pub installed: bool,
    /// Snapshots for peers.
    pub cuts: Vec<Cut>,
    /// Digest of the state after the last entry.
    pub digest: StateDigest,
    /// Digests after entries that set a mark: the first ones of each second of the log's clock. So all replicas have
    /// digests of the same states to compare, however they batch what they apply.
    pub marks: Vec<(LogIndex, StateDigest)>,
}

impl Apply {
    /// A state machine whose `store` is the state of the checkpoint `covered`. What it is told to install is in
    /// `staged`.
    #[must_use]
    pub fn new(store: Arc<RwLock<kv::Store>>, staged: StagedStores, covered: &Checkpoint) -> Self {
        Self {
            store,
            staged,
            applied: covered.applied,
            time: covered.time,
            configuration: (covered.configuration_index, Arc::clone(&covered.configuration)),
        }
    }

    /// Last applied index.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied.index
    }

    /// Keys in the store.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.store.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What a checkpoint of the state as it is now covers.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let (configuration_index, configuration) = self.configuration.clone();
        let revision = self.store.read().unwrap_or_else(PoisonError::into_inner).revision();
        Checkpoint {
            applied: self.applied,
            time: self.time,
            revision,
            configuration,
            configuration_index,
            installed: false,
        }
    }

    /// The state as of [`Apply::checkpoint`].
    #[must_use]
    pub fn view(&self) -> kv::View {
        self.store.read().unwrap_or_else(PoisonError::into_inner).view()
    }

    /// The state as it is now, for nobody in particular.
    #[must_use]
    pub fn cut(&self) -> Cut {
        let (to, session, term) = (NodeId(0), Session(0), self.applied.term);
        Cut { to, session, term, snapshot: self.snapshot(), view: self.view() }
    }

    /// Applies a batch.
    ///
    /// # Errors
    /// A committed command that does not parse. What came before it is applied, and in `out`. Replicas would diverge
    /// if this one continued, so the process must stop.
    ///
    /// # Panics
    /// A gap between entries.
    pub fn handle(&mut self, inputs: Vec<ApplyInput>, out: &mut ApplyOutput) -> Result<(), Unappliable> {
        let store = Arc::clone(&self.store);
        let mut replaced = Vec::new();
        let mut store = store.write().unwrap_or_else(PoisonError::into_inner);
        for input in inputs {
            match input {
                ApplyInput::Entries(entries) => {
                    for committed in entries {
                        self.apply(&mut store, committed, out)?;
                    }
                }
                ApplyInput::Reads(ids) => out.ready_reads.extend(ids),
                ApplyInput::Install { snapshot, staged } => {
                    replaced.push(self.install(&mut store, snapshot, staged, out));
                }
                ApplyInput::SendSnapshot { to, session, term } => {
                    out.cuts.push(Cut { to, session, term, snapshot: self.snapshot(), view: store.view() });
                }
            }
        }
        out.digest = store.digest();
        // Readers need not wait while a whole state is dropped.
        drop(store);
        Ok(())
    }

    /// Replaces the state, and returns the old one.
    fn install(
        &mut self,
        store: &mut kv::Store,
        snapshot: Snapshot,
        staged: StagedId,
        out: &mut ApplyOutput,
    ) -> kv::Store {
        let Snapshot { position, time, configuration, configuration_index } = snapshot;
        assert!(
            position.index > self.applied.index,
            "snapshot {position} is to replace the state of {}",
            self.applied
        );
        let new = self.staged.take(staged);
        let new = new.unwrap_or_else(|| panic!("snapshot {position} is to be installed, but is not staged"));
        (self.applied, self.time) = (position, time);
        self.configuration = (configuration_index, configuration);
        out.records.clear();
        out.installed = true;
        std::mem::replace(store, new)
    }

    /// The state's position in the log.
    fn snapshot(&self) -> Snapshot {
        let (configuration_index, configuration) = self.configuration.clone();
        Snapshot { position: self.applied, time: self.time, configuration, configuration_index }
    }

    fn apply(
        &mut self,
        store: &mut kv::Store,
        committed: Committed,
        out: &mut ApplyOutput,
    ) -> Result<(), Unappliable> {
        let Committed { entry, proposal } = committed;
        assert!(
            entry.index == self.applied.index.next(),
            "entry {} was handed out for apply after {}",
            entry.position(),
            self.applied
        );
        let position = entry.position();
        let command = match &entry.payload {
            Payload::Command(data) => {
                Some(Command::decode(data).map_err(|source| Unappliable { position, source })?)
            }
            Payload::Noop | Payload::Configuration(_) => None,
        };
        let sets_mark = entry.time.0 / MARK_MICROS != self.time.0 / MARK_MICROS;
        (self.applied, self.time) = (position, entry.time);
        match entry.payload {
            Payload::Noop | Payload::Command(_) => {}
            Payload::Configuration(configuration) => self.configuration = (entry.index, configuration),
        }
        if let Some(command) = command {
            let answer = store.apply(entry.index, entry.time, command, &mut out.records);
            if let Some(id) = proposal {
                out.answers.push((id, answer));
            }
        }
        if sets_mark {
            out.marks.push((self.applied.index, store.digest()));
        }
        Ok(())
    }
}
