//! Changes of members, transfers of leadership and joining, between nodes: asked of any member, which passes them on
//! to the leader once.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::dial::{self, DialError, Resolver};
use super::incoming::Connection;
use super::peers::Peers;
use super::proto::{self, admin_response};
use super::service::PeerService;
use super::settings::Settings;
use crate::membership::{
    AdminError, AdminReason, AdminRequest, JoinOrigin, Local, RemovedBy, check_new_member,
};
use crate::raft::{Change, NewMember};
use crate::types::{ClusterId, FeatureLevel, LogIndex, NodeId};

/// Nodes named in one request: more is refused.
const NODES_MAX: usize = 64;
/// How long a request may take at most at the node that is asked.
const TIMEOUT_MAX: Duration = Duration::from_mins(1);
/// What the network may add.
const GRACE: Duration = Duration::from_millis(500);
/// A pod's uid is shorter.
const POD_UID_BYTES_MAX: usize = 128;
/// How long a joining node lets the cluster try.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The index of the entry that did what was asked, or why it was not done.
pub type AdminOutcome = Result<LogIndex, AdminError>;

/// An outcome under way.
pub type AdminFuture = Pin<Box<dyn Future<Output = AdminOutcome> + Send>>;

/// Does what administrators and joining nodes ask for; behind it is a running replica.
pub trait Administrator: Send + Sync + 'static {
    /// As the leader; refused if this node does not lead. `again`: an earlier attempt may have done it.
    fn at_leader(&self, request: AdminRequest, again: bool, timeout: Duration) -> AdminFuture;

    /// Wherever the leader is, until `timeout`.
    fn anywhere(&self, request: AdminRequest, timeout: Duration) -> AdminFuture;

    /// The committed removal of `id` from the cluster.
    fn removed_by(&self, id: NodeId) -> Option<RemovedBy>;

    /// The feature level of the cluster.
    fn feature_level(&self) -> FeatureLevel {
        FeatureLevel::default()
    }
}

impl PeerService {
    /// Refuses a node whose program would not understand the cluster's log. Only the node that it asked knows its level.
    pub(super) fn check_level(&self, call: Option<&proto::AdminCall>, understood: u64) -> AdminOutcome {
        let needed = self.administrator().map(|administrator| administrator.feature_level());
        match needed.filter(|needed| needed.0 > understood && call.is_some_and(|call| !call.forwarded)) {
            Some(needed) => {
                let why = format!(
                    "its program understands feature level {understood}, and the cluster has feature level {needed}: \
                     use a version that is at least as new as the members'"
                );
                Err(AdminError::new(AdminReason::FeatureLevel, why))
            }
            None => Ok(LogIndex(0)),
        }
    }

    /// Takes a request, done here or, unless it was passed on already, at the leader.
    pub(super) async fn on_admin_call(
        &self,
        call: Option<proto::AdminCall>,
        request: Result<AdminRequest, Status>,
        connection: &Connection,
    ) -> Result<proto::AdminResponse, Status> {
        let call = call.ok_or_else(|| Status::invalid_argument("a request without its head"))?;
        let route = call.route.ok_or_else(|| Status::invalid_argument("a request without a route"))?;
        let request = request?;
        let own = self.local().node_id;
        if route.to != 0 && route.to != own.0 {
            return Err(Status::failed_precondition(format!("this is node {own}, not {:016x}", route.to)));
        }
        if self.standing().await.cluster_id().is_none_or(|id| id.0 != route.cluster_id) {
            let why = format!("this node is not of cluster {:016x}", route.cluster_id);
            return Err(Status::failed_precondition(why));
        }
        self.check_asker(&request, NodeId(route.from), call.forwarded, connection).await?;
        let timeout = Duration::from_millis(call.timeout_ms.into()).min(TIMEOUT_MAX);
        let outcome = match self.administrator() {
            None => Err(AdminError::new(AdminReason::NotReady, "the node that was asked is starting")),
            Some(administrator) if call.forwarded => {
                administrator.at_leader(request, call.again, timeout).await
            }
            Some(administrator) => administrator.anywhere(request, timeout).await,
        };
        Ok(outcome_to_wire(outcome))
    }
}

impl PeerService {
    /// A node may ask for itself to join; all else comes from members, each under its certificate if there is TLS.
    async fn check_asker(
        &self,
        request: &AdminRequest,
        from: NodeId,
        is_forwarded: bool,
        connection: &Connection,
    ) -> Result<(), Status> {
        if let (AdminRequest::Join { new, .. }, false) = (request, is_forwarded) {
            if new.id != from {
                return Err(Status::permission_denied("a node asks only for itself to join"));
            }
            return self.is_certified(connection, &new.name).map(drop);
        }
        let standing = self.standing().await;
        match self.known_name(from, &standing) {
            Some(name) if self.is_member(from) => {
                self.is_certified(connection, &name)?;
                connection.prove();
                Ok(())
            }
            _ => Err(Status::permission_denied("only members pass on requests of administrators")),
        }
    }
}

pub(super) fn outcome_to_wire(outcome: AdminOutcome) -> proto::AdminResponse {
    let outcome = match outcome {
        Ok(index) => admin_response::Outcome::Index(index.0),
        Err(AdminError { reason, detail }) => {
            admin_response::Outcome::Refused(proto::AdminRefusal { reason: reason.code().into(), detail })
        }
    };
    proto::AdminResponse { outcome: Some(outcome) }
}

fn outcome_from_wire(response: proto::AdminResponse) -> AdminOutcome {
    match response.outcome {
        Some(admin_response::Outcome::Index(index)) => Ok(LogIndex(index)),
        Some(admin_response::Outcome::Refused(proto::AdminRefusal { reason, detail })) => {
            // A later version's reason: what it means for this one is not known, so it may have been done.
            let reason = AdminReason::from_code(&reason).unwrap_or(AdminReason::Unknown);
            Err(AdminError { reason, detail })
        }
        None => Err(AdminError::new(AdminReason::LeadershipLost, "the answer has no outcome")),
    }
}

fn member_to_wire(new: NewMember) -> proto::NewMember {
    let NewMember { id, name, peer_addr, stays_learner } = new;
    proto::NewMember { node_id: id.0, name, peer_addr, stays_learner }
}

/// A request to join that came from the address `remote`. Only a member that passes it on reports another one.
pub(super) fn join_from_wire(
    request: proto::JoinRequest,
    remote: Option<IpAddr>,
) -> Result<AdminRequest, Status> {
    let proto::JoinRequest { call, node, pod_uid, asked_from, .. } = request;
    let node = node.ok_or_else(|| Status::invalid_argument("a request to join without a node"))?;
    let is_forwarded = call.is_some_and(|call| call.forwarded);
    let asked_from = if is_forwarded { asked_from.parse().ok() } else { remote };
    if pod_uid.len() > POD_UID_BYTES_MAX {
        return Err(Status::invalid_argument("a pod's uid that is none"));
    }
    let origin = JoinOrigin { pod_uid: (!pod_uid.is_empty()).then_some(pod_uid), asked_from };
    Ok(AdminRequest::Join { new: member_from_wire(node)?, origin })
}

fn member_from_wire(wire: proto::NewMember) -> Result<NewMember, Status> {
    let proto::NewMember { node_id, name, peer_addr, stays_learner } = wire;
    let new = NewMember { id: NodeId(node_id), name, peer_addr, stays_learner };
    check_new_member(&new).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(new)
}

pub(super) fn change_from_wire(wire: proto::ChangeRequest) -> Result<AdminRequest, Status> {
    let proto::ChangeRequest { call: _, add, promote, demote, remove, expected } = wire;
    if [add.len(), promote.len(), demote.len(), remove.len()].iter().any(|count| *count > NODES_MAX) {
        return Err(Status::invalid_argument("a change of too many members at once"));
    }
    let ids = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    let change = Change {
        add: add.into_iter().map(member_from_wire).collect::<Result<_, _>>()?,
        promote: ids(promote),
        demote: ids(demote),
        remove: ids(remove),
        // Only a leader raises it, and by itself.
        feature_level: None,
    };
    Ok(AdminRequest::Change { change, expected: expected.map(LogIndex) })
}

pub(super) fn transfer_from_wire(to: u64) -> AdminRequest {
    AdminRequest::Transfer { to: (to != 0).then_some(NodeId(to)) }
}

/// Whom to ask, and how.
struct Asked<'a> {
    name: &'a str,
    call: proto::AdminCall,
    timeout: Duration,
    resolver: &'a Resolver,
    settings: &'a Settings,
}

impl Asked<'_> {
    async fn send(self, request: AdminRequest) -> AdminOutcome {
        let connected = dial::connect(self.name, self.resolver, 0, self.settings).await;
        let (mut client, address) = connected.map_err(|error| not_sent(&error))?;
        let call = Some(self.call);
        let answered = tokio::time::timeout(self.timeout + GRACE, async {
            match request {
                AdminRequest::Join { new, origin: JoinOrigin { pod_uid, asked_from } } => {
                    let node = Some(member_to_wire(new));
                    let pod_uid = pod_uid.unwrap_or_default();
                    let asked_from = asked_from.map_or_else(String::new, |ip| ip.to_string());
                    let feature_level = self.settings.feature_level.0;
                    client.join(proto::JoinRequest { call, node, pod_uid, asked_from, feature_level }).await
                }
                AdminRequest::Change { change, expected } => {
                    let ids = |ids: Vec<NodeId>| ids.into_iter().map(|id| id.0).collect();
                    let Change { add, promote, demote, remove, feature_level: _ } = change;
                    let add = add.into_iter().map(member_to_wire).collect();
                    let (promote, demote, remove) = (ids(promote), ids(demote), ids(remove));
                    let expected = expected.map(|index| index.0);
                    let change = proto::ChangeRequest { call, add, promote, demote, remove, expected };
                    client.change(change).await
                }
                AdminRequest::Transfer { to } => {
                    let to = to.map_or(0, |id| id.0);
                    client.transfer(proto::TransferRequest { call, to }).await
                }
            }
        });
        match answered.await {
            Ok(Ok(response)) => outcome_from_wire(response.into_inner()),
            Ok(Err(status)) => Err(failed(&address, status)),
            Err(_elapsed) => {
                Err(AdminError::new(AdminReason::Timeout, format!("{address} does not answer in time")))
            }
        }
    }
}

fn not_sent(error: &DialError) -> AdminError {
    AdminError::new(AdminReason::NoLeader, format!("the node to ask cannot be reached: {error}"))
}

fn failed(address: &str, status: Status) -> AdminError {
    let reason = match status.code() {
        tonic::Code::FailedPrecondition
        | tonic::Code::PermissionDenied
        | tonic::Code::InvalidArgument
        | tonic::Code::Unimplemented => AdminReason::NoLeader,
        _ => AdminReason::LeadershipLost,
    };
    AdminError::new(reason, format!("{address} refused: {}", DialError::from(status)))
}

fn millis(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)
}

impl Peers {
    /// Passes a request on to `leader`, which must not pass it on. `again`: an earlier attempt may have done it.
    ///
    /// # Errors
    /// Its refusal, or what kept the request or the answer from arriving.
    pub async fn ask_leader(
        &self,
        leader: NodeId,
        request: AdminRequest,
        again: bool,
        timeout: Duration,
    ) -> AdminOutcome {
        let Some(name) = self.name(leader) else {
            let why = format!("the leader, node {leader}, is not known here yet");
            return Err(AdminError::new(AdminReason::NoLeader, why));
        };
        let context = self.context();
        let route =
            proto::Route { cluster_id: context.cluster_id.0, from: context.local.node_id.0, to: leader.0 };
        let call =
            proto::AdminCall { route: Some(route), forwarded: true, again, timeout_ms: millis(timeout) };
        let (resolver, settings) = (&context.resolver, &context.settings);
        Asked { name: &name, call, timeout, resolver, settings }.send(request).await
    }
}

/// A node that asks to be added to a cluster.
pub(super) struct Joining<'a> {
    pub(super) local: &'a Local,
    pub(super) cluster_id: ClusterId,
    /// In Kubernetes.
    pub(super) pod_uid: Option<String>,
    pub(super) resolver: &'a Resolver,
    pub(super) settings: &'a Settings,
}

impl Joining<'_> {
    /// Asks one of `peers` after the other to add this node; returns what to wait for then.
    pub(super) async fn ask(&self, peers: &[String]) -> Result<String, AdminError> {
        let cluster_id = self.cluster_id;
        let mut refused = AdminError::new(AdminReason::NoLeader, "no member is known");
        for peer in peers {
            match self.ask_one(peer).await {
                Ok(index) => {
                    tracing::info!(%cluster_id, index = index.0, "added to the cluster");
                    return Ok(format!("cluster {cluster_id} has added this node; waiting for its leader"));
                }
                // Another member may know more.
                Err(error) if error.reason.is_retryable() => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }

    async fn ask_one(&self, name: &str) -> AdminOutcome {
        let Self { local, cluster_id, pod_uid, resolver, settings } = self;
        let route = proto::Route { cluster_id: cluster_id.0, from: local.node_id.0, to: 0 };
        let call = proto::AdminCall {
            route: Some(route),
            forwarded: false,
            again: false,
            timeout_ms: millis(JOIN_TIMEOUT),
        };
        let new = NewMember {
            id: local.node_id,
            name: local.name.clone(),
            peer_addr: local.peer_addr.clone(),
            stays_learner: false,
        };
        let origin = JoinOrigin { pod_uid: pod_uid.clone(), asked_from: None };
        let asked = Asked { name, call, timeout: JOIN_TIMEOUT, resolver, settings };
        asked.send(AdminRequest::Join { new, origin }).await
    }
}

/// Shared by all requests.
pub(super) type SharedAdministrator = Arc<dyn Administrator>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_http_would_refuse_is_refused_here_too() {
        let new = |node_id: u64, name: &str, peer_addr: Option<&str>| {
            let peer_addr = peer_addr.map(str::to_owned);
            proto::NewMember { node_id, name: name.into(), peer_addr, stays_learner: false }
        };
        let joins = |new: proto::NewMember| {
            let change = proto::ChangeRequest { add: vec![new.clone()], ..proto::ChangeRequest::default() };
            let join = proto::JoinRequest { node: Some(new), ..proto::JoinRequest::default() };
            let outcomes = [join_from_wire(join, None), change_from_wire(change)];
            let taken: Vec<_> =
                outcomes.into_iter().map(|outcome| outcome.map_err(|status| status.code())).collect();
            assert_eq!(taken[0].as_ref().err(), taken[1].as_ref().err());
            taken[0].as_ref().map(drop).map_err(|code| *code)
        };
        assert_eq!(joins(new(1, "n-1", None)), Ok(()));
        assert_eq!(joins(new(1, "n-1", Some("[::1]:7000"))), Ok(()));
        let refused = Err(tonic::Code::InvalidArgument);
        assert_eq!(joins(new(0, "n-1", None)), refused);
        assert_eq!(joins(new(1, "a b/\n\"x", None)), refused);
        assert_eq!(joins(new(1, "n-1", Some("no where!:1"))), refused);
    }
}
