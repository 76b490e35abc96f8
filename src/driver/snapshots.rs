//! Snapshots that come in: taken by whichever thread the transport calls on, handed to the core when they are whole.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::Status;
use super::core_thread::Done;
use super::segments_thread::FreeBytes;
use super::shutdown::{Failure, Reporter};
use crate::metrics::Metrics;
use crate::raft::Event;
use crate::replica::snapshot::{
    Chunk, Content, Cut, Header, Incoming, IncomingError, Offered, Receive, Refused, Shelf,
};
use crate::storage::space::NoRoom;
use crate::storage::{Staging, StateStore, StorageError};
use crate::types::{NodeId, StagedId};

/// A snapshot of which nothing came for so long is discarded: nobody will continue it.
const ABANDONED: Duration = Duration::from_mins(1);

/// Free space is looked at each time so many bytes came.
const LOOK_BYTES: u64 = 4 << 20;

/// Hands a snapshot to the transport, from apply's thread. Its end must be told to [`Inbox::snapshot_sent`], once.
///
/// [`Inbox::snapshot_sent`]: super::Inbox::snapshot_sent
pub type SendSnapshot = Arc<dyn Fn(Cut) + std::marker::Send + Sync>;

/// How much room there is for a snapshot.
pub(super) struct Room {
    pub(super) free_bytes: FreeBytes,
    /// What is left to log and checkpoints, which cannot wait as a snapshot can.
    pub(super) reserve_bytes: u64,
}

/// What takes snapshots in: at most one at a time, and none while one waits to be installed.
pub(super) struct Receiving<S: StateStore> {
    pub(super) state: Arc<Mutex<S>>,
    pub(super) shelf: Shelf<S::Staging>,
    pub(super) status: Arc<RwLock<Status>>,
    pub(super) done: Sender<Done>,
    pub(super) failures: Reporter,
    pub(super) room: Room,
    pub(super) metrics: Metrics,
    slot: Mutex<Slot<S::Staging>>,
}

struct Slot<G> {
    incoming: Option<Incoming<G>>,
    /// When something of it came last.
    touched: Instant,
    /// The snapshot that came whole last: its sender may not have heard of it.
    complete: Option<u64>,
    /// Want of room was logged, and no snapshot was begun since.
    is_short: bool,
}

impl<S: StateStore> Receiving<S> {
    pub(super) fn new(
        state: Arc<Mutex<S>>,
        shelf: Shelf<S::Staging>,
        status: Arc<RwLock<Status>>,
        done: Sender<Done>,
        failures: Reporter,
        room: Room,
        metrics: Metrics,
    ) -> Self {
        let slot =
            Mutex::new(Slot { incoming: None, touched: Instant::now(), complete: None, is_short: false });
        Self { state, shelf, status, done, failures, room, metrics, slot }
    }

    /// Discards a snapshot whose sender has gone for good. To be called now and then.
    pub(super) fn expire(&self) {
        // Locked: something of it comes right now.
        let Ok(mut slot) = self.slot.try_lock() else { return };
        if slot.touched.elapsed() > ABANDONED {
            slot.incoming = None;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot<S::Staging>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: StorageError) -> Refused {
        let text = error.to_string();
        self.failures.report(Failure::Storage(error));
        Refused::Failed(text)
    }

    /// Whether so much can be staged without using up the reserve.
    fn check_room(&self, needed_bytes: u64) -> Result<(), NoRoom> {
        let Ok(free_bytes) = (self.room.free_bytes)() else {
            // The watch over free space says so.
            return Ok(());
        };
        self.metrics.storage_free_bytes.set(i64::try_from(free_bytes).unwrap_or(i64::MAX));
        NoRoom::check(needed_bytes, self.room.reserve_bytes, free_bytes)
    }

    /// A snapshot can wait for room, the log cannot.
    fn no_room(&self, slot: &mut Slot<S::Staging>, why: &dyn Display) -> Refused {
        self.metrics.raft_snapshots_refused_total.inc();
        if !std::mem::replace(&mut slot.is_short, true) {
            tracing::warn!("a snapshot from the leader is refused until there is more disk space: {why}");
        }
        Refused::NotNow(format!("no room for a snapshot: {why}").into())
    }

    fn begin(
        &self,
        slot: &mut Slot<S::Staging>,
        from: NodeId,
        header: Header,
    ) -> Result<Incoming<S::Staging>, Refused> {
        self.check_room(S::Staging::disk_bytes_max(header.bytes_max))
            .map_err(|no_room| self.no_room(slot, &no_room))?;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let staged = state.stage();
        drop(state);
        let staging = staged.map_err(|error| self.refusal(slot, error.into()))?;
        slot.is_short = false;
        tracing::info!(%from, position = %header.snapshot.position, keys = header.keys, "receiving a snapshot");
        Ok(Incoming::new(from, header, staging))
    }

    /// Everything is there: checks it as a whole and hands it to the core.
    fn finish(&self, slot: &mut Slot<S::Staging>, incoming: Incoming<S::Staging>) -> Result<(), Refused> {
        let (from, &Header { id, term, session, .. }) = (incoming.from(), incoming.header());
        let content = incoming.finish().map_err(|error| self.refusal(slot, error))?;
        let Content { snapshot, .. } = &content;
        let snapshot = snapshot.clone();
        slot.complete = Some(id);
        self.metrics.raft_snapshots_received_total.inc();
        tracing::info!(%from, position = %snapshot.position, "received a snapshot");
        let staged = self.shelf.put(content);
        let received = Event::SnapshotReceived { from, term, session, snapshot, staged };
        if self.done.send(Done::Event(received)).is_err() {
            self.shelf.remove(staged);
            return Err(Refused::NotNow("this node is stopping".into()));
        }
        Ok(())
    }

    fn refusal(&self, slot: &mut Slot<S::Staging>, error: IncomingError) -> Refused {
        match error {
            IncomingError::Gap { .. } => Refused::NotNow("a chunk is missing before this one".into()),
            IncomingError::Checksum(_) | IncomingError::Content(_) => Refused::Malformed(error.to_string()),
            // What is staged is a database of its own, and goes: log and state have not failed.
            IncomingError::Storage(error) if error.is_full() => self.no_room(slot, &error),
            IncomingError::Storage(error) => self.failed(error),
        }
    }
}

impl<S: StateStore> Receive for Receiving<S> {
    fn offer(&self, from: NodeId, header: Header) -> Result<Offered, Refused> {
        let term = self.status.read().unwrap_or_else(PoisonError::into_inner).term;
        if header.term < term {
            return Err(Refused::Outdated("a newer term is known"));
        }
        let mut slot = self.slot();
        slot.touched = Instant::now();
        if slot.complete == Some(header.id) {
            return Ok(Offered::Complete);
        }
        if let Some(incoming) = &slot.incoming {
            let known = incoming.header();
            if *known == header && incoming.from() == from {
                return Ok(Offered::From(incoming.next_chunk()));
            }
            let age = |header: &Header| (header.term, header.snapshot.position.index);
            if age(known) > age(&header) {
                return Err(Refused::Outdated("a newer snapshot is on its way"));
            }
        }
        if !self.shelf.is_empty() {
            return Err(Refused::NotNow("another snapshot waits to be installed".into()));
        }
        slot.incoming = None;
        let incoming = self.begin(&mut slot, from, header)?;
        slot.incoming = Some(incoming);
        Ok(Offered::From(0))
    }

    fn chunk(&self, from: NodeId, id: u64, chunk: &Chunk) -> Result<bool, Refused> {
        let slot = &mut *self.slot();
        let is_meant = |incoming: &&mut Incoming<_>| incoming.header().id == id && incoming.from() == from;
        let Some(incoming) = slot.incoming.as_mut().filter(is_meant) else {
            return Err(Refused::Outdated("another snapshot took its place"));
        };
        let taken = incoming.take(chunk);
        slot.touched = Instant::now();
        if taken.is_ok() {
            self.metrics
                .raft_snapshot_bytes_total
                .with_label_values(&["received"])
                .inc_by(chunk.records.len() as u64);
        }
        match taken {
            Ok(false) if incoming.is_look_due(LOOK_BYTES) => {
                let room = self.check_room(incoming.disk_bytes_left());
                room.map(|()| false).map_err(|no_room| {
                    slot.incoming = None;
                    self.no_room(slot, &no_room)
                })
            }
            Ok(false) => Ok(false),
            Ok(true) => {
                let incoming = slot.incoming.take().expect("it was there a moment ago");
                self.finish(slot, incoming).map(|()| true)
            }
            Err(error) => {
                if !error.keeps_staged() {
                    slot.incoming = None;
                }
                Err(self.refusal(slot, error))
            }
        }
    }
}

/// Discards a snapshot that the core does not want.
pub(super) fn dropper<G: std::marker::Send + 'static>(
    shelf: Shelf<G>,
) -> Box<dyn Fn(StagedId) + std::marker::Send> {
    Box::new(move |staged| {
        let shelf = shelf.clone();
        // A whole state takes a while to drop, and the core does not wait. It is rare.
        let remove = move || shelf.remove(staged);
        if let Err(error) = std::thread::Builder::new().name("drop-snapshot".into()).spawn(remove) {
            tracing::error!(%error, "no thread to discard a snapshot; it stays in memory");
        }
    })
}

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
