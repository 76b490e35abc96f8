//! Heartbeats keep the leader.

use super::Scenario;
use super::narrator::{Beats, name};
use super::stage::{Details, NODES, Stage, Told};
use crate::raft::{Message, Observation, RoleName, Signal};
use crate::sim::trace::Happening;
use crate::types::{Instant, Term};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "election-3",
    title: "Heartbeats keep the leader; without them there is an election",
    about: "A leader sends empty AppendEntries messages to all followers all the time. Each one that arrives starts the \
            follower's election timeout again, so that nobody starts an election while the leader is heard. When \
            the heartbeats of a leader do not arrive any more, an election timeout later there is an election.",
    play,
};

fn play(stage: &mut Stage) -> Told {
    stage.details = Details::Logs;
    let leader = stage.begin_led()?;
    let term = stage.term(leader);
    two_rounds(stage)?;
    many_timeouts(stage, leader, term)?;
    cut_heartbeats(stage, leader, term)
}

fn two_rounds(stage: &mut Stage) -> Told {
    stage.section("Heartbeats, looked at closely");
    let before = stage.narrator.beats;
    stage.narrator.tells_heartbeats = true;
    stage.run_for(130);
    stage.narrator.tells_heartbeats = false;
    let Beats { sent, arrived, .. } = since(stage.narrator.beats, before);
    let found = format!("{sent} sent, {arrived} arrived");
    stage.check("every 60 ms the leader lets each follower hear from it", arrived >= 4, &found)
}

fn since(now: Beats, before: Beats) -> Beats {
    Beats {
        sent: now.sent - before.sent,
        arrived: now.arrived - before.arrived,
        answered: now.answered - before.answered,
    }
}

/// When a node last heard the leader, and the longest time it heard nothing, from `mark` on.
fn silence(stage: &Stage, mark: usize, node: usize) -> (Instant, u128) {
    let mut heard = stage.past.get(mark).map_or(stage.cluster.now(), |(at, _)| *at);
    let mut longest = 0;
    for (at, happening) in &stage.past[mark..] {
        if let Happening::Delivered { to, message: Message::Signal(Signal::Append(_)), .. } = happening
            && *to == node
        {
            longest = longest.max(at.since(heard).as_millis());
            heard = *at;
        }
    }
    (heard, longest)
}

fn many_timeouts(stage: &mut Stage, leader: usize, term: Term) -> Told {
    stage.section("Ten of the longest election timeouts later");
    let (mark, before) = (stage.past.len(), stage.narrator.beats);
    stage.run_for(6000);
    let Beats { sent, arrived, answered } = since(stage.narrator.beats, before);
    let text =
        format!("in 6000 ms {} sent {sent} heartbeats; {arrived} arrived, {answered} answers", name(leader));
    stage.summarize(text);
    for node in (0..NODES).filter(|node| *node != leader) {
        let (_, longest) = silence(stage, mark, node);
        let expected = format!("{} never waits 300 ms, the shortest election timeout", name(node));
        stage.check(&expected, longest < 300, &format!("it waited {longest} ms at most"))?;
    }
    let now = stage.term(leader);
    let stays = stage.role(leader) == Some(RoleName::Leader)
        && stage.terms() == vec![term; NODES]
        && stage.count(mark, stood) == 0;
    let found = format!("{} in term {now}, {} started an election", name(leader), stage.count(mark, stood));
    stage.check("leader and term stay", stays, &found)
}

fn stood(happening: &Happening) -> bool {
    matches!(happening, Happening::Observed { observation: Observation::RoleChanged { role, .. }, .. }
        if matches!(role, RoleName::PreCandidate | RoleName::Candidate))
}

fn cut_heartbeats(stage: &mut Stage, leader: usize, term: Term) -> Told {
    stage.section("The heartbeats stop");
    let what = format!("the links from {} to the others are cut; those to it are not", name(leader));
    stage.act(&what, |cluster| {
        (0..NODES).for_each(|node| cluster.network.set_cut(leader, node, true));
    });
    let mark = stage.past.len();
    let is_replaced =
        |stage: &Stage| stage.cluster.leader().is_some_and(|next| next != leader && stage.term(next) > term);
    stage.run_until(5000, is_replaced);
    let Some(first) = stage.find(mark, stood) else {
        return stage.check("a follower starts an election", false, &stage.cluster.summary());
    };
    let (at, Happening::Observed { node, .. }) = stage.past[first].clone() else { return Ok(()) };
    let waited = at.since(silence(stage, 0, node).0).as_millis();
    let found = format!("{} waited {waited} ms", name(node));
    let expected = "the follower's wait was a random time from 300 to 600 ms";
    stage.check(expected, (299..=601).contains(&waited), &found)?;
    let next = stage.cluster.leader().unwrap_or(leader);
    let found = format!("{} leads term {}", name(next), stage.term(next));
    stage.check("another leader, in a higher term", is_replaced(stage), &found)?;
    stage.run_until(1000, |stage| stage.role(leader) == Some(RoleName::Follower));
    let is_follower =
        stage.role(leader) == Some(RoleName::Follower) && stage.term(leader) == stage.term(next);
    let found = format!("{} is {}", name(leader), stage.role(leader).map_or("down", RoleName::as_str));
    stage.check("the old leader, which can still hear, follows", is_follower, &found)
}
