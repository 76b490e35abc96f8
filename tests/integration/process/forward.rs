//! Writes that followers pass on to a leader that dies.

use super::cluster::Cluster;
use super::load::{Load, Plan};
use super::{alone, is_quick};

#[test]
fn writes_sent_to_followers_of_a_killed_leader_end_as_answers_and_none_is_lost() {
    let _alone = alone();
    // Servers answer before the clients' own deadline.
    let mut cluster = Cluster::start_with(3, &["--request-timeout=2s"]);
    let mut whole = None;
    for _ in 0..if is_quick() { 3 } else { 8 } {
        let leader = cluster.leader();
        let mut addresses = cluster.addresses();
        addresses.remove(leader);
        let load = Load::start(&Plan { addresses, ..Plan::new(&cluster) });
        load.progress(100);
        cluster.nodes[leader].kill();
        load.progress(50);
        let history = load.stop();
        // The nodes that were asked were up all the time: whatever went wrong, they said so.
        for failure in history.failures.keys() {
            assert!(failure.starts_with("503 no_") || failure.starts_with("504 timeout"), "{failure}");
            assert!(!failure.contains("no outcome"), "{failure}");
        }
        cluster.nodes[leader].start();
        cluster.ready();
        match &mut whole {
            None => whole = Some(history),
            Some(whole) => whole.append(history),
        }
    }
    let mut history = whole.unwrap();
    history.read_back(&cluster.nodes);
    history.check();
}
