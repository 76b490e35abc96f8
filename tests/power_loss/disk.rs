//! What a disk may hold after power was lost: everything that was flushed, and any part of the rest.
//!
//! Of a file, blocks of what was written since its last flush may be there or not, each by itself. Of a directory,
//! the changes of names since its last flush are there up to some point (a journal), each directory by itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::random::Random;
use super::recorder::{Kind, NameChange, Names, Node, Operation};

const PAGE_BYTES: usize = 4096;
const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// A disk on which operations arrive one after the other.
#[derive(Default)]
pub(crate) struct Disk<'a> {
    files: BTreeMap<Node, Content<'a>>,
    directories: BTreeMap<Node, Directory<'a>>,
}

#[derive(Default)]
struct Content<'a> {
    durable: Vec<u8>,
    pending: Vec<Change<'a>>,
}

#[derive(Default)]
struct Directory<'a> {
    durable: Names,
    pending: Vec<&'a NameChange>,
}

#[derive(Clone, Copy)]
enum Change<'a> {
    Write(usize, &'a [u8]),
    Resize(usize),
}

impl<'a> Disk<'a> {
    /// Takes the next operation.
    pub(crate) fn take(&mut self, operation: &'a Operation) {
        match operation {
            Operation::Write { file, offset, data } => {
                self.files.entry(*file).or_default().pending.push(Change::Write(*offset, data));
            }
            Operation::Resize { file, bytes } => {
                self.files.entry(*file).or_default().pending.push(Change::Resize(*bytes));
            }
            Operation::Name { directory, change } => {
                self.directories.entry(*directory).or_default().pending.push(change);
            }
            Operation::Flush(node) => {
                if let Some(file) = self.files.get_mut(node) {
                    file.settle();
                }
                if let Some(directory) = self.directories.get_mut(node) {
                    for change in directory.pending.drain(..) {
                        change.apply(&mut directory.durable);
                    }
                }
            }
        }
    }

    /// Makes of the empty directory `path` what the disk may hold if power is lost now.
    pub(crate) fn image(&self, path: &Path, luck: &mut Luck) {
        self.put_directory(0, path, luck);
    }

    /// Makes of the empty directory `path` what processes see now.
    pub(crate) fn whole(&self, path: &Path) {
        let mut luck = Luck { random: Random::new(0), block_bytes: PAGE_BYTES, kept_of_eight: 8 };
        self.put_directory(0, path, &mut luck);
    }

    fn put_directory(&self, node: Node, path: &Path, luck: &mut Luck) {
        let nothing = Directory::default();
        let Directory { durable, pending } = self.directories.get(&node).unwrap_or(&nothing);
        let mut names = durable.clone();
        for change in &pending[..luck.prefix(pending.len())] {
            change.apply(&mut names);
        }
        for (name, (node, kind)) in names {
            let path = path.join(name);
            match kind {
                Kind::Directory => {
                    fs::create_dir(&path).unwrap();
                    self.put_directory(node, &path, luck);
                }
                Kind::File => match self.files.get(&node) {
                    Some(content) => content.put(&path, luck),
                    None => drop(File::create(&path).unwrap()),
                },
            }
        }
    }
}

impl Content<'_> {
    fn settle(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                Change::Write(offset, data) => {
                    let end = self.durable.len().max(offset + data.len());
                    self.durable.resize(end, 0);
                    self.durable[offset..offset + data.len()].copy_from_slice(data);
                }
                Change::Resize(bytes) => self.durable.resize(bytes, 0),
            }
        }
    }

    fn put(&self, path: &Path, luck: &mut Luck) {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(self.durable.len() as u64).unwrap();
        for (at, page) in self.durable.chunks(PAGE_BYTES).enumerate() {
            if !is_zero(page) {
                file.write_all_at(page, (at * PAGE_BYTES) as u64).unwrap();
            }
        }
        let mut image = Image { file, durable: &self.durable, bytes: self.durable.len(), touched: 0..0 };
        for change in &self.pending {
            match change {
                Change::Write(offset, []) if luck.keeps() => image.resize(image.bytes.max(*offset)),
                Change::Write(offset, data) => {
                    let mut done = 0;
                    while done < data.len() {
                        let at = offset + done;
                        let part = (luck.block_bytes - at % luck.block_bytes).min(data.len() - done);
                        if luck.keeps() {
                            image.write(at, &data[done..done + part]);
                        }
                        done += part;
                    }
                }
                Change::Resize(bytes) => {
                    if luck.keeps() {
                        image.resize(*bytes);
                    }
                }
            }
        }
        image.resize(image.bytes);
    }
}

/// A file as it comes to be.
struct Image<'a> {
    file: File,
    durable: &'a [u8],
    bytes: usize,
    /// What may be other than `durable` says.
    touched: Range<usize>,
}

impl Image<'_> {
    fn resize(&mut self, bytes: usize) {
        self.touch(bytes.min(self.bytes)..bytes.max(self.bytes));
        self.bytes = bytes;
        self.file.set_len(bytes as u64).unwrap();
    }

    fn touch(&mut self, range: Range<usize>) {
        let Range { start, end } = self.touched;
        if range.is_empty() {
            return;
        }
        self.touched = if start == end { range } else { start.min(range.start)..end.max(range.end) };
    }

    /// sled writes megabytes of zeros where there are zeros: these need no system call each.
    fn write(&mut self, at: usize, data: &[u8]) {
        let end = at + data.len();
        let there =
            self.durable.get(at.min(self.durable.len())..end.min(self.durable.len())).unwrap_or_default();
        let is_there =
            is_zero(data) && is_zero(there) && (end <= self.touched.start || at >= self.touched.end);
        if !is_there {
            self.file.write_all_at(data, at as u64).unwrap();
            self.touch(at..end);
        }
        self.bytes = self.bytes.max(end);
    }
}

fn is_zero(data: &[u8]) -> bool {
    data.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}

/// What of the unflushed part is on the disk.
pub(crate) struct Luck {
    random: Random,
    block_bytes: usize,
    kept_of_eight: u64,
}

impl Luck {
    /// By a seed: pages or sectors; nothing, something or everything kept.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let block_bytes = if random.below(2) == 0 { PAGE_BYTES } else { 512 };
        let kept_of_eight = [0, 1, 4, 4, 4, 7, 7, 8][usize::try_from(random.below(8)).unwrap()];
        Self { random, block_bytes, kept_of_eight }
    }

    fn keeps(&mut self) -> bool {
        self.random.below(8) < self.kept_of_eight
    }

    fn prefix(&mut self, changes: usize) -> usize {
        match self.kept_of_eight {
            0 => 0,
            8 => changes,
            _ => usize::try_from(self.random.below(changes as u64 + 1)).unwrap(),
        }
    }
}
