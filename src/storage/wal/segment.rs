//! Segment files: names, making them ready ahead of need, and giving them their header.

use std::path::{Path, PathBuf};

use super::format::{HEADER_BLOCK_BYTES, SegmentHeader};
use crate::raft::HardState;
use crate::storage::StorageError;
use crate::storage::files::{File, Files};
use crate::types::{LogIndex, LogPosition};

/// Begin of the name of a segment that is made ready, not yet complete. The rest is the sequence number that it
/// was begun for: one that is late must not write into the next one's file.
const PREPARING: &str = "preparing-";
/// A segment that is ready: zeros, durable.
const READY: &str = "ready";
/// A segment that gets its header.
const STARTING: &str = "starting";

/// One open segment.
pub(super) struct Segment<H> {
    pub(super) path: PathBuf,
    pub(super) file: H,
    /// Length of the file in bytes.
    pub(super) bytes: u64,
    /// Checksum of the header: where the chain of its records begins, and what ties them to this file.
    pub(super) salt: u32,
    pub(super) sequence: u64,
    /// The last entry before it, by its header.
    pub(super) before: LogPosition,
    /// Hard state before its first record, by its header.
    pub(super) hard_state: HardState,
    /// Hard state after its last record.
    pub(super) last_hard_state: HardState,
    /// The lowest entry from which one of its records truncates.
    pub(super) truncated_from: Option<LogIndex>,
}

impl<H> Segment<H> {
    /// An open file with a header and no records yet.
    pub(super) fn new(path: PathBuf, file: H, bytes: u64, header: &SegmentHeader, salt: u32) -> Self {
        Self {
            path,
            file,
            bytes,
            salt,
            sequence: header.sequence,
            before: header.before,
            hard_state: header.hard_state,
            last_hard_state: header.hard_state,
            truncated_from: None,
        }
    }

    /// Takes note of a record that was added.
    pub(super) fn note(&mut self, hard_state: HardState, truncate_from: Option<LogIndex>) {
        self.last_hard_state = hard_state;
        self.truncated_from = self.truncated_from.into_iter().chain(truncate_from).min();
    }
}

/// The work of making the next segment ready, to be done outside the log's writes.
pub struct Preparation<F> {
    files: F,
    directory: PathBuf,
    sequence: u64,
    bytes: u64,
}

impl<F: Files> Preparation<F> {
    pub(super) fn new(files: F, directory: &Path, sequence: u64, bytes: u64) -> Self {
        Self { files, directory: directory.to_owned(), sequence, bytes }
    }

    /// Writes zeros and flushes them. The log takes the segment from then on. One that is ready already, since a
    /// process before has made it, is kept: every restart would write a whole segment otherwise.
    ///
    /// # Errors
    /// [`StorageError::Disk`]. The log is not harmed: when it needs the segment, it tries itself.
    pub fn run(&self) -> Result<(), StorageError> {
        let ready = self.directory.join(READY);
        if self.is_there(&ready)? {
            return Ok(());
        }
        let preparing = self.directory.join(format!("{PREPARING}{}", name(self.sequence)));
        if let Err(error) = zero_filled(&self.files, &preparing, self.bytes) {
            // A full disk gets its space back; what else went wrong is in the error.
            let _ = self.files.unlink(&preparing);
            return Err(error);
        }
        self.files.rename(&preparing, &ready).map_err(StorageError::disk("rename", &ready))?;
        sync_directory(&self.files, &self.directory)
    }

    /// Whether a segment of this size is ready. Only a complete one gets the name.
    fn is_there(&self, ready: &Path) -> Result<bool, StorageError> {
        match self.files.open(ready) {
            Ok(file) => Ok(file.size_bytes().map_err(StorageError::disk("stat", ready))? >= self.bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StorageError::disk("open", ready)(error)),
        }
    }
}

/// The file's name for a sequence number.
pub(super) fn name(sequence: u64) -> String {
    format!("{sequence:016x}")
}

/// The sequence numbers among a directory's names, in order.
pub(super) fn sequences(names: &[String]) -> Vec<u64> {
    let mut sequences: Vec<u64> = names
        .iter()
        .filter(|name| name.len() == 16)
        .filter_map(|name| u64::from_str_radix(name, 16).ok())
        .collect();
    sequences.sort_unstable();
    sequences
}

/// Removes what an interrupted [`start`] or [`Preparation`] left.
pub(super) fn remove_unfinished<F: Files>(
    files: &F,
    directory: &Path,
    names: &[String],
) -> Result<(), StorageError> {
    for name in names.iter().filter(|name| name.starts_with(PREPARING) || *name == STARTING) {
        let path = directory.join(name);
        files.unlink(&path).map_err(StorageError::disk("unlink", &path))?;
    }
    Ok(())
}

/// A segment with its header, durable, of at least `bytes`. It has no place in the log before [`publish`].
pub(super) fn start<F: Files>(
    files: &F,
    directory: &Path,
    header: &SegmentHeader,
    bytes: u64,
) -> Result<Segment<F::File>, StorageError> {
    let starting = directory.join(STARTING);
    let file = match take_ready(files, directory, bytes)? {
        Some(file) => file,
        None => zero_filled(files, &starting, bytes)?,
    };
    let (content, salt) = header.encode();
    file.write_at(&content, 0).map_err(StorageError::disk("write", &starting))?;
    file.sync_data().map_err(StorageError::disk("fdatasync", &starting))?;
    let bytes = file.size_bytes().map_err(StorageError::disk("stat", &starting))?;
    let path = directory.join(name(header.sequence));
    Ok(Segment::new(path, file, bytes, header, salt))
}

/// Gives a started segment its name, durably: from now on it is the log's last.
pub(super) fn publish<F: Files>(
    files: &F,
    directory: &Path,
    segment: &Segment<F::File>,
) -> Result<(), StorageError> {
    files
        .rename(&directory.join(STARTING), &segment.path)
        .map_err(StorageError::disk("rename", &segment.path))?;
    sync_directory(files, directory)
}

pub(super) fn sync_directory<F: Files>(files: &F, directory: &Path) -> Result<(), StorageError> {
    files.sync_directory(directory).map_err(StorageError::disk("fsync", directory))
}

/// The segment made ready ahead of need, if there is one and it is large enough. Renamed before it is opened:
/// a preparation that ends in between replaces the file under the old name.
fn take_ready<F: Files>(files: &F, directory: &Path, bytes: u64) -> Result<Option<F::File>, StorageError> {
    let starting = directory.join(STARTING);
    match files.rename(&directory.join(READY), &starting) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::disk("rename", &starting)(error)),
    }
    let file = files.open(&starting).map_err(StorageError::disk("open", &starting))?;
    let is_enough = file.size_bytes().map_err(StorageError::disk("stat", &starting))? >= bytes;
    Ok(is_enough.then_some(file))
}

/// A new file of zeros, durable. Real zeros: a write into extents that the file system only reserved makes
/// every `fdatasync` of the log journal metadata, too. Flushed in small steps: the log's own flushes wait behind
/// what the disk is given here.
fn zero_filled<F: Files>(files: &F, path: &Path, bytes: u64) -> Result<F::File, StorageError> {
    const ZEROS_BYTES: u64 = 1 << 20;
    let zeros = vec![0; usize::try_from(ZEROS_BYTES).expect("small")];
    let file = files.create(path).map_err(StorageError::disk("create", path))?;
    let mut offset = 0;
    while offset < bytes {
        let part = usize::try_from(ZEROS_BYTES.min(bytes - offset)).expect("small");
        file.write_at(&zeros[..part], offset).map_err(StorageError::disk("write", path))?;
        file.sync_data().map_err(StorageError::disk("fdatasync", path))?;
        offset += part as u64;
    }
    Ok(file)
}

/// Where a segment's records begin.
pub(super) const RECORDS_BEGIN: u64 = HEADER_BLOCK_BYTES as u64;
