//! What happens on one connection: a request is in progress until its answer's body has ended or its client is gone,
//! and a connection is idle when no byte moves on it and the next move is the client's.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

use crate::tls::{Idle, Moved};

/// Requests on one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    begun: AtomicU64,
    in_progress: AtomicU64,
    /// Requests in progress of which the node has the next move: it works on the answer, or waits for something to send.
    owed: AtomicU64,
    moved: Moved,
}

/// One request in progress. It also ends when the client takes it back.
pub(super) struct InProgress {
    activity: Arc<Activity>,
    is_owed: bool,
}

/// The body of an answer, as long as which its request is in progress.
pub(super) struct Answer {
    body: Body,
    request: InProgress,
}

impl Activity {
    pub(super) fn moved(&self) -> Moved {
        self.moved.clone()
    }

    /// Requests that have begun so far.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether nothing is in progress, nothing has begun since there were `begun` requests, and no byte was written for
    /// `timeout`: the end of an answer may still be on its way. Bytes may have been read, of a head that does not end.
    pub(super) fn is_unused_since(&self, begun: u64, timeout: Duration) -> bool {
        self.begun() == begun
            && self.in_progress.load(Ordering::Relaxed) == 0
            && self.moved.wrote_at().elapsed() >= timeout
    }

    /// Whether the client has the next move, and no byte moved for `timeout`.
    pub(super) fn is_stuck(&self, timeout: Duration) -> bool {
        self.owed.load(Ordering::Relaxed) == 0 && self.moved.at().elapsed() >= timeout
    }
}

impl Idle for Activity {
    fn idle_since(&self) -> Option<Instant> {
        (self.in_progress.load(Ordering::Relaxed) == 0 || self.owed.load(Ordering::Relaxed) == 0)
            .then(|| self.moved.at())
    }
}

impl InProgress {
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::Relaxed);
        activity.in_progress.fetch_add(1, Ordering::Relaxed);
        activity.owed.fetch_add(1, Ordering::Relaxed);
        Self { activity: Arc::clone(activity), is_owed: true }
    }

    /// The answer, its head complete.
    pub(super) fn answered(self, body: Body) -> Answer {
        Answer { body, request: self }
    }

    fn set_owed(&mut self, is_owed: bool) {
        match (std::mem::replace(&mut self.is_owed, is_owed), is_owed) {
            (false, true) => {
                self.activity.owed.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                self.activity.owed.fetch_sub(1, Ordering::Relaxed);
            }
            (false, false) | (true, true) => {}
        }
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.set_owed(false);
        self.activity.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // Without a next piece the node owes one; with one, the client must take it.
        self.request.set_owed(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
