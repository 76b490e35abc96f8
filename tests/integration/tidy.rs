//! The rules of `ARCHITECTURE.md` that a compiler does not check: who may import whom, which dependency
//! lives in which room, what is pure, and the shape of files. One test reads the whole source tree; the
//! others feed it bad snippets and see each of them found.

mod source;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use source::{Named, Source};

/// Files stay below this many lines, test code left out.
const LINES_MAX: usize = 600;

/// Who may import whom: downward only. A module may always import from itself; `*` is every row above.
const IMPORTS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("metrics", &[]),
    ("logging", &["metrics"]),
    ("supervision", &[]),
    ("plant", &[]),
    ("raft", &["plant", "types"]),
    ("kv", &["types"]),
    ("membership", &["raft", "types"]),
    ("storage", &["raft", "kv", "plant", "types"]),
    ("replica", &["storage", "membership", "raft", "kv", "plant", "types"]),
    ("sim", &["replica", "storage", "membership", "raft", "kv", "plant", "types"]),
    ("driver", &["replica", "storage", "membership", "raft", "kv", "types", "metrics", "supervision"]),
    ("tls", &["metrics"]),
    ("transport", &["replica", "raft", "membership", "tls", "types", "metrics", "supervision"]),
    ("api", &["driver", "membership", "kv", "tls", "types", "metrics", "supervision"]),
    ("k8s", &["driver", "membership", "kv", "types", "metrics", "supervision"]),
    ("chaos", &["api", "driver", "k8s", "membership", "sim", "kv", "types"]),
    ("config", &["*"]),
    ("server", &["*"]),
    ("cli", &["*"]),
    ("fuzzing", &["*"]),
];

/// One dependency, one room: the crates, and the modules that may name them.
const ROOMS: &[(&[&str], &[&str])] = &[
    (&["sled"], &["storage"]),
    (&["kube", "k8s_openapi"], &["k8s"]),
    (&["tonic", "tonic_prost", "prost"], &["transport", "api::grpc", "cli::bench"]),
    (&["axum"], &["api"]),
    // The command line is a client of the HTTP interface.
    (&["hyper", "http_body_util"], &["api", "cli"]),
    // A connection under TLS is handed to tonic in hyper's terms.
    (&["hyper_util"], &["api", "cli", "transport"]),
    (&["rustls", "tokio_rustls", "rustls_native_certs", "x509_parser"], &["tls"]),
    (&["p256", "rcgen", "ring", "subtle"], &["tls"]),
    (&["prometheus"], &["metrics"]),
    (&["crossbeam_channel"], &["driver"]),
    (&["rustix"], &["storage", "driver", "cli", "server"]),
];

/// What settings consist of, and `config` makes of flags.
const SETTINGS_VALUES: &[&str] = &["AllowedHost", "AdminAccess", "PeerSource", "SecretSource"];

/// Modules whose outcome depends on their input alone.
const PURE: &[&str] = &["raft", "kv", "membership"];

/// What a pure module may not name, test code left out.
const IMPURE: &[&str] = &[
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net",
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "tokio",
    "rand",
    "getrandom",
    // Their order of iteration differs from run to run.
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections::hash_map",
    "std::collections::hash_set",
];

/// The one file that may hold `unsafe`: it makes sled's flush a true one.
const UNSAFE_FILE: &str = "src/storage/sync_file_range.rs";

/// Rooms that know of planted bugs in their files of rules only, and the line by which such a file is chosen.
const RULED: &[&str] = &["src/raft/", "src/storage/"];
const CHOICE: &str = "#[cfg_attr(feature = \"planted-bugs\", path = \"rules/planted.rs\")]";

/// Names that say nothing about what a module is for.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "commons", "manager", "managers"];

#[derive(Debug)]
struct Violation {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

#[test]
fn the_source_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        read_folder(root, Path::new(folder), &mut files);
    }
    assert!(files.iter().any(|(path, _)| path == "src/lib.rs"), "no source below {}", root.display());
    let violations: Vec<String> = check(&files).iter().map(ToString::to_string).collect();
    assert!(
        violations.is_empty(),
        "{} places break the rules of ARCHITECTURE.md:\n{}",
        violations.len(),
        violations.join("\n")
    );
}

fn read_folder(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else { return };
    let mut entries: Vec<_> = entries.map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            read_folder(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(root.join(&path)).unwrap();
            files.push((path.to_str().unwrap().replace('\\', "/"), text));
        }
    }
}

/// All places in `files` (path and text of each) that break a rule.
fn check(files: &[(String, String)]) -> Vec<Violation> {
    let mut sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    mark_test_files(&mut sources);
    let handle = names_of_the_handle(&sources);
    let mut violations: Vec<Violation> = files.iter().flat_map(check_plants).collect();
    for source in &sources {
        let mut report = |line: usize, message: String| {
            violations.push(Violation { path: source.path.clone(), line, message });
        };
        check_shape(source, &mut report);
        if source.path.starts_with("src/") {
            check_unsafe(source, &mut report);
            let paths = source.paths();
            check_imports(source, &paths, &handle, &mut report);
            check_rooms(source, &paths, &mut report);
            check_purity(source, &paths, &mut report);
        }
    }
    violations
}

/// A file that only `#[cfg(test)] mod name;` brings in is test code from end to end.
fn mark_test_files(sources: &mut [Source]) {
    let mut test_modules: Vec<Vec<String>> = Vec::new();
    let test_files: Vec<String> = sources.iter().flat_map(|source| source.test_files.clone()).collect();
    for source in sources.iter() {
        for name in &source.test_modules {
            let mut module = source.module();
            module.push(name.clone());
            test_modules.push(module);
        }
    }
    for source in sources {
        let module = source.module();
        if !source.path.starts_with("src/")
            || test_files.contains(&source.path)
            || test_modules.iter().any(|test| module.starts_with(test))
        {
            source.mark_as_test();
        }
    }
}

/// What `driver` re-exports from its `handle`, the only part of it that `api` and `k8s` may use.
fn names_of_the_handle(sources: &[Source]) -> BTreeSet<String> {
    let driver = sources.iter().find(|source| source.module() == ["driver"]);
    let paths = driver.map(Source::paths).unwrap_or_default();
    paths
        .into_iter()
        .filter(|named| named.is_import)
        .filter_map(|named| {
            let at = named.segments.iter().position(|segment| segment == "handle")?;
            named.segments.get(at + 1).cloned()
        })
        .chain(["handle".to_owned()])
        .collect()
}

fn check_shape(source: &Source, report: &mut impl FnMut(usize, String)) {
    if !source.first_line.starts_with("//!") {
        report(1, "a module starts with `//!` and what it is for".to_owned());
    }
    let lines = source.lines_without_tests();
    if lines >= LINES_MAX {
        report(LINES_MAX, format!("{lines} lines without tests; a file stays below {LINES_MAX}, split it"));
    }
    let mut names: Vec<(String, usize)> =
        source.path.split(['/', '.']).map(|part| (part.to_owned(), 1)).collect();
    for pair in source.tokens.windows(2) {
        if pair[0].text == "mod" {
            names.push((pair[1].text.clone(), pair[1].line));
        }
    }
    for (name, line) in names {
        if EMPTY_NAMES.contains(&name.as_str()) {
            report(line, format!("`{name}` says nothing; name the module after what it is for"));
        }
    }
}

/// No bug is planted outside of the rules, not even a word of it in a comment.
fn check_plants((path, text): &(String, String)) -> Vec<Violation> {
    let is_rules = path.ends_with("/rules.rs") || path.contains("/rules/");
    if is_rules || !RULED.iter().any(|room| path.starts_with(room)) {
        return Vec::new();
    }
    let lines = text.lines().enumerate();
    let planted = lines.filter(|(_, line)| line.to_lowercase().contains("plant") && line.trim() != CHOICE);
    let message = "a bug is planted in a file of rules only (`rules.rs`)";
    planted
        .map(|(at, _)| Violation { path: path.clone(), line: at + 1, message: message.to_owned() })
        .collect()
}

fn check_unsafe(source: &Source, report: &mut impl FnMut(usize, String)) {
    if source.path != UNSAFE_FILE {
        for token in source.tokens.iter().filter(|token| token.text == "unsafe") {
            report(token.line, format!("`unsafe` is allowed in {UNSAFE_FILE} only"));
        }
    }
}

fn check_imports(
    source: &Source,
    paths: &[Named],
    handle: &BTreeSet<String>,
    report: &mut impl FnMut(usize, String),
) {
    let module = source.module();
    // The crate's root declares the modules; the binary stands above them all.
    let Some(importer) = module.first() else { return };
    if module.len() > 1 && module.last().is_some_and(|last| last == "fuzzing") {
        // Runs in tests and fuzz targets only, and makes input for the module that it is in.
        return;
    }
    let row_of = |module: &str| IMPORTS.iter().position(|(name, _)| *name == module);
    let Some(own_row) = row_of(importer) else {
        report(1, format!("module `{importer}` has no row in the table of imports"));
        return;
    };
    let allowed = IMPORTS[own_row].1;
    let whole: BTreeSet<&str> = paths
        .iter()
        .filter(|named| named.is_local && named.is_import && named.segments.len() == 1)
        .map(|named| named.segments[0].as_str())
        .collect();
    for named in paths {
        let through_import = named.segments.first().is_some_and(|first| whole.contains(first.as_str()));
        if !(named.is_local || through_import) {
            continue;
        }
        let spelled = named.segments.join("::");
        let Some(target) = named.segments.first().filter(|first| *first != "*") else {
            report(named.line, format!("`{importer}` imports the crate's root; name the module"));
            continue;
        };
        if target == importer {
            continue;
        }
        let Some(row) = row_of(target) else {
            report(named.line, format!("`{spelled}`: module `{target}` has no row in the table of imports"));
            continue;
        };
        if !(allowed.contains(&target.as_str()) || allowed == ["*"] && row < own_row) {
            let may = match allowed {
                [] => "nothing".to_owned(),
                ["*"] => "what is below it".to_owned(),
                names => names.join(", "),
            };
            report(named.line, format!("`{importer}` may import {may}; not `{spelled}`"));
        } else if let Some(rule) = part_not_allowed(importer, &named.segments, handle) {
            report(named.line, format!("{rule}; not `{spelled}`"));
        }
    }
}

/// The rule that `path` breaks, for importers that may use only a part of another module.
fn part_not_allowed(importer: &str, path: &[String], handle: &BTreeSet<String>) -> Option<String> {
    // A module alone is named so that what is taken from it is spelled out in place, and seen there.
    let (target, item) = (path.first()?, path.get(1)?);
    match importer {
        "api" | "k8s" if target == "driver" && !handle.contains(item) => {
            Some(format!("`{importer}` may use only what `driver` exports from its handle"))
        }
        "config" if target != "types" => {
            let is_settings = |segment: &String| {
                segment.ends_with("Settings")
                    || segment == "SettingsError"
                    || SETTINGS_VALUES.contains(&segment.as_str())
            };
            let rule = "`config` may import only each module's own settings (`…Settings`, `SettingsError`)";
            (!path.iter().any(is_settings)).then(|| rule.to_owned())
        }
        _ => None,
    }
}

fn check_rooms(source: &Source, paths: &[Named], report: &mut impl FnMut(usize, String)) {
    let module = source.module().join("::");
    for named in paths.iter().filter(|named| !named.is_local) {
        let Some(name) = named.segments.first() else { continue };
        if named.is_test && name == "rcgen" {
            // Tests of every room make certificates.
            continue;
        }
        let Some((_, rooms)) = ROOMS.iter().find(|(crates, _)| crates.contains(&name.as_str())) else {
            continue;
        };
        let is_inside = rooms.iter().any(|room| {
            module.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        if !is_inside {
            report(named.line, format!("one dependency, one room: `{name}` only in {}", rooms.join(", ")));
        }
    }
}

fn check_purity(source: &Source, paths: &[Named], report: &mut impl FnMut(usize, String)) {
    let module = source.module();
    let Some(pure) = module.first().filter(|first| PURE.contains(&first.as_str())) else { return };
    for named in paths.iter().filter(|named| !named.is_local && !named.is_test) {
        let spelled = named.segments.join("::");
        let is_below = |outer: &str, inner: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        // The whole of `std::time` or `std::collections`, or a glob of it, would hide what is taken from it.
        let hides = named.is_import
            && matches!(spelled.trim_end_matches("::*"), "std" | "std::time" | "std::collections");
        // An address alone is data.
        let is_data = spelled == "std::net::IpAddr";
        if hides || !is_data && IMPURE.iter().any(|impure| is_below(impure, &spelled)) {
            report(named.line, format!("`{pure}` is pure: no `{spelled}`"));
        }
    }
}

/// Checks one file and expects exactly these messages, each with its line.
#[track_caller]
fn expect(path: &str, text: &str, expected: &[&str]) {
    let driver = "//! Driver.\nmod handle;\nmod log;\npub use handle::{Handle, WriteError};\n";
    let files =
        [("src/driver/mod.rs".to_owned(), driver.to_owned()), (path.to_owned(), format!("//! Doc.\n{text}"))];
    let found: Vec<String> = check(&files)
        .iter()
        .map(|violation| violation.to_string().replacen(&format!("{path}:"), "", 1))
        .collect();
    assert_eq!(found, expected, "in {path}:\n{text}");
}

#[test]
fn an_import_upward_is_found_however_it_is_written() {
    let message = "`kv` may import types; not `server";
    for (text, rest) in [
        ("use crate::server::Server;", "::Server`"),
        ("use crate::{types::Term, server::{self, Server}};", "`"),
        ("use super::super::server::Server;", "::Server`"),
        ("fn f() { crate::server::run(); }", "::run`"),
        ("fn f() { super::super::server::run(); }", "::run`"),
        ("mod inner { use super::super::super::server::Server; }", "::Server`"),
        ("macro_rules! m { () => { $crate::server::run() } }", "::run`"),
        ("pub(crate) use crate::server as other;", "`"),
        ("fn f() -> Vec<crate::server::Server> { todo!() }", "::Server`"),
        ("#[cfg(test)] mod tests { use crate::server::Server; }", "::Server`"),
    ] {
        let files = [("src/kv/store.rs".to_owned(), format!("//! Doc.\n{text}"))];
        let found: Vec<String> = check(&files).iter().map(ToString::to_string).collect();
        let expected = format!("src/kv/store.rs:2: {message}{rest}");
        assert!(found.contains(&expected), "{text}\nfound {found:?}\nexpected {expected}");
    }
}

#[test]
fn imports_downward_and_within_pass() {
    expect("src/kv/store.rs", "use crate::types::Term;\nuse super::Answer;\nuse self::row::Row;", &[]);
    expect("src/storage/wal.rs", "use crate::raft::{self, Entry};\nfn f() { raft::f(); super::g(); }", &[]);
    expect("src/cli/mod.rs", "use crate::{config, server::Server, sim};", &[]);
    expect("src/main.rs", "fn main() { kuberaft::cli::run(); }", &[]);
    expect("src/raft/mod.rs", "mod log;\npub use log::Log;\n#[cfg(test)]\nmod tests { use super::*; }", &[]);
}

#[test]
fn a_table_without_the_module_and_the_whole_root_are_found() {
    expect("src/extra.rs", "", &["1: module `extra` has no row in the table of imports"]);
    expect("src/raft/log.rs", "use crate::*;", &["2: `raft` imports the crate's root; name the module"]);
    expect(
        "src/raft/log.rs",
        "use crate::extra::X;",
        &["2: `extra::X`: module `extra` has no row in the table of imports"],
    );
    expect(
        "src/server.rs",
        "use crate::cli::run;",
        &["2: `server` may import what is below it; not `cli::run`"],
    );
}

#[test]
fn the_api_takes_only_the_handle_of_the_driver() {
    let rule = "`api` may use only what `driver` exports from its handle";
    expect("src/api/kv.rs", "use crate::driver::{Handle, WriteError};", &[]);
    expect("src/api/kv.rs", "use crate::driver::handle::Handle;", &[]);
    expect("src/api/kv.rs", "use crate::driver::log::Log;", &[&format!("2: {rule}; not `driver::log::Log`")]);
    expect(
        "src/api/kv.rs",
        "use crate::driver;\nfn f(_: driver::Handle, _: driver::Queue) {}",
        &[&format!("3: {rule}; not `driver::Queue`")],
    );
    expect(
        "src/api/kv.rs",
        "use crate::raft::Entry;",
        &["2: `api` may import driver, membership, kv, tls, types, metrics, supervision; not `raft::Entry`"],
    );
}

#[test]
fn config_takes_only_settings() {
    expect("src/config.rs", "use crate::{raft, storage::WalSettings, types::NodeId};", &[]);
    expect("src/config.rs", "use crate::raft;\nfn f(_: raft::Settings, _: raft::SettingsError) {}", &[]);
    expect(
        "src/config.rs",
        "use crate::raft;\nfn f(_: raft::Entry) {}",
        &[
            "3: `config` may import only each module's own settings (`…Settings`, `SettingsError`); not `raft::Entry`",
        ],
    );
}

#[test]
fn a_dependency_outside_its_room_is_found() {
    expect("src/storage/state.rs", "use sled::Db;\nfn f() -> rustix::io::Result<()> { todo!() }", &[]);
    expect("src/api/grpc/kv.rs", "use tonic::Status;", &[]);
    expect("src/cli/bench/etcd.rs", "use tonic::transport::Channel;", &[]);
    expect("src/cli/bench.rs", "use ::tonic::transport::Channel;", &[]);
    for (path, text, name, rooms) in [
        ("src/kv/store.rs", "fn f() { let _ = sled::open(1); }", "sled", "storage"),
        ("src/server.rs", "use {sled as other};", "sled", "storage"),
        ("src/api/kv.rs", "use ::kube::Client;", "kube", "k8s"),
        ("src/api/kv.rs", "use tonic::Status;", "tonic", "transport, api::grpc, cli::bench"),
        ("src/cli/benches.rs", "use tonic::Status;", "tonic", "transport, api::grpc, cli::bench"),
        ("src/driver/mod.rs", "#[axum::debug_handler]\nfn f() {}", "axum", "api"),
        ("src/transport/peer.rs", "use hyper::Request;", "hyper", "api, cli"),
        ("src/storage/wal.rs", "use prometheus::IntGauge;", "prometheus", "metrics"),
        ("src/server.rs", "use crossbeam_channel::bounded;", "crossbeam_channel", "driver"),
        ("src/api/kv.rs", "use rustix::fs;", "rustix", "storage, driver, cli, server"),
    ] {
        expect(path, text, &[&format!("2: one dependency, one room: `{name}` only in {rooms}")]);
    }
}

#[test]
fn impure_code_in_a_pure_module_is_found() {
    for (text, spelled) in [
        ("use std::time::{Duration, Instant};", "std::time::Instant"),
        ("fn f() { std::time::SystemTime::now(); }", "std::time::SystemTime::now"),
        ("use std::time;", "std::time"),
        ("use std::collections::*;", "std::collections::*"),
        ("use std::collections::{BTreeMap, HashMap};", "std::collections::HashMap"),
        ("use std::net::SocketAddr;", "std::net::SocketAddr"),
        ("fn f() { std::thread::yield_now(); }", "std::thread::yield_now"),
        ("use tokio::sync::mpsc;", "tokio::sync::mpsc"),
        ("fn f() { getrandom::u64(); }", "getrandom::u64"),
    ] {
        expect("src/raft/log.rs", text, &[&format!("2: `raft` is pure: no `{spelled}`")]);
        expect("src/driver/core.rs", text, &[]);
    }
    expect("src/kv/store.rs", "use std::time::Duration;\nuse crate::types::Instant;", &[]);
    expect("src/kv/store.rs", "#[cfg(test)]\nmod tests {\n    use std::fs::File;\n}", &[]);
    expect(
        "src/kv/store.rs",
        "#[cfg(not(test))]\nuse std::fs::File;",
        &["3: `kv` is pure: no `std::fs::File`"],
    );
    expect(
        "src/kv/store.rs",
        "#[cfg(test)]\nfn f() {}\nuse std::fs::File;",
        &["4: `kv` is pure: no `std::fs::File`"],
    );
}

#[test]
fn comments_strings_and_characters_are_not_code() {
    let text = r##"
// use crate::server::Server;
/* use sled::Db; /* nested */ unsafe */
const A: &str = "use \" crate::server::Server";
const B: &str = r#"unsafe " sled::Db"#;
const C: char = '"'; const D: char = '\''; fn f<'a>(_: &'a str) {}
const E: &[u8] = b"unsafe"; const F: u8 = b'"';
"##;
    expect("src/kv/store.rs", text, &[]);
}

#[test]
fn a_module_without_its_opening_is_found() {
    let files = [("src/kv/store.rs".to_owned(), "// Store.\n".to_owned())];
    let found = check(&files);
    assert_eq!(found[0].to_string(), "src/kv/store.rs:1: a module starts with `//!` and what it is for");
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let code = "fn f() {}\n";
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", code.repeat(900));
    expect("src/kv/store.rs", &code.repeat(598), &[]);
    expect("src/kv/store.rs", &format!("{tests}{}", code.repeat(598)), &[]);
    expect(
        "src/kv/store.rs",
        &format!("{}{tests}", code.repeat(599)),
        &["600: 600 lines without tests; a file stays below 600, split it"],
    );
}

#[test]
fn a_file_of_tests_is_test_code() {
    let long = format!("//! Tests.\nuse std::fs;\n{}", "fn f() {}\n".repeat(900));
    let files = [
        ("src/kv/mod.rs".to_owned(), "//! Doc.\n#[cfg(test)]\nmod tests;\nmod store;\n".to_owned()),
        ("src/kv/tests.rs".to_owned(), long.clone()),
        ("src/kv/tests/more.rs".to_owned(), long.clone()),
        (
            "src/kv/store.rs".to_owned(),
            "//! Doc.\n#[cfg(test)]\n#[path = \"store_tests.rs\"]\nmod tests;\n".to_owned(),
        ),
        ("src/kv/store_tests.rs".to_owned(), long.clone()),
        ("tests/integration/kv.rs".to_owned(), long),
    ];
    assert!(check(&files).is_empty());
}

#[test]
fn unsafe_outside_its_file_is_found() {
    expect(UNSAFE_FILE, "#[unsafe(no_mangle)]\nfn f() { unsafe { g() } }", &[]);
    expect(
        "src/storage/wal.rs",
        "fn f() { unsafe { g() } }",
        &["2: `unsafe` is allowed in src/storage/sync_file_range.rs only"],
    );
    expect("src/lib.rs", "#![deny(unsafe_code)]", &[]);
}

#[test]
fn a_bug_planted_outside_of_the_rules_is_found() {
    let switch = "use crate::plant::Planted;\n// Planted here.";
    let message = "a bug is planted in a file of rules only (`rules.rs`)";
    for path in ["src/raft/log.rs", "src/storage/wal/mod.rs", "src/raft/testing/disk.rs"] {
        expect(path, switch, &[&format!("2: {message}"), &format!("3: {message}")]);
        expect(path, &format!("{CHOICE}\nmod rules;"), &[]);
    }
    for path in ["src/raft/rules.rs", "src/storage/wal/rules/planted.rs", "src/sim/run.rs"] {
        expect(path, switch, &[]);
    }
}

#[test]
fn a_module_whose_name_says_nothing_is_found() {
    let message = |name: &str| format!("`{name}` says nothing; name the module after what it is for");
    expect("src/kv/utils.rs", "", &[&format!("1: {}", message("utils"))]);
    expect("src/kv/helpers/mod.rs", "", &[&format!("1: {}", message("helpers"))]);
    expect("tests/integration/common.rs", "", &[&format!("1: {}", message("common"))]);
    expect("src/kv/store.rs", "mod manager {}", &[&format!("2: {}", message("manager"))]);
}
