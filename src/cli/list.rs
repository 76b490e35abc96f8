//! Values that are lists: entries between commas, of which the last may be followed by one.

use std::fmt::Display;

/// The entries of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List<T>(pub(super) Vec<T>);

/// What parses a list of what `entry` parses.
pub(super) fn list<T, E: Display>(
    entry: fn(&str) -> Result<T, E>,
) -> impl Fn(&str) -> Result<List<T>, String> + Clone {
    move |text| {
        let entries = text.trim().trim_end_matches(',').split(',').map(|text| entry(text.trim()));
        entries.collect::<Result<_, _>>().map(List).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_may_end_with_a_comma() {
        let parse = list(str::parse::<u8>);
        assert_eq!(parse("1, 2,"), Ok(List(vec![1, 2])));
        assert_eq!(parse("3"), Ok(List(vec![3])));
        assert!(parse("1,,2").is_err() && parse(",1").is_err() && parse("").is_err());
    }
}
