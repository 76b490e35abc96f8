//! Nodes as child processes on loopback, with data on the real disk.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use kuberaft::api::client::{Client, ClientError, Found, Written};
use kuberaft::api::{Consistency, StatusReport};
use kuberaft::kv::Condition;
use kuberaft::tls::Connector;
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::{report, runtime, until};

/// Longest wait for an answer to a question about state; a paused node gives none.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for an answer to a request; longer than a server takes at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines of each node's log that are shown when a test fails.
const LOG_LINES: usize = 40;

/// A port that nobody else is given: bound, but never listened on, which leaves it to the one process that is
/// told of it, again and again.
pub(super) struct Port {
    pub(super) number: u16,
    _held: Socket,
}

impl Port {
    pub(super) fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let number = socket.local_addr().unwrap().as_socket().unwrap().port();
        Self { number, _held: socket }
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

/// One node.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) client: Port,
    pub(super) peer: Port,
    /// `kuberaft-data` is made in here.
    directory: PathBuf,
    /// What follows `serve`.
    pub(super) flags: Vec<String>,
    /// By what it is verified, if it speaks TLS to clients.
    pub(super) tls: Option<Connector>,
    /// The program and its arguments that the node is run by, if any.
    pub(super) wrapper: Vec<String>,
    child: Option<Child>,
    is_paused: bool,
}

impl Node {
    fn new(directory: &TempDir, name: &str, ports: (Port, Port), members: &str, flags: &[&str]) -> Self {
        let (client, peer) = ports;
        let own = [
            format!("--http_addr={}", client.address()),
            format!("--raft_addr={}", peer.address()),
            format!("--raft_id={name}"),
            format!("--raft_cluster={members}"),
        ];
        Self {
            name: name.to_owned(),
            directory: directory.path().to_owned(),
            flags: own.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect(),
            tls: None,
            wrapper: Vec::new(),
            client,
            peer,
            child: None,
            is_paused: false,
        }
    }

    /// Waits until one of the reasons why it is not ready has this in it; returns that.
    pub(super) fn gives_reason(&self, part: &str) -> String {
        until(format!("node {} is not ready: {part}", self.name), || {
            self.status()?.reasons.into_iter().find(|reason| reason.contains(part))
        })
    }

    /// Where its data is: the default, below the directory in which it runs.
    pub(super) fn data(&self) -> PathBuf {
        self.directory.join("kuberaft-data").join(&self.name)
    }

    /// The directory in which it runs.
    pub(super) fn home(&self) -> &Path {
        &self.directory
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    /// All that it printed, in all of its lives.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    pub(super) fn start(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        self.start_logging_to(log);
    }

    /// Starts it with its log going there.
    pub(super) fn start_logging_to(&mut self, log: impl Into<Stdio>) {
        assert!(self.child.is_none(), "node {} is running", self.name);
        let mut command = program(&self.wrapper, &self.directory);
        command.arg("serve").args(&self.flags).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        self.is_paused = false;
    }

    pub(super) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the node is running");
        // Not waited for yet, so the id is still its own.
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(id, signal).unwrap();
    }

    pub(super) fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.is_paused = true;
    }

    pub(super) fn go_on(&mut self) {
        self.signal(Signal::CONT);
        self.is_paused = false;
    }

    /// Waits until it has ended by itself.
    pub(super) fn ended(&mut self) -> ExitStatus {
        let name = self.name.clone();
        until(format!("node {name} ends"), || self.has_ended())
    }

    /// How it ended, if it has by itself.
    pub(super) fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// The id of its process.
    pub(super) fn process_id(&self) -> u32 {
        self.child.as_ref().expect("the node is running").id()
    }

    pub(super) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Asks something of it on a connection of its own.
    pub(super) fn ask<T, F>(&self, question: impl FnOnce(Client) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        self.ask_within(REQUEST_TIMEOUT, question)
    }

    fn ask_within<T, F>(
        &self,
        timeout: Duration,
        question: impl FnOnce(Client) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let asked =
            async { question(Client::connect_with(&self.client.address(), self.tls.as_ref()).await?).await };
        runtime().block_on(async {
            let late = |_elapsed| ClientError::Timeout { sent: true };
            tokio::time::timeout(timeout, asked).await.map_err(late)?
        })
    }

    pub(super) fn get(&self, key: &str, consistency: Consistency) -> Result<Option<Found>, ClientError> {
        self.ask(async |mut client| client.get(key.as_bytes(), consistency).await)
    }

    pub(super) fn put(&self, key: &str, value: impl Into<Bytes>) -> Result<Written, ClientError> {
        self.ask(async |mut client| client.put(key.as_bytes(), value.into(), Condition::Always).await)
    }

    /// Nothing while it is down, paused or starting.
    pub(super) fn status(&self) -> Option<StatusReport> {
        if self.child.is_none() || self.is_paused {
            return None;
        }
        self.ask_within(ASK_TIMEOUT, async |mut client| client.status().await).ok()
    }

    /// Waits until it says that it is ready to serve.
    pub(super) fn ready(&mut self) {
        let name = self.name.clone();
        until(format!("node {name} is ready"), || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "node {name} ended while it was waited for: {ended:?}");
            self.status().filter(|status| status.healthy)
        });
    }

    /// Its answer to `GET path`: status and body, whatever they are.
    pub(super) fn fetch(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = exchange(&self.client, request.as_bytes());
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no answer to {path}: {answer:?}")), body.to_owned())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program, in `directory`, with an environment without settings, tied to the life of this thread.
pub(super) fn program(wrapper: &[String], directory: &Path) -> Command {
    let mut words = wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_kuberaft")]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).current_dir(directory).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KUBERAFT_")) {
        command.env_remove(name);
    }
    command.env("KUBERAFT_EXIT_WITH_PARENT", std::process::id().to_string());
    command
}

/// A directory on the real disk.
pub(super) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("process-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Some nodes; all of them end with it.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) directory: TempDir,
}

impl Cluster {
    /// Starts `size` nodes by the short flags alone, and waits until all are ready.
    pub(super) fn start(size: usize) -> Self {
        Self::start_with(size, &[])
    }

    pub(super) fn start_with(size: usize, flags: &[&str]) -> Self {
        let mut cluster = Self::prepare(size, flags);
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.ready();
        cluster
    }

    /// Nodes that are not started yet.
    pub(super) fn prepare(size: usize, flags: &[&str]) -> Self {
        let directory = directory();
        let ports: Vec<_> = (0..size).map(|_| (Port::reserve(), Port::reserve())).collect();
        let members: Vec<String> =
            ports.iter().zip(1..).map(|((_, peer), name)| format!("{name}/{}", peer.address())).collect();
        let members = members.join(",");
        let node = |(ports, name): ((Port, Port), usize)| {
            Node::new(&directory, &name.to_string(), ports, &members, flags)
        };
        Self { nodes: ports.into_iter().zip(1..).map(node).collect(), directory }
    }

    /// One more node, not started yet and in nobody's list, that is told of these nodes. Returns its place.
    pub(super) fn prepare_later(&mut self, told: &[usize], flags: &[&str]) -> usize {
        let told = told.iter().map(|at| &self.nodes[*at]);
        let members: Vec<String> =
            told.map(|node| format!("{}/{}", node.name, node.peer.address())).collect();
        let name = (self.nodes.len() + 1).to_string();
        let ports = (Port::reserve(), Port::reserve());
        self.nodes.push(Node::new(&self.directory, &name, ports, &members.join(","), flags));
        self.nodes.len() - 1
    }

    /// What `kuberaft` with these arguments does, asked of all nodes.
    pub(super) fn command(&self, arguments: &[&str]) -> Output {
        let mut command = program(&[], self.directory.path());
        command.args(arguments).env("KUBERAFT_ENDPOINTS", self.addresses().join(","));
        command.output().unwrap()
    }

    /// Runs a command until it succeeds; `done` are parts of refusals that say that an earlier try did it.
    pub(super) fn insist(&self, arguments: &[&str], done: &[&str]) {
        until(format!("`kuberaft {}` succeeds", arguments.join(" ")), || {
            let output = self.command(arguments);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.success() || done.iter().any(|part| error.contains(part))).then_some(())
        });
    }

    /// Waits until a leader has these voters, no learners, and no change under way. Names of the voters.
    pub(super) fn settled(&self, voters: &[&str]) {
        until(format!("the voters are {voters:?}"), || {
            let leads =
                |node: &&Node| node.status().is_some_and(|status| status.role == "leader" && status.healthy);
            let leader = self.nodes.iter().find(leads)?;
            let members = leader.ask(async |mut client| client.members().await).ok()?;
            let names: Vec<_> = members.voters.iter().map(|voter| voter.name.as_str()).collect();
            (names == voters && members.learners.is_empty() && !members.joint).then_some(())
        });
    }

    /// Waits until all nodes that run are ready.
    pub(super) fn ready(&mut self) {
        self.nodes.iter_mut().filter(|node| node.is_running()).for_each(Node::ready);
    }

    /// Waits until there is a leader that a majority answers, and returns its place among the nodes.
    pub(super) fn leader(&self) -> usize {
        until("a leader is there", || {
            let leads = |node: &Node| {
                let status = node.status().filter(|status| status.role == "leader" && status.healthy)?;
                Some(status.term)
            };
            let leaders = self.nodes.iter().enumerate().filter_map(|(at, node)| Some((leads(node)?, at)));
            leaders.max().map(|(_, at)| at)
        })
    }

    /// Some node other than `not`.
    pub(super) fn other(&self, not: usize) -> usize {
        (not + 1) % self.nodes.len()
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.address()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = node.log();
                let lines: Vec<_> = log.lines().collect();
                let shown = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n      | ");
                report(format!("the end of node {}'s log:\n      | {shown}", node.name));
            }
        }
    }
}

/// What is answered to these bytes until the other side closes; nothing if it does not answer.
pub(super) fn exchange(port: &Port, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(port.address()).unwrap();
    stream.set_read_timeout(Some(REQUEST_TIMEOUT)).unwrap();
    let mut answer = Vec::new();
    // The other side may close at any moment; what it said until then counts.
    let _ = stream.write_all(bytes).and_then(|()| stream.read_to_end(&mut answer));
    answer
}

/// Copies a data directory of which nothing runs, or a part of it.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Opens a file for reading and writing.
pub(super) fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}
