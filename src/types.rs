//! The names everything else is written in: identifiers, terms, indexes, revisions, nodes' names and addresses. No logic.

mod address;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use address::{Address, AddressError, Name, NameError};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The value that follows this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The value before this one; zero stays zero.
            #[must_use]
            pub fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }
    };
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, IdentityError> {
                // `from_str_radix` alone takes a sign and any length.
                let is_shown_so = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let number = u64::from_str_radix(text, 16).ok().filter(|_| is_shown_so);
                number.map(Self).ok_or(IdentityError)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A text that is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 16 hex digits")]
pub struct IdentityError;

identity! {
    /// A node: random, drawn when its data directory is first used, so that a directory that was
    /// emptied is another node and no vote is forgotten. Shown as 16 hex digits.
    NodeId
}
identity! {
    /// A cluster: random, drawn once when it is formed. Shown as 16 hex digits.
    ClusterId
}

number! {
    /// Raft's logical clock (paper, 5.1). The first election is term 1 or later; 0 means "none yet".
    Term
}
number! {
    /// The place of an entry in the log; the first entry is 1, 0 means "before the first".
    LogIndex
}
number! {
    /// One for each applied write; 0 is the empty store.
    Revision
}
number! {
    /// One append handed to the log thread. Strictly rising within a process.
    IoId
}
number! {
    /// A write that waits for its outcome. Unique for the process and unlikely to be met again
    /// after a restart: the driver starts counting at a random place.
    ProposalId
}
number! {
    /// A read, or a batch of reads, that waits for its read index. Unique as `ProposalId` is.
    ReadId
}
number! {
    /// A request of an administrator that waits for its outcome: a change of members, a transfer of leadership.
    RequestId
}
number! {
    /// The log's own clock, in microseconds since the cluster was formed, as far as there were leaders to count
    /// them: each leader stamps the entries it makes, never below an earlier stamp. All replicas agree on it, and
    /// no wall clock is in it, so nothing that depends on it can expire early because a clock was set.
    LogTime
}
number! {
    /// A snapshot that was received whole and waits to be installed. Unique within a process.
    StagedId
}
number! {
    /// What a program understands of what others of its cluster write: a program of a level understands all that is
    /// below it, too. 0 is the level of the first release.
    FeatureLevel
}
number! {
    /// A membership of one node: the index of the entry that added it. A node that was removed and
    /// added again has another session, so that old acknowledgements do not count.
    Session
}

/// A digest of the applied state, to compare replicas by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateDigest {
    /// How it is computed; digests of different schemes cannot be compared.
    pub scheme: u32,
    /// The digest.
    pub value: u64,
}

impl StateDigest {
    /// Whether the two can be compared, and are of different states.
    #[must_use]
    pub fn differs(self, other: Self) -> bool {
        self.scheme == other.scheme && self.value != other.value
    }
}

/// An entry's place and the term it was made in: what two logs are compared by (paper, 5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// Place in the log.
    pub index: LogIndex,
    /// Term of the entry at that place.
    pub term: Term,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// A point on the monotonic clock that the core is driven by, in microseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// This instant moved later; saturates.
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// The time from `earlier` to this instant; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_is_shown_and_in_no_other_way() {
        assert_eq!(NodeId(0xabc).to_string().parse(), Ok(NodeId(0xabc)));
        assert_eq!("00000000000000AB".parse(), Ok(ClusterId(0xab)));
        for text in
            ["", "1", "+1", "+000000000000001", "-000000000000001", "0x00000000000001", "00000000000000001"]
        {
            assert_eq!(text.parse::<NodeId>(), Err(IdentityError), "{text}");
        }
    }
}
