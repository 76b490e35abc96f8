//! Where peers are: what the configuration says, then the list that this node was started with, then what the peers
//! say of themselves. In Kubernetes a member's name is its pod's, and the pods' addresses alone count.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::ServerError;
use crate::config::Config;
use crate::k8s;
use crate::membership::{InitialCluster, InitialMember};
use crate::raft::{Configuration, Member};
use crate::transport::{PeerDirectory, Resolver};
use crate::types::NodeId;

/// The addresses that are known. Clones share them.
#[derive(Clone)]
pub(super) struct Addresses(Arc<Known>);

struct Known {
    listed: InitialCluster,
    /// By name.
    configured: RwLock<BTreeMap<String, String>>,
    introduced: PeerDirectory,
    pods: Option<k8s::Addresses>,
}

impl Addresses {
    pub(super) fn new(
        listed: InitialCluster,
        introduced: PeerDirectory,
        pods: Option<k8s::Addresses>,
    ) -> Self {
        Self(Arc::new(Known { listed, configured: RwLock::default(), introduced, pods }))
    }

    /// Takes over what a configuration says.
    pub(super) fn configure(&self, configuration: &Configuration) {
        let members = configuration.members().into_values();
        let address = |member: &Member| match &self.0.pods {
            Some(pods) => Some(pods.by_name(&member.name)),
            None => member.peer_addr.clone(),
        };
        let told = members.filter_map(|member| Some((member.name.clone(), address(member)?)));
        *self.0.configured.write().unwrap_or_else(PoisonError::into_inner) = told.collect();
    }

    /// To be asked before each dial.
    pub(super) fn resolver(&self) -> Resolver {
        let known = Arc::clone(&self.0);
        Arc::new(move |name| known.candidates(name))
    }

    /// As [`Addresses::resolver`], without what peers say of themselves: for questions about a sender, who must not say
    /// itself where the answer is to be had.
    pub(super) fn known_resolver(&self) -> Resolver {
        let known = Arc::clone(&self.0);
        Arc::new(move |name| known.known(name))
    }

    /// The list that this node was started with.
    pub(super) fn listed(&self) -> &InitialCluster {
        &self.0.listed
    }

    /// The members of this list, and those that the configuration has besides.
    pub(super) fn everyone(&self, listed: &InitialCluster) -> InitialCluster {
        let mut members = listed.members().to_vec();
        for (name, address) in self.0.configured.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if !members.iter().any(|member| member.name == *name || member.address == *address) {
                members.push(InitialMember { name: name.clone(), address: address.clone() });
            }
        }
        InitialCluster::new(members).unwrap_or_else(|_| listed.clone())
    }
}

impl Known {
    fn candidates(&self, name: &str) -> Vec<String> {
        let mut candidates = self.known(name);
        if self.pods.is_none() {
            for address in self.introduced.peer_addrs(name) {
                if !candidates.contains(&address) {
                    candidates.push(address);
                }
            }
        }
        candidates
    }

    fn known(&self, name: &str) -> Vec<String> {
        if let Some(pods) = &self.pods {
            return pods.peer(name);
        }
        let configured = self.configured.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let listed = self.listed.address(name).map(str::to_owned);
        let mut known: Vec<String> = configured.into_iter().collect();
        known.extend(listed.filter(|listed| !known.contains(listed)));
        known
    }
}

/// The list that this node was started with.
pub(super) fn initial_cluster(config: &Config) -> Result<InitialCluster, ServerError> {
    let members = config
        .initial_cluster
        .peers()
        .iter()
        .map(|peer| InitialMember { name: peer.name.to_string(), address: peer.address.to_string() });
    Ok(InitialCluster::new(members.collect())?)
}

/// All members, by the names that their addresses are looked up by.
pub(super) fn member_names(configuration: &Configuration) -> BTreeMap<NodeId, String> {
    configuration.members().into_iter().map(|(id, member)| (id, member.name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_comes_first_and_the_list_second() {
        let member = |name: &str| InitialMember { name: name.into(), address: format!("listed-{name}:1") };
        let listed = InitialCluster::new(vec![member("a"), member("b")]).unwrap();
        let addresses = Addresses::new(listed, PeerDirectory::default(), None);
        let resolver = addresses.resolver();
        assert_eq!(resolver("a"), ["listed-a:1"]);
        assert!(resolver("c").is_empty());
        let mut configuration = Configuration::default();
        for (id, name) in [(1, "a"), (3, "c")] {
            let peer_addr = Some(format!("configured-{name}:1"));
            let member = Member { name: name.into(), peer_addr, ..Member::default() };
            configuration.learners.insert(NodeId(id), member);
        }
        addresses.configure(&configuration);
        assert_eq!(resolver("a"), ["configured-a:1", "listed-a:1"]);
        assert_eq!(resolver("b"), ["listed-b:1"]);
        assert_eq!(resolver("c"), ["configured-c:1"]);
        let names: Vec<_> = addresses
            .everyone(addresses.listed())
            .members()
            .iter()
            .map(|member| member.name.clone())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
