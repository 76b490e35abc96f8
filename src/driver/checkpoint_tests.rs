//! What the checkpoint's thread asks of the state store, and in which order.

use bytes::Bytes;
use crossbeam_channel::unbounded;

use super::*;
use crate::kv::{Command, Condition, Operation, Store};
use crate::storage::Staging;
use crate::storage::state::LiveRecords;
use crate::types::{LogIndex, LogPosition, LogTime, Term};

/// Says what it was asked for.
#[derive(Default)]
struct Asked {
    checkpoint: Checkpoint,
    records: usize,
    /// Wants a rewrite from this many records on, and no second one.
    records_max: usize,
    /// There is no room for a checkpoint.
    is_full: bool,
    /// How often there was none.
    refusals: usize,
    /// Entry and records of a rewrite.
    begun: Vec<(u64, Vec<Record>)>,
    /// Pieces of a rewrite, beyond the first three.
    more_pieces: usize,
    pieces_left: usize,
    /// The entry up to which was committed, at each piece.
    pieces: Vec<u64>,
}

struct Nothing;

impl Staging for Nothing {
    fn disk_bytes_max(record_bytes: u64) -> u64 {
        record_bytes
    }

    fn write(&mut self, _: &[Record]) -> Result<(), StorageError> {
        Ok(())
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}

impl StateStore for Asked {
    type Staging = Nothing;

    fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    fn size_bytes(&self) -> Result<u64, StorageError> {
        Ok(self.records as u64)
    }

    fn restore(&self, _: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        Ok(())
    }

    fn make_room(&mut self, _: &[Record]) -> Result<bool, StorageError> {
        self.refusals += usize::from(self.is_full);
        Ok(!self.is_full)
    }

    fn write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.records += records.len();
        Ok(())
    }

    fn commit(&mut self, checkpoint: Checkpoint) -> Result<(), StorageError> {
        self.checkpoint = checkpoint;
        Ok(())
    }

    fn stage(&self) -> Result<Nothing, StorageError> {
        Ok(Nothing)
    }

    fn install(&mut self, _: Nothing, checkpoint: Checkpoint) -> Result<(), StorageError> {
        self.commit(checkpoint)
    }

    fn needs_rewrite(&self, live_rows: u64) -> Result<bool, StorageError> {
        assert_eq!(live_rows, 1, "one key is written again and again");
        Ok(self.records >= self.records_max)
    }

    fn begin_rewrite(&mut self, at: LogPosition, live: LiveRecords) -> Result<(), StorageError> {
        assert_eq!(at, self.checkpoint.applied, "what the view shows is committed");
        // A view may come for each checkpoint before the first one came.
        if !self.begun.is_empty() {
            return Ok(());
        }
        self.begun.push((at.index.0, live.collect()));
        self.records_max = usize::MAX;
        self.pieces_left = 3 + self.more_pieces;
        Ok(())
    }

    fn continue_rewrite(&mut self) -> Result<bool, StorageError> {
        self.pieces.push(self.checkpoint.applied.index.0);
        self.pieces_left -= 1;
        Ok(self.pieces_left > 0)
    }
}

/// Batches that a test sends before anything is taken, at most.
const CHANGES: usize = 1_000;

/// One write of the same key, as apply passes it on.
fn change(store: &mut Store, view_wanted: &ViewWanted) -> Changes {
    let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"value"));
    let put = Command::from(Operation::Put { key, value, condition: Condition::Always });
    let index = LogIndex(store.revision().next().0);
    let mut records = Vec::new();
    store.apply(index, LogTime(0), put, &mut records);
    let applied = LogPosition { index, term: Term(1) };
    let checkpoint = Checkpoint { applied, revision: store.revision(), ..Checkpoint::default() };
    let view = view_wanted.take().then(|| store.view());
    Changes { records, checkpoint, installed: false, keys: store.len(), view }
}

/// The change with a value of so many bytes.
fn with_value(mut change: Changes, bytes: usize) -> Changes {
    if let [Record::Row(row)] = &mut change.records[..] {
        row.value = Some(Bytes::from(vec![1; bytes]));
    }
    change
}

#[test]
fn a_state_of_mostly_history_is_rewritten_between_checkpoints() {
    let state = Arc::new(Mutex::new(Asked { records_max: 10, ..Asked::default() }));
    let view_wanted = ViewWanted::default();
    let (mut changes_in, changes) = queue(1);
    let (done_in, done) = unbounded();
    let thread = std::thread::spawn({
        let (state, view_wanted) = (Arc::clone(&state), view_wanted.clone());
        // Each change is due for a checkpoint at once.
        move || run(&state, &changes, view_wanted, Duration::ZERO, &done_in, || {}, &Metrics::new())
    });
    let mut store = Store::default();
    while state.lock().unwrap().begun.is_empty() {
        assert!(changes_in.send(change(&mut store, &view_wanted)));
    }
    while state.lock().unwrap().pieces.len() < 3 {
        std::thread::yield_now();
    }
    let last = change(&mut store, &ViewWanted::default());
    assert!(changes_in.send(last));
    drop(changes_in);
    thread.join().unwrap().unwrap();

    let state = state.lock().unwrap();
    assert_eq!(state.checkpoint.applied.index.0, store.revision().0, "what was left is written");
    let told = done.try_iter().filter_map(|done| match done {
        Done::Event(Event::SnapshotTaken { position }) => Some(position),
        _ => None,
    });
    assert_eq!(told.last(), Some(state.checkpoint.applied), "the core knows what is covered");
    let (at, live) = &state.begun[0];
    let [Record::Row(row)] = &live[..] else { panic!("one live row, not {live:?}") };
    assert_eq!(row.revision.0, *at);
    assert!(*at > 10 && state.pieces[..3].iter().all(|committed| committed >= at), "{:?}", state.pieces);
}

#[test]
fn a_rewrite_keeps_up_with_writes_that_come_without_a_pause() {
    let state = Arc::new(Mutex::new(Asked { records_max: 1, more_pieces: 150, ..Asked::default() }));
    let view_wanted = ViewWanted::default();
    let (mut changes_in, changes) = queue(CHANGES);
    let (done_in, _done) = unbounded();
    let thread = std::thread::spawn({
        let (state, view_wanted) = (Arc::clone(&state), view_wanted.clone());
        // No checkpoint is due by time.
        let interval = Duration::from_hours(1);
        move || run(&state, &changes, view_wanted, interval, &done_in, || {}, &Metrics::new())
    });
    let mut store = Store::default();
    for _ in 0..120 {
        // It comes with a view once one is wanted, which is after the first checkpoint.
        let change = with_value(change(&mut store, &view_wanted), 1 << 20);
        assert!(changes_in.send(change));
    }
    drop(changes_in);
    thread.join().unwrap().unwrap();
    let state = state.lock().unwrap();
    let (begun, _) = state.begun[0];
    assert_eq!(state.pieces.len(), 153, "the rewrite has ended");
    let last = *state.pieces.last().unwrap();
    assert!(last - begun <= 64, "150 MiB were rewritten while {} MiB were written", last - begun);
}

#[test]
fn what_changed_before_a_snapshot_took_its_place_is_not_written() {
    let state = Arc::new(Mutex::new(Asked { records_max: usize::MAX, ..Asked::default() }));
    let (mut changes_in, changes) = queue(CHANGES);
    let (done_in, _done) = unbounded();
    let mut store = Store::default();
    let never = ViewWanted::default();
    for _ in 0..3 {
        assert!(changes_in.send(change(&mut store, &never)));
    }
    assert!(changes_in.send(Changes { installed: true, ..change(&mut store, &never) }));
    drop(changes_in);
    let interval = Duration::from_hours(1);
    run(&state, &changes, never, interval, &done_in, || {}, &Metrics::new()).unwrap();
    assert_eq!(state.lock().unwrap().records, 1);
}

#[test]
fn a_checkpoint_waits_for_room_and_holds_all_that_came_meanwhile() {
    let state = Arc::new(Mutex::new(Asked { records_max: usize::MAX, is_full: true, ..Asked::default() }));
    let (mut changes_in, changes) = queue(0);
    let (done_in, done) = unbounded();
    let thread = std::thread::spawn({
        let state = Arc::clone(&state);
        move || {
            let never = ViewWanted::default();
            run(&state, &changes, never, Duration::ZERO, &done_in, || {}, &Metrics::new())
        }
    });
    let (mut store, never) = (Store::default(), ViewWanted::default());
    for _ in 0..5 {
        assert!(changes_in.send(change(&mut store, &never)));
    }
    while state.lock().unwrap().refusals < 5 {
        std::thread::yield_now();
    }
    assert!(done.is_empty() && state.lock().unwrap().records == 0);
    state.lock().unwrap().is_full = false;
    // Without another change, once the interval has passed.
    let Done::Event(Event::SnapshotTaken { position }) = done.recv().unwrap() else {
        panic!("the core is told of the checkpoint only")
    };
    assert_eq!((position.index.0, state.lock().unwrap().records), (store.revision().0, 5));

    // A stop does not fail for it: the log has what the checkpoint lacks.
    state.lock().unwrap().is_full = true;
    assert!(changes_in.send(change(&mut store, &never)));
    drop(changes_in);
    thread.join().unwrap().unwrap();
    assert_eq!(state.lock().unwrap().records, 5);
}

#[test]
fn the_thread_is_woken_early_only_for_much_or_for_what_cannot_wait() {
    let (mut changes_in, changes) = queue(2 * WAKE_BATCHES);
    let (mut store, never) = (Store::default(), ViewWanted::default());
    let woken = || changes.woken.try_recv().is_ok();
    for _ in 1..WAKE_BATCHES {
        assert!(changes_in.send(change(&mut store, &never)));
    }
    assert!(!woken());
    assert!(changes_in.send(change(&mut store, &never)));
    assert!(woken(), "many batches");
    assert_eq!(changes.take().count(), WAKE_BATCHES);

    assert!(changes_in.send(Changes { installed: true, ..change(&mut store, &never) }));
    assert!(woken(), "a snapshot was installed");
    never.want();
    assert!(changes_in.send(change(&mut store, &never)));
    assert!(woken(), "a view of the state");
    assert!(changes_in.send(with_value(change(&mut store, &never), WAKE_BYTES)));
    assert!(woken(), "many bytes");
}

#[test]
fn bytes_that_wait_are_bounded_and_one_batch_always_fits() {
    let (mut changes_in, changes) = queue(CHANGES);
    let (mut store, never) = (Store::default(), ViewWanted::default());
    let sent = std::thread::spawn(move || {
        for _ in 0..6 {
            assert!(changes_in.send(with_value(change(&mut store, &never), QUEUE_BYTES_MAX / 2 - 100)));
        }
        assert!(changes_in.send(with_value(change(&mut store, &never), 2 * QUEUE_BYTES_MAX)));
    });
    let mut taken = 0;
    while taken < 7 {
        changes.woken.recv().unwrap();
        let waiting = changes.len();
        assert!(waiting <= 2, "{waiting}");
        taken += changes.take().take(1).count();
    }
    sent.join().unwrap();
    assert_eq!(changes.waiting.load(Ordering::Relaxed), 0);
}
