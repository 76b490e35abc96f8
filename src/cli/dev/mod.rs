//! `kuberaft dev`: a real cluster on this machine, each node a child process, all gone when this one ends.

mod child;
mod plan;
mod secret;

pub(super) use child::Running;
pub(super) use plan::{NODES_DEFAULT, NODES_MAX, Node};
pub(super) use secret::flags as secret_flags;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use self::plan::Folder;
use super::client::block_on;
use super::{CliError, print};
use crate::api::StatusReport;
use crate::api::client::Client;

/// First port unless told otherwise.
const BASE_PORT: u16 = 7000;
/// Time until a node that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(10);
/// How long a node that is no member may take to become one again.
const REMOVED_PAUSE: Duration = Duration::from_secs(10);
/// How often the nodes are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a node may take to answer a look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is said what is waited for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long the nodes have to stop: their own `--shutdown-timeout` and a little more.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(15);

const FLAGS: &str = "Flags behind -- go to every node, for example: kuberaft dev -- --log-level debug\n\
     Each node takes two ports, for peers and for clients, from --base-port on.";

/// The flags of `dev`.
#[derive(Clone, Debug, Args)]
#[command(after_help = FLAGS)]
pub(super) struct Dev {
    /// How many nodes [default: 3, or as many as there were before]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=i64::from(plan::NODES_MAX)))]
    nodes: Option<u8>,

    /// Leave a node that ended alone; otherwise it is started again after ten seconds, as Kubernetes would
    #[arg(long)]
    no_restart: bool,

    /// Delete the data of an earlier run first
    #[arg(long)]
    fresh: bool,

    /// First of the ports
    #[arg(long, value_name = "PORT", default_value_t = BASE_PORT)]
    base_port: u16,

    /// Folder for data and logs; data of an earlier run is used again
    #[arg(long, value_name = "DIR", default_value = "./kuberaft-dev")]
    data_dir: PathBuf,

    /// Flags for every node's `serve`
    #[arg(last = true, value_name = "SERVE FLAGS")]
    serve: Vec<OsString>,
}

/// Runs the cluster until Ctrl-C or SIGTERM.
pub(super) fn run(args: &Dev) -> Result<(), CliError> {
    let folder = Folder::open(&args.data_dir)?;
    let count =
        if args.fresh { args.nodes.unwrap_or(plan::NODES_DEFAULT) } else { folder.node_count(args.nodes)? };
    let nodes = plan::nodes(&args.data_dir, count, args.base_port)?;
    plan::check_ports(&nodes)?;
    // Behind all that can be refused.
    if args.fresh {
        folder.clear()?;
    }
    folder.mark(count)?;
    let mut flags = secret_flags(&args.data_dir, &args.serve)?;
    flags.extend(args.serve.iter().cloned());
    block_on(async {
        let mut signals = Signals::new()?;
        let mut cluster = Cluster::start(nodes, &flags)?;
        let done = cluster.watch(&mut signals, args).await;
        cluster.stop(&mut signals).await;
        done
    })
}

/// What asks this process to end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::Failed(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// All nodes, those that have ended included.
struct Cluster {
    nodes: Vec<Running>,
    /// What each node's `--initial-cluster` says.
    members: String,
    /// More flags of each node's `serve`.
    flags: Vec<OsString>,
    started: Instant,
}

/// Takes out the names whose time has come.
fn due(restarts: &mut Vec<(Instant, String)>) -> Vec<String> {
    let now = Instant::now();
    restarts.extract_if(.., |(at, _)| *at <= now).map(|(_, name)| name).collect()
}

impl Cluster {
    fn start(nodes: Vec<Node>, extra: &[OsString]) -> Result<Self, CliError> {
        let members = plan::initial_cluster(&nodes);
        let start = |node: Node| {
            let name = node.name.clone();
            Running::start(node, &members, extra)
                .map_err(|error| CliError::Failed(format!("cannot start node {name}: {error}")))
        };
        let nodes = nodes.into_iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self { nodes, members, flags: extra.to_vec(), started: Instant::now() })
    }

    /// Says when the cluster is ready and when a node ends. Returns when told to end or when no node is left.
    async fn watch(&mut self, signals: &mut Signals, args: &Dev) -> Result<(), CliError> {
        let mut progress = Progress::new();
        let mut announced = false;
        let mut restarts = Vec::new();
        loop {
            tokio::select! {
                () = signals.next() => return Ok(()),
                () = sleep(LOOK_INTERVAL) => {}
            }
            for node in &mut self.nodes {
                if node.has_just_ended() {
                    progress.clear();
                    note!("{}", node.obituary());
                    if !args.no_restart {
                        note!("node {} is started again in {RESTART_PAUSE:?}", node.node.name);
                        restarts.push((Instant::now() + RESTART_PAUSE, node.node.name.clone()));
                    }
                }
            }
            for name in due(&mut restarts) {
                self.restart(&name);
            }
            if self.running().next().is_none() {
                return Err(CliError::Failed("no node is left".to_owned()));
            }
            if !announced {
                let waiting = tokio::select! {
                    () = signals.next() => return Ok(()),
                    waiting = self.waiting_for() => waiting,
                };
                match waiting {
                    Waiting::Over { leader, removed } => {
                        progress.clear();
                        for name in removed {
                            note!(
                                "node {name} is no member of the cluster: it was removed. It may be added again \
                                 (kuberaft member add), or start again with --fresh"
                            );
                        }
                        // The nodes run, whether it can be said or not.
                        let _ = print::text(&self.announcement(&leader, args));
                        announced = true;
                    }
                    Waiting::For(what) => progress.show(&what),
                }
            }
        }
    }

    /// Starts a node that ended, with its data.
    fn restart(&mut self, name: &str) {
        let Some(at) = self.nodes.iter().position(|node| node.node.name == name) else { return };
        match Running::start(self.nodes[at].node.clone(), &self.members, &self.flags) {
            Ok(node) => self.nodes[at] = node,
            Err(error) => note!("cannot start node {name} again: {error}"),
        }
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.nodes.iter().filter(|node| node.ended.is_none())
    }

    /// What the running nodes lack to be ready.
    async fn waiting_for(&self) -> Waiting {
        let mut lacking = Vec::new();
        let mut leader = None;
        let mut members = BTreeSet::new();
        for Running { node, .. } in self.running() {
            match look(&node.client).await {
                Some(status) if status.healthy => {
                    leader = leader.or(status.leader.and_then(|leader| leader.name));
                    members
                        .extend(status.voters.into_iter().chain(status.learners).map(|member| member.name));
                }
                Some(status) => lacking.push((&node.name, status.reasons.join("; "))),
                None => lacking.push((&node.name, "no answer yet".to_owned())),
            }
        }
        // What is no member any more is not waited for: it was removed.
        let is_member = |name: &str| members.is_empty() || members.iter().any(|member| member == name);
        let (lacking, removed): (Vec<_>, Vec<_>) = lacking.into_iter().partition(|(name, _)| is_member(name));
        if lacking.is_empty() && (removed.is_empty() || self.started.elapsed() >= REMOVED_PAUSE) {
            let removed = removed.into_iter().map(|(name, _)| name.clone()).collect();
            return Waiting::Over { leader: leader.unwrap_or_else(|| "unknown".to_owned()), removed };
        }
        let lacking = lacking.into_iter().chain(removed);
        Waiting::For(lacking.map(|(name, why)| format!("node {name} ({why})")).collect::<Vec<_>>().join(", "))
    }

    /// Stops all nodes; those that do not within [`STOP_TIMEOUT`], or by a second Ctrl-C, are killed.
    async fn stop(&mut self, signals: &mut Signals) {
        let running = self.running().count();
        if running == 0 {
            return;
        }
        note!("stopping {running} {}", if running == 1 { "node" } else { "nodes" });
        for node in self.running() {
            node.terminate();
        }
        let all_ended = async {
            for node in &mut self.nodes {
                node.wait().await;
            }
        };
        tokio::select! {
            () = all_ended => return,
            () = sleep(STOP_TIMEOUT) => {}
            () = signals.next() => {}
        }
        for node in &mut self.nodes {
            if node.ended.is_none() {
                note!("node {} does not stop; killing it", node.node.name);
                node.kill().await;
            }
        }
    }

    fn announcement(&self, leader: &str, args: &Dev) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "kuberaft".to_owned());
        let clients: Vec<_> = self.nodes.iter().map(|node| node.node.client.as_str()).collect();
        let endpoints = match args.base_port {
            // What the client commands ask anyway.
            BASE_PORT => String::new(),
            _ => format!(" --endpoints {}", clients.join(",")),
        };
        let first = self.running().next().map_or(clients[0], |node| &node.node.client);
        let node = |Running { node, .. }: &Running| {
            format!("  node {}   clients http://{}   log {}", node.name, node.client, node.log.display())
        };
        let nodes: Vec<_> = self.nodes.iter().map(node).collect();
        format!(
            "\
{running} of {count} nodes run; the leader is node {leader}

{nodes}

  write  curl -X PUT http://{first}/v1/kv/greeting --data-binary hello
         {program} put greeting hello{endpoints}
  read   curl http://{first}/v1/kv/greeting
         {program} get greeting{endpoints}
  look   http://{first}/ui
         {program} status{endpoints}

Ctrl-C stops all nodes. The data stays in {dir} for the next time; --fresh deletes it.
",
            running = self.running().count(),
            count = clients.len(),
            nodes = nodes.join("\n"),
            dir = args.data_dir.display()
        )
    }
}

/// Whether the cluster is ready.
enum Waiting {
    Over { leader: String, removed: Vec<String> },
    For(String),
}

/// What a node says of itself, if it answers.
async fn look(client: &str) -> Option<StatusReport> {
    let ask = async { Client::connect(client).await?.status().await };
    timeout(LOOK_TIMEOUT, ask).await.ok()?.ok()
}

/// Says what is waited for: on a terminal all the time, else now and then.
struct Progress {
    terminal: bool,
    since: Instant,
    said: Instant,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Self { terminal: std::io::stderr().is_terminal(), since: now, said: now }
    }

    fn show(&mut self, what: &str) {
        let seconds = self.since.elapsed().as_secs();
        if self.terminal {
            note_part!("\r\x1b[2Kwaiting for {what}, {seconds} s");
        } else if self.said.elapsed() >= PROGRESS_INTERVAL {
            note!("waiting for {what}, {seconds} s");
            self.said = Instant::now();
        }
    }

    fn clear(&self) {
        if self.terminal {
            note_part!("\r\x1b[2K");
        }
    }
}
