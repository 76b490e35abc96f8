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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kv::{Command, IdempotencyKey, Store};
    use crate::types::{LogIndex, LogTime};

    // Outcomes on disk hold digests of requests, and members of different versions compare digests of their states. If
    // two builds computed different ones, repeated requests would be refused and healthy members would stop. The
    // literals were computed by another program.

    fn put(key: &'static [u8], value: &'static [u8], condition: Condition) -> Operation {
        let (key, value) = (Bytes::from_static(key), Bytes::from_static(value));
        Operation::Put { key, value, condition }
    }

    fn delete(key: &'static [u8], condition: Condition) -> Operation {
        Operation::Delete { key: Bytes::from_static(key), condition }
    }

    #[test]
    fn the_digest_of_each_request_is_the_same_in_every_build() {
        let seventh = Condition::ModRevision(Revision(7));
        let eighth = Condition::ModRevision(Revision(8));
        let long = put(b"a longer key", b"and a value of more than eight bytes", Condition::Always);
        let requests = [
            (put(b"key", b"value", Condition::Always), 0xe00c_9ad2_4b91_8ed3),
            (put(b"key", b"value", Condition::Absent), 0xfca8_dd2f_bcbf_cce8),
            (put(b"key", b"value", Condition::Present), 0x3313_6897_74f2_af27),
            (put(b"key", b"value", seventh), 0x5381_6289_7e7c_6aa6),
            (put(b"key", b"value", eighth), 0x4f31_4f6d_6423_7315),
            (long, 0x45ec_8698_27c9_e7f8),
            (delete(b"key", Condition::Always), 0x22c0_f56f_8317_359a),
            (delete(b"key", Condition::Absent), 0x9f0b_3198_397d_921e),
            (delete(b"key", Condition::Present), 0x62df_a89c_61f1_bace),
            (delete(b"key", seventh), 0x12bf_fab6_5a8f_6804),
        ];
        for (operation, expected) in requests {
            assert_eq!(digest_request(&operation), expected, "{operation:?}");
        }
    }

    #[test]
    fn the_digest_of_a_key_covers_all_it_holds() {
        let content = KeyValue {
            value: Bytes::from_static(b"value"),
            create_revision: Revision(3),
            mod_revision: Revision(5),
            version: 2,
        };
        let value = Bytes::from_static(b"alue");
        let keys: [(&[u8], KeyValue, u64); 6] = [
            (b"key", content.clone(), 0x249a_fc43_7cef_76c7),
            (b"kez", content.clone(), 0x9164_6963_ecc1_ab6e),
            (b"keyv", KeyValue { value, ..content.clone() }, 0xedc2_c5fa_e317_eae9),
            (b"key", KeyValue { create_revision: Revision(4), ..content.clone() }, 0x8b7d_fbcf_de38_7169),
            (b"key", KeyValue { mod_revision: Revision(6), ..content.clone() }, 0xdd14_baa2_b25b_76fe),
            (b"key", KeyValue { version: 3, ..content }, 0xa5e6_1a0d_ded9_fb72),
        ];
        for (key, content, expected) in keys {
            assert_eq!(digest_key(key, &content), expected, "{key:?}: {content:?}");
        }
    }

    #[test]
    fn the_digest_of_an_outcome_covers_all_that_is_remembered() {
        let revision = Revision(5);
        let remembered = |answer| Remembered {
            index: LogIndex(9),
            time: LogTime(1000),
            key: Bytes::from_static(b"once"),
            request_hash: 77,
            answer,
        };
        let deleted = || remembered(Answer::Deleted { revision });
        let create_revision = Revision(3);
        let outcomes = [
            (remembered(Answer::Put { revision, create_revision, version: 2 }), 0xe713_ff09_fced_fad5),
            (deleted(), 0x86d8_3b7d_68d6_1f25),
            (remembered(Answer::KeyNotFound { revision }), 0x7c5f_588f_ee31_b667),
            (remembered(Answer::PreconditionFailed { mod_revision: None }), 0x2ff4_2f83_bb26_4ce4),
            (remembered(Answer::PreconditionFailed { mod_revision: Some(revision) }), 0xa051_9e44_aadd_c197),
            (remembered(Answer::IdempotencyConflict), 0xfa34_1f9e_0437_0e3a),
            (Remembered { index: LogIndex(10), ..deleted() }, 0xd481_3842_5734_dd86),
            (Remembered { time: LogTime(1001), ..deleted() }, 0x7cf5_bab0_e136_59c5),
            (Remembered { key: Bytes::from_static(b"twice"), ..deleted() }, 0xb3f8_62c3_71d9_f581),
            (Remembered { request_hash: 78, ..deleted() }, 0x43ee_a9a1_3901_2256),
        ];
        for (outcome, expected) in outcomes {
            assert_eq!(digest_outcome(&outcome), expected, "{outcome:?}");
        }
    }

    #[test]
    fn the_digest_of_a_state_is_the_same_in_every_build_of_one_scheme() {
        assert_eq!(DIGEST_SCHEME, 1, "the digests below are of another scheme");
        let mut store = Store::default();
        assert_eq!(store.hash(), 0xa706_dd2f_4d19_7e6f);
        let named = |name: &'static [u8], operation| Command {
            operation,
            idempotency_key: Some(IdempotencyKey::new(name).unwrap()),
        };
        let commands = [
            put(b"a", b"1", Condition::Always).into(),
            put(b"b", b"2", Condition::Always).into(),
            put(b"b", b"3", Condition::Absent).into(),
            named(b"n", delete(b"a", Condition::Present)),
            put(b"b", b"3", Condition::ModRevision(Revision(2))).into(),
        ];
        for (index, command) in (1..).zip(commands) {
            store.apply(LogIndex(index), LogTime(index + 5), command, &mut Vec::new());
        }
        // The key `b`, the outcome of the deletion, and the revision.
        assert_eq!((store.revision(), store.hash()), (Revision(4), 0x76fc_d9b0_26cb_9324));
    }
}
