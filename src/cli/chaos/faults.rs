//! Which faults there are, and whom each round's strikes: drawn from a seed, so that a run can be repeated.

use std::fmt;

use crate::sim::random::Random;

/// What befalls the victims.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// SIGKILL, then started again.
    Kill,
    /// SIGTERM, then started again.
    Stop,
    /// SIGSTOP, SIGCONT after the hold.
    Pause,
    /// Nothing passes between it and the other members, in these directions.
    Cut(Direction),
    /// Its connections with other members end, and new ones are refused.
    Refuse,
    /// Ended at once, its data removed, and started again.
    Wipe,
    /// Its pod is deleted, with the time to stop that it wants.
    Delete,
    /// Its pod is deleted with a grace period of zero.
    Force,
    /// A command that the user named.
    Command(String),
}

/// Which way nothing passes, seen from the victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Both,
    /// What it sends on the streams that it opened.
    Out,
    /// What the others send on the streams that they opened.
    In,
}

/// Whom it befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whom {
    Leader,
    Follower,
    Random,
    Two,
    All,
}

const WHOM: [(Whom, &str); 5] = [
    (Whom::Leader, "leader"),
    (Whom::Follower, "follower"),
    (Whom::Random, "random"),
    (Whom::Two, "two"),
    (Whom::All, "all"),
];

/// A fault as a round has it. Shown and given as `kind:whom`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) whom: Whom,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Cut(Direction::Both) => "cut",
            Self::Cut(Direction::Out) => "cut-out",
            Self::Cut(Direction::In) => "cut-in",
            Self::Refuse => "refuse",
            Self::Wipe => "wipe",
            Self::Delete => "delete",
            Self::Force => "force",
            Self::Command(name) => name,
        })
    }
}

impl Whom {
    fn name(self) -> &'static str {
        WHOM.iter().find(|(whom, _)| *whom == self).map_or("", |(_, name)| name)
    }

    fn parse(text: &str) -> Option<Self> {
        WHOM.iter().find(|(_, name)| *name == text).map(|(whom, _)| *whom)
    }

    /// The members struck, out of `members`, which are sorted; never none unless there are none.
    fn choose(self, members: &[String], leader: &str, random: &mut Random) -> Vec<String> {
        let followers: Vec<&String> = members.iter().filter(|name| *name != leader).collect();
        let mut any: Vec<&String> = members.iter().collect();
        let mut draw = |from: &mut Vec<&String>, count: usize| {
            let count = count.min(from.len());
            let mut drawn: Vec<String> =
                (0..count).map(|_| from.swap_remove(random.index(from.len())).clone()).collect();
            drawn.sort();
            drawn
        };
        match self {
            Self::Leader if members.iter().any(|name| name == leader) => vec![leader.to_owned()],
            // A cluster of one has no followers.
            Self::Follower if !followers.is_empty() => draw(&mut followers.clone(), 1),
            Self::Leader | Self::Follower | Self::Random => draw(&mut any, 1),
            Self::Two => draw(&mut any, 2),
            Self::All => members.to_vec(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.whom.name())
    }
}

/// Whether this names whom a fault strikes.
pub(super) fn is_whom(text: &str) -> bool {
    Whom::parse(text).is_some()
}

/// Reads `kind:whom`, a kind alone (of a random member), or whom alone (the first of `kinds`).
pub(super) fn parse(text: &str, kinds: &[Kind]) -> Result<Fault, String> {
    let kind_named = |name: &str| kinds.iter().find(|kind| kind.to_string() == name).cloned();
    let fault = match text.split_once(':') {
        Some((kind, whom)) => {
            kind_named(kind).zip(Whom::parse(whom)).map(|(kind, whom)| Fault { kind, whom })
        }
        None => match (Whom::parse(text), kinds.first()) {
            (Some(whom), Some(kind)) => Some(Fault { kind: kind.clone(), whom }),
            _ => kind_named(text).map(|kind| Fault { kind, whom: Whom::Random }),
        },
    };
    match fault {
        None => {
            let kinds: Vec<_> = kinds.iter().map(ToString::to_string).collect();
            let whom = WHOM.map(|(_, name)| name).join(", ");
            Err(format!(
                "--faults: `{text}` is no fault here; give KIND:WHOM, KIND or WHOM, where the kinds are {} and whom is \
                 one of {whom}",
                kinds.join(", ")
            ))
        }
        Some(Fault { kind: Kind::Wipe, whom: whom @ (Whom::Two | Whom::All) }) => Err(format!(
            "--faults: wipe:{} would take the majority's disks, which no cluster survives",
            whom.name()
        )),
        Some(fault) => Ok(fault),
    }
}

/// What happens in which round.
pub(super) struct Plan {
    seed: u64,
    faults: Vec<Fault>,
}

impl Plan {
    /// Rounds of these faults; there must be one.
    pub(super) fn new(seed: u64, faults: Vec<Fault>) -> Self {
        assert!(!faults.is_empty(), "a plan has faults");
        Self { seed, faults }
    }

    /// So many rounds are one of each fault.
    pub(super) fn turn(&self) -> usize {
        self.faults.len()
    }

    /// The fault of a round, from 0. All have their turn before one has its second, in an order that changes.
    pub(super) fn fault(&self, round: usize) -> Fault {
        let turn = round / self.faults.len();
        let mut random = Random::new(self.seed, turn as u64);
        let mut left: Vec<&Fault> = self.faults.iter().collect();
        for _ in 0..round % self.faults.len() {
            left.remove(random.index(left.len()));
        }
        left[random.index(left.len())].clone()
    }

    /// Whom that strikes.
    pub(super) fn victims(&self, round: usize, members: &[String], leader: &str) -> Vec<String> {
        // Another stream than the one of the faults.
        let mut random = Random::new(!self.seed, round as u64);
        let mut members = members.to_vec();
        members.sort();
        self.fault(round).whom.choose(&members, leader, &mut random)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const KINDS: [Kind; 3] = [Kind::Kill, Kind::Cut(Direction::In), Kind::Wipe];

    fn fault(text: &str) -> Fault {
        parse(text, &KINDS).unwrap()
    }

    #[test]
    fn faults_are_read_as_they_are_shown() {
        for (text, shown) in
            [("kill:leader", "kill:leader"), ("all", "kill:all"), ("cut-in", "cut-in:random")]
        {
            assert_eq!(fault(text).to_string(), shown);
        }
        let refused = |text: &str, part: &str| {
            let message = parse(text, &KINDS).unwrap_err();
            assert!(message.contains(part), "{message}");
        };
        refused(
            "delete",
            "the kinds are kill, cut-in, wipe and whom is one of leader, follower, random, two, all",
        );
        refused("kill:nobody", "`kill:nobody` is no fault");
        refused("", "`` is no fault");
        refused("wipe:two", "no cluster survives");
    }

    #[test]
    fn every_fault_has_its_turn_before_one_has_its_second() {
        let faults: Vec<_> = ["kill:leader", "kill:two", "cut-in", "wipe"].map(fault).into();
        let plan = Plan::new(7, faults.clone());
        let turn = |turn: usize| (4 * turn..4 * turn + 4).map(|round| plan.fault(round)).collect::<Vec<_>>();
        for number in 0..10 {
            assert_eq!(turn(number).into_iter().collect::<BTreeSet<_>>(), faults.iter().cloned().collect());
        }
        assert!((1..10).any(|number| turn(number) != turn(0)), "the order changes");
        let again = Plan::new(7, faults.clone());
        assert!((0..40).all(|round| again.fault(round) == plan.fault(round)));
        let other = Plan::new(8, faults);
        assert!((0..40).any(|round| other.fault(round) != plan.fault(round)));
    }

    #[test]
    fn victims_are_whom_the_fault_names_and_the_seed_draws() {
        let members = ["c", "a", "b"].map(str::to_owned);
        let struck = |whom: &str, round: usize| {
            let plan = Plan::new(3, vec![fault(&format!("kill:{whom}"))]);
            assert_eq!(plan.victims(round, &members, "b"), plan.victims(round, &members, "b"));
            plan.victims(round, &members, "b")
        };
        let all = |whom: &str| (0..50).map(|round| struck(whom, round)).collect::<BTreeSet<_>>();
        assert_eq!(all("leader"), [vec!["b".to_owned()]].into());
        assert_eq!(all("follower"), [vec!["a".to_owned()], vec!["c".to_owned()]].into());
        assert_eq!(all("random").len(), 3);
        assert_eq!(all("two").len(), 3);
        assert!(all("two").iter().all(|two| two.len() == 2 && two[0] < two[1]));
        assert_eq!(all("all"), [vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]].into());
    }

    #[test]
    fn a_cluster_of_one_has_one_victim() {
        for whom in ["leader", "follower", "random", "two", "all"] {
            let plan = Plan::new(1, vec![fault(&format!("kill:{whom}"))]);
            assert_eq!(plan.victims(0, &["a".to_owned()], "a"), ["a"]);
        }
        let nobody = Plan::new(1, vec![fault("kill:leader")]).victims(0, &["a".to_owned()], "gone");
        assert_eq!(nobody, ["a"], "a leader that is none of the members is not struck");
    }
}
