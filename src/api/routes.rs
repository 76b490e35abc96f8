//! Which path and method leads where.

use std::future::{Future, ready};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, Response, header};
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter, any, on};
use tokio::time::Instant;

use super::request_metrics::Route;
use super::{Api, Problem, Replica, access, events, kv, members, snapshot, status};

const PAGE: &str = include_str!("../ui/index.html");
const PAGE_STYLE: &str = include_str!("../ui/page.css");
const PAGE_SCRIPT: &str = include_str!("../ui/page.js");
/// The page loads its style and script from the node that serves it, and asks no other node.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const GET: MethodFilter = MethodFilter::GET;
const POST: MethodFilter = MethodFilter::POST;

/// All routes.
pub(super) fn router<R: Replica>(api: Arc<Api<R>>) -> Router {
    let keys =
        || {
            route(GET, Route::Kv, kv::kv_get)
                .merge(route(MethodFilter::PUT, Route::Kv, kv::kv_put))
                .merge(route(MethodFilter::DELETE, Route::Kv, kv::kv_delete))
        };
    let router = about()
        .route("/set", any(set))
        .route("/get", route(GET, Route::Get, kv::get))
        .route("/v1/kv/{*key}", keys())
        // The wildcard does not match nothing; the handlers say what is wrong with it.
        .route(kv::KV_PREFIX, keys())
        .route("/v1/members", admin(POST, Route::Members, members::add))
        .route("/v1/members/{id}", admin(MethodFilter::DELETE, Route::Member, members::remove))
        .route("/v1/members/{id}/promote", admin(POST, Route::Member, members::promote))
        .route("/v1/members/{id}/demote", admin(POST, Route::Member, members::demote))
        .route("/v1/leader/transfer", admin(POST, Route::Transfer, members::transfer))
        .route("/v1/snapshot", admin(GET, Route::Snapshot, snapshot::snapshot));
    complete(router, api)
}

/// Routes that report on the node and its cluster and on no key; none of them changes anything.
pub(super) fn operations<R: Replica>(api: Arc<Api<R>>) -> Router {
    complete(about(), api)
}

fn about<R: Replica>() -> Router<Arc<Api<R>>> {
    Router::new()
        .route(
            "/v1/status",
            route(GET, Route::Status, |api, request, _| ready(status::status(&api, &request))),
        )
        .route(
            "/v1/members",
            route(GET, Route::Members, |api, request, _| ready(members::list(&api, &request))),
        )
        .route(
            "/v1/events",
            route(GET, Route::Events, |api, request, _| ready(events::events(&api, &request))),
        )
        .route("/livez", route(GET, Route::Livez, |api, _, _| ready(Ok(status::livez(&api)))))
        .route("/readyz", route(GET, Route::Readyz, |api, _, _| ready(Ok(status::readyz(&api)))))
        .route("/metrics", route(GET, Route::Metrics, |api, _, _| ready(metrics(&api))))
        .route("/ui", page("text/html; charset=utf-8", PAGE))
        .route("/ui/page.css", page("text/css; charset=utf-8", PAGE_STYLE))
        .route("/ui/page.js", page("text/javascript; charset=utf-8", PAGE_SCRIPT))
}

/// All routes are there: what answers where none fits.
fn complete<R: Replica>(router: Router<Arc<Api<R>>>, api: Arc<Api<R>>) -> Router {
    router
        .fallback(async |State(api): State<Arc<Api<R>>>, request: Request| {
            let problem = || Problem::not_found("there is nothing at this path");
            measure(api, request, Route::Other, |_, _, _| ready(Err(problem()))).await
        })
        .method_not_allowed_fallback(async |State(api): State<Arc<Api<R>>>, request: Request| {
            let problem = Problem::method_not_allowed;
            measure(api, request, Route::Other, |_, _, _| ready(Err(problem()))).await
        })
        .with_state(api)
}

/// `/set`, which changes something by GET: so HEAD is not GET without the body there, and is refused.
async fn set<R: Replica>(State(api): State<Arc<Api<R>>>, request: Request) -> Response<Body> {
    if matches!(*request.method(), Method::GET | Method::POST) {
        return measure(api, request, Route::Set, kv::set).await;
    }
    let refuse = |_, _, _| ready(Err(Problem::method_not_allowed()));
    let mut response = measure(api, request, Route::Other, refuse).await;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET,POST"));
    response
}

/// One path's handler for some methods.
fn route<R, H, F>(methods: MethodFilter, route: Route, handler: H) -> MethodRouter<Arc<Api<R>>>
where
    R: Replica,
    H: Fn(Arc<Api<R>>, Request, Instant) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, Problem>> + Send,
{
    on(methods, async move |State(api): State<Arc<Api<R>>>, request: Request| {
        measure(api, request, route, handler).await
    })
}

/// One path's handler for some methods, for administrators.
fn admin<R, H, F>(methods: MethodFilter, route: Route, handler: H) -> MethodRouter<Arc<Api<R>>>
where
    R: Replica,
    H: Fn(Arc<Api<R>>, Request, Instant) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, Problem>> + Send,
{
    on(methods, async move |State(api): State<Arc<Api<R>>>, request: Request| {
        match access::check(&api, &request) {
            Ok(()) => measure(api, request, route, handler).await,
            Err(problem) => measure(api, request, route, |_, _, _| ready(Err(problem.clone()))).await,
        }
    })
}

/// Answers a request, counted and timed. There is no tracing span: at tens of thousands of requests a
/// second it would cost more than the request.
async fn measure<R, H, F>(api: Arc<Api<R>>, request: Request, route: Route, handler: H) -> Response<Body>
where
    R: Replica,
    H: Fn(Arc<Api<R>>, Request, Instant) -> F,
    F: Future<Output = Result<Response<Body>, Problem>>,
{
    let started = Instant::now();
    let answer = handler(api.clone(), request, started).await;
    let response = answer.unwrap_or_else(IntoResponse::into_response);
    api.requests.observe(route, response.status(), started.elapsed());
    response
}

/// `GET /metrics`.
fn metrics<R: Replica>(api: &Api<R>) -> Result<Response<Body>, Problem> {
    api.measure_memory();
    let text = api.metrics.render().map_err(|error| Problem::internal(error.to_string()))?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// A file of the page.
fn page<R: Replica>(kind: &'static str, content: &'static str) -> MethodRouter<Arc<Api<R>>> {
    route(GET, Route::Ui, move |_, _, _| {
        let headers = [
            (header::CONTENT_TYPE, kind),
            (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        ready(Ok((headers, content).into_response()))
    })
}
