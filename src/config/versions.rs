//! The flag by which tests run programs of different feature levels.

use clap::Args;

use crate::types::FeatureLevel;

/// What a node may understand.
#[derive(Clone, Debug, Args)]
pub(super) struct VersionFlags {
    /// For tests of upgrades: the highest feature level that this node understands. Level 1 is only for them
    #[arg(long, value_name = "LEVEL", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1), hide = true)]
    feature_level: u64,
}

impl VersionFlags {
    pub(super) fn feature_level(&self) -> FeatureLevel {
        FeatureLevel(self.feature_level)
    }
}
