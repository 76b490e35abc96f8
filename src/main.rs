//! The binary: parses arguments, calls one function.

use std::process::ExitCode;

fn main() -> ExitCode {
    kuberaft::cli::run()
}
