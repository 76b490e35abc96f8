//! One peer's outgoing stream: dialled, watched, dialled again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::convert::GRPC_BYTES_MAX;
use super::log_limit::LogLimit;
use super::outbox::Outbox;
use super::peers::PeersContext;
use super::proto::{self, peer_client::PeerClient};
use super::settings::Settings;
use crate::membership::Local;
use crate::tls::{self, PeerTls, Wire};
use crate::types::{ClusterId, FeatureLevel, NodeId};

/// From a member's name to the addresses, `host:port`, that it may have now, the likeliest first; asked before each
/// dial, which tries them in turn, the next dial beginning with the next one. The host is then looked up. Empty: none is
/// known now.
pub type Resolver = Arc<dyn Fn(&str) -> Vec<String> + Send + Sync>;

/// Why an attempt or a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("no address is known for {0}")]
    NoAddress(String),
    #[error("cannot look up {address}: {source}")]
    Lookup { address: String, source: std::io::Error },
    #[error("{0} has no IP address")]
    NoIpAddress(String),
    #[error("cannot connect to {address}: {}", innermost(source))]
    Connect { address: String, source: tonic::transport::Error },
    #[error("{0} does not answer in time")]
    Timeout(String),
    #[error("{0} takes connections, but does not answer in time")]
    Unanswered(String),
    #[error("{}", describe(.0))]
    Status(#[from] tonic::Status),
    #[error(
        "{address} answers as node {found} instead of {expected}: another node, or its data directory was emptied"
    )]
    WrongNode { address: String, expected: NodeId, found: NodeId },
    #[error(
        "{address} belongs to cluster {found}, this node to {own}: one of the two has another cluster's data \
         directory, or the address is wrong"
    )]
    WrongCluster { address: String, own: ClusterId, found: ClusterId },
    #[error("the answer has no route or introduction")]
    Incomplete,
    #[error("the peer ended the stream")]
    Ended,
}

/// What became of a question to a member, as far as it was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silence {
    /// Nothing takes connections where the member should be.
    Nobody,
    /// Packets get lost: a machine that is away, or a network that lets nothing through.
    Lost,
    /// Something takes connections there, and does not answer as this member would: a frozen process, or one that asks for
    /// other certificates.
    Unclear,
}

impl From<&DialError> for Silence {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::Timeout(_) => Self::Lost,
            DialError::NoAddress(_) | DialError::Lookup { .. } | DialError::NoIpAddress(_) => Self::Nobody,
            DialError::Connect { source, .. } => {
                match innermost(source).downcast_ref::<io::Error>().map(io::Error::kind) {
                    Some(io::ErrorKind::ConnectionRefused) => Self::Nobody,
                    Some(
                        io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkUnreachable
                        | io::ErrorKind::TimedOut,
                    ) => Self::Lost,
                    _ => Self::Unclear,
                }
            }
            _ => Self::Unclear,
        }
    }
}

impl DialError {
    /// The reason as a sentence that says what to do, where the cause is known.
    pub(super) fn explain(&self) -> String {
        match self {
            Self::Connect { address, source } => {
                let cause = innermost(source);
                let refused = cause.downcast_ref::<io::Error>();
                let explained = tls::explain(cause).or_else(|| match refused.map(io::Error::kind) {
                    Some(io::ErrorKind::ConnectionRefused) => {
                        Some("connection refused: nothing listens there, or a firewall refuses".to_owned())
                    }
                    Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => Some(
                        "it ended the connection at once: one of the two sides has TLS among members and the other has \
                         not, or it is another program's port"
                            .to_owned(),
                    ),
                    _ => None,
                });
                explained.map_or_else(|| self.to_string(), |why| format!("{address}: {why}"))
            }
            Self::Lookup { address, source } => format!("the host of {address} does not resolve ({source})"),
            Self::Status(status) if is_of_no_member(status) => {
                "what answers there is no member: it may be a client port; give the peer port (--peer-addr)"
                    .to_owned()
            }
            Self::Status(status) => tls::explain(innermost(status)).unwrap_or_else(|| self.to_string()),
            Self::Timeout(address) => {
                format!(
                    "{address} does not answer in time: the machine is away, or a firewall drops the packets"
                )
            }
            _ => self.to_string(),
        }
    }

    /// Of the errors at two addresses of one member the one that leaves it more open whether the member runs; the later
    /// one of two alike.
    fn or_less_clear(self, later: Self) -> Self {
        if Silence::from(&later) >= Silence::from(&self) { later } else { self }
    }
}

/// The error that started it: the outer ones say only "transport error".
fn innermost<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// Whether a status stands for an answer without gRPC in it.
fn is_of_no_member(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::Unimplemented
        || status.message().starts_with("grpc-status header missing")
        || status.message().starts_with("protocol error: received message with invalid compression flag")
}

/// What the peer said, or what ended the connection: of a failed stream, tonic says only "transport error".
fn describe(status: &tonic::Status) -> String {
    if let Some(source) = std::error::Error::source(status) {
        return innermost(source).to_string();
    }
    if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() }
}

/// Connects to the node called `name`, the `attempt`th time in a row, from 0: beginning with the `attempt`th of its
/// addresses, at the first that can be connected to. Returns the client and the address used.
pub(super) async fn connect(
    name: &str,
    resolver: &Resolver,
    attempt: usize,
    settings: &Settings,
) -> Result<(PeerClient<Channel>, String), DialError> {
    let mut addresses = resolver(name);
    if !addresses.is_empty() {
        let first = attempt % addresses.len();
        addresses.rotate_left(first);
    }
    let mut error = DialError::NoAddress(name.to_owned());
    for address in addresses {
        match connect_at(name, &address, settings).await {
            Ok(client) => return Ok((client, address)),
            Err(failed) => error = error.or_less_clear(failed),
        }
    }
    Err(error)
}

async fn connect_at(
    name: &str,
    address: &str,
    settings: &Settings,
) -> Result<PeerClient<Channel>, DialError> {
    let channel = timeout(settings.connect_timeout, connect_to(name, address, settings))
        .await
        .map_err(|_| DialError::Timeout(address.to_owned()))??;
    let client = PeerClient::new(channel)
        .max_decoding_message_size(GRPC_BYTES_MAX)
        .max_encoding_message_size(GRPC_BYTES_MAX);
    Ok(client)
}

async fn connect_to(name: &str, address: &str, settings: &Settings) -> Result<Channel, DialError> {
    let found = tokio::net::lookup_host(address)
        .await
        .map_err(|source| DialError::Lookup { address: address.to_owned(), source })?;
    let mut error = DialError::NoIpAddress(address.to_owned());
    for socket in found {
        let connected = match Endpoint::from_shared(format!("http://{socket}")) {
            Ok(endpoint) => {
                let endpoint = configure(endpoint, settings);
                match settings.tls.clone() {
                    None => endpoint.connect().await,
                    Some(tls) => {
                        let (member, address) = (name.to_owned(), address.to_owned());
                        let dial = service_fn(move |_: Uri| {
                            let (tls, member, address) = (tls.clone(), member.clone(), address.clone());
                            async move { under_tls(&tls, &member, &address, socket).await }
                        });
                        endpoint.connect_with_connector(dial).await
                    }
                }
            }
            Err(source) => Err(source),
        };
        match connected {
            Ok(channel) => return Ok(channel),
            Err(source) => error = DialError::Connect { address: address.to_owned(), source },
        }
    }
    Err(error)
}

/// Connects to one socket, and does the handshake with the member that is to be there.
async fn under_tls(
    tls: &PeerTls,
    member: &str,
    address: &str,
    socket: SocketAddr,
) -> io::Result<TokioIo<Wire>> {
    let tcp = TcpStream::connect(socket).await?;
    tcp.set_nodelay(true)?;
    tls.connect(member, address, tcp).await.map(TokioIo::new)
}

fn configure(endpoint: Endpoint, settings: &Settings) -> Endpoint {
    endpoint
        .tcp_nodelay(true)
        .connect_timeout(settings.connect_timeout)
        .initial_stream_window_size(settings.window_bytes)
        .initial_connection_window_size(settings.window_bytes)
        .http2_keep_alive_interval(settings.keepalive_interval)
        .keep_alive_timeout(settings.keepalive_timeout)
        .keep_alive_while_idle(true)
}

/// Asks a question that is to be answered at once.
pub(super) async fn ask<T>(
    address: &str,
    settings: &Settings,
    question: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, DialError> {
    let answer = timeout(settings.connect_timeout, question).await;
    Ok(answer.map_err(|_| DialError::Timeout(address.to_owned()))??.into_inner())
}

/// What a node whose program understands `feature_level` says of itself.
pub(super) fn introduction(local: &Local, feature_level: FeatureLevel) -> proto::Introduction {
    proto::Introduction {
        name: local.name.clone(),
        client_addr: local.client_addr.clone(),
        peer_addr: local.peer_addr.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        feature_level: feature_level.0,
    }
}

/// One peer, as its dialling task sees it.
pub(super) struct Target {
    pub(super) context: Arc<PeersContext>,
    pub(super) id: NodeId,
    pub(super) name: String,
    pub(super) outbox: Arc<Outbox>,
    /// The peer has just made contact: it is there, so dial at once.
    pub(super) seen: Arc<Notify>,
}

/// Keeps a stream to the peer until the task is aborted.
pub(super) async fn keep_connected(target: Target) {
    let settings = &target.context.settings;
    let mut pause = Duration::ZERO;
    let mut attempt = 0;
    let log = LogLimit::default();
    loop {
        let started = Instant::now();
        let error = stream(&target, &mut attempt).await.explain();
        if log.allows(&error) {
            tracing::warn!(peer = target.name, node_id = %target.id, "no stream to peer: {error}");
        }
        if started.elapsed() > settings.reconnect_max {
            pause = Duration::ZERO;
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {
                pause = (pause * 2).clamp(settings.reconnect_min, settings.reconnect_max);
            }
            () = target.seen.notified() => pause = settings.reconnect_min,
        }
    }
}

/// One life of the stream. Returns why it could not be opened or ended.
async fn stream(target: &Target, attempt: &mut usize) -> DialError {
    let (mut client, first) = match introduce(target, *attempt).await {
        Ok(opened) => opened,
        Err(error) => {
            // Another address may be the right one.
            *attempt += 1;
            return error;
        }
    };
    tracing::info!(peer = target.name, node_id = %target.id, "stream to peer opened");
    let open = Open(target);
    let ended = client.stream(target.outbox.open(first)).await;
    drop(open);
    match ended {
        Ok(_) => DialError::Ended,
        Err(status) => status.into(),
    }
}

/// An open outbox; closing it reports to the sender that messages may be lost, also when the task is aborted.
struct Open<'a>(&'a Target);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let unsent = self.0.outbox.close();
        (self.0.context.on_lost)(self.0.id, unsent);
    }
}

/// Connects and makes sure that it is the right node. Returns the client and the stream's first frame.
async fn introduce(
    target: &Target,
    attempt: usize,
) -> Result<(PeerClient<Channel>, proto::Frame), DialError> {
    let PeersContext { local, cluster_id, resolver, settings, directory, .. } = &*target.context;
    let (mut client, address) = connect(&target.name, resolver, attempt, settings).await?;
    let route = proto::Route { cluster_id: cluster_id.0, from: local.node_id.0, to: target.id.0 };
    let introduction = introduction(local, settings.feature_level);
    let hello =
        proto::HelloRequest { route: Some(route), sender: Some(introduction.clone()), ..Default::default() };
    let answer = ask(&address, settings, client.hello(hello)).await?;
    let (Some(answered), Some(peer)) = (answer.route, answer.sender) else {
        return Err(DialError::Incomplete);
    };
    // An empty node has none yet; the stream will make it a member.
    if answered.cluster_id != 0 && answered.cluster_id != cluster_id.0 {
        let found = ClusterId(answered.cluster_id);
        return Err(DialError::WrongCluster { address, own: *cluster_id, found });
    }
    if answered.from != target.id.0 {
        let found = NodeId(answered.from);
        return Err(DialError::WrongNode { address, expected: target.id, found });
    }
    directory.record(target.id, &peer);
    let first = proto::Frame { route: Some(route), introduction: Some(introduction), messages: Vec::new() };
    Ok((client, first))
}

/// Between half of `pause` and all of it, so that nodes that lost each other do not dial in step.
fn jittered(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_fails_names_the_first_cause_and_not_transport_error() {
        let mut status = tonic::Status::unknown("transport error");
        let alert = io::Error::other("received fatal alert: BadCertificate");
        status.set_source(Arc::new(io::Error::other(alert)));
        assert_eq!(DialError::from(status).to_string(), "received fatal alert: BadCertificate");
        let said = tonic::Status::permission_denied("you are no member");
        assert_eq!(DialError::from(said).to_string(), "you are no member");
    }

    #[test]
    fn of_several_addresses_the_least_clear_silence_counts() {
        let (nobody, lost) = (|| DialError::NoIpAddress("a".into()), || DialError::Timeout("b".into()));
        for (one, other) in [(nobody(), lost()), (lost(), nobody())] {
            assert_eq!(Silence::from(&one.or_less_clear(other)), Silence::Lost);
        }
        let unclear = DialError::Unanswered("c".into());
        assert_eq!(Silence::from(&unclear.or_less_clear(lost())), Silence::Unclear);
        assert_eq!(
            DialError::NoAddress("n".into()).or_less_clear(nobody()).to_string(),
            "a has no IP address"
        );
    }
}
