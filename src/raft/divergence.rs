//! Finding replicas whose states differ.
//!
//! Each member tells every other member, once a second, the digest of its state after some entries. Two digests can be
//! compared only after the same entry, so a member tells those of the marks (see [`Event::Applied`]), which all replicas
//! set after the same entries, and the present one, which is that of the others while nothing is written.
//!
//! Each member judges itself, by what it was told directly. One whose digest is not the one that a majority of the
//! voters has told halts: its state is wrong, and clients must not read it. So a member that lies, the leader
//! included, can stop nobody: that takes a majority. Without one, members report what differs and continue.

use std::collections::BTreeMap;

use super::{Configuration, Effect, Event, HaltReason, Observation, Raft, Signal};
use crate::types::{Instant, LogIndex, NodeId, StateDigest};

/// Digests kept of each member, the newest.
const KEPT: usize = 128;
/// Digests in one message. Several, so that a message that is lost does no harm.
pub const STATE_DIGESTS_MAX: usize = 8;

/// Digests of one member's state, by the last entry applied.
type Digests = BTreeMap<LogIndex, StateDigest>;

/// What is known of the states of all members.
#[derive(Default)]
pub(super) struct Divergence {
    own: Digests,
    /// The present state's.
    current: Option<(LogIndex, StateDigest)>,
    peers: BTreeMap<NodeId, Peer>,
    /// When to tell the others next.
    due: Instant,
}

#[derive(Default)]
struct Peer {
    digests: Digests,
    /// After the latest entry that can be compared.
    differs: bool,
}

/// How this node's state compares with the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    index: LogIndex,
    own: StateDigest,
    majority: StateDigest,
}

impl Divergence {
    /// The state that a node starts with.
    pub(super) fn new(applied: LogIndex, digest: Option<StateDigest>) -> Self {
        Self { current: digest.map(|digest| (applied, digest)), ..Self::default() }
    }

    /// Takes the digests of the own state.
    fn note(&mut self, marks: Vec<(LogIndex, StateDigest)>, current: Option<(LogIndex, StateDigest)>) {
        for (index, digest) in marks {
            keep(&mut self.own, index, digest);
        }
        self.current = current.or(self.current);
    }

    /// Members whose states differ from this one, as far as is known.
    fn differing(&self) -> usize {
        self.peers.values().filter(|peer| peer.differs).count()
    }

    /// The newest digests, to be told.
    fn newest(&mut self) -> Vec<(LogIndex, StateDigest)> {
        if let Some((index, digest)) = self.current {
            keep(&mut self.own, index, digest);
        }
        self.own.iter().rev().take(STATE_DIGESTS_MAX).map(|(index, digest)| (*index, *digest)).collect()
    }

    /// A voter majority's digest after `index`, where it is not the own one.
    fn judge(&self, id: NodeId, configuration: &Configuration, index: LogIndex) -> Option<Verdict> {
        let own = *self.own.get(&index)?;
        let told = |id: NodeId| self.peers.get(&id)?.digests.get(&index).copied();
        let others = configuration.members().into_keys().filter(|other| *other != id);
        let mut different = others.filter_map(told).filter(|other| own.differs(*other));
        let majority = different
            .find(|value| configuration.has_quorum(|other| other != id && told(other) == Some(*value)))?;
        Some(Verdict { index, own, majority })
    }

    /// Compares with one member after the latest entry of which both digests are known. Whether that changed anything, and where.
    fn compare(&mut self, peer: NodeId) -> Option<(bool, LogIndex)> {
        let Self { own, peers, .. } = self;
        let peer = peers.get_mut(&peer)?;
        let (index, own, other) =
            peer.digests.iter().rev().find_map(|(index, other)| Some((*index, *own.get(index)?, *other)))?;
        let differs = own.differs(other);
        (std::mem::replace(&mut peer.differs, differs) != differs).then_some((differs, index))
    }
}

fn keep(digests: &mut Digests, index: LogIndex, digest: StateDigest) {
    digests.insert(index, digest);
    while digests.len() > KEPT {
        digests.pop_first();
    }
}

impl Raft {
    /// Members whose states differ from this node's, as far as they have told.
    #[must_use]
    pub fn differing_members(&self) -> usize {
        self.divergence.differing()
    }

    /// Takes what apply says of its state.
    pub(super) fn note_state(&mut self, event: &mut Event) {
        if let Event::Applied { index, digest, marks } = event {
            let current = digest.map(|digest| (*index, digest));
            self.divergence.note(std::mem::take(marks), current);
        }
    }

    /// A snapshot took the state's place: what was known of the old one says nothing of it.
    pub(super) fn forget_own_states(&mut self) {
        self.divergence.own.clear();
    }

    /// Tells all other members the newest digests, when it is time.
    pub(super) fn tell_state(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let interval = self.settings.state_check_interval;
        if interval.is_zero() || now < self.divergence.due {
            return;
        }
        let Some(configuration) = self.log.configuration().cloned() else { return };
        self.divergence.due = now.after(interval);
        self.divergence.peers.retain(|id, _| configuration.member(*id).is_some());
        let digests = self.divergence.newest();
        if digests.is_empty() {
            return;
        }
        for to in configuration.members().into_keys().filter(|to| *to != self.id) {
            out.push(Effect::Send { to, signal: Signal::StateDigests { digests: digests.clone() } });
        }
        for (index, _) in digests {
            self.judge_own_state(&configuration, index, out);
        }
    }

    /// A member's digests. Those of nodes that are no members count for nothing.
    pub(super) fn on_state_digests(
        &mut self,
        from: NodeId,
        digests: Vec<(LogIndex, StateDigest)>,
        out: &mut Vec<Effect>,
    ) {
        let Some(configuration) = self.log.configuration().cloned() else { return };
        if from == self.id || configuration.member(from).is_none() {
            return;
        }
        let indexes: Vec<_> = digests.iter().take(STATE_DIGESTS_MAX).map(|(index, _)| *index).collect();
        let peer = self.divergence.peers.entry(from).or_default();
        for (index, digest) in digests.into_iter().take(STATE_DIGESTS_MAX) {
            keep(&mut peer.digests, index, digest);
        }
        match self.divergence.compare(from) {
            Some((true, index)) => {
                out.push(Effect::Observe(Observation::StateDiffers { peer: from, index }));
            }
            Some((false, index)) => {
                out.push(Effect::Observe(Observation::StateAgrees { peer: from, index }));
            }
            None => {}
        }
        for index in indexes {
            self.judge_own_state(&configuration, index, out);
        }
    }

    /// Halts if a majority's state after this entry is another one.
    fn judge_own_state(&mut self, configuration: &Configuration, index: LogIndex, out: &mut Vec<Effect>) {
        if let Some(verdict) = self.divergence.judge(self.id, configuration, index) {
            let Verdict { index, own, majority } = verdict;
            // So that the others can say who differed, even if this node never told them before.
            for to in configuration.members().into_keys().filter(|to| *to != self.id) {
                out.push(Effect::Send { to, signal: Signal::StateDigests { digests: vec![(index, own)] } });
            }
            out.push(Effect::Observe(Observation::StateDiverged { index, own, majority }));
            out.push(Effect::Halt(HaltReason::Diverged));
            // Once is enough.
            self.divergence.own.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;

    fn digest(value: u64) -> StateDigest {
        StateDigest { scheme: 1, value }
    }

    fn voters(ids: impl IntoIterator<Item = u64>) -> Configuration {
        let voters = ids.into_iter().map(|id| (NodeId(id), Member::default())).collect();
        Configuration { voters, ..Configuration::default() }
    }

    /// Node 1's view after entry 7, where the others told these values.
    fn view(own: u64, told: &[(u64, u64)]) -> Divergence {
        let mut view = Divergence::default();
        view.note(vec![(LogIndex(7), digest(own))], None);
        for (id, value) in told {
            let peer = view.peers.entry(NodeId(*id)).or_default();
            keep(&mut peer.digests, LogIndex(7), digest(*value));
        }
        view
    }

    fn halts(own: u64, told: &[(u64, u64)], configuration: &Configuration) -> bool {
        view(own, told).judge(NodeId(1), configuration, LogIndex(7)).is_some()
    }

    #[test]
    fn only_a_majority_of_voters_that_agree_stops_a_node() {
        assert!(halts(1, &[(2, 5), (3, 5)], &voters(1..=3)));
        assert!(!halts(1, &[(2, 5)], &voters(1..=3)), "one of three");
        assert!(!halts(1, &[(2, 5), (3, 6)], &voters(1..=3)), "all differ");
        assert!(!halts(1, &[(2, 1), (3, 5)], &voters(1..=3)), "the other differs");
        assert!(!halts(1, &[(2, 5), (3, 5)], &voters(1..=5)), "two of five");
        assert!(halts(1, &[(2, 5), (3, 5), (5, 5)], &voters(1..=5)));
        assert!(!halts(1, &[(2, 5)], &voters(1..=2)), "two have no majority without each other");
        assert!(!halts(1, &[(2, 5), (3, 5), (4, 5)], &voters([1])), "no voters");
        assert!(halts(1, &[(2, 5), (3, 5)], &voters([2, 3, 4])), "a learner");
    }

    #[test]
    fn a_joint_configuration_needs_both_majorities() {
        let mut joint = voters(1..=3);
        joint.outgoing = voters([1, 4, 5]).voters;
        assert!(!halts(1, &[(2, 5), (3, 5)], &joint));
        assert!(!halts(1, &[(2, 5), (3, 5), (4, 5)], &joint));
        assert!(halts(1, &[(2, 5), (3, 5), (4, 5), (5, 5)], &joint));
    }

    #[test]
    fn digests_of_another_scheme_are_not_compared() {
        let mut view = view(1, &[]);
        for id in [2, 3] {
            let other = StateDigest { scheme: 2, value: 5 };
            keep(&mut view.peers.entry(NodeId(id)).or_default().digests, LogIndex(7), other);
        }
        assert_eq!(view.judge(NodeId(1), &voters(1..=3), LogIndex(7)), None);
        assert_eq!(view.compare(NodeId(2)), None);
    }

    #[test]
    fn a_difference_is_reported_once_and_again_when_it_is_gone() {
        let mut view = view(1, &[(2, 5)]);
        assert_eq!(view.compare(NodeId(2)), Some((true, LogIndex(7))));
        assert_eq!((view.compare(NodeId(2)), view.differing()), (None, 1));
        view.note(vec![(LogIndex(9), digest(3))], None);
        keep(&mut view.peers.entry(NodeId(2)).or_default().digests, LogIndex(9), digest(3));
        assert_eq!(view.compare(NodeId(2)), Some((false, LogIndex(9))));
        assert_eq!(view.differing(), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut view = Divergence::default();
        view.note((1..=5_000).map(|index| (LogIndex(index), digest(index))).collect(), None);
        assert_eq!((view.own.len(), view.newest().len()), (KEPT, STATE_DIGESTS_MAX));
    }
}
