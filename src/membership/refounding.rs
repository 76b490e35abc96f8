//! A new cluster out of what one node holds: after a loss of quorum, or from a backup.
//!
//! The new cluster has another id, so nobody of the old one takes it for theirs, and the one node is its only voter. What
//! it holds counts as committed from then on, whether it was or not. All other members of the old cluster are listed as
//! removed: their ids never come back, and those who join do so as new nodes.

use std::collections::BTreeMap;

use crate::raft::{AppendEntries, Configuration, Entry, HardState, Member, Payload};
use crate::types::{IoId, LogIndex, LogPosition, LogTime, NodeId, Revision, Session, Term};

/// The term of all that the new cluster takes over. Terms start again, as the new cluster shares no message with the old
/// one: so a term that an error raised to its ceiling does not outlive a recovery.
const FIRST_TERM: Term = Term(1);

/// What a new cluster is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The node that will be its only voter.
    pub node_id: NodeId,
    /// That node's name.
    pub name: String,
    /// The newest configuration that is known, committed or not.
    pub configuration: Configuration,
    /// The last entry that is there.
    pub last: LogPosition,
    /// The log's clock at the last entry.
    pub time: LogTime,
}

/// How the old cluster becomes the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refounding {
    /// The new cluster's configuration.
    pub configuration: Configuration,
    /// The entry that holds it.
    pub position: LogPosition,
    /// The old cluster's members that are not part of the new one.
    pub dropped: BTreeMap<NodeId, String>,
    time: LogTime,
}

/// The old cluster removed the node that the new one would be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node was removed from its cluster by entry {0}: what it holds is older than what the others have"
)]
pub struct WasRemoved(pub LogIndex);

/// Makes a plan of it.
///
/// # Errors
/// [`WasRemoved`]
pub fn refound(origin: &Origin) -> Result<Refounding, WasRemoved> {
    let Origin { node_id, name, configuration: old, last, time } = origin;
    if let Some(index) = old.removed.get(node_id) {
        return Err(WasRemoved(*index));
    }
    let position = LogPosition { index: last.index.next(), term: FIRST_TERM.next() };
    let session = Session(position.index.0);
    let peer_addr = old.member(*node_id).and_then(|member| member.peer_addr.clone());
    let member = Member { name: name.clone(), session, peer_addr, ..Member::default() };
    let dropped: BTreeMap<NodeId, String> = old
        .members()
        .into_iter()
        .filter(|(id, _)| id != node_id)
        .map(|(id, member)| (id, member.name.clone()))
        .collect();
    let mut removed = old.removed.clone();
    removed.extend(dropped.keys().map(|id| (*id, position.index)));
    let voters = BTreeMap::from([(*node_id, member)]);
    let feature_level = old.feature_level;
    let configuration = Configuration { voters, removed, feature_level, ..Configuration::default() };
    Ok(Refounding { configuration, position, dropped, time: *time })
}

/// The least by which the revision rises when a cluster is made out of another one's data.
const REVISIONS_SKIPPED: u64 = 1_000_000_000;

/// The revision that the new cluster begins with: the present time, in microseconds since 1970. A cluster writes less than
/// a million times a second, so no revision of an earlier one is as high, however often one backup is restored. A clock
/// that stands far behind cannot lower it: then it rises by one to two thousand million, as `random` says.
///
/// Revisions stay below 2^53, and so exact in JSON, until the year 2255.
#[must_use]
pub fn revision_after_refounding(last: Revision, now_us: u64, random: u64) -> Revision {
    let skipped = REVISIONS_SKIPPED + random % REVISIONS_SKIPPED;
    Revision(now_us.max(last.0.saturating_add(skipped)))
}

impl Refounding {
    /// The last entry that the new cluster takes over, as its log knows it.
    #[must_use]
    pub fn covered(&self) -> LogPosition {
        match self.position.index.prev() {
            LogIndex(0) => LogPosition::default(),
            index => LogPosition { index, term: FIRST_TERM },
        }
    }

    /// What the new cluster's log begins with, as if a leader of a newer term had appended it.
    #[must_use]
    pub fn record(&self) -> AppendEntries {
        let LogPosition { index, term } = self.position;
        let payload = Payload::Configuration(self.configuration.clone().into());
        AppendEntries {
            io: IoId(0),
            truncate_from: None,
            hard_state: HardState { term, voted_for: None },
            commit_index: index.prev(),
            entries: vec![Entry { term, index, time: self.time, payload }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::FeatureLevel;

    fn member(name: &str, session: u64) -> Member {
        Member { name: name.to_owned(), session: Session(session), ..Member::default() }
    }

    /// Node 1 of a cluster that was changing from voters 1, 2, 3 to 1, 4, with learner 5 and a node that had gone.
    fn origin() -> Origin {
        let voters = BTreeMap::from([(NodeId(1), member("a", 1)), (NodeId(4), member("d", 9))]);
        let outgoing = ["a", "b", "c"].into_iter().zip(1..).map(|(name, id)| (NodeId(id), member(name, 1)));
        Origin {
            node_id: NodeId(1),
            name: "a".to_owned(),
            configuration: Configuration {
                voters,
                outgoing: outgoing.collect(),
                learners: BTreeMap::from([(NodeId(5), member("e", 8))]),
                removed: BTreeMap::from([(NodeId(6), LogIndex(3))]),
                feature_level: FeatureLevel(2),
            },
            last: LogPosition { index: LogIndex(20), term: Term(4) },
            time: LogTime(500),
        }
    }

    #[test]
    fn one_voter_is_left_and_nobody_else_ever_comes_back() {
        let plan = refound(&origin()).unwrap();
        assert_eq!(plan.position, LogPosition { index: LogIndex(21), term: Term(2) });
        assert_eq!(plan.covered(), LogPosition { index: LogIndex(20), term: Term(1) });
        let Configuration { voters, outgoing, learners, removed, feature_level } = &plan.configuration;
        assert_eq!(*feature_level, FeatureLevel(2), "the state may need it");
        assert_eq!(*voters, BTreeMap::from([(NodeId(1), member("a", 21))]));
        assert!(outgoing.is_empty() && learners.is_empty());
        let gone: Vec<_> = removed.iter().map(|(id, index)| (id.0, index.0)).collect();
        assert_eq!(gone, [(2, 21), (3, 21), (4, 21), (5, 21), (6, 3)]);
        assert_eq!(plan.dropped.values().collect::<Vec<_>>(), ["b", "c", "d", "e"]);
    }

    #[test]
    fn terms_start_again_however_high_they_were() {
        let last = LogPosition { index: LogIndex(20), term: Term((1 << 62) - 1) };
        assert_eq!(refound(&Origin { last, ..origin() }), refound(&origin()));
    }

    #[test]
    fn the_record_follows_the_last_entry_in_a_new_term_without_a_vote() {
        let record = refound(&origin()).unwrap().record();
        assert_eq!(record.hard_state, HardState { term: Term(2), voted_for: None });
        let [entry] = &record.entries[..] else { panic!("{:?}", record.entries) };
        assert_eq!((entry.index, entry.term, entry.time), (LogIndex(21), Term(2), LogTime(500)));
    }

    #[test]
    fn no_revision_of_before_comes_again() {
        let year_2026_us = 1_767_225_600_000_000;
        let first = revision_after_refounding(Revision(100), year_2026_us, 7);
        assert_eq!(first, Revision(year_2026_us));
        // The same backup once more, while the first cluster wrote a hundred thousand times in a second.
        let second = revision_after_refounding(Revision(100), year_2026_us + 1_000_000, 7);
        assert!(second > Revision(first.0 + 100_000));
        assert!(second.0 < 1 << 53);
        // A clock that begins in 1970.
        assert_eq!(revision_after_refounding(first, 5, 7), Revision(first.0 + REVISIONS_SKIPPED + 7));
    }

    #[test]
    fn a_removed_node_founds_nothing() {
        let refused = refound(&Origin { node_id: NodeId(6), ..origin() });
        assert_eq!(refused, Err(WasRemoved(LogIndex(3))));
    }

    #[test]
    fn a_node_that_is_new_replaces_all_members() {
        let plan = refound(&Origin { node_id: NodeId(7), name: "z".to_owned(), ..origin() }).unwrap();
        assert_eq!(plan.dropped.len(), 5);
        assert!(plan.configuration.voters.keys().eq([&NodeId(7)]));
    }
}
