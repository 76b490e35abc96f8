//! What each request passes before a route sees it: the host it names, the page it comes from. And what each answer
//! says to browsers.

mod hosts;
mod request_line;

use std::sync::Arc;

use axum::body::Body;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use axum::response::IntoResponse;

pub use hosts::{AllowedHost, AllowedHostError};

pub(super) use request_line::{Fragments, RequestLines};

use super::Problem;
use super::body::discard;
use super::request_metrics::{RequestMetrics, Route};
use crate::tls::Acceptor;

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// Where a request comes from, as browsers say it (W3C, Fetch Metadata). No script can set it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The checks of one listener.
pub(super) struct Gate {
    hosts: Vec<AllowedHost>,
    tls: Option<Acceptor>,
    requests: Arc<RequestMetrics>,
}

impl Gate {
    pub(super) fn new(hosts: Vec<AllowedHost>, tls: Option<Acceptor>, requests: Arc<RequestMetrics>) -> Self {
        Self { hosts, tls, requests }
    }

    /// The request, if a route may see it; else the answer. `has_fragment`: what came as its target was longer than
    /// what the HTTP library shows.
    pub(super) fn admit(
        &self,
        request: Request<Body>,
        has_fragment: bool,
    ) -> Result<Request<Body>, Box<Response<Body>>> {
        let checked = if has_fragment { Err(fragment()) } else { self.check(&request) };
        let Err(problem) = checked else { return Ok(request) };
        let mut response = problem.into_response();
        self.requests.observe(Route::Other, response.status(), std::time::Duration::ZERO);
        if has_fragment {
            // What follows on the connection is not looked at any more.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else {
            discard(request.into_body());
        }
        Err(Box::new(response))
    }

    fn check(&self, request: &Request<Body>) -> Result<(), Problem> {
        check_target(request)?;
        check_meaning(request)?;
        let named = named_host(request)?;
        // No browser sends gRPC: it speaks HTTP/2 only under TLS, where a name that is not the node's has no valid
        // certificate. And gRPC clients name their targets as they like.
        if let Some(named) = &named
            && !is_grpc(request)
            && !hosts::is_allowed(named.host(), &self.hosts, || self.certified())
        {
            return Err(Problem::misdirected(named.host()));
        }
        if is_change(request) && is_cross_site(request.headers(), named.as_ref()) {
            return Err(Problem::cross_site());
        }
        if request.uri().path() == "/set" && is_browser_of_unknown_site(request) {
            return Err(Problem::cross_site());
        }
        Ok(())
    }

    /// The names of this listener's certificate.
    fn certified(&self) -> Vec<String> {
        self.tls.as_ref().map(Acceptor::names).unwrap_or_default()
    }
}

/// What each answer says to browsers: take it for what it is called, and show it to no other origin.
pub(super) fn seal(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(RESOURCE_POLICY, SAME_ORIGIN);
}

fn fragment() -> Problem {
    Problem::bad_request("the target holds a `#`: write it as `%23`")
}

/// Headers that change what a request means, and that are not supported: ignored, they would make it another request.
fn check_meaning(request: &Request<Body>) -> Result<(), Problem> {
    /// These ask for another method than that of the request.
    const OTHER_METHOD: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
    let headers = request.headers();
    let is_identity = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.contains_key(header::CONTENT_RANGE) {
        // RFC 9110, 14.5: a partial PUT must not be taken for a whole one.
        return Err(Problem::bad_request("`Content-Range` is not supported: a key is written as a whole"));
    }
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_identity) {
        return Err(Problem::unsupported_encoding());
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if !codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Problem::bad_request("`Transfer-Encoding` is not `chunked`, all that is supported"));
    }
    let mut expected = headers.get_all(header::EXPECT).iter();
    if !expected.all(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Problem::expectation_failed());
    }
    match OTHER_METHOD.iter().find(|name| headers.contains_key(**name)) {
        Some(name) => Err(Problem::bad_request(format!("`{name}` is not supported: send the method itself"))),
        None => Ok(()),
    }
}

/// The forms of a target that make sense to an origin server (RFC 9112, 3.2).
fn check_target(request: &Request<Body>) -> Result<(), Problem> {
    let uri = request.uri();
    if request.method() == Method::CONNECT {
        return Err(Problem::method_not_allowed());
    }
    if uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Problem::bad_request("the target's scheme is neither `http` nor `https`"));
    }
    let is_asterisk = request.method() == Method::OPTIONS && uri.path() == "*";
    if uri.path().starts_with('/') || is_asterisk {
        Ok(())
    } else {
        Err(Problem::bad_request("the target is no path: it does not begin with `/`"))
    }
}

/// The host that a request names, by its target, by `Host`, or by both if they agree. `None`: HTTP/1.0 need not name
/// any, and no browser speaks it.
fn named_host(request: &Request<Body>) -> Result<Option<Authority>, Problem> {
    let mut given = request.headers().get_all(header::HOST).iter();
    let (header, second) = (given.next(), given.next());
    if second.is_some() {
        return Err(Problem::bad_request("header `host` is given twice"));
    }
    let header = header.map(|value| {
        Authority::try_from(value.as_bytes()).map_err(|_| Problem::bad_request("`Host` is no host"))
    });
    let (header, target) = (header.transpose()?, request.uri().authority().cloned());
    if header.iter().chain(&target).any(|named| named.as_str().contains('@')) {
        return Err(Problem::bad_request("the host has a user in front of it"));
    }
    match (header, target) {
        (Some(header), Some(target)) if header != target => {
            Err(Problem::bad_request("the target and `Host` name different hosts"))
        }
        // A proxy that speaks HTTP/1.1 must send it (RFC 9112, 3.2); in HTTP/2 the target has it.
        (None, _) if request.version() == Version::HTTP_11 => {
            Err(Problem::bad_request("the request has no `Host`"))
        }
        (None, None) if request.version() == Version::HTTP_2 => {
            Err(Problem::bad_request("the request names no host"))
        }
        (header, target) => Ok(header.or(target)),
    }
}

fn is_grpc(request: &Request<Body>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    request.version() == Version::HTTP_2 && kind.starts_with(b"application/grpc")
}

/// Whether a request may change something.
fn is_change(request: &Request<Body>) -> bool {
    !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        || request.uri().path() == "/set"
}

/// Whether a page of another site or origin sent it. Programs send neither header.
fn is_cross_site(headers: &HeaderMap, host: Option<&Authority>) -> bool {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter().peekable();
    if sites.peek().is_some() {
        // `none`: typed by the user.
        return sites.any(|site| site != "same-origin" && site != "none");
    }
    headers.get_all(header::ORIGIN).iter().any(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.is_none_or(|(_, origin)| host.is_none_or(|host| !host.as_str().eq_ignore_ascii_case(origin)))
    })
}

/// Whether a browser asks by GET and does not say for which page. Browsers say it only to addresses that they trust
/// (TLS or loopback), and an image of another page is such a request, too.
fn is_browser_of_unknown_site(request: &Request<Body>) -> bool {
    let headers = request.headers();
    let is_browser = || {
        let agent = headers.get(header::USER_AGENT);
        agent.is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"))
    };
    *request.method() == Method::GET && !headers.contains_key(SEC_FETCH_SITE) && is_browser()
}
