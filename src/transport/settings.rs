//! What can be tuned about connections between peers.

use std::time::Duration;

use crate::raft::FEATURE_LEVEL;
use crate::tls::PeerTls;
use crate::types::FeatureLevel;

/// Limits and timing of the connections between peers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Messages that may wait for one peer.
    pub queue_messages: usize,
    /// The same in bytes; one message always fits.
    pub queue_bytes: usize,
    /// The second attempt to reach a peer comes after this long, the first at once; doubled from then on.
    pub reconnect_min: Duration,
    /// The longest pause between attempts.
    pub reconnect_max: Duration,
    /// How long one attempt may take: name look-up, TCP, HTTP/2, and each question asked over it.
    pub connect_timeout: Duration,
    /// An idle connection is probed this often.
    pub keepalive_interval: Duration,
    /// A connection whose probe is not answered for this long is closed.
    pub keepalive_timeout: Duration,
    /// HTTP/2 window of a stream and of a connection, in bytes.
    pub window_bytes: u32,
    /// Pause between rounds of questions before a cluster is formed.
    pub bootstrap_interval: Duration,
    /// For how long a member that was removed is still answered.
    pub farewell: Duration,
    /// How long open connections may take to close at shutdown.
    pub shutdown_timeout: Duration,
    /// Connections to the peer port at one time; at the limit the one that was idle longest is closed.
    pub connections_max: u32,
    /// The highest feature level that this node's program understands.
    pub feature_level: FeatureLevel,
    /// What connections run under, dialling and dialled; `None`: plain text.
    pub tls: Option<PeerTls>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue_messages: 4096,
            queue_bytes: 16 << 20,
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(2),
            window_bytes: 8 << 20,
            bootstrap_interval: Duration::from_millis(100),
            farewell: Duration::from_secs(2),
            shutdown_timeout: Duration::from_secs(1),
            connections_max: 1_024,
            feature_level: FEATURE_LEVEL,
            tls: None,
        }
    }
}
