//! Answers to single requests.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};

use super::objects::{Change, merge};
use super::{Fault, Shared};

/// What a path names.
struct Target {
    /// With the subresource, if any: `pods/eviction`.
    resource: String,
    name: String,
    query: Vec<(String, String)>,
}

impl Target {
    fn of(request: &Request<Incoming>) -> Option<Self> {
        let path = request.uri().path();
        let mut parts = path.split_once("/namespaces/")?.1.split('/').skip(1);
        let mut resource = parts.next()?.to_owned();
        let name = parts.next().unwrap_or_default().to_owned();
        if let Some(sub) = parts.next() {
            resource = format!("{resource}/{sub}");
        }
        let query = request.uri().query().unwrap_or_default().split('&');
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let query =
            query.filter_map(|pair| pair.split_once('=')).map(|(key, value)| (decode(key), decode(value)));
        Some(Self { resource, name, query: query.collect() })
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the selectors of the request take this object.
    fn selects(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let by_label = self.parameter("labelSelector").and_then(|text| text.split_once('='));
        let by_field = self.parameter("fieldSelector").and_then(|text| text.split_once('='));
        by_label.is_none_or(|(key, value)| metadata["labels"][key] == value)
            && by_field.is_none_or(|(key, value)| key == "metadata.name" && metadata["name"] == value)
    }
}

pub(super) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let Some(target) = Target::of(&request) else { return refuse(404, None) };
    let is_watch = target.parameter("watch").is_some_and(|watch| watch != "false");
    let method = if is_watch { "WATCH".to_owned() } else { request.method().to_string() };
    let line = format!("{method} {} {}", target.resource, target.name);
    shared.state().requests.push(line.trim_end().to_owned());
    if !shared.covers(&target.resource, &target.name) {
        return refuse(403, None);
    }
    let mut is_silent = false;
    match shared.fault(&method, &target.resource) {
        None => {}
        Some(Fault::Status(code)) => return refuse(code, None),
        Some(Fault::RetryAfter(code, seconds)) => return refuse(code, Some(seconds)),
        Some(Fault::Silence) => return std::future::pending().await,
        Some(Fault::DoneInSilence) => is_silent = true,
        Some(Fault::Meanwhile(resource, object)) => {
            shared.change(|objects| objects.put(resource, object));
        }
    }
    if is_watch {
        return watch(shared, target);
    }
    let method = request.method().clone();
    let is_apply =
        request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/apply-patch+yaml");
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let done = act(shared, &target, &method, is_apply, &body);
    if is_silent {
        return std::future::pending().await;
    }
    match done {
        Ok(object) => json_body(200, &object),
        Err(code) => refuse(code, None),
    }
}

fn act(shared: &Shared, target: &Target, method: &Method, is_apply: bool, body: &[u8]) -> Result<Value, u16> {
    let Target { resource, name, .. } = target;
    let body = || serde_json::from_slice::<Value>(body).map_err(|_| 400_u16);
    match (method, name.as_str()) {
        (&Method::GET, "") => Ok(list(shared, target)),
        (&Method::GET, name) => shared.state().objects.get(resource, name).cloned().ok_or(404),
        (&Method::POST, name) if resource == "pods/eviction" => evict(shared, name, &body()?),
        (&Method::POST, _) => {
            let object = body()?;
            let name = object["metadata"]["name"].as_str().ok_or(400_u16)?.to_owned();
            if shared.state().objects.get(resource, &name).is_some() {
                return Err(409);
            }
            Ok(shared.change(|objects| objects.put(resource, object)))
        }
        (&Method::PATCH, name) => patch(shared, resource, name, &body()?, is_apply),
        _ => Err(405),
    }
}

fn list(shared: &Shared, target: &Target) -> Value {
    let state = shared.state();
    let items: Vec<&Value> =
        state.objects.list(&target.resource).filter(|object| target.selects(object)).collect();
    json!({
        "apiVersion": "v1", "kind": "List",
        "metadata": {"resourceVersion": state.objects.version().to_string()},
        "items": items,
    })
}

fn evict(shared: &Shared, name: &str, eviction: &Value) -> Result<Value, u16> {
    let mut pod = shared.state().objects.get("pods", name).cloned().ok_or(404_u16)?;
    let wanted = &eviction["deleteOptions"]["preconditions"]["uid"];
    if !wanted.is_null() && *wanted != pod["metadata"]["uid"] {
        return Err(409);
    }
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    shared.change(|objects| objects.put("pods", pod));
    Ok(json!({"apiVersion": "v1", "kind": "Status", "status": "Success"}))
}

fn patch(shared: &Shared, resource: &str, name: &str, patch: &Value, is_apply: bool) -> Result<Value, u16> {
    // To create by applying, this project's role does not suffice.
    let missing = if is_apply { 403_u16 } else { 404 };
    let mut object = shared.state().objects.get(resource, name).cloned().ok_or(missing)?;
    for (field, is_checked) in [("resourceVersion", true), ("uid", true)] {
        let wanted = &patch["metadata"][field];
        if is_checked && !wanted.is_null() && *wanted != object["metadata"][field] {
            return Err(409);
        }
    }
    merge(&mut object, patch);
    Ok(shared.change(|objects| objects.put(resource, object)))
}

/// A stream of changes from where the list ended.
fn watch(shared: &Arc<Shared>, target: Target) -> Response<Body> {
    let from = target.parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    if shared.state().objects.since(from).is_none() {
        return refuse(410, None);
    }
    let mut changed = shared.changed.subscribe();
    changed.mark_changed();
    let cut = shared.cut.subscribe();
    let state = (Arc::clone(shared), target, from, changed, cut, false);
    let events = stream::unfold(state, |(shared, target, from, mut changed, mut cut, ended)| async move {
        if ended {
            return None;
        }
        loop {
            tokio::select! {
                found = changed.changed() => found.ok()?,
                found = cut.changed() => {
                    found.ok()?;
                    let broken = Err(io::Error::from(io::ErrorKind::ConnectionReset));
                    return Some((broken, (shared, target, from, changed, cut, true)));
                }
            }
            let news = shared.state().objects.since(from);
            let Some(news) = news else {
                let line = line("ERROR", &status(410));
                return Some((Ok(line), (shared, target, from, changed, cut, true)));
            };
            let from = news.last().map_or(from, |change| change.version);
            let is_wanted =
                |change: &&Change| change.resource == target.resource && target.selects(&change.object);
            let lines: Vec<u8> =
                news.iter().filter(is_wanted).flat_map(|change| line(change.kind, &change.object)).collect();
            if !lines.is_empty() {
                return Some((Ok(lines.into()), (shared, target, from, changed, cut, false)));
            }
        }
    });
    let response = Response::builder().header(CONTENT_TYPE, "application/json");
    response.body(Body::from_stream(events)).unwrap()
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

fn status(code: u16) -> Value {
    let (reason, message) = match code {
        401 => ("Unauthorized", "Unauthorized"),
        403 => ("Forbidden", "forbidden: User cannot do this"),
        404 => ("NotFound", "not found"),
        409 => ("Conflict", "the object has been modified"),
        410 => ("Expired", "too old resource version"),
        429 => ("TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget."),
        _ => ("InternalError", "an error on the server"),
    };
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

fn refuse(code: u16, retry_after: Option<u32>) -> Response<Body> {
    let mut response = json_body(code, &status(code));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn json_body(code: u16, object: &Value) -> Response<Body> {
    let response = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    response.body(Body::from(object.to_string())).unwrap()
}
