//! Peers' addresses, from the headless Service's `EndpointSlice`s; by DNS where those do not tell.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};

use super::{Kube, KubeError, Settings, WATCH_SECONDS, answer};

/// Which slice named which pods.
type Slices = BTreeMap<String, BTreeMap<String, Vec<IpAddr>>>;

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
        let mut known: Vec<String> = Vec::new();
        // While slices are reshuffled, or a pod was deleted by force, a pod is in more than one place.
        for ip in slices.values().filter_map(|pods| pods.get(pod)).flatten() {
            let address = SocketAddr::new(*ip, self.settings.peer_port).to_string();
            if !known.contains(&address) {
                known.push(address);
            }
        }
        known.push(self.by_name(pod));
        known
    }

    /// Whether an `EndpointSlice` says that the pod of this name is at `ip`.
    #[must_use]
    pub fn has(&self, pod: &str, ip: IpAddr) -> bool {
        let slices = self.slices.read().unwrap_or_else(PoisonError::into_inner);
        slices.values().filter_map(|pods| pods.get(pod)).flatten().any(|known| known.to_canonical() == ip)
    }

    /// The address that DNS knows the pod by, `host:port`.
    #[must_use]
    pub fn by_name(&self, pod: &str) -> String {
        format!("{}:{}", self.settings.host(pod), self.settings.peer_port)
    }

    /// Reads the slices once.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn look(&self, kube: &Kube) -> Result<(), KubeError> {
        let parameters = ListParams::default().labels(&self.selector());
        let listed = answer(kube.endpoint_slices().list(&parameters)).await?;
        let listed = listed.iter().map(|slice| (slice.name_any(), pods(slice))).collect();
        self.change(|known| *known = listed);
        Ok(())
    }

    fn selector(&self) -> String {
        format!("kubernetes.io/service-name={}", self.settings.service)
    }

    /// Follows the slices until dropped. Survives a lost connection, an expired resource version and an API server
    /// that is away: what was known stays.
    pub async fn follow(self, kube: Kube) {
        let config = watcher::Config::default().labels(&self.selector()).timeout(WATCH_SECONDS);
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
pub(super) fn pods(slice: &EndpointSlice) -> BTreeMap<String, Vec<IpAddr>> {
    let mut pods: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for endpoint in &slice.endpoints {
        let Some(target) = endpoint.target_ref.as_ref() else { continue };
        let name = target.name.clone().filter(|_| target.kind.as_deref() == Some("Pod"));
        // All addresses of one endpoint are the same place.
        let ip = endpoint.addresses.first().and_then(|address| address.parse().ok());
        if let (Some(name), Some(ip)) = (name, ip) {
            pods.entry(name).or_default().push(ip);
        }
    }
    pods
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

    #[test]
    fn a_pod_in_two_places_is_tried_at_both() {
        let addresses = addresses();
        let two = pods(&slice(&[("kv-1", "10.0.0.7"), ("kv-1", "10.0.0.8")]));
        let other = pods(&slice(&[("kv-1", "10.0.0.8"), ("kv-1", "10.0.0.9")]));
        addresses.change(|known| known.extend([("one".into(), two), ("two".into(), other)]));
        let found = addresses.peer("kv-1");
        assert_eq!(found, ["10.0.0.7:7000", "10.0.0.8:7000", "10.0.0.9:7000", "kv-1.kv-peers.ns.svc:7000"]);
    }
}
