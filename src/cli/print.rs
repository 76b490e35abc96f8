//! Standard output. A reader that has gone away (`kuberaft … | head`) ends the printing, not the process.

use std::io::{self, Write};

use serde::Serialize;

/// Prints text as it is.
pub(super) fn text(text: &str) {
    bytes(text.as_bytes());
}

/// Prints one JSON document on one line.
pub(super) fn json(value: &impl Serialize) {
    let mut line = serde_json::to_vec(value).expect("what is printed has only string keys");
    line.push(b'\n');
    bytes(&line);
}

/// Prints bytes as they are.
pub(super) fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    // A reader that has gone wants no more, and there is nobody to tell.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}
