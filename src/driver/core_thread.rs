//! The core's thread: takes what waits, in order of urgency, steps the core, and passes its output on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Select, Sender};
use tokio::sync::oneshot;

use super::apply_thread::ApplyJob;
use super::inbox::Room;
use super::observe::Observer;
use super::shutdown::Failure;
use super::{APPLY_CREDITS, LOG_CREDITS, Send, Status, clock};
use crate::kv;
use crate::raft::{
    self, AdminRefusal, Change, Event, HaltReason, Message, PeerStatus, Proposal, Refusal, RefusalReason,
    RoleName,
};
use crate::replica::snapshot::Cut;
use crate::replica::{ApplyInput, Core, CoreOutput, LogInput};
use crate::supervision::Beat;
use crate::types::{ClusterId, Instant, LogIndex, NodeId, ProposalId, ReadId, RequestId, StagedId};

/// Taken from one queue in one turn, so that no queue starves the others.
const MESSAGES_PER_TURN: usize = 256;
const REQUESTS_PER_TURN: usize = 4096;
/// How long a stopping core waits for what is on its way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between updates of a leader's peers in the status.
const PEERS_INTERVAL: Duration = Duration::from_millis(100);

/// What a client wants.
pub(super) enum Request {
    Write {
        command: Bytes,
        timeout: Duration,
        reply: oneshot::Sender<Result<kv::Answer, Refusal>>,
    },
    Read {
        timeout: Duration,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    ChangeMembers {
        change: Change,
        expected: Option<LogIndex>,
        timeout: Duration,
        reply: AdminReply,
    },
    Transfer {
        to: Option<NodeId>,
        timeout: Duration,
        reply: AdminReply,
    },
    /// The state as it is when apply comes to it.
    Cut {
        reply: oneshot::Sender<Result<Cut, Refusal>>,
    },
    Stop,
}

type AdminReply = oneshot::Sender<Result<LogIndex, AdminRefusal>>;

/// What comes from the transport.
pub(super) enum FromPeer {
    /// The room that it takes is given back with it.
    Message(NodeId, Message, Room),
    Dropped(NodeId, Vec<ProposalId>),
}

/// What log and apply report. Each job is reported once.
pub(super) enum Done {
    Log {
        jobs: usize,
        events: Vec<Event>,
    },
    /// With an [`Event::Applied`].
    Apply {
        jobs: usize,
        event: Event,
    },
    /// From checkpoints, transfers of snapshots, and whoever watches free space.
    Event(Event),
    LogFailed,
}

pub(super) struct Queues {
    pub(super) done: Receiver<Done>,
    pub(super) messages: Receiver<FromPeer>,
    pub(super) requests: Receiver<Request>,
    pub(super) log: Sender<Vec<LogInput>>,
    pub(super) apply: Sender<ApplyJob>,
}

pub(super) struct CoreThread {
    core: Core,
    queues: Queues,
    send: Send,
    drop_snapshot: Box<dyn Fn(StagedId) + std::marker::Send>,
    observer: Observer,
    status: Arc<RwLock<Status>>,
    out: CoreOutput,
    writers: HashMap<ProposalId, oneshot::Sender<Result<kv::Answer, Refusal>>>,
    readers: HashMap<ReadId, oneshot::Sender<Result<(), Refusal>>>,
    /// Who waits for a cut of the state.
    cuts: Vec<oneshot::Sender<Result<Cut, Refusal>>>,
    administrators: HashMap<RequestId, AdminReply>,
    /// The next proposal and read. Starts at a random place: an answer to an earlier process must not fit.
    next_id: u64,
    log_jobs: usize,
    apply_jobs: usize,
    /// Peers to which a message was dropped in this turn, and the forwarded writes in it.
    dropped: Vec<(NodeId, Vec<ProposalId>)>,
    stopping: Option<Instant>,
    /// When to show anew how far each peer is.
    peers_due: Instant,
}

/// The status before the first turn.
pub(super) fn status(cluster_id: ClusterId, node_id: NodeId, core: &Core) -> Status {
    let raft = core.raft().status(clock::now());
    Status {
        cluster_id,
        node_id,
        role: raft.role,
        term: raft.term,
        leader: raft.leader,
        commit_index: raft.commit_index,
        applied_index: core.applied(),
        last_log_index: raft.last_log_index,
        configuration: raft.configuration.unwrap_or_default(),
        configuration_index: raft.configuration_index,
        peers: Arc::default(),
        has_quorum: raft.has_quorum,
        is_heard: raft.is_heard,
    }
}

impl CoreThread {
    pub(super) fn new(
        core: Core,
        queues: Queues,
        send: Send,
        drop_snapshot: Box<dyn Fn(StagedId) + std::marker::Send>,
        observer: Observer,
        status: Arc<RwLock<Status>>,
    ) -> Self {
        Self {
            core,
            queues,
            send,
            drop_snapshot,
            observer,
            status,
            out: CoreOutput::default(),
            writers: HashMap::new(),
            readers: HashMap::new(),
            cuts: Vec::new(),
            administrators: HashMap::new(),
            peers_due: Instant::default(),
            next_id: getrandom::u64().unwrap_or(clock::now().0),
            log_jobs: 0,
            apply_jobs: 0,
            dropped: Vec::new(),
            stopping: None,
        }
    }

    /// Runs until told to stop, or until the core halts.
    pub(super) fn run(mut self, beat: &Beat) -> Result<(), Failure> {
        loop {
            beat.waits();
            self.wait();
            beat.works(std::time::Instant::now());
            self.turn();
            match self.out.halt {
                // The log's thread has told why.
                Some(HaltReason::DiskFailed) => return Ok(()),
                Some(HaltReason::DataLost) => return Err(Failure::DataLost),
                Some(HaltReason::Diverged) => return Err(Failure::Diverged),
                None => {}
            }
            if let Some(index) = self.out.removed {
                // Nobody counts on this node any more; the other threads end as their queues do.
                return Err(Failure::Removed { index });
            }
            let drained = self.log_jobs == 0 && self.apply_jobs == 0 && self.writers.is_empty();
            if self.stopping.is_some_and(|since| drained || clock::now().since(since) > DRAIN_TIMEOUT) {
                return Ok(());
            }
        }
    }

    fn has_credit(&self) -> bool {
        self.log_jobs < LOG_CREDITS
    }

    /// Waits until there is something to do.
    fn wait(&mut self) {
        if !self.dropped.is_empty() {
            return;
        }
        let mut timeout = self.core.raft().next_deadline().since(clock::now());
        if self.stopping.is_some() {
            timeout = timeout.min(Duration::from_millis(10));
        }
        let mut select = Select::new();
        select.recv(&self.queues.done);
        if self.has_credit() {
            select.recv(&self.queues.messages);
            select.recv(&self.queues.requests);
        }
        // Whether something came or time is up is seen when the queues are read.
        let _ = select.ready_timeout(timeout);
    }

    fn turn(&mut self) {
        while let Ok(done) = self.queues.done.try_recv() {
            self.on_done(done);
        }
        for (to, unsent) in std::mem::take(&mut self.dropped) {
            self.step(Event::SendDropped { to, unsent });
        }
        if self.has_credit() {
            for _ in 0..MESSAGES_PER_TURN {
                match self.queues.messages.try_recv() {
                    Ok(FromPeer::Message(from, message, _room)) => {
                        self.step(Event::Message { from, message });
                    }
                    Ok(FromPeer::Dropped(to, unsent)) => self.step(Event::SendDropped { to, unsent }),
                    Err(_) => break,
                }
            }
            self.take_requests();
        }
        if self.core.raft().next_deadline() <= clock::now() {
            self.step(Event::Timeout);
        }
        self.pass_on();
        self.publish();
    }

    fn step(&mut self, event: Event) {
        self.core.handle(clock::now(), event, &mut self.out);
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Log { jobs, events } => {
                self.log_jobs -= jobs;
                for event in events {
                    self.step(event);
                }
            }
            Done::Apply { jobs, event } => {
                self.apply_jobs -= jobs;
                self.step(event);
            }
            Done::Event(event) => self.step(event),
            Done::LogFailed => self.step(Event::AppendFailed),
        }
    }

    /// Takes the requests that wait as one event for writes and one for reads of each deadline: most have the same.
    fn take_requests(&mut self) {
        let now = clock::now();
        let mut proposals = Vec::new();
        let mut reads: BTreeMap<Instant, Vec<ReadId>> = BTreeMap::new();
        let mut administrative = Vec::new();
        for _ in 0..REQUESTS_PER_TURN {
            match self.queues.requests.try_recv() {
                Ok(Request::Stop) => self.stopping = self.stopping.or(Some(now)),
                Ok(Request::Write { reply, .. }) if self.stopping.is_some() => {
                    let _ = reply.send(Err(Refusal::not_applied(RefusalReason::NoLeader)));
                }
                Ok(Request::Write { command, timeout, reply }) => {
                    let id = ProposalId(self.draw_id());
                    self.writers.insert(id, reply);
                    proposals.push(Proposal { id, command, deadline: now.after(timeout) });
                }
                Ok(Request::Read { timeout, reply }) => {
                    let id = ReadId(self.draw_id());
                    self.readers.insert(id, reply);
                    reads.entry(now.after(timeout)).or_default().push(id);
                }
                Ok(Request::ChangeMembers { change, expected, timeout, reply }) => {
                    let (request, deadline) = (self.administrator(reply), now.after(timeout));
                    administrative.push(Event::ChangeMembers { request, change, expected, deadline });
                }
                Ok(Request::Transfer { to, timeout, reply }) => {
                    let (request, deadline) = (self.administrator(reply), now.after(timeout));
                    administrative.push(Event::TransferLeadership { request, to, deadline });
                }
                Ok(Request::Cut { reply }) => self.cuts.push(reply),
                Err(_) => break,
            }
        }
        if !proposals.is_empty() {
            self.step(Event::Propose { proposals });
        }
        for (deadline, ids) in reads {
            self.step(Event::Read { ids, deadline });
        }
        for event in administrative {
            self.step(event);
        }
    }

    fn administrator(&mut self, reply: AdminReply) -> RequestId {
        let request = RequestId(self.draw_id());
        self.administrators.insert(request, reply);
        request
    }

    fn draw_id(&mut self) -> u64 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// Hands the turn's output to log, network, apply and clients, the slowest first.
    fn pass_on(&mut self) {
        // Completions and timeouts are taken without a credit, too. What they lead to waits here for room.
        if !self.out.log.is_empty() && self.log_jobs <= LOG_CREDITS {
            let log = std::mem::take(&mut self.out.log);
            if self.queues.log.try_send(log).is_ok() {
                self.log_jobs += 1;
            }
        }
        for (to, message) in self.out.sends.drain(..) {
            let forwarded = message.forwarded();
            if !(self.send)(to, message) {
                self.dropped.push((to, forwarded));
            }
        }
        let has_work = !self.out.apply.is_empty() || !self.cuts.is_empty();
        if has_work && self.apply_jobs <= APPLY_CREDITS {
            let apply = std::mem::take(&mut self.out.apply);
            let job = self.apply_job(apply);
            if self.queues.apply.try_send(job).is_ok() {
                self.apply_jobs += 1;
            }
        }
        self.out.dropped_snapshots.drain(..).for_each(&self.drop_snapshot);
        for id in self.out.ready_reads.drain(..) {
            if let Some(reply) = self.readers.remove(&id) {
                let _ = reply.send(Ok(()));
            }
        }
        for (id, refusal) in self.out.failed_reads.drain(..) {
            if let Some(reply) = self.readers.remove(&id) {
                let _ = reply.send(Err(refusal));
            }
        }
        for (id, refusal) in self.out.failed_writes.drain(..) {
            self.observer.count_failed_write(refusal);
            if let Some(reply) = self.writers.remove(&id) {
                let _ = reply.send(Err(refusal));
            }
        }
    }

    /// Adds who waits for what to the input of apply.
    fn apply_job(&mut self, inputs: Vec<ApplyInput>) -> ApplyJob {
        let mut job = ApplyJob { cuts: std::mem::take(&mut self.cuts), ..ApplyJob::default() };
        for input in &inputs {
            match input {
                ApplyInput::Entries(entries) => {
                    for id in entries.iter().filter_map(|committed| committed.proposal) {
                        job.writers.extend(self.writers.remove(&id).map(|reply| (id, reply)));
                    }
                }
                ApplyInput::Install { .. } | ApplyInput::SendSnapshot { .. } => {}
                ApplyInput::Reads(ids) => {
                    for id in ids {
                        job.readers.extend(self.readers.remove(id).map(|reply| (*id, reply)));
                    }
                }
            }
        }
        job.inputs = inputs;
        job
    }

    fn publish(&mut self) {
        let now = clock::now();
        let raft = self.core.raft().status(now);
        self.observer.observe(now, &self.core, &raft, std::mem::take(&mut self.out.observations));
        self.observer.queues(
            self.queues.messages.len(),
            self.queues.requests.len(),
            self.log_jobs,
            self.apply_jobs,
            self.queues.done.len(),
        );
        let peers = self.show_peers(now, &raft);
        let mut status = self.status.write().unwrap_or_else(PoisonError::into_inner);
        *status = Status {
            cluster_id: status.cluster_id,
            node_id: status.node_id,
            role: raft.role,
            term: raft.term,
            leader: raft.leader,
            commit_index: raft.commit_index,
            applied_index: self.core.applied(),
            last_log_index: raft.last_log_index,
            configuration: raft.configuration.unwrap_or_default(),
            configuration_index: raft.configuration_index,
            peers: peers.unwrap_or_else(|| Arc::clone(&status.peers)),
            has_quorum: raft.has_quorum,
            is_heard: raft.is_heard,
        };
        drop(status);
        // Whoever is answered finds the outcome in the status.
        for (request, result) in self.out.replies.drain(..) {
            if let Some(reply) = self.administrators.remove(&request) {
                let _ = reply.send(result);
            }
        }
    }

    /// How far each peer is, when it is time to show it anew.
    fn show_peers(&mut self, now: Instant, raft: &raft::Status) -> Option<Arc<[PeerStatus]>> {
        if raft.role != RoleName::Leader {
            self.peers_due = now;
            return Some(Arc::default());
        }
        (now >= self.peers_due).then(|| {
            self.peers_due = now.after(PEERS_INTERVAL);
            self.core.raft().peers(now).into()
        })
    }
}
