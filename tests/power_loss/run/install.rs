//! Snapshots that a node takes over, as its log thread does it, and those that it discards.

use kuberaft::kv::{Record, Store};
use kuberaft::raft::{Entry, HardState, Snapshot};
use kuberaft::replica::snapshot::Content;
use kuberaft::replica::{LogInput, LogOutput};
use kuberaft::storage::state::SledStaging;
use kuberaft::storage::{Checkpoint, Staging, StateStore};
use kuberaft::types::{IoId, LogIndex, NodeId, StagedId};

use super::{Model, Node, recorder};

/// What this node applied before the snapshot came, and has not written yet.
struct Late {
    records: Vec<Record>,
    checkpoint: Checkpoint,
}

impl Node {
    /// The cluster went on without this node. Either the log holds the snapshot's last entry, not knowing that it is
    /// committed, and is kept; or it does not, and all that is uncommitted is void.
    pub(super) fn install(&mut self) {
        self.apply_committed();
        let late = Late { records: std::mem::take(&mut self.records), checkpoint: self.apply.checkpoint() };
        let further = self.further();
        let keep_log = further.last().is_some_and(|last| self.holds(last));
        let term = further.last().map_or(self.model.hard_state.term, |last| last.term);
        self.apply(further);
        self.records.clear();
        let staged = self.receive(&late);
        if self.model.hard_state.term < term && self.random.below(2) == 0 {
            self.vote(term);
            self.acknowledge();
        }
        self.take_over(staged, keep_log);
        if self.random.below(2) == 0 {
            // The checkpoint's thread may come with these now only.
            let mut state = self.parts().state();
            state.write(&late.records).unwrap();
            state.commit(late.checkpoint).unwrap();
        }
    }

    fn holds(&self, entry: &Entry) -> bool {
        self.model.entries_from(entry.index).first().is_some_and(|own| own.position() == entry.position())
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.random.below(limit as u64)).unwrap()
    }

    /// What the cluster has committed that this node does not know to be.
    fn further(&mut self) -> Vec<Entry> {
        let (commit_index, last) = (self.model.commit_index, self.model.last().index);
        if commit_index < last && self.random.below(2) == 0 {
            let through = LogIndex(last.0 - self.random.below(last.0 - commit_index.0));
            let known = self.model.entries_from(commit_index.next()).iter();
            return known.filter(|entry| entry.index <= through).cloned().collect();
        }
        // Two terms on, so that this node may see another one meanwhile.
        let old = self.model.hard_state;
        self.model.hard_state.term = old.term.next().next();
        let further = self.entries(commit_index.next(), 8);
        self.model.hard_state = old;
        further
    }

    /// The state comes piece by piece, while the log and the checkpoint's thread continue.
    fn receive(&mut self, late: &Late) -> StagedId {
        let records: Vec<Record> = self.apply.view().records().collect();
        let mut staging = self.parts().state().stage().unwrap();
        let mut store = Store::default();
        let mut rest = &records[..];
        let mut is_asked = false;
        while !rest.is_empty() {
            let (piece, others) = rest.split_at(rest.len().min(1 + self.below(8)));
            staging.write(piece).unwrap();
            rest = others;
            match self.random.below(6) {
                0 if !is_asked => {
                    is_asked = true;
                    self.vote(self.model.hard_state.term.next());
                }
                1 => {
                    let entries = self.entries(self.model.last().index.next(), 2);
                    self.write(None, entries);
                }
                2 => self.parts().tidy(),
                3 if late.checkpoint.applied.index > self.model.checkpoint.index => {
                    self.commit(&late.records, late.checkpoint.clone());
                }
                4 => {
                    self.parts().state().continue_rewrite().unwrap();
                }
                _ => {}
            }
            self.acknowledge();
        }
        for record in records {
            store.restore(record);
        }
        staging.seal().unwrap();
        let Checkpoint { applied, time, configuration, configuration_index, .. } = self.apply.checkpoint();
        let snapshot = Snapshot { position: applied, time, configuration, configuration_index };
        self.parts().shelf.put(Content { snapshot, staging, store })
    }

    fn take_over(&mut self, staged: StagedId, keep_log: bool) {
        let Checkpoint { applied: position, time, configuration, configuration_index, .. } =
            self.apply.checkpoint();
        let snapshot = Snapshot { position, time, configuration, configuration_index };
        // A vote that is written with the installation, and nowhere before.
        let mut hard_state = self.model.hard_state;
        if hard_state.term < position.term || hard_state.voted_for.is_none() || keep_log {
            let term = hard_state.term.next().max(position.term);
            hard_state = HardState { term, voted_for: Some(NodeId(1 + self.random.below(3))) };
        }
        let mut within = Model { checkpoint: position, ..self.model.clone() };
        within.commit_index = within.commit_index.max(position.index);
        let mut after = Model { hard_state, dropped: position.index, ..within.clone() };
        if !keep_log {
            // A start between state and log does the rest, in the snapshot's term.
            (within.before, within.dropped) = (position, position.index);
            within.entries.clear();
            if within.hard_state.term < position.term {
                within.hard_state = HardState { term: position.term, voted_for: None };
            }
            (after.before, after.entries) = (position, Vec::new());
        }
        let install = LogInput::Install { io: IoId(1), snapshot, staged, hard_state, keep_log };
        let parts = self.parts();
        parts.log.handle(vec![install], &mut LogOutput::default()).unwrap();
        // Apply's half; here the state machine is there already.
        parts.shelf.remove(staged);
        let length = recorder::recorded();
        self.model = after.clone();
        self.acknowledged.extend([(length, within), (length, after)]);
    }

    /// A snapshot comes that is of no use by the time it is there, or that a killed process leaves behind.
    pub(super) fn discard(&mut self) {
        let records: Vec<Record> = self.apply.view().records().collect();
        let mut staging: SledStaging = self.parts().state().stage().unwrap();
        let count = self.below(records.len() + 1);
        staging.write(&records[..count]).unwrap();
        if self.random.below(2) == 0 {
            staging.seal().unwrap();
        }
        if self.random.below(2) == 0 {
            self.left.push(staging);
        }
    }
}
