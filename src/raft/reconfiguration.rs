//! What a change makes of a configuration, and which changes make sense (thesis, 4.3).

use std::collections::BTreeSet;

use super::{AdminRefusal, Change, Configuration, Member};
use crate::types::{LogIndex, NodeId, Session};

/// Removed ids that a configuration remembers; the oldest are forgotten.
const REMOVED_MAX: usize = 1024;

impl Configuration {
    /// Whether `change` can be made of this configuration, as far as that depends on nothing else.
    /// `removed_too` plants the bug of adding what was removed.
    pub(super) fn check(&self, change: &Change, removed_too: bool) -> Result<(), AdminRefusal> {
        let Change { add, promote, demote, remove } = change;
        let named = || add.iter().map(|new| &new.id).chain(promote).chain(demote).chain(remove);
        if named().next().is_none() {
            return Err(AdminRefusal::Invalid("there is nothing to change"));
        }
        let mut seen = BTreeSet::new();
        if !named().all(|id| seen.insert(*id)) {
            return Err(AdminRefusal::Invalid("a node is named twice"));
        }
        if let Some(id) = named().find(|id| self.removed.contains_key(id)).filter(|_| !removed_too) {
            return Err(AdminRefusal::Removed(*id));
        }
        if let Some(new) = add.iter().find(|new| self.member(new.id).is_some()) {
            return Err(AdminRefusal::Already(new.id));
        }
        self.check_names(change)?;
        if let Some(id) = promote.iter().chain(demote).chain(remove).find(|id| self.member(**id).is_none()) {
            return Err(AdminRefusal::NotAMember(*id));
        }
        let promoted = promote.iter().find(|id| self.voters.contains_key(id));
        match promoted.or_else(|| demote.iter().find(|id| !self.voters.contains_key(id))) {
            Some(id) => Err(AdminRefusal::Already(*id)),
            None => Ok(()),
        }
    }

    /// No two members have one name. A member that the same change removes leaves its name to a new one.
    fn check_names(&self, change: &Change) -> Result<(), AdminRefusal> {
        for (place, new) in change.add.iter().enumerate() {
            let stays = self
                .members()
                .into_iter()
                .find(|(id, member)| member.name == new.name && !change.remove.contains(id));
            let added = change.add[..place].iter().find(|other| other.name == new.name);
            if let Some(id) = stays.map(|(id, _)| id).or(added.map(|other| other.id)) {
                return Err(AdminRefusal::NameTaken { name: new.name.clone(), id });
            }
        }
        Ok(())
    }

    /// The configuration that the entry at `index` begins `change` with: joint if voters change, else the final one.
    pub(super) fn changed(&self, change: &Change, index: LogIndex) -> Self {
        let mut next = self.clone();
        for new in &change.add {
            let member = Member {
                name: new.name.clone(),
                session: Session(index.0),
                peer_addr: new.peer_addr.clone(),
                stays_learner: new.stays_learner,
            };
            next.learners.insert(new.id, member);
        }
        for id in &change.promote {
            if let Some(member) = next.learners.remove(id) {
                next.voters.insert(*id, Member { stays_learner: false, ..member });
            }
        }
        for id in &change.demote {
            if let Some(member) = next.voters.remove(id) {
                next.learners.insert(*id, Member { stays_learner: true, ..member });
            }
        }
        for id in &change.remove {
            if next.learners.remove(id).is_some() {
                next.removed.insert(*id, index);
            }
            // A voter is removed for good when the joint configuration is left; until then it is one of `outgoing`.
            next.voters.remove(id);
        }
        if !next.voters.keys().eq(self.voters.keys()) {
            next.outgoing.clone_from(&self.voters);
        }
        next.forget_removed();
        next
    }

    /// The final configuration behind a joint one, made by the entry at `index`.
    pub(super) fn left(&self, index: LogIndex) -> Self {
        let mut next = self.clone();
        let outgoing: Vec<NodeId> = std::mem::take(&mut next.outgoing).into_keys().collect();
        for id in outgoing {
            if next.member(id).is_none() {
                next.removed.insert(id, index);
            }
        }
        next.forget_removed();
        next
    }

    fn forget_removed(&mut self) {
        while self.removed.len() > REMOVED_MAX
            && let Some((_, id)) = self.removed.iter().map(|(id, index)| (*index, *id)).min()
        {
            self.removed.remove(&id);
        }
    }
}
