//! A node's life as its disk sees it: a list of steps at random, and what must be on the disk after each.
//!
//! What a log thread, a checkpoint's thread and a start do to the directory is done by their own code: the log and its
//! installations by [`Log`], checkpoints and rewrites by [`SledState`], what they remove included.
//!
//! To add a step: a variant, its weight in [`Step::draw`], and what it does in [`Node::step`].

mod install;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use bytes::Bytes;
use kuberaft::kv::{Command, Condition, Operation, Record, Store};
use kuberaft::plant::Planted;
use kuberaft::raft::{AppendEntries, Committed, Entry, HardState, Payload};
use kuberaft::replica::snapshot::{Shelf, StagedStores};
use kuberaft::replica::{Apply, ApplyInput, ApplyOutput, Log, LogInput, LogOutput};
use kuberaft::storage::files::OsFiles;
use kuberaft::storage::state::{SledStaging, SledState};
use kuberaft::storage::wal::Options;
use kuberaft::storage::{Checkpoint, DataDir, Lock, NewData, Opened, Remake, Staging, StateStore};
use kuberaft::types::{ClusterId, IoId, LogIndex, LogPosition, LogTime, NodeId, Term};

use super::random::Random;
use super::recorder;

pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);

pub(crate) fn options(planted: Planted) -> Options {
    Options { segment_bytes: 32 << 10, rules: planted.into() }
}

pub(crate) fn open(root: &Path, planted: Planted) -> Result<DataDir, kuberaft::storage::StorageError> {
    DataDir::open(root, "one", options(planted), &mut |_| ControlFlow::Break(()))
}

/// What must be on the disk.
#[derive(Clone, Default)]
pub(crate) struct Model {
    /// Once it is drawn.
    pub(crate) node_id: Option<NodeId>,
    pub(crate) is_member: bool,
    pub(crate) hard_state: HardState,
    /// Where the log restarted.
    pub(crate) before: LogPosition,
    /// The log from there on, dropped entries included.
    pub(crate) entries: Vec<Entry>,
    /// The log may have dropped entries up to here.
    pub(crate) dropped: LogIndex,
    /// Last entry that the checkpoint covers.
    pub(crate) checkpoint: LogPosition,
    /// Known to be committed.
    pub(crate) commit_index: LogIndex,
}

impl Model {
    pub(crate) fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.before, Entry::position)
    }

    pub(crate) fn entries_from(&self, first: LogIndex) -> &[Entry] {
        let at = usize::try_from(first.0 - self.before.index.next().0).unwrap();
        self.entries.get(at..).unwrap_or_default()
    }
}

/// What a run left behind: what was recorded, and what was acknowledged when.
pub(crate) struct Run {
    pub(crate) journal: Vec<recorder::Operation>,
    /// After so many operations this must be there.
    pub(crate) acknowledged: Vec<(usize, Model)>,
    /// Digest of the state after each entry, from none on.
    pub(crate) hashes: Vec<u64>,
    /// A restart without any power loss did not succeed, and ended the run.
    pub(crate) broken: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Entries at the log's end.
    Append,
    /// Uncommitted ones are replaced.
    Replace,
    /// A vote in a new term.
    Vote,
    /// The log's next segment is made ready.
    Prepare,
    /// What is committed is applied and covered by a checkpoint.
    Checkpoint,
    /// The log drops what the checkpoint covers.
    Compact,
    /// A leader's snapshot from ahead of what is committed here.
    Install,
    /// A snapshot that comes, and is not wanted any more.
    Discard,
    /// A rewrite of the live state begins.
    Rewrite,
    /// The next piece of that.
    Piece,
    /// The process ends and starts again.
    Restart,
    /// A quorum is lost, and this node is made a cluster of its own.
    Remake,
}

impl Step {
    fn draw(random: &mut Random) -> Self {
        const WEIGHTS: [(Step, u64); 12] = [
            (Step::Append, 16),
            (Step::Replace, 4),
            (Step::Vote, 3),
            (Step::Prepare, 4),
            (Step::Checkpoint, 4),
            (Step::Compact, 4),
            (Step::Install, 2),
            (Step::Discard, 1),
            (Step::Rewrite, 2),
            (Step::Piece, 4),
            (Step::Restart, 1),
            (Step::Remake, 1),
        ];
        let mut at = random.below(WEIGHTS.iter().map(|(_, weight)| weight).sum());
        for (step, weight) in WEIGHTS {
            match at.checked_sub(weight) {
                None => return step,
                Some(rest) => at = rest,
            }
        }
        Self::Append
    }
}

/// Runs `steps` steps on the empty directory `root`, and records what they do to it.
pub(crate) fn run(root: &Path, seed: u64, steps: usize, planted: Planted) -> Run {
    recorder::begin(root);
    let mut node = Node::create(root, seed, planted);
    for _ in 0..steps {
        let step = Step::draw(&mut node.random);
        node.step(step);
        if node.broken.is_some() {
            break;
        }
        node.acknowledge();
    }
    let Node { acknowledged, hashes, broken, parts, left, .. } = node;
    drop((parts, left));
    Run { journal: recorder::end(), acknowledged, hashes, broken }
}

/// What is open while the process runs.
struct Parts {
    log: Log<OsFiles, SledState>,
    state: Arc<Mutex<SledState>>,
    shelf: Shelf<SledStaging>,
    _lock: Lock,
}

impl Parts {
    fn state(&self) -> MutexGuard<'_, SledState> {
        self.state.lock().unwrap()
    }

    /// What the log leaves to another thread.
    fn tidy(&mut self) {
        if let Some(preparation) = self.log.wal().take_preparation() {
            preparation.run().unwrap();
        }
        if let Some(removal) = self.log.wal().take_removal() {
            removal.run().unwrap();
        }
    }
}

struct Node {
    root: PathBuf,
    planted: Planted,
    random: Random,
    parts: Option<Parts>,
    broken: Option<String>,
    model: Model,
    acknowledged: Vec<(usize, Model)>,
    /// The state machine; the same over restarts, since what it holds is checked on the images.
    apply: Apply,
    store: Arc<RwLock<Store>>,
    hashes: Vec<u64>,
    /// Changes that no checkpoint covers yet.
    records: Vec<Record>,
    /// What a killed process would leave: the next start removes it.
    left: Vec<SledStaging>,
    /// Some values are so large that the state is rewritten in several pieces.
    has_large: bool,
}

impl Node {
    fn create(root: &Path, seed: u64, planted: Planted) -> Self {
        let store = Arc::new(RwLock::new(Store::default()));
        let hashes = vec![store.read().unwrap().hash()];
        let mut node = Self {
            root: root.to_owned(),
            planted,
            random: Random::new(seed),
            parts: None,
            broken: None,
            model: Model::default(),
            acknowledged: vec![(0, Model::default())],
            apply: Apply::new(Arc::clone(&store), StagedStores::default(), &Checkpoint::default()),
            store,
            hashes,
            records: Vec::new(),
            left: Vec::new(),
            has_large: false,
        };
        let mut directory = open(root, planted).unwrap();
        node.model.node_id = Some(directory.identity().node_id);
        node.acknowledge();
        node.model.hard_state = HardState { term: Term(1), voted_for: None };
        let first = node.entry(LogIndex(1));
        directory.join(CLUSTER, Some(&node.append(None, vec![first.clone()]))).unwrap();
        (node.model.is_member, node.model.entries) = (true, vec![first]);
        node.acknowledge();
        drop(directory);
        node.start();
        // From here on: a log's first record fits into a segment.
        node.has_large = seed.is_multiple_of(3);
        node
    }

    fn start(&mut self) {
        match open(&self.root, self.planted).and_then(DataDir::into_parts) {
            Ok(opened) => {
                let (state, received) = (Arc::new(Mutex::new(opened.state)), Shelf::default());
                let log = Log::new(opened.wal, Arc::clone(&state), received.clone());
                self.parts = Some(Parts { log, state, shelf: received, _lock: opened.lock });
            }
            Err(error) => self.broken = Some(error.to_string()),
        }
        self.left.clear();
    }

    fn parts(&mut self) -> &mut Parts {
        self.parts.as_mut().expect("the process runs")
    }

    fn acknowledge(&mut self) {
        self.acknowledged.push((recorder::recorded(), self.model.clone()));
    }

    fn entry(&mut self, index: LogIndex) -> Entry {
        let is_large = self.has_large && self.random.below(3) == 0;
        let size = match self.random.below(5) {
            _ if is_large => 200 << 10,
            which => [10, 100, 600, 3000, 9000][usize::try_from(which).unwrap()],
        };
        let value: Vec<u8> = match self.random.below(3) {
            0 => vec![0; size],
            fill => vec![u8::try_from(fill * 100 + index.0 % 50).unwrap(); size],
        };
        let key = format!("key-{}", self.random.below(20)).into();
        let operation = Operation::Put { key, value: Bytes::from(value), condition: Condition::Always };
        let command = Command::from(operation);
        let payload = Payload::Command(command.encode());
        Entry { term: self.model.hard_state.term, index, time: LogTime(index.0), payload }
    }

    fn entries(&mut self, from: LogIndex, most: u64) -> Vec<Entry> {
        let count = 1 + self.random.below(most);
        (from.0..from.0 + count).map(|index| self.entry(LogIndex(index))).collect()
    }

    fn append(&self, truncate_from: Option<LogIndex>, entries: Vec<Entry>) -> AppendEntries {
        let Model { hard_state, commit_index, .. } = self.model;
        AppendEntries { io: IoId(1), truncate_from, hard_state, commit_index, entries }
    }

    /// Writes and flushes.
    fn write(&mut self, truncate_from: Option<LogIndex>, entries: Vec<Entry>) {
        let append = self.append(truncate_from, entries.clone());
        let parts = self.parts();
        parts.log.wal().append(&append);
        parts.log.wal().flush().unwrap();
        if let Some(from) = truncate_from {
            self.model.entries.retain(|entry| entry.index < from);
        }
        self.model.entries.extend(entries);
    }

    fn step(&mut self, step: Step) {
        let last = self.model.last().index;
        match step {
            Step::Append => {
                let entries = self.entries(last.next(), 3);
                self.write(None, entries);
                // Some of what is there turns out to be committed; nobody truncates that again.
                let open = self.model.last().index.0 - self.model.commit_index.0;
                self.model.commit_index.0 += self.random.below(open + 1);
            }
            Step::Replace if last > self.model.commit_index => {
                let open = last.0 - self.model.commit_index.0;
                let from = LogIndex(last.0 - self.random.below(open));
                self.model.hard_state =
                    HardState { term: self.model.hard_state.term.next(), voted_for: None };
                let entries = self.entries(from, 2);
                self.write(Some(from), entries);
            }
            Step::Vote => self.vote(self.model.hard_state.term.next()),
            Step::Prepare => self.parts().tidy(),
            Step::Checkpoint => self.checkpoint(),
            Step::Compact => {
                let through = self.model.checkpoint.index;
                self.parts()
                    .log
                    .handle(vec![LogInput::Compact { through }], &mut LogOutput::default())
                    .unwrap();
                self.model.dropped = self.model.dropped.max(through);
            }
            Step::Install => self.install(),
            Step::Discard => self.discard(),
            Step::Rewrite => {
                self.checkpoint();
                let (at, live) = (self.model.checkpoint, Box::new(self.apply.view().records()));
                self.parts().state().begin_rewrite(at, live).unwrap();
            }
            Step::Piece => {
                self.parts().state().continue_rewrite().unwrap();
            }
            Step::Restart => {
                drop(self.parts.take());
                self.start();
            }
            Step::Remake => self.remake(),
            Step::Replace => {}
        }
    }

    fn vote(&mut self, term: Term) {
        let voted_for = Some(NodeId(1 + self.random.below(3)));
        self.model.hard_state = HardState { term, voted_for };
        self.write(None, Vec::new());
    }

    fn checkpoint(&mut self) {
        if self.apply_committed() {
            let (records, checkpoint) = (std::mem::take(&mut self.records), self.apply.checkpoint());
            self.commit(&records, checkpoint);
        }
    }

    /// Whether there was anything to apply.
    fn apply_committed(&mut self) -> bool {
        let (first, through) = (self.apply.applied().next(), self.model.commit_index);
        if first > through {
            return false;
        }
        let entries = self.model.entries_from(first).iter();
        let committed = entries.filter(|entry| entry.index <= through).cloned().collect();
        self.apply(committed);
        true
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let mut out = ApplyOutput::default();
            let committed = vec![Committed { entry, proposal: None }];
            self.apply
                .handle(vec![ApplyInput::Entries(committed)], &mut out)
                .expect("only commands are committed");
            self.records.extend(out.records);
            self.hashes.push(self.store.read().unwrap().hash());
        }
    }

    fn commit(&mut self, records: &[Record], checkpoint: Checkpoint) {
        self.model.checkpoint = checkpoint.applied;
        let mut state = self.parts().state();
        state.write(records).unwrap();
        state.commit(checkpoint).unwrap();
    }

    /// All that the log holds counts as committed, and goes into a new directory; then that takes the place of the old one.
    fn remake(&mut self) {
        drop(self.parts.take());
        let options = options(self.planted);
        let opened = DataDir::open_existing(&self.root, options).and_then(DataDir::into_parts);
        let Opened { lock, wal, state, .. } = match opened {
            Ok(opened) => opened,
            Err(error) => return self.broken = Some(error.to_string()),
        };
        drop((wal, state));
        self.left.clear();
        let rest = self.model.entries_from(self.apply.applied().next()).to_vec();
        self.apply(rest);
        self.records.clear();
        let before = self.model.last();
        let term = self.model.hard_state.term.max(before.term).next();
        let entry = Entry {
            term,
            index: before.index.next(),
            time: LogTime(before.index.0),
            payload: Payload::Configuration(Arc::default()),
        };
        let first = AppendEntries {
            io: IoId(0),
            truncate_from: None,
            hard_state: HardState { term, voted_for: None },
            commit_index: before.index,
            entries: vec![entry.clone()],
        };
        let (node_id, cluster_id) = (self.model.node_id.unwrap(), ClusterId(CLUSTER.0 + 1));
        let remake = Remake { node_id, name: "one".to_owned(), cluster_id, place: None, audit: Vec::new() };
        let new = NewData::begin(&self.root, &lock, remake, options).unwrap();
        let mut staging = new.stage().unwrap();
        let live: Vec<Record> = self.apply.view().records().collect();
        staging.write(&live).unwrap();
        staging.seal().unwrap();
        new.install(staging, self.apply.checkpoint(), &first).unwrap();
        drop(lock);
        self.model.hard_state = first.hard_state;
        (self.model.before, self.model.checkpoint) = (before, before);
        (self.model.dropped, self.model.commit_index) = (before.index, before.index);
        self.model.entries = vec![entry];
        self.start();
    }
}
