//! Counts and times requests. Handles are resolved once for each route and code, not once a request.

use std::sync::OnceLock;
use std::time::Duration;

use crate::metrics::{Histogram, IntCounter, IntCounterVec, Metrics};
use axum::http::StatusCode;

/// The routes, as the `route` label names them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    Set,
    Get,
    Kv,
    Status,
    Members,
    Events,
    Member,
    Transfer,
    Snapshot,
    Livez,
    Readyz,
    Metrics,
    Ui,
    Other,
}

/// Labels in the order of [`Route`].
const ROUTES: [&str; 14] = [
    "/set",
    "/get",
    "/v1/kv/{key}",
    "/v1/status",
    "/v1/members",
    "/v1/events",
    "/v1/members/{id}",
    "/v1/leader/transfer",
    "/v1/snapshot",
    "/livez",
    "/readyz",
    "/metrics",
    "/ui",
    "other",
];

/// The codes that are sent; any other counts as the last.
const CODES: [&str; 17] = [
    "200", "400", "401", "403", "404", "405", "409", "412", "413", "415", "417", "421", "422", "429", "503",
    "504", "500",
];

/// Counters and histograms, resolved.
pub(super) struct RequestMetrics {
    total: IntCounterVec,
    counters: [[OnceLock<IntCounter>; CODES.len()]; ROUTES.len()],
    durations: [Histogram; ROUTES.len()],
}

impl RequestMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            total: metrics.http_requests_total.clone(),
            counters: Default::default(),
            durations: ROUTES.map(|route| metrics.http_request_duration_seconds.with_label_values(&[route])),
        }
    }

    /// Counts one answered request.
    pub(super) fn observe(&self, route: Route, status: StatusCode, duration: Duration) {
        let code = CODES.iter().position(|code| *code == status.as_str()).unwrap_or(CODES.len() - 1);
        let route = route as usize;
        self.counters[route][code]
            .get_or_init(|| self.total.with_label_values(&[ROUTES[route], CODES[code]]))
            .inc();
        self.durations[route].observe(duration.as_secs_f64());
    }
}
