//! The digest of one key, of which the store keeps the sum. Independent of platform and release, so that
//! replicas of different builds can be compared.

use super::KeyValue;

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
    let revisions = [content.create_revision.0, content.mod_revision.0, content.version];
    let state = revisions.into_iter().fold(0, |state, word| mix(state ^ word));
    digest_bytes(digest_bytes(state, key), &content.value)
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
