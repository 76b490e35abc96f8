//! Every scenario goes as told for many seeds, and fails when what it shows is not so.

use super::SCENARIOS;
use super::story::{Kind, Story};
use crate::plant::Planted;

fn failure(story: &Story) -> String {
    let last = story.steps.last().map(|step| step.text.clone()).unwrap_or_default();
    format!("{} seed {}: {last}", story.scenario, story.seed)
}

#[test]
fn every_story_holds_for_every_seed() {
    let mut failed = Vec::new();
    for scenario in SCENARIOS {
        for seed in 0..20 {
            let story = scenario.tell(seed);
            if !story.ok || story.steps.last().map(|step| step.kind) != Some(Kind::Check) {
                failed.push(failure(&story));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The check that ends a story which must not hold.
fn failed_check(name: &str, seed: u64, planted: Planted, tamper: super::stage::Tamper) -> String {
    let story = super::Scenario::find(name).unwrap().tell_tampered(seed, planted, tamper);
    let last = story.steps.last().unwrap();
    assert!(!story.ok && last.holds == Some(false), "{name}, seed {seed} holds: {}", last.text);
    last.text.clone()
}

#[test]
fn without_heartbeats_the_leader_does_not_stay() {
    for seed in 0..5 {
        failed_check("election-3", seed, Planted::NONE, |setup| setup.network.loss = 700);
    }
}

#[test]
fn without_check_quorum_a_leader_does_not_step_down() {
    for seed in 0..5 {
        let check = failed_check("election-4", seed, Planted::NONE, |setup| setup.raft.check_quorum = false);
        assert!(check.contains("the leader steps down"), "{check}");
    }
}

#[test]
fn without_pre_vote_the_term_rises() {
    for seed in 0..5 {
        let check = failed_check("election-1", seed, Planted::NONE, |setup| setup.raft.pre_vote = false);
        assert!(check.contains("the term stays 1"), "{check}");
    }
}

#[test]
fn an_assertion_in_a_node_ends_the_story() {
    let check =
        failed_check("election-1", 0, Planted::NONE, |setup| assert!(setup.raft.pre_vote, "so be it"));
    assert!(check.contains("no node asserts") && check.contains("so be it"), "{check}");
}

#[test]
fn another_seed_tells_the_same_story_at_other_times() {
    let checks = |story: &Story| story.steps.iter().filter(|step| step.kind == Kind::Check).count();
    for scenario in SCENARIOS {
        let (one, two) = (scenario.tell(1), scenario.tell(2));
        assert_eq!(checks(&one), checks(&two), "{}", scenario.name);
        let json = |story: &Story| serde_json::to_string(&story.steps).unwrap();
        assert_ne!(json(&one), json(&two), "{}", scenario.name);
        assert_eq!(json(&one), json(&scenario.tell(1)), "{}", scenario.name);
    }
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::*;
    use crate::plant::Plant;

    fn check(plant: Plant, name: &str, part: &str) {
        for seed in 0..5 {
            let check = failed_check(name, seed, Planted::new(plant), |_| ());
            assert!(check.contains(part), "{name}, seed {seed}, with {}: {check}", plant.name());
        }
    }

    #[test]
    fn a_refusal_that_counts_as_a_vote_makes_leaders_without_a_majority() {
        check(Plant::RefusalCountsAsVote, "election-1", "nobody leads");
    }

    #[test]
    fn a_vote_without_a_look_at_the_log_lets_the_laggard_win() {
        check(Plant::VoteWithoutLogCheck, "election-2", "its log is behind");
    }

    #[test]
    fn a_log_that_is_never_flushed_breaks_a_rule_in_each_election() {
        for name in ["election-1", "election-2", "election-3", "election-4"] {
            check(Plant::NoFlush, name, "acknowledged is durable broken");
        }
    }

    #[test]
    fn a_commit_without_a_majority_is_seen_in_all_three_replications() {
        for name in ["replicate-log-1", "replicate-log-2", "replicate-log-3"] {
            check(Plant::CommitWithoutQuorum, name, "majority");
        }
    }

    #[test]
    fn a_conflicting_entry_that_is_kept_is_seen() {
        check(Plant::KeepConflict, "replicate-log-3", "is not in the new leader's log");
    }
}
