//! Digests of a key and of a remembered outcome, of which the store keeps the sum, and of a request. Independent
//! of platform and release, so that replicas of different builds can be compared.

use super::{Answer, Condition, KeyValue, Operation, Remembered};
use crate::types::Revision;

/// Names what is computed here. Another one when a state's digest changes, so that versions side by side do not take
/// each other's states for different ones.
pub(super) const DIGEST_SCHEME: u32 = 1;

/// The 64-bit finalizer of `SplitMix64` (Steele, Lea, Flood 2014): a bijection in which every input bit
/// changes every output bit with a probability of about a half.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Digest of a key and all it holds.
pub(super) fn digest_key(key: &[u8], content: &KeyValue) -> u64 {
    let state = digest_words([content.create_revision.0, content.mod_revision.0, content.version]);
    digest_bytes(digest_bytes(state, key), &content.value)
}

/// Digest of what a command asks for, by which a repeated request is told from another one.
pub(super) fn digest_request(operation: &Operation) -> u64 {
    let (kind, key, value, condition) = match operation {
        Operation::Put { key, value, condition } => (1, key, &value[..], condition),
        Operation::Delete { key, condition } => (2, key, &[][..], condition),
    };
    let condition = match condition {
        Condition::Always => [0, 0],
        Condition::Absent => [1, 0],
        Condition::Present => [2, 0],
        Condition::ModRevision(revision) => [3, revision.0],
    };
    digest_bytes(digest_bytes(digest_words([kind, condition[0], condition[1]]), key), value)
}

/// Digest of all that is remembered of one request.
pub(super) fn digest_outcome(outcome: &Remembered) -> u64 {
    let answer = match &outcome.answer {
        Answer::Put { revision, create_revision, version } => [1, revision.0, create_revision.0, *version],
        Answer::Deleted { revision } => [2, revision.0, 0, 0],
        Answer::KeyNotFound { revision } => [3, revision.0, 0, 0],
        Answer::PreconditionFailed { mod_revision: None } => [4, 0, 0, 0],
        Answer::PreconditionFailed { mod_revision: Some(Revision(revision)) } => [5, *revision, 0, 0],
        Answer::IdempotencyConflict => [6, 0, 0, 0],
    };
    let place = [outcome.index.0, outcome.time.0, outcome.request_hash];
    digest_bytes(digest_words(place.into_iter().chain(answer)), &outcome.key)
}

fn digest_words(words: impl IntoIterator<Item = u64>) -> u64 {
    words.into_iter().fold(0, |state, word| mix(state ^ word))
}

/// Folds a length and then the bytes, eight at a time, into `state`.
fn digest_bytes(state: u64, bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let state = mix(state ^ bytes.len() as u64);
    let state = words.iter().fold(state, |state, word| mix(state ^ u64::from_le_bytes(*word)));
    mix(state ^ u64::from_le_bytes(last))
}
