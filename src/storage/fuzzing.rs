//! The fuzz targets of stored data.

pub(crate) use super::state::fuzzing::{blocks, samples as block_samples};
pub(crate) use super::wal::fuzzing::{log, samples as log_samples};
