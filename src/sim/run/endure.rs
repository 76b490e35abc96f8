//! Failures that last and are no crash: messages of one node pass in one direction only. The others can do without that
//! node, so the cluster must serve, under one leader, and each node must know whether it can serve.

use super::Runner;
use crate::raft::RoleName;
use crate::sim::cluster::Cluster;
use crate::sim::mix::Mix;

impl Runner {
    /// All nodes run and are led. Some links of one of them fail and stay so; then the links are whole again.
    pub(super) fn must_endure(&mut self) {
        let patience = self.patience();
        let nodes = self.cluster.setup().nodes;
        // A start may still find out that a disk is damaged, and a node whose disk was emptied is no member.
        let is_out = |cluster: &Cluster, node| cluster.is_lost(node) || cluster.is_outside(node);
        let all_run =
            |cluster: &Cluster| (0..nodes).all(|node| cluster.is_running(node) || is_out(cluster, node));
        let limit = self.cluster.now().after(patience);
        if !self.cluster.run_until(limit, |cluster| all_run(cluster) && cluster.is_led()) {
            let what = format!("no leader that all follow within {patience:?}: {}", self.cluster.summary());
            return self.cluster.report("liveness", what);
        }
        if nodes < 3 || (0..nodes).any(|node| is_out(&self.cluster, node)) {
            return;
        }
        self.fail_links();
        // A node that cannot serve may hold a request for its whole time: chance alone could lead a client there again
        // and again.
        self.cluster.clients.move_on = true;
        drop(self.cluster.clients.take_served());
        self.cluster.run_clients(true);
        let limit = self.cluster.now().after(patience);
        if !self.cluster.run_until(limit, |cluster| leads_a_majority(cluster) && cluster.clients.all_served())
        {
            let what =
                format!("one node's links fail: not served within {patience:?}: {}", self.cluster.summary());
            return self.cluster.report("liveness", what);
        }
        self.must_be_calm();
        self.cluster.clients.move_on = false;
        self.cluster.tell(|| "all links are whole again".to_owned());
        self.cluster.network.mend();
        self.cluster.run_clients(true);
    }

    fn fail_links(&mut self) {
        let nodes = self.cluster.setup().nodes;
        let leader = self.cluster.leader().filter(|_| self.random.chance(400));
        let node = leader.unwrap_or_else(|| self.random.index(nodes));
        for other in (0..nodes).filter(|other| *other != node) {
            let (from, to) = if self.random.chance(500) { (node, other) } else { (other, node) };
            if self.random.chance(300) {
                continue;
            }
            self.cluster.tell(|| format!("nothing gets from n{} to n{}, for long", from + 1, to + 1));
            if self.mix == Mix::RefusedPush {
                self.cluster.network.set_refused(from, to, true);
            } else {
                self.cluster.network.set_cut(from, to, true);
            }
        }
    }

    /// Leaders do not come and go, and each node knows where it stands.
    fn must_be_calm(&mut self) {
        let timeout = self.cluster.setup().raft.election_timeout;
        let cluster = &mut self.cluster;
        // They have been served, and would only make this long.
        cluster.run_clients(false);
        cluster.run_to(cluster.now().after(timeout * 20));
        let before = cluster.invariants.elections();
        cluster.run_to(cluster.now().after(timeout * 20));
        let won = cluster.invariants.elections() - before;
        let summary = cluster.summary();
        if won > 0 {
            cluster.report("liveness", format!("one node's links fail: {won} elections were won: {summary}"));
        }
        let Some(leader) = cluster.leader() else {
            return cluster.report("liveness", format!("one node's links fail: nobody leads: {summary}"));
        };
        for node in 0..cluster.setup().nodes {
            let Some(status) = cluster.status(node).filter(|status| status.role != RoleName::Leader) else {
                continue;
            };
            let hears = !cluster.network.is_cut(leader, node);
            let is_heard = !cluster.network.is_cut(node, leader);
            let follows = status.leader.is_some();
            if hears != follows || (follows && status.is_heard != is_heard) {
                let what = format!(
                    "n{} {} its leader and {}: it says {} and {}: {summary}",
                    node + 1,
                    if hears { "hears" } else { "does not hear" },
                    if is_heard { "is heard" } else { "is not heard" },
                    if follows { "that there is one" } else { "that there is none" },
                    if status.is_heard { "that it is heard" } else { "that it is not heard" },
                );
                cluster.report("a node knows whether it can serve", what);
            }
        }
    }
}

/// Whether a leader that a majority answers is followed by a majority.
fn leads_a_majority(cluster: &Cluster) -> bool {
    let nodes = cluster.setup().nodes;
    let Some(leader) = cluster.leader() else { return false };
    let Some(status) = cluster.status(leader).filter(|status| status.has_quorum) else { return false };
    let follows = |node: &usize| cluster.status(*node).is_some_and(|other| other.leader == status.leader);
    (0..nodes).filter(follows).count() > nodes / 2
}
