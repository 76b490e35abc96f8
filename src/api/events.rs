//! `GET /v1/events`: what this node observes, as server-sent events (WHATWG HTML, 9.2).
//!
//! Each event has the observation's kind as its type, its number as its id, and JSON as its data. A client that
//! comes back with `Last-Event-ID` gets what it missed, as far as it is kept; what is not kept is told by an event
//! of type `missed`.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Response, header};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};
use tokio::sync::watch;

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
    let events = until(api.replica()?.events(after), api.draining());
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    let mut response = sse.into_response();
    // For the page of another node, as with the status.
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(response)
}

/// The events until the replica ends or the server drains its connections.
fn until(
    events: EventStream,
    draining: watch::Receiver<bool>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((events, draining), |(mut events, mut draining)| async move {
        let next = tokio::select! {
            next = events.next() => next,
            _ = draining.wait_for(|draining| *draining) => return None,
        };
        let event = match next {
            NextEvent::End => return None,
            NextEvent::Event(observed) => event(&observed),
            NextEvent::Missed(count) => Event::default().event("missed").data(count.to_string()),
        };
        Some((Ok(event), (events, draining)))
    })
}

fn event(observed: &Observed) -> Event {
    let data = serde_json::to_value(observed).expect("observations have only string keys");
    let kind = data["kind"].as_str().unwrap_or_default();
    Event::default().event(kind).id(observed.id.to_string()).data(data.to_string())
}
