//! Clients that write and read, and remember what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kuberaft::api::Consistency;
use kuberaft::api::client::{Client, ClientError};
use kuberaft::driver::Outcome;
use kuberaft::kv::Condition;
use kuberaft::sim::checker::{self, Answer, Call, Operation, Returned};
use kuberaft::types::{Instant, Revision};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::cluster::{Cluster, Node};
use super::{Random, report, runtime, until};

/// A client's own deadline for one operation, connecting included.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause of a client that was refused, so that it does not spin while nobody leads.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// Keys that all clients write, besides those that are written once.
const SHARED_KEYS: u64 = 6;
/// Connections that read all keys at the end.
const READERS: usize = 8;

/// What puts load on a cluster, and how.
#[derive(Clone)]
pub(super) struct Plan {
    /// `host:port` of the nodes that are asked.
    pub(super) addresses: Vec<String>,
    pub(super) clients: u64,
    /// Bytes that each value has at least.
    pub(super) value_bytes: usize,
}

impl Plan {
    /// Eight clients, all nodes, small values.
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self { addresses: cluster.addresses(), clients: 8, value_bytes: 0 }
    }
}

/// Load under way.
pub(super) struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Vec<Operation>>>,
}

struct Shared {
    plan: Plan,
    started: std::time::Instant,
    stop: AtomicBool,
    /// Writes that were acknowledged.
    acknowledged: AtomicU64,
    /// Operations that certainly had no effect.
    refused: AtomicU64,
}

impl Shared {
    fn now(&self) -> Instant {
        Instant::default().after(self.started.elapsed())
    }
}

impl Load {
    pub(super) fn start(plan: &Plan) -> Self {
        let shared = Arc::new(Shared {
            plan: plan.clone(),
            started: std::time::Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let client = |id| runtime().spawn(Worker::new(id, Arc::clone(&shared)).run());
        Self { tasks: (0..plan.clients).map(client).collect(), shared }
    }

    /// On the clock of the history.
    pub(super) fn now(&self) -> Instant {
        self.shared.now()
    }

    /// Waits until so many more writes are acknowledged.
    pub(super) fn progress(&self, writes: u64) {
        let count = || self.shared.acknowledged.load(Ordering::Relaxed);
        let goal = count() + writes;
        until(format!("{writes} more writes are acknowledged"), || (count() >= goal).then_some(()));
    }

    /// Lets the clients finish what they are at.
    pub(super) fn stop(self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut operations = Vec::new();
        for task in self.tasks {
            operations.extend(runtime().block_on(task).unwrap());
        }
        History { operations, shared: self.shared }
    }
}

/// One client.
struct Worker {
    id: u64,
    shared: Arc<Shared>,
    random: Random,
    /// The node in use.
    node: usize,
    connection: Option<Client>,
    /// Latest revision that was seen of each shared key.
    seen: BTreeMap<Bytes, Revision>,
    written: u64,
}

impl Worker {
    fn new(id: u64, shared: Arc<Shared>) -> Self {
        let node = usize::try_from(id).unwrap() % shared.plan.addresses.len();
        Self { id, shared, random: Random(id), node, connection: None, seen: BTreeMap::new(), written: 0 }
    }

    async fn run(mut self) -> Vec<Operation> {
        let mut operations = Vec::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let (key, call) = self.choose();
            let invoked_at = self.shared.now();
            let answered = self.perform(&key, &call).await;
            let at = self.shared.now();
            let returned = match answered {
                Ok(answer) => Some(Returned { at, answer }),
                Err(error) => {
                    self.move_on(&error).await;
                    if call == Call::Get || error.outcome() == Outcome::NotApplied {
                        self.shared.refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    None
                }
            };
            if let Some(Returned { answer, .. }) = &returned {
                self.remember(&key, answer);
            }
            operations.push(Operation { client: self.id, key, call, invoked_at, returned });
        }
        operations
    }

    /// The next operation. Every value is another one.
    fn choose(&mut self) -> (Bytes, Call) {
        let shared_key = Bytes::from(format!("shared/{}", self.random.below(SHARED_KEYS)));
        self.written += 1;
        let mut value = format!("{}-{}", self.id, self.written);
        value.extend(std::iter::repeat_n('.', self.shared.plan.value_bytes));
        let value = Bytes::from(value);
        let at_seen = self.seen.get(&shared_key).copied().map_or(Condition::Present, Condition::ModRevision);
        let put = |condition| Call::Put { value, condition };
        match self.random.below(20) {
            0..6 => (shared_key, Call::Get),
            6..11 => (shared_key, put(Condition::Always)),
            11..13 => (shared_key, put(at_seen)),
            13 => (shared_key, put(Condition::Absent)),
            14 => (shared_key, Call::Delete { condition: Condition::Always }),
            15 => (shared_key, Call::Delete { condition: at_seen }),
            // Written once: if one is lost, nothing that was written later hides it.
            _ => (format!("once/{}/{}", self.id, self.written).into(), put(Condition::Absent)),
        }
    }

    async fn perform(&mut self, key: &[u8], call: &Call) -> Result<Answer, ClientError> {
        let address = &self.shared.plan.addresses[self.node];
        let (connection, mut is_sent) = (self.connection.take(), false);
        let performed = timeout(OPERATION_TIMEOUT, async {
            let mut client = match connection.filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => Client::connect(address).await?,
            };
            is_sent = true;
            let result = perform(&mut client, key, call).await;
            Ok((client, result))
        });
        let (client, result) =
            performed.await.unwrap_or_else(|_elapsed| Err(ClientError::Timeout { sent: is_sent }))?;
        // Only a connection whose last answer was read to its end can take the next request.
        if matches!(result, Ok(_) | Err(ClientError::Problem(_))) {
            self.connection = Some(client);
        }
        result
    }

    fn remember(&mut self, key: &Bytes, answer: &Answer) {
        if let Answer::Written { .. } = answer {
            self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        if let Answer::Written { mod_revision } | Answer::Found { mod_revision, .. } = answer
            && key.starts_with(b"shared/")
        {
            self.seen.insert(key.clone(), mod_revision.expect("kuberaft tells revisions"));
        }
    }

    /// To another node, unless this one has refused for a reason that all have.
    async fn move_on(&mut self, error: &ClientError) {
        if matches!(error, ClientError::Problem(problem) if problem.status < 500 && problem.status != 429) {
            panic!("the request itself was refused: {error}");
        }
        if matches!(error, ClientError::Unexpected { .. } | ClientError::Endpoint(_)) {
            panic!("an answer that is none: {error}");
        }
        self.connection = None;
        self.node = (self.node + 1) % self.shared.plan.addresses.len();
        sleep(REFUSED_PAUSE).await;
    }
}

/// Sends one operation.
async fn perform(client: &mut Client, key: &[u8], call: &Call) -> Result<Answer, ClientError> {
    let written = |revision| Answer::Written { mod_revision: Some(revision) };
    let result = match call {
        Call::Get => {
            return Ok(match client.get(key, Consistency::Linearizable).await? {
                Some(found) => Answer::Found {
                    value: found.content.value,
                    mod_revision: Some(found.content.mod_revision),
                },
                None => Answer::Missing,
            });
        }
        Call::Put { value, condition } => {
            client.put(key, value.clone(), *condition).await.map(|done| written(done.revision))
        }
        Call::Delete { condition } => client.delete(key, *condition).await.map(written),
    };
    match result {
        Err(ClientError::Problem(problem)) if problem.code == "precondition_failed" => Ok(Answer::Refused),
        Err(ClientError::Problem(problem)) if problem.code == "key_not_found" => Ok(Answer::Missing),
        result => result,
    }
}

/// What clients saw.
pub(super) struct History {
    pub(super) operations: Vec<Operation>,
    shared: Arc<Shared>,
}

impl History {
    /// Goes on where this history ends.
    pub(super) fn append(&mut self, later: Self) {
        let shift = self.shared.now().since(later.shared.now());
        self.operations.extend(later.operations.into_iter().map(|mut operation| {
            operation.invoked_at = operation.invoked_at.after(shift);
            operation.returned = operation
                .returned
                .map(|returned| Returned { at: returned.at.after(shift), answer: returned.answer });
            operation
        }));
    }

    /// Reads every key of the history at each of the nodes, and adds that to it.
    pub(super) fn read_back<'a>(&mut self, nodes: impl IntoIterator<Item = &'a Node>) {
        let mut keys: Vec<_> = self.operations.iter().map(|operation| operation.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let keys = Arc::new(keys);
        for node in nodes {
            let read = |reader| {
                let (keys, shared) = (Arc::clone(&keys), Arc::clone(&self.shared));
                runtime().spawn(read_share(node.client.address(), keys, reader, shared))
            };
            let readers: Vec<_> = (0..READERS).map(read).collect();
            for reader in readers {
                self.operations.extend(runtime().block_on(reader).unwrap());
            }
        }
    }

    /// Shows what it is made of, and fails unless all of it can be explained.
    pub(super) fn check(&self) {
        let unknown = self.operations.iter().filter(|operation| operation.returned.is_none()).count();
        report(format!(
            "{} operations in the history, {} writes acknowledged, {unknown} of unknown outcome; {} refused",
            self.operations.len(),
            self.shared.acknowledged.load(Ordering::Relaxed),
            self.shared.refused.load(Ordering::Relaxed),
        ));
        if let Err(violation) = checker::check(&self.operations) {
            panic!("{violation}");
        }
    }

    /// The longest time without an acknowledged write, from each of these moments to the next one.
    pub(super) fn write_gaps(&self, moments: &[Instant]) -> Vec<Duration> {
        let mut acknowledged: Vec<Instant> = self.operations.iter().filter_map(written_at).collect();
        acknowledged.sort_unstable();
        let end = acknowledged.last().copied().unwrap_or_default();
        let gaps_until = |from: Instant, until: Instant| {
            let inside = acknowledged.iter().copied().filter(move |at| (from..until).contains(at));
            let times: Vec<Instant> = std::iter::once(from).chain(inside).chain([until]).collect();
            times.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
        };
        let ends = moments.iter().skip(1).copied().chain([end]);
        moments.iter().zip(ends).map(|(from, until)| gaps_until(*from, until)).collect()
    }
}

fn written_at(operation: &Operation) -> Option<Instant> {
    let returned = operation.returned.as_ref()?;
    matches!(returned.answer, Answer::Written { .. }).then_some(returned.at)
}

/// One reader's part of the keys.
async fn read_share(
    address: String,
    keys: Arc<Vec<Bytes>>,
    reader: usize,
    shared: Arc<Shared>,
) -> Vec<Operation> {
    let mut client = Client::connect(&address).await.unwrap();
    let mut operations = Vec::new();
    for key in keys.iter().skip(reader).step_by(READERS) {
        let invoked_at = shared.now();
        let answer = loop {
            match perform(&mut client, key, &Call::Get).await {
                Ok(answer) => break answer,
                // Leadership may move at any time; reading back can wait.
                Err(ClientError::Problem(problem)) if matches!(problem.status, 429 | 503 | 504) => {
                    sleep(REFUSED_PAUSE).await;
                }
                Err(error) => panic!("cannot read {} back: {error}", key.escape_ascii()),
            }
        };
        let returned = Some(Returned { at: shared.now(), answer });
        let client = shared.plan.clients + 1;
        operations.push(Operation { client, key: key.clone(), call: Call::Get, invoked_at, returned });
    }
    operations
}

/// The middle one of some durations.
pub(super) fn median(durations: &[Duration]) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}
