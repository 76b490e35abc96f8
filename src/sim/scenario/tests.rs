//! Every scenario goes as told for many seeds, and fails when what it shows is not so.

use super::SCENARIOS;
use super::story::{Kind, Story};

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
