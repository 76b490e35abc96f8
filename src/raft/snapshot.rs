//! What the core knows of a snapshot: its position in the log. Its content never passes through here.

use std::sync::Arc;

use super::Configuration;
use crate::types::{LogIndex, LogPosition, LogTime};

/// The state after one entry (paper, 7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry whose effect it holds.
    pub position: LogPosition,
    /// The log's clock at that entry.
    pub time: LogTime,
    /// The newest configuration at or below that entry.
    pub configuration: Arc<Configuration>,
    /// Index of that configuration's entry; 0 if there is none.
    pub configuration_index: LogIndex,
}
