//! The list of members that every node is started with: the founders, or those that a later one asks to join.

use std::collections::BTreeSet;

/// One founding member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where its peers reach it, `host:port`.
    pub address: String,
}

/// The founding members in the order given; never empty, names and addresses unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialCluster {
    members: Vec<InitialMember>,
    /// Place of the one that forms the cluster.
    founder: usize,
}

/// A list that cannot be a cluster.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InitialClusterError {
    /// Nothing in it.
    #[error("the initial cluster is empty")]
    Empty,
    /// A member without a name.
    #[error("the initial cluster has a member without a name, at {address:?}")]
    NoName {
        /// Its address.
        address: String,
    },
    /// Two members of one name.
    #[error("the initial cluster names {0:?} twice")]
    DuplicateName(String),
    /// Two members at one address.
    #[error("the initial cluster has two members at address {0:?}")]
    DuplicateAddress(String),
}

impl InitialCluster {
    /// Checks the list. A node that is not in it never takes part in forming the cluster. The founder is the member with
    /// the smallest name (by bytes), so that it does not depend on the order in which each node lists the members.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn new(members: Vec<InitialMember>) -> Result<Self, InitialClusterError> {
        if members.is_empty() {
            return Err(InitialClusterError::Empty);
        }
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for member in &members {
            if member.name.is_empty() {
                return Err(InitialClusterError::NoName { address: member.address.clone() });
            }
            if !names.insert(member.name.as_str()) {
                return Err(InitialClusterError::DuplicateName(member.name.clone()));
            }
            if !addresses.insert(member.address.as_str()) {
                return Err(InitialClusterError::DuplicateAddress(member.address.clone()));
            }
        }
        let founder = (0..members.len()).min_by_key(|at| &members[*at].name).unwrap_or(0);
        Ok(Self { members, founder })
    }

    /// The same with the first member as the founder: the list comes from one place, which orders it.
    #[must_use]
    pub fn founded_by_first(self) -> Self {
        Self { founder: 0, ..self }
    }

    /// In the order given.
    #[must_use]
    pub fn members(&self) -> &[InitialMember] {
        &self.members
    }

    /// The one that forms the cluster.
    #[must_use]
    pub fn founder(&self) -> &str {
        &self.members[self.founder].name
    }

    /// Where the member called `name` is reached.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<&str> {
        self.members.iter().find(|member| member.name == name).map(|member| member.address.as_str())
    }

    /// All members but the one called `own`.
    pub fn others<'a>(&'a self, own: &'a str) -> impl Iterator<Item = &'a InitialMember> + 'a {
        self.members.iter().filter(move |member| member.name != own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &[(&str, &str)]) -> Vec<InitialMember> {
        list.iter()
            .map(|&(name, address)| InitialMember { name: name.into(), address: address.into() })
            .collect()
    }

    #[test]
    fn keeps_the_order_and_leaves_out_the_own_name() {
        let cluster = InitialCluster::new(members(&[("b", "h:1"), ("a", "h:2"), ("c", "h:3")])).unwrap();
        assert_eq!(cluster.founder(), "a", "whatever the order");
        assert_eq!(cluster.clone().founded_by_first().founder(), "b");
        assert_eq!(cluster.others("a").map(|m| m.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(cluster.address("c"), Some("h:3"));
        assert_eq!(cluster.address("d"), None);
    }

    #[test]
    fn refuses_lists_that_cannot_be_a_cluster() {
        let check = |list: &[(&str, &str)]| InitialCluster::new(members(list)).unwrap_err().to_string();
        assert_eq!(check(&[]), "the initial cluster is empty");
        assert_eq!(check(&[("", "h:1")]), "the initial cluster has a member without a name, at \"h:1\"");
        assert_eq!(check(&[("a", "h:1"), ("a", "h:2")]), "the initial cluster names \"a\" twice");
        assert_eq!(
            check(&[("a", "h:1"), ("b", "h:1")]),
            "the initial cluster has two members at address \"h:1\""
        );
    }
}
