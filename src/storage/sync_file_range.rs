//! Makes sled's flush a true one.
//!
//! On Linux sled ends a flush with `sync_file_range`, which starts write-back but flushes neither the file's
//! metadata nor the disk's own cache: after a power loss the data may be gone. This module defines that symbol
//! itself, ahead of the C library's, and does `fdatasync` in it. [`check`] proves at start that sled's calls
//! come here; a build in which they do not must not run.
//!
//! The only unsafe code of the crate: a C symbol can neither be defined nor be given a file number without.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StorageError;

/// Calls so far. One for the process, as the symbol is.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Flushes the whole file, whatever the range and the flags; returns 0, or -1 with `errno` set.
///
/// Through the standard library, and so through the C library's `fdatasync`: a test may replace that one.
// SAFETY of the name: the C library's function of that name has this signature on 64-bit Linux, and its
// callers get a stronger promise than they asked for.
#[unsafe(no_mangle)]
pub(super) extern "C" fn sync_file_range(fd: c_int, _offset: i64, _bytes: i64, _flags: c_uint) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller owns `fd` and keeps it open during the call; `ManuallyDrop` leaves it open after.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
    match file.sync_data() {
        Ok(()) => 0,
        Err(_) => -1,
    }
}

/// Flushes so far that came through this module.
pub(super) fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Runs `flush`, which must write to sled and flush it, and sees that the flush came here.
///
/// # Errors
/// What `flush` returns, or [`StorageError::FlushNotReal`].
pub(super) fn check(flush: impl FnOnce() -> Result<(), StorageError>) -> Result<(), StorageError> {
    // Named here so that a linker which picks from archives has a reason to take this one.
    let replacement: extern "C" fn(c_int, i64, i64, c_uint) -> c_int = sync_file_range;
    std::hint::black_box(replacement);
    let before = calls();
    flush()?;
    if calls() == before {
        return Err(StorageError::FlushNotReal(
            "this build does not replace sync_file_range, so the state store's flush would not reach the disk; \
             nothing was started. Use a build for 64-bit Linux that links the C library dynamically"
                .into(),
        ));
    }
    Ok(())
}
