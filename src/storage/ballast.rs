//! Space that is kept back for a start on a full disk.
//!
//! sled writes as it is opened (up to a segment of 8 MiB for each of its two directories), and so do the checkpoints of
//! what is replayed. On a disk that other files filled, or that a node's own files filled up to the last byte, a node
//! could never start again, and never get as far as to compact. So a running node keeps a reserve file, `ballast`,
//! next to its data; a start that finds the disk full deletes it, and it is made again once there is enough space.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::StorageError;
use super::data_dir::{exists, sync};
use super::descriptors::wait_for;
use super::space::{enough_bytes, free_bytes};

const NAME: &str = "ballast";
/// Two segments of sled, twice the records of one checkpoint, and as much again.
const BALLAST_BYTES_MAX: u64 = 64 << 20;
/// What opening both of sled's directories may write, and some more.
const START_BYTES_MAX: u64 = 24 << 20;

/// The ballast of one data directory.
#[derive(Clone, Debug)]
pub struct Ballast {
    root: PathBuf,
    reserve_bytes: u64,
}

impl Ballast {
    /// That of the data directory `root`. Its size follows the reserve below which the node takes no entries: without
    /// a reserve there is no ballast, and nothing that a start needs.
    #[must_use]
    pub fn new(root: &Path, reserve_bytes: u64) -> Self {
        Self { root: root.to_owned(), reserve_bytes }
    }

    /// Its size in bytes: half the reserve, 64 MiB at most.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        BALLAST_BYTES_MAX.min(self.reserve_bytes / 2)
    }

    /// The free bytes that a start needs, of a node that has a log of its own.
    #[must_use]
    pub fn start_bytes(&self) -> u64 {
        START_BYTES_MAX.min(self.reserve_bytes / 4)
    }

    /// Deletes the ballast if there is less free space than it holds. Returns the bytes that are free then. The
    /// directory need not be there yet.
    ///
    /// # Errors
    /// [`StorageError::Disk`].
    pub fn make_room(&self) -> Result<u64, StorageError> {
        let there = |path: &&Path| path.exists();
        let place = self.root.ancestors().find(there).unwrap_or(Path::new("."));
        let free = free_bytes(place)?;
        if self.give_up(free)? { free_bytes(place) } else { Ok(free) }
    }

    /// Removes it if it is there and so few bytes are free; whether it did.
    fn give_up(&self, free_bytes: u64) -> Result<bool, StorageError> {
        let path = self.path();
        if free_bytes >= self.size_bytes() || !exists(&path)? {
            return Ok(false);
        }
        fs::remove_file(&path).map_err(StorageError::disk("unlink", &path))?;
        // Some file systems hand freed space out again only behind a flush.
        sync(&self.root)?;
        Ok(true)
    }

    /// Makes it if it is not there and `free_bytes` leave so much room that the node still takes entries. Returns the
    /// bytes that are free then.
    ///
    /// # Errors
    /// [`StorageError::Disk`]; the node can continue without it.
    pub fn keep(&self, free_bytes: u64) -> Result<u64, StorageError> {
        let (path, bytes) = (self.path(), self.size_bytes());
        let is_room = free_bytes >= enough_bytes(self.reserve_bytes).saturating_add(bytes);
        // A shorter one was cut short by a crash.
        let is_there = fs::metadata(&path).is_ok_and(|found| found.len() >= bytes);
        if !is_room || is_there || bytes == 0 {
            return Ok(free_bytes);
        }
        if let Err(error) = wait_for(&path, || File::create(&path)).and_then(|file| allocate(&file, bytes)) {
            // Half a ballast would only be in the way.
            let _ = fs::remove_file(&path);
            return Err(StorageError::disk("allocate", &path)(error));
        }
        Ok(free_bytes - bytes)
    }

    fn path(&self) -> PathBuf {
        self.root.join(NAME)
    }
}

/// Gives the file blocks of its own, by zeros where the file system has no quicker way.
fn allocate(mut file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) => io::copy(&mut io::repeat(0).take(bytes), &mut file).map(drop),
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn ballast(root: &Path) -> Ballast {
        Ballast::new(root, 32 * KIB)
    }

    #[test]
    fn it_takes_half_the_reserve_and_64_mib_at_most() {
        let sizes = [0, 2, 96 << 20, 192 << 20, 1 << 40].map(|reserve_bytes| {
            let ballast = Ballast::new(Path::new("x"), reserve_bytes);
            (ballast.size_bytes(), ballast.start_bytes())
        });
        assert_eq!(sizes, [(0, 0), (1, 0), (48 << 20, 24 << 20), (64 << 20, 24 << 20), (64 << 20, 24 << 20)]);
    }

    #[test]
    fn it_is_made_once_there_is_plenty_and_takes_its_space() {
        let temporary = tempfile::tempdir().unwrap();
        let (ballast, path) = (ballast(temporary.path()), temporary.path().join(NAME));
        // The reserve, a quarter of it, and the ballast itself.
        assert_eq!(ballast.keep(56 * KIB - 1).unwrap(), 56 * KIB - 1);
        assert!(!path.exists());
        assert_eq!(ballast.keep(56 * KIB).unwrap(), 40 * KIB);
        assert_eq!(fs::metadata(&path).unwrap().len(), 16 * KIB);
        assert_eq!(ballast.keep(90 * KIB).unwrap(), 90 * KIB, "there is one");
        File::create(&path).unwrap();
        assert_eq!(ballast.keep(90 * KIB).unwrap(), 74 * KIB, "it was cut short");
    }

    #[test]
    fn it_stays_while_there_is_room_and_is_deleted_when_there_is_not() {
        let temporary = tempfile::tempdir().unwrap();
        let (ballast, path) = (ballast(temporary.path()), temporary.path().join(NAME));
        ballast.keep(1 << 30).unwrap();
        assert!(!ballast.give_up(16 * KIB).unwrap());
        assert!(path.exists());
        assert!(ballast.give_up(16 * KIB - 1).unwrap());
        assert!(!path.exists());
        assert!(!ballast.give_up(0).unwrap(), "there is none any more");
    }

    #[test]
    fn a_directory_that_is_not_there_has_the_room_of_its_disk() {
        let temporary = tempfile::tempdir().unwrap();
        let missing = temporary.path().join("a/b");
        assert!(ballast(&missing).make_room().unwrap() > 0);
        assert!(!missing.exists());
    }
}
