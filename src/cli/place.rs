//! Where in Kubernetes a recovered or restored directory is at home, and the latch there, which must name its new
//! cluster.

use clap::Args;
use serde::Serialize;

use super::CliError;
use super::client::block_on;
use crate::k8s::LatchMap;
use crate::membership::latch::Latch;
use crate::storage::Place;
use crate::types::ClusterId;

/// The flags of a place in Kubernetes; a pod of the chart has them in its environment.
#[derive(Clone, Debug, Args)]
#[allow(clippy::struct_field_names, reason = "the flags are called so")]
pub(super) struct PlaceFlags {
    /// The namespace that the directory is used in
    #[arg(
        long,
        value_name = "NAME",
        env = "KUBERAFT_KUBE_NAMESPACE",
        help_heading = "Kubernetes",
        requires = "kube_statefulset"
    )]
    kube_namespace: Option<String>,

    /// The StatefulSet whose pod uses it
    #[arg(
        long,
        value_name = "NAME",
        env = "KUBERAFT_KUBE_STATEFULSET",
        help_heading = "Kubernetes",
        requires = "kube_namespace"
    )]
    kube_statefulset: Option<String>,

    /// The ConfigMap that says which cluster was formed: it will name the new one
    #[arg(
        long,
        value_name = "NAME",
        env = "KUBERAFT_KUBE_LATCH",
        help_heading = "Kubernetes",
        requires = "kube_namespace"
    )]
    kube_latch: Option<String>,
}

/// A latch, as it was before.
pub(super) struct LatchBefore<'a> {
    namespace: &'a str,
    name: &'a str,
    says: Latch,
}

/// What is known of a latch, or became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LatchReport {
    namespace: String,
    config_map: String,
    /// The cluster that it names.
    cluster_id: Option<ClusterId>,
    /// Why it could not be read or written.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Makes it name the cluster that it must name before its pods start, where that is left to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

impl PlaceFlags {
    pub(super) fn place(&self) -> Option<Place> {
        let (namespace, stateful_set) = self.kube_namespace.clone().zip(self.kube_statefulset.clone())?;
        Some(Place { namespace, stateful_set })
    }

    /// Whether a pod of this name belongs to the place, if there is one.
    pub(super) fn check_name(&self, name: &str) -> Result<(), CliError> {
        let Some(stateful_set) = &self.kube_statefulset else { return Ok(()) };
        let ordinal = name.strip_prefix(stateful_set.as_str()).and_then(|rest| rest.strip_prefix('-'));
        if ordinal.is_some_and(|ordinal| ordinal.parse::<u32>().is_ok()) {
            return Ok(());
        }
        Err(CliError::Usage(format!(
            "{name} is no pod of StatefulSet {stateful_set}: --name names the pod that will use the directory, as \
             {stateful_set}-0"
        )))
    }

    /// Looks at the latch, if there is to be one.
    pub(super) fn latch(&self) -> Option<LatchBefore<'_>> {
        let (namespace, name) = self.kube_namespace.as_deref().zip(self.kube_latch.as_deref())?;
        let look = async {
            match LatchMap::connect(namespace, name).await {
                Ok(latch) => Ok(latch.look().await),
                Err(_) => Ok(Latch::Unreachable),
            }
        };
        let says = block_on(look).unwrap_or(Latch::Unreachable);
        Some(LatchBefore { namespace, name, says })
    }
}

impl LatchBefore<'_> {
    /// Whether the latch may be made to name a cluster made of the data of cluster `of`.
    pub(super) fn check(&self, of: ClusterId, is_forced: bool) -> Result<(), CliError> {
        match self.says {
            Latch::Filled(other) if other != of && !is_forced => Err(CliError::Refused(format!(
                "nothing was changed: ConfigMap {} says that cluster {other} was formed here, and the data is of cluster \
                 {of}. --force continues nevertheless: then no pod of {other} starts again",
                self.name
            ))),
            _ => Ok(()),
        }
    }

    /// What will become of it.
    pub(super) fn plan(&self) -> String {
        match self.says {
            Latch::Unreachable | Latch::Refused(_) | Latch::Missing => format!(
                "ConfigMap {} cannot be read here: the command that makes it name the new cluster will be shown.\n",
                self.name
            ),
            Latch::Empty | Latch::Filled(_) | Latch::Garbled => {
                format!("ConfigMap {} will name the new cluster.\n", self.name)
            }
        }
    }

    /// What it says now.
    pub(super) fn report(&self) -> LatchReport {
        let (cluster_id, problem) = match self.says {
            Latch::Filled(id) => (Some(id), None),
            Latch::Empty => (None, None),
            Latch::Missing => (None, Some("there is no such ConfigMap".to_owned())),
            Latch::Garbled => (None, Some("it holds something else than a cluster's id".to_owned())),
            Latch::Unreachable => (None, Some("the API server does not answer".to_owned())),
            Latch::Refused(status) => (None, Some(format!("the API server answers with status {status}"))),
        };
        let (namespace, config_map) = (self.namespace.to_owned(), self.name.to_owned());
        LatchReport { namespace, config_map, cluster_id, problem, command: None }
    }

    /// Makes it name this cluster, whose data is written by now.
    pub(super) fn replace(&self, id: ClusterId) -> LatchReport {
        let replace = async {
            let latch = LatchMap::connect(self.namespace, self.name).await?;
            latch.replace(id).await
        };
        match block_on(async { Ok(replace.await) }) {
            Ok(Ok(())) => LatchReport { cluster_id: Some(id), problem: None, ..self.report() },
            Ok(Err(error)) => self.by_hand(id, &error.to_string()),
            Err(error) => self.by_hand(id, &error.to_string()),
        }
    }

    /// It is left to be done that it names this cluster.
    pub(super) fn by_hand(&self, id: ClusterId, why: &str) -> LatchReport {
        let command = LatchMap::replace_command(self.namespace, self.name, id);
        LatchReport { problem: Some(why.to_owned()), command: Some(command), ..self.report() }
    }

    /// Whether it names this cluster, as far as known.
    pub(super) fn names(&self, id: ClusterId) -> bool {
        self.says == Latch::Filled(id)
    }
}

impl LatchReport {
    /// In words, once it was to be made to name a cluster: that it does, or how to do it by hand.
    pub(super) fn told(&self) -> String {
        let why = self.problem.as_deref().unwrap_or_default();
        match &self.command {
            None => format!("ConfigMap {} names it now.\n", self.config_map),
            Some(command) => format!(
                "ConfigMap {} does not name it yet ({why}). Before its pods start:\n  {command}\n",
                self.config_map
            ),
        }
    }
}
