//! `kuberaft bench`: the load generator. Each thread runs a share of the clients on a runtime of its own and keeps
//! its own results; what they share are a few atomics.

mod etcd;
mod http;
mod report;
mod schedule;
mod tally;

use std::cell::RefCell;
use std::io::IsTerminal;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use tokio::runtime;
use tokio::task::{JoinSet, LocalSet};

use self::etcd::Etcd;
use self::http::Http;
use self::report::Report;
use self::schedule::{Schedule, Turn};
use self::tally::{Op, Shared, Tally};
use super::client::Consistency;
use super::endpoints::Endpoints;
use super::output::Format;
use super::{CliError, print};
use crate::config::{Size, Span};
use crate::tls::is_misunderstanding;

/// How long a client rests after a failure, so that a cluster without a leader is not flooded.
const REST: Duration = Duration::from_millis(5);
/// How often the progress line changes.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The flags of `bench`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    endpoints: Endpoints,

    /// What the servers speak: http, kuberaft's own, or etcd, the etcd v3 API over gRPC
    #[arg(long, value_enum, default_value_t, value_name = "NAME", hide_possible_values = true)]
    protocol: Protocol,

    /// What to do: put, get, or mixed
    #[arg(long, value_enum, default_value_t, value_name = "NAME", hide_possible_values = true)]
    op: Workload,

    /// Share of reads in a mixed load, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,

    /// How reads are done: linearizable, or stale from whatever the asked node holds
    #[arg(long, value_enum, default_value_t, value_name = "NAME", hide_possible_values = true)]
    consistency: Consistency,

    /// Clients, each with one operation at a time
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,

    /// gRPC connections that the clients share [default: one for ten clients, at least one for each endpoint]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    connections: Option<u16>,

    /// How long to run; 0s: until --requests are done
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    duration: Span,

    /// How many operations to do at most, in all
    #[arg(long, value_name = "COUNT")]
    requests: Option<u64>,

    /// Operations a second to begin, whether or not the earlier ones were answered, as far as there are clients (open
    /// loop) [default: each client continues as soon as it is answered (closed loop)]
    #[arg(long, value_name = "COUNT", value_parser = parse_rate)]
    rate: Option<f64>,

    /// Run this long before measuring
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    warmup: Span,

    /// Size of the values
    #[arg(long, value_name = "SIZE", default_value = "128")]
    value_bytes: Size,

    /// Different keys; drawn at random. Loads that read write them all first
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,

    /// Do not write the keys before reading them
    #[arg(long)]
    no_fill: bool,

    /// Longest time for one operation
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    timeout: Span,

    /// Threads of the load generator
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,

    /// Format of the results: text or json
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    output: Format,
}

/// What the servers speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Protocol {
    #[default]
    Http,
    Etcd,
}

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Workload {
    #[default]
    Put,
    Get,
    Mixed,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Etcd => "etcd",
        }
    }
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Mixed => "mixed",
        }
    }

    fn writes(self) -> bool {
        self != Self::Get
    }

    fn reads(self) -> bool {
        self != Self::Put
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number of operations a second, above zero".to_owned()),
    }
}

/// An operation that failed.
#[derive(Debug)]
struct CallError {
    /// What is counted: a problem's code, a gRPC code, or what befell the connection.
    code: String,
    /// More, for a message.
    detail: String,
}

impl CallError {
    fn new(code: &str) -> Self {
        Self { code: code.to_owned(), detail: String::new() }
    }

    fn because(mut self, detail: &dyn std::fmt::Display) -> Self {
        self.detail = detail.to_string();
        self
    }
}

/// A client's way to the servers.
enum Connection {
    Http(Box<Http>),
    Etcd(Box<Etcd>),
}

impl Connection {
    /// Does one operation within `timeout`.
    async fn call(&mut self, op: Op, key: u64, timeout: Duration) -> Result<(), CallError> {
        let done = match self {
            Self::Http(http) => tokio::time::timeout(timeout, http.call(op, key)).await,
            Self::Etcd(etcd) => tokio::time::timeout(timeout, etcd.call(op, key)).await,
        };
        done.unwrap_or_else(|_| {
            match self {
                Self::Http(http) => http.fail_over(),
                Self::Etcd(etcd) => etcd.fail_over(),
            }
            Err(CallError::new("client_timeout"))
        })
    }
}

/// When to run and from when to measure; made once all clients are connected and all keys written.
#[derive(Clone, Copy)]
struct Run {
    schedule: Schedule,
    measured_from: Instant,
}

/// Runs the load and prints the results.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    if args.duration.0.is_zero() && args.requests.is_none() {
        return Err(CliError::Usage(
            "--duration 0s needs --requests: otherwise nothing ends the run".to_owned(),
        ));
    }
    let shared = Arc::new(Shared::new());
    let fill = Arc::new(Shared::new());
    let (ready_tx, ready_rx) = std::sync::mpsc::channel();
    let threads = usize::from(args.threads.min(args.clients));
    let mut handles = Vec::with_capacity(threads);
    let mut starts = Vec::with_capacity(threads);
    for thread in 0..threads {
        let (start_tx, start_rx) = tokio::sync::oneshot::channel();
        let (args, shared, fill, ready_tx) =
            (args.clone(), Arc::clone(&shared), Arc::clone(&fill), ready_tx.clone());
        let work = move || {
            let worker = Worker { args: &args, thread, threads, shared: &shared, fill: &fill };
            worker.run(&ready_tx, start_rx)
        };
        handles.push(thread::spawn(work));
        starts.push(start_tx);
    }
    drop(ready_tx);
    // Every thread says once that it is ready, or why it never will be.
    ready_rx.iter().take(threads).collect::<Result<Vec<()>, CliError>>()?;
    let run = plan(args);
    for start in starts {
        // A thread that is gone is noticed when it is joined.
        let _ = start.send(run);
    }
    watch(args, &shared, run.schedule.start, || handles.iter().all(thread::JoinHandle::is_finished));

    let mut tally = Tally::new();
    let mut end = run.measured_from;
    for handle in handles {
        let died = |_| CliError::Failed("a thread of the load generator died".to_owned());
        let (results, ended) = handle.join().map_err(died)?;
        tally.add(&results);
        end = end.max(ended);
    }
    let elapsed = end - run.measured_from;
    let gap = tally.gap.max(shared.last_gap(elapsed));
    let report = Report::new(args, &tally, elapsed, gap);
    let printed = match args.output {
        Format::Text => print::text(&report.text()),
        Format::Json => print::json(&report),
    };
    if report.any_done() { printed } else { Err(CliError::Failed("no operation succeeded".to_owned())) }
}

fn plan(args: &Args) -> Run {
    let start = Instant::now();
    let measured_from = start + args.warmup.0;
    let deadline = (!args.duration.0.is_zero()).then(|| measured_from + args.duration.0);
    let schedule = Schedule { start, deadline, requests: args.requests, rate: args.rate };
    Run { schedule, measured_from }
}

/// Shows progress on a terminal until `finished`; Ctrl-C ends the run early, with its results so far.
fn watch(args: &Args, shared: &Shared, start: Instant, finished: impl Fn() -> bool) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    let show = std::io::stderr().is_terminal();
    runtime.block_on(async {
        let mut before = 0;
        let mut shown = Instant::now();
        while !finished() {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => shared.stop.store(true, Ordering::Relaxed),
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
            if show && shown.elapsed() >= PROGRESS_INTERVAL {
                let done = shared.done.load(Ordering::Relaxed);
                let failed = shared.failed.load(Ordering::Relaxed);
                let seconds = start.elapsed().as_secs();
                let name = args.op.name();
                note_part!("\r{seconds:>4} s  {:>8} {name}/s  {failed} errors ", done - before);
                (before, shown) = (done, Instant::now());
            }
        }
        if show {
            note_part!("\r{:60}\r", "");
        }
    });
}

/// One thread and its share of the clients.
struct Worker<'a> {
    args: &'a Args,
    thread: usize,
    threads: usize,
    shared: &'a Arc<Shared>,
    fill: &'a Arc<Shared>,
}

impl Worker<'_> {
    /// Returns the results and when the last client was done.
    fn run(
        &self,
        ready: &std::sync::mpsc::Sender<Result<(), CliError>>,
        start: tokio::sync::oneshot::Receiver<Run>,
    ) -> (Tally, Instant) {
        let tally = Rc::new(RefCell::new(Tally::new()));
        let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(CliError::Failed(format!("cannot start a runtime: {error}"))));
                return (Tally::new(), Instant::now());
            }
        };
        LocalSet::new().block_on(&runtime, async {
            let prepared = match self.connect().await {
                Ok(connections) => self.fill(connections).await,
                Err(error) => Err(error),
            };
            let connections = match prepared {
                Ok(connections) => connections,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            // The sender is dropped if another thread failed.
            let Ok(run) = start.await else { return };
            let mut clients = JoinSet::new();
            for (number, connection) in connections.into_iter().enumerate() {
                let seed = (number * self.threads + self.thread + 1) as u64;
                let (args, shared, tally) = (self.args.clone(), Arc::clone(self.shared), Rc::clone(&tally));
                clients.spawn_local(drive(connection, args, run, shared, tally, Random(seed)));
            }
            clients.join_all().await;
        });
        (tally.replace(Tally::new()), Instant::now())
    }

    /// Connects this thread's clients.
    async fn connect(&self) -> Result<Vec<Connection>, CliError> {
        let numbers = || (self.thread..usize::from(self.args.clients)).step_by(self.threads);
        let endpoints: Arc<[_]> = self.args.endpoints.all().into();
        let value = value(self.args.value_bytes.0);
        let consistency = self.args.consistency;
        let tls = self.args.endpoints.connector()?;
        if self.args.protocol == Protocol::Etcd {
            let clients = usize::from(self.args.clients);
            let wanted = self.args.connections.map_or(clients.div_ceil(10).max(endpoints.len()), usize::from);
            let mine = wanted.min(clients).div_ceil(self.threads);
            let connecting = etcd::connect(&endpoints, tls.as_ref(), mine, self.args.timeout.0);
            let channels = connecting.await.map_err(CliError::Failed)?;
            let client = |n| Etcd::new(channels.clone(), n / self.threads, value.clone(), consistency);
            return Ok(numbers().map(|n| Connection::Etcd(Box::new(client(n)))).collect());
        }
        let mut connections = Vec::new();
        for number in numbers() {
            let mut http = Http::new(Arc::clone(&endpoints), tls.clone(), number, (&value, consistency));
            let mut failures = Vec::new();
            while let Err(error) = http.connect().await {
                failures.push(format!("cannot connect to {}: {error}", http.endpoint()));
                if failures.len() == endpoints.len() {
                    return Err(CliError::Failed(failures.join("; ")));
                }
                http.fail_over();
            }
            // One tells for all of them.
            if connections.is_empty() {
                self.greet(&mut http).await?;
            }
            connections.push(Connection::Http(Box::new(http)));
        }
        Ok(connections)
    }

    /// Finds out whether the node and this client understand each other. Any other trouble is the load's own to see.
    async fn greet(&self, http: &mut Http) -> Result<(), CliError> {
        let endpoint = http.endpoint().clone();
        match tokio::time::timeout(self.args.timeout.0, http.greet()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if is_misunderstanding(&error) => {
                return Err(CliError::Failed(format!("{endpoint}: {error}")));
            }
            Ok(Err(_)) | Err(_) => http.fail_over(),
        }
        Ok(())
    }

    /// Writes all keys, if the load reads, together with the other threads.
    async fn fill(&self, connections: Vec<Connection>) -> Result<Vec<Connection>, CliError> {
        if !self.args.op.reads() || self.args.no_fill {
            return Ok(connections);
        }
        let mut clients = JoinSet::new();
        for mut connection in connections {
            let (fill, keys, timeout) = (Arc::clone(self.fill), self.args.keys, self.args.timeout.0);
            clients.spawn_local(async move {
                loop {
                    let key = fill.next.fetch_add(1, Ordering::Relaxed);
                    if key >= keys {
                        return Ok(connection);
                    }
                    connection.call(Op::Put, key, timeout).await?;
                }
            });
        }
        let done: Result<Vec<_>, CallError> = clients.join_all().await.into_iter().collect();
        done.map_err(|CallError { code, detail }| {
            CliError::Failed(format!("writing the keys failed: {code} {detail}").trim_end().to_owned())
        })
    }
}

/// One client: draws operations until there are no more.
async fn drive(
    mut connection: Connection,
    args: Args,
    run: Run,
    shared: Arc<Shared>,
    tally: Rc<RefCell<Tally>>,
    mut random: Random,
) {
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let begin = match run.schedule.turn(number, Instant::now()) {
            Turn::Begin(begin) => begin,
            Turn::Wait(until) => {
                tokio::time::sleep_until(until.into()).await;
                Instant::now()
            }
            Turn::Over => return,
        };
        let op = match args.op {
            Workload::Get => Op::Get,
            Workload::Mixed if random.below(100) < u64::from(args.read_percent) => Op::Get,
            Workload::Put | Workload::Mixed => Op::Put,
        };
        let done = connection.call(op, random.below(args.keys), args.timeout.0).await;
        let measured = begin >= run.measured_from;
        match done {
            Ok(()) => {
                shared.done.fetch_add(1, Ordering::Relaxed);
                if measured {
                    tally.borrow_mut().on_done(&shared, op, begin, Instant::now(), run.measured_from);
                }
            }
            Err(error) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                if measured {
                    tally.borrow_mut().on_failed(&error.code);
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Printable bytes that do not repeat within a block, so that no layer can save work on them.
fn value(bytes: usize) -> Bytes {
    let mut random = Random(1);
    (0..bytes).map(|_| b'!' + u8::try_from(random.below(94)).expect("94 fits a byte")).collect()
}

/// Marsaglia's xorshift64*: fast, and the same load every time.
struct Random(u64);

impl Random {
    /// A number below `limit`, which is above zero.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let scrambled = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        // The upper half of the product maps the whole range to 0..limit without a division.
        u64::try_from((u128::from(scrambled) * u128::from(limit)) >> 64).expect("the product's upper half")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_cover_their_range() {
        let mut random = Random(7);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[usize::try_from(random.below(10)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }

    #[test]
    fn a_rate_must_be_above_zero() {
        assert_eq!(parse_rate("2.5"), Ok(2.5));
        for text in ["0", "-1", "NaN", "inf", "many"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
