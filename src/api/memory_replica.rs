//! A replica for tests of HTTP: the real store, applied to at once, and switches for what can go wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

use super::Replica;
use super::replica::Refusal;
use crate::driver::{Configuration, Member, RoleName};
use crate::driver::{EventStream, Events, Save, Status};
use crate::kv::{Answer, Command, Store};
use crate::types::{ClusterId, LogIndex, LogTime, NodeId, Session, Term};

pub(super) struct MemoryReplica {
    store: RwLock<Store>,
    applied: AtomicU64,
    pub(super) status: Mutex<Status>,
    pub(super) events: Events,
    /// What proposals and read barriers answer, if not success.
    pub(super) refusal: Mutex<Option<Refusal>>,
    pub(super) proposals: AtomicUsize,
    pub(super) barriers: AtomicUsize,
    /// Notified when a proposal waits for the gate.
    pub(super) waits: Notify,
    /// Proposals pass while it has a permit.
    pub(super) gate: Semaphore,
    /// The timeout that the latest request came with.
    pub(super) timeout: Mutex<Duration>,
}

impl MemoryReplica {
    /// The leader of three voters.
    pub(super) fn leader() -> Arc<Self> {
        let voters: BTreeMap<_, _> = (1..=3)
            .map(|id| {
                (
                    NodeId(id),
                    Member { name: format!("kuberaft-{}", id - 1), session: Session(1), ..Member::default() },
                )
            })
            .collect();
        let status = Status {
            cluster_id: ClusterId(0xc1),
            role: RoleName::Leader,
            term: Term(4),
            leader: Some(NodeId(1)),
            commit_index: LogIndex(10),
            applied_index: LogIndex(9),
            last_log_index: LogIndex(11),
            configuration: Arc::new(Configuration { voters, ..Configuration::default() }),
            configuration_index: LogIndex(1),
            has_quorum: true,
            is_heard: true,
            ..Status::sample()
        };
        Arc::new(Self {
            store: RwLock::default(),
            applied: AtomicU64::new(0),
            status: Mutex::new(status),
            events: Events::default(),
            refusal: Mutex::new(None),
            proposals: AtomicUsize::new(0),
            barriers: AtomicUsize::new(0),
            waits: Notify::new(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            timeout: Mutex::default(),
        })
    }

    pub(super) fn refuse(&self, refusal: Option<Refusal>) {
        *self.refusal.lock().unwrap() = refusal;
    }

    /// Lets no proposal pass until permits are added to the gate.
    pub(super) fn close_gate(&self) {
        self.gate.forget_permits(usize::MAX);
    }
}

impl Replica for Arc<MemoryReplica> {
    async fn propose(&self, command: Bytes, timeout: Duration) -> Result<Answer, Refusal> {
        self.proposals.fetch_add(1, Ordering::SeqCst);
        *self.timeout.lock().unwrap() = timeout;
        if let Some(refusal) = *self.refusal.lock().unwrap() {
            return Err(refusal);
        }
        if self.gate.available_permits() == 0 {
            self.waits.notify_one();
        }
        let _pass = self.gate.acquire().await.unwrap();
        let command = Command::decode(&command).unwrap();
        let mut store = self.store.write().unwrap();
        let at = LogIndex(self.applied.fetch_add(1, Ordering::SeqCst) + 1);
        Ok(store.apply(at, LogTime(at.0), command, &mut Vec::new()))
    }

    async fn read_barrier(&self, timeout: Duration) -> Result<(), Refusal> {
        self.barriers.fetch_add(1, Ordering::SeqCst);
        *self.timeout.lock().unwrap() = timeout;
        self.refusal.lock().unwrap().map_or(Ok(()), Err)
    }

    async fn snapshot(&self, timeout: Duration) -> Result<Save, Refusal> {
        self.read_barrier(timeout).await?;
        Ok(Save::of(self.store.read().unwrap().view(), ClusterId(0xc1)))
    }

    fn store(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap()
    }

    fn status(&self) -> Status {
        self.status.lock().unwrap().clone()
    }

    fn events(&self, after: Option<u64>) -> EventStream {
        self.events.follow(after)
    }
}
