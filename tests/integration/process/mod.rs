//! The real program as real processes: killed, paused, stopped, fed with damage and nonsense, under load, and
//! what its clients saw judged by the linearizability checker.

mod backup;
mod backup_targets;
mod chaos;
mod chaos_faults;
mod cluster;
mod damage;
mod descriptors;
mod dev;
mod disk_fails;
mod diverged;
mod emptied;
mod flood;
mod flush;
mod forward;
mod founding;
mod full_disk;
mod input;
mod kills;
mod leadership;
mod load;
mod members;
mod once;
mod one_way;
mod out_of_space;
mod output;
mod pause;
mod peer_secret;
mod pods;
mod pods_astray;
mod poison;
mod proof;
mod quorum;
mod recover;
mod small_disk;
mod snapshots;
mod start;
mod stop;
mod tls;
mod versions;

use std::fmt::Display;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// How long a condition may take to come true: far beyond what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether only a part of the long tests is wanted.
fn is_quick() -> bool {
    std::env::var_os("KUBERAFT_TEST_QUICK").is_some()
}

/// Held by each test here: two clusters under load at a time would measure each other.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the clients of all tests.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    })
}

/// Looks until there is something to see.
fn until<T>(what: impl Display, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited for {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Shows a figure although the test passes, and so past the capture of its output.
fn report(figure: impl Display) {
    let _ = writeln!(std::io::stderr(), "    {figure}");
}

/// Numbers that look random and are the same in every run (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
