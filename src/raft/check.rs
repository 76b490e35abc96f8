//! What every message of a correct peer fulfils, whatever the state of its receiver. The transport checks what it
//! receives before the core sees it; the simulator checks messages that a lying member sends in the same way.

use super::{
    Append, Configuration, Entry, MEMBERS_MAX, Message, Payload, Promise, Signal, Snapshot, VoteRequest,
};
use crate::types::{LogIndex, LogPosition, LogTime, Name, Session, Term};

/// Terms, indexes and times on the wire are below this, so that arithmetic on them cannot overflow.
pub const NUMBER_MAX: u64 = 1 << 62;

/// Latest time that a leader stamps entries with, in microseconds: its successors need some that are later.
pub(super) const TIME_MAX: LogTime = LogTime(NUMBER_MAX - 1);

/// Longest address of a member, in bytes: a DNS name and a port.
const ADDRESS_BYTES_MAX: usize = 512;
/// Most members of a configuration: while it is joint, it names those before the change and those after it.
const CONFIGURATION_MEMBERS_MAX: usize = 2 * MEMBERS_MAX;
/// Most removed nodes that a configuration names. A leader forgets the oldest before there are so many.
const CONFIGURATION_REMOVED_MAX: usize = 4096;

/// Why a message cannot come from a correct peer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unfit {
    /// A term of zero where an elected term is meant, or a number out of range.
    #[error("{name} {value} is out of range")]
    Number {
        /// Which number.
        name: &'static str,
        /// As received.
        value: u64,
    },
    /// Index 0 goes with term 0, and no other.
    #[error("position {0} mixes zero and non-zero")]
    Position(LogPosition),
    /// A log cannot hold an entry of a later term than the message's.
    #[error("term {found} of {name} is above the message's term {term}")]
    LaterTerm {
        /// Of what.
        name: &'static str,
        /// As received.
        found: Term,
        /// The message's term.
        term: Term,
    },
    /// Indexes must follow each other.
    #[error("entry {found} where {expected} should follow")]
    Gap {
        /// The index that follows the one before.
        expected: LogIndex,
        /// As received.
        found: LogIndex,
    },
    /// Terms never decrease along a log.
    #[error("entry {index} of term {found} follows one of term {before}")]
    FallingTerm {
        /// The entry.
        index: LogIndex,
        /// Its term.
        found: Term,
        /// The term of the entry before it.
        before: Term,
    },
    /// The log's clock never runs backwards along a log.
    #[error("entry {index} of time {found} follows one of time {before}")]
    FallingTime {
        /// The entry.
        index: LogIndex,
        /// Its time.
        found: LogTime,
        /// The time of the entry before it.
        before: LogTime,
    },
    /// The hint of a rejection lies at or below what was rejected.
    #[error("hint {hint} lies after the rejected position {prev}")]
    Hint {
        /// As received.
        hint: LogPosition,
        /// As received.
        prev: LogPosition,
    },
    /// No leader makes such a configuration.
    #[error("bad configuration in entry {index}: {what}")]
    Configuration {
        /// Its entry.
        index: LogIndex,
        /// What is wrong.
        what: &'static str,
    },
}

fn number(name: &'static str, value: u64) -> Result<(), Unfit> {
    if value < NUMBER_MAX { Ok(()) } else { Err(Unfit::Number { name, value }) }
}

/// A term that someone stood for election in: not zero.
fn elected_term(term: Term) -> Result<(), Unfit> {
    if term.0 == 0 { Err(Unfit::Number { name: "term", value: 0 }) } else { number("term", term.0) }
}

fn session(session: Session) -> Result<(), Unfit> {
    number("session", session.0)
}

fn index(index: LogIndex) -> Result<(), Unfit> {
    number("index", index.0)
}

/// A position in a log of which the sender of a message of `term` knows.
fn position(name: &'static str, position: LogPosition, term: Term) -> Result<(), Unfit> {
    index(position.index)?;
    number("term", position.term.0)?;
    if (position.index.0 == 0) != (position.term.0 == 0) {
        return Err(Unfit::Position(position));
    }
    if position.term > term {
        return Err(Unfit::LaterTerm { name, found: position.term, term });
    }
    Ok(())
}

impl Message {
    /// Whether a correct peer could have sent it. Commands are opaque here: see
    /// [`replica::admission`](crate::replica::admission).
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), Unfit> {
        match self {
            Self::Signal(signal) => signal.check(),
            Self::Promise(Promise::VoteGranted { term }) => elected_term(*term),
            Self::Promise(Promise::Appended { term, session: of, match_index, .. }) => {
                elected_term(*term)?;
                session(*of)?;
                index(*match_index)
            }
        }
    }
}

impl Signal {
    fn check(&self) -> Result<(), Unfit> {
        match self {
            Self::PreVote(request) | Self::RequestVote(request) => request.check(),
            Self::PreVoteGranted { term } | Self::TimeoutNow { term } => elected_term(*term),
            Self::VoteRefused { term, .. } => number("term", term.0),
            Self::Append(append) => append.check(),
            Self::AppendRejected { term, session: of, prev, hint } => {
                elected_term(*term)?;
                session(*of)?;
                position("prev", *prev, *term)?;
                position("hint", *hint, *term)?;
                if hint.index > prev.index { Err(Unfit::Hint { hint: *hint, prev: *prev }) } else { Ok(()) }
            }
            Self::RoundEcho { term, session: of, .. } => {
                elected_term(*term)?;
                session(*of)
            }
            Self::Forwarded { answers } => {
                let appended = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
                for at in appended {
                    position("appended", *at, Term(u64::MAX))?;
                    if at.index.0 == 0 {
                        return Err(Unfit::Position(*at));
                    }
                }
                Ok(())
            }
            Self::ReadIndexAt { term, index: at, .. } => {
                elected_term(*term)?;
                index(*at)
            }
            Self::Removed { index: at } => index(*at),
            Self::LostData { term, session: of, match_index } => {
                elected_term(*term)?;
                session(*of)?;
                index(*match_index)
            }
            Self::StateDigests { digests } => digests.iter().try_for_each(|(at, _)| index(*at)),
            Self::Forward { .. } | Self::ReadIndex { .. } | Self::ReadIndexRefused { .. } => Ok(()),
        }
    }
}

impl VoteRequest {
    fn check(&self) -> Result<(), Unfit> {
        elected_term(self.term)?;
        position("last", self.last, self.term)
    }
}

impl Append {
    fn check(&self) -> Result<(), Unfit> {
        elected_term(self.term)?;
        session(self.session)?;
        index(self.commit_index)?;
        position("prev", self.prev, self.term)?;
        let (mut before, mut time) = (self.prev, LogTime(0));
        for entry in &self.entries {
            entry.check(before, time, self.term)?;
            (before, time) = (entry.position(), entry.time);
        }
        Ok(())
    }
}

impl Entry {
    /// Whether a leader of `term` may send it behind the entry at `before`, which has `time`.
    fn check(&self, before: LogPosition, time: LogTime, term: Term) -> Result<(), Unfit> {
        let Self { index: at, term: own, time: own_time, payload } = self;
        index(*at)?;
        elected_term(*own)?;
        number("time", own_time.0)?;
        if *at != before.index.next() {
            return Err(Unfit::Gap { expected: before.index.next(), found: *at });
        }
        if *own < before.term {
            return Err(Unfit::FallingTerm { index: *at, found: *own, before: before.term });
        }
        if *own > term {
            return Err(Unfit::LaterTerm { name: "an entry", found: *own, term });
        }
        if *own_time < time {
            return Err(Unfit::FallingTime { index: *at, found: *own_time, before: time });
        }
        match payload {
            Payload::Configuration(configuration) => check_configuration(*at, configuration),
            Payload::Noop | Payload::Command(_) => Ok(()),
        }
    }
}

impl Snapshot {
    /// Whether a correct leader of `term` could send it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, term: Term) -> Result<(), Unfit> {
        elected_term(term)?;
        number("time", self.time.0)?;
        position("position", self.position, term)?;
        if self.position.index.0 == 0 {
            return Err(Unfit::Position(self.position));
        }
        let at = self.configuration_index;
        if at > self.position.index {
            return Err(Unfit::Number { name: "configuration index", value: at.0 });
        }
        // Without an entry that holds one, there is none.
        if at.0 > 0 { check_configuration(at, &self.configuration) } else { Ok(()) }
    }
}

/// Whether a leader could have made the configuration in the entry at `index`.
pub(super) fn check_configuration(index: LogIndex, configuration: &Configuration) -> Result<(), Unfit> {
    let unfit = |what| Err(Unfit::Configuration { index, what });
    if configuration.voters.is_empty() {
        return unfit("it has no voters");
    }
    let members = configuration.members();
    if members.len() > CONFIGURATION_MEMBERS_MAX || configuration.removed.len() > CONFIGURATION_REMOVED_MAX {
        return unfit("it names too many nodes");
    }
    let is_long = |address: &String| address.len() > ADDRESS_BYTES_MAX;
    if members
        .values()
        .any(|member| member.name.len() > Name::BYTES_MAX || member.peer_addr.as_ref().is_some_and(is_long))
    {
        return unfit("a name or an address is too long");
    }
    if members.values().any(|member| member.session.0 > index.0)
        || configuration.removed.values().any(|at| *at > index)
    {
        return unfit("it names a later entry");
    }
    Ok(())
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
