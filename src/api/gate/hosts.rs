//! Which names a node answers to: a web page reaches a node under a name of its own by DNS rebinding, and must not.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Hosts that are never public names: a browser reaches them only where they mean this machine, this network or this
/// cluster.
const LOCAL_SUFFIXES: [&str; 4] = ["localhost", "local", "internal", "svc"];

/// One entry of `--allowed-hosts`: `kv.example.com`, `*.example.com` for all names below it, or `*` for any host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHost {
    /// Any host: the check is off.
    Any,
    /// This name alone, in lower case.
    Name(String),
    /// All names below this one, in lower case.
    Below(String),
}

/// A text that is no [`AllowedHost`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no host: give a name without scheme and port, *.name for all names below it, or * for any")]
pub struct AllowedHostError(String);

impl FromStr for AllowedHost {
    type Err = AllowedHostError;

    fn from_str(text: &str) -> Result<Self, AllowedHostError> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let (name, below) = match text.trim().strip_prefix("*.") {
            Some(name) => (normal(name), true),
            None => (normal(text.trim()), false),
        };
        let is_ip = name.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok();
        let is_name = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        match (is_ip || is_name, below) {
            (true, false) => Ok(Self::Name(name)),
            (true, true) => Ok(Self::Below(name)),
            (false, _) => Err(AllowedHostError(text.into())),
        }
    }
}

impl AllowedHost {
    /// The domain of the cluster's Services, from the search list of `resolv.conf`: `svc.cluster.local` there allows
    /// `*.svc.cluster.local`.
    #[must_use]
    pub fn of_services(resolv_conf: &str) -> Vec<Self> {
        let searched = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("search"));
        let names = searched.flat_map(str::split_whitespace).map(normal);
        names.filter(|name| name.starts_with("svc.")).map(Self::Below).collect()
    }

    fn allows(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Name(name) => host == name,
            Self::Below(name) => is_below(host, name),
        }
    }
}

/// Whether `host`, without its port, is allowed: by itself, or by an entry. A certificate's `*.name` counts for one
/// label only (RFC 6125, 6.4.3).
pub(super) fn is_allowed(host: &str, entries: &[AllowedHost], certified: impl Fn() -> Vec<String>) -> bool {
    let host = normal(host);
    if host.is_empty() {
        return false;
    }
    is_local(&host)
        || entries.iter().any(|entry| entry.allows(&host))
        || certified().iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
            None => host.eq_ignore_ascii_case(name),
        })
}

/// Hosts that no outsider's name server answers for.
fn is_local(host: &str) -> bool {
    let is_v6 = || host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    host.parse::<Ipv4Addr>().is_ok()
        || is_v6().is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
        || (!host.contains('.') && !host.contains('['))
        || LOCAL_SUFFIXES.iter().any(|suffix| is_below(host, suffix))
}

fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name).and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.is_empty())
}

/// Lower case, without the dot at the end of an absolute name.
fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_outsider_controls_are_allowed_by_themselves() {
        for (host, allowed) in [
            ("127.0.0.1", true),
            ("[::1]", true),
            ("LocalHost", true),
            ("kv", true),
            ("kv.ns.svc", true),
            ("node.local.", true),
            ("ip-10-0-0-1.eu.internal", true),
            ("app.localhost", true),
            ("kv.ns.svc.cluster.example", true),
            ("kv.example.com", true),
            ("a.b.example.org", true),
            ("node.cert.example", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.1.1", false),
            ("kv.ns.svc.evil.example", false),
            ("svc.cluster.example", false),
            ("example.org", false),
            ("evilexample.org", false),
            ("a.node.cert.example", false),
            ("[::1", false),
            ("", false),
            (".", false),
            ("..", false),
            (".local", false),
        ] {
            let mut entries = AllowedHost::of_services(
                "nameserver 10.0.0.10\nsearch ns.svc.cluster.example svc.cluster.example cluster.example\n",
            );
            entries.push("KV.example.com".parse().unwrap());
            entries.push("*.example.org".parse().unwrap());
            assert_eq!(is_allowed(host, &entries, || vec!["*.cert.example".into()]), allowed, "{host:?}");
            assert!(
                host.is_empty() || host == "." || is_allowed(host, &[AllowedHost::Any], Vec::new),
                "{host:?}"
            );
        }
    }

    #[test]
    fn what_is_no_host_is_no_entry() {
        for text in ["", "*.", "http://a", "a:80", "a/b", "a,b", "*a", "a.*.b"] {
            assert_eq!(text.parse::<AllowedHost>(), Err(AllowedHostError(text.into())), "{text:?}");
        }
    }
}
