//! The table of Events in `docs/kubernetes.md` lists what the program publishes, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Other words of the same shape in the same files: Kubernetes' own.
const NO_REASONS: &[&str] = &[
    "ConfigMap",
    "EndpointSlice",
    "NotFound",
    "PodList",
    "ServiceUnavailable",
    "StatefulSet",
    "StatefulSetList",
    "TooManyRequests",
];

/// `LeaderElected`: two words or more, each with a capital.
fn is_reason(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.chars().filter(char::is_ascii_uppercase).count() > 1
        && word.chars().all(|letter| letter.is_ascii_alphabetic())
        && word.chars().any(|letter| letter.is_ascii_lowercase())
}

/// The reasons between marks of this kind.
fn marked(text: &str, mark: char) -> impl Iterator<Item = String> + '_ {
    text.split(mark).skip(1).step_by(2).filter(|word| is_reason(word)).map(str::to_owned)
}

fn published(root: &Path) -> BTreeSet<String> {
    let mut reasons = BTreeSet::new();
    for room in ["src/server", "src/k8s"] {
        for file in fs::read_dir(root.join(room)).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            reasons.extend(code.lines().flat_map(|line| marked(line, '"').collect::<Vec<_>>()));
        }
    }
    reasons.retain(|word| !NO_REASONS.contains(&word.as_str()));
    reasons
}

#[test]
fn the_page_lists_every_event() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/kubernetes.md")).unwrap();
    let section = page.split("\n## Events\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let listed: BTreeSet<String> =
        rows.flat_map(|row| marked(&format!("`{row}"), '`').collect::<Vec<_>>()).collect();
    let published = published(root);
    assert!(published.len() > 10, "{published:?}");
    let missing: Vec<_> = published.difference(&listed).collect();
    let extra: Vec<_> = listed.difference(&published).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "docs/kubernetes.md lacks {missing:?} and should not have {extra:?}"
    );
}
