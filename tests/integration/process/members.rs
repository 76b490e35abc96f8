//! Members that come and go, by commands and by themselves, under load and `kill -9`.

use std::time::Duration;

use super::cluster::{Cluster, Node};
use super::load::{Load, Plan};
use super::{Random, alone, is_quick, report, until};

/// Kills running nodes and starts them again, one after the other.
struct Killer {
    random: Random,
    kills: u32,
}

impl Killer {
    fn strike(&mut self, cluster: &mut Cluster, load: &Load, times: u64) {
        for _ in 0..if is_quick() { times.min(1) } else { times } {
            std::thread::sleep(Duration::from_micros(self.random.below(100_000)));
            let running: Vec<usize> =
                (0..cluster.nodes.len()).filter(|at| cluster.nodes[*at].is_running()).collect();
            let at = running[usize::try_from(self.random.below(running.len() as u64)).unwrap()];
            cluster.nodes[at].kill();
            cluster.nodes[at].start();
            self.kills += 1;
            load.progress(10);
        }
    }
}

/// The id that a node which waits to be added says it has.
fn id(node: &Node) -> String {
    until(format!("node {} says its id", node.name), || node.status()?.node_id).to_string()
}

#[test]
fn a_cluster_grows_from_one_to_five_and_shrinks_to_one_under_load_and_kills() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(1, &["--admit=anyone"]);
    for join in ["--join=auto", "--join=auto", "--join=wait", "--join=wait"] {
        cluster.prepare_later(&[0], &[join, "--admit=anyone"]);
    }
    cluster.nodes[0].start();
    cluster.ready();
    let load = Load::start(&Plan::new(&cluster));
    let mut killer = Killer { random: Random(41), kills: 0 };
    load.progress(50);

    // One to three, by themselves.
    for at in [1, 2] {
        cluster.nodes[at].start();
        killer.strike(&mut cluster, &load, 2);
    }
    cluster.settled(&["1", "2", "3"]);

    // Three to five, by command.
    for at in [3, 4] {
        cluster.nodes[at].start();
        cluster.nodes[at].gives_reason("kuberaft member add");
        let (name, id) = (cluster.nodes[at].name.clone(), id(&cluster.nodes[at]));
        let address = cluster.nodes[at].peer.address();
        let add = ["member", "add", &name, "--id", &id, "--peer-addr", &address];
        cluster.insist(&add, &["is that already"]);
        killer.strike(&mut cluster, &load, 2);
    }
    cluster.settled(&["1", "2", "3", "4", "5"]);
    killer.strike(&mut cluster, &load, 3);

    // Five to three to one; who leads is left to chance.
    for name in ["4", "1", "5", "2"] {
        cluster.insist(&["member", "remove", name], &["was removed for ever"]);
        killer.strike(&mut cluster, &load, 2);
    }
    cluster.settled(&["3"]);
    load.progress(50);
    let mut history = load.stop();
    for at in [0, 1, 3, 4] {
        cluster.nodes[at].gives_reason("was removed from cluster");
        assert!(cluster.nodes[at].data().join("data.removed").is_dir());
    }
    report(format!("one to five to one, {} kills meanwhile", killer.kills));
    history.read_back(&cluster.nodes[2..3]);
    history.check();
}

#[test]
fn a_removed_leader_sets_its_data_aside_and_comes_back_only_by_command() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let load = Load::start(&Plan::new(&cluster));
    load.progress(50);
    let removed = cluster.leader();
    let name = cluster.nodes[removed].name.clone();
    let before = id(&cluster.nodes[removed]);
    let output = cluster.command(&["member", "remove", &name, "-o", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stays: Vec<String> =
        cluster.nodes.iter().map(|node| node.name.clone()).filter(|other| *other != name).collect();
    let stays: Vec<&str> = stays.iter().map(String::as_str).collect();
    cluster.settled(&stays);
    load.progress(50);
    cluster.nodes[removed].gives_reason("was removed from cluster");
    assert_ne!(id(&cluster.nodes[removed]), before, "a removed id never comes back");
    // A restart changes nothing.
    cluster.nodes[removed].kill();
    cluster.nodes[removed].start();
    cluster.nodes[removed].gives_reason("was removed from cluster");
    let after = id(&cluster.nodes[removed]);
    cluster.insist(&["member", "add", &name, "--id", &after], &["is that already"]);
    cluster.settled(&["1", "2", "3"]);
    cluster.ready();
    load.progress(50);
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    history.check();
}

/// The leader makes contact with a node as soon as it adds it, and crashes before that is committed: the next leader
/// knows nothing of it.
#[test]
fn a_node_whose_addition_was_lost_is_added_again() {
    let _alone = alone();
    // So the leader continues to lead when the others have crashed, and adds a node that starts then.
    let mut cluster = Cluster::start_with(3, &["--check-quorum=false", "--admit=anyone"]);
    let leader = cluster.leader();
    let later = cluster.prepare_later(&[0, 1, 2], &["--join=auto", "--check-quorum=false"]);
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    for at in &others {
        cluster.nodes[*at].kill();
    }
    cluster.nodes[later].start();
    until("the leader makes contact", || cluster.nodes[later].status()?.cluster_id);
    cluster.nodes[leader].kill();
    for at in others {
        cluster.nodes[at].start();
    }
    cluster.settled(&["1", "2", "3", "4"]);
    cluster.nodes[leader].start();
    cluster.ready();
}

/// Removes a node while it is down; then it comes back with its old disk.
fn check_old_disk(as_learner: bool) {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let away = cluster.other(leader);
    let name = cluster.nodes[away].name.clone();
    let before = id(&cluster.nodes[away]);
    if as_learner {
        cluster.insist(&["member", "demote", &name], &[]);
        // It has heard of it.
        until("the demoted node is a learner", || {
            let learners = cluster.nodes[away].status()?.learners;
            learners.iter().any(|learner| learner.name == name).then_some(())
        });
    }
    cluster.nodes[away].kill();
    cluster.insist(&["member", "remove", &name], &[]);
    cluster.nodes[away].start();
    cluster.nodes[away].gives_reason("was removed from cluster");
    assert_ne!(id(&cluster.nodes[away]), before);
    assert!(cluster.nodes[away].data().join("data.removed").is_dir());
    cluster.nodes[leader].put("key", "value").unwrap();
    // Its old id is refused permanently.
    let again = cluster.command(&["member", "add", &name, "--id", &before]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("was removed for ever"));
}

#[test]
fn a_removed_voter_that_comes_back_with_its_old_disk_is_refused_and_sets_it_aside() {
    let _alone = alone();
    check_old_disk(false);
}

#[test]
fn a_removed_learner_that_comes_back_with_its_old_disk_is_refused_and_sets_it_aside() {
    let _alone = alone();
    check_old_disk(true);
}

#[test]
fn of_two_processes_with_one_name_the_second_is_refused() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(3, &["--election-timeout=150ms", "--heartbeat-interval=30ms"]);
    let second =
        cluster.prepare_later(&[0, 1, 2], &["--election-timeout=150ms", "--heartbeat-interval=30ms"]);
    let members = cluster.nodes[0].flags[3].clone();
    let node = &mut cluster.nodes[second];
    node.flags[2] = "--raft_id=2".to_owned();
    node.flags[3] = members;
    node.flags.push("--data-dir=second".to_owned());
    node.start();
    assert_eq!(node.ended().code(), Some(5));
    let log = node.log();
    assert!(log.contains("the name \"2\" belongs to member"), "{log}");
    cluster.settled(&["1", "2", "3"]);
    cluster.nodes[1].put("key", "the first continues").unwrap();
}

#[test]
fn unsafe_or_senseless_changes_are_refused_with_a_reason() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(3, &["--request-timeout=1s"]);
    let refused = |cluster: &Cluster, arguments: &[&str], part: &str| {
        let output = cluster.command(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    };
    refused(&cluster, &["member", "remove", "nobody"], "no member is called \"nobody\"");
    refused(&cluster, &["member", "promote", "1"], "is that already");
    refused(&cluster, &["member", "remove", "1", "--expected", "999"], "members changed meanwhile");
    refused(&cluster, &["member", "add", "1", "--id", "00000000000000aa"], "belongs to member");
    let leader = cluster.leader();
    let lost = cluster.other(leader);
    let stays = (0..3).find(|at| *at != leader && *at != lost).unwrap();
    cluster.nodes[lost].kill();
    // Once the leader has seen that it is gone, nobody else can be spared.
    let name = cluster.nodes[stays].name.clone();
    until("the loss is seen", || {
        let members = cluster.nodes[leader].ask(async |mut client| client.members().await).ok()?;
        members.voters.iter().any(|voter| voter.silent_ms.is_some_and(|ms| ms > 600)).then_some(())
    });
    refused(&cluster, &["member", "remove", &name], "no majority");
    cluster.nodes[lost].start();
    cluster.ready();
    cluster.insist(&["member", "remove", &name], &[]);
}
