//! Starts and ends of processes.

use std::path::Path;
use std::sync::PoisonError;

use super::agenda::Event;
use super::clients::Ending;
use super::cluster::{Cluster, DIRECTORY, options};
use super::disk::Crash;
use super::invariants::Found;
use super::node::{Process, Standing};
use super::snapshots::RESERVE_BYTES;
use super::trace::Happening;
use crate::raft::HardState;
use crate::replica::recovery::{Disk as OnDisk, RecoveryError, recover};
use crate::storage::wal::{Owner, Recovered, Wal};
use crate::storage::{Fit, StateStore, StorageError, check_fit};
use crate::types::{Instant, LogPosition};

/// From an opened log to a process that runs.
const RECOVERY_MICROS: u64 = 1000;

impl Cluster {
    /// Starts a node if it may be started and does not run.
    pub(super) fn restart_planned(&mut self, node: usize) {
        let machine = &self.machines[node];
        if machine.process.is_none() && machine.founder.is_none() && machine.standing == Standing::Fit {
            self.start(node);
        }
    }

    pub(super) fn start(&mut self, node: usize) {
        let (id, files) = (self.machines[node].id, self.machines[node].files.clone());
        let machine = &mut self.machines[node];
        machine.incarnation += 1;
        (machine.fuse, machine.paused_until) = (None, self.now);
        files.disk().begin(self.now);
        let recovered = match self.settle_directory(node) {
            Ok(Some(cluster_id)) => self.recover(node, Owner { node_id: id, cluster_id }),
            Ok(None) => return self.start_founder(node),
            Err(error) => Err(error.into()),
        };
        match recovered {
            Ok(process) => {
                let at = Instant(files.disk().end().0 + RECOVERY_MICROS);
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

    fn recover(&mut self, node: usize, owner: Owner) -> Result<Process, RecoveryError> {
        let node_id = owner.node_id;
        let machine = &self.machines[node];
        let (files, directory) = (machine.files.clone(), Path::new(DIRECTORY));
        let (wal, found) = Wal::open(files, directory, owner, options(&self.setup))?;
        let state = machine.state.open();
        let begins_anew = check_fit(directory, &found, state.checkpoint())? == Fit::BeginsAnew;
        let entries = match found.before.index.next() {
            first if first <= found.last.index => wal.read(first, found.last.index, usize::MAX)?,
            _ => Vec::new(),
        };
        let (mut hard_state, last) = (found.hard_state, found.last);
        let Recovered { commit_index, .. } = found;
        let LogPosition { index: covered, term } = state.checkpoint().applied;
        if begins_anew && hard_state.term < term {
            // As recovery does.
            hard_state = HardState { term, voted_for: None };
        }
        if !std::mem::replace(&mut self.machines[node].directory.was_opened, true) {
            let joined = self.invariants.joined(node, node_id, hard_state, &entries);
            self.check(joined);
        }
        let found_there = Found {
            hard_state,
            before: found.before.index,
            entries: &entries,
            applied: commit_index.max(covered),
            begins_anew: begins_anew.then_some(covered),
        };
        let checked = self.invariants.recovered(node, &found_there);
        self.check(checked);
        let seed = self.machines[node].random.next_u64();
        let first_id = self.machines[node].random.next_u64();
        let now = self.machines[node].clock.local(self.now);
        // Recovery writes a checkpoint once the log is flushed, and not at once as this code runs.
        let flushed_at = self.machines[node].files.disk().end();
        self.machines[node].state.begin(flushed_at, Instant(flushed_at.0 + RECOVERY_MICROS));
        let disk = OnDisk { node_id, wal, found, state };
        let recovered = recover(disk, self.setup.raft.clone(), seed, now)?;
        let applied = recovered.applied;
        self.trace.note(self.now, [9, node as u64, last.index.0], || Happening::Started {
            node,
            term: hard_state.term,
            last,
            applied,
        });
        let view = recovered.store.read().unwrap_or_else(PoisonError::into_inner).view();
        let found: Vec<_> = view.records().collect();
        let checked = self.invariants.applied(node, &found);
        let checked = checked.and_then(|()| self.invariants.stands_at(node, applied, view.hash()));
        self.check(checked);
        Ok(Process::new(recovered, first_id))
    }

    pub(super) fn on_started(&mut self, node: usize) {
        self.process(node).runs = true;
        self.invariants.started(node);
        self.prepare_segment(node);
        if self.machines[node].free_bytes < RESERVE_BYTES {
            self.tell_space(node);
        }
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
        machine.spoiled = false;
        machine.files.disk().crash(now, crash);
        machine.directory.crash(now, &mut machine.random);
        if machine.founder.take().is_some() {
            self.tell(|| format!("n{} ended before it was in a cluster: {why}", node + 1));
            return;
        }
        let Some(process) = machine.process.take() else {
            if crash == Crash::PowerLost {
                self.tell(|| format!("n{} loses power while it is down", node + 1));
            }
            return;
        };
        machine.state.crash(now, &mut machine.random);
        self.invariants.crashed(node);
        self.churn.forget(node);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::setup::Setup;

    impl Cluster {
        /// Goes on for so long.
        fn run_for(&mut self, micros: u64) {
            self.run_to(Instant(self.now().0 + micros));
        }

        /// The disk of a node flushes nothing for so long.
        fn stall(&mut self, node: usize, micros: u64) {
            let until = Instant(self.now().0 + micros);
            self.with_disk(node, |disk| disk.stall(until));
        }
    }

    /// Seed 2603: a start that was killed while it flushed the log left a checkpoint of what it read from there.
    #[test]
    fn a_start_that_is_killed_leaves_no_checkpoint_ahead_of_the_log() {
        for seed in 0..20 {
            let mut cluster = Cluster::new(Setup::calm(seed, 3));
            assert!(cluster.run_until(Instant(5_000_000), Cluster::is_led));
            let leader = cluster.leader().unwrap();
            // The others commit what waits for the leader's disk; its next record knows of that.
            cluster.stall(leader, 200_000);
            for key in ["a", "b", "c", "d"] {
                cluster.put(leader, key, key);
                cluster.run_for(30_000);
            }
            cluster.stall(leader, 1_000_000);
            cluster.run_for(150_000);
            cluster.crash(leader, Crash::Killed, "while its log is flushed");
            cluster.restart(leader);
            assert!(cluster.applied(leader) > Some(cluster.invariants.durable(leader).index));
            cluster.run_for(10_000);
            cluster.crash(leader, Crash::Killed, "while its log is flushed at the start");
            cluster.crash(leader, Crash::PowerLost, "while it is down");
            cluster.restart(leader);
            assert_eq!(cluster.violation(), None, "seed {seed}");
        }
    }

    /// After a node installed a snapshot, its log holds no entry and so no time. If that node is the first leader after a
    /// restart, its entries must still have later times than those that the snapshot covers.
    #[test]
    fn the_logs_clock_continues_at_a_leader_that_started_behind_a_snapshot() {
        let mut setup = Setup::calm(1, 3);
        (setup.raft.trailing_entries, setup.raft.transfer_log_entries_max) = (0, 10);
        (setup.checkpoint_interval, setup.segment_bytes) = (50_000, 8 << 10);
        let mut cluster = Cluster::new(setup);
        assert!(cluster.run_until(Instant(5_000_000), Cluster::is_led));
        let leader = cluster.leader().unwrap();
        let away = (leader + 1) % 3;
        cluster.crash(away, Crash::Killed, "away");
        cluster.keep_down(away);
        for _ in 0..50 {
            cluster.put(leader, "key", &"v".repeat(1000));
            cluster.run_for(100_000);
        }
        cluster.restart(away);
        let limit = Instant(cluster.now().0 + 5_000_000);
        assert!(cluster.run_until(limit, |cluster| cluster.applied(away) == cluster.applied(leader)));
        let status = cluster.status(away).unwrap();
        assert!(status.first_log_index > status.last_log_index, "its log is empty behind the snapshot");
        for node in 0..3 {
            cluster.hold_elections(node, true);
            cluster.crash(node, Crash::Killed, "all restart");
            cluster.restart(node);
        }
        cluster.run_for(2_000_000);
        assert_eq!(cluster.leader(), None);
        cluster.time_out(away);
        let limit = Instant(cluster.now().0 + 5_000_000);
        let leads = cluster.run_until(limit, |cluster| cluster.leader() == Some(away));
        assert_eq!((cluster.violation(), leads), (None, true));
        cluster.put(away, "key", "later");
        cluster.run_for(1_000_000);
        assert_eq!(cluster.violation(), None);
        assert_eq!(cluster.value(leader, b"key").unwrap().value, "later");
    }
}
