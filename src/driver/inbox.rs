//! Where the transport puts what arrives for the core, bounded in number and in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Sender;

use super::core_thread::{Done, FromPeer};
use crate::raft::{Event, Message};
use crate::replica::snapshot::{self, Receive};
use crate::types::{NodeId, ProposalId};

/// The bytes of peers' messages that wait for the core.
#[derive(Clone)]
pub(super) struct Waiting {
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The room that one message takes while it waits, given back when it is dropped.
pub(super) struct Room {
    of: Arc<AtomicUsize>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: Arc::default(), bytes_max }
    }

    /// Room for a message, if there is any; when nothing waits there is, however large the message.
    fn room(&self, bytes: usize) -> Option<Room> {
        let fits = |waiting: usize| {
            let sum = waiting.saturating_add(bytes);
            (waiting == 0 || sum <= self.bytes_max).then_some(sum)
        };
        let taken = self.bytes.try_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.ok().map(|_| Room { of: Arc::clone(&self.bytes), bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where the transport puts what arrives.
#[derive(Clone)]
pub struct Inbox {
    messages: Sender<FromPeer>,
    waiting: Waiting,
    done: Sender<Done>,
    snapshots: Arc<dyn Receive>,
}

impl Inbox {
    pub(super) fn new(
        messages: Sender<FromPeer>,
        waiting: Waiting,
        done: Sender<Done>,
        snapshots: Arc<dyn Receive>,
    ) -> Self {
        Self { messages, waiting, done, snapshots }
    }

    /// Who takes snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Arc<dyn Receive> {
        Arc::clone(&self.snapshots)
    }

    /// Sending a snapshot has ended. Waits for room, of which the core always makes some.
    pub fn snapshot_sent(&self, outcome: snapshot::Outcome) {
        let snapshot::Outcome { to, session, term, sent } = outcome;
        // Fails only if the replica has stopped.
        let _ = self.done.send(Done::Event(Event::SnapshotSent { to, session, term, sent }));
    }

    /// A checked message of a peer. False if the queue is full and the message was dropped.
    #[must_use]
    pub fn deliver(&self, from: NodeId, message: Message) -> bool {
        let bytes = size_of::<Message>() + message.load().bytes;
        let Some(room) = self.waiting.room(bytes) else { return false };
        self.messages.try_send(FromPeer::Message(from, message, room)).is_ok()
    }

    /// Messages that were taken for sending were lost after all; `unsent` are the forwarded writes that certainly never
    /// left. False if the queue is full.
    #[must_use]
    pub fn send_dropped(&self, to: NodeId, unsent: Vec<ProposalId>) -> bool {
        self.messages.try_send(FromPeer::Dropped(to, unsent)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use crossbeam_channel::bounded;

    use super::*;
    use crate::raft::Signal;
    use crate::replica::snapshot::{Chunk, Header, Offered, Refused};

    struct NoSnapshots;

    impl Receive for NoSnapshots {
        fn offer(&self, _: NodeId, _: Header) -> Result<Offered, Refused> {
            unreachable!("no snapshot is sent here")
        }

        fn chunk(&self, _: NodeId, _: u64, _: &Chunk) -> Result<bool, Refused> {
            unreachable!("no snapshot is sent here")
        }
    }

    fn forward(bytes: usize) -> Message {
        let command = Bytes::from(vec![0; bytes]);
        Message::Signal(Signal::Forward { proposals: vec![(ProposalId(1), command)] })
    }

    #[test]
    fn messages_wait_up_to_a_number_of_bytes_and_one_of_any_size() {
        let (messages_in, messages) = bounded(100);
        let (done, _done) = bounded(1);
        let inbox = Inbox::new(messages_in, Waiting::new(10_000), done, Arc::new(NoSnapshots));
        assert!(inbox.deliver(NodeId(2), forward(50_000)), "one always fits");
        assert!(!inbox.deliver(NodeId(2), forward(0)));
        drop(messages.recv().unwrap());
        let taken = (0..100).filter(|_| inbox.deliver(NodeId(2), forward(3_000))).count();
        assert_eq!(taken, 3);
        drop(messages.recv().unwrap());
        assert!(inbox.deliver(NodeId(2), forward(3_000)));
        drop(messages.try_iter().collect::<Vec<_>>());
        assert_eq!(inbox.waiting.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_message_that_the_queue_does_not_take_gives_its_room_back() {
        let (messages_in, messages) = bounded(1);
        let (done, _done) = bounded(1);
        let inbox = Inbox::new(messages_in, Waiting::new(10_000), done, Arc::new(NoSnapshots));
        let taken = (0..10).filter(|_| inbox.deliver(NodeId(2), forward(100))).count();
        assert_eq!(taken, 1);
        drop(messages.recv().unwrap());
        assert_eq!(inbox.waiting.bytes.load(Ordering::Relaxed), 0);
    }
}
