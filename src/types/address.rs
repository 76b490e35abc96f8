//! What nodes are called, and where they are reached: the rules for what a user gives and for what comes over the network.

use core::net::{IpAddr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;

/// Longest DNS name in bytes: a pod's name is one, and so is a host.
const DNS_NAME_BYTES_MAX: usize = 253;

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

/// A text that is no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no name: use 1 to {max} letters, digits, `-`, `_` and `.`, a letter or digit first",
    max = Name::BYTES_MAX
)]
pub struct NameError(pub String);

/// A text that is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address: expected host:port, for example 127.0.0.1:7000, node-0.example:7000 or [::1]:7000"
)]
pub struct AddressError(pub String);

impl Name {
    /// Longest name in bytes.
    pub const BYTES_MAX: usize = DNS_NAME_BYTES_MAX;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_name = text.starts_with(|first: char| first.is_ascii_alphanumeric()) && is_host(text);
        if is_name { Ok(Self(text.to_owned())) } else { Err(NameError(text.to_owned())) }
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
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        // `parse` alone would take a sign.
        let port = port.parse().ok().filter(|_| !port.starts_with('+')).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(ip)) if ip.parse::<Ipv6Addr>().is_ok() => ip,
            None if is_host(host) => host,
            _ => return Err(wrong()),
        };
        Ok(Self { host: host.to_owned(), port })
    }
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

/// Whether `text` can be a DNS name or an IPv4 address.
fn is_host(text: &str) -> bool {
    (1..=DNS_NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let hosts =
            [":1", "::1:7000", "[::1:7000", "[x]:1", "a b:1", "a/b:1", "a:1:1", "http://a:1", "\u{e9}:1"];
        let ports = ["", "7000", "host:", "host:70000", "host:+1", "host:-1", "host:x", "host: 1"];
        let too_long = format!("{}:1", "n".repeat(DNS_NAME_BYTES_MAX + 1));
        for text in hosts.into_iter().chain(ports).chain([too_long.as_str()]) {
            assert_eq!(text.parse::<Address>(), Err(AddressError(text.to_owned())));
        }
        assert!(AddressError("7000".into()).to_string().contains("expected host:port"));
    }

    #[test]
    fn names_cannot_leave_the_data_folder() {
        let too_long = "n".repeat(Name::BYTES_MAX + 1);
        let wrong = ["", ".", "..", "../1", "a/b", "-x", "a b", "\u{e9}", "a\n", "a\0", "[::1]", &too_long];
        for text in wrong {
            assert_eq!(text.parse::<Name>(), Err(NameError(text.to_owned())));
        }
        for text in ["1", "kuberaft-0", "n_1.x", &too_long[1..]] {
            assert_eq!(text.parse::<Name>().unwrap().as_str(), text);
        }
        assert!(NameError("-x".into()).to_string().contains("`-x` is no name: use 1 to 253 letters"));
    }
}
