//! A disk in memory that remembers what was done to it, and fails on demand.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::directory;
use crate::storage::files::{File, Files};

/// Files in memory that count writes and flushes, and fail on demand.
#[derive(Clone, Default)]
pub(super) struct MemoryFiles(pub(super) Arc<Mutex<Disk>>);

/// A file's bytes, whatever its name.
pub(super) type Content = Arc<Mutex<Vec<u8>>>;

/// One change of the disk.
#[derive(Clone)]
pub(super) enum Operation {
    Create(PathBuf, Content),
    Write(Content, usize, Vec<u8>),
    Sync(Content),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    SyncDirectory,
}

/// Something that another thread does at a bad moment.
pub(super) type Interruption = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Disk {
    pub(super) files: BTreeMap<PathBuf, Content>,
    pub(super) writes: usize,
    pub(super) syncs: usize,
    pub(super) fail_write: bool,
    pub(super) fail_sync: bool,
    /// Files may not grow beyond this together.
    pub(super) bytes_max: Option<usize>,
    /// Everything done so far, oldest first.
    pub(super) journal: Vec<Operation>,
    /// What happens when a segment that was made ready is about to be renamed.
    pub(super) before_taking: Option<Interruption>,
}

pub(super) struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    content: Content,
}

impl MemoryFiles {
    /// A disk of its own with the same content.
    pub(super) fn fork(&self) -> Self {
        let disk = self.0.lock().unwrap();
        let files = disk
            .files
            .iter()
            .map(|(path, content)| (path.clone(), Arc::new(Mutex::new(content.lock().unwrap().clone()))));
        Self(Arc::new(Mutex::new(Disk { files: files.collect(), ..Disk::default() })))
    }

    fn interrupt(&self, path: &Path) {
        if path.ends_with("ready") {
            let interruption = self.0.lock().unwrap().before_taking.take();
            if let Some(interruption) = interruption {
                interruption();
            }
        }
    }

    /// Writes and flushes so far.
    pub(super) fn counts(&self) -> (usize, usize) {
        let disk = self.0.lock().unwrap();
        (disk.writes, disk.syncs)
    }

    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        self.0.lock().unwrap().files[&directory().join(name)].lock().unwrap().clone()
    }

    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.0.lock().unwrap().files[&directory().join(name)].lock().unwrap());
    }
}

impl Files for MemoryFiles {
    type File = MemoryFile;

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let disk = self.0.lock().unwrap();
        let within = disk.files.keys().filter(|path| path.parent() == Some(directory));
        Ok(within.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    fn create_directory(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<MemoryFile> {
        let content = Content::default();
        let mut disk = self.0.lock().unwrap();
        disk.files.insert(path.to_owned(), content.clone());
        disk.journal.push(Operation::Create(path.to_owned(), content.clone()));
        Ok(MemoryFile { disk: self.0.clone(), content })
    }

    fn open(&self, path: &Path) -> io::Result<MemoryFile> {
        let content = self.0.lock().unwrap().files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(MemoryFile { disk: self.0.clone(), content })
    }

    fn open_read_only(&self, path: &Path) -> io::Result<MemoryFile> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.interrupt(from);
        let mut disk = self.0.lock().unwrap();
        let content = disk.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.files.insert(to.to_owned(), content);
        disk.journal.push(Operation::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.journal.push(Operation::Unlink(path.to_owned()));
        disk.files.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        self.0.lock().unwrap().journal.push(Operation::SyncDirectory);
        Ok(())
    }
}

impl File for MemoryFile {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let content = self.content.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        let part = content.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.writes += 1;
        if disk.fail_write {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let from = usize::try_from(offset).unwrap();
        let growth = (from + data.len()).saturating_sub(self.content.lock().unwrap().len());
        let taken = || disk.files.values().map(|content| content.lock().unwrap().len()).sum::<usize>();
        if growth > 0 && disk.bytes_max.is_some_and(|max| taken() + growth > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.journal.push(Operation::Write(self.content.clone(), from, data.to_vec()));
        put(&mut self.content.lock().unwrap(), from, data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.syncs += 1;
        if disk.fail_sync {
            return Err(io::Error::other("input/output error"));
        }
        disk.journal.push(Operation::Sync(self.content.clone()));
        Ok(())
    }
}

/// Writes `data` at `from`, and makes the file longer where needed.
pub(super) fn put(content: &mut Vec<u8>, from: usize, data: &[u8]) {
    let end = content.len().max(from + data.len());
    content.resize(end, 0);
    content[from..from + data.len()].copy_from_slice(data);
}
