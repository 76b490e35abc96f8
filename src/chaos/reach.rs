//! How the load gets a connection to a member.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// Anything that carries bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// A connection to a member's client port.
pub type Stream = Box<dyn Duplex>;

/// A connection under way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>>;

/// How members are reached: TCP on loopback, pods by their addresses, the API server's port-forward.
pub trait Reach: Send + Sync + 'static {
    /// Names of the members that may be asked; may change at any time. They end up in error messages and in the `Host`
    /// header.
    fn members(&self) -> Vec<String>;

    /// Connects to one of them. Whoever asks drops the future when its time is up, so that nothing may be left behind
    /// then.
    fn connect<'a>(&'a self, member: &'a str) -> Connecting<'a>;
}
