//! `kuberaft chaos`: load on a real cluster while faults are injected, judged.

mod dev;
mod faults;
mod health;
mod relays;
mod report;
mod run;
mod statefulset;
mod strike;
mod target;
mod under_tls;
mod watch;

use clap::{Args, Subcommand};

use super::CliError;

/// The arguments of `chaos`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Chaos {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    strike: strike::Arguments,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Put load on a cluster and judge it; faults come from elsewhere, in rounds marked over HTTP
    Watch(Box<watch::Watch>),
}

/// Does what it says.
pub(super) fn run(args: &Chaos) -> Result<(), CliError> {
    match &args.command {
        Some(Command::Watch(args)) => watch::run(args),
        None => strike::run(&args.strike),
    }
}
