//! Clients that write and read, and remember what they were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
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
use super::{PATIENCE, Random, report, runtime, until};

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
    stop: AtomicBool,
    /// Writes that were acknowledged.
    acknowledged: AtomicU64,
    /// Operations that failed, by how.
    failures: Mutex<BTreeMap<String, u64>>,
}

/// The clock of all histories.
pub(super) fn now() -> Instant {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    Instant::default().after(START.get_or_init(std::time::Instant::now).elapsed())
}

impl Load {
    pub(super) fn start(plan: &Plan) -> Self {
        let shared = Arc::new(Shared {
            plan: plan.clone(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            failures: Mutex::default(),
        });
        let client = |_| runtime().spawn(Worker::new(new_client(), Arc::clone(&shared)).run());
        Self { tasks: (0..plan.clients).map(client).collect(), shared }
    }

    /// Waits until so many more writes are acknowledged; each may take its time.
    pub(super) fn progress(&self, writes: u64) {
        let count = || self.shared.acknowledged.load(Ordering::Relaxed);
        let (mut reached, goal) = (count(), count() + writes);
        while reached < goal {
            let more = || Some(count()).filter(|count| *count > reached);
            reached = until(format!("one more write is acknowledged; {} are wanted", goal - reached), more);
        }
    }

    /// Lets the clients finish what they are at.
    pub(super) fn stop(self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut operations = Vec::new();
        for task in self.tasks {
            operations.extend(runtime().block_on(task).unwrap());
        }
        let failures = std::mem::take(&mut *self.shared.failures.lock().unwrap());
        History { operations, failures }
    }
}

/// A client's number; no two in this process have the same.
fn new_client() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
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
            let invoked_at = now();
            let answered = self.perform(&key, &call).await;
            let at = now();
            let returned = match answered {
                Ok(answer) => Some(Returned { at, answer }),
                Err(error) => {
                    self.move_on(&error).await;
                    if call == Call::Get || error.outcome() == Outcome::NotApplied {
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
        *self.shared.failures.lock().unwrap().entry(failure(error)).or_default() += 1;
        self.connection = None;
        self.node = (self.node + 1) % self.shared.plan.addresses.len();
        sleep(REFUSED_PAUSE).await;
    }
}

/// What a failure is counted under.
fn failure(error: &ClientError) -> String {
    match error {
        ClientError::Problem(problem) => {
            let outcome = problem.outcome.map(|outcome| match outcome {
                Outcome::NotApplied => "not applied",
                Outcome::Unknown => "unknown",
            });
            format!("{} {} ({})", problem.status, problem.code, outcome.unwrap_or("no outcome"))
        }
        ClientError::Connect { .. } => "no connection".into(),
        ClientError::NotSent(_) => "not sent".into(),
        ClientError::Broken(_) => "broken".into(),
        ClientError::Timeout { .. } => "no answer".into(),
        ClientError::Endpoint(_)
        | ClientError::TargetTooLong
        | ClientError::IdempotencyKey(_)
        | ClientError::Unexpected { .. } => {
            panic!("no answer that a client of these nodes should get: {error}")
        }
    }
}

/// Sends one operation.
async fn perform(client: &mut Client, key: &[u8], call: &Call) -> Result<Answer, ClientError> {
    let written = |revision| Answer::Written { mod_revision: Some(revision) };
    let result = match call {
        Call::Get => return read(client, key, Consistency::Linearizable).await,
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

async fn read(client: &mut Client, key: &[u8], consistency: Consistency) -> Result<Answer, ClientError> {
    Ok(client.get(key, consistency).await?.map_or(Answer::Missing, |found| Answer::Found {
        value: found.content.value,
        mod_revision: Some(found.content.mod_revision),
    }))
}

/// What clients saw.
pub(super) struct History {
    pub(super) operations: Vec<Operation>,
    /// Operations that failed, by how: for problems status, code and outcome.
    pub(super) failures: BTreeMap<String, u64>,
}

impl History {
    /// Goes on with what was seen later.
    pub(super) fn append(&mut self, later: Self) {
        self.operations.extend(later.operations);
        for (failure, count) in later.failures {
            *self.failures.entry(failure).or_default() += count;
        }
    }

    /// Reads every key of the history at each of the nodes, and adds that to it.
    pub(super) fn read_back<'a>(&mut self, nodes: impl IntoIterator<Item = &'a Node>) {
        let keys = self.keys();
        for node in nodes {
            self.operations.extend(read_all(node, &keys, Consistency::Linearizable));
        }
    }

    /// All keys in it.
    pub(super) fn keys(&self) -> Arc<Vec<Bytes>> {
        let mut keys: Vec<_> = self.operations.iter().map(|operation| operation.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        Arc::new(keys)
    }

    /// Shows what it is made of, and fails unless all of it can be explained.
    pub(super) fn check(&self) {
        let unknown = self.operations.iter().filter(|operation| operation.returned.is_none()).count();
        report(format!(
            "{} operations, {} writes acknowledged, {unknown} writes of unknown outcome; failures {:?}",
            self.operations.len(),
            self.operations.iter().filter_map(written_at).count(),
            self.failures,
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

/// Reads all of these keys at one node, in no particular order.
pub(super) fn read_all(node: &Node, keys: &Arc<Vec<Bytes>>, consistency: Consistency) -> Vec<Operation> {
    let client = new_client();
    let read = |reader| {
        let (address, keys) = (node.client.address(), Arc::clone(keys));
        runtime().spawn(async move {
            let mut connection = Client::connect(&address).await.unwrap();
            let mut operations = Vec::new();
            for key in keys.iter().skip(reader).step_by(READERS) {
                let invoked_at = now();
                let answer = read_patiently(&mut connection, key, consistency).await;
                let returned = Some(Returned { at: now(), answer });
                operations.push(Operation {
                    client,
                    key: key.clone(),
                    call: Call::Get,
                    invoked_at,
                    returned,
                });
            }
            operations
        })
    };
    let readers: Vec<_> = (0..READERS).map(read).collect();
    readers.into_iter().flat_map(|reader| runtime().block_on(reader).unwrap()).collect()
}

/// Leadership may move at any time; reading back can wait.
async fn read_patiently(client: &mut Client, key: &[u8], consistency: Consistency) -> Answer {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match read(client, key, consistency).await {
            Ok(answer) => return answer,
            Err(ClientError::Problem(problem)) if matches!(problem.status, 429 | 503 | 504) => {
                assert!(std::time::Instant::now() < deadline, "no service for {PATIENCE:?}: {problem}");
                sleep(REFUSED_PAUSE).await;
            }
            Err(error) => panic!("cannot read {} back: {error}", key.escape_ascii()),
        }
    }
}

/// The middle one of some durations.
pub(super) fn median(durations: &[Duration]) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}
