//! Commands, their encoding, and what applying one answers.
//!
//! The encoding (version 1), integers little-endian:
//!
//! | bytes | content |
//! | --- | --- |
//! | 1 | version: 1 |
//! | 1 | kind: 1 put, 2 delete; 128 more with an idempotency key |
//! | 1 | condition: 0 always, 1 absent, 2 present, 3 mod revision |
//! | 8 | the mod revision; only with condition 3 |
//! | 1 | length of the idempotency key, 1 to 64; only with such a key |
//! | … | the idempotency key; likewise |
//! | 4 | length of the key, 1 or more |
//! | … | the key |
//! | … | put: the value, to the end; delete: nothing |
//!
//! Version 2 is version 1 with a byte 0 behind the version's, for flags that no program knows yet. It needs feature
//! level 1, which only tests use: so the way to a new encoding is walked before it is needed.
//!
//! Each command has exactly one encoding of each version.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{FeatureLevel, Revision};

const VERSION: u8 = 1;
const VERSION_2: u8 = 2;
const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
/// Added to a kind: an idempotency key comes with it.
const WITH_IDEMPOTENCY_KEY: u8 = 0x80;
const CONDITION_ALWAYS: u8 = 0;
const CONDITION_ABSENT: u8 = 1;
const CONDITION_PRESENT: u8 = 2;
const CONDITION_MOD_REVISION: u8 = 3;

/// A write, as carried by a log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What to do.
    pub operation: Operation,
    /// With one, the operation takes effect at most once, however often the command comes.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// A name that a client gives to one request, so that repeating the request does nothing more. Opaque.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey(Bytes);

/// Bytes that cannot be an idempotency key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an idempotency key has 1 to {max} bytes, not {0}", max = IdempotencyKey::BYTES_MAX)]
pub struct IdempotencyKeyError(pub usize);

impl IdempotencyKey {
    /// Longest key, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// Takes 1 to 64 bytes.
    ///
    /// # Errors
    /// None, or more.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, IdempotencyKeyError> {
        let bytes = bytes.into();
        if (1..=Self::BYTES_MAX).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(IdempotencyKeyError(bytes.len()))
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Set a key.
    Put {
        /// The key, 1 byte or more.
        key: Bytes,
        /// The value, possibly empty.
        value: Bytes,
        /// What must hold, else nothing is changed.
        condition: Condition,
    },
    /// Delete a key.
    Delete {
        /// The key, 1 byte or more.
        key: Bytes,
        /// What must hold, else nothing is changed.
        condition: Condition,
    },
}

/// What must hold of a key for a command to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key is not there (`If-None-Match: *`).
    Absent,
    /// The key is there (`If-Match: *`).
    Present,
    /// The key's `mod_revision` is this one (`If-Match: "<rev>"`).
    ModRevision(Revision),
}

/// What applying a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The key was set at this revision.
    Put {
        /// The store's revision after the write.
        revision: Revision,
        /// Revision at which the key came into being.
        create_revision: Revision,
        /// Writes to the key since then.
        version: u64,
    },
    /// The key was deleted at this revision.
    Deleted {
        /// The store's revision after the write.
        revision: Revision,
    },
    /// There was nothing to delete; no revision was used.
    KeyNotFound {
        /// The store's revision.
        revision: Revision,
    },
    /// The condition did not hold; no revision was used.
    PreconditionFailed {
        /// The key's `mod_revision`, if it is there.
        mod_revision: Option<Revision>,
    },
    /// The idempotency key was used for another request; nothing was done.
    IdempotencyConflict,
}

/// Bytes that are no command.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a command: {0}")]
pub struct CommandError(pub &'static str);

impl CommandError {
    const UNKNOWN_VERSION: Self = Self("unknown version");
    const UNKNOWN_KIND: Self = Self("unknown kind");

    /// Whether a later version of this program may know the command.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::UNKNOWN_VERSION || *self == Self::UNKNOWN_KIND
    }
}

impl From<Operation> for Command {
    /// Without idempotency key.
    fn from(operation: Operation) -> Self {
        Self { operation, idempotency_key: None }
    }
}

impl Command {
    /// As carried by log entries.
    ///
    /// # Panics
    /// A key of 4 GiB or more; the limits at the edge are far below.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, key, value, condition) = match &self.operation {
            Operation::Put { key, value, condition } => (KIND_PUT, key, &value[..], *condition),
            Operation::Delete { key, condition } => (KIND_DELETE, key, &[][..], *condition),
        };
        let idempotency_key = self.idempotency_key.as_ref().map(IdempotencyKey::as_bytes);
        let name_bytes = idempotency_key.map_or(0, |name| 1 + name.len());
        let mut out = BytesMut::with_capacity(3 + 8 + name_bytes + 4 + key.len() + value.len());
        out.put_u8(VERSION);
        out.put_u8(if idempotency_key.is_some() { kind | WITH_IDEMPOTENCY_KEY } else { kind });
        match condition {
            Condition::Always => out.put_u8(CONDITION_ALWAYS),
            Condition::Absent => out.put_u8(CONDITION_ABSENT),
            Condition::Present => out.put_u8(CONDITION_PRESENT),
            Condition::ModRevision(revision) => {
                out.put_u8(CONDITION_MOD_REVISION);
                out.put_u64_le(revision.0);
            }
        }
        if let Some(name) = idempotency_key {
            out.put_u8(u8::try_from(name.len()).expect("idempotency keys have at most 64 bytes"));
            out.put_slice(name);
        }
        out.put_u32_le(u32::try_from(key.len()).expect("keys are limited to far less than 4 GiB"));
        out.put_slice(key);
        out.put_slice(value);
        out.freeze()
    }

    /// The same in version 2 of the encoding, which needs feature level 1.
    ///
    /// # Panics
    /// As [`Command::encode`].
    #[must_use]
    pub fn encode_2(&self) -> Bytes {
        let first = self.encode();
        let mut out = BytesMut::with_capacity(1 + first.len());
        out.put_u8(VERSION_2);
        out.put_u8(0);
        out.put_slice(&first[1..]);
        out.freeze()
    }

    /// The lowest feature level of a program that understands this encoding of a command.
    #[must_use]
    pub fn feature_level(data: &[u8]) -> FeatureLevel {
        if data.first() == Some(&VERSION_2) { FeatureLevel(1) } else { FeatureLevel(0) }
    }

    /// The reverse of [`Command::encode`] and [`Command::encode_2`]; shares the bytes.
    ///
    /// # Errors
    /// Bytes that no command encodes to.
    pub fn decode(data: &Bytes) -> Result<Self, CommandError> {
        let mut rest = data.clone();
        match take_array(&mut rest)? {
            [VERSION] => {}
            [VERSION_2] => match take_array(&mut rest)? {
                [0] => {}
                [_] => return Err(CommandError::UNKNOWN_VERSION),
            },
            [_] => return Err(CommandError::UNKNOWN_VERSION),
        }
        let [kind, condition] = take_array(&mut rest)?;
        let condition = match condition {
            CONDITION_ALWAYS => Condition::Always,
            CONDITION_ABSENT => Condition::Absent,
            CONDITION_PRESENT => Condition::Present,
            CONDITION_MOD_REVISION => {
                Condition::ModRevision(Revision(u64::from_le_bytes(take_array(&mut rest)?)))
            }
            _ => return Err(CommandError("unknown condition")),
        };
        let is_named = kind & WITH_IDEMPOTENCY_KEY != 0;
        let idempotency_key = is_named.then(|| take_idempotency_key(&mut rest)).transpose()?;
        let key_len = u32::from_le_bytes(take_array(&mut rest)?);
        let key_len = usize::try_from(key_len).map_err(|_| CommandError("key longer than the command"))?;
        if key_len == 0 {
            return Err(CommandError("empty key"));
        }
        if key_len > rest.len() {
            return Err(CommandError("key longer than the command"));
        }
        let key = rest.split_to(key_len);
        let operation = match kind & !WITH_IDEMPOTENCY_KEY {
            KIND_PUT => Operation::Put { key, value: rest, condition },
            KIND_DELETE if rest.is_empty() => Operation::Delete { key, condition },
            KIND_DELETE => return Err(CommandError("a deletion with a value")),
            _ => return Err(CommandError::UNKNOWN_KIND),
        };
        Ok(Self { operation, idempotency_key })
    }
}

fn take_idempotency_key(rest: &mut Bytes) -> Result<IdempotencyKey, CommandError> {
    let [length] = take_array(rest)?;
    if usize::from(length) > rest.len() {
        return Err(CommandError("cut short"));
    }
    IdempotencyKey::new(rest.split_to(length.into()))
        .map_err(|_| CommandError("an idempotency key of a length that none has"))
}

/// Cuts `N` bytes off the front.
fn take_array<const N: usize>(rest: &mut Bytes) -> Result<[u8; N], CommandError> {
    let array = rest.first_chunk::<N>().copied().ok_or(CommandError("cut short"))?;
    let _ = rest.split_to(N);
    Ok(array)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(condition: Condition) -> Command {
        let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"value"));
        Operation::Put { key, value, condition }.into()
    }

    fn delete(condition: Condition) -> Command {
        Operation::Delete { key: Bytes::from_static(b"key"), condition }.into()
    }

    fn named(name: &[u8], command: Command) -> Command {
        let name = IdempotencyKey::new(Bytes::copy_from_slice(name)).unwrap();
        Command { idempotency_key: Some(name), ..command }
    }

    fn all() -> Vec<Command> {
        let conditions =
            [Condition::Always, Condition::Absent, Condition::Present, Condition::ModRevision(Revision(7))];
        let plain = conditions.into_iter().flat_map(|condition| [put(condition), delete(condition)]);
        plain
            .flat_map(|command| [command.clone(), named(b"n", command.clone()), named(&[0xff; 64], command)])
            .collect()
    }

    #[test]
    fn every_command_survives_the_round_trip() {
        for command in all() {
            assert_eq!(Command::decode(&command.encode_2()), Ok(command.clone()));
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
        let empty = Command::from(Operation::Put {
            key: Bytes::from_static(b"k"),
            value: Bytes::new(),
            condition: Condition::Always,
        });
        assert_eq!(Command::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn the_encoding_does_not_change_between_releases() {
        let encoded = put(Condition::ModRevision(Revision(0x0102))).encode();
        assert_eq!(&encoded[..], b"\x01\x01\x03\x02\x01\0\0\0\0\0\0\x03\0\0\0keyvalue");
        assert_eq!(&delete(Condition::Always).encode()[..], b"\x01\x02\x00\x03\0\0\0key");
        assert_eq!(&delete(Condition::Always).encode_2()[..], b"\x02\x00\x02\x00\x03\0\0\0key");
        let encoded = named(b"once", put(Condition::ModRevision(Revision(0x0102)))).encode();
        assert_eq!(&encoded[..], b"\x01\x81\x03\x02\x01\0\0\0\0\0\0\x04once\x03\0\0\0keyvalue");
    }

    #[test]
    fn decoding_shares_the_bytes() {
        let encoded = put(Condition::Always).encode();
        let Ok(Operation::Put { value, .. }) = Command::decode(&encoded).map(|command| command.operation)
        else {
            panic!("a put")
        };
        assert_eq!(value.as_ptr(), encoded[encoded.len() - 5..].as_ptr());
    }

    #[test]
    fn whatever_decodes_is_the_encoding_of_what_it_decodes_to() {
        // Every truncation and every change of one byte: an error or a command with just these bytes.
        for command in all() {
            for encoded in [command.encode(), command.encode_2()] {
                for cut in 0..encoded.len() {
                    check_hostile(&encoded.slice(..cut));
                }
                for at in 0..encoded.len() {
                    for byte in 0..=u8::MAX {
                        let mut changed = encoded.to_vec();
                        changed[at] = byte;
                        check_hostile(&changed.into());
                    }
                }
            }
        }
    }

    fn check_hostile(data: &Bytes) {
        if let Ok(command) = Command::decode(data) {
            let again =
                if Command::feature_level(data).0 == 0 { command.encode() } else { command.encode_2() };
            assert_eq!(again, data);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |data: &'static [u8], what| {
            assert_eq!(Command::decode(&Bytes::from_static(data)), Err(CommandError(what)));
        };
        check(b"", "cut short");
        check(b"\x03\x01\x00\x01\0\0\0k", "unknown version");
        check(b"\x02\x01\x01\x00\x01\0\0\0k", "unknown version");
        check(b"\x01\x03\x00\x01\0\0\0k", "unknown kind");
        check(b"\x01\x01\x04\x01\0\0\0k", "unknown condition");
        check(b"\x01\x01\x00\0\0\0\0", "empty key");
        check(b"\x01\x01\x00\xff\xff\xff\xffk", "key longer than the command");
        check(b"\x01\x02\x00\x01\0\0\0kv", "a deletion with a value");
        check(b"\x01\x83\x00\x01n\x01\0\0\0k", "unknown kind");
        check(b"\x01\x81\x00\x00\x01\0\0\0k", "an idempotency key of a length that none has");
        check(b"\x01\x81\x00\x03no", "cut short");
        check(b"\x01\x81\x00", "cut short");
        let mut long = b"\x01\x81\x00\x41".to_vec();
        long.extend([b'n'; 65]);
        let long = Command::decode(&long.into());
        assert_eq!(long, Err(CommandError("an idempotency key of a length that none has")));
    }
}
