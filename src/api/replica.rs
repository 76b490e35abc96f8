//! What the API asks of a running replica; the one place where it meets the driver.

use std::future::Future;
use std::sync::RwLockReadGuard;
use std::time::Duration;

use bytes::Bytes;

use crate::driver::{EventStream, Handle, ReadError, Save, Status, WriteError};
pub(super) use crate::driver::{Outcome, Refusal, RefusalReason};
use crate::kv;

/// A running replica, as [`Handle`] is one. A trait so that HTTP is tested without a cluster.
pub trait Replica: Send + Sync + 'static {
    /// [`Handle::propose`].
    fn propose(
        &self,
        command: Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<kv::Answer, WriteError>> + Send;

    /// [`Handle::read_barrier`].
    fn read_barrier(&self, timeout: Duration) -> impl Future<Output = Result<(), ReadError>> + Send;

    /// [`Handle::snapshot`].
    fn snapshot(&self, timeout: Duration) -> impl Future<Output = Result<Save, ReadError>> + Send;

    /// [`Handle::store`].
    fn store(&self) -> RwLockReadGuard<'_, kv::Store>;

    /// [`Handle::status`].
    fn status(&self) -> Status;

    /// [`Handle::events`].
    fn events(&self, after: Option<u64>) -> EventStream;
}

impl Replica for Handle {
    fn propose(
        &self,
        command: Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<kv::Answer, WriteError>> + Send {
        Handle::propose(self, command, timeout)
    }

    fn read_barrier(&self, timeout: Duration) -> impl Future<Output = Result<(), ReadError>> + Send {
        Handle::read_barrier(self, timeout)
    }

    fn snapshot(&self, timeout: Duration) -> impl Future<Output = Result<Save, ReadError>> + Send {
        Handle::snapshot(self, timeout)
    }

    fn store(&self) -> RwLockReadGuard<'_, kv::Store> {
        Handle::store(self)
    }

    fn status(&self) -> Status {
        Handle::status(self)
    }

    fn events(&self, after: Option<u64>) -> EventStream {
        Handle::events(self, after)
    }
}
