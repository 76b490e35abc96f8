//! The stream of what the core reports, for all that follow it: the page, Events, scripts.
//!
//! Measurements that come many times a second (round trips, commits) are metrics, not events. Slow listeners do
//! not hold anybody up: they are told how many events they missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::raft::Observation;

/// Events that are kept for listeners who come back, and how far a listener may lag.
const KEPT: usize = 256;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// Rises by one from 1 since the process started.
    pub id: u64,
    /// When it was seen here, in milliseconds since 1970; for readers, nothing depends on it.
    pub time_ms: u64,
    /// What was seen.
    #[serde(flatten)]
    pub observation: Observation,
}

/// Where events are published and followed. Clones share it.
#[derive(Clone, Debug)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<VecDeque<Arc<Observed>>>,
    sender: broadcast::Sender<Arc<Observed>>,
}

/// Follows events without gaps, unless it lags.
#[derive(Debug)]
pub struct EventStream {
    earlier: VecDeque<Arc<Observed>>,
    receiver: broadcast::Receiver<Arc<Observed>>,
}

/// What comes next in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextEvent {
    /// An event.
    Event(Arc<Observed>),
    /// This many were missed here.
    Missed(u64),
    /// The replica has ended.
    End,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Inner { kept: Mutex::default(), sender: broadcast::Sender::new(KEPT) }))
    }
}

impl Events {
    /// Publishes what the core reports, but for measurements.
    pub(crate) fn publish(&self, observation: &Observation) {
        if matches!(
            observation,
            Observation::PeerRoundTrip { .. }
                | Observation::Committed { .. }
                | Observation::MessageIgnored { .. }
        ) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut kept = self.kept();
        let observed = Arc::new(Observed {
            id: kept.back().map_or(1, |last| last.id + 1),
            time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            observation: observation.clone(),
        });
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&observed));
        // Nobody need listen. Sent under the lock, so that a new listener misses nothing and hears nothing twice.
        let _ = self.0.sender.send(observed);
    }

    /// The events behind `after` that are still kept, then all to come. An `after` that was never given out, as
    /// from before a restart, gives all that are kept; `None` only those to come.
    #[must_use]
    pub fn follow(&self, after: Option<u64>) -> EventStream {
        let kept = self.kept();
        let last = kept.back().map_or(0, |observed| observed.id);
        let after = after.map_or(last, |after| if after > last { 0 } else { after });
        let earlier = kept.iter().filter(|observed| observed.id > after).cloned().collect();
        EventStream { earlier, receiver: self.0.sender.subscribe() }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Observed>>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventStream {
    /// Waits for the next one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> NextEvent {
        if let Some(observed) = self.earlier.pop_front() {
            return NextEvent::Event(observed);
        }
        match self.receiver.recv().await {
            Ok(observed) => NextEvent::Event(observed),
            Err(broadcast::error::RecvError::Lagged(missed)) => NextEvent::Missed(missed),
            Err(broadcast::error::RecvError::Closed) => NextEvent::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogIndex, NodeId, Term};

    fn lost(peer: u64) -> Observation {
        Observation::PeerLost { peer: NodeId(peer) }
    }

    async fn next_id(stream: &mut EventStream) -> u64 {
        match stream.next().await {
            NextEvent::Event(observed) => observed.id,
            other => panic!("{other:?} instead of an event"),
        }
    }

    #[tokio::test]
    async fn a_listener_that_comes_back_misses_nothing() {
        let events = Events::default();
        for peer in 1..=3 {
            events.publish(&lost(peer));
        }
        let mut stream = events.follow(Some(1));
        assert_eq!((next_id(&mut stream).await, next_id(&mut stream).await), (2, 3));
        events.publish(&lost(4));
        assert_eq!(next_id(&mut stream).await, 4);
    }

    #[tokio::test]
    async fn a_new_listener_hears_only_what_is_to_come() {
        let events = Events::default();
        events.publish(&lost(1));
        let mut stream = events.follow(None);
        events.publish(&lost(2));
        assert_eq!(next_id(&mut stream).await, 2);
    }

    #[tokio::test]
    async fn an_id_of_an_earlier_process_gives_all_that_is_kept() {
        let events = Events::default();
        events.publish(&lost(1));
        assert_eq!(next_id(&mut events.follow(Some(900))).await, 1);
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed() {
        let events = Events::default();
        let mut stream = events.follow(None);
        for peer in 0..KEPT as u64 + 5 {
            events.publish(&lost(peer));
        }
        assert_eq!(stream.next().await, NextEvent::Missed(5));
        assert_eq!(next_id(&mut stream).await, 6);
    }

    #[tokio::test]
    async fn measurements_are_no_events() {
        let events = Events::default();
        events.publish(&Observation::PeerRoundTrip { peer: NodeId(1), micros: 5 });
        events.publish(&Observation::Committed { index: LogIndex(1), micros: 5 });
        events.publish(&Observation::ElectionStarted { term: Term(2) });
        let mut stream = events.follow(Some(0));
        assert_eq!(next_id(&mut stream).await, 1);
        drop(events);
        assert_eq!(stream.next().await, NextEvent::End);
    }

    #[test]
    fn events_are_flat_json() {
        let observation = Observation::PeerLost { peer: NodeId(0xa) };
        let observed = Observed { id: 7, time_ms: 9, observation };
        let json = serde_json::to_string(&observed).unwrap();
        assert_eq!(json, r#"{"id":7,"time_ms":9,"kind":"peer_lost","peer":"000000000000000a"}"#);
    }
}
