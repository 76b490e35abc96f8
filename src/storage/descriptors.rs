//! File descriptors that are all in use: of this process (`EMFILE`) or of the machine (`ENFILE`). That is no failure of
//! a disk, and it passes when a connection ends, so whatever opens a file waits.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;

const RETRY_INTERVAL: Duration = Duration::from_millis(20);
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// Whether an error says that no file descriptors are left.
#[must_use]
pub fn are_used_up(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Opens something, and waits for as long as no descriptors are left. Warns at most once a second.
///
/// # Errors
/// As `open`, but never for want of descriptors.
pub fn wait_for<T>(path: &Path, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut warned: Option<Instant> = None;
    loop {
        match open() {
            Err(error) if are_used_up(&error) => {
                if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
                    warned = Some(Instant::now());
                    tracing::warn!(path = %path.display(), %error, "waiting for a file descriptor; raise the limit (ulimit -n)");
                }
                std::thread::sleep(RETRY_INTERVAL);
            }
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_a_file_waits_for_descriptors_and_for_nothing_else() {
        let mut errors = vec![Errno::NOENT, Errno::NFILE, Errno::MFILE, Errno::MFILE];
        let mut open = || errors.pop().map_or(Ok(()), |errno| Err(errno.into()));
        let error = wait_for(Path::new("x"), &mut open).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(wait_for(Path::new("x"), open).is_ok());
    }
}
