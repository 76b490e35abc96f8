//! What the client port is told of this node's settings and surroundings.

use super::memory::limit_bytes;
use crate::api::{self, AllowedHost};
use crate::config::Config;

/// Where the names of a pod's cluster are found.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The settings of the client port.
pub(super) fn settings(config: &Config) -> api::Settings {
    let limit_bytes = limit_bytes();
    let part = |divisor: u64, least: usize, most: usize| {
        usize::try_from(limit_bytes / divisor).unwrap_or(usize::MAX).clamp(least, most)
    };
    let clients = &config.clients;
    api::Settings {
        request_timeout: config.request_timeout,
        drain_timeout: config.shutdown_timeout,
        key_bytes_max: config.limits.key_bytes_max,
        value_bytes_max: config.limits.value_bytes_max,
        request_bytes_max: config.limits.request_bytes_max,
        feature_level: config.raft.feature_level,
        allowed_hosts: allowed_hosts(config),
        admin_access: clients.admin_access,
        // A leader's own clients and what two members forward ahead of its answers (4 MiB each) are below what it takes
        // that is not committed and applied yet (64 MiB).
        request_memory_bytes: clients.request_memory_bytes.unwrap_or_else(|| part(64, 8 << 20, 20 << 20)),
        answer_memory_bytes: clients.answer_memory_bytes.unwrap_or_else(|| part(32, 16 << 20, 256 << 20)),
        ..api::Settings::default()
    }
}

/// Hosts under which clients may reach this node: those that the administrator allows, those that it tells others,
/// and the Services of the Kubernetes cluster that it runs in.
fn allowed_hosts(config: &Config) -> Vec<AllowedHost> {
    let mut hosts = config.clients.allowed_hosts.clone();
    let own = [Some(&config.client_addr), Some(&config.peer_addr), config.ops_addr.as_ref()];
    let told = [config.advertise_client_addr.as_ref(), config.advertise_peer_addr.as_ref()];
    hosts.extend(own.into_iter().chain(told).flatten().filter_map(|address| address.host.parse().ok()));
    let resolv_conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    hosts.extend(AllowedHost::of_services(&resolv_conf));
    hosts
}
