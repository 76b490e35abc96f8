//! One HTTP/1.1 connection to one node: for the command line, and with little overhead for the load generator.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_encode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::kv::{KV_PREFIX, X_CREATE_REVISION, X_REVISION, X_VERSION};
use super::query::{Consistency, IDEMPOTENCY_KEY, quote};
use super::replica::Outcome;
use super::{Problem, StatusReport};
use crate::kv::{Condition, IdempotencyKey, KeyValue};
use crate::tls::{Connector, Wire, is_misunderstanding, refusal};
use crate::types::Revision;

/// All that RFC 3986 does not call unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A connection that failed has ended, or will at once.
const END_TIMEOUT: Duration = Duration::from_millis(100);

/// A request as [`Client::send`] takes it; the functions below make the usual ones.
pub type ClientRequest = Request<Full<Bytes>>;

/// A connection to one node. Sends one request after the other.
#[derive(Debug)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    /// The value of `Authorization`.
    token: Option<HeaderValue>,
    /// Ends with what the node said when it ended the handshake, if it did.
    connection: Option<JoinHandle<Option<io::Error>>>,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The key's content.
    pub content: KeyValue,
    /// The store's revision when it was read.
    pub revision: Revision,
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Written {
    /// The store's revision after the write, and the key's `mod_revision`.
    pub revision: Revision,
    /// Revision at which the key came into being.
    pub create_revision: Revision,
    /// Writes to the key since then.
    pub version: u64,
}

#[derive(serde::Deserialize)]
struct Deleted {
    revision: Revision,
}

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The endpoint is no `host:port`.
    #[error("`{0}` is not an endpoint of the form host:port")]
    Endpoint(String),
    /// Key, or key and value in a query, are too long for any server. Nothing was sent.
    #[error("the key is too long: no request target may be longer than 64 KiB")]
    TargetTooLong,
    /// The idempotency key cannot be written as a header. Nothing was sent.
    #[error("an idempotency key is sent as visible ASCII characters, which `{0}` is not")]
    IdempotencyKey(IdempotencyKey),
    /// No connection. Nothing was sent.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// `host:port`.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// The connection ended before the request left.
    #[error("the connection ended before the request was sent: {0}")]
    NotSent(hyper::Error),
    /// The connection ended before the answer was complete.
    #[error("the connection broke after the request was sent: {0}")]
    Broken(hyper::Error),
    /// The deadline passed.
    #[error("no answer before the deadline")]
    Timeout {
        /// Whether the request may have left.
        sent: bool,
    },
    /// The server refused.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// An answer that this client does not understand.
    #[error("unexpected answer, status {status}: {what}")]
    Unexpected {
        /// HTTP status.
        status: u16,
        /// What was odd about it.
        what: String,
    },
}

impl ClientError {
    /// Whether a write that ended so may have been applied, or may still be.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Endpoint(_)
            | Self::TargetTooLong
            | Self::IdempotencyKey(_)
            | Self::Connect { .. }
            | Self::NotSent(_)
            | Self::Timeout { sent: false } => Outcome::NotApplied,
            Self::Broken(_) | Self::Timeout { sent: true } | Self::Unexpected { .. } => Outcome::Unknown,
            Self::Problem(problem) => match problem.outcome {
                Some(outcome) => outcome,
                None if problem.status < 500 => Outcome::NotApplied,
                None => Outcome::Unknown,
            },
        }
    }

    /// Whether the node was reached, and one of both speaks TLS and the other does not, or one does not accept the other's
    /// certificate: asking again does not help.
    #[must_use]
    pub fn is_misunderstanding(&self) -> bool {
        match self {
            Self::Connect { source, .. } => is_misunderstanding(source),
            // What a port says that speaks TLS only.
            Self::Unexpected { status, .. } => *status == 400,
            _ => false,
        }
    }
}

/// A stream that keeps why the node refused this client. The HTTP connection drops that error if it comes before the
/// first request.
struct Listening<S> {
    stream: S,
    heard: Arc<Mutex<Option<io::Error>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &read
            && let Some(why) = refusal(error)
        {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Client {
    /// Connects to `host:port`; names are resolved, all their addresses tried. Takes as long as the
    /// operating system lets it; wrap it in a timeout.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`], [`ClientError::Connect`], [`ClientError::NotSent`].
    pub async fn connect(endpoint: &str) -> Result<Self, ClientError> {
        Self::connect_with(endpoint, None).await
    }

    /// As [`Client::connect`], under TLS if there is something to verify the node by.
    ///
    /// # Errors
    /// As [`Client::connect`]; a node that cannot be verified is a [`ClientError::Connect`].
    pub async fn connect_with(endpoint: &str, tls: Option<&Connector>) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { endpoint: endpoint.into(), source };
        let stream = TcpStream::connect(endpoint).await.map_err(failed)?;
        // A request is one write; waiting for more of it would only delay it.
        stream.set_nodelay(true).map_err(failed)?;
        let wire = match tls {
            Some(tls) => tls.connect(host_of(endpoint), stream).await.map_err(failed)?,
            None => Wire::Plain(stream),
        };
        Self::over(wire, endpoint).await
    }

    /// Uses a connection that somebody else made, be it TCP or something that carries its bytes. `endpoint` is what
    /// the `Host` header says.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`], [`ClientError::NotSent`].
    pub async fn over<S>(stream: S, endpoint: &str) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let host = HeaderValue::from_str(endpoint).map_err(|_| ClientError::Endpoint(endpoint.into()))?;
        let heard = Arc::<Mutex<Option<io::Error>>>::default();
        let stream = Listening { stream, heard: Arc::clone(&heard) };
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::NotSent)?;
        // The error reaches the caller that waits for an answer; not its cause, if none waits yet.
        let connection = tokio::spawn(async move {
            let ended = connection.await.err().and_then(|error| refusal(&error));
            heard.lock().unwrap_or_else(PoisonError::into_inner).take().or(ended)
        });
        Ok(Self { sender, host, token: None, connection: Some(connection) })
    }

    /// Sends this token with each request (`Authorization: Bearer …`), if there is one.
    #[must_use]
    pub fn with_token(self, token: Option<&str>) -> Self {
        let token = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let token = token.map(|mut token| {
            token.set_sensitive(true);
            token
        });
        Self { token, ..self }
    }

    /// Whether the connection has ended; another [`Client`] is needed then.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request with an origin-form target (`/path?query`) and returns the head of the answer. Adds
    /// the `Host` header. The body must be read to its end before the next request.
    ///
    /// # Errors
    /// [`ClientError::NotSent`], [`ClientError::Broken`].
    pub async fn send(&mut self, mut request: ClientRequest) -> Result<Response<Incoming>, ClientError> {
        request.headers_mut().insert(header::HOST, self.host.clone());
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        let error = match self.sender.ready().await {
            Ok(()) => match self.sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                // The request comes back exactly if no byte of it left.
                Err(mut failed) => match failed.take_message() {
                    Some(_) => ClientError::NotSent(failed.into_error()),
                    None => ClientError::Broken(failed.into_error()),
                },
            },
            Err(error) => ClientError::NotSent(error),
        };
        Err(self.refusal().await.unwrap_or(error))
    }

    /// Whether the connection ended since the node did not take this client's certificate, which under TLS 1.3 is heard
    /// only after the own first bytes.
    async fn refusal(&mut self) -> Option<ClientError> {
        let ended = timeout(END_TIMEOUT, self.connection.take()?).await;
        let source = ended.ok()?.ok()??;
        let endpoint = self.host.to_str().unwrap_or_default().to_owned();
        Some(ClientError::Connect { endpoint, source })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// As [`Client::send`], and [`ClientError::Problem`] or [`ClientError::Unexpected`] unless the status is 200.
    pub async fn request(&mut self, request: ClientRequest) -> Result<Response<Bytes>, ClientError> {
        let (head, body) = self.send(request).await?.into_parts();
        let body = body.collect().await.map_err(ClientError::Broken)?.to_bytes();
        if head.status == StatusCode::OK {
            return Ok(Response::from_parts(head, body));
        }
        Err(refused(head.status, &body))
    }

    /// Asks for a snapshot; its file is the answer's body, which is to be read piece by piece.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn snapshot(&mut self) -> Result<Response<Incoming>, ClientError> {
        let response = self.send(request(Method::GET, "/v1/snapshot".into(), Bytes::new())?).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(ClientError::Broken)?.to_bytes();
        Err(refused(head.status, &body))
    }

    /// Reads a key; `None` if it is not there.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn get(&mut self, key: &[u8], consistency: Consistency) -> Result<Option<Found>, ClientError> {
        parse_get(self.request(get_request(key, consistency, None)?).await)
    }

    /// Sets a key.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn put(
        &mut self,
        key: &[u8],
        value: Bytes,
        condition: Condition,
    ) -> Result<Written, ClientError> {
        parse_put(self.request(put_request(key, value, condition, None)?).await)
    }

    /// Deletes a key and returns the store's revision after it.
    ///
    /// # Errors
    /// As [`Client::request`]; a missing key is the problem `key_not_found`.
    pub async fn delete(&mut self, key: &[u8], condition: Condition) -> Result<Revision, ClientError> {
        parse_delete(self.request(delete_request(key, condition, None)?).await)
    }

    /// What the node knows of itself and its cluster.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn status(&mut self) -> Result<StatusReport, ClientError> {
        parse_status(self.request(status_request()?).await)
    }
}

/// The host of `host:port`, an IPv6 address without its brackets.
pub(super) fn host_of(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

/// `GET /v1/kv/{key}`; `timeout` is what the server is asked to keep to, at most its own limit.
///
/// # Errors
/// [`ClientError::TargetTooLong`].
pub fn get_request(
    key: &[u8],
    consistency: Consistency,
    timeout: Option<Duration>,
) -> Result<ClientRequest, ClientError> {
    let consistency = match consistency {
        Consistency::Linearizable => "",
        Consistency::Stale => "stale",
    };
    let target = target(key, &[("consistency", consistency), ("timeout", &timeout_parameter(timeout))]);
    request(Method::GET, target, Bytes::new())
}

/// `PUT /v1/kv/{key}`; `timeout` as for [`get_request`].
///
/// # Errors
/// [`ClientError::TargetTooLong`].
pub fn put_request(
    key: &[u8],
    value: Bytes,
    condition: Condition,
    timeout: Option<Duration>,
) -> Result<ClientRequest, ClientError> {
    let request = request(Method::PUT, target(key, &[("timeout", &timeout_parameter(timeout))]), value);
    Ok(with_condition(request?, condition))
}

/// `DELETE /v1/kv/{key}`; `timeout` as for [`get_request`].
///
/// # Errors
/// [`ClientError::TargetTooLong`].
pub fn delete_request(
    key: &[u8],
    condition: Condition,
    timeout: Option<Duration>,
) -> Result<ClientRequest, ClientError> {
    let request =
        request(Method::DELETE, target(key, &[("timeout", &timeout_parameter(timeout))]), Bytes::new());
    Ok(with_condition(request?, condition))
}

/// `GET /get?key=`; the key is text.
///
/// # Errors
/// [`ClientError::TargetTooLong`].
pub fn get_text_request(key: &str) -> Result<ClientRequest, ClientError> {
    request(Method::GET, format!("/get?key={}", encode(key.as_bytes())), Bytes::new())
}

/// `GET /set?key=&value=`; key and value are text.
///
/// # Errors
/// [`ClientError::TargetTooLong`].
pub fn set_text_request(key: &str, value: &str) -> Result<ClientRequest, ClientError> {
    let target = format!("/set?key={}&value={}", encode(key.as_bytes()), encode(value.as_bytes()));
    request(Method::GET, target, Bytes::new())
}

/// `GET /v1/status`.
///
/// # Errors
/// [`ClientError::TargetTooLong`].
pub fn status_request() -> Result<ClientRequest, ClientError> {
    request(Method::GET, "/v1/status".into(), Bytes::new())
}

/// Whole milliseconds, at least one; empty for none.
pub(super) fn timeout_parameter(timeout: Option<Duration>) -> String {
    timeout.map_or_else(String::new, |timeout| format!("{}ms", timeout.as_millis().max(1)))
}

pub(super) fn encode(bytes: &[u8]) -> PercentEncode<'_> {
    percent_encode(bytes, RESERVED)
}

/// The target for a key; parameters with an empty value are left out.
fn target(key: &[u8], parameters: &[(&str, &str)]) -> String {
    let mut target = format!("{KV_PREFIX}{}", encode(key));
    let mut separator = '?';
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        target.extend([separator]);
        target.extend([name, "=", value]);
        separator = '&';
    }
    target
}

pub(super) fn request(method: Method, target: String, body: Bytes) -> Result<ClientRequest, ClientError> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    // Escaped as it is, it can only be too long.
    *request.uri_mut() = target.try_into().map_err(|_| ClientError::TargetTooLong)?;
    Ok(request)
}

fn with_condition(mut request: ClientRequest, condition: Condition) -> ClientRequest {
    let (name, value) = match condition {
        Condition::Always => return request,
        Condition::Absent => (header::IF_NONE_MATCH, "*".to_owned()),
        Condition::Present => (header::IF_MATCH, "*".to_owned()),
        Condition::ModRevision(revision) => (header::IF_MATCH, format!("\"{revision}\"")),
    };
    let value = HeaderValue::try_from(value).expect("digits and quotes are a header value");
    request.headers_mut().insert(name, value);
    request
}

/// Names a write, so that it may be sent again although it may have been applied: it takes effect once.
///
/// # Errors
/// [`ClientError::IdempotencyKey`].
pub fn named(mut request: ClientRequest, key: &IdempotencyKey) -> Result<ClientRequest, ClientError> {
    let value = quote(key).ok_or_else(|| ClientError::IdempotencyKey(key.clone()))?;
    request.headers_mut().insert(IDEMPOTENCY_KEY, value);
    Ok(request)
}

/// What [`Client::request`] returns.
pub type Answered = Result<Response<Bytes>, ClientError>;

pub(crate) fn parse_get(answer: Answered) -> Result<Option<Found>, ClientError> {
    let response = match answer {
        Err(ClientError::Problem(problem)) if problem.code == "key_not_found" => return Ok(None),
        answer => answer?,
    };
    let headers = response.headers();
    let content = KeyValue {
        mod_revision: Revision(number(headers, &header::ETAG)?),
        create_revision: Revision(number(headers, &X_CREATE_REVISION)?),
        version: number(headers, &X_VERSION)?,
        value: response.body().clone(),
    };
    Ok(Some(Found { content, revision: Revision(number(headers, &X_REVISION)?) }))
}

/// What a put's answer says.
///
/// # Errors
/// The request's, or [`ClientError::Unexpected`].
pub fn parse_put(answer: Answered) -> Result<Written, ClientError> {
    parse_json(&answer?)
}

pub(crate) fn parse_delete(answer: Answered) -> Result<Revision, ClientError> {
    parse_json::<Deleted>(&answer?).map(|deleted| deleted.revision)
}

pub(super) fn parse_status(answer: Answered) -> Result<StatusReport, ClientError> {
    parse_json(&answer?)
}

pub(super) fn parse_json<T: serde::de::DeserializeOwned>(
    response: &Response<Bytes>,
) -> Result<T, ClientError> {
    serde_json::from_slice(response.body()).map_err(|error| unexpected(response.status(), &error.to_string()))
}

/// A number in a header, quoted or not.
fn number(headers: &HeaderMap, name: &HeaderName) -> Result<u64, ClientError> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok()?.trim_matches('"').parse().ok())
        .ok_or_else(|| unexpected(StatusCode::OK, &format!("header `{name}` is missing or no number")))
}

fn refused(status: StatusCode, body: &Bytes) -> ClientError {
    Problem::parse(status, body).map_or_else(
        |_| unexpected(status, &format!("no problem document: {}", body.trim_ascii().escape_ascii())),
        ClientError::Problem,
    )
}

fn unexpected(status: StatusCode, what: &str) -> ClientError {
    ClientError::Unexpected { status: status.as_u16(), what: what.into() }
}
