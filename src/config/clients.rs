//! The flags of the client port: who may ask for what, and how much memory that may take.

use clap::{Args, ValueEnum};

use super::ConfigError;
use super::units::Size;
use crate::api::{self, AllowedHost};

/// The flags of the client port.
#[derive(Clone, Debug, Args)]
pub(super) struct ClientFlags {
    /// Further hosts under which clients reach this node: names, *.name for all names below, or * for any. Addresses,
    /// single labels, the names of advertised addresses and certificates, and names below localhost, local, internal and
    /// svc are allowed without it
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', help_heading = "Access")]
    allowed_hosts: Vec<AllowedHost>,

    /// Who may change members, transfer leadership and take snapshots: loopback, requests from this machine and from
    /// administrators with a client certificate or token; network, all clients
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "WHO",
        hide_possible_values = true,
        help_heading = "Access"
    )]
    admin_access: AdminAccess,

    /// Memory for the bodies of requests in progress; further requests wait, and get 429 at their deadline [default: 1/64
    /// of the memory limit, between 8MiB and 20MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    request_memory: Option<Size>,

    /// Memory for large values on their way to clients; further requests wait, and get 429 at their deadline [default:
    /// 1/32 of the memory limit, between 16MiB and 256MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    answer_memory: Option<Size>,
}

/// Where requests of administrators are taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum AdminAccess {
    /// From this machine
    #[default]
    Loopback,
    /// From everywhere
    Network,
}

/// What clients may do, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Hosts that requests may name, besides those that are always allowed.
    pub allowed_hosts: Vec<AllowedHost>,
    /// Where requests of administrators are taken from.
    pub admin_access: api::AdminAccess,
    /// Memory for bodies of requests in bytes; `None`: by the memory that there is.
    pub request_memory_bytes: Option<usize>,
    /// Memory for large answers in bytes; `None`: by the memory that there is.
    pub answer_memory_bytes: Option<usize>,
}

impl ClientFlags {
    pub(super) fn settings(&self) -> Result<ClientSettings, ConfigError> {
        for (flag, size) in [("request-memory", self.request_memory), ("answer-memory", self.answer_memory)] {
            if size.is_some_and(|size| size.0 == 0) {
                return Err(ConfigError::Zero(flag));
            }
        }
        Ok(ClientSettings {
            allowed_hosts: self.allowed_hosts.clone(),
            admin_access: match self.admin_access {
                AdminAccess::Loopback => api::AdminAccess::Loopback,
                AdminAccess::Network => api::AdminAccess::Network,
            },
            request_memory_bytes: self.request_memory.map(|size| size.0),
            answer_memory_bytes: self.answer_memory.map(|size| size.0),
        })
    }
}
