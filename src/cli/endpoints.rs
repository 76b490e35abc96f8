//! Which nodes a client command talks to.

use clap::Args;

use crate::config::Address;

/// Client addresses of a local cluster that `dev` starts with its default ports; the first is also that of a lone
/// `serve`.
pub(super) const DEFAULT: &str = "127.0.0.1:7001,127.0.0.1:7003,127.0.0.1:7005";

/// The flag that all client commands share.
#[derive(Clone, Debug, Args)]
pub(super) struct Endpoints {
    /// Client addresses of the nodes to ask, one after the other
    #[arg(
        long = "endpoints",
        value_name = "HOST:PORT,…",
        env = "KUBERAFT_ENDPOINTS",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = parse,
        default_value = DEFAULT
    )]
    pub(super) addresses: Vec<Address>,
}

/// An address, also if written as a URL.
pub(super) fn parse(text: &str) -> Result<Address, String> {
    let text = text.trim();
    if text.starts_with("https://") {
        return Err("TLS is not supported yet: use http://host:port or host:port".to_owned());
    }
    let address = text.strip_prefix("http://").unwrap_or(text);
    let address: Address = address.trim_end_matches('/').parse().map_err(|error| format!("{error}"))?;
    if address.port == 0 || address.is_wildcard() {
        return Err(format!("nobody can connect to {address}: give the address of a node"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_written_as_urls() {
        assert_eq!(parse("http://a:1/").unwrap().to_string(), "a:1");
        assert_eq!(parse(" [::1]:1").unwrap().to_string(), "[::1]:1");
        assert!(parse("https://a:1").unwrap_err().contains("TLS"));
        assert!(parse("a").unwrap_err().contains("expected host:port"));
        assert!(parse("0.0.0.0:7001").unwrap_err().contains("nobody can connect"));
    }
}
