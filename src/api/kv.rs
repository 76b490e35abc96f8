//! Reading and writing keys.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use tokio::time::Instant;

use super::body::{Received, Time, held, is_empty, receive};
use super::query::{Consistency, Parameters, decode_key, parse_condition, parse_idempotency_key};
use super::{Api, Problem, Replica};
use crate::kv::{Answer, Command, Condition, KeyValue, Operation};
use crate::types::Revision;

/// Path before a key.
pub(super) const KV_PREFIX: &str = "/v1/kv/";
/// The store's revision, on answers of `/v1/kv/{key}`.
pub(super) const X_REVISION: HeaderName = HeaderName::from_static("x-kuberaft-revision");
/// Revision at which the key came into being.
pub(super) const X_CREATE_REVISION: HeaderName = HeaderName::from_static("x-kuberaft-create-revision");
/// Writes to the key since then.
pub(super) const X_VERSION: HeaderName = HeaderName::from_static("x-kuberaft-version");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `GET|POST /set?key=K&value=V`.
pub(super) async fn set<R: Replica>(
    api: Arc<Api<R>>,
    mut request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let body = std::mem::take(request.body_mut());
    let parameters = Parameters::parse(request.uri().query(), &["key", "value", "timeout"])?;
    let key = parameters.key.ok_or_else(|| missing("key"))?;
    let value = parameters.value.ok_or_else(|| missing("value"))?;
    let idempotency_key = parse_idempotency_key(request.headers())?;
    refuse_conditions(request.headers(), &[header::IF_MATCH, header::IF_NONE_MATCH])?;
    check_target(&api, &request)?;
    check_key(&api, &key)?;
    check_value(&api, value.len())?;
    let deadline = time(&api, parameters.timeout, started).deadline();
    // An empty body may still have been announced.
    if !is_empty(body, deadline).await? {
        return Err(Problem::bad_request("`/set` takes key and value from the query and no body"));
    }
    let operation = Operation::Put { key, value, condition: Condition::Always };
    match propose(&api, Command { operation, idempotency_key }, deadline).await? {
        Answer::Put { .. } => Ok(answer("ok".into(), TEXT)),
        other => Err(refused(&other)),
    }
}

/// `GET /get?key=K`.
pub(super) async fn get<R: Replica>(
    api: Arc<Api<R>>,
    request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::parse(request.uri().query(), &["key", "consistency", "timeout"])?;
    refuse_conditions(request.headers(), &[header::IF_MATCH])?;
    let key = parameters.key.ok_or_else(|| missing("key"))?;
    check_key(&api, &key)?;
    let deadline = time(&api, parameters.timeout, started).deadline();
    let (found, _) = read(&api, &key, parameters.consistency, deadline).await?;
    let value = found.ok_or_else(Problem::key_not_found)?.value;
    let kind = if std::str::from_utf8(&value).is_ok() { TEXT } else { BYTES };
    Ok(answer(body_of(&api, value, deadline).await?, kind))
}

/// `GET /v1/kv/{key}`.
pub(super) async fn kv_get<R: Replica>(
    api: Arc<Api<R>>,
    request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::parse(request.uri().query(), &["consistency", "timeout"])?;
    refuse_conditions(request.headers(), &[header::IF_MATCH])?;
    let key = key_of(&api, &request)?;
    let deadline = time(&api, parameters.timeout, started).deadline();
    let (found, revision) = read(&api, &key, parameters.consistency, deadline).await?;
    let content = found.ok_or_else(Problem::key_not_found)?;
    let mut response = answer(body_of(&api, content.value, deadline).await?, BYTES);
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag(content.mod_revision));
    headers.insert(X_REVISION, revision.0.into());
    headers.insert(X_CREATE_REVISION, content.create_revision.0.into());
    headers.insert(X_VERSION, content.version.into());
    Ok(response)
}

/// `PUT /v1/kv/{key}`.
pub(super) async fn kv_put<R: Replica>(
    api: Arc<Api<R>>,
    request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::parse(request.uri().query(), &["timeout", "encoding"])?;
    let key = key_of(&api, &request)?;
    let condition = parse_condition(request.headers())?;
    let idempotency_key = parse_idempotency_key(request.headers())?;
    let time = time(&api, parameters.timeout, started);
    let body_bytes_max = check_target(&api, &request)?.min(api.settings.value_bytes_max);
    // The share is kept until the request is answered.
    let Received { bytes: value, share: _share, deadline } =
        receive(request.into_body(), body_bytes_max, time, &api.request_memory).await?;
    let operation = Operation::Put { key, value, condition };
    let command = Command { operation, idempotency_key };
    let command = if parameters.is_encoding_2 { command.encode_2() } else { command.encode() };
    match propose_encoded(&api, command, deadline).await? {
        Answer::Put { revision, create_revision, version } => {
            let body = format!(
                "{{\"revision\":{revision},\"create_revision\":{create_revision},\"version\":{version}}}\n"
            );
            let mut response = answer(body.into(), JSON);
            response.headers_mut().insert(header::ETAG, etag(revision));
            response.headers_mut().insert(X_REVISION, revision.0.into());
            Ok(response)
        }
        other => Err(refused(&other)),
    }
}

/// `DELETE /v1/kv/{key}`.
pub(super) async fn kv_delete<R: Replica>(
    api: Arc<Api<R>>,
    request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::parse(request.uri().query(), &["timeout"])?;
    let key = key_of(&api, &request)?;
    let condition = parse_condition(request.headers())?;
    let idempotency_key = parse_idempotency_key(request.headers())?;
    let deadline = time(&api, parameters.timeout, started).deadline();
    let operation = Operation::Delete { key, condition };
    match propose(&api, Command { operation, idempotency_key }, deadline).await? {
        Answer::Deleted { revision } => {
            let mut response = answer(format!("{{\"revision\":{revision}}}\n").into(), JSON);
            response.headers_mut().insert(X_REVISION, revision.0.into());
            Ok(response)
        }
        other => Err(refused(&other)),
    }
}

/// What the key holds and the store's revision at that moment.
async fn read<R: Replica>(
    api: &Api<R>,
    key: &[u8],
    consistency: Consistency,
    deadline: Instant,
) -> Result<(Option<KeyValue>, Revision), Problem> {
    let replica = api.replica()?;
    if consistency == Consistency::Linearizable {
        replica.read_barrier(left(deadline)?).await.map_err(Problem::read_refused)?;
    }
    // The guard makes apply wait, so nothing happens under it but sharing the bytes.
    let store = replica.store();
    Ok((store.get(key).cloned(), store.revision()))
}

async fn propose<R: Replica>(api: &Api<R>, command: Command, deadline: Instant) -> Result<Answer, Problem> {
    propose_encoded(api, command.encode(), deadline).await
}

async fn propose_encoded<R: Replica>(
    api: &Api<R>,
    command: bytes::Bytes,
    deadline: Instant,
) -> Result<Answer, Problem> {
    let replica = api.replica()?;
    replica.propose(command, left(deadline)?).await.map_err(Problem::from)
}

/// Smaller values are sent at once and need no share of the memory for answers.
const SMALL_BYTES: usize = 16 << 10;

/// A value as the body of an answer: the client may take it slowly, while the store has another one already.
async fn body_of<R: Replica>(api: &Api<R>, value: Bytes, deadline: Instant) -> Result<Body, Problem> {
    if value.len() <= SMALL_BYTES {
        return Ok(value.into());
    }
    let share = api.answer_memory.take(value.len(), deadline).await?;
    Ok(held(value, share))
}

pub(super) fn time<R>(api: &Api<R>, wanted: Option<Duration>, started: Instant) -> Time {
    Time::new(started, wanted, api.settings.request_timeout)
}

/// The time until `deadline`.
fn left(deadline: Instant) -> Result<Duration, Problem> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => {
            Err(Problem::timeout_before_proposal("the deadline passed while the request was read"))
        }
        left => Ok(left),
    }
}

/// Conditions that are not supported here must not be ignored: the client counts on them (RFC 9110, 13.1).
fn refuse_conditions(headers: &HeaderMap, names: &[HeaderName]) -> Result<(), Problem> {
    match names.iter().find(|name| headers.contains_key(*name)) {
        Some(name) => Err(Problem::bad_request(format!("header `{name}` is not supported by this request"))),
        None => Ok(()),
    }
}

fn missing(name: &str) -> Problem {
    Problem::bad_request(format!("query parameter `{name}` is missing"))
}

fn key_of<R: Replica>(api: &Api<R>, request: &Request) -> Result<Bytes, Problem> {
    let key = decode_key(request.uri().path().strip_prefix(KV_PREFIX).unwrap_or_default())?;
    check_key(api, &key)?;
    Ok(key)
}

fn check_key<R: Replica>(api: &Api<R>, key: &[u8]) -> Result<(), Problem> {
    if key.is_empty() {
        return Err(Problem::bad_request("the key is empty"));
    }
    if key.len() > api.settings.key_bytes_max {
        return Err(Problem::too_large("key", api.settings.key_bytes_max));
    }
    Ok(())
}

fn check_value<R: Replica>(api: &Api<R>, len: usize) -> Result<(), Problem> {
    if len > api.settings.value_bytes_max {
        return Err(Problem::too_large("value", api.settings.value_bytes_max));
    }
    Ok(())
}

/// How many bytes the body may have in addition to the request's target.
fn check_target<R: Replica>(api: &Api<R>, request: &Request) -> Result<usize, Problem> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let bytes_max = api.settings.request_bytes_max;
    bytes_max.checked_sub(target).ok_or_else(|| Problem::too_large("request", bytes_max))
}

/// The problem behind an answer that is no success.
fn refused(answer: &Answer) -> Problem {
    match answer {
        Answer::KeyNotFound { .. } => Problem::key_not_found(),
        Answer::PreconditionFailed { mod_revision: None } => {
            Problem::precondition_failed("there is no such key")
        }
        Answer::PreconditionFailed { mod_revision: Some(revision) } => {
            Problem::precondition_failed(format!("the key is at revision {revision}"))
        }
        Answer::IdempotencyConflict => Problem::idempotency_conflict(),
        Answer::Put { .. } | Answer::Deleted { .. } => {
            Problem::internal(format!("the state machine gave the answer of another command: {answer:?}"))
        }
    }
}

fn answer(body: Body, kind: HeaderValue) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.reserve(6);
    headers.insert(header::CONTENT_TYPE, kind);
    response
}

fn etag(revision: Revision) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).expect("digits and quotes are a header value")
}
