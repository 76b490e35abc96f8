//! The simulated disk as the write-ahead log sees it.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::Disk;
use crate::storage::files::{File, Files};

/// A node's disk, shared by its machine and the process on it.
#[derive(Clone)]
pub(super) struct SimFiles(Arc<Mutex<Disk>>);

/// An open file.
pub(super) struct SimFile {
    disk: SimFiles,
    file: usize,
}

impl SimFiles {
    /// Over `disk`.
    #[must_use]
    pub(super) fn new(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    /// The disk itself.
    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, file: usize) -> SimFile {
        SimFile { disk: self.clone(), file }
    }
}

impl Files for SimFiles {
    type File = SimFile;

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        Ok(self.disk().list(directory))
    }

    fn create_directory(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let file = self.disk().create(path)?;
        Ok(self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let file = self.disk().open(path)?;
        Ok(self.file(file))
    }

    fn open_read_only(&self, path: &Path) -> io::Result<SimFile> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk().rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk().unlink(path)
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        self.disk().sync_directory()
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("files fit into memory")
}

impl File for SimFile {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.disk.disk().length(self.file) as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.disk().read(self.file, buffer, position(offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.disk.disk().write(self.file, data, position(offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.disk().sync(self.file)
    }
}
