//! Whose messages count: those of nodes that a configuration known here names, under the name that it has there.
//!
//! A node may have an old configuration, or none: it was cut off while members changed, or was added a moment ago. It must
//! still hear the present leader, or a cluster with a majority alive could come to a stop. So a node that no configuration
//! known here names counts, too, where somebody who can be trusted names it: the members' authority, by a certificate with
//! its name, or a member that is asked at an address known here. What the sender says of itself proves nothing.

use super::Refused;
use crate::types::NodeId;

/// What to do with a sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderStep {
    /// Its messages count.
    Accept,
    /// They count once a member, asked at an address known here, says that this is one of the cluster.
    Ask,
}

/// Whether messages of node `id`, which calls itself `claimed`, count. `known` is the name that it has in a configuration
/// known here; `is_certified`: its certificate has the name that it claims.
///
/// # Errors
/// They never do: it has another member's id.
pub fn on_sender(
    id: NodeId,
    claimed: &str,
    known: Option<&str>,
    is_certified: bool,
) -> Result<SenderStep, Refused> {
    match known {
        Some(name) if name == claimed => Ok(SenderStep::Accept),
        Some(name) => Err(Refused::OtherName { id, known: name.to_owned(), claimed: claimed.to_owned() }),
        None if is_certified => Ok(SenderStep::Accept),
        None => Ok(SenderStep::Ask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_counts_by_the_configuration_by_its_certificate_or_by_a_member() {
        let on = |known, is_certified| on_sender(NodeId(7), "a", known, is_certified);
        for is_certified in [false, true] {
            assert_eq!(on(Some("a"), is_certified), Ok(SenderStep::Accept));
            let other = on(Some("b"), is_certified).unwrap_err();
            assert!(other.to_string().contains("node 0000000000000007 is b, not a"), "{other}");
        }
        assert_eq!(on(None, true), Ok(SenderStep::Accept));
        assert_eq!(on(None, false), Ok(SenderStep::Ask));
    }
}
