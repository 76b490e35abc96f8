//! Fewer than a majority: no commit.

use super::Scenario;
use super::narrator::name;
use super::replicate_log_1::{after_heartbeat, answered, write};
use super::stage::{NODES, Stage, Told};
use crate::raft::Outcome;
use crate::sim::clients::Ending;
use crate::sim::cluster::Cluster;
use crate::sim::disk::Crash;
use crate::sim::trace::Happening;
use crate::types::LogIndex;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "replicate-log-3",
    title: "One of three responds: no commit, and the client gets an error",
    about: "The leader alone has the write on disk, which is no majority: it must not commit, apply or answer it. The \
            client is told that the outcome is unknown when its time is up. What becomes of the entry is decided by \
            the next leader: if that one has it, it is committed; if not, it is replaced.",
    play,
};

fn play(stage: &mut Stage) -> Told {
    let (leader, index) = write_alone(stage, "both followers are without power", |cluster, leader| {
        for node in (0..NODES).filter(|node| *node != leader) {
            cluster.crash(node, Crash::PowerLost, "the scenario says so");
        }
    })?;
    time_out(stage, leader, index)?;
    entry_survives(stage, leader, index)?;
    stage.check_rules()?;
    let (leader, index) =
        write_alone(stage, "the leader is cut off from the other two", |cluster, leader| {
            cluster.network.split(|node| node == leader);
        })?;
    replaced(stage, leader, index)
}

/// A leader that has lost its followers takes a write, and cannot commit it.
fn write_alone(stage: &mut Stage, what: &str, take_away: fn(&mut Cluster, usize)) -> Told<(usize, LogIndex)> {
    let leader = stage.begin_led()?;
    stage.section(&format!("A client writes while {what}"));
    after_heartbeat(stage);
    let mark = stage.past.len();
    let index = stage.last(leader).next();
    stage.act(what, |cluster| take_away(cluster, leader));
    write(stage, leader, "1");
    stage.run_for(100);
    let holders = stage.narrator.holders(leader, stage.term(leader), index);
    let found = format!("{} of {NODES}", holders.len());
    stage.check(&format!("entry {index} is on the leader's disk only"), holders == [leader], &found)?;
    let committed = stage
        .count(mark, |happening| matches!(happening, Happening::Committed { index: at, .. } if *at >= index));
    let found = format!("{} knows entries up to {} as committed", name(leader), stage.commit(leader));
    let holds = committed == 0 && stage.applied(leader) < index && !answered(stage);
    stage.check("one of three is no majority: no commit, no apply, no reply", holds, &found)?;
    Ok((leader, index))
}

fn time_out(stage: &mut Stage, leader: usize, index: LogIndex) -> Told {
    stage.section("The client's time is up");
    stage.run_until(3000, answered);
    let told = refusal(stage);
    let found = told.as_ref().map_or("no refusal".to_owned(), ToString::to_string);
    let holds = told == Some(Ending::Unknown) && stage.commit(leader) < index;
    stage.check("the client gets an error: the outcome is unknown", holds, &found)?;
    let found = format!("at {} ms", stage.now_ms());
    let refused =
        |happening: &Happening| matches!(happening, Happening::Refused { node, .. } if *node == leader);
    stage.check("the node says so itself, with its reason", stage.find(0, refused).is_some(), &found)
}

/// What the client was told last, and whether the node's refusal says the same.
fn refusal(stage: &Stage) -> Option<Ending> {
    let refused = stage.past.iter().rev().find_map(|(_, happening)| match happening {
        Happening::Refused { refusal, .. } => Some(refusal.outcome),
        _ => None,
    })?;
    let told = stage.past.iter().rev().find_map(|(_, happening)| match happening {
        Happening::Answered { ending, .. } => Some(ending.clone()),
        _ => None,
    })?;
    let same = matches!(
        (refused, &told),
        (Outcome::Unknown, Ending::Unknown) | (Outcome::NotApplied, Ending::NotApplied)
    );
    same.then_some(told)
}

fn entry_survives(stage: &mut Stage, leader: usize, index: LogIndex) -> Told {
    stage.section("The entry's fate: the next leader has it");
    let (back, later) = ((leader + 1) % NODES, (leader + 2) % NODES);
    stage.act(&format!("{} has power again", name(back)), |cluster| cluster.restart(back));
    let next = stage.lead(10_000)?;
    let found = format!("{} leads term {}", name(next), stage.term(next));
    let expected = format!("of the two only {} can win, {}'s log is behind", name(leader), name(back));
    stage.check(&expected, next == leader, &found)?;
    let has = |stage: &Stage, node: usize| {
        stage.applied(node) >= index && stage.cluster.value(node, b"x").is_some_and(|held| held.value == "1")
    };
    let found = format!("{}'s commit index is {}", name(next), stage.commit(next));
    let expected = format!("entry {index} is committed after all, together with the new leader's no-op");
    stage.check(&expected, has(stage, leader) && has(stage, back), &found)?;
    stage.act(&format!("{} has power again", name(later)), |cluster| cluster.restart(later));
    stage.lead(3000)?;
    let found = format!("{} has applied entries up to {}", name(later), stage.applied(later));
    stage.check("the third gets it, too", has(stage, later), &found)?;
    read(stage, next, "1")
}

/// Reads `x` at a node.
fn read(stage: &mut Stage, node: usize, expected: &str) -> Told {
    let token = stage.ask(|cluster| cluster.get(node, "x"));
    stage.run_until(3000, answered);
    let ending = stage.cluster.clients.take_ending(token);
    let found = ending.as_ref().map_or("nothing".to_owned(), ToString::to_string);
    let holds = found.starts_with(&format!("{expected},"));
    stage.check(&format!("it finds x = {expected}"), holds, &found)
}

fn replaced(stage: &mut Stage, leader: usize, index: LogIndex) -> Told {
    stage.section("The others continue without it");
    let term = stage.term(leader);
    let is_replaced = |stage: &Stage| stage.cluster.leader().is_some_and(|next| stage.term(next) > term);
    stage.run_until(1500, is_replaced);
    let next = stage.cluster.leader().unwrap_or(leader);
    let committed = stage.run_until(100, |stage| stage.commit(next) >= index);
    let found = format!("{} leads term {}, commit {}", name(next), stage.term(next), stage.commit(next));
    let expected = format!("two of three elect a leader, which commits another entry {index}");
    stage.check(&expected, committed && next != leader, &found)?;
    stage.section("The entry's fate: another took its place");
    let mark = stage.past.len();
    stage.act("all links are repaired", |cluster| cluster.network.mend());
    stage.run_until(1000, answered);
    let dropped = |happening: &Happening| {
        matches!(happening, Happening::Appending { node, truncate_from: Some(from), .. }
            if *node == leader && *from == index)
    };
    let found = if stage.find(mark, dropped).is_some() { "it is dropped" } else { "it is still there" };
    let expected = format!("{}'s entry {index} of term {term} is not in the new leader's log", name(leader));
    stage.check(&expected, stage.find(mark, dropped).is_some(), found)?;
    let told = refusal(stage);
    let found = told.as_ref().map_or("no refusal".to_owned(), ToString::to_string);
    stage.check(
        "the client is told that its write has no effect",
        told == Some(Ending::NotApplied),
        &found,
    )?;
    stage.lead(2000)?;
    let absent = (0..NODES).all(|node| stage.cluster.value(node, b"x").is_none());
    let found = if absent { "x is not there" } else { "x is there" };
    stage.check("nobody applied it", absent, found)
}
