//! How the load gets a connection to a member.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time for a TCP handshake. The kernels answer it well below a millisecond within a cluster, however busy the
/// processes are. An address whose pod is gone answers nothing at all, and DNS returns it for some seconds more; a
/// client that knows all members has another one to ask.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(50);

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

/// Connects over TCP, for one request and its answer after another.
///
/// # Errors
/// As the operating system says, and [`io::ErrorKind::TimedOut`] after 50 ms.
pub async fn dial(address: SocketAddr) -> io::Result<Stream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    // A request is one write; waiting for more of it would only delay it.
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}
