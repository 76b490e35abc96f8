//! Who may administer a cluster: who comes from this machine, and who shows that it is an administrator.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, Request, header};

use super::{Api, Problem};

/// Headers of proxies: what comes through one does not come from this machine.
const PROXIED: [HeaderName; 4] = [
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
];

/// Where requests of administrators are taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminAccess {
    /// From loopback, and from administrators that show who they are.
    #[default]
    Loopback,
    /// From everywhere.
    Network,
}

/// Whether a bearer token is an administrator's.
pub type VerifyToken = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Who sends the requests of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    /// It comes from this machine.
    pub(super) is_local: bool,
    /// It showed a certificate of the authority that this port demands.
    pub(super) is_certified: bool,
}

impl Caller {
    pub(super) fn new(from: SocketAddr, is_certified: bool) -> Self {
        let is_local = match from.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.to_canonical().is_loopback(),
        };
        Self { is_local, is_certified }
    }
}

/// Whether the request may administer the cluster.
///
/// # Errors
/// `forbidden`, or `unauthenticated` if it carries a token that is not an administrator's.
pub(super) fn check<R, B>(api: &Api<R>, request: &Request<B>) -> Result<(), Problem> {
    let caller = request.extensions().get::<Caller>();
    let headers = request.headers();
    let is_local = caller.is_some_and(|caller| caller.is_local)
        && !PROXIED.iter().any(|name| headers.contains_key(name));
    let is_open = api.settings.admin_access == AdminAccess::Network;
    if is_open || is_local || caller.is_some_and(|caller| caller.is_certified) {
        return Ok(());
    }
    match (bearer(headers), api.verify_token()) {
        (Some(token), Some(verify)) if verify(token) => Ok(()),
        (Some(_), _) => Err(Problem::unauthenticated()),
        (None, _) => Err(Problem::not_an_administrator()),
    }
}

/// The token of `Authorization: Bearer` (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_in_each_of_its_forms() {
        for (from, is_local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.0.0.1:1", false),
            ("[::ffff:10.0.0.1]:1", false),
            ("[fe80::1]:1", false),
        ] {
            assert_eq!(Caller::new(from.parse().unwrap(), false).is_local, is_local, "{from}");
        }
    }
}
