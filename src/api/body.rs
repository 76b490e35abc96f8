//! Reading a request's body without trusting its sender.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::Problem;

/// How much of a refused body is still taken, so that the client reads the answer instead of a reset.
const DISCARD_BYTES_MAX: usize = 8 << 20;
/// For how long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the whole body; refuses it as soon as its announced or its actual length passes `bytes_max`.
pub(super) async fn read_body(mut body: Body, bytes_max: usize, deadline: Instant) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > bytes_max as u64 {
        discard(body);
        return Err(Problem::too_large("body", bytes_max));
    }
    match timeout_at(deadline, read_frames(&mut body, bytes_max)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => {
            discard(body);
            Err(Problem::too_large("body", bytes_max))
        }
        Ok(Err(error)) => Err(Problem::bad_request(format!("the body ended early: {error}"))),
        Err(_elapsed) => Err(Problem::timeout_before_proposal("the body did not arrive before the deadline")),
    }
}

/// Whether the body has nothing in it, announced or not.
pub(super) async fn is_empty(body: Body, deadline: Instant) -> Result<bool, Problem> {
    if body.is_end_stream() {
        return Ok(true);
    }
    match read_body(body, 0, deadline).await {
        Ok(_) => Ok(true),
        Err(problem) if problem.status == StatusCode::PAYLOAD_TOO_LARGE => Ok(false),
        Err(problem) => Err(problem),
    }
}

/// `None`: longer than `bytes_max`.
async fn read_frames(body: &mut Body, bytes_max: usize) -> Result<Option<Bytes>, axum::Error> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        // Trailers are of no interest here.
        let Ok(data) = frame?.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total > bytes_max {
            return Ok(None);
        }
        // Most bodies are one frame and are not copied.
        if first.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
        }
    }
    Ok(Some(if more.is_empty() { first } else { more.freeze() }))
}

/// Takes and forgets a bounded part of what is left, beside the answer.
fn discard(mut body: Body) {
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
