//! A cluster of child processes on this machine, which talk to each other through relays.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::faults::{Direction, Kind};
use super::health::Health;
use super::relays::{Flow, Relays};
use super::target::{Target, Trouble};
use super::under_tls::UnderTls;
use crate::chaos::{Names, Reach};
use crate::cli::CliError;
use crate::cli::dev::{Node, Running, STOP_TIMEOUT, secret_flags};
use crate::cli::endpoints::TlsFlags;
use crate::config::Config;

/// What can be done to it. The first is what is done to whom alone is named.
pub(super) const KINDS: [Kind; 8] = [
    Kind::Kill,
    Kind::Stop,
    Kind::Pause,
    Kind::Cut(Direction::Both),
    Kind::Cut(Direction::Out),
    Kind::Cut(Direction::In),
    Kind::Refuse,
    Kind::Wipe,
];

/// What is done unless told otherwise.
pub(super) const DEFAULT: [&str; 14] = [
    "kill:leader",
    "kill:follower",
    "kill:two",
    "kill:all",
    "stop:leader",
    "stop:follower",
    "pause:leader",
    "pause:follower",
    "cut:leader",
    "cut:follower",
    "cut-out:leader",
    "cut-in:leader",
    "refuse:leader",
    "wipe:random",
];

/// The folder that holds data and logs.
pub(super) enum Folder {
    /// Deleted at the end, unless it is needed to find out what went wrong.
    Temporary(TempDir),
    /// The user's; stays.
    Given(PathBuf),
}

impl Folder {
    /// # Errors
    /// It cannot be made, or something is in it.
    pub(super) fn open(given: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = given else {
            let made = tempfile::Builder::new().prefix("kuberaft-chaos-").tempdir();
            let failed = |error| {
                CliError::Failed(format!("cannot make a temporary folder: {error}; give one with --dir"))
            };
            return made.map(Self::Temporary).map_err(failed);
        };
        let failed = |error: io::Error| CliError::Failed(format!("cannot use {}: {error}", path.display()));
        fs::create_dir_all(path).map_err(failed)?;
        if fs::read_dir(path).map_err(failed)?.next().is_some() {
            let message = format!(
                "{} is not empty: give a new folder, whose nodes may be killed and wiped",
                path.display()
            );
            return Err(CliError::Usage(message));
        }
        Ok(Self::Given(path.to_owned()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Given(path) => path,
        }
    }

    /// Lets a temporary folder go, or keeps it. Returns where data and logs are left.
    fn close(self, keep: bool) -> Option<PathBuf> {
        match self {
            Self::Temporary(folder) => keep.then(|| folder.keep()),
            Self::Given(path) => Some(path),
        }
    }
}

/// How long a wiped node's name is held, instead of a minute.
const REPLACE_AFTER: &str = "--replace-after=10s";

/// The cluster. Its nodes end with it.
pub(super) struct DevCluster {
    members: Vec<Member>,
    relays: Relays,
    folder: Folder,
    reach: Arc<dyn Reach>,
    flags: Vec<OsString>,
}

struct Member {
    node: Node,
    /// Its `--initial-cluster`: the others by their relays.
    list: String,
    /// None while it is meant to be down.
    running: Option<Running>,
    is_paused: bool,
    /// Bound and never listened on: nobody else is given these ports while the node is down.
    _ports: [TcpSocket; 2],
}

impl DevCluster {
    /// Starts so many nodes. `flags` are for the `serve` of each; if they turn TLS on for clients, `tls` is how nodes are
    /// verified.
    ///
    /// # Errors
    /// No port, no process; files of `tls` that cannot be used.
    pub(super) async fn start(
        count: u8,
        folder: Folder,
        flags: Vec<OsString>,
        tls: &TlsFlags,
    ) -> Result<Self, CliError> {
        let failed = |error: io::Error| CliError::Failed(format!("cannot prepare the cluster: {error}"));
        let names: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
        let mut ports = Vec::new();
        for name in &names {
            let (client, peer) = (reserve().map_err(failed)?, reserve().map_err(failed)?);
            ports.push((name.clone(), client, peer));
        }
        let peers: Vec<_> = ports.iter().map(|(name, _, (_, peer))| (name.clone(), *peer)).collect();
        let clients = ports.iter().map(|(name, (_, client), _)| (name.clone(), client.to_string())).collect();
        let names_of = Names::fixed(clients).await.map_err(|error| CliError::Failed(error.to_string()))?;
        let mut reach: Arc<dyn Reach> = Arc::new(names_of);
        if has_client_tls(&flags) {
            let host_of = Box::new(|_: &str| Some(Ipv4Addr::LOCALHOST.to_string()));
            reach = Arc::new(UnderTls::new(reach, tls.connector()?, host_of));
        }
        let relays = Relays::start(&peers).await.map_err(failed)?;
        let directory = folder.path().to_owned();
        let member = |(name, client, peer): (String, (TcpSocket, SocketAddr), (TcpSocket, SocketAddr))| {
            let listed =
                names.iter().map(|to| format!("{to}/{}", relays.address(&name, to).unwrap_or(peer.1)));
            let list = listed.collect::<Vec<_>>().join(",");
            let node = Node {
                client: client.1.to_string(),
                peer: peer.1.to_string(),
                data: directory.join(&name),
                log: directory.join(format!("{name}.log")),
                name,
            };
            Member { node, list, running: None, is_paused: false, _ports: [client.0, peer.0] }
        };
        let members = ports.into_iter().map(member).collect();
        // A node that told others where it is would be reached past its relays.
        let secret = secret_flags(&directory, &flags)?;
        // A wiped node joins again within the time that its fault has.
        let is_given = |flag: &OsString| flag.to_string_lossy().starts_with("--replace-after");
        let replace = (!flags.iter().any(is_given)).then(|| REPLACE_AFTER.into());
        let own = std::iter::once("--hide-peer-addr".into()).chain(replace);
        let flags = own.chain(secret).chain(flags).collect();
        let mut cluster = Self { members, relays, folder, reach, flags };
        cluster.start_those_down().map_err(|trouble| CliError::Failed(trouble.0))?;
        Ok(cluster)
    }

    /// Ends all nodes, those that do not within [`STOP_TIMEOUT`] or once `hurry` completes by force. Returns where data
    /// and logs are left, if they are.
    pub(super) async fn end(mut self, keep: bool, hurry: impl Future<Output = ()>) -> Option<PathBuf> {
        let mut running: Vec<Running> =
            self.members.iter_mut().filter_map(|member| member.running.take()).collect();
        for node in &running {
            node.terminate();
            // Of those that are paused nothing ends.
            node.signal(Signal::CONT);
        }
        self.relays.heal();
        let ended = async {
            for node in &mut running {
                node.wait().await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = tokio::time::sleep(STOP_TIMEOUT) => {}
            () = hurry => {}
        }
        for node in running.iter_mut().filter(|node| node.ended.is_none()) {
            node.kill().await;
        }
        drop(running);
        self.folder.close(keep)
    }

    fn struck<'a>(&'a mut self, victims: &'a [String]) -> impl Iterator<Item = &'a mut Member> {
        self.members.iter_mut().filter(|member| victims.contains(&member.node.name))
    }

    fn start_those_down(&mut self) -> Result<(), Trouble> {
        for member in self.members.iter_mut().filter(|member| member.running.is_none()) {
            let started = Running::start(member.node.clone(), &member.list, &self.flags);
            let failed = |error| Trouble(format!("cannot start node {}: {error}", member.node.name));
            member.running = Some(started.map_err(failed)?);
        }
        Ok(())
    }

    /// Ends the victims at once.
    async fn kill(&mut self, victims: &[String]) {
        for member in self.struck(victims) {
            member.signal(Signal::KILL);
        }
        for member in self.struck(victims) {
            if let Some(running) = &mut member.running {
                running.kill().await;
            }
            member.running = None;
        }
    }

    /// Asks the victims to end and waits until they have.
    async fn stop(&mut self, victims: &[String]) -> Result<(), Trouble> {
        for member in self.struck(victims) {
            member.signal(Signal::TERM);
        }
        for member in self.struck(victims) {
            let Some(running) = &mut member.running else { continue };
            if timeout(STOP_TIMEOUT, running.wait()).await.is_err() {
                let seconds = STOP_TIMEOUT.as_secs();
                return Err(Trouble(format!("node {} did not stop within {seconds} s", member.node.name)));
            }
            if !running.ended.is_some_and(|status| status.success()) {
                return Err(Trouble(running.obituary()));
            }
            member.running = None;
        }
        Ok(())
    }

    fn pause(&mut self, victims: &[String]) {
        for member in self.struck(victims) {
            member.is_paused = true;
            member.signal(Signal::STOP);
        }
    }

    async fn wipe(&mut self, victims: &[String]) -> Result<(), Trouble> {
        self.kill(victims).await;
        for member in self.struck(victims) {
            fs::remove_dir_all(&member.node.data)
                .map_err(|error| Trouble(format!("cannot delete {}: {error}", member.node.data.display())))?;
        }
        Ok(())
    }
}

impl Member {
    fn signal(&self, signal: Signal) {
        if let Some(running) = &self.running {
            running.signal(signal);
        }
    }
}

impl Target for DevCluster {
    fn reach(&self) -> Arc<dyn Reach> {
        Arc::clone(&self.reach)
    }

    fn service(&self) -> Option<Arc<dyn Reach>> {
        None
    }

    fn look_interval(&self) -> Duration {
        Duration::from_millis(50)
    }

    async fn look(&mut self) -> Result<Health, Trouble> {
        for running in self.members.iter_mut().filter_map(|member| member.running.as_mut()) {
            if running.has_just_ended() || running.ended.is_some() {
                return Err(Trouble(running.obituary()));
            }
        }
        Ok(Health::ask(&self.reach, self.reach.members()).await)
    }

    async fn strike(&mut self, kind: &Kind, victims: &[String]) -> Result<(), Trouble> {
        match kind {
            Kind::Kill => self.kill(victims).await,
            Kind::Stop => self.stop(victims).await?,
            Kind::Wipe => self.wipe(victims).await?,
            Kind::Pause => self.pause(victims),
            Kind::Cut(direction) => self.relays.set(victims, *direction, Flow::Silent),
            Kind::Refuse => self.relays.set(victims, Direction::Both, Flow::Refused),
            Kind::Delete | Kind::Force | Kind::Command(_) => {
                return Err(Trouble(format!("`{kind}` cannot be done to processes")));
            }
        }
        self.start_those_down()
    }

    fn lasts(&self, kind: &Kind) -> bool {
        matches!(kind, Kind::Pause | Kind::Cut(_) | Kind::Refuse)
    }

    async fn heal(&mut self) -> Result<(), Trouble> {
        self.relays.heal();
        for member in self.members.iter_mut().filter(|member| member.is_paused) {
            member.is_paused = false;
            member.signal(Signal::CONT);
        }
        self.start_those_down()
    }
}

/// Whether these flags of `serve` turn TLS on for clients. Of flags that make no sense the nodes will tell.
fn has_client_tls(flags: &[OsString]) -> bool {
    let node = ["--name=1", "--initial-cluster=1/127.0.0.1:1"].map(OsString::from);
    let config = Config::load(node.into_iter().chain(flags.iter().cloned()), |_| None);
    config.is_ok_and(|config| config.tls.client.is_some())
}

/// A port that nobody else is given as long as the socket is there.
fn reserve() -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    // So that the node can bind it, too.
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::cli::chaos::faults::parse;

    #[test]
    fn the_default_faults_are_faults() {
        for word in DEFAULT {
            parse(word, &KINDS).unwrap();
        }
    }

    #[test]
    fn a_folder_must_be_empty_and_only_ours_is_deleted() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("new");
        assert_eq!(Folder::open(Some(&path)).unwrap().close(false), Some(path.clone()));
        fs::write(path.join("notes"), "mine").unwrap();
        let message = Folder::open(Some(&path)).err().unwrap().to_string();
        assert!(message.contains("is not empty"), "{message}");

        let temporary = |keep: bool| {
            let folder = Folder::open(None).unwrap();
            let path = folder.path().to_owned();
            (path, folder.close(keep))
        };
        let (path, left) = temporary(false);
        assert!(!path.exists() && left.is_none());
        let (path, left) = temporary(true);
        assert!(path.exists() && left.as_ref() == Some(&path));
        fs::remove_dir(path).unwrap();
    }

    #[test]
    fn clients_speak_tls_where_the_nodes_flags_say_so() {
        let has = |flags: &[&str]| has_client_tls(&flags.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(has(&["--client-tls-cert=a", "--client-tls-key", "b"]));
        assert!(!has(&["--log-level=warn"]) && !has(&["--client-tls-cert=a"]) && !has(&["--no-such-flag"]));
    }

    #[tokio::test]
    async fn a_reserved_port_is_free_for_the_node_alone() {
        let (socket, address) = reserve().unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens yet");
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        TcpStream::connect(address).await.unwrap();
        drop((listener, socket));
    }
}
