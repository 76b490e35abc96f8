//! The clients of a cluster under test: what they asked for, and what they were told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::{Outcome, Payload};
use crate::types::{LogIndex, NodeId, ProposalId, ReadId};

#[derive(Default)]
pub(super) struct Clients {
    last_proposal: u64,
    last_read: u64,
    /// Without an answer so far.
    proposals: BTreeMap<ProposalId, (NodeId, Bytes)>,
    /// Without an answer so far; the index is what was committed when the read began.
    reads: BTreeMap<ReadId, (NodeId, LogIndex)>,
    /// How often each command was proposed.
    proposed: BTreeMap<Bytes, usize>,
    /// Commands whose clients were told that they are not and will not be applied.
    refused: BTreeSet<Bytes>,
    /// Where each command was committed.
    committed: BTreeMap<Bytes, LogIndex>,
}

impl Clients {
    pub(super) fn propose(&mut self, node: NodeId, command: Bytes) -> ProposalId {
        self.last_proposal += 1;
        let id = ProposalId(self.last_proposal);
        *self.proposed.entry(command.clone()).or_default() += 1;
        self.proposals.insert(id, (node, command));
        id
    }

    pub(super) fn read(&mut self, node: NodeId, committed: LogIndex) -> ReadId {
        self.last_read += 1;
        let id = ReadId(self.last_read);
        self.reads.insert(id, (node, committed));
        id
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.proposals.is_empty() || !self.reads.is_empty()
    }

    /// Clients of a crashed node are told nothing.
    pub(super) fn on_crash(&mut self, node: NodeId) {
        self.proposals.retain(|_, (at, _)| *at != node);
        self.reads.retain(|_, (at, _)| *at != node);
    }

    pub(super) fn on_applied(
        &mut self,
        node: NodeId,
        id: ProposalId,
        payload: &Payload,
    ) -> Result<(), String> {
        let expected = self.proposals.remove(&id).map(|(at, command)| (at, Payload::Command(command)));
        if expected.as_ref().is_some_and(|(at, expected)| *at == node && expected == payload) {
            return Ok(());
        }
        Err(format!("n{} says that p{id} is applied as {payload:?}, but {expected:?} waits", node.0))
    }

    pub(super) fn on_failed(&mut self, id: ProposalId, outcome: Outcome) -> Result<(), String> {
        let Some((_, command)) = self.proposals.remove(&id) else {
            return Err(format!("p{id} is answered, but nobody waits for it"));
        };
        if outcome == Outcome::NotApplied && self.proposed.get(&command) == Some(&1) {
            if let Some(index) = self.committed.get(&command) {
                return Err(format!("p{id} is said not to be applied, but is committed at {index}"));
            }
            self.refused.insert(command);
        }
        Ok(())
    }

    /// A read is served on a state in which everything up to `index` is applied, and `applied` is.
    pub(super) fn on_read_ready(
        &mut self,
        id: ReadId,
        index: LogIndex,
        applied: LogIndex,
    ) -> Result<(), String> {
        match self.reads.remove(&id) {
            None => Err(format!("r{id} is answered, but nobody waits for it")),
            Some((_, committed)) if index < committed => {
                Err(format!("r{id} is served at {index}, but {committed} was committed when it began"))
            }
            Some(_) if applied < index => {
                Err(format!("r{id} is served at {index}, but {applied} is applied"))
            }
            Some(_) => Ok(()),
        }
    }

    pub(super) fn on_read_failed(&mut self, id: ReadId) -> Result<(), String> {
        self.reads.remove(&id).map(|_| ()).ok_or(format!("r{id} is answered, but nobody waits for it"))
    }

    pub(super) fn on_committed(&mut self, index: LogIndex, payload: &Payload) -> Result<(), String> {
        let Payload::Command(command) = payload else { return Ok(()) };
        if self.proposed.get(command) != Some(&1) {
            return Ok(());
        }
        if self.refused.contains(command) {
            return Err(format!(
                "{command:?} is committed at {index}, but its client was told it would not be"
            ));
        }
        match self.committed.insert(command.clone(), index) {
            Some(earlier) => Err(format!("{command:?} is committed at {earlier} and at {index}")),
            None => Ok(()),
        }
    }
}
