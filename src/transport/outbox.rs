//! The queue of messages for one peer: filled by any thread, emptied by the stream to that peer.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio_stream::Stream;

use super::convert::{self, ENTRY_BYTES_MAX, GRPC_BYTES_MAX, ITEMS_MAX};
use super::proto;
use crate::metrics::{IntCounter, IntGauge};
use crate::raft::{Message, Payload, Signal};
use crate::types::ProposalId;

/// A frame is closed when it holds this many bytes; a larger message goes alone.
const FRAME_BYTES: usize = 1 << 20;
/// Messages in one frame.
pub(super) const FRAME_MESSAGES_MAX: usize = 4096;
/// Left for the frame's own fields, in bytes.
const FRAME_OVERHEAD_BYTES: usize = 4096;

/// A message that will not reach its peer. The sender raises `Event::SendDropped`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// The peer is neither a member nor in contact.
    #[error("unknown peer")]
    UnknownPeer,
    /// There is no stream to the peer now.
    #[error("not connected")]
    NotConnected,
    /// Too much waits for the peer already.
    #[error("queue full")]
    QueueFull,
    /// No peer would take a message of this size.
    #[error("message too large")]
    TooLarge,
}

/// The queue for one peer. Open only while there is a stream to empty it.
pub(super) struct Outbox {
    state: Mutex<State>,
    messages_max: usize,
    bytes_max: usize,
    failures: IntCounter,
    length: IntGauge,
}

#[derive(Default)]
struct State {
    open: bool,
    /// Counts streams: one that was abandoned may still be polled for a while and must not take messages.
    generation: u64,
    messages: VecDeque<(Message, usize)>,
    bytes: usize,
    waker: Option<Waker>,
}

impl Outbox {
    /// A closed queue. `failures` counts the messages that were dropped, `length` shows how many wait.
    pub(super) fn new(messages_max: usize, bytes_max: usize, failures: IntCounter, length: IntGauge) -> Self {
        Self { state: Mutex::default(), messages_max, bytes_max, failures, length }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; were it to, the queue would still be consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message at the end. Never blocks for longer than another push or a frame takes.
    pub(super) fn push(&self, message: Message) -> Result<(), Dropped> {
        let result = self.try_push(message);
        if result.is_err() {
            self.failures.inc();
        }
        result
    }

    fn try_push(&self, message: Message) -> Result<(), Dropped> {
        match message {
            Message::Signal(Signal::Forward { proposals }) => self.enqueue(&mut split_forward(proposals)),
            message => {
                let size = convert::size_bytes(&message);
                self.enqueue(&mut [(Some(message), size)])
            }
        }
    }

    /// Takes all of `parts`, each a message and its size, or none.
    fn enqueue(&self, parts: &mut [(Option<Message>, usize)]) -> Result<(), Dropped> {
        if !parts.iter().all(|(message, size)| message.as_ref().is_none_or(|message| fits(message, *size))) {
            return Err(Dropped::TooLarge);
        }
        let size: usize = parts.iter().map(|(_, size)| size).sum();
        let mut state = self.lock();
        if !state.open {
            return Err(Dropped::NotConnected);
        }
        let full =
            state.messages.len() + parts.len() > self.messages_max || state.bytes + size > self.bytes_max;
        if full && !state.messages.is_empty() {
            return Err(Dropped::QueueFull);
        }
        state.bytes += size;
        state.messages.extend(parts.iter_mut().filter_map(|(message, size)| Some((message.take()?, *size))));
        self.length.set(to_gauge(state.messages.len()));
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Opens the queue for a new stream; the one before ends. `first` is the stream's first frame.
    pub(super) fn open(self: &Arc<Self>, first: proto::Frame) -> Frames {
        let mut state = self.lock();
        state.open = true;
        state.generation += 1;
        Frames {
            outbox: Arc::clone(self),
            generation: state.generation,
            route: first.route,
            first: Some(first),
        }
    }

    /// Closes the queue, ends its stream and drops what waits. Returns the forwarded writes that were dropped: no stream
    /// had taken them, so they certainly never left.
    pub(super) fn close(&self) -> Vec<ProposalId> {
        let mut state = self.lock();
        state.open = false;
        state.generation += 1;
        self.failures.inc_by(state.messages.len() as u64);
        let dropped = std::mem::take(&mut state.messages);
        state.bytes = 0;
        self.length.set(0);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        drop(state);
        dropped.iter().flat_map(|(message, _)| message.forwarded()).collect()
    }
}

/// Cuts a batch of forwarded writes, which nothing else bounds, into messages that fit a frame.
fn split_forward(proposals: Vec<(ProposalId, Bytes)>) -> Vec<(Option<Message>, usize)> {
    let (mut parts, mut part, mut size) = (Vec::new(), Vec::new(), 0);
    let message = |proposals: Vec<_>| {
        let message = Signal::Forward { proposals }.into();
        let size = convert::size_bytes(&message);
        (Some(message), size)
    };
    for proposal in proposals {
        let bytes = convert::proposal_bytes(&proposal.1);
        if size + bytes > FRAME_BYTES && !part.is_empty() {
            parts.push(message(std::mem::take(&mut part)));
            size = 0;
        }
        size += bytes;
        part.push(proposal);
    }
    parts.push(message(part));
    parts
}

/// Whether a peer's checks on sizes would let the message pass.
fn fits(message: &Message, size: usize) -> bool {
    let items_fit = match message {
        Message::Signal(Signal::Append(append)) => {
            append.entries.len() <= ITEMS_MAX
                && append.entries.iter().all(|entry| match &entry.payload {
                    Payload::Command(command) => command.len() <= ENTRY_BYTES_MAX,
                    Payload::Noop | Payload::Configuration(_) => true,
                })
        }
        Message::Signal(Signal::Forward { proposals }) => {
            proposals.len() <= ITEMS_MAX
                && proposals.iter().all(|(_, command)| command.len() <= ENTRY_BYTES_MAX)
        }
        Message::Signal(Signal::Forwarded { answers }) => answers.len() <= ITEMS_MAX,
        Message::Signal(_) | Message::Promise(_) => true,
    };
    items_fit && size <= GRPC_BYTES_MAX - FRAME_OVERHEAD_BYTES
}

fn to_gauge(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// One stream's frames. Each takes what waits, up to a limit, so that gRPC's costs are shared.
pub(super) struct Frames {
    outbox: Arc<Outbox>,
    generation: u64,
    route: Option<proto::Route>,
    first: Option<proto::Frame>,
}

impl Stream for Frames {
    type Item = proto::Frame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<proto::Frame>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let mut state = self.outbox.lock();
        if state.generation != self.generation {
            return Poll::Ready(None);
        }
        if state.messages.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (mut bytes, mut count) = (0, 0);
        while let Some((_, size)) = state.messages.get(count) {
            if count > 0 && (bytes + size > FRAME_BYTES || count == FRAME_MESSAGES_MAX) {
                break;
            }
            bytes += size;
            count += 1;
        }
        state.bytes -= bytes;
        let messages: Vec<_> = state.messages.drain(..count).collect();
        self.outbox.length.set(to_gauge(state.messages.len()));
        drop(state);
        let messages = messages.into_iter().map(|(message, _)| convert::to_wire(message)).collect();
        Poll::Ready(Some(proto::Frame { route: self.route, introduction: None, messages }))
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
