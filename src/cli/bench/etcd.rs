//! Connections to a server of the etcd v3 API. As in etcd's own benchmark, many clients share few HTTP/2 connections.

use std::time::Duration;

use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};

use super::tally::Op;
use super::{CallError, Consistency};
use crate::types::Address;
use wire::kv_client::KvClient;

#[allow(clippy::pedantic, unreachable_pub)] // generated
mod wire {
    tonic::include_proto!("etcdserverpb");
}

/// Flow-control windows, in bytes: large enough never to be what is measured.
const WINDOW_BYTES: u32 = 4 << 20;

/// A client: one of the shared connections, and the next one after a failure.
pub(super) struct Etcd {
    channels: Vec<KvClient<Channel>>,
    at: usize,
    value: Bytes,
    serializable: bool,
}

/// Opens `count` connections, spread over the endpoints in turn.
///
/// # Errors
/// The first endpoint that cannot be reached.
pub(super) async fn connect(
    endpoints: &[Address],
    count: usize,
    timeout: Duration,
) -> Result<Vec<KvClient<Channel>>, String> {
    let mut channels = Vec::with_capacity(count);
    for address in endpoints.iter().cycle().take(count) {
        let failed =
            |error: tonic::transport::Error| format!("cannot connect to {address}: {}", root(&error));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(failed)?;
        let endpoint = endpoint
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .connect_timeout(timeout);
        channels.push(KvClient::new(endpoint.connect().await.map_err(failed)?));
    }
    Ok(channels)
}

impl Etcd {
    /// A client that begins with connection `at` (modulo their number).
    pub(super) fn new(
        channels: Vec<KvClient<Channel>>,
        at: usize,
        value: Bytes,
        consistency: Consistency,
    ) -> Self {
        let at = at % channels.len();
        Self { channels, at, value, serializable: consistency == Consistency::Stale }
    }

    /// The next call goes over the next connection.
    pub(super) fn fail_over(&mut self) {
        self.at = (self.at + 1) % self.channels.len();
    }

    /// Writes or reads the key of this number.
    ///
    /// # Errors
    /// The gRPC code.
    pub(super) async fn call(&mut self, op: Op, key: u64) -> Result<(), CallError> {
        let key = Bytes::from(format!("bench-{key:010}"));
        let channel = &mut self.channels[self.at];
        let done = match op {
            Op::Put => {
                let request = wire::PutRequest { key, value: self.value.clone(), lease: 0 };
                channel.put(request).await.map(drop)
            }
            Op::Get => {
                let request = wire::RangeRequest {
                    key,
                    serializable: self.serializable,
                    ..wire::RangeRequest::default()
                };
                match channel.range(request).await {
                    Ok(response) if response.get_ref().kvs.is_empty() => {
                        return Err(CallError::new("key_not_found"));
                    }
                    other => other.map(drop),
                }
            }
        };
        done.map_err(|status| {
            if status.code() == tonic::Code::Unavailable {
                self.fail_over();
            }
            CallError::new(&code_name(status.code())).because(&status.message())
        })
    }
}

/// gRPC's name of a code in the form of our own codes: `DeadlineExceeded` is `deadline_exceeded`.
fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// The innermost cause: tonic's own words are "transport error".
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_like_our_own() {
        assert_eq!(code_name(tonic::Code::Unavailable), "unavailable");
        assert_eq!(code_name(tonic::Code::DeadlineExceeded), "deadline_exceeded");
    }
}
