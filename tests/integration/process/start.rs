//! The commands and endpoints that everything began with.

use kuberaft::api::client::{get_text_request, set_text_request};

use super::alone;
use super::cluster::{Cluster, Node};

/// `GET /set?key=…&value=…`.
fn set(node: &Node, key: &str, value: &str) -> String {
    let answer = node.ask(async |mut client| client.request(set_text_request(key, value)?).await);
    String::from_utf8(answer.unwrap().into_body().to_vec()).unwrap()
}

/// `GET /get?key=…`.
fn get(node: &Node, key: &str) -> String {
    let answer = node.ask(async |mut client| client.request(get_text_request(key)?).await);
    String::from_utf8(answer.unwrap().into_body().to_vec()).unwrap()
}

#[test]
fn three_start_commands_then_set_and_get_work_on_any_node_whichever_leads() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let flags = &cluster.nodes[0].flags;
    let names: Vec<_> = flags.iter().map(|flag| flag.split('=').next().unwrap()).collect();
    assert_eq!(names, ["--http_addr", "--raft_addr", "--raft_id", "--raft_cluster"]);
    let mut led = Vec::new();
    for round in 0..2 {
        let leader = cluster.leader();
        led.push(leader);
        for (at, node) in cluster.nodes.iter().enumerate() {
            let (key, value) = (format!("key-{round}-{at}"), format!("one,two,,three={round}&{at},"));
            assert_eq!(set(node, &key, &value), "ok");
            for reader in &cluster.nodes {
                assert_eq!(get(reader, &key), value, "written at {}, read at {}", node.name, reader.name);
            }
        }
        let node = &mut cluster.nodes[leader];
        node.kill();
        cluster.leader();
        cluster.nodes[leader].start();
        cluster.ready();
    }
    assert!(cluster.nodes[0].data().join("lock").exists(), "the default data directory is in use");
}

#[test]
fn the_endpoints_take_what_a_command_line_tool_sends() {
    let _alone = alone();
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    assert_eq!(node.fetch("/set?key=a&value=1,2,3"), (200, "ok".into()));
    assert_eq!(node.fetch("/get?key=a"), (200, "1,2,3".into()));
    let (status, body) = node.fetch("/get?key=b");
    assert_eq!(status, 404);
    assert!(body.contains("\"code\":\"key_not_found\""), "{body}");
}

#[test]
fn a_script_can_check_a_value_and_ask_every_member_through_one() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    cluster.ready();
    cluster.insist(&["put", "key", "value"], &[]);
    assert!(cluster.command(&["get", "key", "--expect", "value"]).status.success());
    let other = cluster.command(&["get", "key", "--expect", "valu"]);
    assert_eq!((other.status.code(), other.stdout.len()), (Some(1), 0));
    let error = String::from_utf8_lossy(&other.stderr);
    assert!(error.contains("the key `key` holds another value, of 5 bytes"), "{error}");

    let one = cluster.nodes[0].client.address();
    let status = cluster.command(&["status", "--members", "--wait", "1m", "--endpoints", &one, "-o", "json"]);
    assert!(status.status.success());
    let answers: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let mut asked: Vec<_> =
        answers.as_array().unwrap().iter().map(|answer| answer["status"]["name"].clone()).collect();
    asked.sort_by_key(ToString::to_string);
    assert_eq!(asked, ["1", "2", "3"]);
    // One that is gone is missed, though the one that is asked is ready.
    let gone = cluster.other(0);
    cluster.nodes[gone].kill();
    let status = cluster.command(&["status", "--members", "--wait", "2s", "--endpoints", &one]);
    assert_eq!(status.status.code(), Some(1));
    let error = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(error.contains(&cluster.nodes[gone].client.address()), "{error}");
}
