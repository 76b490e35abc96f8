//! A node as a child process: started, watched, stopped by its own process id.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::plan::Node;

/// How much of a dead node's log is shown, in bytes and lines.
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 8;

/// A node and its process.
pub(in crate::cli) struct Running {
    pub(in crate::cli) node: Node,
    child: Child,
    /// Set once it has ended and was waited for.
    pub(in crate::cli) ended: Option<ExitStatus>,
}

impl Running {
    /// Starts the node. Its output goes to its log file. It dies with this process, whatever ends that.
    pub(in crate::cli) fn start(node: Node, initial_cluster: &str, extra: &[OsString]) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&node.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--name", &node.name, "--client-addr", &node.client, "--peer-addr", &node.peer])
            .args(["--initial-cluster", initial_cluster, "--data-dir"])
            .arg(&node.data)
            .arg(format!("--exit-with-parent={}", std::process::id()))
            .args(extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C goes to the terminal's whole group; the nodes are stopped in order instead.
            .process_group(0)
            .kill_on_drop(true);
        // Settings of one node, such as an address, must not reach all of them.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KUBERAFT_") {
                command.env_remove(name);
            }
        }
        Ok(Self { child: command.spawn()?, node, ended: None })
    }

    /// Whether it ended since the last look.
    pub(in crate::cli) fn has_just_ended(&mut self) -> bool {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.ended = Some(status);
            return true;
        }
        false
    }

    /// Asks it to end.
    pub(in crate::cli) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal, unless it has ended.
    pub(in crate::cli) fn signal(&self, signal: Signal) {
        // Not waited for yet, so the id is still its own.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It can only fail because the process has ended already.
            let _ = kill_process(id, signal);
        }
    }

    /// Ends it at once and waits until it is gone.
    pub(in crate::cli) async fn kill(&mut self) {
        // It can only fail because the process has ended already.
        let _ = self.child.kill().await;
        self.ended = self.child.try_wait().ok().flatten();
    }

    /// Waits until it has ended.
    pub(in crate::cli) async fn wait(&mut self) {
        if self.ended.is_none() {
            self.ended = self.child.wait().await.ok();
        }
    }

    /// How it ended, with the end of its log; for people.
    pub(in crate::cli) fn obituary(&self) -> String {
        use std::os::unix::process::ExitStatusExt;
        let how = match self.ended.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => format!("with exit code {code}"),
            Some((None, Some(signal))) => format!("by signal {signal}"),
            _ => "in an unknown way".to_owned(),
        };
        let log = self.node.log.display();
        let tail = File::open(&self.node.log).and_then(tail).unwrap_or_default();
        let colon = if tail.is_empty() { "" } else { ", the end of it:\n  | " };
        let lines = tail.join("\n  | ");
        format!("node {} ended {how}; its log is {log}{colon}{lines}", self.node.name)
    }
}

/// The last lines of a file.
fn tail(mut file: File) -> io::Result<Vec<String>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_of_a_long_file() {
        let mut file = tempfile::tempfile().unwrap();
        for number in 0..10_000 {
            writeln!(file, "line {number}").unwrap();
        }
        let lines = tail(file).unwrap();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines.last().unwrap(), "line 9999");
        assert!(tail(tempfile::tempfile().unwrap()).unwrap().is_empty());
    }
}
