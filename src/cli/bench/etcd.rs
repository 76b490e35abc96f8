//! Connections to a server of the etcd v3 API. As in etcd's own benchmark, many clients share few HTTP/2 connections.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::codegen::http::Uri;
use tonic::transport::{self, Channel};
use tower::service_fn;

use super::tally::Op;
use super::{CallError, Consistency};
use crate::cli::endpoints::Endpoint;
use crate::tls::{Connector, Wire};
use crate::types::Address;
use wire::kv_client::KvClient;

#[allow(clippy::pedantic, unreachable_pub)] // generated
mod wire {
    tonic::include_proto!("etcdserverpb");
}

/// Flow-control windows, in bytes: large enough never to be what is measured.
const WINDOW_BYTES: u32 = 4 << 20;

/// A client: one of the shared connections, and the next one after a failure.
pub(super) struct Etcd {
    channels: Vec<KvClient<Channel>>,
    at: usize,
    value: Bytes,
    serializable: bool,
}

/// Opens `count` connections, spread over the endpoints in turn; those under TLS are verified by `tls`.
///
/// # Errors
/// The first endpoint that cannot be reached, or that does not understand this client.
pub(super) async fn connect(
    endpoints: &[Endpoint],
    tls: Option<&Connector>,
    count: usize,
    timeout: Duration,
) -> Result<Vec<KvClient<Channel>>, String> {
    let tls = tls.map(Connector::with_http2);
    let mut channels = Vec::with_capacity(count);
    for endpoint in endpoints.iter().cycle().take(count) {
        let failed = |error: transport::Error| format!("cannot connect to {endpoint}: {}", root(&error));
        let tls = tls.as_ref().filter(|_| endpoint.is_tls);
        let mut client = KvClient::new(open(&endpoint.address, tls, timeout).await.map_err(failed)?);
        // One tells for all of them.
        if channels.is_empty() {
            greet(&mut client, tls.is_some(), timeout).await.map_err(|why| format!("{endpoint}: {why}"))?;
        }
        channels.push(client);
    }
    Ok(channels)
}

async fn open(
    address: &Address,
    tls: Option<&Connector>,
    timeout: Duration,
) -> Result<Channel, transport::Error> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let server = transport::Endpoint::from_shared(format!("{scheme}://{address}"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect_timeout(timeout);
    match tls {
        None => server.connect().await,
        Some(tls) => {
            let (tls, address) = (tls.clone(), address.clone());
            let dial = service_fn(move |_: Uri| {
                let (tls, address) = (tls.clone(), address.clone());
                async move { under_tls(&tls, &address).await }
            });
            server.connect_with_connector(dial).await
        }
    }
}

/// Reads a key, whichever: that this client's certificate, or its want of TLS, is refused is told by the first answer
/// only. What the server itself answers is the load's own to see.
async fn greet(client: &mut KvClient<Channel>, is_tls: bool, timeout: Duration) -> Result<(), String> {
    let key = Bytes::from_static(b"bench");
    let request = wire::RangeRequest { key, serializable: true, ..wire::RangeRequest::default() };
    match tokio::time::timeout(timeout, client.range(request)).await {
        Ok(Err(status)) if status.source().is_some() => {
            let why = root(&status);
            // HTTP/2's own error has the alert in its words only.
            let advice = match is_tls {
                true if why.contains("CertificateRequired") => ": give --tls-cert and --tls-key",
                true => "",
                false => "; if it speaks TLS, use https://",
            };
            Err(format!("{why}{advice}"))
        }
        _ => Ok(()),
    }
}

/// Connects, and does the handshake.
async fn under_tls(tls: &Connector, address: &Address) -> io::Result<TokioIo<Wire>> {
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
    tcp.set_nodelay(true)?;
    tls.connect(&address.host, tcp).await.map(TokioIo::new)
}

impl Etcd {
    /// A client that begins with connection `at` (modulo their number).
    pub(super) fn new(
        channels: Vec<KvClient<Channel>>,
        at: usize,
        value: Bytes,
        consistency: Consistency,
    ) -> Self {
        let at = at % channels.len();
        Self { channels, at, value, serializable: consistency == Consistency::Stale }
    }

    /// The next call goes over the next connection.
    pub(super) fn fail_over(&mut self) {
        self.at = (self.at + 1) % self.channels.len();
    }

    /// Writes or reads the key of this number.
    ///
    /// # Errors
    /// The gRPC code.
    pub(super) async fn call(&mut self, op: Op, key: u64) -> Result<(), CallError> {
        let key = Bytes::from(format!("bench-{key:010}"));
        let channel = &mut self.channels[self.at];
        let done = match op {
            Op::Put => {
                let request = wire::PutRequest { key, value: self.value.clone(), lease: 0 };
                channel.put(request).await.map(drop)
            }
            Op::Get => {
                let request = wire::RangeRequest {
                    key,
                    serializable: self.serializable,
                    ..wire::RangeRequest::default()
                };
                match channel.range(request).await {
                    Ok(response) if response.get_ref().kvs.is_empty() => {
                        return Err(CallError::new("key_not_found"));
                    }
                    other => other.map(drop),
                }
            }
        };
        done.map_err(|status| {
            if status.code() == tonic::Code::Unavailable {
                self.fail_over();
            }
            CallError::new(&code_name(status.code())).because(&status.message())
        })
    }
}

/// gRPC's name of a code in the form of our own codes: `DeadlineExceeded` is `deadline_exceeded`.
fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// The innermost cause: tonic's own words are "transport error".
fn root(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fs;
    use std::sync::Arc;

    use http_body_util::{BodyExt, Full};
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper::{HeaderMap, Response};
    use hyper_util::rt::TokioExecutor;
    use rcgen::generate_simple_self_signed;
    use tempfile::TempDir;
    use tokio::net::TcpListener;

    use super::*;
    use crate::metrics::Metrics;
    use crate::tls::{Acceptor, ClientPortSettings, ConnectorSettings, IdentitySettings, Port};

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// A certificate for loopback that vouches for itself, and its key.
    fn identity(folder: &TempDir, name: &str) -> IdentitySettings {
        let made = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let path = |ending: &str| folder.path().join(format!("{name}.{ending}"));
        fs::write(path("crt"), made.cert.pem()).unwrap();
        fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        IdentitySettings { cert: path("crt"), key: path("key") }
    }

    /// A server that answers each call with an empty message, to any client that shows the client's certificate.
    async fn serve(identity: &IdentitySettings, client: &IdentitySettings) -> Address {
        let metrics = Metrics::new();
        let settings =
            ClientPortSettings { identity: identity.clone(), client_ca: Some(client.cert.clone()) };
        let acceptor = Acceptor::new(Arc::new(Port::client(settings, &metrics).unwrap()), &metrics);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::spawn(async move {
            loop {
                let (tcp, from) = listener.accept().await.unwrap();
                let Some(wire) = acceptor.accept(tcp, from).await else { continue };
                let answer = service_fn(async |_| {
                    let status =
                        HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                    let message = Full::new(Bytes::from_static(&[0; 5]));
                    let body = message.with_trailers(async move { Some(Ok(status)) });
                    Ok::<_, Infallible>(
                        Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
                    )
                });
                let server = http2::Builder::new(TokioExecutor::new());
                let connection = server.serve_connection(TokioIo::new(wire), answer);
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_server_under_tls_is_spoken_to_by_those_it_knows_and_others_hear_why_not() {
        let folder = TempDir::new().unwrap();
        let [server, client] = ["server", "client"].map(|name| identity(&folder, name));
        let address = serve(&server, &client).await;
        let connector = |ca: &IdentitySettings, shown: Option<&IdentitySettings>| {
            let (ca, identity) = (Some(ca.cert.clone()), shown.cloned());
            Connector::new(&ConnectorSettings { ca, identity, ..ConnectorSettings::default() }).unwrap()
        };
        let open = async |is_tls, tls: Connector| {
            connect(&[Endpoint { address: address.clone(), is_tls }], Some(&tls), 2, TIMEOUT).await
        };
        let channels = open(true, connector(&server, Some(&client))).await.unwrap();
        let mut etcd = Etcd::new(channels, 0, Bytes::from_static(b"value"), Consistency::Linearizable);
        etcd.call(Op::Put, 1).await.unwrap();
        etcd.fail_over();
        etcd.call(Op::Put, 2).await.unwrap();

        let check = |refused: Result<_, String>, part: &str| {
            let message = refused.map(|_| ()).unwrap_err();
            assert!(message.contains(part), "{message}");
        };
        check(open(true, connector(&server, None)).await, "give --tls-cert and --tls-key");
        check(open(true, connector(&client, Some(&client))).await, "by --tls-ca");
        check(open(false, connector(&server, Some(&client))).await, "if it speaks TLS, use https://");
    }

    #[test]
    fn codes_are_named_like_our_own() {
        assert_eq!(code_name(tonic::Code::Unavailable), "unavailable");
        assert_eq!(code_name(tonic::Code::DeadlineExceeded), "deadline_exceeded");
    }
}
