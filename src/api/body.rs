//! Reading a request's body without trusting its sender.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::Problem;
use super::budget::{Budget, Share};

/// How much of a refused body is still taken, so that the client reads the answer instead of a reset.
const DISCARD_BYTES_MAX: usize = 8 << 20;
/// For how long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// What a slow body must bring in each [`Time::request_timeout`] to be waited for any longer.
const PROGRESS_BYTES: usize = 64 << 10;

/// A share of the budget is taken for so many bytes at a time where the length of a body is not announced.
const STEP_BYTES: usize = 64 << 10;

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    started: Instant,
    /// What its client asked for: all must be done by then, the body's way here included.
    asked: Option<Duration>,
    request_timeout: Duration,
}

/// A body that came whole, and its share of the memory for requests: to be kept until the request is answered.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    pub(super) share: Share,
    /// Until when the request must be answered.
    pub(super) deadline: Instant,
}

/// Why a body was not received.
enum Failed {
    TooLarge,
    Problem(Problem),
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Time {
    pub(super) fn new(started: Instant, asked: Option<Duration>, request_timeout: Duration) -> Self {
        let asked = asked.filter(|asked| *asked < request_timeout);
        Self { started, asked, request_timeout }
    }

    /// When a request without a body must be answered.
    pub(super) fn deadline(&self) -> Instant {
        self.started + self.asked.unwrap_or(self.request_timeout)
    }

    /// When a request must be answered whose body has arrived just now.
    fn deadline_from_now(&self) -> Instant {
        self.asked.map_or_else(|| Instant::now() + self.request_timeout, |asked| self.started + asked)
    }
}

/// Reads the whole body; refuses it as soon as its announced or its actual length passes `bytes_max`. Its memory is
/// taken from `budget` before the first byte is read if its length is announced, else as it grows. A slow body is
/// waited for while it makes progress, unless the client asked for a time.
pub(super) async fn receive(
    mut body: Body,
    bytes_max: usize,
    time: Time,
    budget: &Budget,
) -> Result<Received, Problem> {
    let announced = body.size_hint();
    if announced.lower() > bytes_max as u64 {
        discard(body);
        return Err(Problem::too_large("body", bytes_max));
    }
    match read_shared(&mut body, bytes_max, time, budget).await {
        Ok((bytes, share)) => Ok(Received { bytes, share, deadline: time.deadline_from_now() }),
        Err(failed) => {
            discard(body);
            Err(match failed {
                Failed::TooLarge => Problem::too_large("body", bytes_max),
                Failed::Problem(problem) => problem,
            })
        }
    }
}

async fn read_shared(
    body: &mut Body,
    bytes_max: usize,
    time: Time,
    budget: &Budget,
) -> Result<(Bytes, Share), Failed> {
    let exact = body.size_hint().exact().and_then(|exact| usize::try_from(exact).ok());
    let mut shared = exact.unwrap_or(0);
    let mut share = budget.take(shared, time.deadline()).await?;
    let mut content = Content::default();
    let mut due = Due::new(time);
    loop {
        let frame = match timeout_at(due.at, body.frame()).await {
            Ok(None) => return Ok((content.whole(), share)),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                return Err(Problem::bad_request(format!("the body ended early: {error}")).into());
            }
            Err(_elapsed) => {
                let detail = "the body did not arrive before the deadline";
                return Err(Problem::timeout_before_proposal(detail).into());
            }
        };
        // Trailers are of no interest here.
        let Ok(data) = frame.into_data() else { continue };
        due.progressed(data.len());
        content.add(data);
        if content.bytes > bytes_max {
            return Err(Failed::TooLarge);
        }
        if content.bytes > shared {
            let more = (content.bytes - shared).max(STEP_BYTES);
            let waited_since = Instant::now();
            share.merge(budget.take(more, waited_since + time.request_timeout).await?);
            // Waiting for memory is no fault of the client's.
            due.postpone(waited_since.elapsed());
            shared += more;
        }
    }
}

/// Until when the next part of a body must have come.
struct Due {
    at: Instant,
    time: Time,
    bytes: usize,
}

impl Due {
    fn new(time: Time) -> Self {
        Self { at: time.deadline_from_now(), time, bytes: 0 }
    }

    fn progressed(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= PROGRESS_BYTES {
            *self = Self::new(self.time);
        }
    }

    fn postpone(&mut self, by: Duration) {
        if self.time.asked.is_none() {
            self.at += by;
        }
    }
}

/// What has come of a body.
#[derive(Default)]
struct Content {
    first: Bytes,
    more: BytesMut,
    bytes: usize,
}

impl Content {
    /// Most bodies are one frame and are not copied.
    fn add(&mut self, data: Bytes) {
        self.bytes = self.bytes.saturating_add(data.len());
        if self.first.is_empty() {
            self.first = data;
        } else {
            if self.more.is_empty() {
                self.more.extend_from_slice(&self.first);
            }
            self.more.extend_from_slice(&data);
        }
    }

    fn whole(self) -> Bytes {
        if self.more.is_empty() { self.first } else { self.more.freeze() }
    }
}

/// Whether the body has nothing in it, announced or not.
pub(super) async fn is_empty(body: Body, deadline: Instant) -> Result<bool, Problem> {
    if body.is_end_stream() {
        return Ok(true);
    }
    let mut body = body;
    loop {
        match timeout_at(deadline, body.frame()).await {
            Ok(None) => return Ok(true),
            Ok(Some(Ok(frame))) if frame.data_ref().is_none_or(Bytes::is_empty) => {}
            Ok(Some(Ok(_))) => {
                discard(body);
                return Ok(false);
            }
            Ok(Some(Err(error))) => {
                return Err(Problem::bad_request(format!("the body ended early: {error}")));
            }
            Err(_elapsed) => {
                let detail = "the body did not arrive before the deadline";
                return Err(Problem::timeout_before_proposal(detail));
            }
        }
    }
}

/// A body that keeps its share of the memory for answers until the client has taken it.
pub(super) fn held(bytes: Bytes, share: Share) -> Body {
    Body::new(Held { left: bytes, _share: share })
}

/// Sent in pieces, as the connection takes a next one only when there is room for it: a whole value would be taken at
/// once, and its share be free long before its client has it.
struct Held {
    left: Bytes,
    _share: Share,
}

/// Length of a piece.
const PIECE_BYTES: usize = 64 << 10;

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.left.len().min(PIECE_BYTES);
        let piece = self.left.split_to(length);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

/// Takes and forgets a bounded part of what is left, in parallel with the answer.
pub(super) fn discard(mut body: Body) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(async move {
        let _ = timeout_at(Instant::now() + DISCARD_TIMEOUT, read_discarding(&mut body)).await;
    });
}

async fn read_discarding(body: &mut Body) {
    let mut total = 0;
    while let Some(Ok(frame)) = body.frame().await {
        total += frame.data_ref().map_or(0, Bytes::len);
        if total > DISCARD_BYTES_MAX {
            return;
        }
    }
}
