//! Which nodes a client command talks to, and how it knows that they are the right ones.

use std::fmt;
use std::path::PathBuf;

use clap::Args;

use super::CliError;
use super::list::{List, list};
use crate::tls::{Connector, ConnectorSettings, IdentitySettings, PeerSecrets};
use crate::types::Address;

/// Client addresses of a local cluster that `dev` starts with its default ports; the first is also that of a lone
/// `serve`.
pub(super) const DEFAULT: &str = "127.0.0.1:7001,127.0.0.1:7003,127.0.0.1:7005";

/// The flags that all client commands share.
#[derive(Clone, Debug, Args)]
pub(super) struct Endpoints {
    /// Client addresses of the nodes to ask, one after the other; https:// before one that speaks TLS
    #[arg(
        long = "endpoints",
        value_name = "HOST:PORT,…",
        env = "KUBERAFT_ENDPOINTS",
        hide_env_values = true,
        value_parser = list(parse),
        default_value = DEFAULT
    )]
    addresses: Vec<List<Given>>,

    #[command(flatten)]
    tls: TlsFlags,
}

/// The flags of commands that talk to nodes which may speak TLS.
#[derive(Clone, Debug, Args)]
pub(super) struct TlsFlags {
    /// Certificates of the authorities to trust (PEM); endpoints without http:// or https:// are taken to speak TLS then
    /// [default: the authorities that this machine trusts]
    #[arg(
        id = "tls_ca",
        long = "tls-ca",
        value_name = "FILE",
        env = "KUBERAFT_TLS_CA",
        hide_env_values = true,
        help_heading = "TLS"
    )]
    ca: Option<PathBuf>,

    /// The own certificate (PEM), for nodes that want one
    #[arg(
        id = "tls_cert",
        long = "tls-cert",
        value_name = "FILE",
        env = "KUBERAFT_TLS_CERT",
        hide_env_values = true,
        requires = "tls_key",
        help_heading = "TLS"
    )]
    cert: Option<PathBuf>,

    /// The key of that certificate (PEM)
    #[arg(
        id = "tls_key",
        long = "tls-key",
        value_name = "FILE",
        env = "KUBERAFT_TLS_KEY",
        hide_env_values = true,
        requires = "tls_cert",
        help_heading = "TLS"
    )]
    key: Option<PathBuf>,

    /// The name that the nodes' certificates must be valid for [default: the host of the endpoint]
    #[arg(
        id = "tls_server_name",
        long = "tls-server-name",
        value_name = "NAME",
        env = "KUBERAFT_TLS_SERVER_NAME",
        hide_env_values = true,
        help_heading = "TLS"
    )]
    server_name: Option<String>,

    /// File with the members' secret, for commands that administer: the command identifies itself as an administrator, by a
    /// certificate made of the secret, or without TLS by a token made of it
    #[arg(
        id = "administrator_secret",
        long = "peer-secret-file",
        value_name = "FILE",
        env = "KUBERAFT_PEER_SECRET_FILE",
        hide_env_values = true,
        help_heading = "TLS"
    )]
    secret: Option<PathBuf>,
}

/// An endpoint as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) address: Address,
    /// `https` or `http`, if it was said.
    is_tls: Option<bool>,
}

impl Given {
    /// Where nothing is said, it speaks TLS if the command has flags for that.
    pub(super) fn is_tls(&self, flags: &TlsFlags) -> bool {
        self.is_tls.unwrap_or(flags.are_given())
    }
}

impl TlsFlags {
    /// Whether there is any: a command that names an authority wants TLS.
    pub(super) fn are_given(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.server_name.is_some()
    }

    /// By what nodes are verified.
    pub(super) fn connector(&self) -> Result<Connector, CliError> {
        let identity = self.cert.clone().zip(self.key.clone());
        let settings = ConnectorSettings {
            ca: self.ca.clone(),
            identity: identity.map(|(cert, key)| IdentitySettings { cert, key }),
            administrator: self.secret.clone(),
            server_name: self.server_name.clone(),
        };
        Connector::new(&settings).map_err(|error| CliError::Failed(error.to_string()))
    }
}

/// One node's client port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: Address,
    pub(super) is_tls: bool,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https://" } else { "" };
        write!(f, "{scheme}{}", self.address)
    }
}

impl Endpoints {
    /// In the order given.
    pub(super) fn all(&self) -> Vec<Endpoint> {
        let endpoint =
            |given: &Given| Endpoint { address: given.address.clone(), is_tls: given.is_tls(&self.tls) };
        self.addresses.iter().flat_map(|list| &list.0).map(endpoint).collect()
    }

    /// As people read them.
    pub(super) fn names(&self) -> String {
        self.all().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// By what those that speak TLS are verified; `None` if none does.
    pub(super) fn connector(&self) -> Result<Option<Connector>, CliError> {
        let is_needed = self.all().iter().any(|endpoint| endpoint.is_tls);
        is_needed.then(|| self.tls.connector()).transpose()
    }

    /// What an administrator shows; `None` if no secret is given. A node with TLS may not ask for a certificate.
    pub(super) fn token(&self) -> Result<Option<String>, CliError> {
        let Some(path) = &self.tls.secret else { return Ok(None) };
        let identity = PeerSecrets::read(path).and_then(|secrets| secrets.administrator());
        let identity = identity.map_err(|error| CliError::Failed(error.to_string()))?;
        Ok(Some(identity.token().to_owned()))
    }
}

/// An address, also if written as a URL.
pub(super) fn parse(text: &str) -> Result<Given, String> {
    let text = text.trim();
    let (address, is_tls) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(address), _) => (address, Some(true)),
        (None, Some(address)) => (address, Some(false)),
        (None, None) => (text, None),
    };
    let address: Address = address.trim_end_matches('/').parse().map_err(|error| format!("{error}"))?;
    if address.port == 0 || address.is_wildcard() {
        return Err(format!("nobody can connect to {address}: give the address of a node"));
    }
    Ok(Given { address, is_tls })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        endpoints: Endpoints,
    }

    fn names(line: &str) -> String {
        let words = std::iter::once("command").chain(line.split_whitespace());
        Command::try_parse_from(words).unwrap().endpoints.names()
    }

    #[test]
    fn addresses_may_be_written_as_urls() {
        let address = |text| parse(text).unwrap().address.to_string();
        assert_eq!([address("http://a:1/"), address(" [::1]:1")], ["a:1", "[::1]:1"]);
        let is_tls = |text| parse(text).unwrap().is_tls;
        assert_eq!(["https://a:1", "http://a:1", "a:1"].map(is_tls), [Some(true), Some(false), None]);
        assert!(parse("a").unwrap_err().contains("expected host:port"));
        assert!(parse("0.0.0.0:7001").unwrap_err().contains("nobody can connect"));
    }

    #[test]
    fn a_command_that_names_an_authority_wants_tls() {
        assert_eq!(names("--endpoints a:1,https://b:1"), "a:1, https://b:1");
        assert_eq!(names("--endpoints a:1,http://b:1 --tls-ca f"), "https://a:1, b:1");
        assert!(Command::try_parse_from(["command", "--tls-cert", "f"]).is_err());
    }
}
