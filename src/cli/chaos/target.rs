//! A cluster that faults are done to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::faults::Kind;
use super::health::Health;
use crate::chaos::Reach;

/// A fault could not be done or undone, or something happened that no fault explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble(pub(super) String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cluster that faults are done to. Any of its futures may be dropped; [`Target::heal`] then undoes what was begun.
pub(super) trait Target {
    /// How members are reached.
    fn reach(&self) -> Arc<dyn Reach>;

    /// How the Service in front of them is, if there is one that can be.
    fn service(&self) -> Option<Arc<dyn Reach>>;

    /// Pause between two looks.
    fn look_interval(&self) -> Duration;

    /// How it is now.
    async fn look(&mut self) -> Result<Health, Trouble>;

    /// Does it to the victims, which are members. Those that do not last are done when this returns.
    async fn strike(&mut self, kind: &Kind, victims: &[String]) -> Result<(), Trouble>;

    /// Whether it lasts until it is healed.
    fn lasts(&self, kind: &Kind) -> bool;

    /// Undoes all that lasts, and all that was interrupted.
    async fn heal(&mut self) -> Result<(), Trouble>;
}
