//! The commit index of random leaders against a model that counts naively.
//!
//! Another implementation once committed without a majority through clever bookkeeping (openraft #1802).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::super::random::Random;
use super::super::{Effect, Event, HardState, Promise, Proposal, Raft, Settings};
use super::disk::{Disk, StoredLog};
use super::parse;
use crate::types::{Instant, IoId, LogIndex, NodeId, ProposalId, Session, Term};

const LEADER: NodeId = NodeId(1);

/// A leader whose followers and disk answer at random.
struct Leader {
    raft: Raft,
    voters: Vec<NodeId>,
    term: Term,
    /// Terms of its log's entries.
    log: Vec<Term>,
    /// Last index that is durable, by node.
    durable: BTreeMap<NodeId, LogIndex>,
    /// Last index of each append that it has been told to write.
    appends: Vec<(IoId, LogIndex)>,
    commit: LogIndex,
}

impl Leader {
    fn elect(random: &mut Random) -> Self {
        let count = 1 + random.next_u64() % 7;
        let voters: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let mut term = 1;
        let mut log = Vec::new();
        for _ in 0..random.next_u64() % 12 {
            term += random.next_u64() % 2;
            log.push(Term(term));
        }
        let text: Vec<String> = log.iter().map(ToString::to_string).collect();
        let entries = parse::log(&text.join(" ")).expect("terms that rise make a log");
        let hard_state = HardState { term: Term(term), voted_for: None };
        let disk = Disk::new(hard_state, StoredLog::of(entries));
        let recovered = disk.recovered(Some(&parse::configuration(&voters)), &[]);
        let settings = Settings { pre_vote: false, ..Settings::default() };
        let raft = Raft::new(Instant(0), LEADER, settings, 1, hard_state, recovered);
        let durable = BTreeMap::from([(LEADER, LogIndex(log.len() as u64))]);
        let raft = raft.expect("the settings can work");
        let term = Term(term + 1);
        let (appends, commit) = (Vec::new(), LogIndex(0));
        let mut leader = Self { raft, voters, term, log, durable, appends, commit };
        leader.step(Event::Timeout);
        let (io, _) = leader.appends.remove(0);
        leader.step(Event::Appended { io });
        for id in leader.voters.clone() {
            leader.hear(id, Promise::VoteGranted { term });
        }
        leader
    }

    fn hear(&mut self, from: NodeId, promise: Promise) {
        if from != LEADER {
            self.step(Event::Message { from, message: promise.into() });
        }
    }

    fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        let now = self.raft.next_deadline();
        self.raft.step(if matches!(event, Event::Timeout) { now } else { Instant(0) }, event, &mut effects);
        for effect in effects {
            if let Effect::Append(append) = effect {
                self.log.extend(append.entries.iter().map(|entry| entry.term));
                self.appends.push((append.io, LogIndex(self.log.len() as u64)));
            }
        }
    }

    fn act(&mut self, random: &mut Random) {
        let pick = |random: &mut Random, count: usize| {
            usize::try_from(random.next_u64() % count as u64).expect("a small count")
        };
        match random.next_u64() % 4 {
            0 => {
                let id = ProposalId(random.next_u64());
                let deadline = Instant(0).after(Duration::from_hours(1));
                let proposal = Proposal { id, command: Bytes::from_static(b"x"), deadline };
                self.step(Event::Propose { proposals: vec![proposal] });
            }
            1 if !self.appends.is_empty() => {
                let through = pick(random, self.appends.len());
                let (io, last) = self.appends.drain(..=through).next_back().expect("at least one");
                self.durable.insert(LEADER, last);
                self.step(Event::Appended { io });
            }
            _ => {
                let from = self.voters[pick(random, self.voters.len())];
                let match_index = LogIndex(random.next_u64() % (self.log.len() as u64 + 1));
                let known = self.durable.get(&from).copied().unwrap_or_default();
                if from != LEADER {
                    self.durable.insert(from, known.max(match_index));
                }
                let session = Session(0);
                self.hear(
                    from,
                    Promise::Appended { term: self.term, session, match_index, round: 0, stickiness_ms: 0 },
                );
            }
        }
    }

    /// The last entry of the own term that more than half of the voters hold durably, by looking at each.
    fn model(&self) -> LogIndex {
        let mut commit = self.commit;
        for (i, term) in self.log.iter().enumerate() {
            let index = LogIndex(i as u64 + 1);
            let holds = |id: &&NodeId| self.durable.get(id).is_some_and(|durable| *durable >= index);
            let count = self.voters.iter().filter(holds).count();
            if *term == self.term && count * 2 > self.voters.len() {
                commit = commit.max(index);
            }
        }
        commit
    }
}

#[test]
fn commit_follows_the_durable_majority() {
    let mut random = Random::new(7);
    for case in 0..500 {
        let mut leader = Leader::elect(&mut random);
        for step in 0..40 {
            leader.commit = leader.model();
            assert_eq!(
                leader.raft.log.commit(),
                leader.commit,
                "case {case}, step {step}: log {:?}, durable {:?}, term {}",
                leader.log,
                leader.durable,
                leader.term
            );
            leader.act(&mut random);
        }
    }
}
