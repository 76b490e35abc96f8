//! What a peer may hand to a replica: the last check before [`Core::handle`](super::Core::handle). The transport calls
//! it for every message, and so does the simulator for those of a member that lies.

use bytes::Bytes;

use super::CoreOutput;
use crate::kv::{Command, CommandError};
use crate::raft::{Entry, Event, Message, Payload, Refusal, RefusalReason, Signal, Snapshot, Unfit};
use crate::types::{FeatureLevel, LogIndex};

/// Why a message does not reach the core.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// No correct peer sends it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// An entry whose command no replica could apply.
    #[error("entry {index}: {source}")]
    Entry {
        /// The entry.
        index: LogIndex,
        /// What is wrong.
        source: CommandError,
    },
    /// What only a program of a higher feature level understands.
    #[error(
        "entry {index} needs feature level {needed}, and this program understands {understood}: use a newer version"
    )]
    Level {
        /// The entry.
        index: LogIndex,
        /// The level of what it carries.
        needed: FeatureLevel,
        /// The level of this program.
        understood: FeatureLevel,
    },
    /// A forwarded write that no version of this program makes.
    #[error("a forwarded write: {0}")]
    Forwarded(CommandError),
}

/// Whether a correct peer could have sent the message, and a node of feature level `understood` could apply what it
/// carries.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(message: &Message, understood: FeatureLevel) -> Result<(), Refused> {
    message.check()?;
    check_content(message, understood)
}

/// The part of [`check`] that looks into what entries carry.
///
/// # Errors
/// The first entry or command that breaks a rule.
pub fn check_content(message: &Message, understood: FeatureLevel) -> Result<(), Refused> {
    match message {
        Message::Signal(Signal::Append(append)) => {
            append.entries.iter().try_for_each(|entry| check_entry(entry, understood))
        }
        Message::Signal(Signal::Forward { proposals }) => {
            proposals.iter().try_for_each(|(_, command)| check_forwarded(command))
        }
        Message::Signal(_) | Message::Promise(_) => Ok(()),
    }
}

/// Whether this node could apply the entry.
fn check_entry(entry: &Entry, understood: FeatureLevel) -> Result<(), Refused> {
    let index = entry.index;
    let needed = match &entry.payload {
        Payload::Noop => FeatureLevel(0),
        Payload::Configuration(configuration) => configuration.feature_level,
        Payload::Command(data) => {
            Command::decode(data).map_err(|source| Refused::Entry { index, source })?;
            Command::feature_level(data)
        }
    };
    if needed > understood { Err(Refused::Level { index, needed, understood }) } else { Ok(()) }
}

/// Whether a node of feature level `understood` could run on a snapshot.
///
/// # Errors
/// [`Refused::Level`]
pub fn check_snapshot(snapshot: &Snapshot, understood: FeatureLevel) -> Result<(), Refused> {
    let (index, needed) = (snapshot.configuration_index, snapshot.configuration.feature_level);
    if needed > understood { Err(Refused::Level { index, needed, understood }) } else { Ok(()) }
}

/// A command that only a later version knows passes: the core refuses that one write, and not all that came with it.
fn check_forwarded(data: &Bytes) -> Result<(), Refused> {
    match Command::decode(data) {
        Err(error) if !error.is_unknown() => Err(Refused::Forwarded(error)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Takes out of an event the writes that not every replica could apply, and refuses them: once such a command is
/// committed, each replica halts at it, again after each restart. `level` is the cluster's: a command above it waits for
/// the upgrade of all members. The core itself does not look into commands.
pub(super) fn without_unappliable(event: Event, level: FeatureLevel, out: &mut CoreOutput) -> Event {
    let is_known = |data: &Bytes| Command::feature_level(data) <= level && Command::decode(data).is_ok();
    let refusal = Refusal::not_applied(RefusalReason::ClusterVersion);
    match event {
        Event::Propose { proposals } => {
            let (kept, refused): (Vec<_>, Vec<_>) =
                proposals.into_iter().partition(|proposal| is_known(&proposal.command));
            out.failed_writes.extend(refused.into_iter().map(|proposal| (proposal.id, refusal)));
            Event::Propose { proposals: kept }
        }
        Event::Message { from, message: Message::Signal(Signal::Forward { proposals }) } => {
            let (kept, refused): (Vec<_>, Vec<_>) =
                proposals.into_iter().partition(|(_, command)| is_known(command));
            if !refused.is_empty() {
                let answers = refused.into_iter().map(|(id, _)| (id, Err(refusal))).collect();
                out.sends.push((from, Signal::Forwarded { answers }.into()));
            }
            Event::Message { from, message: Signal::Forward { proposals: kept }.into() }
        }
        event => event,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Condition, Operation};
    use crate::raft::{Append, Configuration};
    use crate::types::{LogPosition, LogTime, ProposalId, Session, Term};

    fn append(command: Bytes) -> Message {
        let (index, term) = (LogIndex(1), Term(1));
        let entry = Entry { term, index, time: LogTime(0), payload: Payload::Command(command) };
        let (prev, commit_index) = (LogPosition::default(), LogIndex(0));
        Signal::Append(Append {
            term,
            session: Session(1),
            prev,
            entries: vec![entry],
            commit_index,
            round: 1,
            unheard: false,
            election_timeout_ms: 0,
        })
        .into()
    }

    fn forward(command: Bytes) -> Message {
        Signal::Forward { proposals: vec![(ProposalId(1), command)] }.into()
    }

    #[test]
    fn no_entry_gets_in_that_cannot_be_applied() {
        let (key, condition) = (Bytes::from_static(b"k"), Condition::Always);
        let good = Command::from(Operation::Delete { key, condition }).encode();
        assert_eq!(check(&append(good.clone()), FeatureLevel(0)), Ok(()));
        assert_eq!(check(&forward(good), FeatureLevel(0)), Ok(()));
        let poison = Bytes::from_static(b"\x01\x01");
        assert_eq!(
            check(&append(poison.clone()), FeatureLevel(0)).unwrap_err().to_string(),
            "entry 1: not a command: cut short"
        );
        assert_eq!(
            check(&forward(poison), FeatureLevel(0)).unwrap_err().to_string(),
            "a forwarded write: not a command: cut short"
        );
        let newer = Bytes::from_static(b"\xff new");
        assert_eq!(
            check(&append(newer.clone()), FeatureLevel(0)).unwrap_err().to_string(),
            "entry 1: not a command: unknown version"
        );
        assert_eq!(check(&forward(newer), FeatureLevel(0)), Ok(()));
    }

    #[test]
    fn what_is_above_the_level_of_this_program_is_refused() {
        let (key, condition) = (Bytes::from_static(b"k"), Condition::Always);
        let command = Command::from(Operation::Delete { key, condition }).encode_2();
        let level = |needed, understood| {
            let (needed, understood) = (FeatureLevel(needed), FeatureLevel(understood));
            Err(Refused::Level { index: LogIndex(1), needed, understood })
        };
        assert_eq!(check(&append(command.clone()), FeatureLevel(0)), level(1, 0));
        assert_eq!(check(&append(command), FeatureLevel(1)), Ok(()));
        let voters = [(crate::types::NodeId(1), crate::raft::Member::default())].into();
        let feature_level = FeatureLevel(2);
        let raised = Configuration { voters, feature_level, ..Configuration::default() };
        let (index, term) = (LogIndex(1), Term(1));
        let payload = Payload::Configuration(raised.clone().into());
        let entry = Entry { term, index, time: LogTime(0), payload };
        assert_eq!(check_entry(&entry, FeatureLevel(1)), level(2, 1));
        let position = LogPosition { index, term };
        let configuration = raised.into();
        let snapshot = Snapshot { position, time: LogTime(0), configuration, configuration_index: index };
        assert_eq!(check_snapshot(&snapshot, FeatureLevel(1)), level(2, 1));
        assert_eq!(check_snapshot(&snapshot, FeatureLevel(2)), Ok(()));
    }
}
