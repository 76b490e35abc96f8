//! `kuberaft serve`: reads the settings, sets up logging, hands over to the server.

use std::io::{self, IsTerminal};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tracing_subscriber::EnvFilter;

use super::CliError;
use crate::config::{Config, Log, LogFormat};
use crate::logging::{self, Lines};
use crate::server;

pub(super) fn run() -> Result<(), CliError> {
    // The command line has no flags before the command, so `serve`'s own begin behind it.
    let config = Config::load(std::env::args_os().skip(2), |name| std::env::var_os(name))?;
    if let Some(parent) = config.exit_with_parent {
        follow_parent(parent)?;
    }
    let lines = init_logging(&config.log)?;
    let done = server::run(&config, &lines);
    if let Err(error) = &done {
        // Through the queue of the log: a reader of standard error that is gone must not keep the process from ending.
        lines.push(format!("error: {error}\n").into_bytes());
    }
    let _ = lines.flush(FLUSH_TIMEOUT);
    done.map_err(|error| CliError::Reported(error.exit_code()))
}

/// Has the kernel kill this process when its parent ends. A crash is what every node is built for, so nothing is lost.
fn follow_parent(parent: u32) -> Result<(), CliError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| CliError::Failed(format!("cannot tie this process to its parent: {error}")))?;
    // The parent may have ended before the line above; then nobody would send the signal.
    let now = getppid().map(Pid::as_raw_nonzero).and_then(|pid| u32::try_from(pid.get()).ok());
    if now == Some(parent) {
        Ok(())
    } else {
        Err(CliError::Failed(format!("the parent, process {parent}, is gone")))
    }
}

/// Libraries whose errors this program reports itself, unless --log-level names them.
const OWN_ERRORS_ONLY: &str = "kube_client=off";

/// Longest wait for the log's reader when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

fn init_logging(log: &Log) -> Result<Lines, CliError> {
    // Checked with the other settings, so the fallback is never met.
    let filter = format!("{OWN_ERRORS_ONLY},{}", log.level);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = Lines::start(io::stderr())
        .map_err(|error| CliError::Failed(format!("cannot start the thread of the log: {error}")))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines.clone());
    // Colours are for people; in a file they are noise.
    let subscriber = subscriber.with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    logging::log_panics();
    Ok(lines)
}
