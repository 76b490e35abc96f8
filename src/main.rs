//! The binary: parses arguments, calls one function.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// The choice is explained in `docs/performance.md`, section "The allocator".
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    kuberaft::cli::run()
}
