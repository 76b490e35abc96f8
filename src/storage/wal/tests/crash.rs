//! Power loss at any moment: what was flushed is there, what was not may be, and nothing in between.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::memory::{Content, Disk, MemoryFiles, Operation, put};
use super::{OWNER, all, append, command, directory, zeros};
use crate::raft::{Entry, HardState};
use crate::storage::wal::{Options, Recovered, Rules, Wal};
use crate::types::{LogIndex, LogPosition, LogTime, NodeId, Term};

const SMALL: Options = Options { segment_bytes: 16 << 10, rules: Rules::SOUND };

/// A generator of its own, so that a failure is repeated by its seed (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }
}

/// What the log must hold.
#[derive(Clone, Default)]
struct Model {
    hard_state: HardState,
    /// Where it restarted.
    before: LogPosition,
    /// From there on, dropped ones included.
    entries: Vec<Entry>,
    /// Entries up to here may be gone.
    covered: LogIndex,
    time: LogTime,
}

impl Model {
    fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.before, Entry::position)
    }

    /// Whether this is what was found.
    fn is(&self, wal: &Wal<MemoryFiles>, found: &Recovered) -> bool {
        let begin = found.before.index;
        if (found.hard_state, found.last, found.time) != (self.hard_state, self.last(), self.time)
            || begin < self.before.index
            || begin > self.covered
        {
            return false;
        }
        let dropped = usize::try_from(begin.0 - self.before.index.0).unwrap();
        let before = dropped.checked_sub(1).map_or(self.before, |at| self.entries[at].position());
        found.before == before && all(wal) == self.entries[dropped..]
    }
}

/// What the disk may hold after power was lost behind `journal`: all that was flushed, any blocks of what was
/// written since, and some first ones of the names changed since.
fn image(journal: &[Operation], block_bytes: usize, random: &mut Random) -> MemoryFiles {
    let id = |content: &Content| Arc::as_ptr(content) as usize;
    let mut contents: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let mut written: Vec<(usize, usize, &[u8])> = Vec::new();
    let mut names: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut renamed: Vec<&Operation> = Vec::new();
    let apply = |names: &mut BTreeMap<PathBuf, usize>, operation: &Operation| match operation {
        Operation::Create(path, content) => drop(names.insert(path.clone(), id(content))),
        Operation::Rename(from, to) => {
            let file = names.remove(from).unwrap();
            names.insert(to.clone(), file);
        }
        Operation::Unlink(path) => drop(names.remove(path)),
        _ => unreachable!("not a change of names"),
    };
    for operation in journal {
        match operation {
            Operation::Write(content, at, data) => written.push((id(content), *at, data)),
            Operation::Sync(content) => {
                for (file, at, data) in written.extract_if(.., |(file, ..)| *file == id(content)) {
                    put(contents.entry(file).or_default(), at, data);
                }
            }
            Operation::SyncDirectory => renamed.drain(..).for_each(|operation| apply(&mut names, operation)),
            names => renamed.push(names),
        }
    }
    for (file, at, data) in written {
        let content = contents.entry(file).or_default();
        let mut done = 0;
        while done < data.len() {
            let part = (block_bytes - (at + done) % block_bytes).min(data.len() - done);
            if random.below(2) == 0 {
                put(content, at + done, &data[done..done + part]);
            }
            done += part;
        }
    }
    let kept = usize::try_from(random.below(renamed.len() as u64 + 1)).unwrap();
    renamed[..kept].iter().for_each(|operation| apply(&mut names, operation));
    let files = names
        .into_iter()
        .map(|(path, file)| (path, Arc::new(Mutex::new(contents.get(&file).cloned().unwrap_or_default()))));
    MemoryFiles(Arc::new(Mutex::new(Disk { files: files.collect(), ..Disk::default() })))
}

/// Appends, truncates, compacts and restarts at random. Returns for each flush how much of the journal it had made, and
/// the log then.
fn work(files: &MemoryFiles, random: &mut Random) -> Vec<(usize, Model)> {
    let journal_length = || files.0.lock().unwrap().journal.len();
    let mut wal = Wal::create(files.clone(), &directory(), OWNER, SMALL, None).unwrap();
    let mut model = Model::default();
    let mut flushed = vec![(journal_length(), model.clone())];
    for step in 1..=16 {
        match random.below(8) {
            0 | 1 => {
                let last = model.last().index.0;
                let through = LogIndex(model.before.index.0 + random.below(last - model.before.index.0 + 1));
                model.covered = model.covered.max(through);
                wal.compact(through).unwrap();
                flushed.push((journal_length(), model.clone()));
            }
            2 => {
                let index = LogIndex(model.last().index.0 + random.below(4));
                model.before = LogPosition { index, term: Term(step / 3 + 1) };
                model.hard_state = HardState { term: Term(step / 3 + 1), voted_for: Some(NodeId(step)) };
                model.covered = index;
                model.entries.clear();
                wal.reset(model.before, model.hard_state).unwrap();
                flushed.push((journal_length(), model.clone()));
            }
            _ => {}
        }
        for _ in 0..=random.below(2) {
            let term = step / 3 + 1;
            let (last, kept) = (model.last().index.0, model.covered.0);
            let truncate_from =
                (last > kept && random.below(4) == 0).then(|| kept + 1 + random.below(last - kept));
            let first = truncate_from.unwrap_or(last + 1);
            let entries: Vec<Entry> = (first..first + random.below(4))
                .map(|index| match random.below(3) {
                    0 => zeros(term, index, usize::try_from(random.below(6000)).unwrap()),
                    _ => command(term, index, usize::try_from(random.below(2500)).unwrap()),
                })
                .collect();
            let append = append(term, truncate_from, entries);
            wal.append(&append);
            model.hard_state = append.hard_state;
            model.entries.truncate(usize::try_from(first - 1 - model.before.index.0).unwrap());
            model.entries.extend(append.entries);
        }
        if random.below(2) == 0
            && let Some(preparation) = wal.take_preparation()
        {
            preparation.run().unwrap();
        }
        wal.flush().unwrap();
        model.time = wal.flushed.time;
        flushed.push((journal_length(), model.clone()));
    }
    flushed
}

#[test]
fn power_may_be_lost_at_any_moment() {
    let (mut images, mut torn, mut ahead) = (0, 0, 0);
    for seed in 0..50 {
        let mut random = Random(seed);
        let files = MemoryFiles::default();
        let flushed = work(&files, &mut random);
        let journal = files.0.lock().unwrap().journal.clone();
        for cut in flushed[0].0..=journal.len() {
            let block_bytes = if random.below(2) == 0 { 4096 } else { 512 };
            let image = image(&journal[..cut], block_bytes, &mut random);
            let done = flushed.partition_point(|(length, _)| *length <= cut);
            let what = format!("seed {seed}, cut at {cut} of {}", journal.len());
            let (mut wal, recovered) = Wal::open(image.clone(), &directory(), OWNER, SMALL)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let is_ahead = !flushed[done - 1].1.is(&wal, &recovered);
            assert!(!is_ahead || flushed[done].1.is(&wal, &recovered), "{what}");
            let found = all(&wal);
            images += 1;
            ahead += u32::from(is_ahead);
            torn += u32::from(recovered.torn_tail.is_some());

            let (first, next) = (recovered.before.index.next(), recovered.last.index.next());
            wal.append(&append(9, None, vec![command(9, next.0, 700)]));
            wal.flush().unwrap();
            let (again, recovered) = Wal::open(image, &directory(), OWNER, SMALL).unwrap();
            assert_eq!((recovered.torn_tail, recovered.last.index), (None, next), "{what}");
            assert_eq!(again.read(first, next.prev(), usize::MAX).unwrap(), found, "{what}");
        }
    }
    assert!(images > 2000 && torn > 100 && ahead > 80, "{images} images, {torn} torn, {ahead} ahead");
}
