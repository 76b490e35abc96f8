//! How clients and nodes meet: questions on their way, what a node does with them, answers on their way back.

use std::time::Duration;

use super::agenda::Event;
use super::checker::{Answer, Call};
use super::clients::{Ending, Question, Token, Told};
use super::cluster::Cluster;
use super::node::Request;
use super::trace::Happening;

/// A client waits this much longer than the node that it asked may take, in microseconds.
const GRACE: u64 = 500_000;

impl Cluster {
    pub(super) fn think(&mut self, client: usize) {
        let wait = self.clients.think(client);
        self.add_in(wait, Event::Think { client });
    }

    pub(super) fn on_think(&mut self, client: usize) {
        if self.clients_run && !self.clients.is_asking(client) {
            let (question, node) = self.clients.draw(client, self.machines.len());
            let node = self.reachable(node);
            self.ask_as(client, node, question);
        }
    }

    /// `node`, or a member that runs in its place, if all is calm and clients can know the members.
    fn reachable(&self, node: usize) -> usize {
        let leader = self.leader().filter(|_| self.is_calm && self.setup.churn.is_some());
        let members = leader.map(|leader| self.running_members(leader)).unwrap_or_default();
        if members.is_empty() { node } else { members[node % members.len()] }
    }

    /// Asks in the name of a client that does not wait for another answer.
    pub(super) fn ask_as(&mut self, client: usize, node: usize, question: Question) -> Token {
        let token = self.clients.ask(self.now, client, question.clone());
        self.send_question(token, node, 0, question);
        token
    }

    /// Sends a question on its way after `wait` microseconds.
    fn send_question(&mut self, token: Token, node: usize, wait: u64, question: Question) {
        let client = token.client;
        let timeout = self.clients.workload.timeout;
        self.trace.note(self.now, [11, client as u64, node as u64], || Happening::Asked {
            client,
            node,
            question,
        });
        let travels = 20 + self.random.around(100);
        self.add_in(wait + travels, Event::Request { node, token });
        self.add_in(wait + micros(timeout) + GRACE, Event::GiveUp { token });
    }

    pub(super) fn on_request(&mut self, node: usize, token: Token) {
        let Some(question) = self.clients.question(token) else { return };
        let timeout = self.clients.workload.timeout;
        let (is_stale, command) = (question.stale, question.command());
        let limit = self.setup.request_queue;
        let Some(process) = self.machines[node].process.as_mut().filter(|process| process.runs) else {
            // The connection is refused, or nobody answers.
            if self.random.chance(800) {
                self.reply(token, Ending::NotApplied);
            }
            return;
        };
        if is_stale {
            self.on_read_store(node, token);
            return;
        }
        if process.requests.len() >= limit {
            self.reply(token, Ending::NotApplied);
            return;
        }
        process.requests.push_back(match command {
            Some(command) => Request::Write { token, command, timeout },
            None => Request::Read { token, timeout },
        });
        self.wake(node);
    }

    /// The request's task looks into the state and answers.
    pub(super) fn on_read_store(&mut self, node: usize, token: Token) {
        let Some(Question { key, call: Call::Get, .. }) = self.clients.question(token) else { return };
        let key = key.clone();
        let answer = match self.value(node, &key) {
            Some(content) => {
                let revision = content.mod_revision;
                let checked = self.invariants.found(node, &key, &content.value, revision);
                self.check(checked);
                Answer::Found { value: content.value, mod_revision: Some(revision) }
            }
            None => Answer::Missing,
        };
        self.reply(token, Ending::Answered(answer));
    }

    /// Sends an answer on its way.
    pub(super) fn reply(&mut self, token: Token, ending: Ending) {
        if self.random.chance(self.lost_replies) {
            return;
        }
        let wait = 20 + self.random.around(100);
        self.add_in(wait, Event::Reply { token, ending });
    }

    pub(super) fn on_reply(&mut self, token: Token, ending: Ending) {
        let client = token.client;
        let told = self.clients.end(self.now, token, &ending);
        if told == Told::Late {
            return;
        }
        let kind = match &ending {
            Ending::Answered(_) => 0,
            Ending::NotApplied => 1,
            Ending::Unknown => 2,
        };
        self.trace.note(self.now, [12, client as u64, kind], || Happening::Answered { client, ending });
        if told == Told::AsksAgain {
            if let Some((token, node, wait, question)) = self.clients.ask_again(client, self.machines.len()) {
                let node = self.reachable(node);
                self.send_question(token, node, wait, question);
            }
        } else if client < self.clients.automatic() && self.clients_run {
            self.think(client);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2)
}
