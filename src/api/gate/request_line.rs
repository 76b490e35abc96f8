//! What the HTTP library drops silently from a target: it cuts a `#` and what is behind it off, so that `PUT /v1/kv/a#1`
//! would write key `a`. No target may hold one (RFC 9112, 3.2), so the request lines are looked at on their way in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::tls::Observe;

/// Longest part of a header line that is kept; the two that say how long a body is are shorter.
const LINE_BYTES_MAX: usize = 256;
/// How an HTTP/2 connection begins (RFC 9113, 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0";

/// The first request on a connection whose target has a fragment. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::api) struct Fragments(Arc<AtomicU64>);

/// Follows the requests of one HTTP/1 connection: heads, and bodies as far as is needed to find the next head. What it
/// does not understand the HTTP library refuses, and nothing follows.
#[derive(Debug)]
pub(in crate::api) struct RequestLines {
    at: At,
    /// The present line, as far as it came, or its first part.
    line: Vec<u8>,
    /// The present request, the first being 0.
    request: u64,
    /// What its headers say of its body.
    content_length: u64,
    is_chunked: bool,
    fragments: Fragments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    RequestLine,
    Header,
    /// So many bytes of a body are to come.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    Trailer,
    /// Nothing that follows is looked at.
    End,
}

impl Default for Fragments {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl Fragments {
    /// Whether the target of this request, the connection's first being 0, or that of an earlier one had a fragment.
    pub(in crate::api) fn is_in(&self, request: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= request
    }
}

impl RequestLines {
    pub(in crate::api) fn new(fragments: Fragments) -> Self {
        let at = At::RequestLine;
        Self { at, line: Vec::new(), request: 0, content_length: 0, is_chunked: false, fragments }
    }

    /// A whole line has come, without its end.
    fn on_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        self.at = match self.at {
            // The HTTP library skips empty lines in front of a request, too.
            At::RequestLine if line.is_empty() => At::RequestLine,
            At::RequestLine if line.starts_with(HTTP2) => At::End,
            At::RequestLine => At::Header,
            At::Header if line.is_empty() => self.on_head(),
            At::Header => {
                self.on_header(line);
                At::Header
            }
            At::ChunkSize => {
                let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                let size =
                    std::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
                match size {
                    Some(0) => At::Trailer,
                    // The line's end behind the chunk, too.
                    Some(size) => At::Chunk(size.saturating_add(2)),
                    None => At::End,
                }
            }
            At::Trailer if line.is_empty() => self.next_request(),
            At::Trailer => At::Trailer,
            At::Body(_) | At::Chunk(_) | At::End => At::End,
        };
        self.line.clear();
    }

    fn on_header(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.content_length =
                std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.is_chunked = value.to_ascii_lowercase().ends_with(b"chunked");
        }
    }

    fn on_head(&mut self) -> At {
        match (self.is_chunked, self.content_length) {
            (true, _) => At::ChunkSize,
            (false, 0) => self.next_request(),
            (false, length) => At::Body(length),
        }
    }

    fn next_request(&mut self) -> At {
        self.request += 1;
        (self.content_length, self.is_chunked) = (0, false);
        At::RequestLine
    }

    /// Takes what belongs to the present line or body, and returns what follows.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if let At::Body(left) | At::Chunk(left) = self.at {
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let left = left - taken as u64;
            self.at = match (self.at, left) {
                (At::Body(_), 0) => self.next_request(),
                (At::Body(_), left) => At::Body(left),
                (_, 0) => At::ChunkSize,
                (_, left) => At::Chunk(left),
            };
            return &bytes[taken..];
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if self.at == At::RequestLine && part.contains(&b'#') {
            self.fragments.0.fetch_min(self.request, Ordering::Relaxed);
        }
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len()).min(part.len());
        self.line.extend_from_slice(&part[..room]);
        match end {
            Some(end) => {
                self.on_line();
                &bytes[end + 1..]
            }
            None => &[],
        }
    }
}

impl Observe for RequestLines {
    fn observe(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.at != At::End {
            bytes = self.take(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first request with a fragment, fed in pieces of any size: the same for all.
    fn first(bytes: &[u8]) -> Option<u64> {
        let found = |size: usize| {
            let fragments = Fragments::default();
            let mut lines = RequestLines::new(fragments.clone());
            bytes.chunks(size).for_each(|piece| lines.observe(piece));
            fragments.0.load(Ordering::Relaxed)
        };
        let whole = found(bytes.len());
        for size in [1, 2, 3, 7, 64] {
            assert_eq!(found(size), whole, "pieces of {size} in {}", bytes.escape_ascii());
        }
        (whole != u64::MAX).then_some(whole)
    }

    #[test]
    fn only_request_lines_are_looked_at() {
        let plain = "GET /a HTTP/1.1\r\nHost: x\r\nX-Noise: #\r\n\r\n";
        let body = "PUT /a HTTP/1.1\r\ncontent-LENGTH: 22\r\n\r\nGET /#a HTTP/1.1\r\n\r\n##";
        let chunked = "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=#\r\n\n#\n\r\n11\r\nGET /# HTTP/1.1\r\n\r\n0\r\nT: #\r\n\r\n";
        let bad = "\r\nGET /a?b#c HTTP/1.1\r\nHost: x\r\n\r\n";
        for (text, expected) in [
            (plain.to_owned(), None),
            (body.to_owned(), None),
            (chunked.to_owned(), None),
            (bad.to_owned(), Some(0)),
            (format!("{plain}{bad}"), Some(1)),
            (format!("{body}{plain}{bad}{plain}"), Some(2)),
            (format!("{chunked}{chunked}{bad}"), Some(2)),
            (bad.replace("\r\n", "\n"), Some(0)),
            (format!("GET /{}# HTTP/1.1\r\n\r\n", "a".repeat(1000)), Some(0)),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n##\n##\n".to_owned(), None),
        ] {
            assert_eq!(first(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_request_with_a_fragment_taints_what_follows_it() {
        let fragments = Fragments::default();
        RequestLines::new(fragments.clone()).observe(b"GET / HTTP/1.1\r\n\r\nGET /# HTTP/1.1\r\n\r\n");
        assert_eq!([0, 1, 2].map(|request| fragments.is_in(request)), [false, true, true]);
    }
}
