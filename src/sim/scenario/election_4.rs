//! A leader that loses its majority steps down.

use super::Scenario;
use super::narrator::name;
use super::stage::{Details, NODES, Stage, Told};
use crate::raft::{Message, Observation, Promise, RoleName, Signal};
use crate::sim::clients::Ending;
use crate::sim::trace::Happening;
use crate::types::{Instant, Term};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "election-4",
    title: "A leader whose heartbeats no majority answers steps down",
    about: "A leader that is cut off cannot know of the election that the others hold. So that its clients are not kept \
            waiting, it steps down by itself once no majority has answered it for an election timeout \
            (CheckQuorum). It keeps its term, since nobody has told it of a higher one.",
    play,
};

fn play(stage: &mut Stage) -> Told {
    stage.details = Details::Logs;
    let leader = stage.begin_led()?;
    let term = stage.term(leader);
    stage.run_for(500);
    lose_one(stage, leader, term)?;
    lose_majority(stage, leader, term)?;
    others_go_on(stage, leader, term)
}

fn lose_one(stage: &mut Stage, leader: usize, term: Term) -> Told {
    stage.section("One follower does not answer");
    let lost = (leader + 1) % NODES;
    stage.act(&format!("{} is cut off from the others", name(lost)), |cluster| {
        cluster.network.split(|node| node == lost);
    });
    stage.run_for(1500);
    let holds = stage.role(leader) == Some(RoleName::Leader) && stage.term(leader) == term;
    let role = stage.role(leader).map_or("down", RoleName::as_str);
    let found = format!("{} is {role} in term {}", name(leader), stage.term(leader));
    let expected = format!("with the other follower, {} is a majority, and leads on", name(leader));
    stage.check(&expected, holds, &found)?;
    stage.act(&format!("{}'s links are repaired", name(lost)), |cluster| cluster.network.mend());
    stage.lead(3000)?;
    stage.run_for(100);
    Ok(())
}

/// When an answer last reached a node.
fn last_answer(stage: &Stage, leader: usize) -> Instant {
    let is_answer = |happening: &Happening| match happening {
        Happening::Delivered { to, message, .. } if *to == leader => matches!(
            message,
            Message::Promise(Promise::Appended { .. }) | Message::Signal(Signal::RoundEcho { .. })
        ),
        _ => false,
    };
    let found = stage.past.iter().rev().find(|(_, happening)| is_answer(happening));
    found.map_or(Instant(0), |(at, _)| *at)
}

fn lose_majority(stage: &mut Stage, leader: usize, term: Term) -> Told {
    stage.section("No follower answers");
    let mark = stage.past.len();
    let before = stage.narrator.beats;
    stage.act(&format!("{} is cut off from both", name(leader)), |cluster| {
        cluster.network.split(|node| node == leader);
    });
    stage.run_until(2000, |stage| stage.role(leader) != Some(RoleName::Leader));
    let now = stage.narrator.beats;
    let (sent, arrived) = (now.sent - before.sent, now.arrived - before.arrived);
    stage.summarize(format!("{sent} heartbeats were sent meanwhile, {arrived} arrived"));
    let waited = stage.cluster.now().since(last_answer(stage, leader)).as_millis();
    let stepped = |happening: &Happening| {
        matches!(happening, Happening::Observed { node, observation: Observation::RoleChanged { role, .. } }
            if *node == leader && *role == RoleName::Follower)
    };
    let holds = stage.find(mark, stepped).is_some() && stage.term(leader) == term;
    let role = stage.role(leader).map_or("down", RoleName::as_str);
    let found = format!("{} is {role} in term {}", name(leader), stage.term(leader));
    stage.check("the leader steps down, in the term it led", holds, &found)?;
    let found = format!("{waited} ms after the last answer");
    let expected = "at the first heartbeat after an election timeout of 300 ms";
    stage.check(expected, (300..=365).contains(&waited), &found)
}

fn others_go_on(stage: &mut Stage, leader: usize, term: Term) -> Told {
    stage.section("Both sides, and together again");
    let token = stage.ask(|cluster| cluster.put(leader, "x", "1"));
    let replaced = |stage: &Stage| stage.cluster.leader().is_some_and(|next| stage.term(next) > term);
    stage.run_until(5000, replaced);
    let next = stage.cluster.leader().unwrap_or(leader);
    let found = format!("{} leads term {}", name(next), stage.term(next));
    stage.check("the other two elect a leader in a higher term", replaced(stage), &found)?;
    let answered =
        |stage: &Stage| stage.past.iter().any(|(_, told)| matches!(told, Happening::Answered { .. }));
    stage.run_until(3000, answered);
    let ending = stage.cluster.clients.take_ending(token);
    let found = ending.as_ref().map_or("nothing".to_owned(), ToString::to_string);
    let expected = format!("the client of {} is told that its write has no effect", name(leader));
    stage.check(&expected, ending == Some(Ending::NotApplied), &found)?;
    stage.act("all links are repaired", |cluster| cluster.network.mend());
    let now = stage.lead(3000)?;
    let found = format!("{} leads, {} is at term {}", name(now), name(leader), stage.term(leader));
    stage.check("the old leader follows the new one", now == next && stage.term(leader) > term, &found)
}
