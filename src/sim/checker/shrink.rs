//! Makes a violation readable: the shortest part of a history that still has no explanation.

use super::search::{Verdict, search};
use super::{Answer, Call, Operation};
use crate::kv::Condition;
use crate::types::{Instant, Revision};

/// Steps for one try to find the end; a try that takes longer counts as explained, so the part stays longer than need be.
const CUT_STEPS_MAX: u64 = 200_000;
/// Steps for one try to leave something out, of which there are many: several for each operation.
const LOOSEN_STEPS_MAX: u64 = 10_000;

/// Takes away what the violation does not need, from a history of one key that is known to be violated.
///
/// Only what makes an explanation easier to find is done, so what is left is wrong for the same reason as the
/// whole: the end is cut off (what returned later is open), observations are left out, and writes are taken as
/// open from the beginning of time.
pub(super) fn shrink(mut whole: Vec<Operation>) -> Vec<Operation> {
    whole.sort_by_key(|operation| operation.invoked_at);
    let operations = cut(&whole);
    let mut loosened = vec![false; operations.len()];
    let everything = operations.len();
    let mut chunk = everything.div_ceil(2);
    while chunk > 0 {
        let mut start = 0;
        while start < everything {
            let mut tried = loosened.clone();
            for at in start..(start + chunk).min(everything) {
                tried[at] =
                    tried[at] || is_observation(&operations[at]) || !is_told_of(&operations, &tried, at);
            }
            if tried != loosened && is_violated(&operations, &tried) {
                loosened = tried;
            }
            start += chunk;
        }
        chunk /= 2;
    }
    // Shown as they were, with the returns that were cut off: knowing more makes nothing right.
    let kept = |(operation, is_loose): (Operation, bool)| (!is_loose).then_some(operation);
    whole.into_iter().zip(loosened).filter_map(kept).collect()
}

/// Cuts the history, in the order of calls, off at the earliest return that makes it wrong.
fn cut(operations: &[Operation]) -> Vec<Operation> {
    let mut ends: Vec<Instant> =
        operations.iter().filter_map(|op| op.returned.as_ref().map(|r| r.at)).collect();
    ends.sort_unstable();
    ends.dedup();
    let is_still_good = |end: &Instant| search(&until(operations, *end), CUT_STEPS_MAX) != Verdict::Violated;
    let first_bad = ends.partition_point(is_still_good);
    ends.get(first_bad).map_or_else(|| operations.to_vec(), |end| until(operations, *end))
}

/// What was known at `end`.
fn until(operations: &[Operation], end: Instant) -> Vec<Operation> {
    operations
        .iter()
        .filter(|operation| operation.invoked_at <= end)
        .map(|operation| {
            let returned = operation.returned.clone().filter(|returned| returned.at <= end);
            Operation { returned, ..operation.clone() }
        })
        .collect()
}

fn is_observation(operation: &Operation) -> bool {
    operation.call == Call::Get
        || operation
            .returned
            .as_ref()
            .is_some_and(|returned| matches!(returned.answer, Answer::Refused | Answer::Missing))
}

/// Whether an operation that is kept shows this write. Such a write is kept, too: without it the part would
/// look wrong for a reason that is none.
fn is_told_of(operations: &[Operation], loosened: &[bool], at: usize) -> bool {
    let made = revision_of(&operations[at]);
    operations.iter().zip(loosened).any(|(operation, is_loose)| {
        let answer = operation.returned.as_ref().map(|returned| &returned.answer);
        let tells = match (&operations[at].call, answer) {
            (Call::Put { value: written, .. }, Some(Answer::Found { value, .. })) => written == value,
            (Call::Delete { .. }, Some(Answer::Missing)) => true,
            _ => made.is_some() && revision_wanted(operation) == made,
        };
        tells && !is_loose
    })
}

fn revision_of(operation: &Operation) -> Option<Revision> {
    match operation.returned.as_ref()?.answer {
        Answer::Written { mod_revision } => mod_revision,
        _ => None,
    }
}

fn revision_wanted(operation: &Operation) -> Option<Revision> {
    match operation.call {
        Call::Put { condition: Condition::ModRevision(wanted), .. }
        | Call::Delete { condition: Condition::ModRevision(wanted) } => Some(wanted),
        _ => None,
    }
}

fn is_violated(operations: &[Operation], loosened: &[bool]) -> bool {
    let tried: Vec<Operation> = operations
        .iter()
        .zip(loosened)
        .filter(|(operation, is_loose)| !(**is_loose && is_observation(operation)))
        .map(|(operation, is_loose)| match is_loose {
            true => Operation { invoked_at: Instant(0), returned: None, ..operation.clone() },
            false => operation.clone(),
        })
        .collect();
    search(&tried, LOOSEN_STEPS_MAX) == Verdict::Violated
}
