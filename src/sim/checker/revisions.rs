//! The store's revision across keys: one for each write, rising with real time.

use std::collections::BTreeMap;

use super::{Answer, Call, Operation, Reason, Violation};
use crate::types::Revision;

/// Checks all known revisions of a history against each other.
pub(super) fn check(history: &[Operation]) -> Result<(), Violation> {
    check_owners(history)?;
    check_order(history)
}

/// No two keys and no two writes have the same revision.
fn check_owners(history: &[Operation]) -> Result<(), Violation> {
    let mut owners: BTreeMap<Revision, &Operation> = BTreeMap::new();
    for operation in history {
        let Some(revision) = told(operation) else { continue };
        let owner = owners.entry(revision).or_insert(operation);
        let are_two_writes = is_write(owner) && is_write(operation) && !std::ptr::eq(*owner, operation);
        if owner.key != operation.key || are_two_writes {
            let operations = vec![(*owner).clone(), operation.clone()];
            return Err(Violation { reason: Reason::RevisionShared, operations });
        }
        if is_write(operation) {
            *owner = operation;
        }
    }
    Ok(())
}

/// A write that was called after a revision was told has a later one.
fn check_order(history: &[Operation]) -> Result<(), Violation> {
    let mut told_by: Vec<(u64, Revision, &Operation)> = history
        .iter()
        .filter_map(|operation| Some((operation.returned.as_ref()?.at.0, told(operation)?, operation)))
        .collect();
    told_by.sort_by_key(|(at, ..)| *at);
    let mut writes: Vec<&Operation> = history.iter().filter(|operation| is_write(operation)).collect();
    writes.sort_by_key(|operation| operation.invoked_at);
    let mut told_by = told_by.into_iter().peekable();
    let mut highest: Option<(Revision, &Operation)> = None;
    for write in writes {
        while let Some((_, revision, by)) = told_by.next_if(|(at, ..)| *at < write.invoked_at.0) {
            if highest.is_none_or(|(highest, _)| highest < revision) {
                highest = Some((revision, by));
            }
        }
        let Some((highest, by)) = highest else { continue };
        if told(write).is_some_and(|revision| revision <= highest) {
            let operations = vec![by.clone(), write.clone()];
            return Err(Violation { reason: Reason::RevisionOrder, operations });
        }
    }
    Ok(())
}

fn told(operation: &Operation) -> Option<Revision> {
    match &operation.returned.as_ref()?.answer {
        Answer::Found { mod_revision, .. } | Answer::Written { mod_revision } => *mod_revision,
        Answer::Missing | Answer::Refused => None,
    }
}

fn is_write(operation: &Operation) -> bool {
    operation.call != Call::Get
}
