//! What the fuzz targets in `fuzz/` run: one function for each target, which takes any bytes and panics where something
//! is wrong. The same functions run on changed samples in the tests here, so that they always compile and hold.
//!
//! Each function is in the room whose input it makes up. The samples are inputs that reach deep; `scripts/fuzz`
//! adds the corpora of earlier runs. Without libFuzzer, `KUBERAFT_FUZZ_SEED=7 cargo test --lib fuzzing` tries a hundred
//! times as many changes, others for each seed.

mod input;

pub(crate) use input::Input;

use crate::{api, config, k8s, kv, membership, replica, storage, transport};

/// One fuzz target.
pub struct Target {
    /// As in `fuzz/Cargo.toml`.
    pub name: &'static str,
    run: fn(&[u8]),
    samples: fn() -> Vec<Vec<u8>>,
}

/// All fuzz targets.
pub const TARGETS: [Target; 10] = [
    Target {
        name: "peer_frames",
        run: transport::fuzzing::frames,
        samples: transport::fuzzing::frame_samples,
    },
    Target {
        name: "snapshot",
        run: transport::fuzzing::snapshots,
        samples: transport::fuzzing::snapshot_samples,
    },
    Target { name: "log", run: storage::fuzzing::log, samples: storage::fuzzing::log_samples },
    Target { name: "blocks", run: storage::fuzzing::blocks, samples: storage::fuzzing::block_samples },
    Target {
        name: "backup",
        run: replica::snapshot::fuzzing::backup,
        samples: replica::snapshot::fuzzing::samples,
    },
    Target { name: "commands", run: kv::fuzzing::commands, samples: kv::fuzzing::samples },
    Target { name: "decisions", run: membership::fuzzing::decisions, samples: membership::fuzzing::samples },
    Target { name: "http", run: api::fuzzing::http, samples: api::fuzzing::samples },
    Target { name: "settings", run: config::fuzzing::settings, samples: config::fuzzing::samples },
    Target { name: "kubernetes", run: k8s::fuzzing::objects, samples: k8s::fuzzing::samples },
];

/// Runs a target on an input.
///
/// # Panics
/// Something is wrong with what the target tries, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    target(name).map_or_else(|| panic!("no fuzz target is called {name}"), |target| (target.run)(data));
}

/// Inputs of a target to begin with; none if there is no such target.
#[must_use]
pub fn samples(name: &str) -> Vec<Vec<u8>> {
    target(name).map(|target| (target.samples)()).unwrap_or_default()
}

fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// `xorshift64*`: small and good enough to choose changes.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
            usize::try_from(word).unwrap() % bound.max(1)
        }
    }

    /// A sample with a few changes, as a fuzzer makes them.
    fn changed(samples: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut data = samples[random.below(samples.len())].clone();
        for _ in 0..=random.below(6) {
            let at = random.below(data.len() + 1);
            match random.below(7) {
                0 => data.truncate(at),
                1 => data.insert(at, u8::try_from(random.below(256)).unwrap()),
                2 if at < data.len() => drop(data.remove(at)),
                3 if at < data.len() => data[at] ^= 1 << random.below(8),
                4 if at < data.len() => data[at] = [0, 1, 127, 128, 200, 216, 255][random.below(7)],
                5 => {
                    let other = &samples[random.below(samples.len())];
                    let from = random.below(other.len() + 1);
                    let length = random.below(other.len() - from + 1).min(64);
                    data.splice(at..at, other[from..from + length].iter().copied());
                }
                _ if at < data.len() => data[at] = u8::try_from(random.below(256)).unwrap(),
                _ => {}
            }
        }
        data
    }

    fn check(name: &str, rounds: usize) {
        let mut samples = samples(name);
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let files = fs::read_dir(&corpus).into_iter().flatten().flatten();
        let mut files: Vec<_> = files.map(|file| file.path()).collect();
        files.sort();
        samples.extend(files.into_iter().map(|path| fs::read(path).unwrap()));
        let run = |data: &[u8]| {
            let result = std::panic::catch_unwind(|| super::run(name, data));
            assert!(result.is_ok(), "{name} fails on \"{}\"", data.escape_ascii());
        };
        for sample in &samples {
            run(sample);
        }
        // More of them, and others, on demand.
        let (seed, times) =
            std::env::var("KUBERAFT_FUZZ_SEED").map_or((0, 1), |seed| (seed.parse().unwrap(), 100));
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        for _ in 0..rounds * times {
            run(&changed(&samples, &mut random));
        }
    }

    #[test]
    fn frames_of_peers_do_no_harm() {
        check("peer_frames", 3000);
    }

    #[test]
    fn snapshots_of_any_bytes_do_no_harm() {
        check("snapshot", 3000);
    }

    #[test]
    fn logs_of_any_bytes_open_or_are_refused() {
        check("log", 1000);
    }

    #[test]
    fn blocks_and_records_of_any_bytes_are_read_or_refused() {
        check("blocks", 3000);
    }

    #[test]
    fn backups_of_any_bytes_are_restored_or_refused() {
        check("backup", 3000);
    }

    #[test]
    fn commands_do_what_a_model_does() {
        check("commands", 3000);
    }

    #[test]
    fn decisions_about_any_members_hold() {
        check("decisions", 5000);
    }

    #[test]
    fn requests_of_any_bytes_are_answered_or_refused() {
        check("http", 300);
    }

    #[test]
    fn settings_of_any_text_are_taken_or_refused() {
        check("settings", 300);
    }

    #[test]
    fn kubernetes_objects_of_any_json_are_understood() {
        check("kubernetes", 3000);
    }

    #[test]
    fn the_fuzz_package_has_these_targets() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml");
        // No part of a published package.
        let Ok(package) = fs::read_to_string(path) else { return };
        let named: Vec<_> =
            package.lines().filter_map(|line| line.strip_prefix("name = \"")).skip(1).collect();
        let expected: Vec<_> = TARGETS.iter().map(|target| format!("{}\"", target.name)).collect();
        assert_eq!(named, expected);
    }
}
