//! Names, addresses, and the list of members that `--initial-cluster` gives.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Most members that a cluster may have.
pub const MEMBERS_MAX: usize = 9;
/// Longest name of a node in bytes: that of a DNS name, since a pod's name is one.
const NAME_BYTES_MAX: usize = 253;

/// What a node is called: a pod's name, or a name of `--initial-cluster`. Starts with a letter or digit, and has
/// only letters, digits, `-`, `_` and `.`, so that it is safe as the name of a folder and in an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Where something listens or is reached: `host:port`, the host a DNS name, an IPv4 address, or an IPv6 address
/// in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Without brackets.
    pub host: String,
    /// 0 means "any free port", where something is to listen.
    pub port: u16,
}

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
    #[error(
        "`{0}` is no name: use 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_` and `.`, a letter or digit first"
    )]
    Name(String),
    /// See [`Address`].
    #[error(
        "`{0}` is no address: expected host:port, for example 127.0.0.1:7000, node-0.example:7000 or [::1]:7000"
    )]
    Address(String),
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

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ClusterError;

    fn from_str(text: &str) -> Result<Self, ClusterError> {
        let ok = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && text.len() <= NAME_BYTES_MAX;
        if ok { Ok(Self(text.to_owned())) } else { Err(ClusterError::Name(text.to_owned())) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Address {
    /// Whether this stands for all of a machine's addresses, so that nobody can be told to connect to it.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl FromStr for Address {
    type Err = ClusterError;

    fn from_str(text: &str) -> Result<Self, ClusterError> {
        let wrong = || ClusterError::Address(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        // `parse` alone would take a sign.
        let port = port.parse().ok().filter(|_| !port.starts_with('+')).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(ip)) if ip.parse::<std::net::Ipv6Addr>().is_ok() => ip,
            None if is_host(host) => host,
            _ => return Err(wrong()),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Whether `host` can be a DNS name or an IPv4 address.
fn is_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
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

    fn refusal<T: FromStr<Err = ClusterError> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().unwrap_err().to_string()
    }

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        for text in ["127.0.0.1:7000", "[::1]:7000", "kuberaft-0.kuberaft:7000", "0.0.0.0:0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert!("0.0.0.0:1".parse::<Address>().unwrap().is_wildcard());
        assert!("[::]:1".parse::<Address>().unwrap().is_wildcard());
        assert!(!"localhost:1".parse::<Address>().unwrap().is_wildcard());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "7000",
            ":7000",
            "host:",
            "host:70000",
            "host:+1",
            "::1:7000",
            "[::1:7000",
            "[x]:1",
            "a b:1",
            "http://a:1",
        ] {
            assert!(refusal::<Address>(text).contains("expected host:port"), "{text}");
        }
    }

    #[test]
    fn names_cannot_leave_the_data_folder() {
        for text in ["", ".", "..", "../1", "a/b", "-x", "a b", "é"] {
            assert!(refusal::<Name>(text).contains("is no name"), "{text}");
        }
        assert_eq!("kuberaft-0".parse::<Name>().unwrap().as_str(), "kuberaft-0");
    }

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
            let message = refusal::<InitialCluster>(text);
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
