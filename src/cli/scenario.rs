//! `kuberaft scenario`: plays a scripted simulation and tells it.

use std::fmt::Write;

use clap::Args;

use super::CliError;
use super::output::Format;
use super::plant::parse_plant;
use super::print;
use crate::plant::{Plant, Planted};
use crate::sim::scenario::story::{Kind, NodeState, Step, Story};
use crate::sim::scenario::{SCENARIOS, Scenario};

/// Columns of the output.
const COLUMNS: usize = 100;
/// Columns before a step's text.
const MARGIN: usize = 17;

/// Arguments of `kuberaft scenario`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which scenario
    #[arg(value_name = "NAME", required_unless_present = "list", conflicts_with = "list")]
    name: Option<String>,
    /// Print the names of all scenarios
    #[arg(long)]
    list: bool,
    /// Other seeds give other times and winners, and the same story
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Plant a bug in all nodes, to see the story fail; needs a program built with `--features planted-bugs`
    #[arg(long, value_name = "BUG", value_parser = parse_plant, conflicts_with = "list")]
    plant: Option<Plant>,
    /// For people, or one JSON document with every message
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Plays a scenario, or lists all.
pub(super) fn run(args: &Arguments) -> Result<(), CliError> {
    let Some(name) = args.name.as_deref().filter(|_| !args.list) else {
        return match args.output {
            Format::Text => print::text(&list()),
            Format::Json => {
                let entry = |scenario: &&Scenario| serde_json::json!({"name": scenario.name, "title": scenario.title, "about": scenario.about});
                print::json(&SCENARIOS.iter().map(entry).collect::<Vec<_>>())
            }
        };
    };
    let Some(scenario) = Scenario::find(name) else {
        return Err(CliError::Usage(format!(
            "there is no scenario '{name}'; there are\n{}",
            list().trim_end()
        )));
    };
    let story = scenario.tell_planted(args.seed, args.plant.map(Planted::new).unwrap_or_default());
    let printed = match args.output {
        Format::Text => print::text(&told(&story)),
        Format::Json => print::json(&story),
    };
    if story.ok {
        return printed;
    }
    Err(CliError::Failed(format!("{}: {}", heading(&story), failed_step(&story))))
}

fn heading(story: &Story) -> String {
    let planted = story.planted.map(|bug| format!(", with {bug} planted")).unwrap_or_default();
    format!("{}, seed {}{planted}", story.scenario, story.seed)
}

/// The check that ended a story, and where it stands.
fn failed_step(story: &Story) -> String {
    let (mut section, mut number) = ("", 0);
    for step in &story.steps {
        match step.kind {
            Kind::Section => (section, number) = (&step.text, 0),
            _ => number += u32::from(!step.detail),
        }
    }
    let text = story.steps.last().map_or("", |step| &step.text);
    format!("step {number} of \"{section}\" does not hold: {text}")
}

fn list() -> String {
    SCENARIOS.iter().fold(String::new(), |mut list, scenario| {
        let _ = writeln!(list, "{:<16} {}", scenario.name, scenario.title);
        list
    })
}

fn told(story: &Story) -> String {
    let mut out = heading(story) + "\n";
    wrap(&mut out, "", story.title);
    out.push('\n');
    wrap(&mut out, "", story.about);
    let mut number = 0;
    for (at, step) in story.steps.iter().enumerate() {
        if step.kind == Kind::Section {
            number = 0;
            out.push('\n');
            out.push_str(&step.text);
            out.push('\n');
            continue;
        }
        if step.detail {
            continue;
        }
        number += 1;
        show(&mut out, number, step);
        let next = story.steps.get(at + 1);
        if next.is_none_or(|next| next.kind == Kind::Section) {
            table(&mut out, &step.state);
        }
    }
    let checks = story.steps.iter().filter(|step| step.kind == Kind::Check).count();
    let verdict = if story.ok { "all held" } else { "the last one did not hold" };
    let _ = writeln!(out, "\n{checks} checks, {verdict}.");
    out
}

fn show(out: &mut String, number: usize, step: &Step) {
    let mut margin = format!("{number:>3}  {:>8.2}  ", step.at_ms);
    margin.push_str(match (step.kind, step.holds) {
        (Kind::Check, Some(true)) => "✓ ",
        (Kind::Check, _) => "✗ ",
        (Kind::Act, _) => "* ",
        _ => "  ",
    });
    wrap(out, &margin, &step.text);
}

/// Text in lines, the first one behind `margin`, the others below it.
fn wrap(out: &mut String, margin: &str, text: &str) {
    out.push_str(margin);
    let indent = if margin.is_empty() { 0 } else { MARGIN };
    let mut column = margin.chars().count();
    let mut is_first = true;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if !is_first && column + 1 + width > COLUMNS {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if !is_first {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
        is_first = false;
    }
    out.push('\n');
}

fn table(out: &mut String, state: &[NodeState]) {
    let indent = " ".repeat(MARGIN);
    let _ = writeln!(out, "\n{indent}node  role           term  last entry  committed  applied");
    for NodeState { node, role, term, last, commit, applied } in state {
        let role = role.replace('_', "-");
        let _ = if role == "down" {
            writeln!(out, "{indent}n{node:<4} down")
        } else {
            writeln!(out, "{indent}n{node:<4} {role:<13} {term:>5} {last:>11} {commit:>10} {applied:>8}")
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_fits_a_terminal_and_says_how_it_ended() {
        for scenario in SCENARIOS {
            let mut story = scenario.tell(3);
            let text = told(&story);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(COLUMNS), "{}: {widest:?} columns", scenario.name);
            assert!(text.ends_with("checks, all held.\n"), "{text}");
            story.ok = false;
            assert!(told(&story).ends_with("the last one did not hold.\n"));
        }
        assert!(list().lines().all(|line| line.chars().count() <= COLUMNS));
    }

    fn arguments(name: &str) -> Arguments {
        Arguments { name: Some(name.to_owned()), list: false, seed: 1, plant: None, output: Format::Text }
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn a_planted_bug_fails_the_story_and_the_failed_step_is_named() {
        let args = Arguments { plant: Some(Plant::VoteWithoutLogCheck), ..arguments("election-2") };
        let error = run(&args).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let start = "election-2, seed 1, with vote-without-log-check planted: step ";
        let section = "of \"2. The leader dies: who may follow?\" does not hold: expected: ";
        let text = error.to_string();
        assert!(text.starts_with(start) && text.contains(section) && text.contains("is refused"), "{text}");
        // A bug that the story does not touch changes nothing.
        run(&Arguments { plant: Some(Plant::ForwardTwice), ..args }).unwrap();
    }

    #[test]
    fn an_unknown_name_is_a_usage_error_that_lists_the_known_ones() {
        let error = run(&arguments("election-9")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("replicate-log-3"), "{error}");
    }
}
