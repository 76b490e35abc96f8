//! What can be done to a cluster from outside: by faults, and by hand.

use bytes::Bytes;

use super::checker::Call;
use super::clients::{Question, Token};
use super::cluster::Cluster;
use super::disk::{Crash, Disk};
use super::node::Standing;
use crate::kv::Condition;
use crate::raft::RoleName;
use crate::types::Instant;

impl Cluster {
    /// A node that was told to crash after some effects no longer does.
    pub fn defuse(&mut self, node: usize) {
        self.machines[node].fuse = None;
    }

    /// A node that does not run is not started any more but by [`Cluster::restart`].
    pub fn keep_down(&mut self, node: usize) {
        let standing = &mut self.machines[node].standing;
        if *standing == Standing::Fit {
            *standing = Standing::KeptDown;
        }
    }

    /// Of a thousand answers to clients, `of_thousand` are lost from now on.
    pub fn lose_replies(&mut self, of_thousand: u32) {
        self.lost_replies = of_thousand;
    }

    /// A node's process ends. With [`Crash::PowerLost`] its disk keeps only what was flushed for certain.
    pub fn crash(&mut self, node: usize, crash: Crash, why: &str) {
        self.end_process(node, crash, why);
    }

    /// Starts a node that does not run, unless its disk is damaged.
    pub fn restart(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if machine.standing == Standing::KeptDown {
            machine.standing = Standing::Fit;
        }
        self.restart_planned(node);
    }

    /// Nothing of a node's process runs for so long; its disk continues.
    pub fn pause(&mut self, node: usize, micros: u64) {
        let until = Instant(self.now.0 + micros);
        let machine = &mut self.machines[node];
        machine.paused_until = machine.paused_until.max(until);
    }

    /// Ends a pause.
    pub fn resume(&mut self, node: usize) {
        self.machines[node].paused_until = self.now;
        self.wake(node);
    }

    /// A node's process is killed after so many more effects: hand-overs to log and apply, sends, answers.
    pub fn crash_after(&mut self, node: usize, effects: u32) {
        self.machines[node].fuse = Some(effects);
    }

    /// A node's election timer (or whatever it waits for next) fires now: its clock jumps there.
    pub fn time_out(&mut self, node: usize) {
        let now = self.now;
        let machine = &mut self.machines[node];
        let Some(process) = machine.process.as_mut().filter(|process| process.runs) else { return };
        let wait = process.core.raft().next_deadline().since(machine.clock.local(now));
        machine.clock.jump(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX / 2));
        let held = std::mem::take(&mut machine.holds_elections);
        process.turn_at = None;
        self.on_turn(node);
        self.machines[node].holds_elections = held;
    }

    /// A candidate or pre-candidate asks for votes again at once: its clock jumps there. It has
    /// heard no leader for an election timeout, so it promises nothing that this breaks.
    pub fn stand_again(&mut self, node: usize) {
        let (now, machine) = (self.now, &mut self.machines[node]);
        let Some(process) = machine.process.as_ref().filter(|process| process.runs) else { return };
        let (raft, local) = (process.core.raft(), machine.clock.local(now));
        if matches!(raft.status(local).role, RoleName::PreCandidate | RoleName::Candidate) {
            let wait = raft.next_deadline().since(local);
            self.jump_clock(node, u64::try_from(wait.as_micros()).unwrap_or(u64::MAX / 2));
        }
    }

    /// Whether a node starts elections only by [`Cluster::time_out`].
    pub fn hold_elections(&mut self, node: usize, hold: bool) {
        self.machines[node].holds_elections = hold;
        self.wake(node);
    }

    /// A node's clock jumps forward.
    pub fn jump_clock(&mut self, node: usize, micros: u64) {
        self.machines[node].clock.jump(micros);
        self.wake(node);
    }

    /// A node's clock runs at `rate` microseconds in a million from now on.
    pub fn set_clock_rate(&mut self, node: usize, rate: u64) {
        let now = self.now;
        self.machines[node].clock.set_rate(now, rate);
        self.wake(node);
    }

    /// A node's disk, to make it fail.
    pub fn with_disk<T>(&mut self, node: usize, act: impl FnOnce(&mut Disk) -> T) -> T {
        act(&mut self.machines[node].files.disk())
    }

    /// Changes a stored bit of a node that does not run. Whether there was one.
    pub fn flip_bit(&mut self, node: usize) -> bool {
        let Some((path, at)) = self.with_disk(node, Disk::flip_bit) else { return false };
        self.machines[node].flipped = true;
        self.tell(|| format!("a bit flips on n{}'s disk: {}, byte {at}", node + 1, path.display()));
        true
    }

    /// Asks a node by hand; `Clients::take_ending` has the answer once it came.
    pub fn ask(&mut self, node: usize, question: Question) -> Token {
        let client = self.clients.automatic();
        self.ask_as(client, node, question)
    }

    /// Sets a key by hand.
    pub fn put(&mut self, node: usize, key: &str, value: &str) -> Token {
        let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
        let call = Call::Put { value, condition: Condition::Always };
        self.ask(node, Question { key, call, stale: false, name: None })
    }

    /// Changes the state in the memory of a running node, as no entry did.
    pub fn spoil_state(&mut self, node: usize) {
        self.tell(|| format!("the state of n{} is changed by hand", node + 1));
        self.machines[node].spoiled = true;
        self.process(node).spoil_state();
    }

    /// Reads a key by hand, linearizably.
    pub fn get(&mut self, node: usize, key: &str) -> Token {
        self.ask(
            node,
            Question { key: Bytes::from(key.to_owned()), call: Call::Get, stale: false, name: None },
        )
    }

    /// Whether clients ask by themselves.
    pub fn run_clients(&mut self, run: bool) {
        let ran = std::mem::replace(&mut self.clients_run, run);
        if run && !ran {
            for client in 0..self.clients.automatic() {
                if !self.clients.is_asking(client) {
                    self.think(client);
                }
            }
        }
    }
}
