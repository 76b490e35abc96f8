//! Accepts connections, bounds them, and lets them end in order.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{interval, sleep, timeout};

use super::routes::{operations, router};
use super::{Api, Replica, Settings};
use crate::tls::{Acceptor, Wire};

/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Flow control windows of HTTP/2: a whole request fits.
const H2_STREAM_WINDOW_BYTES: u32 = 2 << 20;
const H2_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A request's target and headers, in either protocol. HTTP/2 counts 32 bytes more for each header.
pub(super) const HEAD_BYTES_MAX: usize = 128 << 10;
/// Requests under way at one time on one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 1_000;

/// What a listener is for.
#[derive(Clone, Debug)]
pub enum Access {
    /// Clients: every route, under TLS if there is something to show.
    Clients(Option<Acceptor>),
    /// Probes, Prometheus and the page: what tells of the node and of no key. Plain, as those come without
    /// certificates.
    Operations,
}

/// What connections are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serve,
    /// Finish what is under way, take nothing new.
    Drain,
    /// End now.
    Abort,
}

/// Serves until `shutdown` completes; then stops accepting, finishes the requests under way and returns
/// when all connections have ended, or after [`Settings::drain_timeout`]. Returns the number of
/// connections that had to be cut.
///
/// At most [`Settings::connections_max`] connections are open at a time; further ones wait in the listen
/// backlog.
pub async fn serve<R: Replica>(
    listener: TcpListener,
    access: Access,
    api: Arc<Api<R>>,
    shutdown: impl Future<Output = ()> + Send,
) -> usize {
    let settings = api.settings.clone();
    let (router, tls) = match access {
        Access::Clients(tls) => (router(Arc::clone(&api)), tls),
        Access::Operations => (operations(Arc::clone(&api)), None),
    };
    let slots = Arc::new(Semaphore::new(settings.connections_max as usize));
    let (phase, _) = watch::channel(Phase::Serve);
    tokio::select! {
        biased;
        () = shutdown => {}
        () = accept(&listener, tls.as_ref(), &router, &settings, &slots, &phase) => {}
    }
    drop(listener);
    api.drain();
    phase.send_replace(Phase::Drain);
    // Every connection holds a slot, so all slots together mean that none is left.
    if timeout(settings.drain_timeout, slots.acquire_many(settings.connections_max)).await.is_ok() {
        return 0;
    }
    let cut = settings.connections_max as usize - slots.available_permits();
    phase.send_replace(Phase::Abort);
    cut
}

/// Accepts for ever.
async fn accept(
    listener: &TcpListener,
    tls: Option<&Acceptor>,
    router: &Router,
    settings: &Settings,
    slots: &Arc<Semaphore>,
    phase: &watch::Sender<Phase>,
) {
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((tcp, from)) => {
                let (router, mut phase, idle) = (router.clone(), phase.subscribe(), settings.idle_timeout);
                let tls = tls.cloned();
                tokio::spawn(async move {
                    // An answer is one write; waiting for more of it would only delay it.
                    let _ = tcp.set_nodelay(true);
                    let wire = match tls {
                        None => Some(Wire::Plain(tcp)),
                        Some(tls) => tokio::select! {
                            wire = tls.accept(tcp, from) => wire,
                            _ = phase.changed() => None,
                        },
                    };
                    if let Some(wire) = wire {
                        serve_connection(wire, router, phase, idle).await;
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Requests on one connection.
#[derive(Default)]
struct Activity {
    begun: AtomicU64,
    under_way: AtomicU64,
}

/// One request under way; it also ends when the client takes it back.
struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::Relaxed);
        activity.under_way.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve_connection(
    wire: Wire,
    router: Router,
    mut phase: watch::Receiver<Phase>,
    idle_timeout: Duration,
) {
    let activity = Arc::new(Activity::default());
    let counted = activity.clone();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let (under_way, answer) = (UnderWay::begin(&counted), router.call(request));
        async move {
            let answer = answer.await;
            drop(under_way);
            answer
        }
    });
    let builder = connection_builder();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(wire), service));
    let mut idle_check = interval(idle_timeout.max(Duration::from_millis(1)));
    let mut begun_before = None;
    loop {
        tokio::select! {
            biased;
            // Errors are the client's: a reset, a head that does not parse.
            _ = connection.as_mut() => return,
            changed = phase.changed() => match *phase.borrow_and_update() {
                Phase::Drain if changed.is_ok() => connection.as_mut().graceful_shutdown(),
                _ => return,
            },
            // One coarse timer a connection instead of one a request.
            _ = idle_check.tick() => {
                let begun = activity.begun.load(Ordering::Relaxed);
                if begun_before == Some(begun) && activity.under_way.load(Ordering::Relaxed) == 0 {
                    return;
                }
                begun_before = Some(begun);
            }
        }
    }
}

pub(super) fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("far below 4 GiB"))
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(H2_STREAMS_MAX);
    builder
}
