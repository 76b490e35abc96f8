//! `kuberaft recover`: the one that is left continues, the emptied ones join it, the old ones stay away.

use std::fs;
use std::path::Path;

use kuberaft::api::Consistency;
use serde_json::{Value, json};

use super::backup::{fail, run, succeed};
use super::cluster::{Cluster, Node, copy};
use super::{alone, until};

const KEYS: usize = 30;

fn recover<'a>(data: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["recover", "--data-dir", data.to_str().unwrap()], more].concat()
}

fn assert_keys(node: &Node) {
    for key in 0..KEYS {
        let found = node.get(&format!("key-{key}"), Consistency::Linearizable).unwrap();
        assert_eq!(found.unwrap().content.value, format!("value-{key}"), "key-{key}");
    }
}

#[test]
fn a_survivor_continues_alone_with_all_its_data_and_emptied_nodes_become_voters_again() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let directory = cluster.directory.path().to_owned();
    for key in 0..KEYS {
        cluster.nodes[key % 3].put(&format!("key-{key}"), format!("value-{key}")).unwrap();
    }
    let old = cluster.nodes[0].status().unwrap();
    // A node that has what was acknowledged last, as the leader surely does.
    let leader = cluster.leader();
    let lost: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    for at in &lost {
        cluster.nodes[*at].kill();
    }
    let kept = directory.join("kept");
    copy(&cluster.nodes[lost[1]].data(), &kept);
    for at in &lost {
        fs::remove_dir_all(cluster.nodes[*at].data()).unwrap();
    }

    // Not while it runs, and not unasked.
    let data = cluster.nodes[leader].data();
    let told = fail(&directory, &recover(&data, &["--yes"]), 1);
    assert!(told.contains("is in use by process"), "{told}");
    cluster.nodes[leader].kill();
    let told = fail(&directory, &recover(&data, &[]), 1);
    assert!(told.contains("no terminal to ask on") && told.contains("nothing was changed"), "{told}");
    assert!(!data.join("data.before-recovery").exists());
    let told = succeed(&directory, &recover(&data, &["--yes"]));
    for said in ["What is lost", "Dropped permanently", "only voter", "Next: kuberaft serve"] {
        assert!(told.contains(said), "{said} is not in {told}");
    }
    assert!(data.join("data.before-recovery").is_dir());
    let verified = succeed(&directory, &["debug", "verify", data.to_str().unwrap()]);
    let said = format!("recovered from cluster {}", old.cluster_id.unwrap());
    assert!(verified.contains(&said), "{said} in {verified}");

    cluster.nodes[leader].start();
    cluster.nodes[leader].ready();
    let status = cluster.nodes[leader].status().unwrap();
    assert!(status.cluster_id != old.cluster_id && status.term.0 >= 3, "{status:?}");
    assert_eq!(status.voters.len(), 1);
    assert_keys(&cluster.nodes[leader]);
    cluster.nodes[leader].put("after", "alone").unwrap();

    // One of the emptied nodes joins.
    cluster.nodes[lost[0]].start();
    until("the first is a voter", || (cluster.nodes[leader].status()?.voters.len() == 2).then_some(()));
    // The other one's old disk turns up: two of three say that this is another cluster.
    copy(&kept, &cluster.nodes[lost[1]].data());
    cluster.nodes[lost[1]].start();
    assert_eq!(cluster.nodes[lost[1]].ended().code(), Some(5));
    let log = cluster.nodes[lost[1]].log();
    let (own, other) = (old.cluster_id.unwrap(), status.cluster_id.unwrap());
    assert!(log.contains(&own.to_string()) && log.contains(&other.to_string()), "{log}");
    fs::remove_dir_all(cluster.nodes[lost[1]].data()).unwrap();
    cluster.nodes[lost[1]].start();
    cluster.ready();
    until("all are voters", || (cluster.nodes[leader].status()?.voters.len() == 3).then_some(()));
    for node in &cluster.nodes {
        assert_keys(node);
        assert_eq!(node.fetch("/get?key=after"), (200, "alone".into()));
        assert_eq!(node.status().unwrap().cluster_id, Some(other));
    }
    // The recovered one is needed for nothing any more.
    cluster.nodes[leader].kill();
    let next = cluster.leader();
    cluster.nodes[next].put("key-0", "value-0").unwrap();
    assert_keys(&cluster.nodes[next]);
}

#[test]
fn a_member_of_a_healthy_cluster_is_warned_and_not_recovered() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let directory = cluster.directory.path().to_owned();
    cluster.nodes[0].put("key", "kept").unwrap();
    let before = cluster.nodes[2].status().unwrap();
    cluster.nodes[2].kill();
    let data = cluster.nodes[2].data();
    let output = run(&directory, &recover(&data, &["--yes"]));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}\n{error}");
    assert!(told.contains("WARNING: these members of the old cluster are running: "), "{told}");
    assert!(error.contains("no recovery is needed"), "{error}");

    cluster.nodes[2].start();
    cluster.nodes[2].ready();
    let after = cluster.nodes[2].status().unwrap();
    assert_eq!((after.cluster_id, after.node_id), (before.cluster_id, before.node_id));
    assert_eq!(cluster.nodes[2].fetch("/get?key=key"), (200, "kept".into()));
}

/// The one document that `recover` prints, and what it says in addition.
fn document(directory: &Path, data: &Path, more: &[&str], code: i32) -> (Value, String) {
    let output = run(directory, &recover(data, &[&["-o", "json"], more].concat()));
    let (told, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{told}\n{error}");
    let document = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
    (document, error.into_owned())
}

#[test]
fn what_is_found_and_done_is_one_document_for_programs() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let directory = cluster.directory.path().to_owned();
    cluster.nodes[0].put("key", "kept").unwrap();
    let leader = cluster.leader();
    let old = cluster.nodes[leader].status().unwrap();
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    let members: Vec<Value> = [&old.voters[..], &old.learners[..]]
        .concat()
        .iter()
        .filter(|member| Some(member.node_id) != old.node_id)
        .map(|member| json!({ "node_id": member.node_id, "name": member.name }))
        .collect();
    let asked = |document: &Value, presence: &str| {
        let mut expected = members.clone();
        for member in &mut expected {
            member["presence"] = presence.into();
        }
        expected.sort_by_key(|member| member["node_id"].to_string());
        assert_eq!(document["asked"], Value::from(expected), "{document}");
    };
    let data = cluster.nodes[leader].data();

    // A directory that cannot be looked at is an error like any.
    let output = run(&directory, &recover(&data, &["-o", "json", "--yes"]));
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");

    // The majority lives.
    cluster.nodes[leader].kill();
    let (told, error) = document(&directory, &data, &["--yes"], 1);
    assert_eq!((&told["done"], &told["majority"]), (&json!(false), &json!("there")), "{told}");
    asked(&told, "running");
    assert_eq!(error, format!("error: {}\n", told["problem"].as_str().unwrap()));

    // It is gone. Nothing is done unasked, and the plan is told.
    for at in others {
        cluster.nodes[at].kill();
    }
    let (plan, error) = document(&directory, &data, &[], 1);
    assert_eq!((&plan["done"], &plan["kept_in"]), (&json!(false), &Value::Null), "{plan}");
    assert!(error.contains("no terminal to ask on"), "{error}");
    assert!(!data.join("data.before-recovery").exists());
    let (done, error) = document(&directory, &data, &["--yes"], 0);
    assert_eq!(error, "");
    assert_eq!((&done["done"], &done["problem"]), (&json!(true), &Value::Null), "{done}");
    assert_eq!(done["kept_in"], json!(data.join("data.before-recovery")));
    assert!(data.join("data.before-recovery").is_dir());
    for document in [&plan, &done] {
        asked(document, "not_running");
        assert_eq!(document["majority"], "lost");
        assert_eq!(document["old_cluster_id"], json!(old.cluster_id));
        assert_eq!(document["node_id"], json!(old.node_id));
        assert_eq!((&document["name"], &document["adopted"]), (&json!(old.name), &json!(false)));
        assert_eq!((&document["keys"], &document["revision"]), (&json!(1), &json!(old.revision)));
        assert_eq!(document["dropped"].as_array().map(Vec::len), Some(2), "{document}");
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{document}"));
        let (last, committed) = (number(&document["last"]["index"]), number(&document["commit_index"]));
        assert_eq!(last - committed, number(&document["uncommitted_entries"]), "{document}");
        assert_eq!(number(&document["founding_entry"]["index"]), last + 1, "{document}");
    }

    // It continues as what was told.
    cluster.nodes[leader].start();
    cluster.nodes[leader].ready();
    let new = cluster.nodes[leader].status().unwrap();
    assert_eq!(json!(new.cluster_id), done["cluster_id"]);
    assert_eq!(cluster.nodes[leader].fetch("/get?key=key"), (200, "kept".into()));
}

#[test]
fn a_recovery_cut_short_leaves_the_old_cluster_or_the_new_one() {
    let _alone = alone();
    let mut cluster = Cluster::start(1);
    let directory = cluster.directory.path().to_owned();
    for key in 0..KEYS {
        cluster.nodes[0].put(&format!("key-{key}"), format!("value-{key}")).unwrap();
    }
    let old = cluster.nodes[0].status().unwrap().cluster_id;
    cluster.nodes[0].kill();
    let data = cluster.nodes[0].data();

    // Cut short while the new data was made: the old is in force.
    fs::create_dir(data.join("data.new")).unwrap();
    fs::write(data.join("data.new/half"), "made").unwrap();
    cluster.nodes[0].start();
    cluster.nodes[0].ready();
    assert_eq!(cluster.nodes[0].status().unwrap().cluster_id, old);
    cluster.nodes[0].kill();

    // Cut short once it was whole, before or after the old was moved away: the next opening makes it count.
    succeed(&directory, &recover(&data, &["--yes", "--force"]));
    let (new, before) = (data.join("data"), data.join("data.before-recovery"));
    fs::rename(&new, data.join("data.recovered")).unwrap();
    fs::rename(&before, &new).unwrap();
    cluster.nodes[0].start();
    cluster.nodes[0].ready();
    let recovered = cluster.nodes[0].status().unwrap().cluster_id;
    assert_ne!(recovered, old);
    assert_keys(&cluster.nodes[0]);
    cluster.nodes[0].kill();
    fs::rename(&new, data.join("data.recovered")).unwrap();
    cluster.nodes[0].start();
    cluster.nodes[0].ready();
    assert_eq!(cluster.nodes[0].status().unwrap().cluster_id, recovered);
    assert_keys(&cluster.nodes[0]);
}
