//! What users and files give as settings: names, addresses, durations, sizes, a TOML file.

use std::io::Write;
use std::str::FromStr;

use super::Config;
use super::units::{Size, Span};
use crate::fuzzing::Input;
use crate::types::{Address, ClusterId, Name, NodeId};

/// What is taken is shown as something that is taken for the same.
fn round_trip<T: FromStr + ToString + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let shown = value.to_string();
        let again = shown.parse::<T>();
        assert!(again.is_ok_and(|again| again == value), "{text:?} is shown as {shown:?}");
    }
}

/// A text as each kind of value, or a file of settings: taken or refused with a message.
pub(crate) fn settings(data: &[u8]) {
    let mut input = Input::new(data);
    if input.below(4) == 0 {
        return file(input.rest());
    }
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    round_trip::<Name>(text);
    round_trip::<Address>(text);
    round_trip::<Span>(text);
    round_trip::<Size>(text);
    round_trip::<NodeId>(text);
    round_trip::<ClusterId>(text);
    if let Err(error) = Config::load([format!("--initial-cluster={text}")], |_| None) {
        assert!(!error.to_string().is_empty());
    }
}

fn file(content: &[u8]) {
    let written = tempfile::NamedTempFile::new_in("/dev/shm").or_else(|_| tempfile::NamedTempFile::new());
    let Ok(mut file) = written else { return };
    if file.write_all(content).is_ok() {
        let path = file.path().display().to_string();
        if let Err(error) = Config::load(["--config".to_owned(), path], |_| None) {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// Inputs to begin with.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let texts = [
        "kuberaft-0",
        "[::1]:7000",
        "one/10.0.0.1:7001,two/two.example:7001",
        "1h",
        "1536KiB",
        "00000000000000ff",
    ];
    let mut samples: Vec<_> = texts.iter().map(|text| [&[1][..], text.as_bytes()].concat()).collect();
    let file = "name = \"one\"\nclient-addr = \"127.0.0.1:7000\"\nelection-timeout = \"300ms\"\nvalue-bytes-max = \"1MiB\"\npre-vote = true\n";
    samples.push([&[0][..], file.as_bytes()].concat());
    samples
}
