//! Naming a planted bug on the command line.

use crate::plant::{Plant, Planted};

/// The bug of this name, if this program can plant it.
pub(super) fn parse_plant(text: &str) -> Result<Plant, String> {
    if !Planted::POSSIBLE {
        let build = "cargo build --release --features planted-bugs";
        return Err(format!("this program cannot plant bugs; build one that can: {build}"));
    }
    Plant::named(text).ok_or_else(|| {
        let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
        format!("the bugs are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bugs_need_a_program_that_can() {
        let parsed = parse_plant("no-flush");
        if Planted::POSSIBLE {
            assert_eq!(parsed, Ok(Plant::NoFlush));
            assert!(parse_plant("no-such-bug").unwrap_err().contains("two-votes-a-term"));
        } else {
            assert!(parsed.unwrap_err().contains("--features planted-bugs"));
        }
    }
}
