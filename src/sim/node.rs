//! One node: the machine, which outlives its processes, and the process, whose parts are driven as the driver
//! drives them, each by a queue of its own. See `driver::core_thread`, which [`Process::turn`] mirrors.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::churn::Ask;
use super::clients::Token;
use super::clock::Clock;
use super::files::SimFiles;
use super::founding::{Directory, Founder};
use super::random::Random;
use super::snapshots::Snapshots;
use super::state::{SharedState, SimStaging, SimState};
use crate::kv::{self, Record};
use crate::raft::{AdminRefusal, Event, HaltReason, Message, Observation, Proposal, Refusal};
use crate::replica::recovery::Recovered;
use crate::replica::snapshot::{Cut, Shelf};
use crate::replica::{Apply, ApplyInput, ApplyOutput, Core, CoreOutput, Log, LogInput, LogOutput};
use crate::storage::{Checkpoint, StateStore, StorageError};
use crate::types::{Instant, LogIndex, LogPosition, NodeId, ProposalId, ReadId, RequestId, StagedId};

/// Jobs on their way to log and apply. Fewer than in the driver, so that they run out in many seeds.
pub(super) const CREDITS: usize = 32;
// What one turn takes of each queue, as in the driver.
const MESSAGES_PER_TURN: usize = 256;
const REQUESTS_PER_TURN: usize = 4096;

/// What outlives a process.
pub(super) struct Machine {
    pub(super) id: NodeId,
    pub(super) files: SimFiles,
    pub(super) state: SharedState,
    pub(super) clock: Clock,
    pub(super) random: Random,
    /// Whom it belongs to.
    pub(super) directory: Directory,
    pub(super) process: Option<Box<Process>>,
    /// The process while it does not belong to a cluster.
    pub(super) founder: Option<Box<Founder>>,
    /// Counts processes: what an earlier one asked for is not for the next one.
    pub(super) incarnation: u64,
    /// Nothing of the process runs before this.
    pub(super) paused_until: Instant,
    /// The process is killed after this many effects.
    pub(super) fuse: Option<u32>,
    /// A stored bit was changed: damage may be found.
    pub(super) flipped: bool,
    /// The state in its process's memory was changed by hand.
    pub(super) spoiled: bool,
    /// Of its disk.
    pub(super) free_bytes: u64,
    /// Whether its process may be started.
    pub(super) standing: Standing,
    /// Elections start only when asked for: for scripted runs.
    pub(super) holds_elections: bool,
}

/// Whether a machine's process may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may.
    Fit,
    /// Only when asked for by hand.
    KeptDown,
    /// Never: its disk was found damaged.
    Damaged,
    /// It belongs to no cluster.
    Unused,
    /// It was removed from its cluster, and its disk is set aside.
    Removed,
}

/// A client's request, as it waits for the core.
pub(super) enum Request {
    Write { token: Token, command: Bytes, timeout: std::time::Duration },
    Read { token: Token, timeout: std::time::Duration },
}

/// What comes from the network.
pub(super) enum FromPeer {
    Message(NodeId, Box<Message>),
    Dropped(NodeId, Vec<ProposalId>),
}

/// What log and apply report to the core.
pub(super) enum Done {
    Log {
        jobs: usize,
        events: Vec<Event>,
    },
    /// With an [`Event::Applied`].
    Apply(Event),
    Event(Event),
}

/// What the core told a client.
pub(super) enum Answered {
    Write(Result<kv::Answer, Refusal>),
    /// The read may be served now.
    Read(Result<(), Refusal>),
}

/// What one turn of the core wants done, in the order of [`Turn`]'s fields.
pub(super) struct Turn {
    pub(super) log: Vec<LogInput>,
    pub(super) sends: Vec<(NodeId, Message)>,
    pub(super) apply: Option<ApplyJob>,
    pub(super) answers: Vec<(Token, Answered)>,
    pub(super) observations: Vec<Observation>,
    pub(super) halt: Option<HaltReason>,
    /// For the administrator.
    pub(super) replies: Vec<(RequestId, Result<LogIndex, AdminRefusal>)>,
    /// The node was removed from the cluster.
    pub(super) removed: bool,
    /// Received snapshots that are of no use.
    pub(super) dropped_snapshots: Vec<StagedId>,
    /// Events taken, for the time the turn takes.
    pub(super) steps: u64,
}

#[derive(Default)]
pub(super) struct ApplyJob {
    pub(super) inputs: Vec<ApplyInput>,
    writers: Vec<(ProposalId, Token)>,
    readers: Vec<(ReadId, Token)>,
}

/// What applying a job led to.
pub(super) struct AppliedJob {
    pub(super) answers: Vec<(Token, Answered)>,
    pub(super) records: Vec<Record>,
    pub(super) cuts: Vec<Cut>,
}

/// The log's part at work.
pub(super) struct LogJob {
    pub(super) jobs: usize,
    pub(super) out: LogOutput,
    pub(super) result: Result<(), StorageError>,
}

pub(super) struct Process {
    pub(super) core: Core,
    pub(super) log: Log<SimFiles, SimState>,
    apply: Apply,
    store: Arc<RwLock<kv::Store>>,
    state: Arc<Mutex<SimState>>,
    pub(super) shelf: Shelf<SimStaging>,
    pub(super) snapshots: Snapshots,
    out: CoreOutput,
    done: VecDeque<Done>,
    pub(super) messages: VecDeque<FromPeer>,
    pub(super) requests: VecDeque<Request>,
    pub(super) admin: VecDeque<(RequestId, Ask)>,
    pub(super) dropped: Vec<(NodeId, Vec<ProposalId>)>,
    pub(super) log_queue: VecDeque<Vec<LogInput>>,
    pub(super) log_job: Option<LogJob>,
    pub(super) apply_queue: VecDeque<ApplyJob>,
    pub(super) apply_job: Option<ApplyJob>,
    changes: (Vec<Record>, Option<Checkpoint>),
    writers: BTreeMap<ProposalId, Token>,
    readers: BTreeMap<ReadId, Token>,
    next_id: u64,
    pub(super) log_jobs: usize,
    pub(super) apply_jobs: usize,
    /// Its recovery is done.
    pub(super) runs: bool,
    /// It led at the end of its last turn.
    pub(super) leads: bool,
    /// When the core's next turn is planned.
    pub(super) turn_at: Option<Instant>,
    /// When the core's timer is planned to fire.
    pub(super) timer_at: Option<Instant>,
    /// The core works until then.
    pub(super) busy_until: Instant,
}

impl Process {
    pub(super) fn new(recovered: Recovered<SimFiles, SimState>, first_id: u64) -> Self {
        let Recovered { core, log, apply, store, state, shelf, .. } = recovered;
        Self {
            core,
            log,
            apply,
            store,
            state,
            shelf,
            snapshots: Snapshots::default(),
            out: CoreOutput::default(),
            done: VecDeque::new(),
            messages: VecDeque::new(),
            requests: VecDeque::new(),
            admin: VecDeque::new(),
            dropped: Vec::new(),
            log_queue: VecDeque::new(),
            log_job: None,
            apply_queue: VecDeque::new(),
            apply_job: None,
            changes: (Vec::new(), None),
            writers: BTreeMap::new(),
            readers: BTreeMap::new(),
            next_id: first_id,
            log_jobs: 0,
            apply_jobs: 0,
            runs: false,
            leads: false,
            turn_at: None,
            timer_at: None,
            busy_until: Instant(0),
        }
    }

    pub(super) fn store(&self) -> RwLockReadGuard<'_, kv::Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, SimState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_credit(&self) -> bool {
        self.log_jobs < CREDITS
    }

    /// Whether the core has something to do before its next deadline.
    pub(super) fn has_work(&self) -> bool {
        let waits = !(self.messages.is_empty() && self.requests.is_empty() && self.admin.is_empty());
        !self.done.is_empty() || !self.dropped.is_empty() || (waits && self.has_credit())
    }

    /// What the core does when it is woken: all completions, then messages and requests as far as credits go.
    pub(super) fn turn(&mut self, now: Instant, may_time_out: bool) -> Turn {
        let mut steps = 0;
        while let Some(done) = self.done.pop_front() {
            match done {
                Done::Log { jobs, events } => {
                    self.log_jobs -= jobs;
                    for event in events {
                        steps += 1;
                        self.core.handle(now, event, &mut self.out);
                    }
                }
                Done::Apply(event) => {
                    self.apply_jobs -= 1;
                    steps += 1;
                    self.core.handle(now, event, &mut self.out);
                }
                Done::Event(event) => {
                    steps += 1;
                    self.core.handle(now, event, &mut self.out);
                }
            }
        }
        for (to, unsent) in std::mem::take(&mut self.dropped) {
            self.core.handle(now, Event::SendDropped { to, unsent }, &mut self.out);
        }
        if self.has_credit() {
            for _ in 0..MESSAGES_PER_TURN {
                let event = match self.messages.pop_front() {
                    Some(FromPeer::Message(from, message)) => Event::Message { from, message: *message },
                    Some(FromPeer::Dropped(to, unsent)) => Event::SendDropped { to, unsent },
                    None => break,
                };
                steps += 1;
                self.core.handle(now, event, &mut self.out);
            }
            steps += self.take_requests(now);
            for (request, ask) in std::mem::take(&mut self.admin) {
                steps += 1;
                self.core.handle(now, ask.event(request, now), &mut self.out);
            }
        }
        if may_time_out && self.core.raft().next_deadline() <= now {
            steps += 1;
            self.core.handle(now, Event::Timeout, &mut self.out);
        }
        self.output(steps)
    }

    fn take_requests(&mut self, now: Instant) -> u64 {
        let (mut proposals, mut ids, mut deadline) = (Vec::new(), Vec::new(), now);
        for _ in 0..REQUESTS_PER_TURN {
            let Some(request) = self.requests.pop_front() else { break };
            self.next_id = self.next_id.wrapping_add(1);
            match request {
                Request::Write { token, command, timeout } => {
                    let id = ProposalId(self.next_id);
                    self.writers.insert(id, token);
                    proposals.push(Proposal { id, command, deadline: now.after(timeout) });
                }
                Request::Read { token, timeout } => {
                    let id = ReadId(self.next_id);
                    self.readers.insert(id, token);
                    ids.push(id);
                    deadline = deadline.max(now.after(timeout));
                }
            }
        }
        let steps = proposals.len() + ids.len();
        if !proposals.is_empty() {
            self.core.handle(now, Event::Propose { proposals }, &mut self.out);
        }
        if !ids.is_empty() {
            self.core.handle(now, Event::Read { ids, deadline }, &mut self.out);
        }
        steps as u64
    }

    /// Whether the core has something for its log that waits for room.
    pub(super) fn log_waits(&self) -> bool {
        !self.out.log.is_empty()
    }

    fn output(&mut self, steps: u64) -> Turn {
        let CoreOutput {
            log,
            apply,
            sends,
            ready_reads,
            failed_reads,
            failed_writes,
            observations,
            halt,
            replies,
            removed,
            dropped_snapshots,
        } = std::mem::take(&mut self.out);
        // What completions and timeouts lead to waits for room.
        let (log, log_waits) = if self.log_jobs <= CREDITS { (log, Vec::new()) } else { (Vec::new(), log) };
        let (apply, apply_waits) =
            if self.apply_jobs <= CREDITS { (apply, Vec::new()) } else { (Vec::new(), apply) };
        (self.out.log, self.out.apply) = (log_waits, apply_waits);
        let apply = (!apply.is_empty()).then(|| self.apply_job(apply));
        let mut answers = Vec::new();
        for id in ready_reads {
            answers.extend(self.readers.remove(&id).map(|token| (token, Answered::Read(Ok(())))));
        }
        for (id, refusal) in failed_reads {
            answers.extend(self.readers.remove(&id).map(|token| (token, Answered::Read(Err(refusal)))));
        }
        for (id, refusal) in failed_writes {
            answers.extend(self.writers.remove(&id).map(|token| (token, Answered::Write(Err(refusal)))));
        }
        let removed = removed.is_some();
        Turn { log, sends, apply, answers, observations, halt, replies, removed, dropped_snapshots, steps }
    }

    fn apply_job(&mut self, inputs: Vec<ApplyInput>) -> ApplyJob {
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for input in &inputs {
            match input {
                ApplyInput::Entries(entries) => {
                    for id in entries.iter().filter_map(|committed| committed.proposal) {
                        writers.extend(self.writers.remove(&id).map(|token| (id, token)));
                    }
                }
                ApplyInput::Install { .. } | ApplyInput::SendSnapshot { .. } => {}
                ApplyInput::Reads(ids) => {
                    for id in ids {
                        readers.extend(self.readers.remove(id).map(|token| (*id, token)));
                    }
                }
            }
        }
        ApplyJob { inputs, writers, readers }
    }

    /// The log's part takes everything that waits. False if nothing does or it is at work.
    pub(super) fn start_log_job(&mut self) -> bool {
        if self.log_job.is_some() || self.log_queue.is_empty() {
            return false;
        }
        let jobs = self.log_queue.len();
        let inputs = self.log_queue.drain(..).flatten().collect();
        let mut out = LogOutput::default();
        let result = self.log.handle(inputs, &mut out);
        self.log_job = Some(LogJob { jobs, out, result });
        true
    }

    /// Apply takes the next job.
    pub(super) fn start_apply_job(&mut self) -> bool {
        if self.apply_job.is_some() {
            return false;
        }
        self.apply_job = self.apply_queue.pop_front();
        self.apply_job.is_some()
    }

    /// Carries out the job that apply has taken.
    pub(super) fn finish_apply_job(&mut self) -> AppliedJob {
        let job = self.apply_job.take().expect("a job is under way");
        let mut out = ApplyOutput::default();
        let applied = self.apply.handle(job.inputs, &mut out);
        applied.unwrap_or_else(|error| panic!("{error}"));
        let mut answers = Vec::new();
        let mut given = out.answers.into_iter().peekable();
        for (id, token) in job.writers {
            if let Some((_, answer)) = given.find(|(answered, _)| *answered == id) {
                answers.push((token, Answered::Write(Ok(answer))));
            }
        }
        answers.extend(job.readers.into_iter().map(|(_, token)| (token, Answered::Read(Ok(())))));
        if out.installed {
            self.changes.0.clear();
        }
        self.changes.0.extend_from_slice(&out.records);
        self.changes.1 = Some(self.apply.checkpoint());
        let (index, digest) = (self.apply.applied(), Some(out.digest));
        self.done.push_back(Done::Apply(Event::Applied { index, digest, marks: out.marks }));
        AppliedJob { answers, records: out.records, cuts: out.cuts }
    }

    /// Changes the state in memory as no entry did: it remembers a request that nobody made. What is written to disk
    /// stays as it is.
    pub(super) fn spoil_state(&mut self) {
        let Checkpoint { applied, time, .. } = self.apply.checkpoint();
        let answer = kv::Answer::IdempotencyConflict;
        let key = Bytes::from_static(b"nobody");
        let outcome = kv::Remembered { index: applied.index, time, key, request_hash: 0, answer };
        self.store.write().unwrap_or_else(PoisonError::into_inner).restore(Record::Outcome(outcome));
    }

    pub(super) fn done(&mut self, done: Done) {
        self.done.push_back(done);
    }

    /// Last index applied to the state.
    pub(super) fn applied(&self) -> LogIndex {
        self.apply.applied()
    }

    /// Whether something was applied since the last checkpoint.
    pub(super) fn needs_checkpoint(&self) -> bool {
        self.changes.1.is_some()
    }

    /// Writes what was applied since the last checkpoint. A rewrite of the state begins behind one checkpoint and ends
    /// behind the next one. Returns what is covered then.
    pub(super) fn write_checkpoint(&mut self) -> Result<LogPosition, StorageError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.make_room(&self.changes.0)? {
            return Ok(state.checkpoint().applied);
        }
        let (records, checkpoint) = std::mem::take(&mut self.changes);
        let Some(checkpoint) = checkpoint else { return Ok(LogPosition::default()) };
        let at = checkpoint.applied;
        state.write(&records)?;
        state.commit(checkpoint)?;
        while state.continue_rewrite()? {}
        if state.needs_rewrite(self.apply.keys() as u64)? {
            state.begin_rewrite(at, Box::new(self.apply.view().records()))?;
        }
        Ok(state.checkpoint().applied)
    }

    /// Everyone who waits for this process.
    pub(super) fn waiting(&self) -> Vec<Token> {
        let queued = self.requests.iter().map(|request| match request {
            Request::Write { token, .. } | Request::Read { token, .. } => *token,
        });
        let applying = self.apply_queue.iter().chain(&self.apply_job).flat_map(|job| {
            let writers = job.writers.iter().map(|(_, token)| *token);
            writers.chain(job.readers.iter().map(|(_, token)| *token))
        });
        let core = self.writers.values().chain(self.readers.values()).copied();
        queued.chain(applying).chain(core).collect()
    }
}
