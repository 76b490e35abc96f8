//! Placeholder until the server is wired.

use crate::config::Config;

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Not wired yet.
    #[error("`serve` is not wired yet")]
    NotWired,
}

impl ServerError {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        1
    }
}

/// Runs one node until it is told to stop.
///
/// # Errors
/// Always, until it is wired.
pub fn run(_config: Config) -> Result<(), ServerError> {
    Err(ServerError::NotWired)
}
