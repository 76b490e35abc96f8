//! Finding faults by running clusters that never were: the very code that production runs, on virtual time,
//! network and disks, with clients whose history is judged.
//!
//! 1. [`cluster`]: the events, the nodes and what can be done to them
//! 2. [`disk`], [`network`], `clock`: what the nodes stand on
//! 3. [`clients`]: who asks, and what they were told; [`checker`] judges it
//! 4. [`invariants`]: what must hold at every step
//! 5. [`trace`]: what happened
//! 6. `founding`: from empty directories to a cluster
//! 7. `churn`: members come and go; `snapshots`: states on their way
//! 8. [`mix`], [`lies`], [`faults`], [`run`]: a seed from begin to verdict; [`hunt`]: seeds until one fails
//! 9. [`scenario`]: scripted runs, told to a reader

mod agenda;
pub mod checker;
mod churn;
pub mod clients;
mod clock;
pub mod cluster;
mod control;
pub mod disk;
pub mod faults;
mod files;
mod founding;
pub mod hunt;
pub mod invariants;
pub mod lies;
mod lifecycle;
mod marks;
pub mod mix;
pub mod network;
mod node;
mod parts;
pub(crate) mod random;
mod requests;
pub mod run;
pub mod scenario;
pub mod setup;
mod snapshots;
mod state;
pub mod trace;

#[cfg(test)]
mod tests;
