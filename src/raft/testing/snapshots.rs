//! Snapshots on their way between the nodes of a cluster under test: the content that the core never sees.

use super::super::{Effect, Entry, Event, HardState, Snapshot};
use super::cluster::Cluster;
use super::disk::{Content, configuration_at};
use super::trace::name;
use crate::types::{IoId, LogIndex, LogTime, NodeId, Session, StagedId, Term};

/// A snapshot under way.
#[derive(Clone)]
pub(super) struct Transfer {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    session: Session,
    term: Term,
    content: Content,
}

impl Cluster {
    pub(super) fn carry_out_for_snapshots(&mut self, id: NodeId, effect: Effect) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match effect {
            Effect::SendSnapshot { to, session, term } => self.cut_snapshot(id, to, session, term),
            Effect::InstallSnapshot { io, snapshot, staged, hard_state, keep_log } => {
                self.install_snapshot(id, (io, hard_state), &snapshot, staged, keep_log);
            }
            Effect::DropSnapshot { staged } => {
                let dropped =
                    node.disk.unstage(staged).map(|_| ()).ok_or("drops a snapshot that is not there");
                self.trace.line(|_| format!("  {} drops the snapshot", name(id)));
                self.note(dropped.map_err(|text| format!("{} {text}", name(id))));
            }
            Effect::Compact { through } => {
                let compacted = node.disk.compact(through);
                self.trace.line(|_| format!("  {} disk: drop the log up to {through}", name(id)));
                self.note(compacted.map_err(|text| format!("{}: {text}", name(id))));
            }
            other => unreachable!("{other:?} is not about snapshots"),
        }
    }

    /// A snapshot of what is applied right now leaves.
    pub(super) fn cut_snapshot(&mut self, from: NodeId, to: NodeId, session: Session, term: Term) {
        let Some(node) = self.nodes.get(&from) else { return };
        let position = node.applied.last().map(Entry::position).unwrap_or_default();
        let time = node.applied.iter().map(|entry| entry.time).max().unwrap_or(LogTime(0));
        let (configuration_index, configuration) =
            configuration_at(node.first.as_ref(), &node.applied, position.index).unwrap_or_default();
        let snapshot = Snapshot { position, time, configuration, configuration_index };
        self.trace.line(|_| format!("  {} ⇒ {} snapshot {position}", name(from), name(to)));
        let content = Content { snapshot, applied: node.applied.clone() };
        self.transfers.push(Transfer { from, to, session, term, content });
    }

    fn install_snapshot(
        &mut self,
        id: NodeId,
        (io, hard_state): (IoId, HardState),
        snapshot: &Snapshot,
        staged: StagedId,
        keep_log: bool,
    ) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let position = snapshot.position;
        let rest = if keep_log { "drop the log up to there" } else { "drop the log" };
        self.trace.line(|_| {
            format!(
                "  {} disk: install io={io} term={} snapshot {position}, {rest}",
                name(id),
                hard_state.term
            )
        });
        match node.disk.unstage(staged) {
            Some(content) if content.snapshot == *snapshot => {
                let holds = node.disk.written.at(position.index).map(Entry::position) == Some(position);
                if holds != keep_log {
                    self.violation.get_or_insert(format!("{} keeps its log: {keep_log}", name(id)));
                }
                node.disk.install(io, hard_state, keep_log, content);
            }
            _ => self.note(Err(format!("{} installs a snapshot that has not arrived", name(id)))),
        }
        let known = self.history.check_before(position);
        self.note(known);
    }

    /// The state as of this entry (or all that is applied) is durable.
    pub(super) fn take_snapshot(&mut self, id: NodeId, index: Option<LogIndex>) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.raft.is_some()) else { return };
        let position = node.applied.iter().rev().map(Entry::position);
        let position =
            position.into_iter().find(|position| index.is_none_or(|index| position.index <= index));
        let Some(position) = position.filter(|position| position.index >= node.disk.covered) else { return };
        node.disk.covered = position.index;
        self.trace.line(|_| format!("{} state: durable as of {position}", name(id)));
        self.step(id, Event::SnapshotTaken { position });
    }

    /// The snapshot arrives whole; it may arrive again.
    pub(super) fn receive_snapshot(&mut self, place: usize) -> bool {
        let Transfer { from, to, session, term, content } = self.transfers[place].clone();
        let is_cut = self.cuts.contains(&(from, to)) || self.cuts.contains(&(to, from));
        let Some(node) = self.nodes.get_mut(&to).filter(|node| node.raft.is_some() && !is_cut) else {
            return false;
        };
        let snapshot = content.snapshot.clone();
        let staged = node.disk.stage(content);
        self.trace
            .line(|_| format!("{} ⇐ {} snapshot {} term={term}", name(to), name(from), snapshot.position));
        self.step(to, Event::SnapshotReceived { from, term, session, snapshot, staged });
        true
    }

    /// The sender learns how a transfer ended.
    pub(super) fn end_transfer(&mut self, place: usize, is_sent: bool) {
        let Transfer { from, to, session, term, content } = self.transfers.remove(place);
        let sent = is_sent.then_some(content.snapshot.position);
        let outcome = if is_sent { "has it" } else { "did not get it" };
        self.trace.line(|_| {
            format!(
                "{} ⇒ {} snapshot {}: {} {outcome}",
                name(from),
                name(to),
                content.snapshot.position,
                name(to)
            )
        });
        self.step(from, Event::SnapshotSent { to, session, term, sent });
    }
}
