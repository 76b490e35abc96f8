//! One HTTP/1.1 connection of the load generator: requests are built once and patched, responses parsed in place, so
//! that a request costs little more than its two system calls. Client commands use the real client instead.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tally::Op;
use super::{CallError, Consistency};
use crate::cli::endpoints::Endpoint;
use crate::tls::{Connector, Wire, refusal};
use crate::types::Address;

/// Digits of a key's number.
const DIGITS: usize = 10;
/// What a response's head may be at most, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// What a response's body may be at most, in bytes.
const BODY_BYTES_MAX: usize = 8 << 20;

/// A client's connection; dials when it is needed, and the next endpoint after a failure.
pub(super) struct Http {
    endpoints: Arc<[Endpoint]>,
    tls: Option<Connector>,
    /// The endpoint in use or next to be dialled.
    at: usize,
    stream: Option<Wire>,
    put: Request,
    get: Request,
    received: Vec<u8>,
}

/// A request but for its key's digits.
struct Request {
    bytes: Vec<u8>,
    digits_at: usize,
}

/// A response's head.
struct Head {
    status: u16,
    length: usize,
    body_at: usize,
    close: bool,
}

impl Http {
    /// A connection that begins with endpoint `at` (modulo their number).
    pub(super) fn new(
        endpoints: Arc<[Endpoint]>,
        tls: Option<Connector>,
        at: usize,
        (value, consistency): (&[u8], Consistency),
    ) -> Self {
        let query = match consistency {
            Consistency::Linearizable => "",
            Consistency::Stale => "?consistency=stale",
        };
        let at = at % endpoints.len();
        let mut http = Self {
            put: Request::new("PUT", "", Some(value), &endpoints[at].address),
            get: Request::new("GET", query, None, &endpoints[at].address),
            endpoints,
            tls,
            at,
            stream: None,
            received: Vec::with_capacity(4 << 10),
        };
        http.received.clear();
        http
    }

    /// The endpoint in use.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.at]
    }

    /// Dials the present endpoint unless that is done.
    pub(super) async fn connect(&mut self) -> io::Result<()> {
        if self.stream.is_none() {
            let Endpoint { address: Address { host, port }, is_tls } = &self.endpoints[self.at];
            let tcp = TcpStream::connect((host.as_str(), *port)).await?;
            tcp.set_nodelay(true)?;
            self.stream = Some(match self.tls.as_ref().filter(|_| *is_tls) {
                Some(tls) => tls.connect(host, tcp).await?,
                None => Wire::Plain(tcp),
            });
        }
        Ok(())
    }

    /// Asks for the node's status over the connection that is there: that this client's certificate, or its want of TLS,
    /// is refused is told by the first answer only.
    ///
    /// # Errors
    /// A [misunderstanding](crate::tls::is_misunderstanding), or the connection broke.
    pub(super) async fn greet(&mut self) -> io::Result<()> {
        let host = &self.endpoints[self.at].address;
        let request = format!("GET /v1/status HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let answered = exchange(stream, request.as_bytes(), &mut self.received).await;
        let head = answered.map_err(|error| refusal(&error).unwrap_or(error))?;
        if head.close {
            self.stream = None;
        }
        if head.status == 400 {
            let body = self.received[head.body_at..].trim_ascii().escape_ascii();
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("status 400: {body}")));
        }
        Ok(())
    }

    /// Drops the connection; the next call goes to the next endpoint.
    pub(super) fn fail_over(&mut self) {
        self.stream = None;
        self.at = (self.at + 1) % self.endpoints.len();
    }

    /// Writes or reads the key of this number.
    ///
    /// # Errors
    /// The code of what went wrong; whatever it is, the connection is fit for the next call.
    pub(super) async fn call(&mut self, op: Op, key: u64) -> Result<(), CallError> {
        if let Err(error) = self.connect().await {
            self.fail_over();
            return Err(CallError::new("connect").because(&error));
        }
        match self.send(op, key).await {
            Ok(head) if (200..300).contains(&head.status) => {
                if head.close {
                    self.stream = None;
                }
                Ok(())
            }
            Ok(head) => {
                let code = problem_code(&self.received[head.body_at..], head.status);
                // A node without a leader may be cut off: the others may know better.
                if head.close || head.status == 503 {
                    self.fail_over();
                }
                Err(CallError::new(&code))
            }
            Err(error) => {
                self.fail_over();
                Err(CallError::new("connection_lost").because(&refusal(&error).unwrap_or(error)))
            }
        }
    }

    async fn send(&mut self, op: Op, key: u64) -> io::Result<Head> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let request = match op {
            Op::Put => &mut self.put,
            Op::Get => &mut self.get,
        };
        request.set_key(key);
        exchange(stream, &request.bytes, &mut self.received).await
    }
}

/// Sends a request; afterwards `received` is the whole answer.
async fn exchange(stream: &mut Wire, request: &[u8], received: &mut Vec<u8>) -> io::Result<Head> {
    stream.write_all(request).await?;
    stream.flush().await?;
    received.clear();
    loop {
        if stream.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head) = Head::parse(received)? else { continue };
        let end = head.body_at + head.length;
        while received.len() < end {
            if stream.read_buf(received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        return Ok(head);
    }
}

impl Request {
    fn new(method: &str, query: &str, body: Option<&[u8]>, host: &Address) -> Self {
        let before = format!("{method} /v1/kv/bench-");
        let digits = "0".repeat(DIGITS);
        let length = body.map(|body| format!("content-length: {}\r\n", body.len())).unwrap_or_default();
        let head = format!("{before}{digits}{query} HTTP/1.1\r\nhost: {host}\r\n{length}\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        Self { bytes, digits_at: before.len() }
    }

    fn set_key(&mut self, mut number: u64) {
        for digit in self.bytes[self.digits_at..self.digits_at + DIGITS].iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 10).expect("a remainder of 10 is below 10");
            number /= 10;
        }
    }
}

impl Head {
    /// Parses a response's head; `None` if it is not complete yet.
    fn parse(received: &[u8]) -> io::Result<Option<Self>> {
        let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let body_at = match response.parse(received) {
            Ok(httparse::Status::Complete(body_at)) => body_at,
            Ok(httparse::Status::Partial) if received.len() <= HEAD_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => return wrong("the response's head has no end"),
            Err(error) => return wrong(&format!("no HTTP response: {error}")),
        };
        let status = response.code.unwrap_or_default();
        let (mut length, mut close) = (None, false);
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                length = std::str::from_utf8(header.value).ok().and_then(|text| text.parse().ok());
            } else if header.name.eq_ignore_ascii_case("connection") {
                close = header.value.eq_ignore_ascii_case(b"close");
            }
        }
        match length {
            Some(length) if length > BODY_BYTES_MAX => wrong("the response's body is too large"),
            None if status != 204 && status != 304 => wrong("the response has no Content-Length"),
            length => Ok(Some(Self { status, length: length.unwrap_or(0), body_at, close })),
        }
    }
}

/// The `code` of a problem document (RFC 9457), or the status where there is none.
fn problem_code(body: &[u8], status: u16) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    match problem.as_ref().and_then(|problem| problem["code"].as_str()) {
        Some(code) => code.to_owned(),
        None => format!("http_{status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_patched_in_place() {
        let mut request = Request::new("PUT", "", Some(b"abc"), &"127.0.0.1:7001".parse().unwrap());
        request.set_key(9_876_543_210);
        request.set_key(42);
        let expected =
            "PUT /v1/kv/bench-0000000042 HTTP/1.1\r\nhost: 127.0.0.1:7001\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(request.bytes, expected.as_bytes());
    }

    #[test]
    fn a_head_is_parsed_once_it_is_complete() {
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        assert!(Head::parse(&response[..30]).unwrap().is_none());
        let head = Head::parse(response).unwrap().unwrap();
        assert_eq!((head.status, head.length, head.close), (200, 5, true));
        assert_eq!(&response[head.body_at..], b"hello");
        assert_eq!(Head::parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap().length, 0);
    }

    #[test]
    fn what_is_no_response_is_an_error() {
        let check = |response: &[u8], part: &str| {
            let message = Head::parse(response).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        check(b"SSH-2.0-x\r\n", "no HTTP response");
        check(b"HTTP/1.1 200 OK\r\n\r\n", "no Content-Length");
        check(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", "too large");
        check(&[b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'y'; HEAD_BYTES_MAX]].concat(), "no end");
    }

    #[test]
    fn problems_are_counted_by_their_code() {
        assert_eq!(problem_code(br#"{"code":"no_leader","status":503}"#, 503), "no_leader");
        assert_eq!(problem_code(b"gone", 502), "http_502");
    }
}
