//! What a change makes of a configuration, and which changes make sense (thesis, 4.3).

use std::collections::BTreeSet;

use super::{AdminRefusal, Change, Configuration, MEMBERS_MAX, Member, Rules};
use crate::types::{LogIndex, NodeId, Session};

/// Removed ids that a configuration remembers; the oldest are forgotten.
const REMOVED_MAX: usize = 1024;

impl Configuration {
    /// Whether `change` can be made of this configuration, as far as that depends on nothing else.
    pub(super) fn check(&self, change: &Change, rules: Rules) -> Result<(), AdminRefusal> {
        let Change { add, promote, demote, remove, feature_level } = change;
        let named = || add.iter().map(|new| &new.id).chain(promote).chain(demote).chain(remove);
        if let Some(level) = feature_level {
            return if named().next().is_some() {
                Err(AdminRefusal::Invalid("a feature level is raised alone"))
            } else if *level <= self.feature_level {
                Err(AdminRefusal::Invalid("the feature level never falls"))
            } else {
                Ok(())
            };
        }
        if named().next().is_none() {
            return Err(AdminRefusal::Invalid("there is nothing to change"));
        }
        let mut seen = BTreeSet::new();
        if !named().all(|id| seen.insert(*id)) {
            return Err(AdminRefusal::Invalid("a node is named twice"));
        }
        if let Some(id) = named().find(|id| rules.removed_by(self, **id).is_some()) {
            return Err(AdminRefusal::Removed(*id));
        }
        if let Some(new) = add.iter().find(|new| self.member(new.id).is_some()) {
            return Err(AdminRefusal::Already(new.id));
        }
        self.check_names(change)?;
        let stay = self.members().keys().filter(|id| !remove.contains(id)).count();
        if !add.is_empty() && stay + add.len() > MEMBERS_MAX {
            return Err(AdminRefusal::TooMany);
        }
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
        next.feature_level = change.feature_level.unwrap_or(self.feature_level);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::NewMember;
    use super::super::random::Random;
    use super::*;
    use crate::types::FeatureLevel;

    fn members(ids: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, Member> {
        let member = |id: u64| (NodeId(id), Member { name: format!("n{id}"), ..Member::default() });
        ids.into_iter().map(member).collect()
    }

    fn of_voters(ids: impl IntoIterator<Item = u64>) -> Configuration {
        Configuration { voters: members(ids), ..Configuration::default() }
    }

    fn add(id: u64) -> Change {
        let new = NewMember {
            id: NodeId(id),
            name: format!("n{id}"),
            peer_addr: Some(format!("host-{id}:7000")),
            stays_learner: false,
        };
        Change { add: vec![new], ..Change::default() }
    }

    fn remove(ids: &[u64]) -> Change {
        Change { remove: ids.iter().copied().map(NodeId).collect(), ..Change::default() }
    }

    #[test]
    fn a_feature_level_rises_alone_and_never_falls() {
        let before = Configuration { feature_level: FeatureLevel(3), ..of_voters([1, 2]) };
        let raise = |level| Change { feature_level: Some(FeatureLevel(level)), ..Change::default() };
        assert_eq!(before.check(&raise(4), Rules::default()), Ok(()));
        let after = before.changed(&raise(4), LogIndex(9));
        assert_eq!(after, Configuration { feature_level: FeatureLevel(4), ..before.clone() });
        assert!(!after.is_joint());
        let falls = Err(AdminRefusal::Invalid("the feature level never falls"));
        assert_eq!(before.check(&raise(3), Rules::default()), falls);
        let both = Change { remove: vec![NodeId(2)], ..raise(4) };
        assert_eq!(
            before.check(&both, Rules::default()),
            Err(AdminRefusal::Invalid("a feature level is raised alone"))
        );
        // Whatever changes later keeps it.
        let promote = Change { demote: vec![NodeId(2)], ..Change::default() };
        let joint = after.changed(&promote, LogIndex(10));
        assert_eq!(
            (joint.feature_level, joint.left(LogIndex(11)).feature_level),
            (FeatureLevel(4), FeatureLevel(4))
        );
    }

    #[test]
    fn a_session_is_the_entry_that_added_the_member_and_stays() {
        let added = of_voters([1]).changed(&add(2), LogIndex(7));
        assert!(!added.is_joint());
        let learner = &added.learners[&NodeId(2)];
        assert_eq!((learner.session, learner.peer_addr.as_deref()), (Session(7), Some("host-2:7000")));

        let promote = Change { promote: vec![NodeId(2)], ..Change::default() };
        let voter = added.changed(&promote, LogIndex(9)).left(LogIndex(10));
        assert_eq!(voter.voters[&NodeId(2)].session, Session(7));

        let demote = Change { demote: vec![NodeId(2)], ..Change::default() };
        let learner = voter.changed(&demote, LogIndex(12)).left(LogIndex(13));
        assert_eq!(learner.learners[&NodeId(2)].session, Session(7));
        assert!(learner.learners[&NodeId(2)].stays_learner && learner.removed.is_empty());
    }

    #[test]
    fn a_removed_voter_is_outgoing_first_and_a_removed_learner_gone_at_once() {
        let mut before = of_voters([1, 2, 3]);
        before.learners = members([4]);
        let joint = before.changed(&remove(&[3, 4]), LogIndex(5));
        assert_eq!(joint.outgoing, before.voters);
        assert_eq!(joint.removed, BTreeMap::from([(NodeId(4), LogIndex(5))]));
        let left = joint.left(LogIndex(6));
        let removed = BTreeMap::from([(NodeId(3), LogIndex(6)), (NodeId(4), LogIndex(5))]);
        assert_eq!(left, Configuration { removed, ..of_voters([1, 2]) });
    }

    #[test]
    fn the_latest_removals_are_remembered() {
        let mut configuration = of_voters([1]);
        let count = REMOVED_MAX as u64 + 5;
        for i in 0..count {
            // Ids decrease while indexes rise: it is the index that counts.
            let id = 2 * count - i;
            configuration = configuration.changed(&add(id), LogIndex(2 * i + 1));
            configuration = configuration.changed(&remove(&[id]), LogIndex(2 * i + 2));
        }
        assert_eq!(configuration.removed.len(), REMOVED_MAX);
        assert_eq!(configuration.removed.values().min(), Some(&LogIndex(12)));
    }

    #[test]
    fn names_are_unique_but_may_be_handed_on() {
        let configuration = of_voters([1, 2]);
        let mut change = add(3);
        change.add[0].name = "n2".into();
        let taken = AdminRefusal::NameTaken { name: "n2".into(), id: NodeId(2) };
        assert_eq!(configuration.check(&change, Rules::default()), Err(taken));
        change.remove.push(NodeId(2));
        assert_eq!(configuration.check(&change, Rules::default()), Ok(()));
        let twin = NewMember { id: NodeId(4), ..change.add[0].clone() };
        change.add.push(twin);
        let taken = AdminRefusal::NameTaken { name: "n2".into(), id: NodeId(3) };
        assert_eq!(configuration.check(&change, Rules::default()), Err(taken));
    }

    #[test]
    fn a_cluster_has_a_greatest_size_learners_included() {
        let mut full = of_voters(1..=5);
        full.learners = members(6..=9);
        assert_eq!(full.check(&add(10), Rules::default()), Err(AdminRefusal::TooMany));
        let replace = Change { remove: vec![NodeId(9)], ..add(10) };
        assert_eq!(full.check(&replace, Rules::default()), Ok(()));
        // One that is larger already can still be made smaller.
        full.learners = members(6..=12);
        assert_eq!(full.check(&remove(&[12]), Rules::default()), Ok(()));
        let replace = Change { remove: vec![NodeId(12)], ..add(13) };
        assert_eq!(full.check(&replace, Rules::default()), Err(AdminRefusal::TooMany));
    }

    /// The highest index that quorums reach, found by trying each.
    #[test]
    fn what_is_agreed_is_what_a_quorum_has_reached() {
        let mut random = Random::new(11);
        for case in 0..2_000 {
            let mut some = || (1..=7).filter(|_| random.next_u64().is_multiple_of(2)).collect::<Vec<_>>();
            let configuration = Configuration { outgoing: members(some()), ..of_voters(some()) };
            let reached: Vec<u64> = (0..=7).map(|_| random.next_u64() % 9).collect();
            let at = |id: NodeId| LogIndex(reached[usize::try_from(id.0).expect("at most seven")]);
            let tried = (1..9).map(LogIndex).rfind(|index| configuration.has_quorum(|id| at(id) >= *index));
            let agreed = Rules::default().agreed_index(&configuration, at);
            assert_eq!(agreed, tried.unwrap_or_default(), "case {case}: {configuration:?} at {reached:?}");
        }
    }
}
