//! Which nodes a local cluster has, where they listen, and where their data is.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::CliError;

/// Most nodes of a local cluster.
pub(in crate::cli) const NODES_MAX: u8 = 7;
/// Nodes unless told otherwise.
pub(in crate::cli) const NODES_DEFAULT: u8 = 3;
/// What marks a folder as one of `dev`'s and says how many nodes its cluster was formed with.
const MARKER: &str = "dev.toml";

/// One node to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Node {
    /// Its `--name`: 1, 2, …
    pub(in crate::cli) name: String,
    /// `host:port` for clients.
    pub(in crate::cli) client: String,
    /// `host:port` for peers.
    pub(in crate::cli) peer: String,
    /// Its data.
    pub(in crate::cli) data: PathBuf,
    /// Its output.
    pub(in crate::cli) log: PathBuf,
}

/// The marker's content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    nodes: u8,
}

/// Nodes below `dir`, each with two ports from `base_port` on: for peers, then for clients.
pub(super) fn nodes(dir: &Path, count: u8, base_port: u16) -> Result<Vec<Node>, CliError> {
    let last = u32::from(base_port) + 2 * u32::from(count) - 1;
    if base_port == 0 || last > u32::from(u16::MAX) {
        let message = format!("--base-port {base_port} leaves no room for {count} nodes with two ports each");
        return Err(CliError::Usage(message));
    }
    let node = |number: u8| {
        let peer_port = base_port + 2 * u16::from(number - 1);
        Node {
            name: number.to_string(),
            client: format!("{}:{}", Ipv4Addr::LOCALHOST, peer_port + 1),
            peer: format!("{}:{peer_port}", Ipv4Addr::LOCALHOST),
            data: dir.join(number.to_string()),
            log: dir.join(format!("{number}.log")),
        }
    };
    Ok((1..=count).map(node).collect())
}

/// The value of `--initial-cluster`.
pub(super) fn initial_cluster(nodes: &[Node]) -> String {
    nodes.iter().map(|node| format!("{}/{}", node.name, node.peer)).collect::<Vec<_>>().join(",")
}

/// Checks that nothing listens where the nodes are to.
pub(super) fn check_ports(nodes: &[Node]) -> Result<(), CliError> {
    for address in nodes.iter().flat_map(|node| [&node.peer, &node.client]) {
        if let Err(error) = TcpListener::bind(address) {
            let message = match error.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "{address} is in use by another process: stop that, or choose other ports with --base-port"
                ),
                _ => format!("cannot listen on {address}: {error}; choose other ports with --base-port"),
            };
            return Err(CliError::Failed(message));
        }
    }
    Ok(())
}

/// The folder of a local cluster, held by one `dev` at a time.
pub(super) struct Folder {
    dir: PathBuf,
    /// Locked as long as this lives.
    marker: File,
}

impl Folder {
    /// Makes the folder if it is not there, and locks it.
    pub(super) fn open(dir: &Path) -> Result<Self, CliError> {
        fs::create_dir_all(dir).map_err(|error| failed("create", dir, &error))?;
        let path = dir.join(MARKER);
        let marker = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let marker = marker.map_err(|error| failed("open", &path, &error))?;
        match marker.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), marker }),
            Err(TryLockError::WouldBlock) => Err(CliError::Failed(format!(
                "another `kuberaft dev` runs in {}: stop it, or choose another --data-dir and --base-port",
                dir.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path, &error)),
        }
    }

    /// How many nodes to start: as many as the cluster in it was formed with, if there is one.
    pub(super) fn node_count(&self, asked: Option<u8>) -> Result<u8, CliError> {
        let text = self.read()?;
        if text.is_empty() {
            return Ok(asked.unwrap_or(NODES_DEFAULT));
        }
        let marker =
            toml::from_str::<Marker>(&text).ok().filter(|marker| (1..=NODES_MAX).contains(&marker.nodes));
        let Some(Marker { nodes: formed }) = marker else {
            let path = self.dir.join(MARKER);
            return Err(CliError::Failed(format!("{} is damaged: start again with --fresh", path.display())));
        };
        match asked {
            Some(asked) if asked != formed => Err(CliError::Failed(format!(
                "{} holds a cluster of {formed} nodes: leave --nodes out to continue with it, or start again with \
                 --fresh",
                self.dir.display()
            ))),
            _ => Ok(formed),
        }
    }

    /// Notes that a cluster of so many nodes is here.
    pub(super) fn mark(&self, nodes: u8) -> Result<(), CliError> {
        let text = toml::to_string(&Marker { nodes }).expect("a number is TOML");
        let written = self.marker.set_len(0).and_then(|()| self.marker.write_all_at(text.as_bytes(), 0));
        written.map_err(|error| failed("write", &self.dir.join(MARKER), &error))
    }

    /// Deletes the data and logs of all nodes, and nothing else that may be there. Does so only in a folder that was
    /// marked.
    pub(super) fn clear(&self) -> Result<(), CliError> {
        let marked = !self.read()?.is_empty();
        for node in nodes(&self.dir, NODES_MAX, 1)? {
            if !marked && node.data.exists() {
                let path = node.data.display();
                return Err(CliError::Failed(format!(
                    "{path} was not made by `kuberaft dev`, so --fresh leaves it alone: choose another --data-dir"
                )));
            }
            absent_is_fine(fs::remove_dir_all(&node.data))
                .map_err(|error| failed("delete", &node.data, &error))?;
            absent_is_fine(fs::remove_file(&node.log))
                .map_err(|error| failed("delete", &node.log, &error))?;
        }
        let secret = self.dir.join(super::secret::FILE);
        absent_is_fine(fs::remove_file(&secret)).map_err(|error| failed("delete", &secret, &error))?;
        self.marker.set_len(0).map_err(|error| failed("empty", &self.dir.join(MARKER), &error))
    }

    fn read(&self) -> Result<String, CliError> {
        let path = self.dir.join(MARKER);
        fs::read_to_string(&path).map_err(|error| failed("read", &path, &error))
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> CliError {
    CliError::Failed(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_ports_and_folders_of_its_own() {
        let nodes = nodes(Path::new("dir"), 3, 7000).unwrap();
        assert_eq!(initial_cluster(&nodes), "1/127.0.0.1:7000,2/127.0.0.1:7002,3/127.0.0.1:7004");
        assert_eq!(nodes[2].client, "127.0.0.1:7005");
        assert_eq!(nodes[2].data, Path::new("dir/3"));
        assert_eq!(nodes[2].log, Path::new("dir/3.log"));
    }

    #[test]
    fn the_default_ports_are_the_clients_default_endpoints() {
        let nodes = nodes(Path::new("dir"), 3, super::super::BASE_PORT).unwrap();
        let clients: Vec<_> = nodes.into_iter().map(|node| node.client).collect();
        assert_eq!(clients.join(","), crate::cli::endpoints::DEFAULT);
    }

    #[test]
    fn ports_must_fit() {
        assert!(nodes(Path::new("dir"), 7, 65522).is_ok());
        assert!(nodes(Path::new("dir"), 7, 65523).unwrap_err().to_string().contains("leaves no room"));
        assert!(nodes(Path::new("dir"), 1, 0).is_err());
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let mut node = nodes(Path::new("dir"), 1, 7000).unwrap();
        node[0].peer.clone_from(&address);
        let message = check_ports(&node).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("{address} is in use")) && message.contains("--base-port"),
            "{message}"
        );
    }

    #[test]
    fn a_formed_cluster_keeps_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("new")).unwrap();
        assert_eq!(folder.node_count(None).unwrap(), 3);
        assert_eq!(folder.node_count(Some(5)).unwrap(), 5);
        folder.mark(5).unwrap();
        assert_eq!(folder.node_count(None).unwrap(), 5);
        assert_eq!(folder.node_count(Some(5)).unwrap(), 5);
        assert!(folder.node_count(Some(3)).unwrap_err().to_string().contains("holds a cluster of 5 nodes"));
        folder.mark(99).unwrap();
        assert!(folder.node_count(None).unwrap_err().to_string().contains("--fresh"));
    }

    #[test]
    fn one_folder_has_one_dev() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::open(dir.path()).unwrap();
        let message = Folder::open(dir.path()).err().unwrap().to_string();
        assert!(message.contains("another `kuberaft dev` runs in"), "{message}");
        drop(first);
        assert!(Folder::open(dir.path()).is_ok());
    }

    #[test]
    fn a_fresh_start_deletes_only_what_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::create_dir_all(path.join("1/wal")).unwrap();
        let folder = Folder::open(path).unwrap();
        assert!(folder.clear().unwrap_err().to_string().contains("was not made by `kuberaft dev`"));
        assert!(path.join("1/wal").exists());

        folder.mark(3).unwrap();
        fs::write(path.join("1.log"), "").unwrap();
        fs::write(path.join("notes.txt"), "mine").unwrap();
        folder.clear().unwrap();
        let mut left: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [MARKER, "notes.txt"]);
    }
}
