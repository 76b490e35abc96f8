//! The flags that say who may become a member, and when one is replaced.

use clap::{Args, ValueEnum};

use super::units::Span;

/// Which nodes may join without an administrator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Admit {
    /// Those of the members' list; in Kubernetes the pods that the StatefulSet wants
    #[default]
    Names,
    /// Every node that asks
    Anyone,
}

/// The flags of admission.
#[derive(Clone, Debug, Args)]
pub(super) struct AdmissionFlags {
    /// Which nodes may join without `kuberaft member add`: those of the members' --initial-cluster (in Kubernetes the pods
    /// that the StatefulSet wants), or anyone
    #[arg(long, value_name = "WHO", value_enum, default_value_t, help_heading = "Cluster")]
    pub(super) admit: Admit,

    /// For how long a member must have been silent before a new node under its name replaces it; in Kubernetes the name's
    /// new pod does so after ten election timeouts
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Cluster")]
    pub(super) replace_after: Span,
}
