//! What is said of snapshots, to and from the wire, checked as all that comes in is.

use super::convert::{Malformed, check_size, number, position};
use super::proto;
use crate::raft::{Configuration, Snapshot};
use crate::replica::snapshot::{CHUNK_BYTES_MAX, Chunk, Header, SNAPSHOT_BYTES_MAX};
use crate::types::{LogIndex, LogTime, Revision, Session, Term};

/// Largest configuration, encoded, in bytes: as large as an entry's content may be.
const CONFIGURATION_BYTES_MAX: usize = super::ENTRY_BYTES_MAX;

pub(super) fn header_to_wire(header: Header, route: proto::Route) -> proto::SnapshotHeader {
    let Header { id, term, session, snapshot, revision, keys, hash, bytes_max } = header;
    let Snapshot { position, time, configuration, configuration_index } = snapshot;
    proto::SnapshotHeader {
        route: Some(route),
        id,
        term: term.0,
        session: session.0,
        position: Some(proto::Position { index: position.index.0, term: position.term.0 }),
        time: time.0,
        configuration: configuration.encode(),
        configuration_index: configuration_index.0,
        revision: revision.0,
        keys,
        hash,
        bytes_max,
    }
}

pub(super) fn header_from_wire(wire: &proto::SnapshotHeader) -> Result<Header, Malformed> {
    let term = Term(wire.term);
    let position = position("position", wire.position.as_ref())?;
    check_size("configuration in bytes", wire.configuration.len(), CONFIGURATION_BYTES_MAX)?;
    let configuration =
        Configuration::decode(&wire.configuration).map_err(|source| Malformed::Configuration { source })?;
    let snapshot = Snapshot {
        position,
        time: LogTime(wire.time),
        configuration: configuration.into(),
        configuration_index: LogIndex(wire.configuration_index),
    };
    snapshot.check(term)?;
    let revision = Revision(number("revision", wire.revision)?);
    if wire.keys > revision.0 {
        // Each key took a write. A restored cluster's revisions are far above its entries.
        return Err(Malformed::Number {
            name: "revision or number of keys",
            value: wire.revision.max(wire.keys),
        });
    }
    if wire.bytes_max > SNAPSHOT_BYTES_MAX {
        return Err(Malformed::Number { name: "bytes of a snapshot", value: wire.bytes_max });
    }
    Ok(Header {
        id: wire.id,
        term,
        session: Session(number("session", wire.session)?),
        snapshot,
        revision,
        keys: wire.keys,
        hash: wire.hash,
        bytes_max: wire.bytes_max,
    })
}

pub(super) fn chunk_to_wire(chunk: Chunk, id: u64, route: Option<proto::Route>) -> proto::SnapshotChunk {
    let Chunk { number, records, crc, total } = chunk;
    proto::SnapshotChunk { route, id, number, records, crc, records_total: total }
}

pub(super) fn chunk_from_wire(wire: proto::SnapshotChunk) -> Result<Chunk, Malformed> {
    let proto::SnapshotChunk { number: chunk, records, crc, records_total, .. } = wire;
    check_size("chunk in bytes", records.len(), CHUNK_BYTES_MAX)?;
    let total = records_total.map(|total| number("records", total)).transpose()?;
    Ok(Chunk { number: number("chunk", chunk)?, records, crc, total })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::raft::Member;
    use crate::types::{LogPosition, NodeId};

    fn header() -> Header {
        Header {
            id: 77,
            term: Term(5),
            session: Session(1),
            snapshot: Snapshot {
                position: LogPosition { index: LogIndex(9), term: Term(4) },
                time: LogTime(1_000),
                configuration: Arc::new(Configuration {
                    voters: [(NodeId(1), Member { session: Session(1), ..Member::default() })].into(),
                    ..Configuration::default()
                }),
                configuration_index: LogIndex(1),
            },
            revision: Revision(7),
            keys: 3,
            hash: u64::MAX,
            bytes_max: SNAPSHOT_BYTES_MAX,
        }
    }

    fn wire() -> proto::SnapshotHeader {
        header_to_wire(header(), proto::Route { cluster_id: 1, from: 2, to: 3 })
    }

    #[test]
    fn a_header_comes_back_as_it_was_sent() {
        assert_eq!(header_from_wire(&wire()).unwrap(), header());
        // As after a restore, which raises the revision.
        let raised = proto::SnapshotHeader { revision: 1 << 40, ..wire() };
        assert_eq!(header_from_wire(&raised).unwrap().revision, Revision(1 << 40));
    }

    #[test]
    fn headers_that_no_leader_sends_are_refused() {
        let refused = |change: &dyn Fn(&mut proto::SnapshotHeader)| {
            let mut wire = wire();
            change(&mut wire);
            header_from_wire(&wire).expect_err("must be refused");
        };
        refused(&|wire| wire.term = 0);
        refused(&|wire| wire.term = 3);
        refused(&|wire| wire.term = u64::MAX);
        refused(&|wire| wire.session = u64::MAX);
        refused(&|wire| wire.position = None);
        refused(&|wire| wire.position = Some(proto::Position { index: 0, term: 0 }));
        refused(&|wire| wire.position = Some(proto::Position { index: 9, term: 0 }));
        refused(&|wire| wire.time = u64::MAX);
        refused(&|wire| wire.configuration = Bytes::from_static(b"{"));
        refused(&|wire| wire.configuration = Configuration::default().encode());
        refused(&|wire| wire.configuration_index = 10);
        refused(&|wire| wire.revision = u64::MAX);
        refused(&|wire| wire.keys = 8);
        refused(&|wire| wire.bytes_max = SNAPSHOT_BYTES_MAX + 1);
    }

    #[test]
    fn chunks_beyond_the_limits_are_refused() {
        let chunk = Chunk { number: 4, records: Bytes::from_static(b"records"), crc: 3, total: Some(12) };
        let back = chunk_from_wire(chunk_to_wire(chunk.clone(), 77, None)).unwrap();
        assert_eq!(back, chunk);
        let large = Chunk { records: vec![0; CHUNK_BYTES_MAX + 1].into(), ..chunk.clone() };
        chunk_from_wire(chunk_to_wire(large, 77, None)).unwrap_err();
        let late = Chunk { number: u64::MAX, ..chunk };
        chunk_from_wire(chunk_to_wire(late, 77, None)).unwrap_err();
    }
}
