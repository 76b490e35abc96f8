//! Logs whose bytes are anything: opening and inspecting them end with a log or with an error.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::format::{self, RecordContent, SegmentHeader};
use super::{Options, Owner, Wal, inspect, segment};
use crate::fuzzing::Input;
use crate::raft::{AppendEntries, Entry, HardState, Payload};
use crate::storage::files::{File, Files};
use crate::types::{ClusterId, IoId, LogIndex, LogPosition, LogTime, NodeId, Term};

const OWNER: Owner = Owner { node_id: NodeId(1), cluster_id: ClusterId(2) };
const SEGMENT_BYTES: u32 = 16 << 10;

/// A file's bytes, whatever its name.
type Content = Arc<Mutex<Vec<u8>>>;

/// Files in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<PathBuf, Content>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    fn put(&self, name: &str, content: Vec<u8>) {
        lock(&self.0).insert(directory().join(name), Arc::new(Mutex::new(content)));
    }
}

impl Files for Memory {
    type File = MemoryFile;

    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        let files = lock(&self.0);
        Ok(files.keys().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<MemoryFile> {
        let content = Content::default();
        lock(&self.0).insert(path.to_owned(), Arc::clone(&content));
        Ok(MemoryFile(content))
    }

    fn open(&self, path: &Path) -> io::Result<MemoryFile> {
        let content = lock(&self.0).get(path).cloned();
        content.map(MemoryFile).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn open_read_only(&self, path: &Path) -> io::Result<MemoryFile> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = lock(&self.0);
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        lock(&self.0).remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

struct MemoryFile(Content);

impl File for MemoryFile {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let content = lock(&self.0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = from.checked_add(buffer.len()).and_then(|end| content.get(from..end));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut content = lock(&self.0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = content.len().max(from + data.len());
        content.resize(end, 0);
        content[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

fn directory() -> PathBuf {
    PathBuf::from("/wal")
}

fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, ..Options::default() }
}

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    let payload = Payload::Command(Bytes::copy_from_slice(data));
    Entry { term: Term(term), index: LogIndex(index), time: LogTime(index), payload }
}

/// A log of two segments and nine entries.
fn sound() -> Memory {
    let files = Memory::default();
    let Ok(mut wal) = Wal::create(files.clone(), &directory(), OWNER, options(), None) else { return files };
    for index in 1..10 {
        let entries = vec![entry(index, 1 + index / 4, &vec![7; 2000])];
        let hard_state = HardState { term: Term(1 + index / 4), voted_for: Some(NodeId(index)) };
        let (io, commit_index) = (IoId(index), LogIndex(index.saturating_sub(2)));
        wal.append(&AppendEntries { io, truncate_from: None, hard_state, commit_index, entries });
        let _ = wal.flush();
    }
    files
}

/// A segment with good checksums whose numbers are anything.
fn forged(input: &mut Input<'_>) -> Vec<u8> {
    let position =
        |input: &mut Input<'_>| LogPosition { index: LogIndex(input.number()), term: Term(input.number()) };
    let hard_state = |input: &mut Input<'_>| HardState {
        term: Term(input.number()),
        voted_for: input.is_set().then_some(NodeId(3)),
    };
    let mut number = input.number();
    let header = SegmentHeader {
        owner: OWNER,
        sequence: 1,
        record: number,
        begins_anew: input.is_set(),
        before: position(input),
        time: LogTime(input.number()),
        hard_state: hard_state(input),
        commit_index: LogIndex(input.number()),
        previous: 0,
    };
    let (mut content, salt) = header.encode();
    content.resize(format::HEADER_BLOCK_BYTES, 0);
    let mut previous = salt;
    for _ in 0..input.below(4) {
        let first = input.number();
        let entries: Vec<_> = (0..u64::from(input.below(3)))
            .map(|at| entry(first.wrapping_add(at), input.number(), input.bytes()))
            .collect();
        let record = RecordContent {
            number,
            hard_state: hard_state(input),
            commit_index: LogIndex(input.number()),
            truncate_from: input.is_set().then(|| LogIndex(input.number())),
            entries: &entries,
            previous,
        };
        let mut bytes = Vec::new();
        previous = format::encode_record(&record, content.len() as u64, salt, &mut bytes);
        content.extend_from_slice(&bytes);
        content.resize(content.len().next_multiple_of(format::ALIGNMENT), 0);
        number = number.wrapping_add(u64::from(input.below(8) != 0));
    }
    content.resize(content.len() + 256, 0);
    content
}

/// Opens what is there. What opens can be read as a whole, opens again as the same, and takes further entries.
fn check(files: &Memory) {
    let inspected = inspect(files, &directory(), None, &mut |_| {});
    let Ok((mut wal, found)) = Wal::open(files.clone(), &directory(), OWNER, options()) else { return };
    assert!(inspected.is_ok(), "what opens can be inspected");
    let Ok(entries) = wal.read(wal.first_index(), LogIndex(u64::MAX), usize::MAX) else { return };
    assert_eq!(entries.len() as u64, found.last.index.0 - found.before.index.0);
    if found.last.index.0 < 1 << 62 && found.hard_state.term.0 < 1 << 62 && found.last.term.0 < 1 << 62 {
        let (index, term) = (found.last.index.0 + 1, found.last.term.0.max(found.hard_state.term.0) + 1);
        let hard_state = HardState { term: Term(term), voted_for: None };
        let (io, commit_index) = (IoId(1), found.commit_index);
        let entries = vec![entry(index, term, b"more")];
        wal.append(&AppendEntries { io, truncate_from: None, hard_state, commit_index, entries });
        assert!(wal.flush().is_ok());
        let again =
            Wal::open(files.clone(), &directory(), OWNER, options()).map(|(_, found)| found.last.index.0);
        assert!(matches!(again, Ok(last) if last == index), "{again:?}");
    }
}

/// Bytes as a segment, changes of a sound log, or a segment with good checksums and any numbers.
pub(crate) fn log(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(3) {
        0 => {
            let files = Memory::default();
            files.put(&segment::name(1), input.rest().to_vec());
            check(&files);
        }
        1 => {
            let files = sound();
            let contents: Vec<_> = lock(&files.0).values().cloned().collect();
            while !input.is_empty() {
                let content = &contents[usize::from(input.byte()) % contents.len()];
                let (at, byte) = (usize::from(input.u16()), input.byte());
                if let Some(there) = lock(content).get_mut(at) {
                    *there ^= byte;
                }
            }
            check(&files);
        }
        _ => {
            let files = Memory::default();
            files.put(&segment::name(1), forged(&mut input));
            check(&files);
        }
    }
}

/// Inputs to begin with.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let mut samples = vec![vec![1], vec![1, 0, 0, 16, 1], vec![1, 1, 200, 16, 4, 1, 4, 0, 255]];
    samples.push(
        [&[2, 1, 0, 0, 0, 1, 1, 1, 0, 0, 2, 1, 2, 1, 3, 1, 2, 3, 1, 0, 1, 0, 0][..], &[1; 20]].concat(),
    );
    let mut head = vec![0];
    head.extend(
        lock(&sound().0).values().next().map(|content| lock(content)[..6000].to_vec()).unwrap_or_default(),
    );
    samples.push(head);
    samples
}
