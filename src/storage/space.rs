//! Free space: told apart early enough that votes, checkpoints and compaction still find room.
//!
//! A log that meets a full disk halts the node. So a node stops taking entries while there is still a reserve for
//! what it continues to write: hard state, the zeros of the next segment, checkpoints.

use std::path::Path;

use super::StorageError;
use super::wal::Options;

/// A reserve for the log's segments in bytes: one is being filled, one made ready.
const SEGMENTS_KEPT: u64 = 2;

/// What changed about free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceChange {
    /// It fell below the reserve.
    Low,
    /// It rose well above the reserve again.
    Freed,
}

/// Turns free bytes, observed again and again, into changes. Freed is told only a quarter of the reserve above it, so
/// that a disk that hovers around the reserve does not change the node's mind every time.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    reserve_bytes: u64,
    is_low: bool,
}

impl Space {
    /// Begins with room enough; 0 bytes of reserve are never short.
    #[must_use]
    pub fn new(reserve_bytes: u64) -> Self {
        Self { reserve_bytes, is_low: false }
    }

    /// The reserve that fits a log: 64 MiB and two of its segments.
    #[must_use]
    pub fn default_reserve_bytes(options: &Options) -> u64 {
        (64 << 20) + SEGMENTS_KEPT * u64::from(options.segment_bytes)
    }

    /// Whether free space was last found to be short.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.is_low
    }

    /// Takes the bytes that are free now.
    pub fn observe(&mut self, free_bytes: u64) -> Option<SpaceChange> {
        let enough = enough_bytes(self.reserve_bytes);
        if !self.is_low && free_bytes < self.reserve_bytes {
            self.is_low = true;
            return Some(SpaceChange::Low);
        }
        if self.is_low && free_bytes >= enough {
            self.is_low = false;
            return Some(SpaceChange::Freed);
        }
        None
    }
}

/// There is too little room on the disk for something that can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} MiB of disk are needed and {} MiB are kept in reserve, but only {} MiB are free",
    needed_bytes.div_ceil(MIB), reserve_bytes.div_ceil(MIB), free_bytes / MIB
)]
pub struct NoRoom {
    /// What it would take.
    pub needed_bytes: u64,
    /// What must stay free in addition to it.
    pub reserve_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

/// For messages.
const MIB: u64 = 1 << 20;

impl NoRoom {
    /// Whether `needed_bytes` fit in addition to the reserve.
    ///
    /// # Errors
    /// They do not.
    pub fn check(needed_bytes: u64, reserve_bytes: u64, free_bytes: u64) -> Result<(), Self> {
        if free_bytes < needed_bytes.saturating_add(reserve_bytes) {
            return Err(Self { needed_bytes, reserve_bytes, free_bytes });
        }
        Ok(())
    }
}

/// The free bytes from which on a node that was short of space takes entries again.
pub(super) fn enough_bytes(reserve_bytes: u64) -> u64 {
    reserve_bytes.saturating_add(reserve_bytes / 4)
}

/// Bytes that are free for this process on the disk that holds `path`.
///
/// # Errors
/// [`StorageError::Disk`].
pub fn free_bytes(path: &Path) -> Result<u64, StorageError> {
    let space =
        rustix::fs::statvfs(path).map_err(|error| StorageError::disk("statvfs", path)(error.into()))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_and_freed_are_told_once_each_with_room_between() {
        let mut space = Space::new(100);
        let changes: Vec<_> = [500, 100, 99, 50, 100, 124, 125, 101, 100, 99, 0, 124, 130]
            .map(|free| space.observe(free))
            .into();
        let told: Vec<_> = changes.iter().enumerate().filter_map(|(at, told)| Some((at, (*told)?))).collect();
        let (low, freed) = (SpaceChange::Low, SpaceChange::Freed);
        assert_eq!(told, [(2, low), (6, freed), (9, low), (12, freed)]);
        assert!(!space.is_low());
    }

    #[test]
    fn without_a_reserve_space_is_never_short() {
        assert_eq!(Space::new(0).observe(0), None);
    }

    #[test]
    fn room_is_what_is_free_above_the_reserve() {
        assert_eq!(NoRoom::check(10, 90, 100), Ok(()));
        let (needed_bytes, reserve_bytes, free_bytes) = (300 << 20, 192 << 20, (491 << 20) + 5);
        let no_room = NoRoom::check(needed_bytes, reserve_bytes, free_bytes).unwrap_err();
        assert_eq!(no_room, NoRoom { needed_bytes, reserve_bytes, free_bytes });
        let told = "300 MiB of disk are needed and 192 MiB are kept in reserve, but only 491 MiB are free";
        assert_eq!(no_room.to_string(), told);
        assert!(NoRoom::check(u64::MAX, u64::MAX, u64::MAX - 1).is_err());
    }

    #[test]
    fn the_default_reserve_is_192_mib() {
        assert_eq!(Space::default_reserve_bytes(&Options::default()), 192 << 20);
    }

    #[test]
    fn this_disk_has_some_space() {
        let temporary = tempfile::tempdir().unwrap();
        assert!(free_bytes(temporary.path()).unwrap() > 0);
        assert_eq!(free_bytes(&temporary.path().join("missing")).unwrap_err().exit_code(), 4);
    }
}
