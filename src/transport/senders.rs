//! Who may speak on the peer port: the certificate is looked at, then the configurations that are known here, and a sender
//! that neither names is asked about at the members' known addresses (see [`membership::on_sender`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::{Status, Streaming};

use super::bootstrap::Surroundings;
use super::dial::{self, DialError, Resolver};
use super::incoming::Connection;
use super::proto;
use super::service::{PeerService, refusal};
use super::settings::Settings;
use crate::membership::{self, Refused, SenderStep, Standing};
use crate::raft::{Message, Signal};
use crate::tls::Proof;
use crate::types::{ClusterId, NodeId};

/// Senders at one time that members are asked about; others are told to come again.
const ASKED_ABOUT_MAX: usize = 8;
/// Names kept of senders that were asked about.
const VOUCHED_MAX: usize = 64;

/// Where a node asks about others. Nothing in it is what a sender says of itself.
pub struct Neighbours {
    /// The members that are expected, and who else has a say.
    pub surroundings: Arc<dyn Surroundings>,
    /// Addresses by name: of the configuration, of the list, of the pods.
    pub resolver: Resolver,
    /// How they are dialled; also says whether connections to this node are under TLS.
    pub settings: Settings,
}

/// Whom this node knows from others than the senders themselves.
pub(super) struct Known {
    neighbours: Neighbours,
    /// Of nodes that no configuration here named, and a member did.
    vouched: Mutex<BTreeMap<NodeId, String>>,
    asked_about: Semaphore,
}

impl From<Neighbours> for Known {
    fn from(neighbours: Neighbours) -> Self {
        Self { neighbours, vouched: Mutex::default(), asked_about: Semaphore::new(ASKED_ABOUT_MAX) }
    }
}

impl Known {
    fn vouched(&self, id: NodeId) -> Option<String> {
        self.vouched.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn remember(&self, id: NodeId, name: &str) {
        let mut vouched = self.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        if vouched.len() >= VOUCHED_MAX {
            vouched.clear();
        }
        vouched.insert(id, name.to_owned());
    }
}

impl PeerService {
    /// Admits a stream from a node that calls itself `name`; makes this node a member if it is none and the sender's
    /// cluster has added it.
    pub(super) async fn admit(
        &self,
        route: Option<proto::Route>,
        name: &str,
        connection: &Connection,
    ) -> Result<proto::Route, Status> {
        let route = self.check_route(route)?;
        let (cluster_id, from, target) = (ClusterId(route.cluster_id), NodeId(route.from), NodeId(route.to));
        let is_certified = self.is_certified(connection, name)?;
        let standing = self.standing().await;
        let contact = membership::on_contact(self.local(), &standing, cluster_id, target);
        let binds = contact.map_err(|refused| refusal(&refused))?.is_some();
        if binds {
            let is_founder = standing.founded_as(from).is_some_and(|known| known == name);
            if !is_founder {
                self.ask_about(cluster_id, from, name).await?;
                self.may_be_bound(cluster_id).await?;
            }
            self.accept_contact(cluster_id, target).await?;
        } else {
            self.admit_to_member(cluster_id, from, name, is_certified).await?;
        }
        connection.prove();
        Ok(route)
    }

    /// As [`PeerService::admit`], of a sender whose stream was admitted, or that a configuration known here names.
    pub(super) async fn admit_known(
        &self,
        route: Option<proto::Route>,
        connection: &Connection,
    ) -> Result<proto::Route, Status> {
        let route = self.check_route(route)?;
        let (cluster_id, from, target) = (ClusterId(route.cluster_id), NodeId(route.from), NodeId(route.to));
        let standing = self.standing().await;
        let contact = membership::on_contact(self.local(), &standing, cluster_id, target);
        let unknown = || Status::unavailable("no stream from this sender was admitted yet");
        if contact.map_err(|refused| refusal(&refused))?.is_some() {
            return Err(unknown());
        }
        let name = self.known_name(from, &standing).ok_or_else(unknown)?;
        self.is_certified(connection, &name)?;
        connection.prove();
        Ok(route)
    }

    /// Before this node lets `from`, which calls itself `name`, make it a member by `Form`.
    pub(super) async fn check_founder(
        &self,
        cluster_id: ClusterId,
        from: NodeId,
        name: &str,
        connection: &Connection,
    ) -> Result<(), Status> {
        self.is_certified(connection, name)?;
        if self.standing().await == Standing::Empty {
            self.ask_about(cluster_id, from, name).await?;
            self.may_be_bound(cluster_id).await?;
        }
        Ok(())
    }

    /// Whether the connection's certificate has the name that the sender claims; false where there is none, or one that
    /// names no member.
    pub(super) fn is_certified(&self, connection: &Connection, name: &str) -> Result<bool, Status> {
        let tls = self.known().and_then(|known| known.neighbours.settings.tls.as_ref());
        let (Some(tls), Some(certificate)) = (tls, &connection.certificate) else { return Ok(false) };
        match tls.proof(certificate, name, &self.member_names()) {
            Proof::Member => Ok(true),
            Proof::Unnamed => Ok(false),
            Proof::Other => {
                let why = format!("the sender calls itself {name}, but its certificate is another member's");
                Err(Status::permission_denied(why))
            }
        }
    }

    /// The name that `id` has in a configuration known here, or by the word of a member.
    pub(super) fn known_name(&self, id: NodeId, standing: &Standing) -> Option<String> {
        let configured = self.peers().and_then(|peers| peers.configured_name(id));
        let founder = || standing.founded_as(id).map(str::to_owned);
        configured.or_else(founder).or_else(|| self.known()?.vouched(id))
    }

    /// Whether the cluster has removed `id` for good. It is still told so.
    pub(super) fn is_removed(&self, id: NodeId) -> bool {
        self.administrator().is_some_and(|known| known.removed_by(id).is_some())
    }

    async fn admit_to_member(
        &self,
        cluster_id: ClusterId,
        from: NodeId,
        name: &str,
        is_certified: bool,
    ) -> Result<(), Status> {
        let standing = self.standing().await;
        let mut known = self.known_name(from, &standing);
        if known.is_none() {
            // The log may name it.
            self.running().await?;
            known = self.known_name(from, &standing);
        }
        if known.is_none() && self.is_removed(from) {
            return Ok(());
        }
        let step = membership::on_sender(from, name, known.as_deref(), is_certified);
        match step.map_err(|refused| refusal(&refused))? {
            SenderStep::Accept => {
                if let (None, Some(here)) = (known, self.known()) {
                    here.remember(from, name);
                }
                Ok(())
            }
            SenderStep::Ask => self.ask_about(cluster_id, from, name).await,
        }
    }

    pub(super) fn check_route(&self, route: Option<proto::Route>) -> Result<proto::Route, Status> {
        let route = route.ok_or_else(|| Status::invalid_argument("a frame without a route"))?;
        if route.cluster_id == 0 || route.from == 0 || route.from == self.local().node_id.0 {
            return Err(Status::invalid_argument("a stream's cluster id and sender must be another node's"));
        }
        Ok(route)
    }

    async fn may_be_bound(&self, cluster_id: ClusterId) -> Result<(), Status> {
        let known = self.known().ok_or_else(starting)?;
        let may = known.neighbours.surroundings.may_be_bound(cluster_id).await;
        may.map_err(Status::failed_precondition)
    }

    /// Asks the expected and the configured members, at their known addresses, whether this is one of the cluster.
    async fn ask_about(&self, cluster_id: ClusterId, id: NodeId, name: &str) -> Result<(), Status> {
        let known = self.known().ok_or_else(starting)?;
        let slot = known.asked_about.try_acquire();
        let _slot = slot.map_err(|_| Status::unavailable("too many unknown nodes at one time"))?;
        let mut names: BTreeSet<String> = self.member_names().into_iter().collect();
        let mut why = String::new();
        match known.neighbours.surroundings.expected().await {
            Ok(expected) => names.extend(expected.members().iter().map(|member| member.name.clone())),
            Err(error) => why = format!("; {error}"),
        }
        names.remove(&self.local().name);
        let list = names.iter().cloned().collect::<Vec<_>>().join(", ");
        let mut questions = JoinSet::new();
        for member in names {
            let question = self.question(known, member, id, name);
            questions.spawn(question);
        }
        while let Some(answer) = questions.join_next().await {
            let Ok(Ok(answer)) = answer else { continue };
            if answer.cluster_id == cluster_id.0 && answer.vouches {
                known.remember(id, name);
                return Ok(());
            }
        }
        let why = match list.as_str() {
            "" => format!("no other member is expected{why}"),
            _ => format!("none of {list} says that it is a member of cluster {cluster_id}{why}"),
        };
        Err(refusal(&Refused::UnknownSender { id, claimed: name.to_owned(), why }))
    }

    /// Asks `member` about a node.
    fn question(
        &self,
        known: &Known,
        member: String,
        id: NodeId,
        name: &str,
    ) -> impl Future<Output = Result<Word, DialError>> + Send + use<> {
        let Neighbours { resolver, settings, .. } = &known.neighbours;
        let (resolver, settings, local) = (resolver.clone(), settings.clone(), self.local().clone());
        let name = name.to_owned();
        async move {
            let (mut client, address) = dial::connect(&member, &resolver, 0, &settings).await?;
            let hello = proto::HelloRequest {
                route: Some(proto::Route { cluster_id: 0, from: local.node_id.0, to: 0 }),
                sender: Some(dial::introduction(&local, settings.feature_level)),
                about: id.0,
                about_name: name.clone(),
                ..proto::HelloRequest::default()
            };
            let answer = dial::ask(&address, &settings, client.hello(hello)).await?;
            let (Some(route), Some(sender)) = (answer.route, answer.sender) else {
                return Err(DialError::Incomplete);
            };
            let is_itself = route.from == id.0 && sender.name == name && member == name;
            Ok(Word { cluster_id: route.cluster_id, vouches: is_itself || answer.knows_about })
        }
    }

    /// What this node says of a node that another one asks about.
    pub(super) fn knows_about(&self, id: NodeId, name: &str, standing: &Standing) -> bool {
        let configured = self.peers().and_then(|peers| peers.configured_name(id));
        let named = configured.or_else(|| standing.founded_as(id).map(str::to_owned));
        id.0 != 0 && named.as_deref() == Some(name) && !self.is_removed(id)
    }

    async fn accept_contact(&self, cluster_id: ClusterId, target: NodeId) -> Result<(), Status> {
        let mut founding = self.founding().lock().await;
        match membership::on_contact(self.local(), &founding.standing, cluster_id, target) {
            Ok(None) => Ok(()),
            Ok(Some(formed)) => self.accept(&mut founding, formed).await,
            Err(refused) => Err(refusal(&refused)),
        }
    }
}

/// The first message of a stream, which must come soon.
pub(super) async fn first_of<T>(messages: &mut Streaming<T>) -> Result<Option<T>, Status> {
    let first = tokio::time::timeout(FIRST_MESSAGE_MAX, messages.message()).await;
    first.map_err(|_| Status::deadline_exceeded("the first message did not come in time"))?
}

/// For how long a stream may be open without a message.
const FIRST_MESSAGE_MAX: Duration = Duration::from_secs(10);

/// Whether a message is one that the core answers, to a node that was removed, by telling it so. Nothing else of it counts.
pub(super) fn is_answered_to_removed(message: &Message) -> bool {
    matches!(
        message,
        Message::Signal(
            Signal::PreVote(_)
                | Signal::RequestVote(_)
                | Signal::Append(_)
                | Signal::Forward { .. }
                | Signal::ReadIndex { .. }
        )
    )
}

/// What a member says.
struct Word {
    cluster_id: u64,
    vouches: bool,
}

fn starting() -> Status {
    Status::unavailable("this node is starting")
}
