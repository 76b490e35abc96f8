//! The settings that only a pod has.

use std::net::IpAddr;

use super::cluster::InitialCluster;
use super::{ConfigError, Discovery, Flags};
use crate::k8s;
use crate::types::{Address, Name};

/// Names and limits of a pod; `None` outside of Kubernetes.
pub(super) fn settings(flags: &Flags, name: &Name) -> Result<Option<k8s::Settings>, ConfigError> {
    if flags.discovery == Discovery::Static {
        return Ok(None);
    }
    if flags.name.is_none() {
        return Err(ConfigError::KubeFlagMissing("name"));
    }
    if flags.initial_cluster.is_some() {
        return Err(ConfigError::KubeInitialCluster);
    }
    let given = |flag: &'static str, value: &Option<String>| {
        value.clone().filter(|value| !value.is_empty()).ok_or(ConfigError::KubeFlagMissing(flag))
    };
    let stateful_set = given("kube-statefulset", &flags.kube_statefulset)?;
    let own = name.as_str().strip_prefix(stateful_set.as_str()).and_then(|rest| rest.strip_prefix('-'));
    if own.is_none_or(|ordinal| ordinal.parse::<u32>().is_err()) {
        return Err(ConfigError::KubeName { name: name.clone(), stateful_set });
    }
    Ok(Some(k8s::Settings {
        namespace: given("kube-namespace", &flags.kube_namespace)?,
        pod: name.to_string(),
        service: given("kube-service", &flags.kube_service)?,
        latch: given("kube-latch", &flags.kube_latch)?,
        members_max: flags.kube_max_members,
        peer_port: flags.peer_addr.port,
        stateful_set,
    }))
}

/// A pod's list of members holds the pod alone; the others are read from the StatefulSet.
pub(super) fn own_entry(settings: &k8s::Settings, name: &Name) -> InitialCluster {
    let address = Address { host: settings.host(name.as_str()), port: settings.peer_port };
    InitialCluster::single(name.clone(), address)
}

/// What clients are told: the pod's address, as its name is not known outside of the cluster's DNS either.
pub(super) fn client_addr(flags: &Flags) -> Option<Address> {
    let ip: IpAddr = flags.pod_ip?;
    let port = flags.client_addr.port;
    (flags.advertise_client_addr.is_none() && port != 0).then(|| Address { host: ip.to_string(), port })
}
