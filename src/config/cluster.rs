//! The list of members that `--initial-cluster` gives.

use std::str::FromStr;

use crate::types::{Address, AddressError, Name, NameError};

/// Most members that a cluster may have.
pub const MEMBERS_MAX: usize = 9;

/// A member as `--initial-cluster` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its `--name`.
    pub name: Name,
    /// Where the others reach its peer port.
    pub address: Address,
}

/// The members of a cluster to be formed, in the order given: the first one forms it. Never empty; no name and no
/// address twice; at most [`MEMBERS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialCluster(Vec<Peer>);

/// A text that is no name, no address or no list of members; says what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// See [`Name`].
    #[error(transparent)]
    Name(#[from] NameError),
    /// See [`Address`].
    #[error(transparent)]
    Address(#[from] AddressError),
    /// See [`Peer`].
    #[error("`{0}` is no member: expected name/host:port, for example 1/127.0.0.1:7000")]
    Peer(String),
    /// Others cannot reach port 0.
    #[error("member `{0}` has port 0: give the port where the others reach it")]
    PortZero(Name),
    /// Nothing between the commas.
    #[error("the list of members is empty: expected name/host:port,… with one entry for each member")]
    Empty,
    /// Two members of one name.
    #[error("the name `{0}` is listed twice: every member needs its own")]
    NameTwice(Name),
    /// Two members at one address.
    #[error("the address {0} is listed twice: every member needs its own")]
    AddressTwice(Address),
    /// More than [`MEMBERS_MAX`].
    #[error("{0} members are listed; a cluster has at most {MEMBERS_MAX}")]
    TooMany(usize),
}

impl FromStr for Peer {
    type Err = ClusterError;

    fn from_str(text: &str) -> Result<Self, ClusterError> {
        let (name, address) = text.split_once('/').ok_or_else(|| ClusterError::Peer(text.to_owned()))?;
        let peer = Self { name: name.parse()?, address: address.parse()? };
        if peer.address.port == 0 { Err(ClusterError::PortZero(peer.name)) } else { Ok(peer) }
    }
}

impl InitialCluster {
    /// A cluster of one.
    #[must_use]
    pub fn single(name: Name, address: Address) -> Self {
        Self(vec![Peer { name, address }])
    }

    /// All members, in the order given.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.0
    }

    /// The member of this name.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&Peer> {
        self.0.iter().find(|peer| peer.name == *name)
    }

    /// The members' names, for messages.
    #[must_use]
    pub fn names(&self) -> String {
        self.0.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl FromStr for InitialCluster {
    type Err = ClusterError;

    fn from_str(text: &str) -> Result<Self, ClusterError> {
        let mut peers: Vec<Peer> = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let peer: Peer = entry.parse()?;
            if peers.iter().any(|other| other.name == peer.name) {
                return Err(ClusterError::NameTwice(peer.name));
            }
            if peers.iter().any(|other| other.address == peer.address) {
                return Err(ClusterError::AddressTwice(peer.address));
            }
            peers.push(peer);
        }
        match peers.len() {
            0 => Err(ClusterError::Empty),
            1..=MEMBERS_MAX => Ok(Self(peers)),
            count => Err(ClusterError::TooMany(count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_keep_their_order() {
        let cluster: InitialCluster = "2/127.0.0.1:8000, 1/[::1]:7000,".parse().unwrap();
        assert_eq!(cluster.names(), "2, 1");
        assert_eq!(cluster.get(&"1".parse().unwrap()).unwrap().address.host, "::1");
        assert!(cluster.get(&"3".parse().unwrap()).is_none());
    }

    #[test]
    fn each_wrong_list_is_told_what_is_wrong() {
        let check = |text: &str, part: &str| {
            let message = text.parse::<InitialCluster>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        };
        check("", "is empty");
        check("127.0.0.1:7000", "expected name/host:port");
        check("1/127.0.0.1", "expected host:port");
        check("1/127.0.0.1:0", "port 0");
        check("1/a:1,1/b:1", "`1` is listed twice");
        check("1/a:1,2/a:1", "a:1 is listed twice");
        let ten: Vec<String> = (0..10).map(|n| format!("{n}/a:{}", n + 1)).collect();
        check(&ten.join(","), "10 members are listed");
    }
}
