//! A real file system of a few megabytes: a tmpfs in a mount namespace of its own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kuberaft::storage::space::free_bytes;

use super::cluster::Node;
use super::report;

/// What other files take the space by.
const FILLER: &str = "filler";

/// A small disk in the place of a node's data directory. It is there for the node that is run by [`SmallDisk::hold`]
/// only, stays over its restarts, and ends with this.
pub(super) struct SmallDisk {
    /// Keeps the namespace.
    holder: Child,
    /// The disk, as seen from outside of the namespace.
    outside: PathBuf,
}

impl SmallDisk {
    /// Puts one under a node that has not been started yet. `None` where the system does not let us, which is told.
    pub(super) fn hold(node: &mut Node, bytes: u64) -> Option<Self> {
        let place = node.data();
        fs::create_dir_all(&place).unwrap();
        let script = format!("mount -t tmpfs -o size={bytes} tmpfs \"$0\" && echo mounted && exec cat");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).arg(&place);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mounted = spawned.ok().and_then(|mut holder| {
            let mut line = String::new();
            let read = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line);
            if read.is_ok() && line == "mounted\n" {
                return Some(holder);
            }
            let _ = holder.wait();
            None
        });
        let Some(holder) = mounted else {
            report("SKIPPED, nothing was checked: a file system cannot be mounted here (that takes root)");
            return None;
        };
        let id = holder.id().to_string();
        // Entering the namespace changes the directory.
        let enter = ["nsenter", "--mount", "--target", &id, "sh", "-c", "cd \"$0\" && exec \"$@\""];
        node.wrapper =
            enter.map(str::to_owned).into_iter().chain([node.home().display().to_string()]).collect();
        let inside = place.strip_prefix("/").unwrap();
        let outside = Path::new("/proc").join(id).join("root").join(inside);
        Some(Self { holder, outside })
    }

    /// A file on it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.outside.join(name)
    }

    pub(super) fn free_bytes(&self) -> u64 {
        free_bytes(&self.outside).unwrap()
    }

    /// Other files take all but so many bytes.
    pub(super) fn fill_but(&self, bytes: u64) {
        let mut file = File::options().create(true).append(true).open(self.path(FILLER)).unwrap();
        let mut piece = vec![1; 1 << 20];
        while let Some(more) = self.free_bytes().checked_sub(bytes).filter(|more| *more > 0) {
            let more = usize::try_from(more).unwrap().min(piece.len());
            match file.write_all(&piece[..more]) {
                Ok(()) => {}
                // Full already, however much is said to be free.
                Err(error) if error.kind() == ErrorKind::StorageFull && piece.len() > 4096 => {
                    piece.truncate(4096);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StorageFull);
                    return;
                }
            }
        }
    }

    /// They give it back.
    pub(super) fn free(&self) {
        fs::remove_file(self.path(FILLER)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
