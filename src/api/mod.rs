//! Clients over HTTP/1.1 and HTTP/2 (h2c) on one port: key-value requests, status, health, metrics, the page.
//!
//! [`Api`] is what all requests share; it answers from the first moment and serves keys once
//! [`Api::start`] has given it a running [`Replica`]. [`serve`] runs it on a listener. [`client`] and
//! [`cluster`] are the other side of the wire, for the command line and the load generator.

pub mod client;
pub mod cluster;

mod access;
mod activity;
mod admin_client;
mod body;
mod budget;
mod events;
mod gate;
mod kv;
mod members;
mod problem;
mod query;
mod replica;
mod request_metrics;
mod routes;
mod serve;
mod settings;
mod snapshot;
mod snapshot_slots;
mod state;
mod status;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "for tests and fuzz targets")]
mod memory_replica;
#[cfg(test)]
mod tests;

pub use access::{AdminAccess, VerifyToken};
pub use gate::{AllowedHost, AllowedHostError};
pub use members::{Done, MemberDetail, MemberToAdd, MembersReport, TransferTo};
pub use problem::Problem;
pub use query::Consistency;
pub use replica::Replica;
pub use serve::{Access, serve};
pub use settings::Settings;
pub use state::{AdminAnswer, Administer, Api, Directory, Node, Peer};
pub use status::{LeaderReport, MemberReport, StatusReport};
