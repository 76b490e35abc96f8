//! How rows become sled's values: consecutive rows packed into blocks, large blocks cut into pieces.
//!
//! Why packed, measured with 1 M rows of 190 bytes: with one insert for each a row costs 8 µs of processor time,
//! and reading all back takes 2.1 s; in blocks of 4, 8, 16 and 32 KiB a row costs 1.0, 1.1, 0.8 and 1.5 µs (sled
//! rewrites up to 16 neighbours with a value), and reading takes 0.4, 0.2, 0.15 and 0.1 s.
//!
//! A row larger than a block is a block of its own, cut into pieces: sled puts values beyond a quarter of its
//! segment into files that it never flushes.
//!
//! Key: revision of the block's first row, then the piece's number, big-endian. Value: CRC32C over key and
//! rest, number of pieces, then the piece. Block: for each row revision, `create_revision`, `version`, lengths
//! of key and value, key, value; little-endian.

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

use super::Contents;
use crate::kv::Row;
use crate::types::Revision;

/// A block is closed before it grows beyond this.
pub(super) const BLOCK_BYTES: usize = 16 << 10;
/// Largest piece.
pub(super) const PIECE_BYTES: usize = 32 << 10;

const ROW_HEADER_BYTES: usize = 32;
const PIECE_HEADER_BYTES: usize = 8;
const KEY_BYTES: usize = 12;
/// Length of the value of a row that deletes.
const DELETED: u32 = u32::MAX;

/// A block that fills.
#[derive(Default)]
pub(super) struct Block {
    first: Revision,
    rows: u64,
    content: Vec<u8>,
}

/// One value of sled, with its key.
pub(super) struct Piece {
    pub(super) key: [u8; KEY_BYTES],
    pub(super) value: Vec<u8>,
}

impl Block {
    /// Whether `row` belongs into the next block.
    pub(super) fn is_full_for(&self, row: &Row) -> bool {
        let row_bytes = ROW_HEADER_BYTES + row.key.len() + row.value.as_ref().map_or(0, Bytes::len);
        self.rows > 0 && self.content.len() + row_bytes > BLOCK_BYTES
    }

    pub(super) fn push(&mut self, row: &Row) {
        if self.rows == 0 {
            self.first = row.revision;
        }
        self.rows += 1;
        for field in [row.revision.0, row.create_revision.0, row.version] {
            self.content.extend_from_slice(&field.to_le_bytes());
        }
        let length = |bytes: &Bytes| u32::try_from(bytes.len()).expect("keys and values are below 4 GiB");
        self.content.extend_from_slice(&length(&row.key).to_le_bytes());
        self.content.extend_from_slice(&row.value.as_ref().map_or(DELETED, length).to_le_bytes());
        self.content.extend_from_slice(&row.key);
        self.content.extend_from_slice(row.value.as_deref().unwrap_or_default());
    }

    /// The block's pieces, counted in `contents`; none if it is empty. It is empty afterwards.
    pub(super) fn take_pieces(&mut self, contents: &mut Contents) -> Vec<Piece> {
        let block = std::mem::take(self);
        let parts = block.content.chunks(PIECE_BYTES);
        let count = u32::try_from(parts.len()).expect("blocks are below 4 GiB");
        let mut pieces = Vec::with_capacity(parts.len());
        for (number, part) in (0..count).zip(parts) {
            let key = piece_key(block.first, number);
            let mut value = vec![0; 4];
            value.extend_from_slice(&count.to_le_bytes());
            value.extend_from_slice(part);
            let crc = crc32c_append(crc32c(&key), &value[4..]);
            value[..4].copy_from_slice(&crc.to_le_bytes());
            contents.add_piece(&key, crc);
            pieces.push(Piece { key, value });
        }
        contents.rows += block.rows;
        pieces
    }
}

/// The first key that no row up to `revision` can be under.
pub(super) fn first_key_above(revision: Revision) -> [u8; KEY_BYTES] {
    piece_key(revision.next(), 0)
}

fn piece_key(first: Revision, number: u32) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&first.0.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

impl Contents {
    fn add_piece(&mut self, key: &[u8; KEY_BYTES], crc: u32) {
        let (revision, number) = key.split_at(8);
        let revision = u64::from_be_bytes(revision.try_into().expect("8 bytes"));
        let number = u32::from_be_bytes(number.try_into().expect("4 bytes"));
        let digest = mix(mix(revision) ^ (u64::from(crc) << 32 | u64::from(number)));
        self.digest = self.digest.wrapping_add(digest);
        self.pieces += 1;
    }
}

/// Spreads every bit over the whole word (the finalizer of `SplitMix64`).
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Puts blocks together again from pieces in the order of their keys.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) contents: Contents,
    last: Revision,
    first: Revision,
    expected_pieces: u32,
    next_piece: u32,
    content: Vec<u8>,
}

impl Reader {
    /// Takes the next piece; hands out the rows of the block that it completes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn piece(
        &mut self,
        key: &[u8],
        value: &[u8],
        take: &mut dyn FnMut(Row),
    ) -> Result<(), &'static str> {
        let key: [u8; KEY_BYTES] = key.try_into().map_err(|_| "a key of the wrong length")?;
        let (head, part) = value.split_at_checked(PIECE_HEADER_BYTES).ok_or("a value that is too short")?;
        let (crc, count) = (read_u32(&head[..4]), read_u32(&head[4..]));
        if crc32c_append(crc32c(&key), &value[4..]) != crc {
            return Err("a value with a bad checksum");
        }
        if self.next_piece == 0 {
            self.first = Revision(read_u64_be(&key[..8]));
            self.expected_pieces = count;
        }
        if key != piece_key(self.first, self.next_piece) || count != self.expected_pieces {
            return Err("a piece of a value is missing");
        }
        self.contents.add_piece(&key, crc);
        self.content.extend_from_slice(part);
        self.next_piece += 1;
        if self.next_piece == count {
            self.take_rows(take)?;
            self.content.clear();
            self.next_piece = 0;
        }
        Ok(())
    }

    /// Whether the last block is complete.
    pub(super) fn is_at_end(&self) -> bool {
        self.next_piece == 0
    }

    fn take_rows(&mut self, take: &mut dyn FnMut(Row)) -> Result<(), &'static str> {
        let mut rest = self.content.as_slice();
        while !rest.is_empty() {
            let (row, behind) = decode_row(rest).ok_or("a row that is too short")?;
            rest = behind;
            if row.revision <= self.last {
                return Err("rows out of order");
            }
            self.last = row.revision;
            self.contents.rows += 1;
            take(row);
        }
        Ok(())
    }

    /// Revision of the last row; 0 if there is none.
    pub(super) fn last(&self) -> Revision {
        self.last
    }
}

fn decode_row(bytes: &[u8]) -> Option<(Row, &[u8])> {
    let (head, rest) = bytes.split_at_checked(ROW_HEADER_BYTES)?;
    let field = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    let (key_bytes, value_bytes) = (read_u32(&head[24..28]), read_u32(&head[28..32]));
    let (key, rest) = rest.split_at_checked(key_bytes as usize)?;
    let (value, rest) = match value_bytes {
        DELETED => (None, rest),
        bytes => {
            let (value, rest) = rest.split_at_checked(bytes as usize)?;
            (Some(Bytes::copy_from_slice(value)), rest)
        }
    };
    let row = Row {
        revision: Revision(field(0)),
        key: Bytes::copy_from_slice(key),
        value,
        create_revision: Revision(field(8)),
        version: field(16),
    };
    Some((row, rest))
}

fn read_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("4 bytes"))
}

fn read_u64_be(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("8 bytes"))
}
