//! The HTTP interface by which rounds are marked.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{RwLock, watch};
use tokio::time::{sleep, timeout};

use crate::chaos::{FinalReport, Load, RoundReport, table};

/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long the client that asked to finish may take to read the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is said how far finishing is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Longest name of a round in bytes.
const NAME_BYTES_MAX: usize = 200;

type Answer = Response<Full<Bytes>>;

/// The load as the interface sees it. Clones share it.
#[derive(Clone)]
pub(super) struct Control {
    /// Written only to finish.
    phase: Arc<RwLock<Phase>>,
    is_finished: watch::Sender<bool>,
}

enum Phase {
    Load(Load),
    Finishing,
    Finished(Arc<FinalReport>),
}

/// The load is finished: there are no rounds any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct IsFinished;

impl Control {
    pub(super) fn new(load: Load) -> Self {
        Self { phase: Arc::new(RwLock::new(Phase::Load(load))), is_finished: watch::channel(false).0 }
    }

    /// Ends the round that runs and begins another one, if it is given a name.
    pub(super) async fn mark(&self, round: Option<String>) -> Result<Option<RoundReport>, IsFinished> {
        let control = self.clone();
        // Whoever asked may go away; the round must be ended in order nevertheless.
        to_its_end(async move {
            let phase = control.phase.read().await;
            let Phase::Load(load) = &*phase else { return Err(IsFinished) };
            let report = match &round {
                Some(round) => load.begin(round).await,
                None => load.end().await,
            };
            if let Some(report) = &report {
                note_part!("{}", table(std::slice::from_ref(report)));
            }
            if let Some(round) = &round {
                note!("round {round} begins");
            }
            Ok(report)
        })
        .await
    }

    /// Ends the load and reads everything back; the same report to all who ask.
    pub(super) async fn finish(&self) -> Arc<FinalReport> {
        let control = self.clone();
        to_its_end(async move {
            let mut phase = control.phase.write().await;
            if let Phase::Finished(report) = &*phase {
                return Arc::clone(report);
            }
            let Phase::Load(load) = std::mem::replace(&mut *phase, Phase::Finishing) else {
                unreachable!("the lock is held from the begin of finishing to its end");
            };
            note!("finishing: every acknowledged write is read once more");
            let swept = load.swept();
            let before = swept.load(Ordering::Relaxed);
            let mut finishing = pin!(load.finish());
            let report = loop {
                tokio::select! {
                    report = &mut finishing => break Arc::new(report),
                    () = sleep(PROGRESS_INTERVAL) => {
                        note!("  {} keys are read or deleted", swept.load(Ordering::Relaxed) - before);
                    }
                }
            };
            *phase = Phase::Finished(Arc::clone(&report));
            control.is_finished.send_replace(true);
            report
        })
        .await
    }

    async fn reports(&self) -> Vec<RoundReport> {
        match &*self.phase.read().await {
            Phase::Load(load) => load.reports(),
            Phase::Finished(report) => report.rounds.clone(),
            Phase::Finishing => Vec::new(),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (method, path) = (request.method(), request.uri().path());
        match (method, path) {
            (&Method::GET, "/livez") => text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/rounds") => json(&self.reports().await),
            (&Method::POST, "/rounds") => marked(self.mark(None).await),
            (&Method::POST, "/finish") => json(&*self.finish().await),
            (_, "/livez") => not_allowed("GET"),
            (_, "/rounds") => not_allowed("GET, POST"),
            (_, "/finish") => not_allowed("POST"),
            _ => match path.strip_prefix("/rounds/").map(round_name) {
                None => text(StatusCode::NOT_FOUND, "there are /rounds, /rounds/NAME, /finish and /livez\n"),
                Some(_) if method != Method::POST => not_allowed("POST"),
                Some(Err(wrong)) => text(StatusCode::BAD_REQUEST, wrong),
                Some(Ok(round)) => marked(self.mark(Some(round)).await),
            },
        }
    }
}

/// Answers requests until the load is finished, then lets those under way end.
pub(super) async fn serve(listener: TcpListener, control: &Control) {
    let connections = GracefulShutdown::new();
    let mut finished = control.is_finished.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = finished.wait_for(|finished| *finished) => break,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_RETRY).await;
            continue;
        };
        let control = control.clone();
        let service = service_fn(move |request| {
            let control = control.clone();
            async move { Ok::<_, Infallible>(control.answer(request).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // What fails on a connection is seen by the other side.
        let connection = connections.watch(connection);
        tokio::spawn(async move { drop(connection.await) });
    }
    let _ = timeout(ANSWER_TIMEOUT, connections.shutdown()).await;
}

/// Runs it even if nobody waits for it any more.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The last part of a path, percent-decoded.
fn round_name(text: &str) -> Result<String, &'static str> {
    let name = percent_decode_str(text).decode_utf8().map_err(|_| "the round's name is not UTF-8\n")?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err("the round's name needs 1 to 200 bytes and no control characters\n");
    }
    Ok(name.into_owned())
}

fn marked(marked: Result<Option<RoundReport>, IsFinished>) -> Answer {
    match marked {
        Ok(Some(report)) => json(&report),
        Ok(None) => respond(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", Bytes::new()),
        Err(IsFinished) => text(StatusCode::CONFLICT, "the load is finished\n"),
    }
}

fn json(value: &impl Serialize) -> Answer {
    let mut body = serde_json::to_vec(value).expect("reports have only string keys");
    body.push(b'\n');
    respond(StatusCode::OK, "application/json", body.into())
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    respond(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rounds_name_is_decoded_and_bounded() {
        assert_eq!(round_name("leader%20cut/1").unwrap(), "leader cut/1");
        assert!(round_name("").is_err() && round_name("a%0Ab").is_err() && round_name("%ff").is_err());
        assert!(round_name(&"a".repeat(NAME_BYTES_MAX + 1)).is_err());
    }
}
