//! A Kubernetes API server of a few hundred lines, for tests: the REST paths that this project uses, over real HTTP on
//! loopback. It holds objects with resource versions, streams watches, merges patches, takes evictions, and fails on
//! demand in the ways that real ones do. Used by the tests of `src/k8s` and by those on real processes.

#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "test code that two test binaries share; each uses a part of it"
)]

mod answers;
mod objects;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use objects::Objects;

/// How a request fails.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Refused with this status.
    Status(u16),
    /// Refused with this status and a `Retry-After` of so many seconds.
    RetryAfter(u16, u32),
    /// Never answered; nothing is done.
    Silence,
    /// Done, but never answered.
    DoneInSilence,
    /// Before it is looked at, somebody else puts this object into this resource.
    Meanwhile(&'static str, Value),
}

/// Which requests fail, and how many of them.
struct Rule {
    method: &'static str,
    resource: &'static str,
    fault: Fault,
    left: usize,
}

#[derive(Default)]
struct State {
    objects: Objects,
    /// By resource, whose objects may be asked for by name; others, and lists of all, are refused with 403.
    roles: BTreeMap<&'static str, Vec<String>>,
    rules: Vec<Rule>,
    requests: Vec<String>,
}

/// The server, until dropped.
pub(crate) struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Whether it is away: connections break, and new ones are closed at once.
    away: watch::Sender<bool>,
    accepts: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Changes with each change of an object.
    changed: watch::Sender<u64>,
    /// Rises when all watches shall break.
    cut: watch::Sender<u64>,
}

impl Shared {
    /// Whether the role covers this object, or with an empty name all of them.
    fn covers(&self, resource: &str, name: &str) -> bool {
        self.state().roles.get(resource).is_none_or(|names| names.iter().any(|covered| covered == name))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes objects, and lets the watches look.
    fn change<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        let changed = change(&mut self.state().objects);
        self.changed.send_modify(|count| *count += 1);
        changed
    }

    fn fault(&self, method: &str, resource: &str) -> Option<Fault> {
        let mut state = self.state();
        let rule = state.rules.iter_mut().find(|rule| {
            rule.left > 0
                && (rule.method == "*" || rule.method == method)
                && (rule.resource == "*" || rule.resource == resource)
        })?;
        rule.left -= 1;
        Some(rule.fault.clone())
    }
}

impl ApiServer {
    /// Serves on a port of the system's choice.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            cut: watch::Sender::new(0),
        });
        let away = watch::Sender::new(false);
        let accepts = tokio::spawn(accept(listener, Arc::clone(&shared), away.subscribe()));
        Self { address, shared, away, accepts }
    }

    /// `http://host:port`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a `KUBECONFIG` says to reach it.
    pub(crate) fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url()}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "ns"}}],
        })
        .to_string()
    }

    /// Creates or replaces an object, like `kubectl apply`: `metadata.name` says which. Its uid stays unless given.
    pub(crate) fn put(&self, resource: &str, object: Value) {
        self.shared.change(|objects| objects.put(resource, object));
    }

    /// Deletes an object at once.
    pub(crate) fn remove(&self, resource: &str, name: &str) {
        self.shared.change(|objects| objects.remove(resource, name));
    }

    /// An object as it is now.
    pub(crate) fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.shared.state().objects.get(resource, name).cloned()
    }

    /// All objects of a resource, by name.
    pub(crate) fn list(&self, resource: &str) -> Vec<Value> {
        self.shared.state().objects.list(resource).cloned().collect()
    }

    /// From now on a role covers only these names of a resource; one that was never restricted is covered whole.
    pub(crate) fn restrict(&self, resource: &'static str, names: impl IntoIterator<Item = String>) {
        self.shared.state().roles.insert(resource, names.into_iter().collect());
    }

    /// The next `times` requests of this method on this resource (`*`: any) fail. `pods/eviction` is a resource of its
    /// own, and `WATCH` a method.
    pub(crate) fn fail(&self, method: &'static str, resource: &'static str, fault: Fault, times: usize) {
        self.shared.state().rules.push(Rule { method, resource, fault, left: times });
    }

    /// No request fails any more.
    pub(crate) fn heal(&self) {
        self.shared.state().rules.clear();
    }

    /// Breaks connections in mid-watch.
    pub(crate) fn cut_watches(&self) {
        self.shared.cut.send_modify(|cut| *cut += 1);
    }

    /// Forgets the history: watches end with 410, and none can begin where an older list ended.
    pub(crate) fn expire(&self) {
        self.shared.change(Objects::expire);
    }

    /// Sends a modification of `object` to the watches, though nothing was modified: an old state, seen again.
    pub(crate) fn replay(&self, resource: &str, object: Value) {
        self.shared.change(|objects| objects.replay(resource, object));
    }

    /// Whether connections break and new ones are closed at once.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.away.send_replace(is_away);
    }

    /// What was asked so far: `METHOD resource name`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }

    /// How many requests so far begin like this.
    pub(crate) fn count(&self, beginning: &str) -> usize {
        self.shared.state().requests.iter().filter(|request| request.starts_with(beginning)).count()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.accepts.abort();
        self.away.send_replace(true);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, away: watch::Receiver<bool>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if *away.borrow() {
            continue;
        }
        let (shared, mut away) = (Arc::clone(&shared), away.clone());
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let shared = Arc::clone(&shared);
                async move {
                    Ok::<Response<Body>, std::convert::Infallible>(answers::answer(&shared, request).await)
                }
            });
            let builder = Builder::new(TokioExecutor::new());
            tokio::select! {
                // Looked at first: what is put after the server went away must not reach anybody.
                biased;
                _ = away.wait_for(|away| *away) => {}
                _ = builder.serve_connection(TokioIo::new(stream), service) => {}
            }
        });
    }
}
