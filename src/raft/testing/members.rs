//! Administrators of a cluster under test, and what must hold of the configurations in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::{AdminRefusal, Change, Configuration, Effect, Event, NewMember};
use super::cluster::{Cluster, reads_text};
use super::trace::{self, name, names};
use crate::types::{LogIndex, NodeId, RequestId};

/// Requests without an answer, and configurations already compared.
#[derive(Default)]
pub(super) struct Administrators {
    last_request: u64,
    waiting: BTreeMap<RequestId, NodeId>,
    /// Nodes that have just said that they were removed.
    removed: Vec<NodeId>,
    /// What each node that runs took for the configuration in force after its latest step.
    in_force: BTreeMap<NodeId, Arc<Configuration>>,
    /// The latest committed configuration when they were last compared.
    committed: LogIndex,
    /// Voters of both sets of two configurations whose majorities overlap.
    overlapping: BTreeSet<[Vec<NodeId>; 4]>,
}

impl Administrators {
    fn ask(&mut self, node: NodeId) -> RequestId {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        self.waiting.insert(request, node);
        request
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn on_reply(&mut self, request: RequestId) -> Result<(), String> {
        self.waiting.remove(&request).map(|_| ()).ok_or(format!("a{request} is answered, but nobody waits"))
    }

    pub(super) fn on_removed(&mut self, node: NodeId) {
        self.removed.push(node);
    }

    /// Administrators who asked a crashed node are told nothing.
    pub(super) fn on_crash(&mut self, node: NodeId) {
        self.waiting.retain(|_, at| *at != node);
        self.in_force.remove(&node);
    }
}

impl Cluster {
    /// What a node tells those who asked it for something.
    pub(super) fn answer(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::ReadReady { ids, index } => {
                let applied = self.nodes.get(&id).map_or(0, |node| node.applied.len() as u64);
                let applied = LogIndex(applied);
                self.trace.line(|_| format!("  {} serves {} at index {index}", name(id), reads_text(&ids)));
                for read in ids {
                    let ready = self.clients.on_read_ready(read, index, applied);
                    self.note(ready);
                }
            }
            Effect::ReadFailed { ids, refusal } => {
                let refusal = trace::refusal_text(refusal);
                self.trace.line(|_| format!("  {} answers {}: {refusal}", name(id), reads_text(&ids)));
                for read in ids {
                    let failed = self.clients.on_read_failed(read);
                    self.note(failed);
                }
            }
            Effect::ProposalFailed { id: proposal, refusal } => {
                self.trace.line(|_| {
                    format!("  {} answers p{proposal}: {}", name(id), trace::refusal_text(refusal))
                });
                let failed = self.clients.on_failed(proposal, refusal.outcome);
                self.note(failed);
            }
            Effect::Reply { request, result } => {
                self.trace.line(|_| {
                    let answer = match result {
                        Ok(index) => format!("done by entry {index}"),
                        Err(refusal) => format!("refused: {}", admin_refusal_text(&refusal)),
                    };
                    format!("  {} answers a{request}: {answer}", name(id))
                });
                let replied = self.administrators.on_reply(request);
                self.note(replied);
            }
            Effect::Removed { index } => {
                self.trace.line(|_| format!("  {} was removed by entry {index}", name(id)));
                self.administrators.on_removed(id);
            }
            _ => {}
        }
    }

    pub(super) fn change(
        &mut self,
        id: NodeId,
        change: Change,
        expected: Option<LogIndex>,
        within: Duration,
    ) {
        let deadline = self.now.after(within);
        let request = self.administrators.ask(id);
        self.trace.line(|_| {
            let expected = expected.map(|index| format!(" expected={index}")).unwrap_or_default();
            format!("{} ← administrator a{request} change{}{expected}", name(id), change_text(&change))
        });
        self.step(id, Event::ChangeMembers { request, change, expected, deadline });
    }

    pub(super) fn transfer(&mut self, id: NodeId, to: Option<NodeId>, within: Duration) {
        let deadline = self.now.after(within);
        let request = self.administrators.ask(id);
        self.trace.line(|_| {
            let to = to.map(|to| format!(" to {}", name(to))).unwrap_or_default();
            format!("{} ← administrator a{request} transfer{to}", name(id))
        });
        self.step(id, Event::TransferLeadership { request, to, deadline });
    }

    pub(super) fn check_members(&mut self, id: NodeId) -> Result<(), String> {
        for removed in std::mem::take(&mut self.administrators.removed) {
            self.history.check_removed(removed)?;
        }
        self.check_overlap(id)
    }

    /// Any two majorities that could decide something share a node: of all nodes that hold the latest committed
    /// configuration, whatever configuration follows it in their logs.
    fn check_overlap(&mut self, id: NodeId) -> Result<(), String> {
        let Some(now) = self.raft(id).and_then(|raft| raft.log.configuration().cloned()) else {
            return Ok(());
        };
        let committed = self.history.configuration();
        let Administrators { in_force, committed: compared, overlapping, .. } = &mut self.administrators;
        let before = in_force.insert(id, Arc::clone(&now));
        let is_same = before.is_some_and(|before| Arc::ptr_eq(&before, &now));
        if std::mem::replace(compared, committed.index) == committed.index && is_same {
            return Ok(());
        }
        let holds = |node: &NodeId| {
            committed.index == LogIndex(0)
                || self.nodes.get(node).is_some_and(|node| node.disk.written.covers(committed))
        };
        let able: Vec<_> = in_force.iter().filter(|(node, _)| holds(node)).collect();
        for (i, (one, left)) in able.iter().enumerate() {
            for (other, right) in &able[..i] {
                let ids = |voters: &BTreeMap<NodeId, _>| voters.keys().copied().collect();
                let sets = [&left.voters, &left.outgoing, &right.voters, &right.outgoing].map(ids);
                if !overlapping.contains(&sets) {
                    if !majorities_overlap(left, right) {
                        let (one, other) = (name(**one), name(**other));
                        return Err(format!("{one} and {other} can decide without each other: {sets:?}"));
                    }
                    overlapping.insert(sets);
                }
            }
        }
        Ok(())
    }
}

/// Whether no majority of one configuration is disjoint from one of the other.
fn majorities_overlap(left: &Configuration, right: &Configuration) -> bool {
    let all = [&left.voters, &left.outgoing, &right.voters, &right.outgoing];
    let ids: BTreeSet<NodeId> = all.into_iter().flat_map(|voters| voters.keys().copied()).collect();
    let place: BTreeMap<NodeId, usize> = ids.into_iter().enumerate().map(|(i, id)| (id, i)).collect();
    (0..1_u32 << place.len()).all(|some| {
        let is_in = |id: NodeId| some & (1 << place[&id]) != 0;
        !(left.has_quorum(is_in) && right.has_quorum(|id| !is_in(id)))
    })
}

pub(super) fn new_member(id: NodeId, stays_learner: bool) -> NewMember {
    NewMember { id, name: name(id), peer_addr: None, stays_learner }
}

fn change_text(change: &Change) -> String {
    let (stay, add): (Vec<_>, Vec<_>) = change.add.iter().partition(|new| new.stays_learner);
    let ids = |new: Vec<&NewMember>| new.into_iter().map(|new| new.id).collect::<Vec<_>>();
    let parts = [
        ("add", ids(add)),
        ("add learner", ids(stay)),
        ("promote", change.promote.clone()),
        ("demote", change.demote.clone()),
        ("remove", change.remove.clone()),
    ];
    let parts = parts.into_iter().filter(|(_, ids)| !ids.is_empty());
    parts.map(|(what, ids)| [" ", what, " ", &names(ids)].concat()).collect()
}

/// A refusal with nodes named as traces name them.
pub(super) fn admin_refusal_text(refusal: &AdminRefusal) -> String {
    let text = match refusal {
        AdminRefusal::NotLeader { leader: Some(leader) } => format!("{refusal}: {leader} does"),
        _ => refusal.to_string(),
    };
    (1..16).fold(text, |text, id| text.replace(&NodeId(id).to_string(), &name(NodeId(id))))
}
