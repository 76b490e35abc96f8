//! Every environment variable that the chart sets is a flag of the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The variables of the flags that a command's help shows.
fn variables(command: &str) -> BTreeSet<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_kuberaft")).args([command, "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split(|byte: char| !byte.is_ascii_alphanumeric() && !"-_".contains(byte));
    let flags = words.filter_map(|word| word.strip_prefix("--"));
    flags.map(|flag| format!("KUBERAFT_{}", flag.replace('-', "_").to_uppercase())).collect()
}

/// Words that begin with `KUBERAFT_`, each with the template that it is in.
fn set_by_templates() -> BTreeSet<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/kuberaft/templates");
    let files =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut found = BTreeSet::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let words = text.split(|byte: char| !byte.is_ascii_alphanumeric() && byte != '_');
        for word in words.filter(|word| word.starts_with("KUBERAFT_")) {
            found.insert((word.to_owned(), path.file_name().unwrap().to_string_lossy().into_owned()));
        }
    }
    found
}

#[test]
fn every_variable_that_the_chart_sets_is_a_flag() {
    let known: BTreeSet<String> = variables("serve").union(&variables("status")).cloned().collect();
    let set = set_by_templates();
    assert!(set.len() > 15, "only {} variables", set.len());
    let unknown: Vec<_> = set.into_iter().filter(|(name, _)| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "the chart sets what no flag reads: {unknown:?}");
}
