//! Accepts connections, bounds them, and lets them end in order.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

use super::access::Caller;
use super::activity::{Activity, InProgress};
use super::gate::{Fragments, Gate, RequestLines, seal};
use super::routes::{operations, router};
use super::{Api, Replica, Settings};
use crate::tls::{Acceptor, Idle, Slot, Slots, Watched, Wire};

/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Shortest time between two warnings that connections cannot be accepted.
const WARN_INTERVAL: Duration = Duration::from_secs(1);
/// Flow control windows of HTTP/2: what a client may send before the node has taken it. Bodies of requests wait in them
/// for their share of the memory, so they are small.
const H2_STREAM_WINDOW_BYTES: u32 = 128 << 10;
const H2_CONNECTION_WINDOW_BYTES: u32 = 512 << 10;
/// A request's target and headers, in either protocol. HTTP/2 counts 32 bytes more for each header.
pub(super) const HEAD_BYTES_MAX: usize = 128 << 10;
/// Requests in progress at one time on one HTTP/2 connection, before and after its client has shown a certificate.
const H2_STREAMS_MAX: u32 = 100;
const H2_STREAMS_MAX_CERTIFIED: u32 = 1_000;
/// What HTTP/2 keeps of an answer that its client does not take yet.
const H2_SEND_BUFFER_BYTES: usize = 64 << 10;

/// What a listener is for.
#[derive(Clone, Debug)]
pub enum Access {
    /// Clients: every route, under TLS if there is something to show.
    Clients(Option<Acceptor>),
    /// Probes, Prometheus and the page: what reports on the node and on no key. Plain, as those come without
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
/// At most [`Settings::connections_max`] connections are open at a time, or [`Settings::operations_max`]. If one more
/// comes, the one that has been idle longest is closed; if none is idle, further ones wait in the listen backlog.
pub async fn serve<R: Replica>(
    listener: TcpListener,
    access: Access,
    api: Arc<Api<R>>,
    shutdown: impl Future<Output = ()> + Send,
) -> usize {
    let settings = api.settings.clone();
    let (router, tls, connections_max) = match access {
        Access::Clients(tls) => (router(Arc::clone(&api)), tls, settings.connections_max),
        Access::Operations => (operations(Arc::clone(&api)), None, settings.operations_max),
    };
    let service = Checked::new(router, tls.clone(), &api);
    let slots = Slots::new(connections_max);
    let (phase, _) = watch::channel(Phase::Serve);
    tokio::select! {
        biased;
        () = shutdown => {}
        () = accept(&listener, tls.as_ref(), &service, &settings, &slots, &phase) => {}
    }
    drop(listener);
    api.drain();
    phase.send_replace(Phase::Drain);
    if timeout(settings.drain_timeout, slots.all_free()).await.is_ok() {
        return 0;
    }
    let cut = slots.taken();
    phase.send_replace(Phase::Abort);
    cut
}

/// Accepts until it is dropped.
async fn accept(
    listener: &TcpListener,
    tls: Option<&Acceptor>,
    service: &Checked,
    settings: &Settings,
    slots: &Slots,
    phase: &watch::Sender<Phase>,
) {
    let mut warned: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((tcp, from)) => {
                let slot = slots.take().await;
                let (service, mut phase, idle) = (service.clone(), phase.subscribe(), settings.idle_timeout);
                let tls = tls.cloned();
                tokio::spawn(async move {
                    // An answer is one write; waiting for more of it would only delay it.
                    let _ = tcp.set_nodelay(true);
                    let wire = match tls {
                        None => Some(Wire::Plain(tcp)),
                        Some(tls) => tokio::select! {
                            wire = tls.accept(tcp, from) => wire,
                            _ = phase.changed() => None,
                            () = slot.must_close() => None,
                        },
                    };
                    if let Some(wire) = wire {
                        let caller = Caller::new(from, wire.is_certified());
                        serve_connection(wire, (caller, &slot), service, phase, idle).await;
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
                    warned = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept connections; trying again");
                }
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// The routes behind the checks that all requests pass.
#[derive(Clone)]
struct Checked {
    gate: Arc<Gate>,
    router: TowerToHyperService<Router>,
}

impl Checked {
    fn new<R>(router: Router, tls: Option<Acceptor>, api: &Api<R>) -> Self {
        let gate = Gate::new(api.settings.allowed_hosts.clone(), tls, Arc::clone(&api.requests));
        Self { gate: Arc::new(gate), router: TowerToHyperService::new(router) }
    }

    async fn answer(
        self,
        mut request: Request<Incoming>,
        caller: Caller,
        has_fragment: bool,
    ) -> Result<Response<Body>, Infallible> {
        request.extensions_mut().insert(caller);
        let mut response = match self.gate.admit(request.map(Body::new), has_fragment) {
            Ok(request) => self.router.call(request).await?,
            Err(response) => *response,
        };
        seal(&mut response);
        Ok(response)
    }
}

/// Serves a client of this machine that connected by other means than a socket, until its connection ends.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) async fn serve_stream<R: Replica>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    api: Arc<Api<R>>,
) {
    let service = Checked::new(router(Arc::clone(&api)), None, &api);
    let caller = Caller { is_local: true, is_certified: false };
    let (_phase, phase) = watch::channel(Phase::Serve);
    let slot = Slots::new(1).take().await;
    serve_connection(stream, (caller, &slot), service, phase, api.settings.idle_timeout).await;
}

async fn serve_connection(
    wire: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (caller, slot): (Caller, &Slot),
    service: Checked,
    mut phase: watch::Receiver<Phase>,
    idle_timeout: Duration,
) {
    let activity = Arc::new(Activity::default());
    slot.watch(Arc::clone(&activity) as Arc<dyn Idle>);
    let mut must_close = pin!(slot.must_close());
    let counted = activity.clone();
    let fragments = Fragments::default();
    let wire = Watched::new(wire, activity.moved(), RequestLines::new(fragments.clone()));
    let service = service_fn(move |request: Request<Incoming>| {
        // HTTP/1 has its requests one after the other, in the order in which their heads came.
        let has_fragment = request.version() != Version::HTTP_2 && fragments.is_in(counted.begun());
        let in_progress = InProgress::begin(&counted);
        let answer = service.clone().answer(request, caller, has_fragment);
        async move { Ok::<_, Infallible>(answer.await?.map(|body| in_progress.answered(body))) }
    });
    let builder = connection_builder(caller);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(wire), service));
    let mut idle_check = interval(idle_timeout.max(Duration::from_millis(1)));
    let mut begun_before = None;
    loop {
        tokio::select! {
            biased;
            // Errors are the client's: a reset, a head that does not parse.
            _ = connection.as_mut() => return,
            () = &mut must_close => return,
            changed = phase.changed() => match *phase.borrow_and_update() {
                Phase::Drain if changed.is_ok() => connection.as_mut().graceful_shutdown(),
                _ => return,
            },
            // One coarse timer a connection instead of one a request.
            _ = idle_check.tick() => {
                let is_unused = begun_before.is_some_and(|begun| activity.is_unused_since(begun, idle_timeout));
                if is_unused || activity.is_stuck(idle_timeout) {
                    return;
                }
                begun_before = Some(activity.begun());
            }
        }
    }
}

fn connection_builder(caller: Caller) -> auto::Builder<TokioExecutor> {
    let streams_max = if caller.is_certified { H2_STREAMS_MAX_CERTIFIED } else { H2_STREAMS_MAX };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A client that has sent all that it will may still read its answers.
    builder.http1().max_buf_size(HEAD_BYTES_MAX).half_close(true);
    builder
        .http2()
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("far below 4 GiB"))
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(H2_SEND_BUFFER_BYTES)
        .max_concurrent_streams(streams_max);
    builder
}
