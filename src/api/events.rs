//! `GET /v1/events`: what this node observes, as server-sent events (WHATWG HTML, 9.2).
//!
//! Each event has the observation's kind as its type, its number as its id, and JSON as its data. A client that
//! comes back with `Last-Event-ID` gets what it missed, as far as it is kept; what is not kept is told by an event
//! of type `missed`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, Response};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::query::Parameters;
use super::{Api, Problem, Replica};
use crate::driver::{EventStream, NextEvent, Observed};

/// A comment is sent after this much silence, so that proxies keep the connection and a client that is gone is
/// noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// `GET /v1/events`.
pub(super) fn events<R: Replica>(api: &Api<R>, request: &Request) -> Result<Response<Body>, Problem> {
    Parameters::parse(request.uri().query(), &[])?;
    let after = match request.headers().get(LAST_EVENT_ID) {
        None => None,
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            Some(number.ok_or_else(|| Problem::bad_request("Last-Event-ID must be the number of an event"))?)
        }
    };
    let turn = Arc::clone(&api.event_streams).try_acquire_owned();
    let turn = turn.map_err(|_| Problem::overloaded("this node sends as many event streams as it may"))?;
    let events = until(api.replica()?.events(after), api.draining(), turn);
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(sse.into_response())
}

/// The events until the replica ends or the server drains its connections.
fn until(
    events: EventStream,
    draining: watch::Receiver<bool>,
    turn: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((events, draining, turn), |(mut events, mut draining, turn)| async move {
        let next = tokio::select! {
            next = events.next() => next,
            _ = draining.wait_for(|draining| *draining) => return None,
        };
        let event = match next {
            NextEvent::End => return None,
            NextEvent::Event(observed) => event(&observed),
            NextEvent::Missed(count) => Event::default().event("missed").data(count.to_string()),
        };
        Some((Ok(event), (events, draining, turn)))
    })
}

fn event(observed: &Observed) -> Event {
    let data = serde_json::to_value(observed).expect("observations have only string keys");
    let kind = data["kind"].as_str().unwrap_or_default();
    Event::default().event(kind).id(observed.id.to_string()).data(data.to_string())
}
