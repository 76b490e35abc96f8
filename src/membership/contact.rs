//! What makes an empty node a member: an invitation of the founder, or contact from a running cluster. Whether the sender is
//! one that the node expects is checked before.

use super::formation::{Formed, Local, Standing};
use crate::types::{ClusterId, NodeId};

/// Why a node did not let itself be made a member.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// The message is for another directory, perhaps the one that was here before.
    #[error("this is node {own}, not {target}: another node, or its data directory was emptied")]
    WrongTarget {
        /// This node.
        own: NodeId,
        /// As received.
        target: NodeId,
    },
    /// It belongs elsewhere.
    #[error("this node belongs to cluster {own}, not to {other}")]
    OtherCluster {
        /// Its cluster.
        own: ClusterId,
        /// As received.
        other: ClusterId,
    },
    /// It forms a cluster itself.
    #[error("this node is forming cluster {own} itself: do the nodes' initial clusters differ?")]
    Forming {
        /// What it forms.
        own: ClusterId,
    },
    /// The answer that `Form` names is not the newest.
    #[error("the nonce is not the newest: ask again")]
    StaleNonce,
    /// It has the id of a member with another name.
    #[error("node {id} is {known}, not {claimed}")]
    OtherName {
        /// As received.
        id: NodeId,
        /// Its name in a configuration known here.
        known: String,
        /// As received.
        claimed: String,
    },
    /// Nobody who can be trusted says that the sender is a member.
    #[error("nobody here knows node {id}, which calls itself {claimed}: {why}")]
    UnknownSender {
        /// As received.
        id: NodeId,
        /// As received.
        claimed: String,
        /// Who was asked.
        why: String,
    },
    /// The configuration does not hold this node.
    #[error("the configuration does not hold this node, {own}, under the name {name:?}")]
    NotInConfiguration {
        /// This node.
        own: NodeId,
        /// Its name.
        name: String,
    },
}

/// Whether to accept membership by `Form`. `Some` is to be made durable before it is answered; `None` means
/// that it is already so.
///
/// # Errors
/// Why not.
pub fn on_form(
    local: &Local,
    standing: &Standing,
    newest_nonce: Option<u64>,
    nonce: u64,
    offered: Formed,
) -> Result<Option<Formed>, Refused> {
    match standing {
        Standing::Member(formed) if formed.cluster_id == offered.cluster_id => return Ok(None),
        Standing::Intent(intent) => return Err(Refused::Forming { own: intent.cluster_id }),
        Standing::Member(Formed { cluster_id: own, .. }) | Standing::Retired(own) => {
            return Err(Refused::OtherCluster { own: *own, other: offered.cluster_id });
        }
        Standing::Empty => {}
    }
    if newest_nonce != Some(nonce) {
        return Err(Refused::StaleNonce);
    }
    let own = offered.configuration.as_ref().and_then(|c| c.voters.get(&local.node_id));
    if own.is_none_or(|member| member.name != local.name) {
        return Err(Refused::NotInConfiguration { own: local.node_id, name: local.name.clone() });
    }
    Ok(Some(offered))
}

/// Whether a stream from a member of `cluster_id` to `target` is for this node, and whether it makes it a
/// member: a cluster that names an empty directory's id has counted it as a member, and so has one that names the
/// new id of a node that it removed. `Some` is to be made durable before anything from the stream is used.
///
/// # Errors
/// Why not.
pub fn on_contact(
    local: &Local,
    standing: &Standing,
    cluster_id: ClusterId,
    target: NodeId,
) -> Result<Option<Formed>, Refused> {
    if target != local.node_id {
        return Err(Refused::WrongTarget { own: local.node_id, target });
    }
    match standing {
        Standing::Empty => Ok(Some(Formed { cluster_id, configuration: None })),
        Standing::Retired(own) if *own == cluster_id => Ok(Some(Formed { cluster_id, configuration: None })),
        Standing::Intent(intent) if intent.cluster_id == cluster_id => Ok(Some(intent.clone().into())),
        Standing::Member(formed) if formed.cluster_id == cluster_id => Ok(None),
        Standing::Intent(intent) => Err(Refused::Forming { own: intent.cluster_id }),
        Standing::Member(Formed { cluster_id: own, .. }) | Standing::Retired(own) => {
            Err(Refused::OtherCluster { own: *own, other: cluster_id })
        }
    }
}
