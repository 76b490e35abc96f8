//! Peers' addresses, from the headless Service's `EndpointSlice`s; by DNS where those do not tell.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::{WatchStreamExt, watcher};

use super::{Kube, Settings};

/// Which slice named which pods.
type Slices = BTreeMap<String, BTreeMap<String, IpAddr>>;

/// Where pods are, kept up to date in the background. Clones share it.
#[derive(Clone)]
pub struct Addresses {
    settings: Settings,
    slices: Arc<RwLock<Slices>>,
}

impl Addresses {
    /// Knows nothing yet, and so answers with names for DNS.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, slices: Arc::default() }
    }

    /// Where peers may reach the pod of this name, `host:port`, the best first.
    #[must_use]
    pub fn peer(&self, pod: &str) -> Vec<String> {
        let slices = self.slices.read().unwrap_or_else(PoisonError::into_inner);
        let known = slices.values().find_map(|pods| pods.get(pod));
        let known = known.map(|ip| SocketAddr::new(*ip, self.settings.peer_port).to_string());
        known.into_iter().chain([self.by_name(pod)]).collect()
    }

    /// The address that DNS knows the pod by, `host:port`.
    #[must_use]
    pub fn by_name(&self, pod: &str) -> String {
        format!("{}:{}", self.settings.host(pod), self.settings.peer_port)
    }

    /// Follows the slices until dropped. Survives a lost connection, an expired resource version and an API server
    /// that is away: what was known stays.
    pub async fn follow(self, kube: Kube) {
        let selector = format!("kubernetes.io/service-name={}", self.settings.service);
        let config = watcher::Config::default().labels(&selector);
        let mut events = pin!(watcher(kube.endpoint_slices(), config).default_backoff());
        let mut listed: Option<Slices> = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed = Some(Slices::new()),
                Ok(watcher::Event::InitApply(slice)) => {
                    let named = pods(&slice);
                    listed.get_or_insert_default().insert(slice.name_any(), named);
                }
                Ok(watcher::Event::InitDone) => {
                    if let Some(slices) = listed.take() {
                        self.change(|known| *known = slices);
                    }
                }
                Ok(watcher::Event::Apply(slice)) => {
                    let named = pods(&slice);
                    self.change(|known| drop(known.insert(slice.name_any(), named)));
                }
                Ok(watcher::Event::Delete(slice)) => {
                    self.change(|known| drop(known.remove(&slice.name_any())));
                }
                Err(error) => tracing::debug!(%error, "watching the peers' addresses failed; trying again"),
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Slices)) {
        change(&mut self.slices.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The pods of a slice, whatever their conditions say: in a headless slice terminating members are listed, too, and
/// they still vote.
fn pods(slice: &EndpointSlice) -> BTreeMap<String, IpAddr> {
    let endpoints = slice.endpoints.iter();
    endpoints
        .filter_map(|endpoint| {
            let target = endpoint.target_ref.as_ref()?;
            let name = target.name.clone().filter(|_| target.kind.as_deref() == Some("Pod"))?;
            let ip = endpoint.addresses.first()?.parse().ok()?;
            Some((name, ip))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses::new(Settings {
            namespace: "ns".into(),
            pod: "kv-0".into(),
            stateful_set: "kv".into(),
            service: "kv-peers".into(),
            latch: "kv-cluster".into(),
            members_max: 9,
            peer_port: 7000,
        })
    }

    fn slice(pods: &[(&str, &str)]) -> EndpointSlice {
        let endpoints: Vec<_> = pods
            .iter()
            .map(|(name, ip)| {
                serde_json::json!({"addresses": [ip], "conditions": {"ready": false, "terminating": true},
                    "targetRef": {"kind": "Pod", "name": name}})
            })
            .collect();
        serde_json::from_value(
            serde_json::json!({"addressType": "IPv4", "metadata": {}, "endpoints": endpoints}),
        )
        .unwrap()
    }

    #[test]
    fn slices_tell_addresses_and_dns_the_rest() {
        let addresses = addresses();
        let named = pods(&slice(&[("kv-1", "10.0.0.7"), ("kv-2", "fd00::1")]));
        addresses.change(|known| drop(known.insert("one".into(), named)));
        assert_eq!(addresses.peer("kv-1"), ["10.0.0.7:7000", "kv-1.kv-peers.ns.svc:7000"]);
        assert_eq!(addresses.peer("kv-2")[0], "[fd00::1]:7000");
        assert_eq!(addresses.peer("kv-3"), ["kv-3.kv-peers.ns.svc:7000"]);
    }
}
