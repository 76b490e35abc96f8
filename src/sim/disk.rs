//! One node's disk in virtual time, as a process, a kill and a power cut see it.
//!
//! The code under test calls it and gets its answer at once, but every operation has a time at which it begins
//! and one at which it is done, one after the other as a disk does them. The caller of that code lets it
//! continue only when the last operation is done ([`Disk::end`]), so a crash may come at any moment of it:
//! [`Disk::crash`] takes back what had not begun by then. What was written but not flushed is in the kernel's
//! memory: a killed process finds it again, after a power cut any part of it is there.
//!
//! Assumed of disks: a flush that succeeded is true; of a sector, a prefix is written; names change in the order
//! in which they were changed (a journal). A failed flush leaves any part of what was written on the disk, and
//! the kernel takes all of it for written: flushing again does not repeat it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::random::Random;
use crate::types::Instant;

const BLOCK_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// How long operations take, in microseconds, and what fails.
#[derive(Clone, Copy, Debug)]
pub struct DiskTraits {
    /// A write to the kernel's memory: from 1 to this.
    pub write_micros: u64,
    /// A flush: from a quarter of this to this.
    pub flush_micros: u64,
    /// Of a thousand flushes, how many take twenty times as long.
    pub slow_of_thousand: u32,
}

impl Default for DiskTraits {
    fn default() -> Self {
        Self { write_micros: 10, flush_micros: 400, slow_of_thousand: 5 }
    }
}

/// How a node's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed; the kernel keeps what was written.
    Killed,
    /// The machine loses power; only what was flushed is sure to be there.
    PowerLost,
}

/// The disk's content and what is on its way to it.
pub struct Disk {
    random: Random,
    /// Speed.
    pub traits: DiskTraits,
    files: Vec<Content>,
    /// Files that hold writes which are not known to be on the disk.
    dirty: Vec<usize>,
    /// As processes see them.
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// In order; not durable yet.
    renamed: Vec<NameChange>,
    /// When everything asked for so far is done.
    free_at: Instant,
    /// Nothing is flushed before this.
    stalled_until: Instant,
    /// The next flush fails.
    fail_flush: bool,
    /// The next write fails.
    fail_write: bool,
    /// Files cannot grow.
    full: bool,
}

#[derive(Default)]
struct Content {
    /// As processes see it.
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// In order.
    written: Vec<Written>,
}

/// A write that is not known to be on the disk.
struct Written {
    begun: Instant,
    /// When a flush ended that covers it, and whether it failed.
    flushed: Option<(Instant, bool)>,
    offset: usize,
    data: Vec<u8>,
    /// What it replaced, to take it back.
    before: Vec<u8>,
    old_length: usize,
}

struct NameChange {
    begun: Instant,
    flushed: Option<Instant>,
    change: Change,
}

enum Change {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Create(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Unlink(path) => drop(names.remove(path)),
        }
    }
}

/// Writes `data` at `offset`, and makes the file longer where needed.
fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

fn failed() -> io::Error {
    io::Error::other("input/output error")
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub(super) fn new(random: Random, traits: DiskTraits) -> Self {
        Self {
            random,
            traits,
            files: Vec::new(),
            dirty: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamed: Vec::new(),
            free_at: Instant(0),
            stalled_until: Instant(0),
            fail_flush: false,
            fail_write: false,
            full: false,
        }
    }

    /// Work on the disk begins now.
    pub fn begin(&mut self, now: Instant) {
        self.settle(now);
        self.free_at = self.free_at.max(now);
    }

    /// What comes next does not begin before `at`.
    pub fn delay_to(&mut self, at: Instant) {
        self.free_at = self.free_at.max(at);
    }

    /// When all work asked for is done.
    #[must_use]
    pub fn end(&self) -> Instant {
        self.free_at
    }

    /// Whether all files whose name `counts`, and these names, are durable once [`Disk::end`] has come.
    pub(super) fn is_flushed(&self, counts: impl Fn(&Path) -> bool) -> bool {
        let is_written =
            |file: usize| self.files[file].written.iter().all(|w| w.flushed.is_some_and(|f| !f.1));
        let has_name = |file: usize| self.names.iter().any(|(path, named)| *named == file && counts(path));
        self.dirty.iter().all(|file| is_written(*file) || !has_name(*file))
            && self.renamed.iter().all(|renamed| match &renamed.change {
                Change::Create(path, _) | Change::Rename(_, path) => {
                    renamed.flushed.is_some() || !counts(path)
                }
                Change::Unlink(_) => true,
            })
    }

    /// Flushes wait until `until`.
    pub fn stall(&mut self, until: Instant) {
        self.stalled_until = self.stalled_until.max(until);
    }

    /// The next flush fails; with `write`, the next write does.
    pub fn fail_next(&mut self, write: bool) {
        if write {
            self.fail_write = true;
        } else {
            self.fail_flush = true;
        }
    }

    /// Whether files can no longer grow.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Nothing is wrong with the disk any more.
    pub fn repair(&mut self) {
        (self.stalled_until, self.fail_flush, self.fail_write, self.full) = (Instant(0), false, false, false);
    }

    fn spend(&mut self, micros: u64) -> Instant {
        let begun = self.free_at;
        self.free_at = Instant(begun.0 + micros);
        begun
    }

    fn flush_time(&mut self) -> u64 {
        let DiskTraits { flush_micros, slow_of_thousand, .. } = self.traits;
        let slow = if self.random.chance(slow_of_thousand) { 20 } else { 1 };
        let wait = self.stalled_until.0.saturating_sub(self.free_at.0);
        wait + slow * self.random.between(flush_micros / 4, flush_micros)
    }

    /// Moves to the disk what has been flushed by `now`.
    fn settle(&mut self, now: Instant) {
        let (files, random) = (&mut self.files, &mut self.random);
        self.dirty.retain(|file| {
            let Content { written, durable, .. } = &mut files[*file];
            let done = written.iter().take_while(|w| w.flushed.is_some_and(|(at, _)| at <= now)).count();
            for Written { flushed, offset, data, .. } in written.drain(..done) {
                match flushed {
                    Some((_, true)) => put_any_part(durable, offset, &data, random),
                    _ => put(durable, offset, &data),
                }
            }
            !written.is_empty()
        });
        let done = self.renamed.iter().take_while(|c| c.flushed.is_some_and(|at| at <= now)).count();
        for NameChange { change, .. } in self.renamed.drain(..done) {
            change.apply(&mut self.durable_names);
        }
    }

    /// What the process did stops at `now`; then it is killed or power is lost.
    pub fn crash(&mut self, now: Instant, crash: Crash) {
        for file in &self.dirty {
            let Content { written, cached, .. } = &mut self.files[*file];
            while written.last().is_some_and(|w| w.begun > now) {
                if let Some(Written { offset, before, old_length, .. }) = written.pop() {
                    put(cached, offset, &before);
                    cached.truncate(old_length);
                }
            }
            for write in written.iter_mut() {
                write.flushed = write.flushed.filter(|(at, _)| *at <= now);
            }
        }
        self.renamed.retain(|change| change.begun <= now);
        for change in &mut self.renamed {
            change.flushed = change.flushed.filter(|at| *at <= now);
        }
        self.settle(now);
        if crash == Crash::PowerLost {
            self.lose_power();
        }
        self.names = self.durable_names.clone();
        for change in &self.renamed {
            change.change.apply(&mut self.names);
        }
        self.free_at = now;
    }

    fn lose_power(&mut self) {
        let share = self.random.pick(&[0, 100, 500, 900, 1000]);
        for file in std::mem::take(&mut self.dirty) {
            let Content { written, durable, .. } = &mut self.files[file];
            for Written { offset, data, .. } in written.drain(..) {
                put_some(durable, offset, &data, share, &mut self.random);
            }
        }
        let kept = self.random.index(self.renamed.len() + 1);
        for NameChange { change, .. } in self.renamed.drain(..).take(kept) {
            change.apply(&mut self.durable_names);
        }
        for content in &mut self.files {
            content.cached.clone_from(&content.durable);
        }
    }

    /// Flips one bit of what is stored under a name, if anything is. Returns where.
    pub fn flip_bit(&mut self) -> Option<(PathBuf, usize)> {
        let candidates: Vec<(PathBuf, usize)> = self
            .names
            .iter()
            .filter(|(_, file)| !self.files[**file].durable.is_empty())
            .map(|(path, file)| (path.clone(), *file))
            .collect();
        let (path, file) = candidates.get(self.random.index(candidates.len()))?.clone();
        let content = &mut self.files[file];
        let used = content.durable.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let at = self.random.index(used);
        let bit = 1 << self.random.below(8);
        content.durable[at] ^= bit;
        if let Some(byte) = content.cached.get_mut(at) {
            *byte ^= bit;
        }
        Some((path, at))
    }

    pub(super) fn list(&self, directory: &Path) -> Vec<String> {
        let within = self.names.keys().filter(|path| path.parent() == Some(directory));
        within.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<usize> {
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = self.files.len();
        self.files.push(Content::default());
        self.rename_with(Change::Create(path.to_owned(), file));
        Ok(file)
    }

    fn rename_with(&mut self, change: Change) {
        let begun = self.spend(5);
        change.apply(&mut self.names);
        self.renamed.push(NameChange { begun, flushed: None, change });
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.open(from)?;
        self.rename_with(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.open(path)?;
        self.rename_with(Change::Unlink(path.to_owned()));
        Ok(())
    }

    pub(super) fn sync_directory(&mut self) -> io::Result<()> {
        let time = self.flush_time();
        self.spend(time);
        if std::mem::take(&mut self.fail_flush) {
            return Err(failed());
        }
        for change in &mut self.renamed {
            change.flushed = change.flushed.or(Some(self.free_at));
        }
        Ok(())
    }

    pub(super) fn length(&self, file: usize) -> usize {
        self.files[file].cached.len()
    }

    pub(super) fn read(&self, file: usize, buffer: &mut [u8], offset: usize) -> io::Result<()> {
        let content = &self.files[file].cached;
        let part = content.get(offset..offset + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }

    pub(super) fn write(&mut self, file: usize, data: &[u8], offset: usize) -> io::Result<()> {
        let micros = self.random.between(1, self.traits.write_micros.max(1));
        let begun = self.spend(micros);
        let old_length = self.files[file].cached.len();
        if self.full && offset + data.len() > old_length {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fails = std::mem::take(&mut self.fail_write);
        let data = if fails { &data[..self.random.index(data.len() + 1)] } else { data };
        let Content { cached, written, .. } = &mut self.files[file];
        let before = cached[offset.min(old_length)..(offset + data.len()).min(old_length)].to_vec();
        put(cached, offset, data);
        if written.is_empty() {
            self.dirty.push(file);
        }
        written.push(Written { begun, flushed: None, offset, data: data.to_vec(), before, old_length });
        if fails { Err(failed()) } else { Ok(()) }
    }

    pub(super) fn sync(&mut self, file: usize) -> io::Result<()> {
        let time = self.flush_time();
        self.spend(time);
        let fails = std::mem::take(&mut self.fail_flush);
        for write in &mut self.files[file].written {
            write.flushed = write.flushed.or(Some((self.free_at, fails)));
        }
        if fails { Err(failed()) } else { Ok(()) }
    }
}

/// What a failed flush leaves.
fn put_any_part(content: &mut Vec<u8>, offset: usize, data: &[u8], random: &mut Random) {
    let share = random.pick(&[0, 500, 1000]);
    put_some(content, offset, data, share, random);
}

/// Writes about `share` of a thousand blocks or sectors, and sometimes a part of one.
fn put_some(content: &mut Vec<u8>, offset: usize, data: &[u8], share: u32, random: &mut Random) {
    let unit = random.pick(&[BLOCK_BYTES, SECTOR_BYTES]);
    let mut done = 0;
    while done < data.len() {
        let part = (unit - (offset + done) % unit).min(data.len() - done);
        if random.chance(share) {
            put(content, offset + done, &data[done..done + part]);
        } else if random.chance(100) {
            // A write that was cut: what came before is there, of one sector a prefix.
            let torn = random.index(part + 1);
            put(content, offset + done, &data[done..done + torn]);
        }
        done += part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: [u8; 3 * BLOCK_BYTES] = [7; 3 * BLOCK_BYTES];

    /// A disk with a durable file of zeros, and the file.
    fn disk(seed: u64) -> (Disk, usize) {
        let mut disk = Disk::new(Random::new(seed, 0), DiskTraits::default());
        let file = disk.create(Path::new("/log")).unwrap();
        disk.write(file, &[0; DATA.len()], 0).unwrap();
        disk.sync(file).unwrap();
        disk.sync_directory().unwrap();
        let end = disk.end();
        disk.begin(end);
        (disk, file)
    }

    fn content(disk: &Disk, path: &str) -> Vec<u8> {
        let file = disk.open(Path::new(path)).unwrap();
        let mut content = vec![0; disk.length(file)];
        disk.read(file, &mut content, 0).unwrap();
        content
    }

    #[test]
    fn what_was_flushed_outlives_everything() {
        for seed in 0..50 {
            let (mut disk, file) = disk(seed);
            disk.write(file, &DATA, 0).unwrap();
            disk.sync(file).unwrap();
            let end = disk.end();
            disk.crash(end, Crash::PowerLost);
            assert_eq!(content(&disk, "/log"), DATA);
        }
    }

    #[test]
    fn of_what_was_not_flushed_any_part_outlives_a_power_cut_and_all_of_it_a_kill() {
        let mut seen = [false; 3];
        for seed in 0..50 {
            for crash in [Crash::Killed, Crash::PowerLost] {
                let (mut disk, file) = disk(seed);
                disk.write(file, &DATA, 0).unwrap();
                let written = disk.end();
                disk.sync(file).unwrap();
                // The flush is under way.
                disk.crash(written, crash);
                let content = content(&disk, "/log");
                let kept = content.iter().filter(|byte| **byte != 0).count();
                match crash {
                    Crash::Killed => assert_eq!(kept, DATA.len()),
                    Crash::PowerLost if kept == 0 => seen[0] = true,
                    Crash::PowerLost if kept == DATA.len() => seen[1] = true,
                    Crash::PowerLost => seen[2] = true,
                }
            }
        }
        assert_eq!(seen, [true; 3], "none, all and some of it");
    }

    #[test]
    fn what_had_not_begun_never_was() {
        let (mut disk, file) = disk(1);
        let begun = disk.end();
        disk.spend(10);
        disk.write(file, &DATA, BLOCK_BYTES).unwrap();
        disk.rename(Path::new("/log"), Path::new("/moved")).unwrap();
        disk.crash(begun, Crash::Killed);
        assert_eq!(content(&disk, "/log"), [0; DATA.len()], "neither longer nor changed");
        assert!(disk.open(Path::new("/moved")).is_err());
    }

    #[test]
    fn names_change_in_order_and_for_good_with_the_directory() {
        let mut seen = [false; 3];
        for seed in 0..50 {
            let (mut disk, _) = disk(seed);
            disk.rename(Path::new("/log"), Path::new("/a")).unwrap();
            disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
            let end = disk.end();
            let mut flushed = disk.list(Path::new("/"));
            assert_eq!(flushed, ["b"]);
            disk.crash(end, Crash::PowerLost);
            flushed = disk.list(Path::new("/"));
            seen[["log", "a", "b"].iter().position(|name| flushed == [*name]).unwrap()] = true;
        }
        assert_eq!(seen, [true; 3]);
    }

    #[test]
    fn a_failed_flush_is_not_made_up_for_by_the_next() {
        let mut lost = 0;
        for seed in 0..50 {
            let (mut disk, file) = disk(seed);
            disk.write(file, &DATA, 0).unwrap();
            disk.fail_next(false);
            assert!(disk.sync(file).is_err());
            assert!(!disk.is_flushed(|_| true));
            disk.sync(file).unwrap();
            let end = disk.end();
            assert_eq!(content(&disk, "/log"), DATA, "the kernel shows it");
            disk.crash(end, Crash::PowerLost);
            lost += u32::from(content(&disk, "/log") != DATA);
        }
        assert!(lost > 0);
    }

    #[test]
    fn a_full_disk_takes_no_more_but_what_has_its_place() {
        let (mut disk, file) = disk(1);
        disk.set_full(true);
        assert!(disk.write(file, &DATA, 0).is_ok());
        let error = disk.write(file, &DATA, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(disk.create(Path::new("/new")).is_err());
    }
}
