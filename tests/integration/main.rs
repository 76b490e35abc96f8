//! The one integration binary: each module is a family of tests. One binary, because each further one
//! would be linked again.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is test code; clippy sees only what is in a test function"
)]

mod api_server;
mod chart;
mod events;
mod parity;
mod process;
mod tidy;
