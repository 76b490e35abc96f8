//! One bit flipped somewhere on the disk: refused with a message, or harmless; never silently less.

use std::fs;

use kuberaft::api::Consistency;
use rustix::process::Signal;

use super::cluster::{Cluster, Node, copy};
use super::input::{flip, segment, used};
use super::{Random, alone, is_quick, report, until};

const KEYS: u64 = 60;

fn check_content(node: &Node) {
    for number in 0..KEYS {
        let found = node.get(&format!("key-{number}"), Consistency::Linearizable).unwrap();
        let found = found.unwrap_or_else(|| panic!("key-{number} is gone"));
        assert_eq!(found.content.value, format!("value-{number}").repeat(20));
    }
}

/// Starts it and returns its exit code, or nothing if it serves.
fn outcome(node: &mut Node) -> Option<i32> {
    node.start();
    until("the node is ready or has ended", || {
        if let Some(status) = node.has_ended() {
            return Some(Some(status.code().expect("it ended by itself")));
        }
        node.status().filter(|status| status.healthy).map(|_| None)
    })
}

#[test]
fn a_flipped_bit_in_log_or_state_is_refused_or_harmless() {
    let _alone = alone();
    let flips = if is_quick() { 4 } else { 12 };
    let mut cluster = Cluster::start_with(1, &["--checkpoint-interval=50ms"]);
    let node = &mut cluster.nodes[0];
    for number in 0..KEYS {
        node.put(&format!("key-{number}"), format!("value-{number}").repeat(20)).unwrap();
        if number == KEYS / 2 {
            // So part of it is in the state store, the rest in the log.
            until("a checkpoint", || node.status().filter(|status| status.snapshot_index.0 > KEYS / 2));
        }
    }
    node.signal(Signal::TERM);
    assert_eq!(node.ended().code(), Some(0));
    let data = node.data();
    let intact = cluster.directory.path().join("intact");
    copy(&data, &intact);
    let node = &mut cluster.nodes[0];
    let files = [segment(node), data.join("data/sled/db"), data.join("data/state-1/db")];
    let mut random = Random(3);
    let (mut refused, mut harmless) = (0, 0);
    for file in files {
        let used = used(&file);
        for _ in 0..flips {
            let (offset, bit) = (random.below(used), u8::try_from(random.below(8)).unwrap());
            flip(&file, offset, bit);
            match outcome(node) {
                None => {
                    check_content(node);
                    node.kill();
                    harmless += 1;
                }
                Some(code) => {
                    let log = node.log();
                    let error = log.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_default();
                    assert_eq!(code, 3, "byte {offset} of {}: {error}", file.display());
                    assert!(error.contains("Put back an intact copy"), "{error}");
                    refused += 1;
                }
            }
            fs::remove_dir_all(&data).unwrap();
            copy(&intact, &data);
        }
    }
    report(format!("of {} flipped bits {refused} were refused, {harmless} harmless", 3 * flips));
    assert_eq!(outcome(node), None);
    check_content(node);
}
