//! A client of the whole cluster: finds a node that answers, repeats what may be repeated, never more.
//!
//! - Reads are repeated, at the next endpoint, until the deadline.
//! - A write is sent again only when it is certain that it was not applied: no connection, the request did
//!   not leave, or the server said so (503 or 504 with `not_applied`, 429). Anything else is returned as it is.

use std::time::Duration;

use axum::http::Response;
use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::StatusReport;
use super::client::{
    Client, ClientError, ClientRequest, Found, Written, delete_request, get_request, parse_delete, parse_get,
    parse_put, parse_status, put_request, status_request,
};
use super::query::Consistency;
use super::replica::Outcome;
use crate::kv::Condition;
use crate::types::Revision;

/// Pause after all endpoints failed, before the first is tried again.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// A client of several nodes; uses one of them until it fails.
#[derive(Debug)]
pub struct Cluster {
    endpoints: Vec<String>,
    /// The one in use.
    current: usize,
    client: Option<Client>,
    timeout: Duration,
}

/// Whether a request may be repeated although it may have had an effect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

impl Cluster {
    /// A client of these endpoints (`host:port` or `http://host:port`), tried in this order. Each request
    /// ends after `timeout` at the latest. Connects when needed.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`] for an empty list or a malformed endpoint.
    pub fn new<S: AsRef<str>>(
        endpoints: impl IntoIterator<Item = S>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let endpoints: Vec<_> =
            endpoints.into_iter().map(|text| parse_endpoint(text.as_ref())).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(ClientError::Endpoint(String::new()));
        }
        Ok(Self { endpoints, current: 0, client: None, timeout })
    }

    /// The endpoint in use, `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoints[self.current]
    }

    /// Reads a key; `None` if it is not there.
    ///
    /// # Errors
    /// The last one before the deadline.
    pub async fn get(&mut self, key: &[u8], consistency: Consistency) -> Result<Option<Found>, ClientError> {
        parse_get(self.run(Kind::Read, |timeout| get_request(key, consistency, Some(timeout))).await)
    }

    /// Sets a key.
    ///
    /// # Errors
    /// [`ClientError::outcome`] says whether the write may have been applied.
    pub async fn put(
        &mut self,
        key: &[u8],
        value: Bytes,
        condition: Condition,
    ) -> Result<Written, ClientError> {
        let request = |timeout| put_request(key, value.clone(), condition, Some(timeout));
        parse_put(self.run(Kind::Write, request).await)
    }

    /// Deletes a key and returns the store's revision after it.
    ///
    /// # Errors
    /// [`ClientError::outcome`] says whether the write may have been applied; a missing key is the
    /// problem `key_not_found`.
    pub async fn delete(&mut self, key: &[u8], condition: Condition) -> Result<Revision, ClientError> {
        parse_delete(self.run(Kind::Write, |timeout| delete_request(key, condition, Some(timeout))).await)
    }

    /// What the first node that answers knows of itself and its cluster.
    ///
    /// # Errors
    /// The last one before the deadline.
    pub async fn status(&mut self) -> Result<StatusReport, ClientError> {
        parse_status(self.run(Kind::Read, |_| status_request()).await)
    }

    /// Sends what `build` makes of the time left, again and again as `kind` allows.
    async fn run(
        &mut self,
        kind: Kind,
        build: impl Fn(Duration) -> Result<ClientRequest, ClientError>,
    ) -> Result<Response<Bytes>, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut failures = 0;
        loop {
            let error = match self.attempt(kind, deadline, &build).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if !may_repeat(kind, &error) {
                return Err(error);
            }
            self.client = None;
            self.current = (self.current + 1) % self.endpoints.len();
            failures += 1;
            if failures % self.endpoints.len() == 0 {
                if Instant::now() + ROUND_PAUSE >= deadline {
                    return Err(error);
                }
                sleep_until(Instant::now() + ROUND_PAUSE).await;
            }
            if Instant::now() >= deadline {
                return Err(error);
            }
        }
    }

    /// Once, at the endpoint in use.
    async fn attempt(
        &mut self,
        kind: Kind,
        deadline: Instant,
        build: impl Fn(Duration) -> Result<ClientRequest, ClientError>,
    ) -> Result<Response<Bytes>, ClientError> {
        // A silent endpoint must leave time for the others.
        let share = self.timeout / u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        let share_end = deadline.min(Instant::now() + share);
        // A connection that was left open may have been closed by the server meanwhile.
        let mut client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => timeout_at(share_end, Client::connect(&self.endpoints[self.current]))
                .await
                .map_err(|_elapsed| ClientError::Timeout { sent: false })??,
        };
        let until = if kind == Kind::Read { share_end } else { deadline };
        // The server gets a little less, so that its definite answer comes before the own deadline.
        let request = build(until.saturating_duration_since(Instant::now()) * 9 / 10)?;
        let answer = timeout_at(until, client.request(request))
            .await
            .map_err(|_elapsed| ClientError::Timeout { sent: true })?;
        // Only a connection whose last answer was read to its end can take the next request.
        if matches!(answer, Ok(_) | Err(ClientError::Problem(_))) {
            self.client = Some(client);
        }
        answer
    }
}

/// Whether to try again after this error.
fn may_repeat(kind: Kind, error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } | ClientError::NotSent(_) | ClientError::Timeout { sent: false } => true,
        ClientError::Broken(_) | ClientError::Timeout { sent: true } => kind == Kind::Read,
        ClientError::Problem(problem) => {
            matches!(problem.status, 429 | 503 | 504)
                && (kind == Kind::Read || error.outcome() == Outcome::NotApplied)
        }
        ClientError::Endpoint(_) | ClientError::TargetTooLong | ClientError::Unexpected { .. } => false,
    }
}

/// `host:port`, with or without `http://` before and `/` behind.
fn parse_endpoint(text: &str) -> Result<String, ClientError> {
    let endpoint = text.strip_prefix("http://").unwrap_or(text);
    let endpoint = endpoint.strip_suffix('/').unwrap_or(endpoint);
    let is_valid = endpoint.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_valid { Ok(endpoint.into()) } else { Err(ClientError::Endpoint(text.into())) }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
