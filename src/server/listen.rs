//! The sockets that a process listens on for all of its life, also when its node starts again in it.

use std::io;
use std::net::TcpListener as StdListener;

use tokio::net::TcpListener;

use super::ServerError;
use crate::config::Config;
use crate::types::Address;

/// Bound once. What listens are duplicates, so that connections made between two lives of a node wait.
pub(super) struct Listeners {
    client: StdListener,
    peer: StdListener,
    ops: Option<StdListener>,
}

impl Listeners {
    /// Binds all, so that an address in use is known at once.
    pub(super) async fn bind(config: &Config) -> Result<Self, ServerError> {
        let client = listen("--client-addr", &config.client_addr).await?;
        let peer = listen("--peer-addr", &config.peer_addr).await?;
        let ops = match &config.ops_addr {
            Some(address) => Some(listen("--ops-addr", address).await?),
            None => None,
        };
        Ok(Self { client, peer, ops })
    }

    pub(super) fn client(&self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.client.try_clone()?)
    }

    pub(super) fn peer(&self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.peer.try_clone()?)
    }

    pub(super) fn ops(&self) -> io::Result<Option<TcpListener>> {
        self.ops.as_ref().map(|ops| TcpListener::from_std(ops.try_clone()?)).transpose()
    }
}

async fn listen(flag: &'static str, address: &Address) -> Result<StdListener, ServerError> {
    let bound = TcpListener::bind(address.to_string()).await.and_then(TcpListener::into_std);
    bound.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; stop what uses it, or choose another port",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        ServerError::Listen { flag, address: address.clone(), error, hint }
    })
}
