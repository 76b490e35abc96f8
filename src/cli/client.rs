//! What the client commands have in common: whom they ask, for how long, and how they put failures.

use std::future::Future;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use super::CliError;
use super::endpoints::Endpoints;
use crate::api;
use crate::api::client::ClientError;
use crate::api::cluster::Cluster;
use crate::config::Span;
use crate::raft::Outcome;

/// The flags that client commands share.
#[derive(Clone, Debug, Args)]
pub(super) struct ClientFlags {
    #[command(flatten)]
    pub(super) endpoints: Endpoints,

    /// Longest time to wait for the cluster
    #[arg(
        long,
        value_name = "DURATION",
        env = "KUBERAFT_TIMEOUT",
        hide_env_values = true,
        default_value = "5s"
    )]
    pub(super) timeout: Span,
}

/// How reads are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Consistency {
    /// Sees every write that was acknowledged before.
    #[default]
    Linearizable,
    /// Whatever the asked node holds.
    Stale,
}

impl Consistency {
    /// As written on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Stale => "stale",
        }
    }
}

impl From<Consistency> for api::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Linearizable => Self::Linearizable,
            Consistency::Stale => Self::Stale,
        }
    }
}

impl ClientFlags {
    /// A client of the whole cluster.
    pub(super) fn cluster(&self) -> Result<Cluster, CliError> {
        check_timeout(self.timeout.0)?;
        let endpoints = self.endpoints.all();
        let cluster = Cluster::new(endpoints.iter().map(ToString::to_string), self.timeout.0)
            .map_err(|error| CliError::Usage(error.to_string()))?;
        let cluster = match self.endpoints.token()? {
            Some(token) => cluster.with_token(token),
            None => cluster,
        };
        Ok(match self.endpoints.connector()? {
            Some(tls) => cluster.with_tls(tls),
            None => cluster,
        })
    }

    /// A request's failure, as told to people.
    pub(super) fn explain(&self, error: &ClientError) -> CliError {
        match error {
            ClientError::Connect { .. } => CliError::Failed(format!(
                "no node answers at {} ({error}); give others with --endpoints, or start a cluster with \
                     `kuberaft dev`",
                self.endpoints.names()
            )),
            _ => CliError::Failed(error.to_string()),
        }
    }

    /// A write's failure, as told to people: also whether it may have been applied.
    pub(super) fn explain_write(&self, error: &ClientError) -> CliError {
        match (self.explain(error), error.outcome()) {
            (CliError::Failed(message), Outcome::Unknown) => CliError::Failed(format!(
                "{message}; the write may have been applied or may yet be: read the key to find out"
            )),
            (explained, _) => explained,
        }
    }
}

fn check_timeout(timeout: Duration) -> Result<(), CliError> {
    if timeout.is_zero() {
        return Err(CliError::Usage("--timeout must be above zero".to_owned()));
    }
    Ok(())
}

/// Runs a command's requests on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::Failed(format!("cannot start a runtime: {error}")))?.block_on(work)
}

/// The same work, cancelled on SIGINT or SIGTERM, so that what it holds is dropped and cleans up. Also in a container,
/// where the first process ends by no signal that it does not listen to.
pub(super) async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let listen =
        |kind| signal(kind).map_err(|error| CliError::Failed(format!("cannot listen for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let signal = tokio::select! {
        done = work => return done,
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    Err(CliError::Failed(format!("interrupted by {signal}")))
}
