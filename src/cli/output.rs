//! How results are shown.

use std::io::{IsTerminal, stdout};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, ValueEnum};
use serde::Serialize;

/// For people or for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people. `table`, too, as one variable of the environment is for all commands.
    #[default]
    #[value(alias = "table")]
    Text,
    /// One JSON document.
    Json,
}

/// The flag of what answers people first, on a terminal or not.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct AnswerFormat {
    /// Format of the answer: text or json
    #[arg(
        short,
        long,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        env = "KUBERAFT_OUTPUT",
        hide_env_values = true,
        hide_possible_values = true
    )]
    pub(super) output: Format,
}

/// The flag of what administers a cluster.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Output {
    /// Format of the answer: table or json [default: table on a terminal, otherwise json]
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        value_name = "FORMAT",
        env = "KUBERAFT_OUTPUT",
        hide_env_values = true,
        hide_possible_values = true
    )]
    layout: Option<Layout>,
}

/// For people or for programs, where there are many values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Layout {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// One JSON document.
    Json,
}

impl Output {
    /// What was asked for, or what suits where the answer goes.
    pub(super) fn layout(self) -> Layout {
        let suitable = if stdout().is_terminal() { Layout::Table } else { Layout::Json };
        self.layout.unwrap_or(suitable)
    }
}

/// Bytes in JSON: a string where they are UTF-8, else `{"base64": "…"}`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Text {
    Utf8(String),
    Other { base64: String },
}

impl Text {
    pub(super) fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Utf8(text.to_owned()),
            Err(_) => Self::Other { base64: BASE64_STANDARD.encode(bytes) },
        }
    }
}

/// A moment, as `2026-01-31 12:00:00 UTC` (days to dates: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub(super) fn utc(unix_ms: u64) -> String {
    let (days, seconds) = (unix_ms / 86_400_000, unix_ms / 1_000 % 86_400);
    // Days since 0000-03-01, in eras of 400 years.
    let (era, day_of_era) = ((days + 719_468) / 146_097, (days + 719_468) % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_as_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399_999), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_767_225_600_000), "2026-01-01 00:00:00 UTC");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_base64() {
        let json = |bytes: &[u8]| serde_json::to_string(&Text::new(bytes)).unwrap();
        assert_eq!(json("grün".as_bytes()), r#""grün""#);
        assert_eq!(json(&[0xff, 0]), r#"{"base64":"/wA="}"#);
    }
}
