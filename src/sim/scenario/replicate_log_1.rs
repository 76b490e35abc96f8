//! All answer: commit, apply, reply.

use super::Scenario;
use super::narrator::{name, names};
use super::stage::{NODES, Stage, Told};
use crate::raft::{Message, Promise};
use crate::sim::clients::{Ending, Token};
use crate::sim::trace::Happening;
use crate::types::LogIndex;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "replicate-log-1",
    title: "All three respond: the write is committed, applied, and answered, in this order",
    about: "The leader appends a client's write to its log and sends it to all followers. Once a majority has it on \
            disk, the leader's own disk counted, it is committed; then the leader applies it and answers. The \
            followers learn of the commit with the next heartbeat, after the client has its answer.",
    play,
};

fn play(stage: &mut Stage) -> Told {
    let leader = stage.begin_led()?;
    stage.section("A client writes");
    after_heartbeat(stage);
    let mark = stage.past.len();
    let index = stage.last(leader).next();
    let token = write(stage, leader, "1");
    stage.run_until(2000, answered);
    stage.run_until(20, |stage| (0..NODES).all(|node| acknowledged(stage, mark, node, leader, index)));
    check_order(stage, mark, leader, index)?;
    check_answer(stage, token, "1")?;
    check_copies(stage, mark, leader, index, NODES)?;
    stage.section("The followers learn of it");
    stage.run_until(1000, |stage| (0..NODES).all(|node| stage.applied(node) == index));
    for node in (0..NODES).filter(|node| *node != leader) {
        check_after_reply(stage, mark, node, index)?;
    }
    Ok(())
}

/// Goes on until shortly after a heartbeat, so that none comes while a write is under way.
pub(super) fn after_heartbeat(stage: &mut Stage) {
    let sent = stage.narrator.beats.sent;
    stage.run_until(1000, |stage| stage.narrator.beats.sent > sent);
    stage.run_for(10);
}

/// Writes `x` at a node.
pub(super) fn write(stage: &mut Stage, node: usize, value: &str) -> Token {
    stage.ask(|cluster| cluster.put(node, "x", value))
}

/// Whether the question asked last was answered.
pub(super) fn answered(stage: &Stage) -> bool {
    let of = |happening: &Happening| match happening {
        Happening::Asked { .. } => Some(false),
        Happening::Answered { .. } => Some(true),
        _ => None,
    };
    stage.past.iter().rev().find_map(|(_, happening)| of(happening)).unwrap_or(false)
}

/// Whether a follower's acknowledgement of an entry has reached the leader; the leader needs none.
fn acknowledged(stage: &Stage, mark: usize, node: usize, leader: usize, index: LogIndex) -> bool {
    node == leader || stage.find(mark, |happening| is_acknowledgement(happening, node, index)).is_some()
}

fn is_acknowledgement(happening: &Happening, node: usize, index: LogIndex) -> bool {
    matches!(happening, Happening::Delivered { from, message, .. }
        if *from == node
        && matches!(message, Message::Promise(Promise::Appended { match_index, .. }) if *match_index >= index))
}

/// Durable at a majority, committed, applied, answered, in this order.
pub(super) fn check_order(stage: &mut Stage, mark: usize, leader: usize, index: LogIndex) -> Told {
    let others = (0..NODES).filter(|node| *node != leader);
    let own = stage.find(
        mark,
        |happening| matches!(happening, Happening::Durable { node, last } if *node == leader && *last >= index),
    );
    let first = others
        .filter_map(|node| stage.find(mark, |happening| is_acknowledgement(happening, node, index)))
        .min();
    let commit = stage.find(mark, |happening| {
        matches!(happening, Happening::Committed { node, index: at, .. } if *node == leader && *at >= index)
    });
    let apply = stage.find(
        mark,
        |happening| matches!(happening, Happening::Applied { node, last } if *node == leader && *last >= index),
    );
    let reply = stage.find(mark, |happening| matches!(happening, Happening::Answered { .. }));
    let at = |found: Option<usize>| match found {
        Some(at) => format!("{:.3}", micros_as_millis(stage, at)),
        None => "never".to_owned(),
    };
    let found = format!(
        "own disk at {}, first acknowledgement {}, commit {}, apply {}, reply {} (ms)",
        at(own),
        at(first),
        at(commit),
        at(apply),
        at(reply)
    );
    let majority = own.max(first).filter(|_| own.is_some() && first.is_some());
    let places = [majority, commit, apply, reply];
    let in_order = places.iter().all(Option::is_some) && places.is_sorted();
    stage.check("a majority on disk, then commit, then apply, then reply", in_order, &found)
}

#[allow(clippy::cast_precision_loss)] // a scenario takes seconds
fn micros_as_millis(stage: &Stage, at: usize) -> f64 {
    stage.past[at].0.0 as f64 / 1000.0
}

/// The client was told that its write took effect, and it did.
pub(super) fn check_answer(stage: &mut Stage, token: Token, value: &str) -> Told {
    let ending = stage.cluster.clients.take_ending(token);
    let found = ending.as_ref().map_or("nothing".to_owned(), ToString::to_string);
    let leader = stage.cluster.leader().unwrap_or(0);
    let holds = stage.cluster.value(leader, b"x").is_some_and(|held| held.value == value.as_bytes());
    let told = matches!(ending, Some(Ending::Answered(_)));
    stage.check(&format!("the client is told, and x = {value} holds"), told && holds, &found)
}

/// So many nodes have the entry on disk.
pub(super) fn check_copies(
    stage: &mut Stage,
    mark: usize,
    leader: usize,
    index: LogIndex,
    copies: usize,
) -> Told {
    let durable = |node: usize| {
        stage
            .find(
                mark,
                |happening| matches!(happening, Happening::Durable { node: at, last } if *at == node && *last >= index),
            )
            .is_some()
            && acknowledged(stage, mark, node, leader, index)
    };
    let holders: Vec<usize> = (0..NODES).filter(|node| durable(*node)).collect();
    let expected = format!("entry {index} is on {copies} of {NODES} disks");
    stage.check(&expected, holders.len() == copies, &names(&holders))
}

/// A follower learned of the commit only after the client was answered.
fn check_after_reply(stage: &mut Stage, mark: usize, node: usize, index: LogIndex) -> Told {
    let reply = stage.find(mark, |happening| matches!(happening, Happening::Answered { .. }));
    let commit = stage.find(mark, |happening| {
        matches!(happening, Happening::Committed { node: at, index: to, .. } if *at == node && *to >= index)
    });
    let gap = match (reply, commit) {
        (Some(reply), Some(commit)) if reply < commit => {
            stage.past[commit].0.since(stage.past[reply].0).as_millis()
        }
        _ => {
            let expected = format!("{} learns of the commit after the reply", name(node));
            return stage.check(&expected, false, &stage.cluster.summary());
        }
    };
    let expected = format!("{} commits and applies it after the reply", name(node));
    stage.check(&expected, stage.applied(node) == index, &format!("{gap} ms later"))
}
