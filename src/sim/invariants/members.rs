//! What must hold of configurations (thesis, chapter 4).
//!
//! | rule | how it is seen |
//! | --- | --- |
//! | acknowledged is durable | an entry that is committed first is on the disks of a majority of the voters in force; of both sets while joint |
//! | one change at a time | a leader's new configuration follows one that is committed; a joint one is left for nothing but its end |
//! | ready for changes | its leader has committed an entry of its own term |
//! | voters change by steps | other voters only in a joint configuration whose old ones are those before; every two quorums of consecutive committed configurations share a node |
//! | removed permanently | no removed id is a member again; only who was removed is told so |
//! | sessions | a member's session is the entry that added it |
//! | promoted when caught up | a new voter's disk, and a majority of the voters to be, lacks few entries, or only late ones |
//! | handed over whole | a node that is asked to start an election at once holds all that the leader's log held |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Checked, Invariants, RoleName, broken};
use crate::raft::{Configuration, Member};
use crate::sim::marks::{Configurations, Mark, MarkedLog, place};
use crate::types::{LogIndex, NodeId, Session, Term};

/// A learner that lacks no more entries than these may be made a voter, whatever their age.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// What is known of members so far.
#[derive(Default)]
pub(super) struct Members {
    /// The newest committed configuration.
    committed: Option<(LogIndex, Arc<Configuration>)>,
    /// All committed ones.
    pub(super) history: Configurations,
    /// Everybody whose removal was ever committed.
    removed: BTreeSet<NodeId>,
    /// What was durable on disks that are gone, by whose they were.
    gone: BTreeMap<NodeId, MarkedLog>,
}

impl Invariants {
    /// A node's disk is gone permanently.
    pub fn lost(&mut self, node: usize) {
        let log = std::mem::take(&mut self.nodes[node]).durable;
        // It may be lost again before anybody starts with the new one.
        self.members.gone.entry(self.ids[node]).or_insert(log);
    }

    /// A node of this id has a new disk: what an earlier one held does not count.
    pub(super) fn begins_empty(&mut self, id: NodeId) {
        self.members.gone.remove(&id);
    }

    /// What the disk of a member holds, or held when it was lost: it had promised that then.
    pub(super) fn durable_of(&self, id: NodeId) -> Option<&MarkedLog> {
        let place = self.ids.iter().position(|other| *other == id);
        let gone = self.members.gone.get(&id);
        gone.or_else(|| place.map(|node| &self.nodes[node].durable))
    }

    /// The newest committed configuration, and those behind it in any log: each may come into force, or is.
    #[must_use]
    pub fn open_configurations(&self) -> Vec<Arc<Configuration>> {
        let committed = self.members.committed.as_ref().map_or(LogIndex(0), |(index, _)| *index);
        let logs = self.nodes.iter().flat_map(|node| [&node.memory, &node.durable]);
        let writes = self.nodes.iter().flat_map(|node| &node.queued);
        let all = logs
            .flat_map(|log| &log.configurations)
            .chain(writes.flat_map(|write| &write.configurations))
            .chain(self.members.committed.as_ref());
        let mut open: Vec<_> = all.filter(|(index, _)| *index >= committed).collect();
        open.sort_by_key(|(index, _)| *index);
        open.dedup_by(|a, b| Arc::ptr_eq(&a.1, &b.1));
        open.into_iter().map(|(_, configuration)| Arc::clone(configuration)).collect()
    }

    /// An entry is committed for the first time, by the configuration in force at the node that does it.
    pub(super) fn is_held_by_quorum(&self, node: usize, index: LogIndex, mark: Mark, term: Term) -> Checked {
        let this = &self.nodes[node];
        let holds = |id: NodeId| self.durable_of(id).is_some_and(|log| log.has(index, mark));
        // In one turn a commit comes before or behind a change of configurations.
        let in_force = [this.held, this.memory.last().index].map(|at| this.memory.configuration_at(at));
        if in_force.iter().flatten().any(|(_, configuration)| configuration.has_quorum(holds)) {
            return Ok(());
        }
        let of = |voters: &BTreeMap<NodeId, Member>| {
            let holders = voters.keys().filter(|id| holds(**id)).count();
            format!("{holders} of {} voters", voters.len())
        };
        let told = in_force[1].map_or_else(
            || "no voters".to_owned(),
            |(_, configuration)| {
                if configuration.is_joint() {
                    format!("{} and {}", of(&configuration.outgoing), of(&configuration.voters))
                } else {
                    of(&configuration.voters)
                }
            },
        );
        let what = format!("n{} commits {index}@{} in term {term}, durable on {told}", node + 1, mark.term);
        broken("acknowledged is durable", what)
    }

    /// An entry of a node's log was committed for the first time.
    pub(super) fn agreeing(&mut self, node: usize, index: LogIndex) -> Checked {
        let memory = &self.nodes[node].memory;
        let Some((_, next)) = memory.configurations.iter().find(|(at, _)| *at == index).cloned() else {
            return Ok(());
        };
        if let Some(id) = next.members().into_keys().find(|id| self.members.removed.contains(id)) {
            return broken("removed permanently", format!("node {id} is a member again, by entry {index}"));
        }
        self.members.removed.extend(next.removed.keys());
        self.members.history.push((index, Arc::clone(&next)));
        let before = self.members.committed.replace((index, Arc::clone(&next)));
        match before {
            Some((at, before)) if !overlap(&before, &next) => {
                let what = format!("entries {at} and {index} have quorums that share no node");
                broken("voters change by steps", what)
            }
            _ => Ok(()),
        }
    }

    /// What a leader's turn did to the members.
    pub(super) fn changing(&mut self, node: usize) -> Checked {
        for index in std::mem::take(&mut self.nodes[node].proposed) {
            self.is_sound_change(node, index)?;
        }
        Ok(())
    }

    fn is_sound_change(&self, node: usize, index: LogIndex) -> Checked {
        let this = &self.nodes[node];
        let memory = &this.memory;
        let next = memory.configurations.iter().find(|(at, _)| *at == index);
        let (Some((_, next)), Some((at, before))) = (next, memory.configuration_at(index.prev())) else {
            return Ok(());
        };
        let term = memory.marks[place(index)].term;
        let leader = format!("n{}, leader of term {term},", node + 1);
        if at.0 > self.agreed.len() as u64 {
            let what =
                format!("{leader} appends configuration {index}; the one before, {at}, is not committed");
            return broken("one change at a time", what);
        }
        if this.commit.0 == 0 || memory.marks[place(this.commit)].term != term {
            let what = format!("{leader} appends configuration {index} before it has committed an entry");
            return broken("ready for changes", what);
        }
        if let Some(why) = wrong_step(before, next, index) {
            return broken(
                "voters change by steps",
                format!("{leader} appends configuration {index}: {why}"),
            );
        }
        let members = next.members();
        // Of removals by later leaders this one need not know; what it does then is never committed.
        let is_removed = |id: &&NodeId| before.removed.contains_key(id) || next.removed.contains_key(id);
        if let Some(id) = members.keys().find(is_removed) {
            return broken(
                "removed permanently",
                format!("{leader} makes node {id} a member again, {index}"),
            );
        }
        let wrong = members.iter().find(|(id, member)| {
            member.session != before.member(**id).map_or(Session(index.0), |known| known.session)
        });
        if let Some((id, member)) = wrong {
            let what = format!("{leader} gives node {id} session {} in entry {index}", member.session);
            return broken("sessions", what);
        }
        self.are_caught_up(node, index, before, next)
    }

    /// Voters to be hold nearly all of the leader's log.
    fn are_caught_up(
        &self,
        node: usize,
        index: LogIndex,
        before: &Configuration,
        next: &Configuration,
    ) -> Checked {
        if !next.is_joint() {
            return Ok(());
        }
        let (term, earlier) = (self.nodes[node].term, self.nodes[node].pace.earlier());
        let holds = |id: &NodeId| {
            // One that is in a later term may have dropped what it had.
            let log = self.durable_of(*id);
            log.is_some_and(|log| {
                let last = log.last().index;
                log.hard_state.term > term || last.0 + CAUGHT_UP_ENTRIES + 1 >= index.0 || last >= earlier
            })
        };
        let is_new = |id: &&NodeId| !before.voters.contains_key(id);
        if let Some(id) = next.voters.keys().filter(is_new).find(|id| !holds(id)) {
            let what = format!("n{} makes node {id}, which lacks many entries, a voter by {index}", node + 1);
            return broken("promoted when caught up", what);
        }
        let count = next.voters.keys().filter(|id| **id == self.ids[node] || holds(id)).count();
        if count > next.voters.len() / 2 {
            return Ok(());
        }
        let what = format!(
            "n{} begins change {index} although {count} of {} voters to be have caught up",
            node + 1,
            next.voters.len()
        );
        broken("promoted when caught up", what)
    }

    /// A leader asks another node to start an election at once.
    pub(super) fn handing_over(&self, node: usize, to: NodeId, term: Term) -> Checked {
        let this = &self.nodes[node];
        let (Some(target), Some(RoleName::Leader)) = (self.durable_of(to), this.role) else { return Ok(()) };
        let held = this.turn_began_with;
        let mark = this.memory.marks.get(place(held)).copied();
        if this.term != term
            || target.hard_state.term > term
            || mark.is_none_or(|mark| target.has(held, mark))
        {
            return Ok(());
        }
        let what = format!(
            "n{}, leader of term {term}, tells node {to} to stand, whose log ends at {} and not at {held}",
            node + 1,
            target.last()
        );
        broken("handed over whole", what)
    }

    /// A node was told that it is no member any more.
    ///
    /// # Errors
    /// It was not removed.
    pub fn told_removed(&self, node: usize) -> Checked {
        if self.members.removed.contains(&self.ids[node]) {
            return Ok(());
        }
        let what = format!("n{} is told that it was removed, and was not", node + 1);
        broken("removed permanently", what)
    }

    /// An administrator was told that entry `index` has made the change.
    ///
    /// # Errors
    /// It is not committed, or no configuration that is in force by itself.
    pub fn changed(&self, node: usize, index: LogIndex) -> Checked {
        let memory = &self.nodes[node].memory;
        let is_final =
            |(at, configuration): &(LogIndex, Arc<Configuration>)| *at == index && !configuration.is_joint();
        if index.0 <= self.agreed.len() as u64 && memory.configurations.iter().any(is_final) {
            return Ok(());
        }
        let what = format!("n{} reports a change as done by {index}, and it is not", node + 1);
        broken("one change at a time", what)
    }
}

/// What is wrong with `next` behind `before`, if something is.
fn wrong_step(before: &Configuration, next: &Configuration, index: LogIndex) -> Option<String> {
    if before.is_joint() {
        let is_left = !next.is_joint() && next.voters == before.voters && next.learners == before.learners;
        return (!is_left).then(|| "a joint configuration is not left as it was entered".to_owned());
    }
    let is_same = next.voters.keys().eq(before.voters.keys());
    if next.is_joint() && (is_same || next.outgoing != before.voters) {
        return Some("the outgoing voters are not those before".to_owned());
    }
    if !next.is_joint() && !is_same {
        return Some("other voters without a joint configuration".to_owned());
    }
    if next.voters.is_empty() {
        return Some("no voter is left".to_owned());
    }
    let forgotten = before.removed.keys().find(|id| !next.removed.contains_key(id));
    if let Some(id) = forgotten {
        return Some(format!("it forgets that node {id} was removed"));
    }
    let members = next.members();
    let names: BTreeSet<&str> = members.values().map(|member| member.name.as_str()).collect();
    let leaves =
        |id: &NodeId| next.is_joint() && !next.voters.contains_key(id) && next.outgoing.contains_key(id);
    let stay = members.keys().filter(|id| !leaves(id) || next.learners.contains_key(id)).count();
    (names.len() < stay).then(|| format!("two members have one name in entry {index}"))
}

/// Whether every quorum of one configuration shares a node with every quorum of the other.
fn overlap(one: &Configuration, other: &Configuration) -> bool {
    let voters = [&one.voters, &one.outgoing, &other.voters, &other.outgoing];
    let ids: Vec<NodeId> =
        voters.into_iter().flat_map(BTreeMap::keys).copied().collect::<BTreeSet<_>>().into_iter().collect();
    let is_in =
        |set: u32, id: NodeId| ids.iter().position(|other| *other == id).is_some_and(|at| set >> at & 1 == 1);
    // Some nodes are a quorum of the one, and all others one of the other: then there are two leaders at once.
    !(0..1_u32 << ids.len().min(20))
        .any(|set| one.has_quorum(|id| is_in(set, id)) && other.has_quorum(|id| !is_in(set, id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(voters: &[u64], outgoing: &[u64]) -> Configuration {
        let members = |ids: &[u64]| ids.iter().map(|id| (NodeId(*id), Member::default())).collect();
        Configuration { voters: members(voters), outgoing: members(outgoing), ..Configuration::default() }
    }

    #[test]
    fn quorums_of_a_joint_configuration_share_nodes_with_both_sides_and_those_of_the_sides_do_not() {
        let (before, after) = (of(&[1, 2, 3], &[]), of(&[3, 4, 5, 6, 7], &[]));
        let joint = of(&[3, 4, 5, 6, 7], &[1, 2, 3]);
        assert!(overlap(&before, &joint) && overlap(&joint, &after));
        assert!(!overlap(&before, &after));
        assert!(overlap(&before, &of(&[1, 2, 3, 4], &[])));
        assert!(!overlap(&of(&[1], &[]), &of(&[1, 2, 3], &[])), "2 and 3 decide without 1");
    }
}
