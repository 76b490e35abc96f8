//! Keeps two processes out of one data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::StorageError;
use super::descriptors::wait_for;

const NAME: &str = "lock";

/// A data directory's lock (`flock`), held until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the data directory `root`, which must exist. While another process holds it, calls
    /// `wait` with what is known of the holder, again and again; `wait` sleeps, or breaks to stop waiting.
    ///
    /// # Errors
    /// [`StorageError::Locked`] if `wait` broke, [`StorageError::Disk`].
    pub fn acquire(root: &Path, wait: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<Self, StorageError> {
        let path = root.join(NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = wait_for(&path, || options.open(&path)).map_err(StorageError::disk("open", &path))?;
        while !try_lock(file.try_lock(), &path)? {
            let holder = holder(&mut file);
            if wait(&holder).is_break() {
                return Err(StorageError::Locked { path: root.to_owned(), holder });
            }
        }
        // For the message above only; the lock itself is the system's.
        let note = file.set_len(0).and_then(|()| file.rewind());
        note.and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(StorageError::disk("write", &path))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock together with other readers, without making it or waiting for it. `None` if there is none.
    ///
    /// # Errors
    /// [`StorageError::Locked`] if a node runs on the directory, [`StorageError::Disk`].
    pub(super) fn acquire_to_read(root: &Path) -> Result<Option<Self>, StorageError> {
        let path: PathBuf = root.join(NAME);
        let mut file = match wait_for(&path, || File::open(&path)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::disk("open", &path)(error)),
        };
        if try_lock(file.try_lock_shared(), &path)? {
            return Ok(Some(Self { _file: file }));
        }
        Err(StorageError::Locked { path: root.to_owned(), holder: holder(&mut file) })
    }
}

fn try_lock(result: Result<(), TryLockError>, path: &Path) -> Result<bool, StorageError> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(StorageError::disk("lock", path)(error)),
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(20).read_to_string(&mut text));
    match read {
        Ok(_) if !text.is_empty() => format!("process {text}"),
        _ => "another process".into(),
    }
}
