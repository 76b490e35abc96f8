//! What `snapshot inspect` and `snapshot restore` read: a file, or standard input, of which the size is known at the end.

use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::file;
use crate::replica::snapshot::file::FileError;
use crate::server::RefoundError;

/// Bytes that were read.
#[derive(Clone, Default)]
pub(super) struct Bytes(Arc<AtomicU64>);

impl Bytes {
    pub(super) fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts what is read.
pub(super) struct Counted {
    from: Box<dyn Read + Send>,
    bytes: Bytes,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.bytes.0.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Opens a snapshot.
pub(super) fn open(path: &Path) -> Result<(BufReader<Counted>, Bytes), RefoundError> {
    let failed = |error| RefoundError::File { path: path.to_owned(), error: FileError::Io(error) };
    let (from, bytes) = (file::open(path).map_err(failed)?, Bytes::default());
    let counted = Counted { from, bytes: bytes.clone() };
    Ok((BufReader::with_capacity(1 << 20, counted), bytes))
}
