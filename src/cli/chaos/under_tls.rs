//! Members that speak TLS: a handshake over whatever leads to them.

use std::sync::Arc;

use crate::chaos::{Connecting, Reach, Stream};
use crate::tls::Connector;

/// From a member's name to the host that its certificate must be valid for; `None` if it speaks no TLS.
pub(super) type HostOf = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Members that are reached as `inner` reaches them, and then under TLS.
pub(super) struct UnderTls {
    inner: Arc<dyn Reach>,
    tls: Connector,
    host_of: HostOf,
}

impl UnderTls {
    pub(super) fn new(inner: Arc<dyn Reach>, tls: Connector, host_of: HostOf) -> Self {
        Self { inner, tls, host_of }
    }
}

impl Reach for UnderTls {
    fn members(&self) -> Vec<String> {
        self.inner.members()
    }

    fn connect<'a>(&'a self, member: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let stream = self.inner.connect(member).await?;
            match (self.host_of)(member) {
                Some(host) => Ok(Box::new(self.tls.over(&host, stream).await?) as Stream),
                None => Ok(stream),
            }
        })
    }
}
