//! Memory that requests and answers may take, in bytes rather than by their number.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::Problem;

/// What is counted: permits of a semaphore are 32-bit.
const UNIT_BYTES: usize = 1 << 10;

/// A number of bytes of which requests take shares, in the order in which they come.
#[derive(Debug)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    units_max: u32,
    refusal: &'static str,
}

/// A part of a [`Budget`], given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Budget {
    /// `refusal` is what those are told for whom there was nothing left.
    pub(super) fn new(bytes_max: usize, refusal: &'static str) -> Self {
        let units_max = units(bytes_max).max(1);
        Self { units: Arc::new(Semaphore::new(units_max as usize)), units_max, refusal }
    }

    /// Waits its turn for `bytes`, at most until `deadline`. What is larger than the budget gets all of it.
    pub(super) async fn take(&self, bytes: usize, deadline: Instant) -> Result<Share, Problem> {
        let units = units(bytes).min(self.units_max);
        let turn = Arc::clone(&self.units).acquire_many_owned(units);
        match timeout_at(deadline, turn).await {
            Ok(permit) => Ok(Share(Some(permit.expect("the semaphore is never closed")))),
            Err(_elapsed) => Err(Problem::overloaded(self.refusal)),
        }
    }

    /// Bytes that are taken.
    pub(super) fn taken_bytes(&self) -> usize {
        (self.units_max as usize).saturating_sub(self.units.available_permits()) * UNIT_BYTES
    }

    /// Bytes that there are.
    pub(super) fn bytes_max(&self) -> usize {
        self.units_max as usize * UNIT_BYTES
    }
}

impl Share {
    /// Adds another share of the same budget.
    pub(super) fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(permit), Some(other)) => permit.merge(other),
            (none, other) => *none = other,
        }
    }
}

/// Rounded up; at least one, so that nothing is free.
fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES).max(1)).unwrap_or(u32::MAX)
}
