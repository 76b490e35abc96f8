//! The network between nodes: delay, loss, duplication, reordering, and links cut one way or both.

use super::random::Random;
use crate::types::Instant;

/// How links behave while they are not cut.
#[derive(Clone, Copy, Debug)]
pub struct NetworkTraits {
    /// Least delay in microseconds.
    pub delay_least: u64,
    /// Typical additional delay in microseconds; some take several times as long.
    pub delay_mean: u64,
    /// Of a thousand messages, how many are lost.
    pub loss: u32,
    /// How many arrive twice.
    pub duplication: u32,
    /// How many take up to a hundred times as long.
    pub straggling: u32,
    /// Whether a later message may arrive first. A stream never does that; the core must not care.
    pub reorders: bool,
    /// Of a thousand losses, how many the sender is told of.
    pub told: u32,
}

impl Default for NetworkTraits {
    fn default() -> Self {
        Self {
            delay_least: 50,
            delay_mean: 200,
            loss: 0,
            duplication: 0,
            straggling: 0,
            reorders: false,
            told: 1000,
        }
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is lost; whether the sender is told.
    Lost(bool),
    /// There is no stream that would take it, as the sender knows.
    Refused,
    /// It arrives at this time, and perhaps again.
    Arrives(Instant, Option<Instant>),
}

#[derive(Clone, Copy, Default)]
struct Link {
    cut: bool,
    /// The sender cannot open a stream.
    refused: bool,
    /// Additional delay in microseconds.
    slow: u64,
    last_arrival: Instant,
}

/// All links.
pub struct Network {
    random: Random,
    /// How links behave.
    pub traits: NetworkTraits,
    nodes: usize,
    links: Vec<Link>,
}

impl Network {
    /// Between `nodes` nodes.
    #[must_use]
    pub(super) fn new(nodes: usize, random: Random, traits: NetworkTraits) -> Self {
        Self { random, traits, nodes, links: vec![Link::default(); nodes * nodes] }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// Cuts or mends one direction.
    pub fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        self.link(from, to).cut = cut;
    }

    /// From now on `from` can (not) open streams to `to`: nothing that it wants to send leaves, and it knows that.
    pub fn set_refused(&mut self, from: usize, to: usize, refused: bool) {
        self.link(from, to).refused = refused;
    }

    /// Whether nothing gets through from `from` to `to`.
    #[must_use]
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        let link = &self.links[from * self.nodes + to];
        link.cut || link.refused
    }

    /// Adds to the delay of one direction, in microseconds.
    pub fn set_slow(&mut self, from: usize, to: usize, micros: u64) {
        self.link(from, to).slow = micros;
    }

    /// Cuts every link between two groups: the nodes for which `in_first` says true, and the others.
    pub fn split(&mut self, in_first: impl Fn(usize) -> bool) {
        for from in 0..self.nodes {
            for to in 0..self.nodes {
                if in_first(from) != in_first(to) {
                    self.set_cut(from, to, true);
                }
            }
        }
    }

    /// Mends all links.
    pub fn mend(&mut self) {
        for link in &mut self.links {
            (link.cut, link.refused, link.slow) = (false, false, 0);
        }
    }

    /// Nothing is lost, doubled or late any more, unless a link is cut.
    pub fn calm(&mut self) {
        (self.traits.loss, self.traits.duplication, self.traits.straggling) = (0, 0, 0);
    }

    /// What becomes of a message sent now.
    pub fn send(&mut self, now: Instant, from: usize, to: usize) -> Fate {
        let NetworkTraits { loss, duplication, told, .. } = self.traits;
        if self.link(from, to).refused {
            return Fate::Refused;
        }
        if self.is_cut(from, to) || self.random.chance(loss) {
            return Fate::Lost(self.random.chance(told));
        }
        let at = self.arrival(now, from, to);
        let again = self.random.chance(duplication).then(|| self.arrival(now, from, to));
        Fate::Arrives(at, again)
    }

    fn arrival(&mut self, now: Instant, from: usize, to: usize) -> Instant {
        let NetworkTraits { delay_least, delay_mean, straggling, reorders, .. } = self.traits;
        let mut delay = delay_least + self.random.around(delay_mean);
        if straggling > 0 && self.random.chance(straggling) {
            delay *= self.random.between(2, 100);
        }
        let link = self.link(from, to);
        let at = Instant(now.0 + delay + link.slow);
        // In a stream, a message waits for those before it.
        let at = if reorders { at } else { at.max(link.last_arrival) };
        link.last_arrival = link.last_arrival.max(at);
        at
    }
}
