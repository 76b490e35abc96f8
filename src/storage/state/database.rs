//! sled, set up so that its flush holds what it says, and so that damage is an error.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crc32c::{crc32c, crc32c_append};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::retry_on_intr;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::storage::descriptors::{are_used_up, wait_for};
use crate::storage::{StorageError, sync_file_range};

/// Larger values than a quarter of this would go to files that sled never flushes.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;
/// sled's page cache; the state itself is in memory anyway.
const CACHE_BYTES: u64 = 32 << 20;
const META: &str = "meta";
/// How often the directory was opened: something to write for the check of the flush.
const OPENED: &str = "opened";

/// An open sled directory. Writes are plain inserts and one flush, never batches or transactions: those flush
/// twice, and plain inserts already survive a crash as a prefix.
#[derive(Clone)]
pub(in crate::storage) struct Database {
    path: PathBuf,
    db: sled::Db,
    meta: sled::Tree,
}

impl Database {
    /// Opens or creates the directory `path`, and proves that a flush reaches the disk.
    pub(in crate::storage) fn open(path: &Path) -> Result<Self, StorageError> {
        let config = sled::Config::new()
            .path(path)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        remove_unfinished(path)?;
        let db = open_free(path, &config)?;
        let meta = guarded(path, || db.open_tree(META))?;
        let database = Self { path: path.to_owned(), db, meta };
        let opened: u64 = database.get(OPENED)?.unwrap_or(0);
        sync_file_range::check(|| {
            database.put(OPENED, &(opened + 1))?;
            database.flush()
        })?;
        Ok(database)
    }

    /// Opens a directory that must be there: sled makes what is missing, so it is looked for first.
    pub(in crate::storage) fn open_existing(path: &Path) -> Result<Self, StorageError> {
        for file in [path.join("conf"), path.join("db")] {
            if !file.try_exists().map_err(StorageError::disk("stat", &file))? {
                return Err(StorageError::damaged(&file, "the file is missing"));
            }
        }
        Self::open(path)
    }

    /// What sled's files take on disk, in bytes.
    pub(super) fn size_bytes(&self) -> Result<u64, StorageError> {
        // sled's own measure opens a directory, and there may be no descriptors left.
        let path = self.path.join("db");
        Ok(std::fs::metadata(&path).map_err(StorageError::disk("stat", &path))?.len())
    }

    /// Takes the disk space of the next `bytes` that sled appends to its file, so that writing them cannot fail for
    /// lack of it: what is merely free may be another's a moment later. Whether there is so much; true where the file
    /// system cannot take space ahead.
    pub(super) fn make_room(&self, bytes: u64) -> Result<bool, StorageError> {
        let path = self.path.join("db");
        match allocate_behind(&path, bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(true),
            Err(error) => {
                let error = StorageError::disk("allocate", &path)(error);
                if error.is_full() { Ok(false) } else { Err(error) }
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn tree(&self, name: &str) -> Result<sled::Tree, StorageError> {
        guarded(&self.path, || self.db.open_tree(name))
    }

    /// Reads an item of `meta`.
    pub(in crate::storage) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StorageError> {
        let Some(value) = guarded(&self.path, || self.meta.get(key))? else { return Ok(None) };
        let damaged = |what: &str| StorageError::damaged(&self.path, format!("{what} of item {key:?}"));
        let (crc, content) = value.split_at_checked(4).ok_or_else(|| damaged("too short a value"))?;
        if crc32c_append(crc32c(key.as_bytes()), content).to_le_bytes() != crc {
            return Err(damaged("bad checksum"));
        }
        serde_json::from_slice(content).map(Some).map_err(|error| damaged(&format!("bad content ({error})")))
    }

    /// Writes an item of `meta`; durable after [`Database::flush`].
    pub(in crate::storage) fn put<T: Serialize>(&self, key: &str, item: &T) -> Result<(), StorageError> {
        let content = serde_json::to_vec(item).expect("items of `meta` have only string keys");
        let mut value = crc32c_append(crc32c(key.as_bytes()), &content).to_le_bytes().to_vec();
        value.extend_from_slice(&content);
        guarded(&self.path, || self.meta.insert(key, value)).map(drop)
    }

    /// Makes all writes so far durable.
    pub(in crate::storage) fn flush(&self) -> Result<(), StorageError> {
        #[cfg(test)]
        at_flush::reach();
        guarded(&self.path, || self.db.flush())?;
        #[cfg(test)]
        at_flush::reach();
        debug_assert!(!has_blobs(&self.path), "sled put a value outside its log");
        Ok(())
    }
}

/// Gives the file `path` blocks for the next `bytes` behind its end, which stays where it is.
fn allocate_behind(path: &Path, bytes: u64) -> io::Result<()> {
    let file = wait_for(path, || File::options().write(true).open(path))?;
    let end = file.metadata()?.len();
    Ok(retry_on_intr(|| fallocate(&file, FallocateFlags::KEEP_SIZE, end, bytes))?)
}

/// Removes snapshots that sled began and a crash cut short. sled would take the newest for a finished one and call it
/// damaged; without it, sled uses the one before or reads its whole log.
fn remove_unfinished(path: &Path) -> Result<(), StorageError> {
    let entries = match wait_for(path, || std::fs::read_dir(path)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StorageError::disk("list", path)(error)),
    };
    for entry in entries {
        let file = entry.map_err(StorageError::disk("list", path))?.path();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(&file).map_err(StorageError::disk("unlink", &file))?;
        }
    }
    Ok(())
}

/// Opens once sled's own lock is free: its threads release it a moment after the last handle is dropped, so
/// it can still be held when a directory that was just made is opened again. Other processes are kept out by
/// the data directory's lock.
fn open_free(path: &Path, config: &sled::Config) -> Result<sled::Db, StorageError> {
    const PAUSE: Duration = Duration::from_millis(5);
    const PAUSES_MAX: usize = 2000;
    for _ in 0..PAUSES_MAX {
        let is_held = |error: &sled::Error| match error {
            sled::Error::Io(error) => error.to_string().starts_with("could not acquire lock"),
            _ => false,
        };
        match guarded(path, || match open_waiting(path, config) {
            Err(error) if is_held(&error) => Ok(None),
            opened => opened.map(Some),
        })? {
            Some(db) => return Ok(db),
            None => std::thread::sleep(PAUSE),
        }
    }
    Err(StorageError::Locked { path: path.to_owned(), holder: "another process".into() })
}

/// Opens, once there are file descriptors for it.
fn open_waiting(path: &Path, config: &sled::Config) -> sled::Result<sled::Db> {
    let open = || match config.open() {
        Err(sled::Error::Io(error)) if are_used_up(&error) => Err(error),
        opened => Ok(opened),
    };
    wait_for(path, open).unwrap_or_else(|error| Err(sled::Error::Io(error)))
}

/// Whether sled stored a value in a file of its own, which it does not flush.
pub(super) fn has_blobs(path: &Path) -> bool {
    std::fs::read_dir(path.join("blobs")).is_ok_and(|mut entries| entries.next().is_some())
}

/// Runs one of sled's operations. On a damaged file sled 0.34 panics in places instead of returning an error;
/// the panic is turned into one here. Nothing of the database is used afterwards, so a half-done change of its
/// memory does not matter.
pub(super) fn guarded<T>(path: &Path, operate: impl FnOnce() -> sled::Result<T>) -> Result<T, StorageError> {
    match catch_unwind(AssertUnwindSafe(operate)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) if !is_damage(&error) => {
            Err(StorageError::disk("read or write", path)(error))
        }
        Ok(Err(error)) => Err(StorageError::damaged(path, format!("sled: {error}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(StorageError::damaged(path, format!("sled stopped: {text}")))
        }
    }
}

/// Errors that sled makes up when it cannot understand what it read, and what the system says to a request that
/// sled made out of damaged content. A disk that fails or is full gives others.
fn is_damage(error: &io::Error) -> bool {
    use ErrorKind::{InvalidData, InvalidInput, NotFound, Other, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | NotFound | Other | UnexpectedEof)
}

/// Lets a test look at the disk before and after each flush of its thread, as a crash would leave it.
#[cfg(test)]
pub(super) mod at_flush {
    use std::cell::Cell;

    type Action = Box<dyn FnMut()>;

    thread_local! {
        static ACTION: Cell<Option<Action>> = const { Cell::new(None) };
    }

    /// Runs `during`, and `action` before and after each flush in it.
    pub(in crate::storage::state) fn act<T>(action: impl FnMut() + 'static, during: impl FnOnce() -> T) -> T {
        ACTION.set(Some(Box::new(action)));
        let done = during();
        ACTION.set(None);
        done
    }

    pub(super) fn reach() {
        // The action may flush, too.
        if let Some(mut action) = ACTION.take() {
            action();
            ACTION.set(Some(action));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    fn exit_code(error: sled::Error) -> u8 {
        guarded::<()>(Path::new("sled"), || Err(error)).unwrap_err().exit_code()
    }

    #[test]
    fn a_failed_disk_is_told_from_damage() {
        const EIO: i32 = 5;
        const ENOSPC: i32 = 28;
        for number in [EIO, ENOSPC] {
            let error = sled::Error::Io(Error::from_raw_os_error(number));
            assert_eq!(exit_code(error.clone()), 4, "sled hands out copies of its first error");
            assert_eq!(exit_code(error), 4);
        }
        assert_eq!(exit_code(sled::Error::Io(Error::other("crc mismatch"))), 3);
        assert_eq!(exit_code(sled::Error::Corruption { at: None, bt: () }), 3);
        let error = guarded::<()>(Path::new("sled"), || panic!("out of order")).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("out of order"), "{error}");
    }
}
