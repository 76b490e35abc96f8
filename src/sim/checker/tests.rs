//! Histories that are known to be good or bad, and random ones against an enumeration of every order.

use super::*;

/// An operation on key `k` from `from` to `to`.
fn operation(from: u64, to: u64, call: Call, answer: Answer) -> Operation {
    let returned = Some(Returned { at: Instant(to), answer });
    Operation { client: 1, key: Bytes::from_static(b"k"), call, invoked_at: Instant(from), returned }
}

fn open(operation: Operation) -> Operation {
    Operation { returned: None, ..operation }
}

fn on(key: &'static str, operation: Operation) -> Operation {
    Operation { key: Bytes::from_static(key.as_bytes()), ..operation }
}

fn put_if(from: u64, to: u64, value: &'static str, condition: Condition) -> Operation {
    let value = Bytes::from_static(value.as_bytes());
    operation(from, to, Call::Put { value, condition }, Answer::Written { mod_revision: None })
}

fn put(from: u64, to: u64, value: &'static str) -> Operation {
    put_if(from, to, value, Condition::Always)
}

fn delete(from: u64, to: u64) -> Operation {
    let call = Call::Delete { condition: Condition::Always };
    operation(from, to, call, Answer::Written { mod_revision: None })
}

fn get(from: u64, to: u64, value: &'static str) -> Operation {
    let value = Bytes::from_static(value.as_bytes());
    operation(from, to, Call::Get, Answer::Found { value, mod_revision: None })
}

fn get_nothing(from: u64, to: u64) -> Operation {
    operation(from, to, Call::Get, Answer::Missing)
}

fn answered(answer: Answer, mut operation: Operation) -> Operation {
    operation.returned.as_mut().unwrap().answer = answer;
    operation
}

/// The same operation, its answer telling this revision.
fn at(revision: u64, mut operation: Operation) -> Operation {
    match &mut operation.returned.as_mut().unwrap().answer {
        Answer::Found { mod_revision, .. } | Answer::Written { mod_revision } => {
            *mod_revision = Some(Revision(revision));
        }
        Answer::Missing | Answer::Refused => panic!("an answer without revision"),
    }
    operation
}

#[track_caller]
fn good(history: &[Operation]) {
    if let Err(violation) = check(history) {
        panic!("{violation}");
    }
    assert!(enumerate(history), "the enumeration finds no order");
}

/// Expects that the history is not linearizable, and that the operations at `shown` are what shows it.
#[track_caller]
fn bad(history: &[Operation], shown: &[usize]) {
    let violation = check(history).unwrap_err();
    assert_eq!(violation.reason, Reason::NotLinearizable);
    let expected: Vec<Operation> = shown.iter().map(|&at| history[at].clone()).collect();
    assert_eq!(violation.operations, expected, "{violation}");
    assert!(!enumerate(history), "the enumeration finds an order");
}

#[test]
fn nothing_and_reads_of_nothing_are_good() {
    good(&[]);
    good(&[get_nothing(0, 1)]);
    good(&[open(get_nothing(0, 1)), open(put(0, 1, "a")), open(delete(0, 1))]);
}

#[test]
fn the_register_histories_of_herlihy_and_wing() {
    // Their figure 2, (a) to (d), as registers: overlapping writes may take either order, and a read decides it.
    good(&[put(0, 10, "0"), put(20, 50, "1"), get(30, 40, "1"), get(60, 70, "1")]);
    good(&[put(0, 10, "0"), put(20, 50, "1"), get(30, 40, "0"), get(60, 70, "1")]);
    bad(&[put(0, 10, "0"), put(20, 50, "1"), get(30, 40, "1"), get(45, 70, "0")], &[0, 1, 2, 3]);
    good(&[put(0, 30, "0"), put(10, 40, "1"), get(50, 60, "0"), get(70, 80, "0")]);
    good(&[put(0, 30, "0"), put(10, 40, "1"), get(50, 60, "1"), get(70, 80, "1")]);
    bad(&[put(0, 30, "0"), put(10, 40, "1"), get(50, 60, "0"), get(70, 80, "1")], &[0, 1, 2, 3]);
}

#[test]
fn a_return_and_a_call_at_the_same_time_overlap() {
    good(&[put(0, 10, "a"), put(10, 20, "b"), get(30, 40, "a")]);
    bad(&[put(0, 10, "a"), put(11, 20, "b"), get(30, 40, "a")], &[0, 1, 2]);
}

#[test]
fn a_stale_read() {
    bad(&[put(0, 10, "a"), put(20, 30, "b"), get(40, 50, "a")], &[0, 1, 2]);
}

#[test]
fn a_lost_write() {
    bad(&[put(0, 10, "a"), get_nothing(20, 30)], &[0, 1]);
}

#[test]
fn a_read_of_what_nobody_wrote() {
    bad(&[put(0, 10, "a"), get(20, 30, "x")], &[1]);
    bad(&[get(0, 10, "a"), put(20, 30, "a")], &[0]);
}

#[test]
fn two_reads_that_go_backwards() {
    bad(&[put(0, 5, "a"), put(10, 100, "b"), get(20, 30, "b"), get(40, 50, "a")], &[0, 1, 2, 3]);
}

#[test]
fn an_unknown_write_may_be_seen_late_or_never_but_not_early_or_undone() {
    let unknown = open(put(20, 20, "b"));
    let first = put(0, 10, "a");
    good(&[first.clone(), unknown.clone(), get(30, 40, "a"), get(50, 60, "b"), get(70, 80, "b")]);
    good(&[first.clone(), unknown.clone(), get(30, 40, "a"), put(50, 60, "c"), get(70, 80, "b")]);
    good(&[first.clone(), unknown.clone(), get(30, 40, "a"), get(1000, 1010, "a")]);
    bad(&[first.clone(), get(12, 15, "b"), unknown.clone()], &[1]);
    bad(&[first, unknown, get(30, 40, "b"), get(50, 60, "a")], &[0, 1, 2, 3]);
}

#[test]
fn deletions() {
    good(&[put(0, 10, "a"), delete(20, 30), get_nothing(40, 50), put(60, 70, "a"), get(80, 90, "a")]);
    bad(&[put(0, 10, "a"), delete(20, 30), get(40, 50, "a")], &[0, 1, 2]);
    let missing = |from, to| answered(Answer::Missing, delete(from, to));
    good(&[missing(0, 5), put(0, 10, "a"), delete(20, 30), missing(40, 50)]);
    bad(&[put(0, 10, "a"), missing(20, 30)], &[0, 1]);
    // Nothing there, yet it is said to have been deleted.
    bad(&[delete(0, 10)], &[0]);
    let unknown = open(delete(20, 20));
    good(&[put(0, 10, "a"), unknown.clone(), get(30, 40, "a"), get_nothing(50, 60)]);
    bad(&[put(0, 10, "a"), unknown, get_nothing(30, 40), get(50, 60, "a")], &[0, 1, 2, 3]);
}

#[test]
fn conditions() {
    let refused = |operation| answered(Answer::Refused, operation);
    let revision = |number| Condition::ModRevision(Revision(number));
    good(&[put_if(0, 10, "a", Condition::Absent), refused(put_if(20, 30, "b", Condition::Absent))]);
    bad(&[put_if(0, 10, "a", Condition::Absent), put_if(20, 30, "b", Condition::Absent)], &[0, 1]);
    bad(&[refused(put_if(0, 10, "a", Condition::Absent))], &[0]);
    bad(&[put_if(0, 10, "a", Condition::Present)], &[0]);
    let start = at(3, put(0, 10, "a"));
    let swap = |from, to, value| put_if(from, to, value, revision(3));
    good(&[start.clone(), at(4, swap(20, 30, "b")), refused(swap(20, 30, "c")), get(40, 50, "b")]);
    bad(&[start.clone(), at(4, swap(20, 30, "b")), at(5, swap(20, 30, "c"))], &[0, 1, 2]);
    bad(&[start.clone(), refused(swap(20, 30, "b"))], &[0, 1]);
    // One of two unknown swaps took effect: never both.
    let unknown = [open(swap(20, 20, "b")), open(swap(20, 20, "c"))];
    let [first, second] = unknown.clone();
    good(&[start.clone(), first, second, get(30, 40, "c"), get(50, 60, "c")]);
    let [first, second] = unknown;
    bad(&[start, first, second, get(30, 40, "c"), get(50, 60, "b")], &[0, 1, 2, 3, 4]);
}

#[test]
fn revisions_within_a_key() {
    good(&[
        at(1, put(0, 10, "a")),
        at(1, get(20, 30, "a")),
        at(4, put(20, 40, "b")),
        at(4, get(50, 60, "b")),
    ]);
    bad(&[at(1, put(0, 10, "a")), at(2, get(20, 30, "a"))], &[0, 1]);
    bad(&[at(2, put(0, 10, "a")), at(1, put(20, 30, "b"))], &[0, 1]);
    // Overlapping writes: their revisions say which was later, and the reads must agree.
    bad(&[at(2, put(0, 10, "a")), at(1, put(0, 10, "b")), get(20, 30, "b")], &[0, 1, 2]);
    // The revision of an unknown write shows where it is read.
    let unknown = open(put(5, 5, "b"));
    good(&[at(1, put(0, 10, "a")), unknown.clone(), at(2, get(20, 30, "b")), at(3, put(40, 50, "c"))]);
    bad(&[at(2, put(0, 3, "a")), unknown.clone(), at(1, get(20, 30, "b"))], &[0, 1, 2]);
    bad(&[unknown, at(2, get(20, 30, "b")), at(3, get(40, 50, "b"))], &[0, 1, 2]);
}

#[test]
fn revisions_across_keys() {
    let check_pair = |first: &Operation, second: &Operation, reason| {
        let violation = check(&[second.clone(), first.clone()]).unwrap_err();
        assert_eq!(violation.reason, reason, "{violation}");
        assert_eq!(violation.operations.len(), 2);
    };
    let first = at(5, on("x", put(0, 10, "a")));
    good(std::slice::from_ref(&first));
    check(&[first.clone(), at(4, on("y", put(10, 20, "a"))), at(6, on("y", put(11, 20, "b")))]).unwrap();
    check_pair(&first, &at(4, on("y", put(11, 20, "a"))), Reason::RevisionOrder);
    check_pair(&first, &at(5, on("y", put(0, 10, "a"))), Reason::RevisionShared);
    let seen =
        [open(on("x", put(0, 0, "a"))), at(5, on("x", get(0, 10, "a"))), at(4, on("y", put(11, 20, "a")))];
    assert_eq!(check(&seen).unwrap_err().reason, Reason::RevisionOrder);
}

#[test]
fn keys_are_judged_alone() {
    let other = [on("j", put(0, 10, "x")), on("j", get(20, 30, "x"))];
    let stale = [put(0, 10, "a"), put(20, 30, "b"), get(40, 50, "a")];
    check(&[&other[..], &stale[..2]].concat()).unwrap();
    let violation = check(&[&other[..], &stale[..]].concat()).unwrap_err();
    assert_eq!(violation.operations, stale);
}

#[test]
fn what_is_no_history_is_refused() {
    for malformed in [
        get(10, 5, "a"),
        answered(Answer::Missing, put(0, 1, "a")),
        answered(Answer::Refused, get(0, 1, "a")),
        answered(Answer::Written { mod_revision: None }, get(0, 1, "a")),
        answered(Answer::Found { value: Bytes::new(), mod_revision: None }, delete(0, 1)),
    ] {
        assert_eq!(check(&[put(0, 1, "b"), malformed]).unwrap_err().reason, Reason::Malformed);
    }
}

#[test]
fn a_violation_reads_as_a_story() {
    let history = [
        at(1, put(0, 10, "a")),
        open(put(12, 12, "\"b\"\n")),
        get(13, 14, "a"),
        at(2, put(20, 30, "c")),
        at(1, get(40, 50, "a")),
        get(60, 70, "c"),
    ];
    let expected = "\
not linearizable: no order of these operations explains their answers
           0..10         µs  client 1   put \"k\" = \"a\" → done at revision 1
          20..30         µs  client 1   put \"k\" = \"c\" → done at revision 2
          40..50         µs  client 1   get \"k\" → \"a\" at revision 1";
    assert_eq!(check(&history).unwrap_err().to_string(), expected);
    let unknown = open(put_if(1, 1, "\"b\"\n", Condition::ModRevision(Revision(7))));
    assert_eq!(
        unknown.to_string(),
        "         1..…          µs  client 1   put \"k\" = \"\\\"b\\\"\\n\" if at revision 7 → unknown"
    );
}

/// A generator of numbers (splitmix64); the same seed gives the same numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Tries every order of every subset that leaves out open operations only, and every revision for what does not
/// tell its own. Nothing clever, so that it can be trusted.
fn enumerate(history: &[Operation]) -> bool {
    let highest = history.iter().filter_map(|operation| {
        let wanted = match operation.call {
            Call::Put { condition: Condition::ModRevision(revision), .. }
            | Call::Delete { condition: Condition::ModRevision(revision) } => Some(revision),
            _ => None,
        };
        let told = match operation.returned.as_ref()?.answer {
            Answer::Found { mod_revision, .. } | Answer::Written { mod_revision } => mod_revision,
            _ => None,
        };
        wanted.max(told)
    });
    let revision_max = highest.max().unwrap_or_default().0 + history.len() as u64;
    let operations: Vec<&Operation> = history.iter().collect();
    place_any(&operations, None, 0, revision_max)
}

fn place_any(left: &[&Operation], held: Option<(&Bytes, u64)>, revision: u64, revision_max: u64) -> bool {
    if left.iter().all(|operation| operation.returned.is_none()) {
        return true;
    }
    (0..left.len()).any(|at| {
        let operation = left[at];
        let is_preceded =
            left.iter().any(|other| other.returned.as_ref().is_some_and(|r| r.at < operation.invoked_at));
        if is_preceded {
            return false;
        }
        let rest: Vec<&Operation> = left
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at)
            .map(|(_, operation)| *operation)
            .collect();
        place(operation, &rest, held, revision, revision_max)
    })
}

fn place(
    operation: &Operation,
    rest: &[&Operation],
    held: Option<(&Bytes, u64)>,
    revision: u64,
    revision_max: u64,
) -> bool {
    let answer = operation.returned.as_ref().map(|returned| &returned.answer);
    let unchanged = || place_any(rest, held, revision, revision_max);
    let (value, condition) = match &operation.call {
        Call::Get => {
            let is_so = match (answer, held) {
                (None, _) | (Some(Answer::Missing), None) => true,
                (Some(Answer::Found { value, mod_revision }), Some((holds, since))) => {
                    value == holds && mod_revision.is_none_or(|told| told.0 == since)
                }
                _ => false,
            };
            return is_so && unchanged();
        }
        Call::Put { value, condition } => (Some(value), condition),
        Call::Delete { condition } => (None, condition),
    };
    let holds = match condition {
        Condition::Always => true,
        Condition::Absent => held.is_none(),
        Condition::Present => held.is_some(),
        Condition::ModRevision(wanted) => held.is_some_and(|(_, since)| since == wanted.0),
    };
    let has_effect = holds && (value.is_some() || held.is_some());
    match answer {
        Some(Answer::Refused) => !holds && unchanged(),
        Some(Answer::Missing) => holds && !has_effect && unchanged(),
        Some(Answer::Written { mod_revision }) => {
            has_effect
                && (revision + 1..=revision_max).any(|made| {
                    mod_revision.is_none_or(|told| told.0 == made)
                        && place_any(rest, value.map(|value| (value, made)), made, revision_max)
                })
        }
        _ => {
            has_effect
                && (revision + 1..=revision_max)
                    .any(|made| place_any(rest, value.map(|value| (value, made)), made, revision_max))
        }
    }
}

fn random_operation(numbers: &mut Numbers, with_revisions: bool, with_conditions: bool) -> Operation {
    let mut some_revision =
        |one_in| (with_revisions && !numbers.one_in(one_in)).then(|| Revision(1 + numbers.below(5)));
    let (told, wanted) = (some_revision(3), some_revision(1_000_000));
    let condition = match (with_conditions, numbers.below(6)) {
        (true, 0) => Condition::Absent,
        (true, 1) => Condition::Present,
        (true, 2) => Condition::ModRevision(wanted.unwrap_or(Revision(1))),
        _ => Condition::Always,
    };
    let value = Bytes::from_static([b"a", b"b", b"c"][usize::try_from(numbers.below(3)).unwrap()]);
    let written = Answer::Written { mod_revision: told };
    let (call, answer) = match numbers.below(10) {
        0..4 => {
            let is_refused = condition != Condition::Always && numbers.one_in(3);
            (Call::Put { value, condition }, if is_refused { Answer::Refused } else { written })
        }
        4 => (
            Call::Delete { condition },
            [written, Answer::Missing][usize::try_from(numbers.below(2)).unwrap()].clone(),
        ),
        5 => (Call::Get, Answer::Missing),
        _ => (Call::Get, Answer::Found { value, mod_revision: told }),
    };
    let from = numbers.below(12);
    let whole = operation(from, from + numbers.below(8), call, answer);
    if numbers.one_in(5) { open(whole) } else { whole }
}

#[test]
fn random_histories_are_judged_as_by_enumeration() {
    let mut judged = [0_u32; 2];
    for seed in 0..6000 {
        let numbers = &mut Numbers(seed);
        let (with_revisions, with_conditions) = (numbers.one_in(2), numbers.one_in(2));
        let length = 2 + numbers.below(5);
        let history: Vec<Operation> =
            (0..length).map(|_| random_operation(numbers, with_revisions, with_conditions)).collect();
        let expected = enumerate(&history);
        let verdict = search::search(&history, u64::MAX);
        let listed: Vec<String> = history.iter().map(ToString::to_string).collect();
        assert_eq!(verdict == Verdict::Linearizable, expected, "seed {seed}:\n{}", listed.join("\n"));
        judged[usize::from(expected)] += 1;
        if !expected {
            let shown = shrink::shrink(history);
            assert!(!shown.is_empty() && !enumerate(&shown), "seed {seed}: not what is wrong: {shown:?}");
        }
    }
    assert!(judged.iter().all(|&count| count > 1000), "one-sided: {judged:?}");
}

/// A history of a register that is right: each operation takes effect at a random moment between call and return.
/// `clients` do one operation after another; some outcomes are unknown, some of those without effect.
fn run_register(
    seed: u64,
    clients: u64,
    length: u64,
    tells_revisions: bool,
    with_deletes: bool,
) -> Vec<Operation> {
    let numbers = &mut Numbers(seed);
    let mut free_at: Vec<u64> = (0..clients).map(|_| numbers.below(1000)).collect();
    let mut moments: Vec<(u64, Operation, bool)> = (0..length)
        .map(|count| {
            let client = free_at.iter().enumerate().min_by_key(|(_, at)| **at).unwrap().0;
            let from = free_at[client];
            let moment = from + numbers.below(500);
            let to = moment + numbers.below(500);
            free_at[client] = to + 1;
            let value = Bytes::from(count.to_string());
            let (call, is_lost) = match numbers.below(20) {
                0..8 => (Call::Put { value, condition: Condition::Always }, numbers.one_in(20)),
                8 if with_deletes => (Call::Delete { condition: Condition::Always }, numbers.one_in(20)),
                _ => (Call::Get, false),
            };
            let mut made = operation(from, to, call, Answer::Missing);
            made.client = client as u64;
            let moment = if is_lost { moment + numbers.below(5000) } else { moment };
            (moment, made, is_lost)
        })
        .collect();
    moments.sort_by_key(|(moment, ..)| *moment);
    let (mut held, mut revision) = (None, 0);
    for (_, made, is_lost) in &mut moments {
        if *is_lost && numbers.one_in(2) {
            made.returned = None;
            continue;
        }
        let told = |revision| tells_revisions.then_some(Revision(revision));
        let answer = match (&made.call, &held) {
            (Call::Put { value, .. }, _) => {
                revision += 1;
                held = Some((value.clone(), revision));
                Answer::Written { mod_revision: told(revision) }
            }
            (Call::Delete { .. }, Some(_)) => {
                revision += 1;
                held = None;
                Answer::Written { mod_revision: told(revision) }
            }
            (Call::Get, Some((value, since))) => {
                Answer::Found { value: value.clone(), mod_revision: told(*since) }
            }
            (Call::Get | Call::Delete { .. }, None) => Answer::Missing,
        };
        made.returned =
            made.returned.take().filter(|_| !*is_lost).map(|returned| Returned { answer, ..returned });
    }
    moments.into_iter().map(|(_, made, _)| made).collect()
}

#[test]
fn long_histories_of_many_clients_are_decided() {
    for (clients, tells_revisions, with_deletes) in
        [(5, false, true), (16, false, true), (64, true, true), (64, false, false)]
    {
        for seed in 0..3 {
            let history = run_register(seed, clients, 4000, tells_revisions, with_deletes);
            if let Err(violation) = check(&history) {
                panic!("{clients} clients, seed {seed}: {violation}");
            }
        }
    }
}

#[test]
fn one_wrong_answer_in_a_long_history_is_found_and_cut_out() {
    for (clients, tells_revisions) in [(5, false), (16, true), (64, true)] {
        let mut history = run_register(7, clients, 2000, tells_revisions, true);
        let stale =
            history.iter().position(|made| made.call != Call::Get && made.returned.is_some()).unwrap();
        let Call::Put { value, .. } = history[stale].call.clone() else { panic!("seed 7 begins with a put") };
        let told = match &history[stale].returned.as_ref().unwrap().answer {
            Answer::Written { mod_revision } => *mod_revision,
            _ => None,
        };
        let late = history.iter().rposition(|made| made.call == Call::Get).unwrap();
        history[late].returned.as_mut().unwrap().answer = Answer::Found { value, mod_revision: told };
        let violation = check(&history).unwrap_err();
        assert_eq!(violation.reason, Reason::NotLinearizable);
        assert!(violation.operations.contains(&history[late]), "{violation}");
        assert!(violation.operations.len() <= 4, "{violation}");
    }
}

#[test]
fn a_search_that_is_stopped_says_so() {
    let history = run_register(1, 8, 100, false, true);
    assert_eq!(search::search(&history, 10), Verdict::Undecided);
}
