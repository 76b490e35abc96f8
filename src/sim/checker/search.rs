//! The search for an order of one key's operations: depth first, one operation after another, among those that
//! no unplaced operation precedes in real time (Wing and Gong). What was placed, with the state it led to, is
//! remembered, so that another order of the same operations is not continued twice (Lowe).

use std::collections::HashSet;

use super::Operation;
use super::register::{self, NONE, Outcome, State, Step, UNREAD, ValueId};
use crate::kv::Condition;

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Violated,
    /// The steps were used up.
    Undecided,
}

/// Searches an order of the operations, all on one key.
pub(super) fn search(operations: &[Operation], steps_max: u64) -> Verdict {
    Search::new(operations).run(steps_max)
}

struct Node {
    invoked_at: u64,
    /// `u64::MAX` while open.
    returned_at: u64,
    step: Step,
    /// Place among the operations of known revision; they can only be placed in this order.
    rank: Option<usize>,
    /// The open operation before this one that asks the very same: it may as well go first.
    twin: Option<usize>,
}

struct Search {
    /// First those that returned, then the open ones; each by the time of their call.
    nodes: Vec<Node>,
    /// How many of them returned.
    returned: usize,
    is_placed: Vec<bool>,
    /// All before this one are placed.
    first_unplaced: usize,
    returned_unplaced: usize,
    ranks_placed: usize,
    /// Unplaced reads and writes of each value.
    reads_left: Vec<u32>,
    writes_left: Vec<u32>,
    /// Whether an open operation has a condition, so that it may see any write.
    has_open_condition: bool,
    /// Whether there are only reads and unconditional puts and no revision, so that only reads show what was there.
    is_plain: bool,
    seen: HashSet<Box<[u64]>>,
}

/// What may be placed next.
struct Choices {
    /// The node and the state it leads to; the last one is tried first.
    options: Vec<(usize, State)>,
    /// There is one option, and placing it now excludes nothing.
    is_forced: bool,
}

/// A placed operation, and how to continue without it.
struct Placed {
    node: usize,
    before: State,
    alternatives: Choices,
}

impl Search {
    fn new(operations: &[Operation]) -> Self {
        let mut nodes: Vec<Node> = operations
            .iter()
            .zip(register::steps(operations))
            .filter_map(|(operation, step)| {
                let returned_at = operation.returned.as_ref().map_or(u64::MAX, |returned| returned.at.0);
                Some(Node {
                    invoked_at: operation.invoked_at.0,
                    returned_at,
                    step: step?,
                    rank: None,
                    twin: None,
                })
            })
            .collect();
        nodes.sort_by_key(|node| (node.is_open(), node.invoked_at));
        let returned = nodes.partition_point(|node| !node.is_open());
        set_ranks(&mut nodes);
        for at in returned..nodes.len() {
            nodes[at].twin = (returned..at).rev().find(|&other| nodes[other].step == nodes[at].step);
        }
        let has_open_condition = nodes[returned..].iter().any(|node| node.step.has_condition());
        let is_plain = nodes.iter().all(|node| node.step.is_plain());
        let mut search = Self {
            is_plain,
            returned,
            is_placed: vec![false; nodes.len()],
            first_unplaced: 0,
            returned_unplaced: returned,
            ranks_placed: 0,
            reads_left: vec![0; 2],
            writes_left: vec![0; 2],
            has_open_condition,
            seen: HashSet::new(),
            nodes,
        };
        for at in 0..search.nodes.len() {
            let (reads, writes) = (search.nodes[at].step.read(), search.nodes[at].step.writes());
            for (value, left) in [(reads, &mut search.reads_left), (writes, &mut search.writes_left)] {
                if let Some(value) = value {
                    let value = value as usize;
                    left.resize(left.len().max(value + 1), 0);
                    left[value] += 1;
                }
            }
        }
        let values = search.reads_left.len().max(search.writes_left.len());
        search.reads_left.resize(values, 0);
        search.writes_left.resize(values, 0);
        search
    }

    fn run(&mut self, steps_max: u64) -> Verdict {
        let mut state = State::EMPTY;
        let mut path: Vec<Placed> = Vec::new();
        let Some(mut choices) = self.choices(state, true) else { return Verdict::Violated };
        let mut steps = 0;
        while self.returned_unplaced > 0 {
            let Some((node, next)) = choices.options.pop() else {
                let Some(last) = path.pop() else { return Verdict::Violated };
                self.take_back(last.node);
                (state, choices) = (last.before, last.alternatives);
                continue;
            };
            steps += 1;
            if steps > steps_max {
                return Verdict::Undecided;
            }
            self.place(node);
            let Some(next_choices) = self.choices(next, choices.is_forced) else {
                self.take_back(node);
                continue;
            };
            path.push(Placed { node, before: state, alternatives: choices });
            (state, choices) = (next, next_choices);
        }
        Verdict::Linearizable
    }

    fn place(&mut self, at: usize) {
        self.is_placed[at] = true;
        self.count(at, |left| left - 1);
        if at < self.returned {
            self.returned_unplaced -= 1;
        }
        if self.nodes[at].rank.is_some() {
            self.ranks_placed += 1;
        }
        while self.first_unplaced < self.returned && self.is_placed[self.first_unplaced] {
            self.first_unplaced += 1;
        }
    }

    fn take_back(&mut self, at: usize) {
        self.is_placed[at] = false;
        self.count(at, |left| left + 1);
        if at < self.returned {
            self.returned_unplaced += 1;
            self.first_unplaced = self.first_unplaced.min(at);
        }
        if self.nodes[at].rank.is_some() {
            self.ranks_placed -= 1;
        }
    }

    fn count(&mut self, at: usize, change: impl Fn(u32) -> u32) {
        let step = &self.nodes[at].step;
        for (value, left) in [(step.read(), &mut self.reads_left), (step.writes(), &mut self.writes_left)] {
            if let Some(value) = value {
                left[value as usize] = change(left[value as usize]);
            }
        }
    }

    /// What may come next, or `None` if this very situation was met before. `was_forced`: its parent was met
    /// before it and had no other child, so there is nothing to remember.
    fn choices(&mut self, state: State, was_forced: bool) -> Option<Choices> {
        let mut waiting = Vec::new();
        let mut bits = Vec::new();
        // No operation may be placed that was called after an unplaced one returned. What is placed was called
        // before that, too: the unplaced ones were unplaced then.
        let mut latest_call = u64::MAX;
        for at in self.first_unplaced..self.returned {
            let node = &self.nodes[at];
            if node.invoked_at > latest_call {
                break;
            }
            push_bit(&mut bits, at - self.first_unplaced, self.is_placed[at]);
            if !self.is_placed[at] {
                latest_call = latest_call.min(node.returned_at);
                waiting.push(at);
            }
        }
        if !was_forced && !self.remember(state, bits) {
            return None;
        }
        let mut options = Vec::new();
        for &at in &waiting {
            let Some(next) = self.after(state, at) else { continue };
            let keeps_state = next == State { must_be_seen: false, ..state };
            // Such an operation could stand later, but here it is in nobody's way.
            if (keeps_state && self.nodes[at].step.is_observation()) || self.is_idle(state, at) {
                return Some(Choices { options: vec![(at, next)], is_forced: true });
            }
            options.push((at, next));
        }
        for at in self.returned..self.nodes.len() {
            let node = &self.nodes[at];
            let is_next = !self.is_placed[at]
                && node.invoked_at <= latest_call
                && node.twin.is_none_or(|twin| self.is_placed[twin]);
            if is_next && self.may_be_seen(at, &waiting) {
                options.extend(self.after(state, at).map(|next| (at, next)));
            }
        }
        options.reverse();
        Some(Choices { options, is_forced: false })
    }

    fn remember(&mut self, state: State, bits: Vec<u64>) -> bool {
        let mut situation = vec![
            self.first_unplaced as u64,
            u64::from(state.value) << 2 | u64::from(state.is_exact) << 1 | u64::from(state.must_be_seen),
            state.revision,
        ];
        let mut open_bits = Vec::new();
        for at in self.returned..self.nodes.len() {
            push_bit(&mut open_bits, at - self.returned, self.is_placed[at]);
        }
        situation.extend(open_bits);
        situation.extend(bits);
        self.seen.insert(situation.into_boxed_slice())
    }

    /// The state after placing a node, or `None` if it cannot be placed or leads nowhere.
    fn after(&self, state: State, at: usize) -> Option<State> {
        let node = &self.nodes[at];
        if node.rank.is_some_and(|rank| rank != self.ranks_placed) {
            return None;
        }
        // A value that is still to be read, and that nobody will write again, must not go.
        if node.step.writes().is_some() && state.value != NONE {
            let value = state.value as usize;
            if self.reads_left[value] > 0 && self.writes_left[value] == 0 {
                return None;
            }
        }
        state.after(&node.step)
    }

    /// Whether this put of what nobody reads replaces what nobody will read any more.
    fn is_idle(&self, state: State, at: usize) -> bool {
        let no_reads_left = |value: ValueId| self.reads_left[value as usize] == 0;
        self.is_plain
            && no_reads_left(state.value)
            && self.nodes[at].step.writes().is_some_and(|value| value == UNREAD)
    }

    /// Whether one of those that may come right after an open operation could see its effect.
    fn may_be_seen(&self, open: usize, waiting: &[usize]) -> bool {
        let Some(value) = self.nodes[open].step.writes() else { return false };
        self.has_open_condition
            || waiting.iter().any(|&at| match &self.nodes[at].step {
                Step::Get { found, .. } => *found == value,
                Step::Write { value, condition, .. } => *value == NONE || *condition != Condition::Always,
            })
    }
}

impl Node {
    fn is_open(&self) -> bool {
        self.returned_at == u64::MAX
    }
}

impl Step {
    fn has_condition(&self) -> bool {
        matches!(self, Self::Write { condition, .. } if *condition != Condition::Always)
    }

    fn is_plain(&self) -> bool {
        match self {
            Self::Get { revision, .. } => revision.is_none(),
            Self::Write { value, .. } => {
                *value != NONE && !self.has_condition() && self.revision_made().is_none()
            }
        }
    }

    /// The value that it reads.
    fn read(&self) -> Option<ValueId> {
        match self {
            Self::Get { found, .. } => Some(*found),
            Self::Write { .. } => None,
        }
    }

    /// The value that it writes, if it writes.
    fn writes(&self) -> Option<ValueId> {
        match self {
            Self::Write { value, outcome: Outcome::Took(_) | Outcome::Unknown(_), .. } => Some(*value),
            _ => None,
        }
    }
}

fn set_ranks(nodes: &mut [Node]) {
    let mut known: Vec<(u64, usize)> =
        nodes.iter().enumerate().filter_map(|(at, node)| Some((node.step.revision_made()?, at))).collect();
    known.sort_unstable();
    for (rank, (_, at)) in known.into_iter().enumerate() {
        nodes[at].rank = Some(rank);
    }
}

fn push_bit(words: &mut Vec<u64>, at: usize, bit: bool) {
    if at.is_multiple_of(64) {
        words.push(0);
    }
    if bit {
        words[at / 64] |= 1 << (at % 64);
    }
}
