//! Takes down, in order, everything that is done to one directory tree.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// A file or directory, whatever its name; the root is 0.
pub(crate) type Node = usize;

/// One change of the tree.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Bytes of a file.
    Write { file: Node, offset: usize, data: Vec<u8> },
    /// A file's length.
    Resize { file: Node, bytes: usize },
    /// A name in a directory.
    Name { directory: Node, change: NameChange },
    /// Everything done so far to a file, or to a directory's names, is on the disk.
    Flush(Node),
}

/// One change of a directory's names; another file of that name is replaced.
#[derive(Clone, Debug)]
pub(crate) enum NameChange {
    Link(String, Node, Kind),
    Unlink(String),
    Rename(String, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
}

/// Names in a directory.
pub(crate) type Names = BTreeMap<String, (Node, Kind)>;

impl NameChange {
    pub(crate) fn apply(&self, names: &mut Names) {
        match self {
            Self::Link(name, node, kind) => drop(names.insert(name.clone(), (*node, *kind))),
            Self::Unlink(name) => drop(names.remove(name)),
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

/// One for the process, as the symbols are.
static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);
static IS_RECORDING: AtomicBool = AtomicBool::new(false);

/// Runs a system call: alone and told to the recorder while one is there.
pub(crate) fn with<T>(call: impl FnOnce(Option<&mut Recorder>) -> T) -> T {
    if !IS_RECORDING.load(Ordering::Acquire) {
        return call(None);
    }
    let mut recorder = RECORDER.lock().unwrap_or_else(PoisonError::into_inner);
    call(recorder.as_mut())
}

/// Begins to record what is done below `root`, an empty directory.
pub(crate) fn begin(root: &Path) {
    *RECORDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(Recorder {
        root: root.to_owned(),
        directories: BTreeMap::from([(0, Names::new())]),
        next: 1,
        open: BTreeMap::new(),
        journal: Vec::new(),
    });
    IS_RECORDING.store(true, Ordering::Release);
}

/// Operations recorded so far.
pub(crate) fn recorded() -> usize {
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |one| one.journal.len())
}

/// Ends the recording.
pub(crate) fn end() -> Vec<Operation> {
    IS_RECORDING.store(false, Ordering::Release);
    let recorder = RECORDER.lock().unwrap_or_else(PoisonError::into_inner).take();
    recorder.map(|recorder| recorder.journal).unwrap_or_default()
}

/// What is known of the tree, as processes see it.
pub(crate) struct Recorder {
    root: PathBuf,
    directories: BTreeMap<Node, Names>,
    next: Node,
    open: BTreeMap<c_int, Node>,
    journal: Vec<Operation>,
}

impl Recorder {
    /// The directory and the name of `path`, if it lies below the root.
    fn place(&self, path: &Path) -> Option<(Node, String)> {
        let below = path.strip_prefix(&self.root).ok()?;
        let name = below.file_name()?.to_str()?.to_owned();
        let mut directory = 0;
        for part in below.parent()?.components() {
            directory = self.directories.get(&directory)?.get(part.as_os_str().to_str()?)?.0;
        }
        Some((directory, name))
    }

    fn node(&self, path: &Path) -> Option<Node> {
        if path == self.root {
            return Some(0);
        }
        let (directory, name) = self.place(path)?;
        self.directories.get(&directory)?.get(&name).map(|(node, _)| *node)
    }

    fn change(&mut self, directory: Node, change: NameChange) {
        change.apply(self.directories.entry(directory).or_default());
        self.journal.push(Operation::Name { directory, change });
    }

    fn link(&mut self, path: &Path, kind: Kind) -> Option<Node> {
        let (directory, name) = self.place(path)?;
        let node = self.next;
        self.next += 1;
        self.change(directory, NameChange::Link(name, node, kind));
        Some(node)
    }

    pub(crate) fn has(&self, fd: c_int) -> bool {
        self.open.contains_key(&fd)
    }

    pub(crate) fn opened(&mut self, path: &Path, fd: c_int, creates: bool, empties: bool) {
        self.open.remove(&fd);
        let known = self.node(path);
        let node = match known {
            None if creates => self.link(path, Kind::File),
            known => known,
        };
        let Some(node) = node else { return };
        self.open.insert(fd, node);
        if known.is_some() && empties {
            self.journal.push(Operation::Resize { file: node, bytes: 0 });
        }
    }

    /// A path that begins at an open directory, or an absolute one. Nothing is made that way.
    pub(crate) fn opened_in(&mut self, directory: c_int, path: &Path, fd: c_int) {
        self.open.remove(&fd);
        let node = match self.open.get(&directory) {
            Some(directory) if path.is_relative() => {
                let name = path.to_str().and_then(|name| self.directories.get(directory)?.get(name));
                name.map(|(node, _)| *node)
            }
            _ => self.node(path),
        };
        self.open.extend(node.map(|node| (fd, node)));
    }

    pub(crate) fn closed(&mut self, fd: c_int) {
        self.open.remove(&fd);
    }

    pub(crate) fn written(&mut self, fd: c_int, offset: i64, data: &[u8]) {
        if let Some(file) = self.open.get(&fd) {
            let offset = usize::try_from(offset).expect("a write that succeeded has an offset");
            self.journal.push(Operation::Write { file: *file, offset, data: data.to_vec() });
        }
    }

    pub(crate) fn resized(&mut self, fd: c_int, bytes: i64) {
        if let Some(file) = self.open.get(&fd) {
            let bytes = usize::try_from(bytes).expect("a length that was accepted");
            self.journal.push(Operation::Resize { file: *file, bytes });
        }
    }

    pub(crate) fn grown(&mut self, fd: c_int, end: i64) {
        if let Some(file) = self.open.get(&fd) {
            // A write of nothing, whose place the file must reach.
            let offset = usize::try_from(end).expect("a length that was accepted");
            self.journal.push(Operation::Write { file: *file, offset, data: Vec::new() });
        }
    }

    pub(crate) fn flushed(&mut self, fd: c_int) {
        if let Some(node) = self.open.get(&fd) {
            self.journal.push(Operation::Flush(*node));
        }
    }

    pub(crate) fn renamed(&mut self, from: &Path, to: &Path) {
        // Not known: across directories, and into the tree from outside. The comparison at the end would show it.
        if let (Some((one, from)), Some((other, to))) = (self.place(from), self.place(to))
            && one == other
        {
            self.change(one, NameChange::Rename(from, to));
        }
    }

    pub(crate) fn unlinked(&mut self, path: &Path) {
        if let Some((directory, name)) = self.place(path) {
            self.change(directory, NameChange::Unlink(name));
        }
    }

    /// As [`Recorder::opened_in`].
    pub(crate) fn unlinked_in(&mut self, directory: c_int, path: &Path) {
        match (self.open.get(&directory), path.to_str()) {
            (Some(directory), Some(name)) if path.is_relative() => {
                self.change(*directory, NameChange::Unlink(name.to_owned()));
            }
            _ => self.unlinked(path),
        }
    }

    pub(crate) fn made_directory(&mut self, path: &Path) {
        if let Some(node) = self.link(path, Kind::Directory) {
            self.directories.insert(node, Names::new());
        }
    }
}
