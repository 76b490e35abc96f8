//! Load on a real cluster while faults are injected, and the judgement of what its clients saw.
//!
//! A [`Load`] runs rounds, one for each fault. In a round a few clients read and write a few keys, which the
//! linearizability checker judges ([`crate::sim::checker`]), and a pulse writes keys that nobody wrote before, one after
//! the other: its longest silence is the write gap, and an acknowledged one that cannot be read later is lost.
//! How members are reached is a trait ([`Reach`]), so that the same load runs against child processes, inside a
//! Kubernetes cluster and through its API server. Faults come from elsewhere.
//!
//! 1. [`Reach`], [`Names`]: where members are
//! 2. `member_client`: one request at a time to whichever member answers
//! 3. `registers`, `pulse`: the two kinds of load; `gaps`, `tally`: what is counted
//! 4. `sweep`: reads everything back, deletes it
//! 5. [`Load`]: rounds from begin to [`RoundReport`], and the [`FinalReport`]

mod gaps;
mod keys;
mod load;
mod member_client;
mod names;
mod pulse;
mod reach;
mod registers;
mod report;
mod settings;
mod sweep;
mod tally;

#[cfg(test)]
mod scripted;

pub use load::{ChaosError, Load};
pub use names::{Names, NamesError, PodNames};
pub use reach::{Connecting, Duplex, Reach, Stream, dial};
pub use report::{FinalReport, RoundReport, table};
pub use settings::LoadSettings;
