//! Starts and ends of processes.

use std::path::Path;

use super::agenda::Event;
use super::clients::Ending;
use super::cluster::{Cluster, DIRECTORY, options, owner};
use super::disk::Crash;
use super::node::{Process, Standing};
use super::trace::Happening;
use crate::replica::recovery::{Disk as OnDisk, RecoveryError, recover};
use crate::storage::data_dir::check_fit;
use crate::storage::wal::{Recovered, Wal};
use crate::storage::{StateStore, StorageError};
use crate::types::{Instant, LogIndex, NodeId};

impl Cluster {
    /// Starts a node if it may be started and does not run.
    pub(super) fn restart_planned(&mut self, node: usize) {
        let machine = &self.machines[node];
        if machine.process.is_none() && machine.standing == Standing::Fit {
            self.start(node);
        }
    }

    pub(super) fn start(&mut self, node: usize) {
        let (id, files) = (self.machines[node].id, self.machines[node].files.clone());
        let machine = &mut self.machines[node];
        machine.incarnation += 1;
        (machine.fuse, machine.paused_until) = (None, self.now);
        files.disk().begin(self.now);
        match self.recover(node, id) {
            Ok(process) => {
                let at = Instant(files.disk().end().0 + 1000);
                self.machines[node].process = Some(Box::new(process));
                let incarnation = self.incarnation(node);
                self.add(at, Event::Started { node, incarnation });
            }
            Err(error) => {
                let why = error.to_string();
                self.trace.note(self.now, [8, node as u64, 0], || Happening::Down { node, why: why.clone() });
                if let RecoveryError::Storage(StorageError::Disk { .. }) = error {
                    // As if the process had been killed while it started.
                    self.machines[node].files.disk().crash(self.now, Crash::Killed);
                    self.plan_restart(node);
                } else if self.machines[node].flipped {
                    self.machines[node].standing = Standing::Damaged;
                } else {
                    self.report("a restart loses nothing", format!("n{} cannot start: {why}", node + 1));
                }
            }
        }
    }

    fn recover(&mut self, node: usize, node_id: NodeId) -> Result<Process, RecoveryError> {
        let machine = &self.machines[node];
        let (files, directory) = (machine.files.clone(), Path::new(DIRECTORY));
        let (wal, found) = Wal::open(files, directory, owner(node_id), options(&self.setup))?;
        let state = machine.state.open();
        check_fit(directory, &found, state.checkpoint())?;
        let entries = wal.read(LogIndex(1), found.last.index, usize::MAX)?;
        let (hard_state, last) = (found.hard_state, found.last);
        let Recovered { commit_index, .. } = found;
        let covered = state.checkpoint().applied.index;
        let checked = self.invariants.recovered(node, hard_state, &entries, commit_index.max(covered));
        self.check(checked);
        let seed = self.machines[node].random.next_u64();
        let first_id = self.machines[node].random.next_u64();
        let now = self.machines[node].clock.local(self.now);
        let disk = OnDisk { node_id, wal, found, state };
        let recovered = recover(disk, self.setup.raft.clone(), seed, now)?;
        let applied = recovered.applied;
        self.trace.note(self.now, [9, node as u64, last.index.0], || Happening::Started {
            node,
            term: hard_state.term,
            last,
            applied,
        });
        Ok(Process::new(recovered, first_id))
    }

    pub(super) fn on_started(&mut self, node: usize) {
        self.process(node).runs = true;
        self.invariants.started(node);
        self.prepare_segment(node);
        let incarnation = self.incarnation(node);
        self.add_in(self.setup.checkpoint_interval, Event::Checkpoint { node, incarnation });
        self.wake(node);
    }

    /// The process stops by itself, as production's would.
    pub(super) fn halt(&mut self, node: usize, why: &str) {
        self.end_process(node, Crash::Killed, why);
        self.plan_restart(node);
    }

    fn plan_restart(&mut self, node: usize) {
        if let Some(most) = self.setup.restart_micros {
            let wait = self.random.between(10_000, most);
            self.add_in(wait, Event::Restart { node });
        }
    }

    pub(super) fn end_process(&mut self, node: usize, crash: Crash, why: &str) {
        let now = self.now;
        let machine = &mut self.machines[node];
        machine.fuse = None;
        machine.files.disk().crash(now, crash);
        let Some(process) = machine.process.take() else { return };
        machine.state.crash(now, &mut machine.random);
        self.invariants.crashed(node);
        self.trace.note(now, [10, node as u64, crash as u64], || Happening::Crashed {
            node,
            crash,
            why: why.to_owned(),
        });
        for token in process.waiting() {
            // A broken connection is seen at once; a machine without power is only silent.
            if crash == Crash::Killed && self.random.chance(700) {
                self.reply(token, Ending::Unknown);
            }
        }
    }
}
