//! What the rest of the process may ask of a running replica.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use crossbeam_channel::{Sender, TrySendError};
use tokio::sync::oneshot;

use super::clock;
use super::core_thread::Request;
pub use super::events::{EventStream, Events, NextEvent, Observed};
use crate::kv;
use crate::metrics::{IntCounter, Metrics};
// What a handle's users need of the core.
pub use crate::raft::{
    AdminRefusal, Change, Configuration, Member, NewMember, Observation, Outcome, PeerStatus, Refusal,
    RefusalReason, RoleName,
};
pub use crate::replica::snapshot::file::Save;
use crate::types::{ClusterId, LogIndex, NodeId, Term};

/// Beyond a request's own deadline, which the core keeps: only a stuck process is later than that.
const GRACE: Duration = Duration::from_millis(500);

/// A clonable way to write, read and look.
#[derive(Clone)]
pub struct Handle {
    requests: Sender<Request>,
    store: Arc<RwLock<kv::Store>>,
    status: Arc<RwLock<Status>>,
    events: Events,
    /// Counts the writes for which the core's queue had no room.
    overloaded: IntCounter,
}

/// A write that was not applied, or whose outcome is not known.
pub type WriteError = Refusal;
/// A read that could not be confirmed.
pub type ReadError = Refusal;

/// A replica's state as of its latest turn.
#[derive(Clone, Debug)]
pub struct Status {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// This node.
    pub node_id: NodeId,
    /// Role now.
    pub role: RoleName,
    /// Term now.
    pub term: Term,
    /// Leader of the term, if known.
    pub leader: Option<NodeId>,
    /// Latest index known to be committed.
    pub commit_index: LogIndex,
    /// Latest index applied here.
    pub applied_index: LogIndex,
    /// Last entry of the log.
    pub last_log_index: LogIndex,
    /// Members as of the latest configuration in the log.
    pub configuration: Arc<Configuration>,
    /// Index of that configuration.
    pub configuration_index: LogIndex,
    /// At a leader: the other members, as of the last tenth of a second; empty elsewhere.
    pub peers: Arc<[PeerStatus]>,
    /// At a leader: whether a majority answers; at a follower: whether a leader is heard.
    pub has_quorum: bool,
    /// False at a follower whose leader has not heard it for an election timeout, and says so.
    pub is_heard: bool,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Status {
    /// Node 1 of cluster 7, as it starts: nothing is in its log, and nobody leads.
    pub(crate) fn sample() -> Self {
        Self {
            cluster_id: ClusterId(7),
            node_id: NodeId(1),
            role: RoleName::Follower,
            term: Term(0),
            leader: None,
            commit_index: LogIndex(0),
            applied_index: LogIndex(0),
            last_log_index: LogIndex(0),
            configuration: Arc::default(),
            configuration_index: LogIndex(0),
            peers: Arc::default(),
            has_quorum: false,
            is_heard: true,
        }
    }
}

impl Handle {
    pub(super) fn new(
        requests: Sender<Request>,
        store: Arc<RwLock<kv::Store>>,
        status: Arc<RwLock<Status>>,
        events: Events,
        metrics: &Metrics,
    ) -> Self {
        let overloaded = metrics.raft_proposals_failed_total.with_label_values(&["overloaded"]);
        Self { requests, store, status, events, overloaded }
    }

    /// Replicates an encoded command and returns what applying it answered.
    ///
    /// # Errors
    /// The reason and whether the write may still take effect. Returns within `timeout` and half a second.
    pub async fn propose(&self, command: Bytes, timeout: Duration) -> Result<kv::Answer, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Write { command, timeout, reply })?;
        await_answer(answer, timeout).await
    }

    /// Waits until a read of [`Handle::store`] is linearizable (thesis, 6.4).
    ///
    /// # Errors
    /// The reason; returns within `timeout` and half a second.
    pub async fn read_barrier(&self, timeout: Duration) -> Result<(), ReadError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Read { timeout, reply })?;
        await_answer(answer, timeout).await
    }

    /// Changes the members; refused unless this node leads. `expected` is the index of the configuration that must be
    /// in force. Returns the index of the entry that completed the change.
    ///
    /// # Errors
    /// Why it was not done, or that its outcome is not known. Returns within `timeout` and half a second.
    pub async fn change_members(
        &self,
        change: Change,
        expected: Option<LogIndex>,
        timeout: Duration,
    ) -> Result<LogIndex, AdminRefusal> {
        self.administer(timeout, |reply| Request::ChangeMembers { change, expected, timeout, reply }).await
    }

    /// Hands leadership to `to`, or to the voter that is furthest; refused unless this node leads.
    ///
    /// # Errors
    /// As [`Handle::change_members`].
    pub async fn transfer_leadership(
        &self,
        to: Option<NodeId>,
        timeout: Duration,
    ) -> Result<LogIndex, AdminRefusal> {
        self.administer(timeout, |reply| Request::Transfer { to, timeout, reply }).await
    }

    async fn administer(
        &self,
        timeout: Duration,
        request: impl FnOnce(oneshot::Sender<Result<LogIndex, AdminRefusal>>) -> Request,
    ) -> Result<LogIndex, AdminRefusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|error| match error {
            TrySendError::Full(_) => AdminRefusal::InProgress,
            // The replica is stopping.
            TrySendError::Disconnected(_) => AdminRefusal::NotLeader { leader: None },
        })?;
        match tokio::time::timeout(timeout + GRACE, answer).await {
            Ok(Ok(result)) => result,
            // The replica stopped with the request in flight.
            Ok(Err(_)) => Err(AdminRefusal::LeadershipLost),
            Err(_) => Err(AdminRefusal::Timeout),
        }
    }

    /// A linearizable snapshot of the state, to be written to a file: it holds every write that was acknowledged before.
    ///
    /// # Errors
    /// The reason; returns within twice `timeout` and a second.
    pub async fn snapshot(&self, timeout: Duration) -> Result<Save, ReadError> {
        self.read_barrier(timeout).await?;
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Cut { reply })?;
        let cut = await_answer(answer, timeout).await?;
        let Status { cluster_id, node_id, .. } = self.status();
        let id = getrandom::u64().unwrap_or(clock::now().0);
        let taken = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let taken_unix_ms = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX);
        Ok(Save::new(cut, cluster_id, node_id, id, taken_unix_ms))
    }

    fn ask(&self, request: Request) -> Result<(), Refusal> {
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(request) => {
                if matches!(request, Request::Write { .. }) {
                    self.overloaded.inc();
                }
                Refusal::not_applied(RefusalReason::Overloaded)
            }
            // The replica is stopping.
            TrySendError::Disconnected(_) => Refusal::not_applied(RefusalReason::NoLeader),
        })
    }

    /// The applied state. Hold the guard only briefly and never across an await: apply waits for it.
    pub fn store(&self) -> RwLockReadGuard<'_, kv::Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this node leads in `term`, as of the latest turn.
    #[must_use]
    pub fn leads(&self, term: Term) -> bool {
        let status = self.status.read().unwrap_or_else(PoisonError::into_inner);
        status.role == RoleName::Leader && status.term == term
    }

    /// The state of the replica as of its latest turn.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What this replica observes, from behind the event of number `after` on; see [`Events::follow`].
    #[must_use]
    pub fn events(&self, after: Option<u64>) -> EventStream {
        self.events.follow(after)
    }
}

async fn await_answer<T>(
    answer: oneshot::Receiver<Result<T, Refusal>>,
    timeout: Duration,
) -> Result<T, Refusal> {
    match tokio::time::timeout(timeout + GRACE, answer).await {
        Ok(Ok(result)) => result,
        // The replica stopped with the request in flight.
        Ok(Err(_)) => Err(Refusal::unknown(RefusalReason::NoLeader)),
        Err(_) => Err(Refusal::unknown(RefusalReason::Timeout)),
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, bounded};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A handle of a replica that this test plays, and its queue of requests.
    fn handle(room: usize) -> (Handle, Receiver<Request>, Metrics) {
        let metrics = Metrics::new();
        let (requests_in, requests) = bounded(room);
        let status = Arc::new(RwLock::new(Status::sample()));
        let handle = Handle::new(requests_in, Arc::default(), status, Events::default(), &metrics);
        (handle, requests, metrics)
    }

    /// What the caller is told if the core takes the request and does `then` with it.
    async fn answer_to<T>(
        ask: impl Future<Output = T>,
        requests: &Receiver<Request>,
        then: impl FnOnce(Request),
    ) -> T {
        // The request is in the queue as soon as the caller waits.
        let (answer, ()) = tokio::join!(ask, async { then(requests.try_recv().expect("it was asked")) });
        answer
    }

    #[tokio::test]
    async fn a_write_that_a_full_queue_refuses_is_counted() {
        // Nobody takes anything from the queue, which has no room at all.
        let (handle, _requests, metrics) = handle(0);
        let refusal = Refusal::not_applied(RefusalReason::Overloaded);
        assert_eq!(handle.propose(Bytes::new(), SECOND).await.unwrap_err(), refusal);
        assert_eq!(handle.read_barrier(SECOND).await.unwrap_err(), refusal);
        let counted = metrics.raft_proposals_failed_total.with_label_values(&["overloaded"]).get();
        assert_eq!(counted, 1, "a read is no proposal");
        let refusal = AdminRefusal::InProgress;
        assert_eq!(handle.change_members(Change::default(), None, SECOND).await.unwrap_err(), refusal);
        assert_eq!(handle.transfer_leadership(None, SECOND).await.unwrap_err(), refusal);
    }

    #[tokio::test]
    async fn a_request_that_no_replica_took_was_certainly_not_done() {
        let (handle, requests, _) = handle(1);
        drop(requests);
        let refusal = Refusal::not_applied(RefusalReason::NoLeader);
        assert_eq!(handle.propose(Bytes::new(), SECOND).await.unwrap_err(), refusal);
        assert_eq!(handle.read_barrier(SECOND).await.unwrap_err(), refusal);
        assert_eq!(handle.snapshot(SECOND).await.err(), Some(refusal));
        let refusal = AdminRefusal::NotLeader { leader: None };
        assert_eq!(handle.change_members(Change::default(), None, SECOND).await.unwrap_err(), refusal);
        assert_eq!(handle.transfer_leadership(None, SECOND).await.unwrap_err(), refusal);
    }

    /// The replica may have done it before it stopped. A client that is told otherwise does it twice.
    #[tokio::test]
    async fn the_outcome_of_a_request_that_was_taken_and_not_answered_is_unknown() {
        let (handle, requests, _) = handle(1);
        let unknown = Refusal::unknown(RefusalReason::NoLeader);
        let write = handle.propose(Bytes::new(), SECOND);
        assert_eq!(answer_to(write, &requests, drop).await.unwrap_err(), unknown);
        let read = handle.read_barrier(SECOND);
        assert_eq!(answer_to(read, &requests, drop).await.unwrap_err(), unknown);
        let lost = AdminRefusal::LeadershipLost;
        let change = handle.change_members(Change::default(), None, SECOND);
        assert_eq!(answer_to(change, &requests, drop).await.unwrap_err(), lost);
        let transfer = handle.transfer_leadership(None, SECOND);
        assert_eq!(answer_to(transfer, &requests, drop).await.unwrap_err(), lost);
    }

    #[tokio::test]
    async fn a_snapshot_whose_cut_was_taken_and_not_answered_is_refused() {
        let (handle, requests, _) = handle(1);
        let unknown = Refusal::unknown(RefusalReason::NoLeader);
        let core = std::thread::spawn(move || {
            let Ok(Request::Read { reply, .. }) = requests.recv() else { panic!("the barrier comes first") };
            reply.send(Ok(())).unwrap();
            let Ok(Request::Cut { reply }) = requests.recv() else { panic!("then the cut") };
            drop(reply);
        });
        assert_eq!(handle.snapshot(SECOND).await.err(), Some(unknown));
        core.join().unwrap();
    }

    /// Nobody answers. With a timeout of zero only the grace passes.
    #[tokio::test]
    async fn the_outcome_of_a_request_that_is_answered_too_late_is_unknown() {
        let (handle, requests, _) = handle(4);
        let late = Refusal::unknown(RefusalReason::Timeout);
        let (write, read, change, transfer) = tokio::join!(
            handle.propose(Bytes::new(), Duration::ZERO),
            handle.read_barrier(Duration::ZERO),
            handle.change_members(Change::default(), None, Duration::ZERO),
            handle.transfer_leadership(None, Duration::ZERO),
        );
        assert_eq!((write.unwrap_err(), read.unwrap_err()), (late, late));
        assert_eq!(change.unwrap_err(), AdminRefusal::Timeout);
        assert_eq!(transfer.unwrap_err(), AdminRefusal::Timeout);
        assert_eq!(requests.len(), 4, "all were asked");
    }

    #[tokio::test]
    async fn what_the_core_answers_is_what_the_caller_gets() {
        let (handle, requests, _) = handle(1);
        for refusal in
            [Refusal::not_applied(RefusalReason::NoQuorum), Refusal::unknown(RefusalReason::NoQuorum)]
        {
            let write = handle.propose(Bytes::new(), SECOND);
            let refuse = |request| match request {
                Request::Write { reply, .. } => reply.send(Err(refusal)).unwrap(),
                _ => panic!("a write was asked for"),
            };
            assert_eq!(answer_to(write, &requests, refuse).await.unwrap_err(), refusal);
        }
        let done = |request| match request {
            Request::ChangeMembers { reply, .. } => reply.send(Ok(LogIndex(7))).unwrap(),
            _ => panic!("a change was asked for"),
        };
        let change = handle.change_members(Change::default(), None, SECOND);
        assert_eq!(answer_to(change, &requests, done).await, Ok(LogIndex(7)));
    }
}
