//! `GET /v1/snapshot`: the whole state as a file, streamed while the cluster continues to serve.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Response, header};
use bytes::Bytes;
use futures_util::stream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::kv::{X_REVISION, time};
use super::query::Parameters;
use super::snapshot_slots::Turn;
use super::{Api, Problem, Replica};
use crate::driver::Save;

/// Pieces that wait for the client; one has up to 256 KiB, or is one large record.
const PIECES_AHEAD: usize = 2;
/// A client that takes no piece for so long has its snapshot ended: memory holds what was overwritten meanwhile.
const STALLED: Duration = Duration::from_secs(30);
/// The cluster's id, 16 hex digits.
pub(super) const X_CLUSTER: HeaderName = HeaderName::from_static("x-kuberaft-cluster");

/// `GET /v1/snapshot`.
pub(super) async fn snapshot<R: Replica>(
    api: Arc<Api<R>>,
    request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::parse(request.uri().query(), &["timeout"])?;
    let deadline = time(&api, parameters.timeout, started).deadline();
    let replica = api.replica()?;
    let turn = api.snapshots.take(api.settings.snapshot_pace_time, deadline).await?;
    let save = replica
        .snapshot(deadline.saturating_duration_since(Instant::now()))
        .await
        .map_err(Problem::read_refused)?;
    let about = save.about();
    let revision = about.revision;
    let name = format!("kuberaft-{}-{revision}.snapshot", about.cluster_id);
    let attachment = HeaderValue::try_from(format!("attachment; filename=\"{name}\""))
        .expect("digits and letters are a header value");
    let cluster = HeaderValue::try_from(about.cluster_id.to_string()).expect("hex digits are a header value");
    let (pieces_in, pieces) = mpsc::channel(PIECES_AHEAD);
    let (end_in, end) = oneshot::channel();
    let runtime = Handle::current();
    spawn_blocking(move || {
        let is_whole = send(&save, &runtime, &pieces_in, &turn);
        // What the snapshot holds is released before its slot is free.
        drop(save);
        drop(turn);
        drop(pieces_in);
        let _ = end_in.send(is_whole);
    });
    let body = stream::unfold((pieces, Some(end)), |(mut pieces, end)| async move {
        if let Some(piece) = pieces.recv().await {
            return Some((Ok(piece), (pieces, end)));
        }
        // What was not sent to its end breaks the connection, so that nobody takes it for the whole.
        let is_whole = end?.await.unwrap_or(false);
        (!is_whole).then(|| (Err(io::Error::other("the snapshot was not sent to its end")), (pieces, None)))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_DISPOSITION, attachment);
    headers.insert(X_REVISION, revision.0.into());
    headers.insert(X_CLUSTER, cluster);
    Ok(response)
}

/// Hands the file to the connection; false if that did not work out.
fn send(save: &Save, runtime: &Handle, pieces: &mpsc::Sender<Bytes>, turn: &Turn) -> bool {
    let mut ended = turn.ended();
    save.write(|piece| {
        let bytes = piece.len();
        let sent = runtime.block_on(async {
            tokio::select! {
                sent = pieces.send_timeout(piece, STALLED) => sent.is_ok(),
                _ = ended.wait_for(|ended| *ended) => false,
            }
        });
        turn.took(bytes);
        if sent { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
}
