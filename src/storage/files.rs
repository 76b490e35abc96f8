//! The few file operations that the log is written against, so that a simulator can run it on a disk of its own.
//!
//! [`OsFiles`] goes through the standard library and so through the C library's symbols (`pwrite64`,
//! `fdatasync`, …), which a power-loss test replaces to record what reaches the disk in which order.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::descriptors::wait_for;

/// A directory tree on one disk.
pub trait Files: Clone + Send + Sync + 'static {
    /// An open file.
    type File: File;

    /// Names in a directory, in no particular order.
    ///
    /// # Errors
    /// As the system says; `NotFound` if there is no such directory.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Makes a directory and the missing ones above it; one that is there already is no error.
    ///
    /// # Errors
    /// As the system says.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;

    /// Creates an empty file for reading and writing; one that is there is emptied.
    ///
    /// # Errors
    /// As the system says.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// As the system says; `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file for reading only.
    ///
    /// # Errors
    /// As the system says; `NotFound` if there is none.
    fn open_read_only(&self, path: &Path) -> io::Result<Self::File>;

    /// Renames within the disk, replacing the target. Durable after [`Files::sync_directory`].
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Files::sync_directory`].
    ///
    /// # Errors
    /// As the system says; `NotFound` if there is none.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the system says. What is durable afterwards is unknown.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// One open file.
pub trait File: Send + Sync + 'static {
    /// Length in bytes.
    ///
    /// # Errors
    /// As the system says.
    fn size_bytes(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// As the system says; `UnexpectedEof` if the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`, in one system call unless the system takes less.
    ///
    /// # Errors
    /// As the system says. Any part may have been written.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the content durable (`fdatasync`).
    ///
    /// # Errors
    /// As the system says. What is durable afterwards is unknown, and calling again does not tell.
    fn sync_data(&self) -> io::Result<()>;

    /// Lets later reads come from the disk and not from memory, as far as the system does that. A hint.
    fn forget_cached(&self) {}
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFiles;

impl Files for OsFiles {
    type File = fs::File;

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        wait_for(directory, || fs::read_dir(directory))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)
    }

    fn create(&self, path: &Path) -> io::Result<fs::File> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        wait_for(path, || options.open(path))
    }

    fn open(&self, path: &Path) -> io::Result<fs::File> {
        wait_for(path, || fs::OpenOptions::new().read(true).write(true).open(path))
    }

    fn open_read_only(&self, path: &Path) -> io::Result<fs::File> {
        wait_for(path, || fs::File::open(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        wait_for(directory, || fs::File::open(directory))?.sync_all()
    }
}

impl File for fs::File {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }

    fn forget_cached(&self) {
        let _ = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed);
    }
}
