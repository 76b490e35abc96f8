//! What a node must be like to be added, when it is told of over the network.

use crate::raft::NewMember;
use crate::types::{Address, Name, NodeId};

/// Why a node cannot be a member, whatever the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewMemberError {
    /// Zero stands for "none" between nodes.
    #[error("`node_id` is zero: give the id that the node says while it waits to be added")]
    NoId,
    /// Names become labels of metrics, lines of logs and names of hosts.
    #[error(
        "`name` is {0:?}: use 1 to {max} letters, digits, `-`, `_` and `.`, a letter or digit first",
        max = Name::BYTES_MAX
    )]
    Name(String),
    /// Nobody could dial it.
    #[error("`peer_addr` is {0:?}: expected `host:port`, for example 127.0.0.1:7000 or [::1]:7000")]
    PeerAddr(String),
}

/// Whether `new` can be a member of any cluster.
///
/// # Errors
/// The first thing wrong with it.
pub fn check_new_member(new: &NewMember) -> Result<(), NewMemberError> {
    let NewMember { id, name, peer_addr, stays_learner: _ } = new;
    if *id == NodeId(0) {
        return Err(NewMemberError::NoId);
    }
    if name.parse::<Name>().is_err() {
        return Err(NewMemberError::Name(name.clone()));
    }
    match peer_addr.as_ref().filter(|address| !can_be_dialled(address)) {
        Some(address) => Err(NewMemberError::PeerAddr(address.clone())),
        None => Ok(()),
    }
}

fn can_be_dialled(text: &str) -> bool {
    text.parse::<Address>().is_ok_and(|address| address.port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, peer_addr: Option<&str>) -> NewMember {
        let peer_addr = peer_addr.map(str::to_owned);
        NewMember { id: NodeId(7), name: name.into(), peer_addr, stays_learner: false }
    }

    #[test]
    fn only_names_that_are_safe_everywhere_are_taken() {
        let longest = "n".repeat(Name::BYTES_MAX);
        for text in ["1", "kuberaft-0", "n_1.x", &longest] {
            assert_eq!(check_new_member(&node(text, None)), Ok(()), "{text:?}");
        }
        let too_long = "n".repeat(Name::BYTES_MAX + 1);
        for text in ["", ".", "a/b", "-x", "a b", "a b/\n\"x", "\u{e9}", "a\0", &too_long] {
            assert_eq!(check_new_member(&node(text, None)), Err(NewMemberError::Name(text.into())));
        }
    }

    #[test]
    fn only_addresses_that_can_be_dialled_are_taken() {
        for text in ["127.0.0.1:7000", "[::1]:7000", "kuberaft-0.kuberaft:7000"] {
            assert_eq!(check_new_member(&node("n", Some(text))), Ok(()), "{text:?}");
        }
        let ports = ["", "7000", "a", "a:", "a:0", "a:70000", "a:-1", "a:+1"];
        for text in
            [":7000", "::1:7000", "[::1:7000", "[x]:1", "no where!:1", "a/b:1"].into_iter().chain(ports)
        {
            assert_eq!(check_new_member(&node("n", Some(text))), Err(NewMemberError::PeerAddr(text.into())));
        }
    }

    #[test]
    fn no_node_has_id_zero() {
        let none = NewMember { id: NodeId(0), ..node("n", None) };
        assert_eq!(check_new_member(&none), Err(NewMemberError::NoId));
    }
}
