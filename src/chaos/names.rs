//! Members by DNS names, resolved again and again in the background; a last good address outlives DNS.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Connecting, Reach, dial};

/// From one look at a name to the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the first look may hold up the start.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// A pod whose name was not resolved for so long, while others' were, is gone.
const GONE_AFTER: Duration = Duration::from_secs(3);

/// The pods of a `StatefulSet`, as a template of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNames {
    /// The `StatefulSet`'s name; pods are called `<name>-0` and so on.
    pub stateful_set: String,
    /// Host name of the headless Service: `<service>.<namespace>.svc`.
    pub headless: String,
    /// Client port.
    pub port: u16,
    /// Ordinals below this one are looked for. 1 to 1000.
    pub replicas_max: u16,
}

/// Names that make no list of members.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// No member at all.
    #[error("there is no member in the list")]
    Empty,
    /// Two members of one name.
    #[error("member `{0}` is there twice")]
    Twice(String),
}

/// Members that are reached by TCP.
pub struct Names {
    known: Arc<RwLock<Known>>,
    /// In the order of the list.
    members: Vec<String>,
    /// Whether a name that does not resolve is no member now, rather than one that cannot be reached.
    come_and_go: bool,
    _looks: JoinSet<()>,
}

/// Addresses by the members' names.
#[derive(Debug, Default)]
struct Known(BTreeMap<String, Found>);

#[derive(Clone, Copy, Debug)]
struct Found {
    address: SocketAddr,
    /// When the name was last resolved.
    at: Instant,
}

impl Known {
    fn set(&mut self, name: &str, address: SocketAddr, at: Instant) {
        self.0.insert(name.to_owned(), Found { address, at });
    }

    fn address(&self, name: &str) -> Option<SocketAddr> {
        self.0.get(name).map(|found| found.address)
    }

    /// Whether the name was resolved about as lately as any. When DNS fails, no name is resolved, and all stay.
    fn is_there(&self, name: &str) -> bool {
        let latest = self.0.values().map(|found| found.at).max();
        let found = self.0.get(name);
        found.zip(latest).is_some_and(|(found, latest)| latest - found.at <= GONE_AFTER)
    }
}

impl Names {
    /// Members that are always there: names, and for each the `host:port` of its client port.
    ///
    /// # Errors
    /// [`NamesError`].
    pub async fn fixed(members: Vec<(String, String)>) -> Result<Self, NamesError> {
        Self::start(members, false).await
    }

    /// The pods of a `StatefulSet`, as many as there are.
    ///
    /// # Errors
    /// [`NamesError`].
    pub async fn pods(pods: &PodNames) -> Result<Self, NamesError> {
        let PodNames { stateful_set, headless, port, replicas_max } = pods;
        let pod = |ordinal| {
            let name = format!("{stateful_set}-{ordinal}");
            let address = format!("{name}.{headless}:{port}");
            (name, address)
        };
        Self::start((0..*replicas_max).map(pod).collect(), true).await
    }

    async fn start(members: Vec<(String, String)>, come_and_go: bool) -> Result<Self, NamesError> {
        let names: Vec<String> = members.iter().map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return Err(NamesError::Empty);
        }
        if let Some(at) = (1..names.len()).find(|at| names[..*at].contains(&names[*at])) {
            return Err(NamesError::Twice(names[at].clone()));
        }
        let known: Arc<RwLock<Known>> = Arc::default();
        let mut first = JoinSet::new();
        for (name, address) in members.clone() {
            let known = Arc::clone(&known);
            first.spawn(async move { look(&known, &name, &address).await });
        }
        // What takes longer is found by the looks below.
        let _ = timeout(FIRST_LOOK, async { while first.join_next().await.is_some() {} }).await;
        let mut looks = JoinSet::new();
        for (name, address) in members {
            let known = Arc::clone(&known);
            looks.spawn(async move {
                loop {
                    sleep(LOOK_INTERVAL).await;
                    look(&known, &name, &address).await;
                }
            });
        }
        Ok(Self { known, members: names, come_and_go, _looks: looks })
    }
}

/// Resolves a name once. A failure changes nothing.
async fn look(known: &RwLock<Known>, name: &str, address: &str) {
    if let Ok(mut found) = lookup_host(address).await
        && let Some(address) = found.next()
    {
        known.write().unwrap_or_else(PoisonError::into_inner).set(name, address, Instant::now());
    }
}

impl Reach for Names {
    fn members(&self) -> Vec<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_member = |name: &&String| !self.come_and_go || known.is_there(name);
        self.members.iter().filter(is_member).cloned().collect()
    }

    fn connect<'a>(&'a self, member: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let address = self.known.read().unwrap_or_else(PoisonError::into_inner).address(member);
            let unknown = || io::Error::new(io::ErrorKind::NotFound, "its name was never resolved");
            dial(address.ok_or_else(unknown)?).await
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_name_that_alone_does_not_resolve_is_gone_and_all_stay_when_dns_fails() {
        let (begin, address) = (Instant::now(), SocketAddr::from(([127, 0, 0, 1], 1)));
        let mut known = Known::default();
        known.set("a", address, begin);
        known.set("b", address, begin);
        assert!(known.is_there("a") && known.is_there("b") && !known.is_there("c"));
        let later = begin + GONE_AFTER + Duration::from_secs(1);
        known.set("a", address, later);
        assert!(known.is_there("a") && !known.is_there("b"));
        assert_eq!(known.address("b"), Some(address), "its last good address is kept");
    }

    #[tokio::test]
    async fn a_fixed_member_is_reached_by_name_and_stays_one_without_an_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let members = vec![
            ("a".to_owned(), listener.local_addr().unwrap().to_string()),
            ("b".to_owned(), "no port".to_owned()),
        ];
        let names = Names::fixed(members).await.unwrap();
        assert_eq!(names.members(), ["a", "b"]);
        assert!(names.connect("a").await.is_ok());
        let error = names.connect("b").await.map(drop).unwrap_err();
        assert!(error.to_string().contains("never resolved"), "{error}");
    }

    #[tokio::test]
    async fn a_list_without_members_or_with_a_name_twice_is_refused() {
        assert_eq!(Names::fixed(Vec::new()).await.err(), Some(NamesError::Empty));
        let twice = ["a", "b", "a"].map(|name| (name.to_owned(), "127.0.0.1:1".to_owned()));
        assert_eq!(Names::fixed(twice.to_vec()).await.err(), Some(NamesError::Twice("a".to_owned())));
    }
}
