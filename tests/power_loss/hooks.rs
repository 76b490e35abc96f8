//! The C library's functions that change files, replaced: each does what it is for and tells the recorder.
//!
//! A program's own definition of a symbol goes before the C library's, so the standard library, the log and sled all
//! come through here. Nothing is ever really flushed: the recorder takes note, and that is what counts.
//!
//! Unsafe because C functions can neither be defined nor called without; each passes on what it was given.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{iovec, mode_t, off_t, size_t, ssize_t};

use super::recorder;

/// A path as C has it.
///
/// # Safety
/// `path` ends with a zero, as every caller of the functions below promises.
unsafe fn path_of<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(path) };
    Path::new(std::ffi::OsStr::from_bytes(text.to_bytes()))
}

/// The bytes that a write is given.
///
/// # Safety
/// `data` points to `bytes` readable bytes, as every caller of a write promises.
unsafe fn bytes_of<'a>(data: *const c_void, bytes: usize) -> &'a [u8] {
    // SAFETY: the caller's promise; an empty slice may come with any pointer.
    if bytes == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data.cast(), bytes) } }
}

fn done(result: c_long) -> Option<usize> {
    usize::try_from(result).ok()
}

fn int(result: c_long) -> c_int {
    c_int::try_from(result).expect("system calls return 0, -1 or a file number here")
}

fn size(result: c_long) -> ssize_t {
    ssize_t::try_from(result).expect("a count of bytes in memory, or -1")
}

#[unsafe(no_mangle)]
extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    recorder::with(|recorder| {
        // SAFETY: passed on as it came.
        let result = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
        if let (Some(recorder), Some(_)) = (recorder, done(result)) {
            let (creates, empties) = (flags & libc::O_CREAT != 0, flags & libc::O_TRUNC != 0);
            // SAFETY: as the system call took it.
            recorder.opened(unsafe { path_of(path) }, int(result), creates, empties);
        }
        int(result)
    })
}

#[unsafe(no_mangle)]
extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open64(path, flags, mode)
}

/// How the standard library opens a directory that it removes with all that is in it.
#[unsafe(no_mangle)]
extern "C" fn openat64(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    recorder::with(|recorder| {
        // SAFETY: passed on as it came.
        let result = unsafe { libc::syscall(libc::SYS_openat, directory, path, flags, mode) };
        if let (Some(recorder), Some(_)) = (recorder, done(result)) {
            // SAFETY: as the system call took it.
            recorder.opened_in(directory, unsafe { path_of(path) }, int(result));
        }
        int(result)
    })
}

#[unsafe(no_mangle)]
extern "C" fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    openat64(directory, path, flags, mode)
}

#[unsafe(no_mangle)]
extern "C" fn close(fd: c_int) -> c_int {
    recorder::with(|recorder| {
        if let Some(recorder) = recorder {
            recorder.closed(fd);
        }
        // SAFETY: passed on as it came.
        int(unsafe { libc::syscall(libc::SYS_close, fd) })
    })
}

#[unsafe(no_mangle)]
extern "C" fn pwrite64(fd: c_int, data: *const c_void, bytes: size_t, offset: off_t) -> ssize_t {
    recorder::with(|recorder| {
        // SAFETY: passed on as it came.
        let result = unsafe { libc::syscall(libc::SYS_pwrite64, fd, data, bytes, offset) };
        if let (Some(recorder), Some(written)) = (recorder, done(result)) {
            // SAFETY: so many bytes were just read from there.
            recorder.written(fd, offset, unsafe { bytes_of(data, written) });
        }
        size(result)
    })
}

#[unsafe(no_mangle)]
extern "C" fn pwrite(fd: c_int, data: *const c_void, bytes: size_t, offset: off_t) -> ssize_t {
    pwrite64(fd, data, bytes, offset)
}

#[unsafe(no_mangle)]
extern "C" fn write(fd: c_int, data: *const c_void, bytes: size_t) -> ssize_t {
    recorder::with(|recorder| {
        let recorder = recorder.filter(|recorder| recorder.has(fd));
        // SAFETY: where the file's next write goes; changes nothing.
        let offset = recorder.as_ref().map(|_| unsafe { libc::lseek64(fd, 0, libc::SEEK_CUR) });
        // SAFETY: passed on as it came.
        let result = unsafe { libc::syscall(libc::SYS_write, fd, data, bytes) };
        if let (Some(recorder), Some(offset), Some(written)) = (recorder, offset, done(result)) {
            // SAFETY: so many bytes were just read from there.
            recorder.written(fd, offset, unsafe { bytes_of(data, written) });
        }
        size(result)
    })
}

/// The first part alone: callers continue with the rest, as they must after any short write.
#[unsafe(no_mangle)]
extern "C" fn pwritev(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    // SAFETY: the caller gives `count` parts.
    match (count > 0).then(|| unsafe { *parts }) {
        Some(part) => pwrite64(fd, part.iov_base, part.iov_len, offset),
        None => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    recorder::with(|recorder| {
        if let Some(recorder) = recorder {
            recorder.flushed(fd);
        }
        0
    })
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    fdatasync(fd)
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(fd: c_int, bytes: off_t) -> c_int {
    recorder::with(|recorder| {
        // SAFETY: passed on as it came.
        let result = unsafe { libc::syscall(libc::SYS_ftruncate, fd, bytes) };
        if let (Some(recorder), 0) = (recorder, result) {
            recorder.resized(fd, bytes);
        }
        int(result)
    })
}

/// Reserves, and makes the file as long as asked for.
#[unsafe(no_mangle)]
extern "C" fn fallocate64(fd: c_int, mode: c_int, offset: off_t, bytes: off_t) -> c_int {
    recorder::with(|recorder| {
        // SAFETY: passed on as it came.
        let result = unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, offset, bytes) };
        if let (Some(recorder), 0, 0) = (recorder, result, mode) {
            recorder.grown(fd, offset + bytes);
        }
        int(result)
    })
}

#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    recorder::with(|recorder| {
        let cwd = libc::AT_FDCWD;
        // SAFETY: passed on as it came.
        let result = unsafe { libc::syscall(libc::SYS_renameat2, cwd, from, cwd, to, 0) };
        if let (Some(recorder), 0) = (recorder, result) {
            // SAFETY: as the system call took them.
            let (from, to) = unsafe { (path_of(from), path_of(to)) };
            recorder.renamed(from, to);
        }
        int(result)
    })
}

#[unsafe(no_mangle)]
extern "C" fn unlink(path: *const c_char) -> c_int {
    recorder::with(|recorder| {
        // SAFETY: passed on as it came.
        let result = unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) };
        if let (Some(recorder), 0) = (recorder, result) {
            // SAFETY: as the system call took it.
            recorder.unlinked(unsafe { path_of(path) });
        }
        int(result)
    })
}

/// Removes a file or, as the flags say, a directory.
#[unsafe(no_mangle)]
extern "C" fn unlinkat(directory: c_int, path: *const c_char, flags: c_int) -> c_int {
    recorder::with(|recorder| {
        // SAFETY: passed on as it came.
        let result = unsafe { libc::syscall(libc::SYS_unlinkat, directory, path, flags) };
        if let (Some(recorder), 0) = (recorder, result) {
            // SAFETY: as the system call took it.
            recorder.unlinked_in(directory, unsafe { path_of(path) });
        }
        int(result)
    })
}

#[unsafe(no_mangle)]
extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    recorder::with(|recorder| {
        // SAFETY: passed on as it came.
        let result = unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) };
        if let (Some(recorder), 0) = (recorder, result) {
            // SAFETY: as the system call took it.
            recorder.made_directory(unsafe { path_of(path) });
        }
        int(result)
    })
}
