//! What the load wrote, kept as numbers: a long run writes many keys.

use std::ops::Range;

/// Numbers that were added in rising order, as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers(Vec<Range<u64>>);

impl Numbers {
    /// Adds a number above all that are in it.
    pub(super) fn push(&mut self, number: u64) {
        match self.0.last_mut() {
            Some(range) if range.end == number => range.end += 1,
            _ => self.0.push(number..number + 1),
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    fn into_each(self) -> impl Iterator<Item = u64> + Send + 'static {
        self.0.into_iter().flatten()
    }
}

/// The keys of one pulse in one round. A key's value is its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PulseKeys {
    /// Numbers below this one were tried.
    pub(super) tried: u64,
    pub(super) acknowledged: Numbers,
}

/// The keys of one round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RoundKeys {
    pub(super) round: u64,
    /// How often the register clients went on to other keys, the first ones included.
    pub(super) chapters: u64,
    pub(super) pulses: Vec<PulseKeys>,
}

/// Spells the keys of a run.
#[derive(Clone, Debug)]
pub(super) struct Speller {
    run: String,
}

impl Speller {
    pub(super) fn new(run: &str) -> Self {
        Self { run: run.to_owned() }
    }

    /// The key that the first write goes to, before any round.
    pub(super) fn first(&self) -> String {
        format!("chaos/{}/first", self.run)
    }

    pub(super) fn pulse(&self, round: u64, pulse: usize, number: u64) -> String {
        format!("chaos/{}/{round}/p{pulse}/{number}", self.run)
    }

    pub(super) fn register(&self, round: u64, chapter: u64, register: u32) -> String {
        format!("chaos/{}/{round}/r{chapter}/{register}", self.run)
    }

    /// Every acknowledged key of the pulses in these rounds, and the value it was given.
    pub(super) fn acknowledged(
        &self,
        rounds: Vec<RoundKeys>,
    ) -> impl Iterator<Item = (String, String)> + Send + use<> {
        let speller = self.clone();
        let pulses = rounds.into_iter().flat_map(|round| {
            round
                .pulses
                .into_iter()
                .enumerate()
                .map(move |(pulse, keys)| (round.round, pulse, keys.acknowledged))
        });
        let numbers = pulses.flat_map(|(round, pulse, numbers)| {
            numbers.into_each().map(move |number| (round, pulse, number))
        });
        numbers.map(move |(round, pulse, number)| (speller.pulse(round, pulse, number), number.to_string()))
    }

    /// Every key that may be there after these rounds.
    pub(super) fn all(
        &self,
        rounds: Vec<RoundKeys>,
        registers: u32,
    ) -> impl Iterator<Item = String> + Send + use<> {
        let (first, speller) = (self.first(), self.clone());
        let keys = rounds.into_iter().flat_map(move |round| {
            let (for_pulses, for_registers, number) = (speller.clone(), speller.clone(), round.round);
            let pulses = round.pulses.into_iter().enumerate().flat_map(move |(pulse, keys)| {
                let speller = for_pulses.clone();
                (0..keys.tried).map(move |key| speller.pulse(number, pulse, key))
            });
            let chapters = (0..round.chapters).flat_map(move |chapter| {
                let speller = for_registers.clone();
                (0..registers).map(move |register| speller.register(number, chapter, register))
            });
            pulses.chain(chapters)
        });
        std::iter::once(first).chain(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept_as_ranges() {
        let mut numbers = Numbers::default();
        for number in [0, 1, 2, 5, 6, 9] {
            numbers.push(number);
        }
        assert_eq!((numbers.0.len(), numbers.count()), (3, 6));
        assert_eq!(numbers.into_each().collect::<Vec<_>>(), [0, 1, 2, 5, 6, 9]);
    }

    #[test]
    fn only_acknowledged_keys_are_read_back_and_all_are_deleted() {
        let mut acknowledged = Numbers::default();
        acknowledged.push(1);
        let pulses = vec![PulseKeys { tried: 2, acknowledged }];
        let rounds = vec![RoundKeys { round: 7, chapters: 1, pulses }];
        let speller = Speller::new("x");
        let read: Vec<_> = speller.acknowledged(rounds.clone()).collect();
        assert_eq!(read, [("chaos/x/7/p0/1".to_owned(), "1".to_owned())]);
        let deleted: Vec<_> = speller.all(rounds, 2).collect();
        let expected =
            ["chaos/x/first", "chaos/x/7/p0/0", "chaos/x/7/p0/1", "chaos/x/7/r0/0", "chaos/x/7/r0/1"];
        assert_eq!(deleted, expected);
    }
}
