//! What a pod must know of itself.

/// Names and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name, which is its member's name.
    pub pod: String,
    /// The StatefulSet that owns it.
    pub stateful_set: String,
    /// The headless Service that names its peers.
    pub service: String,
    /// The ConfigMap that says which cluster was formed.
    pub latch: String,
    /// Most members that the cluster is scaled to.
    pub members_max: u32,
    /// Port of the peers.
    pub peer_port: u16,
}

impl Settings {
    /// The name under which DNS knows a pod's address.
    #[must_use]
    pub fn host(&self, pod: &str) -> String {
        format!("{pod}.{}.{}.svc", self.service, self.namespace)
    }
}
