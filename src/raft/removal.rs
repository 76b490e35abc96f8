//! The end of a membership: who tells a removed node so, and what that node believes.
//!
//! A removal takes a node's data out of use permanently, so one word is not enough. A node believes the committed entry in
//! its own log, or the same word from a majority of the other voters that it knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::replication::send_heartbeat;
use super::{Configuration, Effect, Message, Observation, Raft, Signal};
use crate::types::{LogIndex, NodeId};

/// What a node has told of the configurations in its log, and what it was told.
#[derive(Default)]
pub(super) struct Told {
    /// The one in force when it was last looked at.
    pub(super) in_force: Option<Arc<Configuration>>,
    /// That this node was removed.
    removal: bool,
    /// The entry that removed this node, by the voter that says so: at most one word for each voter that is known.
    words: BTreeMap<NodeId, LogIndex>,
}

impl Told {
    pub(super) fn new(in_force: Option<&Arc<Configuration>>) -> Self {
        Self { in_force: in_force.cloned(), ..Self::default() }
    }
}

impl Configuration {
    /// The voters other than `own`, before and after a change that is under way.
    pub fn other_voters(&self, own: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let before = self.outgoing.keys().filter(|id| !self.voters.contains_key(id));
        self.voters.keys().chain(before).copied().filter(move |id| *id != own)
    }

    /// Whether `says` holds for more than half of the voters other than `own`. False if there are none.
    pub fn most_others(&self, own: NodeId, says: impl Fn(NodeId) -> bool) -> bool {
        let (mut all, mut some) = (0, 0);
        for id in self.other_voters(own) {
            all += 1;
            some += usize::from(says(id));
        }
        some > all / 2
    }
}

impl Raft {
    /// Tells those that were removed, once, and forgets them. The commit index goes first: a node that holds the entry
    /// needs no other proof.
    pub(super) fn drop_removed(&mut self, configuration: &Configuration, out: &mut Vec<Effect>) {
        let Some((outgoing, progress)) = self.outgoing() else { return };
        progress.retain(|id, progress| {
            let stays = configuration.member(*id).is_some();
            if let Some(index) = configuration.removed.get(id).filter(|_| !stays) {
                if progress.commit_sent < outgoing.log.commit() {
                    send_heartbeat(&outgoing, *id, progress, out);
                }
                out.push(Effect::Send { to: *id, signal: Signal::Removed { index: *index } });
                out.push(Effect::Observe(Observation::MemberRemoved { member: *id }));
            }
            stays
        });
    }

    /// The committed entry that removed the sender of a message that a member would send of its own accord.
    pub(super) fn removed_sender(&self, from: NodeId, message: &Message) -> Option<LogIndex> {
        let Message::Signal(
            Signal::PreVote(_)
            | Signal::RequestVote(_)
            | Signal::Append(_)
            | Signal::Forward { .. }
            | Signal::ReadIndex { .. },
        ) = message
        else {
            return None;
        };
        let (_, configuration) = self.log.committed_configuration()?;
        self.settings.rules.removed_by(configuration, from)
    }

    /// `from` says that entry `index` removed this node. Only voters that this node knows have a say, and only on an entry
    /// that it has not committed: of those before, its own log tells. A majority of them is believed.
    pub(super) fn on_removed(&mut self, from: NodeId, index: LogIndex, out: &mut Vec<Effect>) {
        let Some(configuration) = self.log.configuration().cloned() else { return };
        if index <= self.log.commit() || !configuration.other_voters(self.id).any(|id| id == from) {
            return;
        }
        self.told.words.retain(|id, _| configuration.is_voter(*id));
        self.told.words.insert(from, index);
        let says = |id: NodeId| self.told.words.get(&id) == Some(&index);
        if self.settings.rules.believes_removal(&configuration, self.id, says) {
            self.tell_removal(index, out);
        }
    }

    pub(super) fn tell_removal(&mut self, index: LogIndex, out: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.told.removal, true) {
            out.push(Effect::Removed { index });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;

    fn of_voters(voters: &[u64], outgoing: &[u64]) -> Configuration {
        let members = |ids: &[u64]| ids.iter().map(|id| (NodeId(*id), Member::default())).collect();
        Configuration { voters: members(voters), outgoing: members(outgoing), ..Configuration::default() }
    }

    #[test]
    fn most_others_are_more_than_half_of_those_that_are_known() {
        let check = |configuration: &Configuration, own: u64, says: &[u64], expected: bool| {
            let said = configuration.most_others(NodeId(own), |id| says.contains(&id.0));
            assert_eq!(said, expected, "{says:?} to {own} of {configuration:?}");
        };
        let three = of_voters(&[1, 2, 3], &[]);
        check(&three, 3, &[1], false);
        check(&three, 3, &[1, 2], true);
        check(&three, 3, &[1, 3], false);
        check(&of_voters(&[1, 2], &[]), 2, &[1], true);
        let five = of_voters(&[1, 2, 3, 4, 5], &[]);
        check(&five, 5, &[1, 2], false);
        check(&five, 5, &[1, 2, 3], true);
        // A learner knows the voters, and is none.
        check(&three, 9, &[1, 2], true);
        check(&three, 9, &[1], false);
        // While a change is under way the voters before it count, too.
        check(&of_voters(&[1], &[1, 2, 3]), 3, &[1], false);
        check(&of_voters(&[1], &[1, 2, 3]), 3, &[1, 2], true);
        check(&Configuration::default(), 1, &[2], false);
        check(&of_voters(&[1], &[]), 1, &[1], false);
    }
}
