//! Everything that a command prints. A reader of standard output that has gone away (`kuberaft … | head`) ends the
//! printing and not the command. Any other failure, such as a full disk, is an error of the command.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use super::CliError;

/// Writes a line to standard error. Nothing is left to be done if that fails.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::cli::print::to_stderr(format_args!($($text)*), true)
    };
}

/// Writes text without an end of line to standard error, such as progress.
macro_rules! note_part {
    ($($text:tt)*) => {
        $crate::cli::print::to_stderr(format_args!($($text)*), false)
    };
}

/// Prints text as it is.
pub(super) fn text(text: &str) -> Result<(), CliError> {
    bytes(text.as_bytes())
}

/// Prints one JSON document on one line.
pub(super) fn json(value: &impl Serialize) -> Result<(), CliError> {
    let mut line = serde_json::to_vec(value).expect("what is printed has only string keys");
    line.push(b'\n');
    bytes(&line)
}

/// Prints bytes as they are.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    reader_may_go(out.write_all(bytes).and_then(|()| out.flush()))
}

/// What became of writing to standard output: it is no failure that nobody reads it any more.
pub(super) fn reader_may_go(written: io::Result<()>) -> Result<(), CliError> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(CliError::Output),
    }
}

/// What the macros above do.
pub(super) fn to_stderr(text: std::fmt::Arguments<'_>, is_line: bool) {
    let mut line = text.to_string();
    if is_line {
        line.push('\n');
    }
    let _ = io::stderr().lock().write_all(line.as_bytes());
}
