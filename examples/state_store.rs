//! Measures the state store: how long a start takes, and what rewriting does to checkpoints and to the disk.
//!
//! `cargo run --release --example state_store -- start 1000000 128 DIR` writes that many keys with values of so many
//! bytes, and opens the directory again. `... -- rewrite 1000000 10000 DIR` writes so many rows over so many keys,
//! eight times, and rewrites the state as the checkpoint's thread does. DIR must not exist.
#![allow(clippy::print_stdout)] // what it is for

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kuberaft::kv::{Command, Condition, Operation, Store};
use kuberaft::raft::{self, AppendEntries, Entry, HardState, Payload};
use kuberaft::replica::recovery::{Disk, recover};
use kuberaft::storage::wal::Options;
use kuberaft::storage::{Checkpoint, DataDir, Opened, StateStore};
use kuberaft::types::{ClusterId, IoId, LogIndex, LogPosition, LogTime, Term};

/// Writes in one checkpoint: what a busy node applies in a second.
const CHECKPOINT_ROWS: u64 = 30_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, first, second, directory] = &arguments[..] else {
        return Err("usage: start KEYS VALUE_BYTES DIR, or rewrite ROWS KEYS DIR".into());
    };
    let (first, second, directory) = (first.parse()?, second.parse()?, Path::new(directory));
    if directory.exists() {
        return Err(format!("{} exists", directory.display()).into());
    }
    match mode.as_str() {
        "start" => start(directory, first, second),
        "rewrite" => rewrite(directory, first, second),
        _ => Err(format!("unknown mode {mode}").into()),
    }
}

fn open(directory: &Path) -> Result<DataDir, Box<dyn Error>> {
    let options = Options { segment_bytes: 64 << 20, ..Options::default() };
    Ok(DataDir::open(directory, "one", options, &mut |_| ControlFlow::Break(()))?)
}

/// The log holds one empty entry for each checkpoint: as short as it is where it is compacted.
fn entry(index: u64) -> AppendEntries {
    AppendEntries {
        io: IoId(index),
        truncate_from: None,
        hard_state: HardState { term: Term(1), voted_for: None },
        commit_index: LogIndex(index),
        entries: vec![Entry {
            term: Term(1),
            index: LogIndex(index),
            time: LogTime(index),
            payload: Payload::Noop,
        }],
    }
}

fn member(directory: &Path) -> Result<Opened, Box<dyn Error>> {
    let mut data = open(directory)?;
    data.join(ClusterId(1), Some(&entry(1)))?;
    Ok(data.into_parts()?)
}

struct Writer {
    store: Store,
    /// Of the last checkpoint's entry.
    index: u64,
    random: u64,
}

impl Writer {
    fn new() -> Self {
        Self { store: Store::default(), index: 0, random: 88_172_645_463_325_252 }
    }

    /// A key of 16 bytes, in no order.
    fn key(number: u64) -> Bytes {
        format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into()
    }

    /// Not compressible, as real values may be.
    fn value(&mut self, bytes: usize) -> Bytes {
        let next = |random: &mut u64| {
            *random ^= *random << 13;
            *random ^= *random >> 7;
            *random ^= *random << 17;
            random.to_le_bytes()
        };
        (0..bytes.div_ceil(8)).flat_map(|_| next(&mut self.random)).take(bytes).collect()
    }

    /// One checkpoint of writes to the keys with these numbers.
    fn checkpoint<S: StateStore>(
        &mut self,
        state: &mut S,
        keys: impl Iterator<Item = u64>,
        value_bytes: usize,
    ) -> Result<Duration, Box<dyn Error>> {
        let mut records = Vec::new();
        for number in keys {
            let (key, value) = (Self::key(number), self.value(value_bytes));
            let put = Command::from(Operation::Put { key, value, condition: Condition::Always });
            self.store.apply(LogIndex(self.index), LogTime(self.index), put, &mut records);
        }
        self.index += 1;
        let started = Instant::now();
        state.write(&records)?;
        state.commit(self.covers())?;
        Ok(started.elapsed())
    }

    fn covers(&self) -> Checkpoint {
        let revision = self.store.revision();
        let applied = LogPosition { index: LogIndex(self.index), term: Term(1) };
        Checkpoint { applied, revision, ..Checkpoint::default() }
    }
}

fn start(directory: &Path, keys: u64, value_bytes: u64) -> Result<(), Box<dyn Error>> {
    let Opened { lock, mut wal, mut state, .. } = member(directory)?;
    let mut writer = Writer::new();
    for from in (0..keys).step_by(usize::try_from(CHECKPOINT_ROWS)?) {
        let numbers = from..keys.min(from + CHECKPOINT_ROWS);
        if from > 0 {
            wal.append(&entry(writer.index + 1));
            wal.flush()?;
        }
        writer.checkpoint(&mut state, numbers, usize::try_from(value_bytes)?)?;
    }
    println!("{keys} keys of {value_bytes} bytes: {} MiB", state.size_bytes()? >> 20);
    drop((writer, state, wal, lock));

    for _ in 0..3 {
        let started = Instant::now();
        let data = open(directory)?;
        let identity = data.identity().clone();
        let opened = started.elapsed();
        let Opened { lock: _lock, wal, recovered: found, state, .. } = data.into_parts()?;
        let parts = started.elapsed();
        let disk = Disk { node_id: identity.node_id, wal, found, state };
        let replica = recover(disk, raft::Settings::default(), 1, kuberaft::types::Instant(0))?;
        println!(
            "start {:.2?}: directory {opened:.2?}, log and state opened {:.2?}, {} keys restored {:.2?}",
            started.elapsed(),
            parts.checked_sub(opened).unwrap_or_default(),
            replica.keys(),
            started.elapsed().checked_sub(parts).unwrap_or_default()
        );
    }
    Ok(())
}

fn rewrite(directory: &Path, rows: u64, keys: u64) -> Result<(), Box<dyn Error>> {
    let Opened { mut state, .. } = member(directory)?;
    let mut writer = Writer::new();
    let (mut rewriting, mut pieces) = (false, Vec::new());
    for round in 1..=8 {
        let (mut checkpoints, mut largest) = (Vec::new(), 0);
        for from in (0..rows).step_by(usize::try_from(CHECKPOINT_ROWS)?) {
            let numbers = (from..rows.min(from + CHECKPOINT_ROWS)).map(|number| number % keys);
            checkpoints.push(writer.checkpoint(&mut state, numbers, 128)?);
            largest = largest.max(state.size_bytes()?);
            if !rewriting && state.needs_rewrite(keys)? {
                let records = Box::new(writer.store.view().records());
                state.begin_rewrite(state.checkpoint().applied, records)?;
                rewriting = true;
            }
            // Some pieces between two checkpoints.
            for _ in 0..8 {
                let started = Instant::now();
                if rewriting {
                    rewriting = state.continue_rewrite()?;
                    pieces.push(started.elapsed());
                }
            }
        }
        pieces.sort();
        println!(
            "round {round}: checkpoints up to {:.1?}; {} pieces of rewrites so far, median {:.1?}, up to {:.1?}; disk {} MiB, \
             at most {} MiB",
            checkpoints.iter().max().copied().unwrap_or_default(),
            pieces.len(),
            pieces.get(pieces.len() / 2).copied().unwrap_or_default(),
            pieces.last().copied().unwrap_or_default(),
            state.size_bytes()? >> 20,
            largest >> 20
        );
    }
    Ok(())
}
