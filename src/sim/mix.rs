//! What kind of network a seed has in addition to its faults: mostly a usual one, else slow links, or links that fail in
//! one direction only and stay so.

use super::network::NetworkTraits;
use super::random::Random;
use super::setup::Setup;
use crate::raft;

/// The network of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mix {
    /// Quick links, which fail only as faults say.
    Usual,
    /// A message takes at least this many milliseconds. Timing and windows are the defaults: with one small append on its
    /// way, such a link carries fewer entries than clients write.
    SlowLinks(u64),
    /// Once all other faults have ended, some links of one node are cut in one direction, and the cluster must serve.
    OneWay,
    /// The same, with links on which the sender cannot open a stream, and knows it.
    RefusedPush,
    /// One member lies in one field of its messages, as long as faults last.
    Liar,
}

impl Mix {
    /// All of them, with the names they have on the command line.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Usual, "usual"),
        (Self::SlowLinks(30), "link-30"),
        (Self::SlowLinks(100), "link-100"),
        (Self::SlowLinks(300), "link-300"),
        (Self::OneWay, "one-way"),
        (Self::RefusedPush, "refused-push"),
        (Self::Liar, "liar"),
    ];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(mix, _)| *mix == self).map_or("", |(_, name)| name)
    }

    /// What the seed says: half of them are usual.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        // From a stream of its own, so that the rest of a seed stays as it was.
        let mut random = Random::new(seed, 13);
        if random.chance(500) { Self::Usual } else { random.pick(&Self::ALL[1..]).0 }
    }

    /// Changes what a cluster of so many nodes is made of.
    pub(super) fn shape(self, nodes: usize, setup: &mut Setup) {
        let standard = raft::Settings::default();
        match self {
            Self::Usual | Self::Liar => return,
            Self::SlowLinks(ms) => {
                let network = &mut setup.network;
                *network = NetworkTraits { delay_least: ms * 1000, delay_mean: ms * 1000 / 20, ..*network };
                // Long enough for a question, an answer and what the leader asks in between.
                setup.workload.timeout = setup.workload.timeout.max(standard.election_timeout * 17);
                // How nodes ask each other before there is a cluster is not the core's, and has timeouts of its own.
                setup.founds = false;
                let raft = &mut setup.raft;
                raft.append_bytes_max = standard.append_bytes_max;
                (raft.window_messages, raft.window_bytes) = (standard.window_messages, standard.window_bytes);
            }
            Self::OneWay | Self::RefusedPush => {
                (setup.nodes, setup.voters, setup.churn) = (nodes, nodes, None);
            }
        }
        let raft = &mut setup.raft;
        (raft.heartbeat_interval, raft.election_timeout) =
            (standard.heartbeat_interval, standard.election_timeout);
        (raft.pre_vote, raft.check_quorum) = (standard.pre_vote, standard.check_quorum);
    }
}
