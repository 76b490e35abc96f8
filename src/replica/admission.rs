//! What a peer may hand to a replica: the last check before [`Core::handle`](super::Core::handle). The transport calls
//! it for every message, and so does the simulator for those of a member that lies.

use bytes::Bytes;

use super::CoreOutput;
use crate::kv::{Command, CommandError};
use crate::raft::{Entry, Event, Message, Payload, Refusal, RefusalReason, Signal, Unfit};
use crate::types::LogIndex;

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
    /// A forwarded write that no version of this program makes.
    #[error("a forwarded write: {0}")]
    Forwarded(CommandError),
}

/// Whether a correct peer could have sent the message, and this node could apply what it carries.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(message: &Message) -> Result<(), Refused> {
    message.check()?;
    check_commands(message)
}

/// The part of [`check`] that looks into commands.
///
/// # Errors
/// The first command that breaks a rule.
pub fn check_commands(message: &Message) -> Result<(), Refused> {
    match message {
        Message::Signal(Signal::Append(append)) => append.entries.iter().try_for_each(check_entry),
        Message::Signal(Signal::Forward { proposals }) => {
            proposals.iter().try_for_each(|(_, command)| check_forwarded(command))
        }
        Message::Signal(_) | Message::Promise(_) => Ok(()),
    }
}

/// Whether this node could apply the entry.
fn check_entry(entry: &Entry) -> Result<(), Refused> {
    match &entry.payload {
        Payload::Noop | Payload::Configuration(_) => Ok(()),
        Payload::Command(data) => match Command::decode(data) {
            Ok(_) => Ok(()),
            Err(source) => Err(Refused::Entry { index: entry.index, source }),
        },
    }
}

/// A command that only a later version knows passes: the core refuses that one write, and not all that came with it.
fn check_forwarded(data: &Bytes) -> Result<(), Refused> {
    match Command::decode(data) {
        Err(error) if !error.is_unknown() => Err(Refused::Forwarded(error)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Takes out of an event the writes that not every replica could apply, and refuses them: once such a command is
/// committed, each replica halts at it, again after each restart. The core itself does not look into commands.
pub(super) fn without_unappliable(event: Event, out: &mut CoreOutput) -> Event {
    let refusal = Refusal::not_applied(RefusalReason::ClusterVersion);
    match event {
        Event::Propose { proposals } => {
            let (kept, refused): (Vec<_>, Vec<_>) =
                proposals.into_iter().partition(|proposal| Command::decode(&proposal.command).is_ok());
            out.failed_writes.extend(refused.into_iter().map(|proposal| (proposal.id, refusal)));
            Event::Propose { proposals: kept }
        }
        Event::Message { from, message: Message::Signal(Signal::Forward { proposals }) } => {
            let (kept, refused): (Vec<_>, Vec<_>) =
                proposals.into_iter().partition(|(_, command)| Command::decode(command).is_ok());
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
    use crate::raft::Append;
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
        assert_eq!(check(&append(good.clone())), Ok(()));
        assert_eq!(check(&forward(good)), Ok(()));
        let poison = Bytes::from_static(b"\x01\x01");
        assert_eq!(
            check(&append(poison.clone())).unwrap_err().to_string(),
            "entry 1: not a command: cut short"
        );
        assert_eq!(
            check(&forward(poison)).unwrap_err().to_string(),
            "a forwarded write: not a command: cut short"
        );
        let newer = Bytes::from_static(b"\xff new");
        assert_eq!(
            check(&append(newer.clone())).unwrap_err().to_string(),
            "entry 1: not a command: unknown version"
        );
        assert_eq!(check(&forward(newer)), Ok(()));
    }
}
