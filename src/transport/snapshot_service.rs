//! Snapshots from a leader: admitted, checked, handed on chunk by chunk. A chunk is read from the connection only when
//! the one before it is staged, so that a slow disk holds back the sender.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use tonic::{Status, Streaming};

use super::incoming::Connection;
use super::proto;
use super::senders::first_of;
use super::service::PeerService;
use super::snapshot_convert::{chunk_from_wire, header_from_wire};
use crate::replica::admission;
use crate::replica::snapshot::{Offered, Refused};
use crate::types::NodeId;

impl PeerService {
    pub(super) async fn on_snapshot_offer(
        &self,
        wire: &proto::SnapshotHeader,
        connection: &Connection,
    ) -> Result<proto::SnapshotResume, Status> {
        let route = self.admit_known(wire.route, connection).await?;
        let header = header_from_wire(wire).map_err(|error| Status::invalid_argument(error.to_string()))?;
        admission::check_snapshot(&header.snapshot, self.understood())
            .map_err(|refused| Status::invalid_argument(refused.to_string()))?;
        let snapshots = self.snapshots()?;
        let offered = blocking(move || snapshots.offer(NodeId(route.from), header)).await?;
        Ok(match offered {
            Offered::From(next_chunk) => proto::SnapshotResume { next_chunk, complete: false },
            Offered::Complete => proto::SnapshotResume { next_chunk: 0, complete: true },
        })
    }

    pub(super) async fn on_snapshot(
        &self,
        chunks: &mut Streaming<proto::SnapshotChunk>,
        connection: &Connection,
    ) -> Result<proto::SnapshotEnd, Status> {
        let Some(first) = first_of(chunks).await? else {
            return Err(Status::invalid_argument("a snapshot without a chunk"));
        };
        let route = self.admit_known(first.route, connection).await?;
        let snapshots = self.snapshots()?;
        let (id, mut next) = (first.id, Some(first));
        while let Some(wire) = next {
            if wire.id != id || wire.route.is_some_and(|other| other != route) {
                return Err(Status::invalid_argument("a chunk of another snapshot in one stream"));
            }
            let chunk = chunk_from_wire(wire).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let taker = Arc::clone(&snapshots);
            if blocking(move || taker.chunk(NodeId(route.from), id, &chunk)).await? {
                return Ok(proto::SnapshotEnd {});
            }
            next = chunks.message().await?;
        }
        Err(Status::unavailable("the snapshot ended before its last chunk"))
    }
}

/// Runs what may wait for the disk where it may.
async fn blocking<T: Send + 'static>(
    take: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Status> {
    let taken = spawn_blocking(take).await.map_err(|error| Status::internal(error.to_string()))?;
    taken.map_err(|refused| {
        let text = refused.to_string();
        match refused {
            Refused::Malformed(_) => Status::invalid_argument(text),
            Refused::Outdated(_) => Status::aborted(text),
            Refused::NotNow(_) => Status::unavailable(text),
            Refused::Failed(_) => Status::internal(text),
        }
    })
}
