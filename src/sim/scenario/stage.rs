//! The stage: drives a cluster, has what happens told, and checks what must be so.

use super::narrator::{Draft, Narrator, name, names};
use super::story::{Kind, NodeState, Sent, Step, Story};
use crate::plant::Planted;
use crate::raft::RoleName;
use crate::sim::cluster::Cluster;
use crate::sim::setup::Setup;
use crate::sim::trace::Happening;
use crate::types::{Instant, LogIndex, Term};

/// A check did not hold; the story says which.
#[derive(Debug)]
pub(super) struct Failed;

/// Whether the story went as it must.
pub(super) type Told<T = ()> = Result<T, Failed>;

/// Nodes in every scenario.
pub(super) const NODES: usize = 3;

/// Changes made to every cluster's setup: to see a scenario fail.
pub(super) type Tamper = fn(&mut Setup);

/// What is a detail: of use to a page that replays the story, too much for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Details {
    /// Nothing but repetition.
    Nothing,
    /// What happens to logs.
    Logs,
    /// Everything that happens.
    All,
}

/// A cluster, what happened in it, and the story so far.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) narrator: Narrator,
    /// Everything that happened in this cluster.
    pub(super) past: Vec<(Instant, Happening)>,
    pub(super) story: Story,
    /// What need not be told to a reader now.
    pub(super) details: Details,
    planted: Planted,
    tamper: Tamper,
    sections: usize,
}

impl Stage {
    pub(super) fn new(story: Story, planted: Planted, tamper: Tamper) -> Self {
        let (past, details, sections) = (Vec::new(), Details::Nothing, 0);
        let (cluster, narrator) = (new_cluster(story.seed, planted, tamper, |_| ()), Narrator::new(NODES));
        Self { cluster, narrator, past, story, details, planted, tamper, sections }
    }

    /// Begins a section on a new cluster.
    pub(super) fn begin(&mut self, title: &str, change: impl FnOnce(&mut Setup)) {
        self.cluster = new_cluster(self.story.seed, self.planted, self.tamper, change);
        self.narrator = Narrator::new(NODES);
        self.past.clear();
        self.section(title);
        self.listen();
    }

    /// Begins a section.
    pub(super) fn section(&mut self, title: &str) {
        self.sections += 1;
        let text = format!("{}. {title}", self.sections);
        self.note(Kind::Section, text);
    }

    /// Does something from outside.
    pub(super) fn act(&mut self, what: &str, act: impl FnOnce(&mut Cluster)) {
        act(&mut self.cluster);
        self.note(Kind::Act, what.to_owned());
        self.listen();
    }

    /// Lets a client ask; that it does is told as all that happens.
    pub(super) fn ask<T>(&mut self, ask: impl FnOnce(&mut Cluster) -> T) -> T {
        let token = ask(&mut self.cluster);
        self.listen();
        token
    }

    /// Begins on a new cluster with an election, told in one sentence.
    pub(super) fn begin_led(&mut self) -> Told<usize> {
        let details = std::mem::replace(&mut self.details, Details::All);
        self.begin("A leader is elected", |_| ());
        let leader = self.lead(10_000)?;
        self.details = details;
        let (term, last) = (self.term(leader), self.last(leader));
        let voters = self.narrator.voters(leader, term);
        self.summarize(format!(
            "{} leads term {term} with the votes of {}; all have applied its first entry, {last}, a no-op",
            name(leader),
            names(&voters)
        ));
        Ok(leader)
    }

    /// Tells what a stretch of time came to.
    pub(super) fn summarize(&mut self, text: String) {
        self.note(Kind::Summary, text);
    }

    fn note(&mut self, kind: Kind, text: String) {
        let (at, node, term, index) = (self.cluster.now(), None, None, None);
        self.push(Draft { at, node, kind, text, term, index, messages: Vec::new(), detail: false });
    }

    fn listen(&mut self) {
        let happened = self.cluster.trace.take();
        for mut draft in self.narrator.tell(&happened) {
            draft.detail |= self.is_detail(&draft);
            let is_down = |sent: &Sent| !self.cluster.is_running(sent.to - 1);
            let down: Vec<usize> =
                draft.messages.iter().filter(|sent| is_down(sent)).map(|sent| sent.to - 1).collect();
            if !down.is_empty() {
                draft.text = format!("{} (down: {})", draft.text, names(&down));
            }
            self.push(draft);
        }
        self.past.extend(happened);
    }

    /// A refusal as a message says no more than the decision before it.
    fn is_detail(&self, draft: &Draft) -> bool {
        let about_logs = match draft.kind {
            Kind::Append | Kind::Durable | Kind::Arrival | Kind::Commit | Kind::Apply => true,
            Kind::Message => {
                draft.messages.iter().all(|sent| matches!(sent.kind, "AppendEntries" | "Appended"))
            }
            _ => false,
        };
        let repeats = draft.messages.iter().any(|sent| matches!(sent.kind, "VoteRefused" | "PreVoteGranted"));
        match self.details {
            Details::Nothing => repeats,
            Details::Logs => repeats || about_logs,
            Details::All => true,
        }
    }

    fn push(&mut self, draft: Draft) {
        let Draft { at, node, kind, text, term, index, messages, detail } = draft;
        self.story.steps.push(Step {
            at_ms: millis(at),
            node: node.map(|node| node + 1),
            kind,
            text,
            term: term.map(|term| term.0),
            index: index.map(|index| index.0),
            messages,
            detail,
            holds: None,
            state: (0..NODES).map(|node| self.state(node)).collect(),
        });
    }

    fn state(&self, node: usize) -> NodeState {
        let number = node + 1;
        let applied = self.cluster.applied(node).unwrap_or_default().0;
        match self.cluster.status(node) {
            Some(status) => NodeState {
                node: number,
                role: status.role.as_str(),
                term: status.term.0,
                last: status.last_log_index.0,
                commit: status.commit_index.0,
                applied,
            },
            None => NodeState { node: number, role: "down", term: 0, last: 0, commit: 0, applied },
        }
    }

    /// Goes on for so long.
    pub(super) fn run_for(&mut self, millis: u64) {
        let until = Instant(self.cluster.now().0 + millis * 1000);
        while self.cluster.next_at().is_some_and(|at| at <= until) {
            self.cluster.step();
            self.listen();
        }
        self.cluster.run_to(until);
    }

    /// Goes on until something holds, at most for so long. Whether it held.
    pub(super) fn run_until(&mut self, millis: u64, holds: impl Fn(&Self) -> bool) -> bool {
        let until = Instant(self.cluster.now().0 + millis * 1000);
        while !holds(self) {
            if self.cluster.next_at().is_none_or(|at| at > until) {
                return false;
            }
            self.cluster.step();
            self.listen();
        }
        true
    }

    /// Tells whether what must be so is so, and ends the story if it is not.
    pub(super) fn check(&mut self, expected: &str, holds: bool, found: &str) -> Told {
        let text = if holds {
            format!("{expected} — {found}")
        } else {
            self.story.ok = false;
            format!("expected: {expected}; found: {found}")
        };
        self.note(Kind::Check, text);
        if let Some(step) = self.story.steps.last_mut() {
            step.holds = Some(holds);
        }
        if holds { Ok(()) } else { Err(Failed) }
    }

    /// Ends a cluster's part of the story: none of Raft's rules was broken in it.
    pub(super) fn check_rules(&mut self) -> Told {
        match self.cluster.violation().cloned() {
            None => Ok(()),
            Some(violation) => {
                let found = format!("{} broken: {}", violation.broken.rule, violation.broken.what);
                self.check("none of Raft's rules is broken", false, &found)
            }
        }
    }

    // --- looking

    pub(super) fn now_ms(&self) -> u64 {
        self.cluster.now().0 / 1000
    }

    pub(super) fn term(&self, node: usize) -> Term {
        self.cluster.status(node).map(|status| status.term).unwrap_or_default()
    }

    pub(super) fn terms(&self) -> Vec<Term> {
        (0..NODES).map(|node| self.term(node)).collect()
    }

    pub(super) fn role(&self, node: usize) -> Option<RoleName> {
        self.cluster.status(node).map(|status| status.role)
    }

    pub(super) fn commit(&self, node: usize) -> LogIndex {
        self.cluster.status(node).map(|status| status.commit_index).unwrap_or_default()
    }

    pub(super) fn last(&self, node: usize) -> LogIndex {
        self.cluster.status(node).map(|status| status.last_log_index).unwrap_or_default()
    }

    pub(super) fn applied(&self, node: usize) -> LogIndex {
        self.cluster.applied(node).unwrap_or_default()
    }

    /// Where in the past the first happening of a kind is, from `mark` on.
    pub(super) fn find(&self, mark: usize, is: impl Fn(&Happening) -> bool) -> Option<usize> {
        (mark..self.past.len()).find(|at| is(&self.past[*at].1))
    }

    /// How often something happened from `mark` on.
    pub(super) fn count(&self, mark: usize, is: impl Fn(&Happening) -> bool) -> usize {
        self.past[mark..].iter().filter(|(_, happening)| is(happening)).count()
    }

    /// Waits for a leader that all follow, whose first entry all have applied.
    pub(super) fn lead(&mut self, within: u64) -> Told<usize> {
        let is_led = |stage: &Self| {
            stage.cluster.is_led()
                && stage.cluster.leader().is_some_and(|leader| {
                    stage.term(leader) > Term(1)
                        && (0..NODES).all(|node| {
                            stage.role(node).is_none() || stage.applied(node) == stage.last(leader)
                        })
                })
        };
        let led = self.run_until(within, is_led);
        if let Some(leader) = self.cluster.leader().filter(|_| led) {
            return Ok(leader);
        }
        let (expected, found) = ("one leader, followed by all", self.cluster.summary());
        self.check(expected, false, &found)?;
        Err(Failed)
    }
}

fn new_cluster(seed: u64, planted: Planted, tamper: Tamper, change: impl FnOnce(&mut Setup)) -> Cluster {
    let mut setup = Setup::calm(seed, NODES);
    // Part of no story.
    setup.raft.state_check_interval = std::time::Duration::ZERO;
    setup.raft.rules = planted.into();
    setup.disk.slow_of_thousand = 0;
    change(&mut setup);
    tamper(&mut setup);
    let mut cluster = Cluster::new(setup);
    cluster.trace.keep();
    cluster
}

#[allow(clippy::cast_precision_loss)] // a scenario takes seconds
fn millis(at: Instant) -> f64 {
    at.0 as f64 / 1000.0
}
