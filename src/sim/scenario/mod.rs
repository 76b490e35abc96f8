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

use stage::{NODES, Stage, Told};
use story::Story;

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
        self.tell_tampered(seed, |_| ())
    }

    fn tell_tampered(&self, seed: u64, tamper: stage::Tamper) -> Story {
        let Self { name, title, about, .. } = *self;
        let story = Story { scenario: name, seed, title, about, nodes: NODES, steps: Vec::new(), ok: true };
        let mut stage = Stage::new(story, tamper);
        // A check that does not hold has ended the story, and is its last step.
        let told = (self.play)(&mut stage).and_then(|()| stage.check_rules());
        stage.story.ok &= told.is_ok();
        stage.story
    }
}
