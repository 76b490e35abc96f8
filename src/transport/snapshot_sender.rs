//! Snapshots to a peer: on a connection of their own, so that heartbeats do not wait behind them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use super::dial::{self, DialError};
use super::peers::PeersContext;
use super::proto::{self, peer_client::PeerClient};
use super::snapshot_convert::{chunk_to_wire, header_to_wire};
use crate::replica::snapshot::{Cut, Header, Outcome};
use crate::types::Term;

/// Tries in a row that bring the receiver no further.
const TRIES: usize = 5;
/// Pause before the second of them; doubled from then on.
const PAUSE: Duration = Duration::from_millis(100);
/// Chunks that are ready while one is on its way. HTTP/2's windows hold back the rest.
const CHUNKS_AHEAD: usize = 2;

/// Told of every snapshot's end, once, from a runtime thread or from the one that hands it over.
pub type OnSnapshotEnd = Arc<dyn Fn(Outcome) + Send + Sync>;

/// Whether this node still leads in a term: snapshots of earlier ones are of no use.
pub type StillLeads = Arc<dyn Fn(Term) -> bool + Send + Sync>;

/// Reports the end also when the task is aborted.
pub(super) struct Report {
    pub(super) outcome: Outcome,
    on_end: OnSnapshotEnd,
}

impl Report {
    pub(super) fn new(cut: &Cut, on_end: OnSnapshotEnd) -> Self {
        let Cut { to, session, term, .. } = *cut;
        Self { outcome: Outcome { to, session, term, sent: None }, on_end }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        (self.on_end)(self.outcome);
    }
}

/// A transfer: what is sent, to whom, under which id.
struct Transfer {
    context: Arc<PeersContext>,
    name: String,
    cut: Arc<Cut>,
    header: Header,
    route: proto::Route,
}

/// Sends until the receiver has it all, or until there is no point in it.
pub(super) async fn send(context: Arc<PeersContext>, name: String, cut: Cut, mut report: Report) {
    let route =
        proto::Route { cluster_id: context.cluster_id.0, from: context.local.node_id.0, to: cut.to.0 };
    let id = match getrandom::u64() {
        Ok(id) => id,
        Err(error) => return tracing::error!(%error, "no snapshot can be sent"),
    };
    let header = cut.header(id);
    let position = cut.snapshot.position;
    let transfer = Transfer { context, name, cut: Arc::new(cut), header, route };
    tracing::info!(peer = transfer.name, %position, keys = transfer.header.keys, "sending a snapshot");
    match transfer.run().await {
        Ok(()) => {
            transfer.context.metrics.raft_snapshots_sent_total.inc();
            tracing::info!(peer = transfer.name, %position, "sent a snapshot");
            report.outcome.sent = Some(position);
        }
        Err(error) => {
            tracing::warn!(peer = transfer.name, %position, "a snapshot was not sent: {error}");
        }
    }
}

/// What an attempt came to.
enum Attempt {
    Complete,
    /// It may be continued: the first chunk that the receiver lacked this time, if it said so.
    Broken(Option<u64>, DialError),
}

impl Transfer {
    fn leads(&self) -> bool {
        (self.context.still_leads)(self.cut.term)
    }

    async fn run(&self) -> Result<(), DialError> {
        let (mut tries, mut pause, mut reached) = (0, PAUSE, None);
        loop {
            let (next, error) = match self.attempt(tries).await? {
                Attempt::Complete => return Ok(()),
                Attempt::Broken(next, error) => (next, error),
            };
            if next > reached {
                (tries, pause, reached) = (0, PAUSE, next);
            }
            tries += 1;
            if tries >= TRIES || !self.leads() {
                return Err(error);
            }
            tracing::debug!(peer = self.name, "sending a snapshot continues after a break: {error}");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// One connection's worth, the `tries`th in a row, from 0. An error is for good.
    async fn attempt(&self, tries: usize) -> Result<Attempt, DialError> {
        let PeersContext { resolver, settings, .. } = &*self.context;
        let (mut client, address) = match dial::connect(&self.name, resolver, tries, settings).await {
            Ok(connected) => connected,
            Err(error) => return Ok(Attempt::Broken(None, error)),
        };
        let header = header_to_wire(self.header.clone(), self.route);
        // Making room for it may take the receiver longer than a question usually does.
        let resume = match client.offer_snapshot(header).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return broken(None, status),
        };
        if resume.complete {
            return Ok(Attempt::Complete);
        }
        tracing::debug!(peer = self.name, address, chunk = resume.next_chunk, "sending a snapshot's chunks");
        match self.stream(&mut client, resume.next_chunk).await {
            Ok(_) => Ok(Attempt::Complete),
            Err(status) => broken(Some(resume.next_chunk), status),
        }
    }

    async fn stream(
        &self,
        client: &mut PeerClient<Channel>,
        first: u64,
    ) -> Result<tonic::Response<proto::SnapshotEnd>, tonic::Status> {
        let (chunks_in, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let (cut, id, route) = (Arc::clone(&self.cut), self.header.id, self.route);
        let (context, term) = (Arc::clone(&self.context), self.cut.term);
        let sent = context.metrics.raft_snapshot_bytes_total.with_label_values(&["sent"]);
        // Walking through a whole state is no work for the threads that serve peers and clients.
        let reading = spawn_blocking(move || {
            cut.chunks(id, first, |chunk| {
                let bytes = chunk.records.len() as u64;
                let route = (chunk.number == first).then_some(route);
                let chunk = chunk_to_wire(chunk, id, route);
                // Nobody takes them any more once the connection is broken.
                if !(context.still_leads)(term) || chunks_in.blocking_send(chunk).is_err() {
                    return ControlFlow::Break(());
                }
                sent.inc_by(bytes);
                ControlFlow::Continue(())
            });
        });
        let result = client.snapshot(ReceiverStream::new(chunks)).await;
        // Ends at once: what it fed is gone.
        let _ = reading.await;
        result
    }
}

/// Whether to try again.
fn broken(next: Option<u64>, status: tonic::Status) -> Result<Attempt, DialError> {
    match status.code() {
        Code::InvalidArgument | Code::Aborted | Code::Internal | Code::Unimplemented => Err(status.into()),
        _ => Ok(Attempt::Broken(next, status.into())),
    }
}
