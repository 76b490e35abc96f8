//! `kuberaft chaos`: load on a real cluster while faults are injected, judged.

mod watch;

use clap::{Args, Subcommand};

use super::CliError;

/// The arguments of `chaos`.
#[derive(Clone, Debug, Args)]
pub(super) struct Chaos {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Put load on a cluster and judge it; faults come from elsewhere, in rounds marked over HTTP
    Watch(Box<watch::Watch>),
}

/// Does what it says.
pub(super) fn run(args: &Chaos) -> Result<(), CliError> {
    match &args.command {
        Command::Watch(args) => watch::run(args),
    }
}
