//! The outgoing streams to all peers.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::dial::{self, Resolver, Target};
use super::directory::PeerDirectory;
use super::outbox::{Dropped, Outbox};
use super::settings::Settings;
use super::snapshot_sender::{self, OnSnapshotEnd, Report, StillLeads};
use crate::membership::Local;
use crate::metrics::{IntCounter, Metrics};
use crate::raft::Message;
use crate::replica::snapshot::Cut;
use crate::supervision::Tasks;
use crate::types::{ClusterId, NodeId, ProposalId};

/// Names kept of nodes that were members once.
const NAMES_MAX: usize = 256;

/// Called when a stream to a peer has ended: messages that [`Peers::send`] accepted for it may be lost. Those forwarded
/// writes that certainly never left are named. Called on a runtime thread, also at shutdown; must not block.
pub type OnLost = Arc<dyn Fn(NodeId, Vec<ProposalId>) + Send + Sync>;

/// What [`Peers`] needs.
pub struct PeersContext {
    /// What watches the tasks that dial.
    pub tasks: Tasks,
    /// This node.
    pub local: Local,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Where members are.
    pub resolver: Resolver,
    /// Told when messages may be lost.
    pub on_lost: OnLost,
    /// Told when a snapshot is sent, or will not be.
    pub on_snapshot_end: OnSnapshotEnd,
    /// Asked while a snapshot is being sent.
    pub still_leads: StillLeads,
    /// Learns what peers say of themselves.
    pub directory: PeerDirectory,
    /// Counts.
    pub metrics: Metrics,
    /// Limits and timing.
    pub settings: Settings,
}

/// The outgoing streams: one to each member, and one to each node that is in contact although this node's
/// configuration does not (yet) name it, so that it can be answered. Clones share them; the last one gone ends them.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    context: Arc<PeersContext>,
    runtime: tokio::runtime::Handle,
    links: RwLock<BTreeMap<NodeId, Link>>,
    /// Of every configuration that was in force since the start: one that was not committed may have been replaced.
    names: RwLock<BTreeMap<NodeId, String>>,
}

/// Peers that have metrics of their own; far more than a cluster has members. Further ones are counted as one, so that
/// nobody can fill the metrics by making contact under ever new names.
const LABELS_MAX: usize = 32;
/// The label of those.
const OTHERS: &str = "others";

struct Link {
    name: String,
    /// In metrics.
    label: String,
    outbox: Arc<Outbox>,
    seen: Arc<Notify>,
    task: AbortHandle,
    /// A snapshot on its way, or the last one that was.
    snapshot: Option<AbortHandle>,
    member: bool,
    /// Each incoming stream from this node holds a receiver, and ends when the link is dropped.
    contacts: watch::Sender<()>,
}

impl Peers {
    /// No peers yet. The streams live on `runtime`.
    #[must_use]
    pub fn new(context: PeersContext, runtime: tokio::runtime::Handle) -> Self {
        Self(Arc::new(Inner {
            context: Arc::new(context),
            runtime,
            links: RwLock::default(),
            names: RwLock::default(),
        }))
    }

    /// Queues a message. Callable from any thread; never blocks on the network.
    ///
    /// # Errors
    /// The message was dropped: the caller raises `Event::SendDropped`.
    pub fn send(&self, to: NodeId, message: Message) -> Result<(), Dropped> {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        links.get(&to).ok_or(Dropped::UnknownPeer)?.outbox.push(message)
    }

    /// Sends a snapshot, in place of one that is on its way to the same peer. How it ends is told to
    /// [`PeersContext::on_snapshot_end`], once. Callable from any thread but the core's; never blocks on the network.
    pub fn send_snapshot(&self, cut: Cut) {
        let context = &self.0.context;
        let report = Report::new(&cut, Arc::clone(&context.on_snapshot_end));
        let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = links.get_mut(&cut.to) else {
            // The report says so, and must not be made while the lock is held.
            drop(links);
            return drop(report);
        };
        let sending = snapshot_sender::send(Arc::clone(context), link.name.clone(), cut, report);
        let task = self.0.runtime.spawn(sending).abort_handle();
        if let Some(before) = link.snapshot.replace(task) {
            before.abort();
        }
    }

    /// Makes `members` (this node among them or not) the ones to stay connected to, by the names their addresses
    /// are looked up by. Those that are no longer members, but in contact, are answered for a moment more: they may not
    /// know yet. Then the streams to and from them end; one that still counts this node as a member will make contact
    /// again. Callable from any thread.
    pub fn set_peers(&self, members: &BTreeMap<NodeId, String>) {
        {
            let mut names = self.0.names.write().unwrap_or_else(PoisonError::into_inner);
            if names.len() > NAMES_MAX {
                names.clear();
            }
            names.extend(members.iter().map(|(id, name)| (*id, name.clone())));
        }
        let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone = Vec::new();
        links.retain(|id, link| {
            let keep = match members.get(id) {
                Some(name) => *name == link.name,
                None => !link.contacts.is_closed(),
            };
            if link.member && keep && !members.contains_key(id) {
                link.member = false;
                self.end_later(*id);
            }
            if !keep {
                link.end();
                gone.push(link.label.clone());
            }
            keep
        });
        for (id, name) in members.iter().filter(|(id, _)| **id != self.0.context.local.node_id) {
            let label = label(&links, name);
            links.entry(*id).or_insert_with(|| self.0.link(*id, name, label)).member = true;
        }
        for name in &gone {
            self.0.forget(&links, name);
        }
    }

    /// Ends the streams of a previous member, unless it is one again by then.
    fn end_later(&self, id: NodeId) {
        let (inner, pause) = (Arc::downgrade(&self.0), self.0.context.settings.farewell);
        self.0.runtime.spawn(async move {
            tokio::time::sleep(pause).await;
            let Some(inner) = inner.upgrade() else { return };
            let mut links = inner.links.write().unwrap_or_else(PoisonError::into_inner);
            if links.get(&id).is_some_and(|link| !link.member)
                && let Some(link) = links.remove(&id)
            {
                link.task.abort();
                inner.forget(&links, &link.label);
            }
        });
    }

    /// Whether the latest [`Peers::set_peers`] named `id`.
    #[must_use]
    pub fn is_member(&self, id: NodeId) -> bool {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        links.get(&id).is_some_and(|link| link.member)
    }

    /// The name of `id` in a configuration that was in force since the start.
    pub(super) fn configured_name(&self, id: NodeId) -> Option<String> {
        self.0.names.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The name of every member.
    pub(super) fn member_names(&self) -> Vec<String> {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        links.values().filter(|link| link.member).map(|link| link.name.clone()).collect()
    }

    /// The name that the address of `id` is looked up by.
    pub(super) fn name(&self, id: NodeId) -> Option<String> {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        links.get(&id).map(|link| link.name.clone())
    }

    pub(super) fn context(&self) -> &PeersContext {
        &self.0.context
    }

    /// A stream from `id`, which calls itself `name`, has been accepted. It is connected to until the returned
    /// guard is dropped, also if it is no member.
    pub(super) fn contact(&self, id: NodeId, name: &str) -> Contact {
        let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
        let label = label(&links, name);
        let link = links.entry(id).or_insert_with(|| self.0.link(id, name, label));
        link.seen.notify_one();
        let link_gone = Some(link.contacts.subscribe());
        let drops = self.0.context.metrics.raft_peer_receive_drops_total.with_label_values(&[&link.label]);
        let metrics = &self.0.context.metrics;
        let refusals = metrics.raft_messages_refused_total.with_label_values(&[&link.label]);
        Contact { peers: self.clone(), id, drops, refusals, link_gone }
    }
}

impl Inner {
    fn link(&self, id: NodeId, name: &str, label: String) -> Link {
        let PeersContext { settings, metrics, .. } = &*self.context;
        let failures = metrics.raft_peer_send_failures_total.with_label_values(&[&label]);
        let length = metrics.queue_length.with_label_values(&[format!("peer {label}").as_str()]);
        let outbox = Arc::new(Outbox::new(settings.queue_messages, settings.queue_bytes, failures, length));
        let seen = Arc::new(Notify::new());
        let target = Target {
            context: Arc::clone(&self.context),
            id,
            name: name.to_owned(),
            outbox: Arc::clone(&outbox),
            seen: Arc::clone(&seen),
        };
        let dialling = self.context.tasks.watched("stream to a peer", dial::keep_connected(target));
        let task = self.runtime.spawn(dialling).abort_handle();
        let contacts = watch::Sender::new(());
        Link { name: name.to_owned(), label, outbox, seen, task, snapshot: None, member: false, contacts }
    }

    /// Shows nothing any more of a peer that is gone, unless another one has its label: labels would only become more.
    fn forget(&self, links: &BTreeMap<NodeId, Link>, name: &str) {
        if name == OTHERS || links.values().any(|link| link.label == name) {
            return;
        }
        let metrics = &self.context.metrics;
        // Each fails only if there is no such series.
        let _ = metrics.raft_peer_send_failures_total.remove_label_values(&[name]);
        let _ = metrics.raft_peer_receive_drops_total.remove_label_values(&[name]);
        let _ = metrics.raft_messages_refused_total.remove_label_values(&[name]);
        let _ = metrics.queue_length.remove_label_values(&[format!("peer {name}").as_str()]);
    }
}

/// What metrics call a peer that is connected to from now on.
fn label(links: &BTreeMap<NodeId, Link>, name: &str) -> String {
    if links.len() < LABELS_MAX { name.to_owned() } else { OTHERS.to_owned() }
}

impl Link {
    /// Ends what runs for the peer.
    fn end(&self) {
        self.task.abort();
        if let Some(snapshot) = &self.snapshot {
            snapshot.abort();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for link in self.links.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            link.end();
        }
    }
}

/// An incoming stream.
pub(super) struct Contact {
    peers: Peers,
    id: NodeId,
    drops: IntCounter,
    refusals: IntCounter,
    /// Taken only when dropped.
    link_gone: Option<watch::Receiver<()>>,
}

impl Contact {
    /// Counts a message that there was no room for.
    pub(super) fn count_drop(&self) {
        self.drops.inc();
    }

    /// Counts a stream that a malformed message ended.
    pub(super) fn count_refused(&self) {
        self.refusals.inc();
    }

    /// Completes when this node has no more to do with the peer.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let link_gone = self.link_gone.clone();
        async move {
            if let Some(mut link_gone) = link_gone {
                // Nothing is ever sent: this fails once the link is dropped.
                while link_gone.changed().await.is_ok() {}
            }
        }
    }
}

impl Drop for Contact {
    fn drop(&mut self) {
        drop(self.link_gone.take());
        let mut links = self.peers.0.links.write().unwrap_or_else(PoisonError::into_inner);
        let idle = |link: &Link| !link.member && link.contacts.is_closed();
        if links.get(&self.id).is_some_and(idle)
            && let Some(link) = links.remove(&self.id)
        {
            link.end();
            self.peers.0.forget(&links, &link.label);
        }
    }
}
