//! A majority of votes makes a leader.

use super::Scenario;
use super::narrator::{name, names};
use super::stage::{NODES, Stage, Told};
use crate::raft::{Observation, RoleName, VoteAnswer};
use crate::sim::disk::Crash;
use crate::sim::trace::Happening;
use crate::types::Term;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "election-2",
    title: "The node that a majority votes for becomes the leader",
    about: "Each follower waits for a random election timeout. Whose timeout ends first becomes a candidate and asks for \
            votes; with those of a majority, its own included, it leads. A node has one vote a term, so two \
            majorities in one term cannot be. Nor does everyone get votes: a log that is behind the voter's is \
            refused, so that a leader holds everything that was committed.",
    play,
};

fn play(stage: &mut Stage) -> Told {
    stage.begin("The first election", |_| ());
    let leader = stage.lead(10_000)?;
    check_majority(stage, leader)?;
    refuse_the_laggard(stage, leader)?;
    one_is_no_majority(stage)
}

fn check_majority(stage: &mut Stage, leader: usize) -> Told {
    let term = stage.term(leader);
    let voters = stage.narrator.voters(leader, term);
    let found = format!("{} leads term {term} with the votes of {}", name(leader), names(&voters));
    stage.check("the leader has a majority of votes", voters.len() * 2 > NODES, &found)?;
    let winners = stage.count(0, |happening| {
        matches!(happening, Happening::Observed { observation: Observation::ElectionWon { term: won }, .. }
            if *won == term)
    });
    let found = format!("{winners} in term {term}");
    stage.check("one leader a term", winners == 1, &found)
}

fn refuse_the_laggard(stage: &mut Stage, leader: usize) -> Told {
    stage.section("The leader dies: who may follow?");
    let (current, behind) = ((leader + 1) % NODES, (leader + 2) % NODES);
    for node in [current, behind] {
        stage.cluster.hold_elections(node, true);
    }
    let what = format!("{}'s links are cut, then a client writes to {}", name(behind), name(leader));
    stage.act(&what, |cluster| {
        cluster.network.split(|node| node == behind);
        cluster.put(leader, "x", "1");
    });
    let written = stage.last(leader).next();
    let stored =
        stage.run_until(1000, |stage| stage.applied(leader) == written && stage.last(current) == written);
    let found = format!(
        "{} has applied {}, {}'s log ends at {}",
        name(leader),
        stage.applied(leader),
        name(behind),
        stage.last(behind)
    );
    let expected = format!("entry {written} is committed, and {} does not have it", name(behind));
    stage.check(&expected, stored && stage.last(behind) < written, &found)?;
    let what = format!("{} dies, {}'s links are repaired", name(leader), name(behind));
    stage.act(&what, |cluster| {
        cluster.crash(leader, Crash::PowerLost, "the scenario says so");
        cluster.network.mend();
    });
    stage.run_for(700);
    let mark = stage.past.len();
    let what = format!("{}'s election timeout ends first", name(behind));
    stage.act(&what, |cluster| cluster.time_out(behind));
    stage.run_for(20);
    let refused = |happening: &Happening| {
        matches!(happening, Happening::Observed { node, observation: Observation::VoteAnswered { answer, .. } }
            if *node == current && *answer == VoteAnswer::LogBehind)
    };
    let holds = stage.find(mark, refused).is_some() && stage.cluster.leader().is_none();
    let found = format!("{} is {}", name(behind), stage.role(behind).map_or("down", RoleName::as_str));
    let expected = format!("{} is refused, its log is behind; nobody leads", name(behind));
    stage.check(&expected, holds, &found)?;
    let before = stage.term(current);
    stage.act(&format!("{}'s election timeout ends", name(current)), |cluster| cluster.time_out(current));
    let next = stage.lead(2000)?;
    let found = format!("{} leads term {}", name(next), stage.term(next));
    stage.check("two of three elect the one that has everything", next == current, &found)?;
    check_majority(stage, next)?;
    let found = format!("term {before} before, {} now", stage.term(next));
    stage.check("a new leader, a new term", stage.term(next) > before, &found)?;
    for node in [current, behind] {
        stage.cluster.hold_elections(node, false);
    }
    Ok(())
}

fn one_is_no_majority(stage: &mut Stage) -> Told {
    stage.section("A second node dies: one of three is no majority");
    let leader = stage.lead(1000)?;
    let last = (0..NODES).find(|node| *node != leader && stage.cluster.is_running(*node)).unwrap_or(leader);
    let term = stage.term(last);
    stage.act(&format!("{} dies", name(leader)), |cluster| {
        cluster.crash(leader, Crash::PowerLost, "the scenario says so");
    });
    stage.run_for(2000);
    let (now, role) = (stage.term(last), stage.role(last));
    let found = format!("{} is {} in term {now}", name(last), role.map_or("down", RoleName::as_str));
    let holds = role == Some(RoleName::PreCandidate) && now == term && term > Term(1);
    stage.check("the last node asks and asks, and leads nothing", holds, &found)
}
