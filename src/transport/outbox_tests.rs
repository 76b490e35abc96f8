//! The queue for one peer: order, limits, and what closing does.

use std::task::Wake;

use super::*;
use crate::types::ReadId;

fn outbox(messages_max: usize, bytes_max: usize) -> Arc<Outbox> {
    let failures = IntCounter::new("failures", "of this test").unwrap();
    let length = IntGauge::new("length", "of this test").unwrap();
    Arc::new(Outbox::new(messages_max, bytes_max, failures, length))
}

fn message(id: u64) -> Message {
    Signal::ReadIndex { id: ReadId(id) }.into()
}

fn forward(sizes: &[usize]) -> Message {
    let proposals =
        sizes.iter().enumerate().map(|(id, size)| (ProposalId(id as u64), vec![0; *size].into())).collect();
    Signal::Forward { proposals }.into()
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// The next frame's messages; none: the stream waits.
fn poll(frames: &mut Frames) -> Poll<Option<Vec<Message>>> {
    let frame = Pin::new(frames).poll_next(&mut Context::from_waker(Waker::noop()));
    frame.map(|frame| {
        let messages = frame?.messages;
        Some(messages.into_iter().map(|wire| convert::from_wire(wire).unwrap()).collect())
    })
}

#[test]
fn what_waits_leaves_in_one_frame_in_order() {
    let outbox = outbox(10, 1 << 20);
    let mut frames = outbox.open(proto::Frame::default());
    assert_eq!(poll(&mut frames), Poll::Ready(Some(vec![])), "the first frame introduces");
    assert_eq!(poll(&mut frames), Poll::Pending);
    outbox.push(message(1)).unwrap();
    outbox.push(message(2)).unwrap();
    assert_eq!(outbox.length.get(), 2);
    assert_eq!(poll(&mut frames), Poll::Ready(Some(vec![message(1), message(2)])));
    assert_eq!(outbox.length.get(), 0);
    assert_eq!(poll(&mut frames), Poll::Pending);
}

#[test]
fn a_push_notifies_the_stream() {
    let outbox = outbox(10, 1 << 20);
    let mut frames = outbox.open(proto::Frame::default());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    for _ in 0..2 {
        let _ = Pin::new(&mut frames).poll_next(&mut Context::from_waker(&waker));
    }
    assert!(!woken.0.load(std::sync::atomic::Ordering::SeqCst));
    outbox.push(message(1)).unwrap();
    assert!(woken.0.load(std::sync::atomic::Ordering::SeqCst));
}

#[test]
fn refuses_past_its_limits_and_counts() {
    let few = outbox(2, 1 << 20);
    assert_eq!(few.push(message(1)), Err(Dropped::NotConnected));
    let _frames = few.open(proto::Frame::default());
    few.push(message(1)).unwrap();
    few.push(message(2)).unwrap();
    assert_eq!(few.push(message(3)), Err(Dropped::QueueFull));
    assert_eq!(few.failures.get(), 2);

    let small = outbox(10, 1000);
    let _frames = small.open(proto::Frame::default());
    small.push(forward(&[2000])).expect("one message always fits");
    assert_eq!(small.push(message(1)), Err(Dropped::QueueFull));
}

#[test]
fn refuses_what_no_peer_would_take() {
    let outbox = outbox(10, 1 << 30);
    let _frames = outbox.open(proto::Frame::default());
    assert_eq!(outbox.push(forward(&[ENTRY_BYTES_MAX + 1])), Err(Dropped::TooLarge));
    outbox.push(forward(&[ENTRY_BYTES_MAX])).unwrap();
    let answers = vec![(ProposalId(1), Ok(crate::types::LogPosition::default())); ITEMS_MAX + 1];
    assert_eq!(outbox.push(Signal::Forwarded { answers }.into()), Err(Dropped::TooLarge));
}

#[test]
fn cuts_large_batches_of_forwarded_writes() {
    let outbox = outbox(10, 1 << 30);
    let mut frames = outbox.open(proto::Frame::default());
    let _ = poll(&mut frames);
    outbox.push(forward(&[600 << 10, 600 << 10, 300 << 10, 2 << 20])).unwrap();
    let mut sizes = Vec::new();
    while let Poll::Ready(Some(messages)) = poll(&mut frames) {
        for message in messages {
            let Message::Signal(Signal::Forward { proposals }) = message else { panic!("{message:?}") };
            sizes.push(proposals.iter().map(|(id, data)| (id.0, data.len() >> 10)).collect::<Vec<_>>());
        }
    }
    assert_eq!(sizes, [vec![(0, 600)], vec![(1, 600), (2, 300)], vec![(3, 2048)]]);
}

#[test]
fn a_frame_ends_at_its_limit_in_bytes() {
    let outbox = outbox(10, 1 << 30);
    let mut frames = outbox.open(proto::Frame::default());
    let _ = poll(&mut frames);
    for _ in 0..3 {
        outbox.push(forward(&[400 << 10])).unwrap();
    }
    let mut count = || match poll(&mut frames) {
        Poll::Ready(Some(messages)) => messages.len(),
        _ => 0,
    };
    assert_eq!([count(), count(), count()], [2, 1, 0]);
}

#[test]
fn closing_drops_what_waits_and_ends_the_stream() {
    let outbox = outbox(10, 1 << 20);
    let mut frames = outbox.open(proto::Frame::default());
    let _ = poll(&mut frames);
    outbox.push(message(1)).unwrap();
    let proposals = vec![(ProposalId(7), Bytes::from_static(b"x"))];
    outbox.push(Signal::Forward { proposals }.into()).unwrap();
    assert_eq!(outbox.close(), [ProposalId(7)], "a forwarded write that waits has certainly not left");
    assert_eq!((outbox.failures.get(), outbox.length.get()), (2, 0));
    assert_eq!(outbox.push(message(2)), Err(Dropped::NotConnected));
    assert_eq!(poll(&mut frames), Poll::Ready(None));
}

#[test]
fn an_abandoned_stream_takes_nothing_from_its_successor() {
    let outbox = outbox(10, 1 << 20);
    let mut old = outbox.open(proto::Frame::default());
    outbox.close();
    let mut new = outbox.open(proto::Frame::default());
    outbox.push(message(1)).unwrap();
    assert_eq!(poll(&mut old), Poll::Ready(Some(vec![])), "only its first frame is left");
    assert_eq!(poll(&mut old), Poll::Ready(None));
    let _ = poll(&mut new);
    assert_eq!(poll(&mut new), Poll::Ready(Some(vec![message(1)])));
}
