//! The command line: one file a command. The only part of the crate that prints.

#[macro_use]
mod print;

mod bench;
mod chaos;
mod client;
mod debug;
mod dev;
mod endpoints;
mod file;
mod keys;
mod list;
mod member;
mod output;
mod place;
mod plant;
mod recover;
mod scenario;
mod serve;
mod sim;
mod snapshot;
mod status;

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{ConfigError, Flags};
use crate::server::{RefoundError, ServerError};
use crate::storage::StorageError;

/// A key-value store replicated by Raft
#[derive(Debug, Parser)]
#[command(name = "kuberaft", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 usage, 3 data damaged, 4 disk failed, 5 identity refused";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node
    Serve(Box<Flags>),
    /// Run a cluster on this machine, for trying and developing
    Dev(Box<dev::Dev>),
    /// Set a key
    Put(Box<keys::Put>),
    /// Print what a key holds
    Get(Box<keys::Get>),
    /// Delete a key
    Del(Box<keys::Del>),
    /// Show the state of the nodes
    Status(Box<status::Status>),
    /// Show and change the members of the cluster
    #[command(subcommand)]
    Member(Box<member::Member>),
    /// Have another member lead
    TransferLeader(Box<member::TransferLeader>),
    /// Save the state to a file, look at such a file, make a new cluster of it
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Make a new cluster of the one node that is left after a majority was lost
    Recover(recover::Recover),
    /// Put load on a cluster and measure it
    Bench(Box<bench::Args>),
    /// Put load on a cluster while faults are injected, and judge what its clients saw
    Chaos(Box<chaos::Chaos>),
    /// Search the deterministic simulator for seeds that break a rule
    Sim(Box<sim::Sim>),
    /// Play one of the scripted scenarios of Raft, told step by step
    Scenario(Box<scenario::Arguments>),
    /// Look into a data directory without changing it
    #[command(subcommand)]
    Debug(debug::Debug),
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
    /// It was asked in a way that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It was refused: what is there belongs to others.
    #[error("{0}")]
    Refused(String),
    /// A data directory cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The settings of a node are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A cluster could not be made of what there is.
    #[error(transparent)]
    Refound(#[from] RefoundError),
    /// A node ended with an error.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A node ended with this exit code, and its log says why.
    #[error("a node ended with exit code {0}")]
    Reported(u8),
    /// The result could not be printed.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Output(_) => 1,
            Self::Reported(code) => *code,
            Self::Usage(_) | Self::Config(_) => 2,
            Self::Refused(_) => 5,
            Self::Storage(error) => error.exit_code(),
            Self::Refound(error) => error.exit_code(),
            Self::Server(error) => error.exit_code(),
        }
    }
}

/// Does what the process's arguments ask for and returns its exit code. Prints errors to standard error.
#[must_use]
pub fn run() -> ExitCode {
    let command = without_empty_variables(Cli::command(), &|name| std::env::var_os(name));
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error),
    };
    let done = match cli.command {
        Command::Serve(_) => serve::run(),
        Command::Dev(args) => dev::run(&args),
        Command::Put(args) => keys::put(*args),
        Command::Get(args) => keys::get(*args),
        Command::Del(args) => keys::del(*args),
        Command::Status(args) => status::run(&args),
        Command::Member(args) => member::run(*args),
        Command::TransferLeader(args) => member::transfer(&args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Chaos(args) => chaos::run(&args),
        Command::Sim(args) => sim::sim(&args),
        Command::Scenario(args) => scenario::run(&args),
        Command::Debug(debug) => debug::run(&debug),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Config(ConfigError::Flags(error))) => report_usage(&error),
        Err(error) => {
            if !matches!(error, CliError::Reported(_)) {
                note!("error: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// An empty variable of the environment counts as one that is not set, for every flag of every command.
fn without_empty_variables(
    command: clap::Command,
    value: &dyn Fn(&OsStr) -> Option<OsString>,
) -> clap::Command {
    let command = command.mut_args(|argument| {
        let is_empty =
            argument.get_env().is_some_and(|name| value(name).is_some_and(|value| value.is_empty()));
        if is_empty { argument.env(None) } else { argument }
    });
    command.mut_subcommands(|command| without_empty_variables(command, value))
}

/// Prints what clap says, be it an error or the help that was asked for.
fn report_usage(error: &clap::Error) -> ExitCode {
    // The text of a mistake is lost if it cannot be printed, and its exit code is not.
    match print::reader_may_go(error.print()) {
        Err(failure) if !error.use_stderr() => {
            note!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_a_user_sets_once_can_be_set_by_the_environment() {
        let variable = |path: &[&str], flag: &str| {
            let mut command = Cli::command();
            for name in path {
                command = command.find_subcommand(name).unwrap().clone();
            }
            let argument =
                command.get_arguments().find(|argument| argument.get_long() == Some(flag)).cloned();
            argument.unwrap().get_env().map(|name| name.to_str().unwrap().to_owned())
        };
        let commands: [&[&str]; 9] = [
            &["put"],
            &["get"],
            &["del"],
            &["status"],
            &["member", "list"],
            &["member", "add"],
            &["transfer-leader"],
            &["snapshot", "inspect"],
            &["recover"],
        ];
        for path in commands {
            assert_eq!(variable(path, "output").as_deref(), Some("KUBERAFT_OUTPUT"), "{path:?}");
            if !["snapshot", "recover"].contains(&path[0]) {
                assert_eq!(variable(path, "timeout").as_deref(), Some("KUBERAFT_TIMEOUT"), "{path:?}");
                assert_eq!(variable(path, "endpoints").as_deref(), Some("KUBERAFT_ENDPOINTS"), "{path:?}");
            }
        }
        // One value is right for all of them.
        for line in ["kuberaft get a -o table", "kuberaft member list -o text"] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn an_empty_variable_of_any_flag_counts_as_unset() {
        fn check(command: &clap::Command, count: &mut usize) {
            for argument in command.get_arguments() {
                assert_eq!(argument.get_env(), None, "{} of {}", argument.get_id(), command.get_name());
                *count += 1;
            }
            command.get_subcommands().for_each(|command| check(command, count));
        }
        let mut count = 0;
        check(&without_empty_variables(Cli::command(), &|_| Some(OsString::new())), &mut count);
        assert!(count > 100, "{count}");
        let kept = without_empty_variables(Cli::command(), &|_| Some("x".into()));
        let get = kept.find_subcommand("get").unwrap();
        assert!(get.get_arguments().any(|argument| argument.get_env().is_some()));
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_older_start_command_is_understood() {
        let line = "kuberaft serve --http_addr=127.0.0.1:7001 --raft_addr=127.0.0.1:7000 --raft_id=1 \
                    --raft_cluster=1/127.0.0.1:7000,2/127.0.0.1:8000,3/127.0.0.1:9000";
        assert!(matches!(parse(line).unwrap().command, Command::Serve(_)));
    }

    #[test]
    fn wrong_usage_says_what_is_wrong() {
        let check = |line: &str, part: &str| {
            let error = parse(line).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(part), "{line}: {error}");
        };
        check("kuberaft", "Usage: kuberaft <COMMAND>");
        check("kuberaft sreve", "unrecognized subcommand 'sreve'");
        check("kuberaft serve --nmae 1", "a similar argument exists: '--name'");
        check("kuberaft put a", "<VALUE>");
        check("kuberaft put a b --if-absent --if-revision 1", "cannot be used with");
        check("kuberaft get a --consistency perhaps", "invalid value 'perhaps'");
        check("kuberaft get a --endpoints nowhere", "expected host:port");
        check("kuberaft get a --timeout 5", "a duration is a whole number and a unit");
        check("kuberaft status -o xml", "[possible values: table, json]");
        check("kuberaft status --statefulset kv", "--wait");
        check("kuberaft snapshot save", "<FILE>");
        check("kuberaft snapshot save a --dir b", "cannot be used with");
        check("kuberaft snapshot save a --keep 3", "cannot be used with");
        check("kuberaft snapshot save --keep 3", "--dir <DIR>");
        check("kuberaft snapshot save --dir a --keep 0", "0 is not in 1..");
        check("kuberaft dev --nodes 8", "8 is not in 1..=7");
        check("kuberaft bench --clients 0", "0 is not in 1..");
        check("kuberaft bench --rate 0", "above zero");
        check("kuberaft bench --read-percent 101", "101 is not in 0..=100");
        check("kuberaft debug verify", "<DIR>");
        check("kuberaft chaos watch --pods kv", "--headless <HOST>");
        check("kuberaft chaos watch --endpoints a=b", "expected host:port");
        let possible = crate::plant::Planted::POSSIBLE;
        let unknown = if possible { "the bugs are vote-not-persisted" } else { "--features planted-bugs" };
        check("kuberaft scenario election-1 --plant no-such-bug", unknown);
        check("kuberaft sim --plant no-such-bug", unknown);
        check("kuberaft member add a", "--id <ID>");
        check("kuberaft member add a --id 12", "expected 16 hex digits");
        check("kuberaft member remove", "<MEMBER>");
        check("kuberaft recover --data-dir d --adopt", "--kube-namespace <NAME>");
        check("kuberaft recover --data-dir d --kube-namespace n", "--kube-statefulset <NAME>");
        check("kuberaft member list -o xml", "[possible values: table, json]");
    }

    #[test]
    fn every_cause_has_its_exit_code() {
        use crate::storage::Damage;
        let damage = Damage { path: "wal".into(), offset: None, index: None, what: "odd".to_owned() };
        assert_eq!(CliError::Failed(String::new()).exit_code(), 1);
        assert_eq!(CliError::Usage(String::new()).exit_code(), 2);
        assert_eq!(CliError::Refused(String::new()).exit_code(), 5);
        assert_eq!(CliError::from(StorageError::Damaged(damage)).exit_code(), 3);
        assert_eq!(CliError::from(StorageError::Poisoned).exit_code(), 4);
        assert_eq!(CliError::from(RefoundError::from(StorageError::Poisoned)).exit_code(), 4);
        assert_eq!(CliError::from(ServerError::from(StorageError::Poisoned)).exit_code(), 4);
        assert_eq!(CliError::Reported(5).exit_code(), 5);
        assert_eq!(CliError::Output(io::ErrorKind::BrokenPipe.into()).exit_code(), 1);
    }
}
