//! Power loss at any moment of a node's life, on the real storage: log and sled together.
//!
//! The program records everything that the storage does to its directory ([`hooks`]), makes of it what a disk may
//! hold if power is lost at some point ([`disk`]), and starts a node on that ([`check`]). A failure prints the command that
//! repeats it; `KUBERAFT_POWER_LOSS_IMAGES` asks for more images, `KUBERAFT_POWER_LOSS_SEED` for others.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is test code; clippy sees only what is in a test function"
)]

mod check;
mod disk;
mod hooks;
mod random;
mod recorder;
mod run;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use kuberaft::plant::Planted;

use check::{Notable, check};
use disk::{Disk, Luck};
use run::{Run, run};

const STEPS: usize = 120;
/// Of different seeds each.
const IMAGES_PER_RUN: u64 = 400;
const THREADS: usize = 2;
/// Every so many images the node is started once more.
const REOPENED: usize = 8;

/// The recorder is one for the process.
static ALONE: Mutex<()> = Mutex::new(());

fn from_environment(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        Err(_) => otherwise,
    }
}

/// In memory where the system has such a place.
fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn record(seed: u64, planted: Planted) -> Run {
    let place = temporary();
    let recorded = run(place.path(), seed, STEPS, planted);
    let mut disk = Disk::default();
    recorded.journal.iter().for_each(|operation| disk.take(operation));
    let whole = temporary();
    disk.whole(whole.path());
    compare(place.path(), whole.path());
    recorded
}

/// The recording is complete: replayed, it gives what the run left.
fn compare(one: &Path, other: &Path) {
    let names = |path: &Path| -> Vec<_> {
        let mut names: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(one), names(other), "in {}", one.display());
    for name in names(one) {
        let (one, other) = (one.join(&name), other.join(&name));
        if one.is_dir() {
            compare(&one, &other);
        } else {
            assert!(std::fs::read(&one).unwrap() == std::fs::read(&other).unwrap(), "{}", one.display());
        }
    }
}

/// What all images came to.
#[derive(Debug, Default)]
struct Tally {
    images: usize,
    notable: BTreeMap<Notable, usize>,
    failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, outcome: Result<Vec<Notable>, String>) {
        self.images += 1;
        match outcome {
            Ok(notable) => notable.into_iter().for_each(|what| *self.notable.entry(what).or_default() += 1),
            Err(failure) => self.failures.push(failure),
        }
    }

    fn count(&self, what: Notable) -> usize {
        self.notable.get(&what).copied().unwrap_or_default()
    }
}

/// Loses power `images` times, spread over the run.
fn lose_power(run: &Run, seed: u64, images: usize, tally: &mut Tally) {
    tally.failures.extend(run.broken.clone());
    let all = Mutex::new(tally);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let all = &all;
            scope.spawn(move || {
                let mut disk = Disk::default();
                let mut taken = 0;
                for number in (thread..images).step_by(THREADS) {
                    let cut = run.journal.len() * number / images;
                    run.journal[taken..cut].iter().for_each(|operation| disk.take(operation));
                    taken = cut;
                    let outcome = image(run, seed, number, cut, &disk);
                    all.lock().unwrap_or_else(PoisonError::into_inner).add(outcome);
                }
            });
        }
    });
}

fn image(run: &Run, seed: u64, number: usize, cut: usize, disk: &Disk<'_>) -> Result<Vec<Notable>, String> {
    let place = temporary();
    disk.image(place.path(), &mut Luck::new(seed.wrapping_mul(1 << 20).wrapping_add(number as u64)));
    let done = run.acknowledged.partition_point(|(length, _)| *length <= cut);
    // What one step comes to may have several models, there at the same operation.
    let next = run.acknowledged.get(done).map_or(0, |(length, _)| *length);
    let end = run.acknowledged.partition_point(|(length, _)| *length <= cut.max(next));
    let possible = &run.acknowledged[done - 1..end];
    let checked = catch_unwind(AssertUnwindSafe(|| {
        check(place.path(), possible, &run.hashes, number % REOPENED < THREADS)
    }));
    checked.unwrap_or_else(|_| Err("a panic, see above".into())).map_err(|failure| {
        format!(
            "seed {seed}, image {number}, power lost at operation {cut} of {}: {failure}",
            run.journal.len()
        )
    })
}

#[test]
fn whatever_was_acknowledged_survives_power_loss() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let first = from_environment("KUBERAFT_POWER_LOSS_SEED", 1);
    let images = from_environment("KUBERAFT_POWER_LOSS_IMAGES", 2400);
    let runs = images.div_ceil(IMAGES_PER_RUN);
    let mut tally = Tally::default();
    for seed in first..first + runs {
        let recorded = record(seed, Planted::NONE);
        lose_power(&recorded, seed, usize::try_from(images.div_ceil(runs)).unwrap(), &mut tally);
    }
    assert!(
        tally.failures.is_empty(),
        "{} of {} images failed:\n{}\nagain: KUBERAFT_POWER_LOSS_SEED={first} KUBERAFT_POWER_LOSS_IMAGES={images} \
         cargo test --test power_loss",
        tally.failures.len(),
        tally.images,
        tally.failures[..tally.failures.len().min(10)].join("\n")
    );
    let images = tally.images;
    assert!(
        tally.count(Notable::Ahead) * 50 > images
            && tally.count(Notable::Torn) * 200 > images
            && tally.count(Notable::BeginsLater) * 4 > images
            && tally.count(Notable::Finished) * 200 > images
            && tally.count(Notable::Beside) * 10 > images,
        "too little happened: {tally:?}"
    );
}

#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_of_the_log_are_found() {
    use kuberaft::plant::Plant;

    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for plant in [Plant::NoFlush, Plant::TruncationNotWritten, Plant::ResetDropsVote] {
        let mut tally = Tally::default();
        for seed in 1..=2 {
            lose_power(&record(seed, Planted::new(plant)), seed, 200, &mut tally);
        }
        assert!(!tally.failures.is_empty(), "{} is not found", plant.name());
    }
}
