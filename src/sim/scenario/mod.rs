//! Scenarios: scripted runs of the real code, told step by step in plain words, every step checked.

mod election_1;
mod election_2;
mod election_3;
mod election_4;
mod narrator;
mod replicate_log_1;
mod replicate_log_2;
mod replicate_log_3;
mod stage;
pub mod story;
mod words;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use stage::{NODES, Stage, Told};
use story::Story;

use super::run::panic_message;
use crate::plant::{Plant, Planted};

/// A scenario that can be told.
pub struct Scenario {
    /// As given on the command line.
    pub name: &'static str,
    /// What it shows, in a line.
    pub title: &'static str,
    /// What it shows, and why.
    pub about: &'static str,
    play: fn(&mut Stage) -> Told,
}

/// All scenarios: elections first, then replication.
pub const SCENARIOS: [&Scenario; 7] = [
    &election_1::SCENARIO,
    &election_2::SCENARIO,
    &election_3::SCENARIO,
    &election_4::SCENARIO,
    &replicate_log_1::SCENARIO,
    &replicate_log_2::SCENARIO,
    &replicate_log_3::SCENARIO,
];

impl Scenario {
    /// The scenario of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().copied().find(|scenario| scenario.name == name)
    }

    /// Plays it. The seed decides over times and winners, not over the story.
    #[must_use]
    pub fn tell(&self, seed: u64) -> Story {
        self.tell_planted(seed, Planted::NONE)
    }

    /// Plays it with a bug in all nodes: what the story shows may not be so then.
    #[must_use]
    pub fn tell_planted(&self, seed: u64, planted: Planted) -> Story {
        self.tell_tampered(seed, planted, |_| ())
    }

    fn tell_tampered(&self, seed: u64, planted: Planted, tamper: stage::Tamper) -> Story {
        let Self { name, title, about, .. } = *self;
        let bug = planted.get().map(Plant::name);
        let story = Story {
            scenario: name,
            seed,
            planted: bug,
            title,
            about,
            nodes: NODES,
            steps: Vec::new(),
            ok: true,
        };
        let mut stage = Stage::new(story, planted, tamper);
        // A check that does not hold has ended the story, and is its last step.
        let play = || (self.play)(&mut stage).and_then(|()| stage.check_rules());
        let told = catch_unwind(AssertUnwindSafe(play)).unwrap_or_else(|panic| {
            stage.check("no node asserts against its state", false, &panic_message(&*panic))
        });
        stage.story.ok &= told.is_ok();
        stage.story
    }
}
