//! The number of the newest segment, in the name of an empty file: `newest-<sequence>`.
//!
//! Each segment's header proves that the segments before it are complete. Nothing in the log proves that no segment
//! followed the last one, so a log whose last segment is gone would look whole. The name of this file does.
//!
//! It is renamed only after the new segment is durable, so it never names a segment that a crash could have left out.
//! The rename costs the write path no flush. It becomes durable with the directory's next one, which comes at the latest
//! when a quarter of the segment is written and the next one is made ready. Until then a crash may bring the old name
//! back, which says less, but nothing wrong.

use std::io;
use std::path::Path;

use super::segment;
use crate::storage::StorageError;
use crate::storage::files::Files;

const PREFIX: &str = "newest-";

fn name(sequence: u64) -> String {
    format!("{PREFIX}{}", segment::name(sequence))
}

/// The numbers that such names in the directory tell. A crash may leave two of them, or none.
fn noted(names: &[String]) -> impl Iterator<Item = u64> {
    names.iter().filter_map(|name| u64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok())
}

/// Makes sure that no segment behind `last` was ever part of the log.
///
/// # Errors
/// [`StorageError::Damaged`] names the newest one.
pub(super) fn check(directory: &Path, names: &[String], last: u64) -> Result<(), StorageError> {
    match noted(names).max() {
        Some(newest) if newest > last => {
            let path = directory.join(segment::name(newest));
            let what =
                format!("this segment of the log is missing: the log went on in it behind segment {last}");
            Err(StorageError::damaged(&path, what))
        }
        _ => Ok(()),
    }
}

/// Notes that `last` is the newest segment, whatever was noted before. Durable with the directory.
///
/// # Errors
/// [`StorageError::Disk`].
pub(super) fn settle<F: Files>(
    files: &F,
    directory: &Path,
    names: &[String],
    last: u64,
) -> Result<(), StorageError> {
    let mut is_there = false;
    for sequence in noted(names) {
        if sequence == last {
            is_there = true;
        } else {
            let path = directory.join(name(sequence));
            files.unlink(&path).map_err(StorageError::disk("unlink", &path))?;
        }
    }
    if is_there { Ok(()) } else { create(files, directory, last) }
}

/// Notes that the log continues from segment `from` in segment `to`, which is durable.
///
/// # Errors
/// [`StorageError::Disk`].
pub(super) fn advance<F: Files>(files: &F, directory: &Path, from: u64, to: u64) -> Result<(), StorageError> {
    let (old, new) = (directory.join(name(from)), directory.join(name(to)));
    match files.rename(&old, &new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(files, directory, to),
        done => done.map_err(StorageError::disk("rename", &old)),
    }
}

fn create<F: Files>(files: &F, directory: &Path, sequence: u64) -> Result<(), StorageError> {
    let path = directory.join(name(sequence));
    match files.create(&path).map(drop).map_err(StorageError::disk("create", &path)) {
        // A node must start and record votes on a full disk, too. The next opening notes it.
        Err(error) if error.is_full() => Ok(()),
        done => done,
    }
}
