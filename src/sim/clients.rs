//! Clients: each asks for one thing at a time, thinks, asks again, and remembers what it was told.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::checker::{Answer, Call, Operation, Returned};
use super::random::Random;
use crate::kv::{self, Command, Condition, IdempotencyKey};
use crate::raft::{Outcome, Refusal};
use crate::types::{Instant, Revision};

/// A client's question: whose, and the how-manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    /// The client.
    pub client: usize,
    /// Its questions count up.
    pub number: u64,
}

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Keys in use.
    pub keys: u64,
    /// Mean time between an answer and the next question, in microseconds.
    pub think: u64,
    /// Of a thousand operations, how many are reads.
    pub reads: u32,
    /// Of a thousand reads, how many are content with an old state.
    pub stale: u32,
    /// Of a thousand writes, how many have a condition.
    pub conditional: u32,
    /// Of a thousand writes, how many delete.
    pub deletes: u32,
    /// Of a thousand writes, how many carry an idempotency key and are asked again while nobody knows their outcome.
    pub named: u32,
    /// Of a thousand answered writes, how many are read at once from another node, as anyone who hears of them would.
    pub looked_at: u32,
    /// Longest value in bytes.
    pub value_bytes: u64,
    /// How long a node may take.
    pub timeout: Duration,
}

/// What a client asks.
#[derive(Clone, Debug)]
pub struct Question {
    /// The key.
    pub key: Bytes,
    /// What is asked of it.
    pub call: Call,
    /// A read that any state may answer.
    pub stale: bool,
    /// Makes a write one that takes effect once, however often it is asked.
    pub name: Option<IdempotencyKey>,
}

/// How a question ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an answer.
    Answered(Answer),
    /// Certainly without effect.
    NotApplied,
    /// Nobody knows.
    Unknown,
}

/// What telling a client how its question ended came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The client does not wait for that any more.
    Late,
    /// The question is done.
    Done,
    /// The client asks the same again.
    AsksAgain,
}

/// A question that a client waits for.
struct Asking {
    question: Question,
    /// When it was asked first.
    since: Instant,
    /// It was asked before, and may have taken effect then.
    unsure: bool,
    /// How often it may still be asked again.
    repeats: u32,
}

/// How often a client repeats a write that carries an idempotency key.
const REPEATS: u32 = 5;

struct Client {
    number: u64,
    asking: Option<Asking>,
    /// Where it asks, until it changes its mind.
    node: usize,
    /// The last revision of each key it saw, for conditions.
    seen: BTreeMap<Bytes, Revision>,
    /// The key that it wrote last and will read next.
    looks_at: Option<Bytes>,
    /// Its last question was answered.
    is_answered: bool,
    /// Questions answered since the last look.
    served: u64,
}

/// All clients and what they remember.
pub struct Clients {
    random: Random,
    all: Vec<Client>,
    history: Vec<Operation>,
    /// What became of questions asked by hand.
    endings: BTreeMap<Token, Ending>,
    /// Those below this number ask by themselves.
    automatic: usize,
    /// A client that was not answered asks the next node, instead of any or the same one.
    pub(super) move_on: bool,
    /// What they do.
    pub workload: Workload,
}

impl Clients {
    /// `automatic` clients that ask by themselves, and one more for questions asked by hand.
    #[must_use]
    pub(super) fn new(automatic: usize, workload: Workload, random: Random) -> Self {
        let client = |_| Client {
            number: 0,
            asking: None,
            node: 0,
            seen: BTreeMap::new(),
            looks_at: None,
            is_answered: true,
            served: 0,
        };
        Self {
            random,
            all: (0..=automatic).map(client).collect(),
            history: Vec::new(),
            endings: BTreeMap::new(),
            automatic,
            move_on: false,
            workload,
        }
    }

    /// How many ask by themselves.
    #[must_use]
    pub fn automatic(&self) -> usize {
        self.automatic
    }

    /// Everything that was asked and may have had an effect or an answer.
    #[must_use]
    pub fn history(&self) -> &[Operation] {
        &self.history
    }

    /// Adds operations that are still open: their outcome is not known.
    pub fn close(&mut self) {
        for client in 0..self.all.len() {
            if let Some(asking) = self.all[client].asking.take() {
                self.record(Instant(0), client, asking, &Ending::Unknown);
            }
        }
    }

    /// How many questions of each client that asks by itself were answered since the last call.
    pub fn take_served(&mut self) -> Vec<u64> {
        self.all[..self.automatic].iter_mut().map(|client| std::mem::take(&mut client.served)).collect()
    }

    /// Whether each client that asks by itself was answered since then.
    #[must_use]
    pub fn all_served(&self) -> bool {
        self.all[..self.automatic].iter().all(|client| client.served > 0)
    }

    /// Whether a client waits for an answer.
    #[must_use]
    pub fn is_asking(&self, client: usize) -> bool {
        self.all[client].asking.is_some()
    }

    /// How a question asked by hand ended, once it has.
    pub fn take_ending(&mut self, token: Token) -> Option<Ending> {
        self.endings.remove(&token)
    }

    /// When a client asks next, as a time to wait.
    pub(super) fn think(&mut self, client: usize) -> u64 {
        if self.all[client].looks_at.is_some() { 0 } else { self.random.around(self.workload.think) }
    }

    /// Draws a question and whom to ask.
    pub(super) fn draw(&mut self, client: usize, nodes: usize) -> (Question, usize) {
        let Workload { keys, reads, stale, conditional, deletes, named, value_bytes, .. } = self.workload;
        let random = &mut self.random;
        let this = &mut self.all[client];
        // A client that was not answered asks elsewhere.
        if self.move_on && !this.is_answered {
            this.node = (this.node + 1) % nodes;
        } else if random.chance(if this.is_answered { 200 } else { 500 }) {
            this.node = random.index(nodes);
        }
        if let Some(key) = this.looks_at.take() {
            let node = random.index(nodes);
            return (Question { key, call: Call::Get, stale: false, name: None }, node);
        }
        let key = Bytes::from(format!("k{}", random.below(keys)));
        if random.chance(reads) {
            return (Question { key, call: Call::Get, stale: random.chance(stale), name: None }, this.node);
        }
        let condition = if random.chance(conditional) {
            match (random.below(4), this.seen.get(&key)) {
                (0, _) => Condition::Absent,
                (1, _) => Condition::Present,
                (_, Some(revision)) => Condition::ModRevision(*revision),
                (_, None) => Condition::Always,
            }
        } else {
            Condition::Always
        };
        let call = if random.chance(deletes) {
            Call::Delete { condition }
        } else {
            let mut value = format!("{client}-{}", this.number + 1).into_bytes();
            let bytes = if random.chance(20) { value_bytes } else { value_bytes / 16 };
            value.resize(value.len().max(usize::try_from(random.below(bytes + 1)).unwrap_or(0)), b'.');
            Call::Put { value: value.into(), condition }
        };
        let name = random.chance(named).then(|| {
            IdempotencyKey::new(format!("{client}-{}", this.number + 1)).expect("two numbers are a short key")
        });
        (Question { key, call, stale: false, name }, this.node)
    }

    /// Notes that `client` asks `question` now.
    pub(super) fn ask(&mut self, now: Instant, client: usize, question: Question) -> Token {
        let this = &mut self.all[client];
        this.number += 1;
        let repeats = if question.name.is_some() { REPEATS } else { 0 };
        this.asking = Some(Asking { question, since: now, unsure: false, repeats });
        Token { client, number: this.number }
    }

    /// The client asks the same again: whom, when, and what. A late answer to the earlier question does not count.
    pub(super) fn ask_again(&mut self, client: usize, nodes: usize) -> Option<(Token, usize, u64, Question)> {
        let this = &mut self.all[client];
        let question = this.asking.as_ref()?.question.clone();
        this.number += 1;
        this.node = self.random.index(nodes);
        // Soon, or after whatever else may happen meanwhile: a change of leaders, a checkpoint, a restart.
        let wait = if self.random.chance(500) { 0 } else { self.random.below(3_000_000) };
        Some((Token { client, number: this.number }, this.node, wait, question))
    }

    /// The question, while it waits.
    pub(super) fn question(&self, token: Token) -> Option<&Question> {
        let client = &self.all[token.client];
        client.asking.as_ref().filter(|_| client.number == token.number).map(|asking| &asking.question)
    }

    /// Notes how a question ended.
    pub(super) fn end(&mut self, now: Instant, token: Token, ending: &Ending) -> Told {
        let client = &mut self.all[token.client];
        if client.number != token.number {
            return Told::Late;
        }
        let Some(mut asking) = client.asking.take() else { return Told::Late };
        // That this attempt had no effect says nothing of an earlier one.
        let is_unsure = asking.unsure && *ending == Ending::NotApplied;
        let ending = if is_unsure { &Ending::Unknown } else { ending };
        if *ending == Ending::Unknown && asking.repeats > 0 {
            asking.repeats -= 1;
            asking.unsure = true;
            client.asking = Some(asking);
            return Told::AsksAgain;
        }
        if token.client >= self.automatic {
            self.endings.insert(token, ending.clone());
        }
        self.record(now, token.client, asking, ending);
        Told::Done
    }

    /// Remembers what became of a question.
    fn record(&mut self, now: Instant, number: usize, asking: Asking, ending: &Ending) {
        let client = &mut self.all[number];
        let Asking { question: Question { key, call, stale, .. }, since: invoked_at, .. } = asking;
        if let Ending::Answered(
            Answer::Found { mod_revision: Some(revision), .. }
            | Answer::Written { mod_revision: Some(revision) },
        ) = ending
        {
            client.seen.insert(key.clone(), *revision);
        }
        client.is_answered = matches!(ending, Ending::Answered(_));
        client.served += u64::from(client.is_answered);
        if matches!(ending, Ending::Answered(Answer::Written { .. })) {
            client.looks_at = self.random.chance(self.workload.looked_at).then(|| key.clone());
        }
        let returned = match ending {
            Ending::Answered(answer) => Some(Returned { at: now, answer: answer.clone() }),
            Ending::NotApplied => return,
            Ending::Unknown => None,
        };
        // A read that may be old is checked by itself; one without an answer says nothing.
        let says_nothing = call == Call::Get && returned.is_none();
        if !(stale || says_nothing) {
            self.history.push(Operation { client: number as u64, key, call, invoked_at, returned });
        }
    }
}

impl Question {
    /// The command that a write puts into the log; `None` for a read.
    #[must_use]
    pub fn command(&self) -> Option<Bytes> {
        let key = self.key.clone();
        let operation = match &self.call {
            Call::Get => return None,
            Call::Put { value, condition } => {
                kv::Operation::Put { key, value: value.clone(), condition: *condition }
            }
            Call::Delete { condition } => kv::Operation::Delete { key, condition: *condition },
        };
        Some(Command { operation, idempotency_key: self.name.clone() }.encode())
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.escape_ascii();
        match &self.call {
            Call::Get if self.stale => write!(f, "get {key}, any state"),
            Call::Get => write!(f, "get {key}"),
            Call::Put { value, condition } => {
                let shown = value.escape_ascii().to_string();
                write!(f, "put {key} = {shown:.20}, {condition:?}")
            }
            Call::Delete { condition } => write!(f, "delete {key}, {condition:?}"),
        }?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, ", once as {name}"))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(Answer::Found { value, mod_revision }) => {
                let shown = value.escape_ascii().to_string();
                let revision = mod_revision.unwrap_or_default();
                write!(f, "{shown:.20}, revision {revision}")
            }
            Self::Answered(Answer::Missing) => write!(f, "not there"),
            Self::Answered(Answer::Written { mod_revision }) => {
                write!(f, "done, revision {}", mod_revision.unwrap_or_default())
            }
            Self::Answered(Answer::Refused) => write!(f, "condition not met"),
            Self::NotApplied => write!(f, "not applied"),
            Self::Unknown => write!(f, "unknown"),
        }
    }
}

impl From<kv::Answer> for Ending {
    fn from(answer: kv::Answer) -> Self {
        Self::Answered(match answer {
            kv::Answer::Put { revision, .. } | kv::Answer::Deleted { revision } => {
                Answer::Written { mod_revision: Some(revision) }
            }
            kv::Answer::KeyNotFound { .. } => Answer::Missing,
            kv::Answer::PreconditionFailed { .. } | kv::Answer::IdempotencyConflict => Answer::Refused,
        })
    }
}

impl From<Refusal> for Ending {
    fn from(refusal: Refusal) -> Self {
        match refusal.outcome {
            Outcome::NotApplied => Self::NotApplied,
            Outcome::Unknown => Self::Unknown,
        }
    }
}
