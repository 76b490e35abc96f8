//! Every test that `docs/parity.md` names exists.

use std::fs;
use std::path::Path;

/// What is wrong with the words in backticks that name a test.
fn wrong(root: &Path, page: &str) -> Vec<String> {
    let is_there = |name: &str| match name.split_once("::") {
        Some((file, test)) => {
            let source = fs::read_to_string(root.join(file)).unwrap_or_default();
            source.contains(&format!("fn {test}("))
        }
        None if name.contains('/') => root.join(name).is_file(),
        None => root.join("src/raft/testscripts").join(name).is_file(),
    };
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| there"));
    let rows: Vec<&str> = rows.filter(|line| !line.starts_with("| ---")).collect();
    assert!(rows.len() > 50, "only {} rows", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        let named = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default().trim_matches('`');
        if !is_there(named) {
            wrong.push(format!("{named} of {row}"));
        }
    }
    wrong
}

#[test]
fn every_test_that_the_page_on_parity_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/parity.md")).unwrap();
    let wrong = wrong(root, &page);
    assert!(wrong.is_empty(), "docs/parity.md names tests that are not there:\n{}", wrong.join("\n"));
}
