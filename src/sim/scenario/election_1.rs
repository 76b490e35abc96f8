//! No majority, no leader: terms rise without `PreVote`, and do not with it.

use super::Scenario;
use super::narrator::{name, names};
use super::stage::{Details, NODES, Stage, Told};
use crate::raft::{Message, Observation, RoleName, Signal};
use crate::sim::trace::Happening;
use crate::types::Term;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "election-1",
    title: "Without a majority a candidate's term keeps rising; with PreVote it does not",
    about: "A follower that hears no leader for a random election timeout becomes a candidate in a new term. If no \
            majority votes for it, it times out and tries the next term, and so on. A node that was only cut off \
            comes back with a high term and ends the term of a leader that did nothing wrong. With PreVote a node \
            first asks whether it could win, and raises its term only if a majority says yes.",
    play,
};

fn play(stage: &mut Stage) -> Told {
    stage.details = Details::Logs;
    split_vote(stage)?;
    cut_off(stage)?;
    come_back(stage)?;
    disturb(stage)?;
    stage.check_rules()?;
    with_pre_vote(stage)?;
    stay_quiet(stage)
}

fn is_vote_request(happening: &Happening, node: usize) -> bool {
    matches!(happening, Happening::Sent { from, message: Message::Signal(Signal::RequestVote(_)), .. }
        if *from == node)
}

fn elections(stage: &Stage, mark: usize, node: usize) -> usize {
    stage.count(mark, |happening| {
        matches!(happening, Happening::Observed { node: at, observation: Observation::ElectionStarted { .. } }
            if *at == node)
    })
}

fn pre_votes(stage: &Stage, mark: usize, node: usize) -> usize {
    let asked = |happening: &Happening| {
        matches!(happening, Happening::Sent { from, message: Message::Signal(Signal::PreVote(_)), .. }
            if *from == node)
    };
    stage.count(mark, asked) / (NODES - 1)
}

fn split_vote(stage: &mut Stage) -> Told {
    stage.begin("Without PreVote: a split vote", |setup| setup.raft.pre_vote = false);
    for node in 0..NODES {
        stage.cluster.hold_elections(node, true);
    }
    stage.run_until(100, |stage| stage.cluster.status(NODES - 1).is_some());
    stage.run_for(5);
    stage.act("all three election timeouts end at the same moment", |cluster| {
        (0..NODES).for_each(|node| cluster.time_out(node));
    });
    stage.run_for(20);
    let asked = (0..NODES).all(|node| stage.count(0, |happening| is_vote_request(happening, node)) == 2);
    let stood = (0..NODES)
        .all(|node| stage.role(node) == Some(RoleName::Candidate) && stage.term(node) == Term(2))
        && asked;
    let found: Vec<String> = (0..NODES)
        .map(|node| format!("{} {:?}", name(node), stage.narrator.voters(node, Term(2)).len()))
        .collect();
    let expected = "three candidates of term 2 with one vote each, their own: nobody leads";
    stage.check(expected, stood, &format!("votes: {}", found.join(", ")))
}

fn cut_off(stage: &mut Stage) -> Told {
    stage.section("Without PreVote: no majority can be reached");
    let mark = stage.past.len();
    let before = stage.terms();
    stage.act("all links are cut; elections start by themselves, after random timeouts", |cluster| {
        for node in 0..NODES {
            cluster.network.split(|other| other == node);
            cluster.hold_elections(node, false);
        }
    });
    stage.run_for(2500);
    for (node, before) in before.into_iter().enumerate() {
        let (term, count) = (stage.term(node), elections(stage, mark, node));
        let found = format!("{count} elections, {}'s term went from {before} to {term}", name(node));
        let holds = count >= 3 && term.0 == before.0 + count as u64;
        stage.check("each election raises the term and none is won", holds, &found)?;
    }
    let leads = (0..NODES).filter(|node| stage.role(*node) == Some(RoleName::Leader)).collect::<Vec<_>>();
    stage.check("nobody leads", leads.is_empty(), &format!("leaders: {}", names(&leads)))
}

fn come_back(stage: &mut Stage) -> Told {
    stage.section("Without PreVote: the links are back");
    let highest = stage.terms().into_iter().max().unwrap_or_default();
    stage.act("all links are repaired", |cluster| cluster.network.mend());
    let leader = stage.lead(10_000)?;
    let term = stage.term(leader);
    let found = format!("{} leads term {term}; the highest was {highest}", name(leader));
    stage.check(
        "a majority answers, so there is a leader, in a term as high or higher",
        term >= highest,
        &found,
    )
}

/// Cuts off a follower and returns it.
fn cut_follower(stage: &mut Stage, leader: usize) -> usize {
    let alone = (leader + 1) % NODES;
    let what = format!("{} is cut off from the others, for two seconds", name(alone));
    stage.act(&what, |cluster| cluster.network.split(|node| node == alone));
    stage.run_for(2000);
    alone
}

fn disturb(stage: &mut Stage) -> Told {
    stage.section("Without PreVote: one node is cut off, and comes back");
    let leader = stage.lead(1000)?;
    let term = stage.term(leader);
    let alone = cut_follower(stage, leader);
    let risen = stage.term(alone);
    let found = format!(
        "{} still leads term {}, while {} is at term {risen}",
        name(leader),
        stage.term(leader),
        name(alone)
    );
    let led = stage.role(leader) == Some(RoleName::Leader) && stage.term(leader) == term;
    stage.check("two of three are a majority: they continue", led && risen > term.next(), &found)?;
    let mark = stage.past.len();
    stage.act(&format!("{}'s links are repaired", name(alone)), |cluster| cluster.network.mend());
    let steps_down = |happening: &Happening| {
        matches!(happening, Happening::Observed { node, observation: Observation::RoleChanged { role, .. } }
            if *node == leader && *role == RoleName::Follower)
    };
    stage.run_until(1000, |stage| stage.find(mark, steps_down).is_some());
    let deposed = stage.find(mark, steps_down).is_some();
    let found = format!("{} is at term {}", name(leader), stage.term(leader));
    stage.check("the higher term ends the rule of a leader that was well", deposed, &found)?;
    let next = stage.lead(10_000)?;
    let found = format!("{} leads term {}", name(next), stage.term(next));
    stage.check("an election more, in a term above all", stage.term(next) >= risen, &found)
}

fn with_pre_vote(stage: &mut Stage) -> Told {
    stage.begin("With PreVote: no majority can be reached", |_| ());
    stage.act("all links are cut", |cluster| {
        for node in 0..NODES {
            cluster.network.split(|other| other == node);
        }
    });
    stage.run_for(2500);
    for node in 0..NODES {
        let (term, count) = (stage.term(node), pre_votes(stage, 0, node));
        let found = format!("{} asked {count} times, and is at term {term}", name(node));
        stage.check("the term stays 1", count >= 3 && term == Term(1), &found)?;
    }
    stage.act("all links are repaired", |cluster| cluster.network.mend());
    let leader = stage.lead(10_000)?;
    let term = stage.term(leader);
    let found = format!("{} leads term {term}", name(leader));
    // Two that ask at the same moment may split a vote even so.
    stage.check("the first election with a majority begins low", term <= Term(4), &found)
}

fn stay_quiet(stage: &mut Stage) -> Told {
    stage.section("With PreVote: one node is cut off, and comes back");
    let leader = stage.lead(1000)?;
    let term = stage.term(leader);
    let mark = stage.past.len();
    let alone = cut_follower(stage, leader);
    let count = pre_votes(stage, mark, alone);
    let found = format!("{} asked {count} times, and is at term {}", name(alone), stage.term(alone));
    stage.check("its term does not rise", count >= 3 && stage.term(alone) == term, &found)?;
    let mark = stage.past.len();
    stage.act(&format!("{}'s links are repaired", name(alone)), |cluster| cluster.network.mend());
    let again = stage.lead(2000)?;
    stage.run_for(1000);
    let changes = elections(stage, mark, 0) + elections(stage, mark, 1) + elections(stage, mark, 2);
    let found = format!("{} leads term {}, {changes} elections since", name(again), stage.term(again));
    let same = again == leader && stage.term(leader) == term && changes == 0;
    stage.check("the leader stays, in its term", same, &found)
}
