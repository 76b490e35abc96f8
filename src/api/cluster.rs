//! A client of the whole cluster: finds a node that answers, repeats what may be repeated, never more.
//!
//! - Reads are repeated, at the next endpoint, until the deadline.
//! - A write is sent again only when it is certain that it was not applied: no connection, the request did
//!   not leave, or the server said so (503 or 504 with `not_applied`, 429). Anything else is returned as it is.
//! - A write with an idempotency key is repeated as a read is: it takes effect once.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use axum::http::Response;
use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::StatusReport;
pub use super::admin_client::MemberChange;
use super::client::{
    Client, ClientError, ClientRequest, Found, Written, delete_request, get_request, host_of, named,
    parse_delete, parse_get, parse_put, parse_status, put_request, status_request,
};
use super::query::Consistency;
use super::replica::Outcome;
use crate::kv::{Condition, IdempotencyKey};
use crate::tls::Connector;
use crate::types::Revision;

/// Pause after all endpoints failed, before the first is tried again.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// A write with an idempotency key is not repeated for longer than this: well below the ten minutes for which its
/// outcome is remembered.
const REPEAT_MAX: Duration = Duration::from_mins(5);

/// A client of several nodes; uses one of them until it fails.
#[derive(Debug)]
pub struct Cluster {
    endpoints: Vec<Endpoint>,
    tls: Option<Connector>,
    /// An administrator's.
    token: Option<String>,
    /// The one in use.
    current: usize,
    client: Option<Client>,
    timeout: Duration,
}

/// One node's client port.
#[derive(Debug)]
struct Endpoint {
    /// `host:port`
    address: String,
    is_tls: bool,
}

/// Whether a request may be repeated although it may have had an effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    /// A write with an idempotency key.
    Named,
}

impl Cluster {
    /// A client of these endpoints (`host:port` or `http://host:port`; `https://host:port` needs [`Cluster::with_tls`]), tried in this order. Each request ends after `timeout` at the latest. Connects when needed.
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
        Ok(Self { endpoints, tls: None, token: None, current: 0, client: None, timeout })
    }

    /// By what nodes at `https://` are verified.
    #[must_use]
    pub fn with_tls(self, tls: Connector) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Identifies itself as an administrator by this token, at the endpoints that were given.
    #[must_use]
    pub fn with_token(self, token: String) -> Self {
        Self { token: Some(token), ..self }
    }

    /// The endpoint in use, `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoints[self.current].address
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

    /// Sets a key, once: repeats the request until the deadline also where it may have been applied.
    ///
    /// # Errors
    /// As [`Cluster::put`]; [`ClientError::IdempotencyKey`], and the problem `idempotency_conflict` if the idempotency
    /// key was used for another request.
    pub async fn put_once(
        &mut self,
        key: &[u8],
        value: Bytes,
        condition: Condition,
        name: &IdempotencyKey,
    ) -> Result<Written, ClientError> {
        let request = |timeout| named(put_request(key, value.clone(), condition, Some(timeout))?, name);
        parse_put(self.run(Kind::Named, request).await)
    }

    /// Deletes a key and returns the store's revision after it.
    ///
    /// # Errors
    /// [`ClientError::outcome`] says whether the write may have been applied; a missing key is the
    /// problem `key_not_found`.
    pub async fn delete(&mut self, key: &[u8], condition: Condition) -> Result<Revision, ClientError> {
        parse_delete(self.run(Kind::Write, |timeout| delete_request(key, condition, Some(timeout))).await)
    }

    /// Deletes a key, once, as [`Cluster::put_once`] sets one.
    ///
    /// # Errors
    /// As [`Cluster::delete`] and [`Cluster::put_once`].
    pub async fn delete_once(
        &mut self,
        key: &[u8],
        condition: Condition,
        name: &IdempotencyKey,
    ) -> Result<Revision, ClientError> {
        let request = |timeout| named(delete_request(key, condition, Some(timeout))?, name);
        parse_delete(self.run(Kind::Named, request).await)
    }

    /// What the first node that answers knows of itself and its cluster.
    ///
    /// # Errors
    /// The last one before the deadline.
    pub async fn status(&mut self) -> Result<StatusReport, ClientError> {
        parse_status(self.run(Kind::Read, |_| status_request()).await)
    }

    /// How long a request may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends what `build` makes of the time left, again and again as `kind` allows.
    pub(super) async fn run(
        &mut self,
        kind: Kind,
        build: impl Fn(Duration) -> Result<ClientRequest, ClientError>,
    ) -> Result<Response<Bytes>, ClientError> {
        let started = Instant::now();
        let deadline = started + self.timeout;
        let repeat_until = if kind == Kind::Named { deadline.min(started + REPEAT_MAX) } else { deadline };
        let mut failures = 0;
        // How an attempt ended that may have had an effect.
        let mut unknown: Option<ClientError> = None;
        // How the attempt before ended, if it certainly had no effect.
        let mut before: Option<ClientError> = None;
        loop {
            let error = match (self.attempt(kind, deadline, &build).await, before.take()) {
                (Ok(response), _) => return Ok(response),
                // One that the deadline cuts off before anything is sent tells less than the one before.
                (Err(ClientError::Timeout { sent: false }), Some(before)) => before,
                (Err(error), _) => error,
            };
            let may_repeat = may_repeat(kind, &error);
            // That a later attempt was certainly not applied says nothing of the earlier one.
            let error = match unknown.take() {
                Some(earlier) if error.outcome() == Outcome::NotApplied && !is_result(&error) => earlier,
                _ => error,
            };
            if !may_repeat || !self.move_on(&mut failures, repeat_until).await {
                return Err(error);
            }
            match error.outcome() {
                Outcome::NotApplied => before = Some(error),
                Outcome::Unknown if kind == Kind::Named => unknown = Some(error),
                Outcome::Unknown => {}
            }
        }
    }

    /// Turns to the next endpoint, after a pause if all have failed. False if `until` passed or would pass.
    async fn move_on(&mut self, failures: &mut usize, until: Instant) -> bool {
        self.client = None;
        self.current = (self.current + 1) % self.endpoints.len();
        *failures += 1;
        if failures.is_multiple_of(self.endpoints.len()) {
            if Instant::now() + ROUND_PAUSE >= until {
                return false;
            }
            sleep_until(Instant::now() + ROUND_PAUSE).await;
        }
        Instant::now() < until
    }

    async fn connect(&self) -> Result<Client, ClientError> {
        let Endpoint { address, is_tls } = &self.endpoints[self.current];
        let tls = match &self.tls {
            Some(tls) if *is_tls => Some(tls),
            None if *is_tls => {
                let source = io::Error::other("nothing says which certificates to trust");
                return Err(ClientError::Connect { endpoint: address.clone(), source });
            }
            _ => None,
        };
        Ok(Client::connect_with(address, tls).await?.with_token(self.token.as_deref()))
    }

    /// A connection to another node, at `address`, that the one in use has told of.
    pub(super) async fn connect_to(&self, address: &str) -> Result<Client, ClientError> {
        let known = &self.endpoints[self.current];
        let Some(tls) = self.tls.as_ref().filter(|_| known.is_tls) else {
            return Client::connect(address).await;
        };
        let is_ip = |address: &str| host_of(address).parse::<IpAddr>().is_ok();
        // A pod's address is in no certificate; the name that all pods are reached by is.
        let expecting = if is_ip(address) && !is_ip(&known.address) { &known.address } else { address };
        let failed =
            |error| ClientError::Connect { endpoint: address.into(), source: io::Error::other(error) };
        let tls = tls.expecting(host_of(expecting)).map_err(failed)?;
        Client::connect_with(address, Some(&tls)).await
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
            None => timeout_at(share_end, self.connect())
                .await
                .map_err(|_elapsed| ClientError::Timeout { sent: false })??,
        };
        let until = if kind == Kind::Write { deadline } else { share_end };
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
        ClientError::Broken(_) | ClientError::Timeout { sent: true } => kind != Kind::Write,
        ClientError::Problem(problem) => {
            matches!(problem.status, 429 | 503 | 504)
                && (kind != Kind::Write || error.outcome() == Outcome::NotApplied)
        }
        ClientError::Endpoint(_)
        | ClientError::TargetTooLong
        | ClientError::IdempotencyKey(_)
        | ClientError::Unexpected { .. } => false,
    }
}

/// Whether the state machine gave this answer, so that it holds for every attempt with the same idempotency key.
fn is_result(error: &ClientError) -> bool {
    matches!(error, ClientError::Problem(problem) if matches!(problem.status, 404 | 412 | 422))
}

/// `host:port`, with or without `http://` or `https://` before and `/` behind.
fn parse_endpoint(text: &str) -> Result<Endpoint, ClientError> {
    let (endpoint, is_tls) = match text.strip_prefix("https://") {
        Some(endpoint) => (endpoint, true),
        None => (text.strip_prefix("http://").unwrap_or(text), false),
    };
    let endpoint = endpoint.strip_suffix('/').unwrap_or(endpoint);
    let is_valid = endpoint.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_valid {
        Ok(Endpoint { address: endpoint.into(), is_tls })
    } else {
        Err(ClientError::Endpoint(text.into()))
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
