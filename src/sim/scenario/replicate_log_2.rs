//! A majority answers: that is enough.

use super::Scenario;
use super::narrator::name;
use super::replicate_log_1::{after_heartbeat, answered, check_answer, check_copies, check_order, write};
use super::stage::{NODES, Stage, Told};
use crate::sim::disk::Crash;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "replicate-log-2",
    title: "Two of three respond: a majority is enough to commit, apply and answer",
    about: "One follower is down. The leader and the other follower are a majority, so writes are committed, applied and \
            answered as before. When the third is back, the leader sends it what it missed.",
    play,
};

fn play(stage: &mut Stage) -> Told {
    let leader = stage.begin_led()?;
    let down = (leader + 1) % NODES;
    stage.section("A client writes while a follower is down");
    stage.act(&format!("{} loses power", name(down)), |cluster| {
        cluster.crash(down, Crash::PowerLost, "the scenario says so");
    });
    stage.run_for(500);
    after_heartbeat(stage);
    let mark = stage.past.len();
    let index = stage.last(leader).next();
    let token = write(stage, leader, "1");
    stage.run_until(2000, answered);
    check_order(stage, mark, leader, index)?;
    check_answer(stage, token, "1")?;
    check_copies(stage, mark, leader, index, NODES - 1)?;
    stage.section("The third node is back");
    stage.act(&format!("{} has power again", name(down)), |cluster| cluster.restart(down));
    stage.run_until(3000, |stage| stage.applied(down) == index);
    let found = format!("{}'s log ends at {}, applied {}", name(down), stage.last(down), stage.applied(down));
    stage.check("it gets what it missed, and applies it", stage.applied(down) == index, &found)?;
    let value = |node: usize| stage.cluster.value(node, b"x").map(|held| held.value);
    let same = (0..NODES).all(|node| value(node) == Some("1".into()));
    stage.run_for(200);
    let stays = stage.cluster.leader() == Some(leader);
    let found = format!("x = 1 on all, {} leads", name(stage.cluster.leader().unwrap_or(leader)));
    stage.check("all three hold the same, under the same leader", same && stays, &found)
}
