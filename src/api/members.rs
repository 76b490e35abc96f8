//! Members: who they are, changes of them, and another leader.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::body::{Received, Time, receive};
use super::query::{Parameters, decode_key};
use super::status::{LeaderReport, find, json, leader_report};
use super::{Api, Problem, Replica};
use crate::driver::{Change, Configuration, Member, NewMember, Status};
use crate::membership::{AdminError, AdminReason, AdminRequest, check_new_member};
use crate::types::{LogIndex, NodeId};

/// Longest body of an administrator's request: a few names.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Path before a member.
pub(super) const MEMBERS_PREFIX: &str = "/v1/members/";

/// The body of `GET /v1/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersReport {
    /// Index of the configuration, for `?expected`.
    pub configuration_index: LogIndex,
    /// A change of voters is under way.
    pub joint: bool,
    /// The leader, if known. It alone knows how far the others are.
    pub leader: Option<LeaderReport>,
    /// Members whose votes count, by name.
    pub voters: Vec<MemberDetail>,
    /// Members that only receive the log, by name.
    pub learners: Vec<MemberDetail>,
}

/// A member, as far as the asked node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberDetail {
    /// Its identity.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Where clients reach it, `host:port`, if known.
    pub client_addr: Option<String>,
    /// Where peers reach it, `host:port`, if the configuration says.
    pub peer_addr: Option<String>,
    /// Of a learner: it is not made a voter when it has caught up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stays_learner: bool,
    /// Told by the leader only: its last entry that is durable there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_index: Option<LogIndex>,
    /// Told by the leader only: entries that it lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_entries: Option<u64>,
    /// Told by the leader only: for how long it has not answered, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_ms: Option<u64>,
}

/// The body of `POST /v1/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberToAdd {
    /// Its identity: what the node says while it waits to be added.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Where peers reach it, `host:port`, if they have it in no list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_addr: Option<String>,
    /// It is not to be made a voter when it has caught up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stays_learner: bool,
}

/// The body of `POST /v1/leader/transfer`, which may also be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferTo {
    /// Id or name; none: the voter whose log reaches furthest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What a change or a transfer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The log entry that did it; after a change, that of the configuration now in force.
    pub index: LogIndex,
}

/// `GET /v1/members`.
pub(super) fn list<R: Replica>(api: &Api<R>, request: &Request) -> Result<Response<Body>, Problem> {
    Parameters::parse(request.uri().query(), &[])?;
    Ok(json(&report(api, &api.replica()?.status())))
}

fn report<R: Replica>(api: &Api<R>, status: &Status) -> MembersReport {
    let Configuration { voters, learners, .. } = &*status.configuration;
    let details = |members: &std::collections::BTreeMap<NodeId, Member>| {
        let mut details: Vec<_> =
            members.iter().map(|(id, member)| detail(api, status, *id, member)).collect();
        details.sort_by(|a, b| a.name.cmp(&b.name));
        details
    };
    MembersReport {
        configuration_index: status.configuration_index,
        joint: status.configuration.is_joint(),
        leader: status.leader.map(|leader| leader_report(api, status, leader)),
        voters: details(voters),
        learners: details(learners),
    }
}

fn detail<R: Replica>(api: &Api<R>, status: &Status, id: NodeId, member: &Member) -> MemberDetail {
    let last = status.last_log_index;
    // The leader itself is not among its peers.
    let leads = status.leader == Some(status.node_id) && id == status.node_id;
    let peer = status.peers.iter().find(|peer| peer.id == id).map(|peer| (peer.match_index, peer.silent_for));
    let seen = peer.or_else(|| leads.then_some((last, std::time::Duration::ZERO)));
    MemberDetail {
        node_id: id,
        name: member.name.clone(),
        client_addr: find(api, status, id).and_then(|peer| peer.client_addr),
        peer_addr: member.peer_addr.clone(),
        stays_learner: member.stays_learner,
        match_index: seen.map(|(index, _)| index),
        lag_entries: seen.map(|(index, _)| last.0.saturating_sub(index.0)),
        silent_ms: seen.map(|(_, silent)| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// `POST /v1/members`.
pub(super) async fn add<R: Replica>(
    api: Arc<Api<R>>,
    request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let order = Order::of(&api, &request, started)?;
    let (body, order) = read_json(&api, request, order).await?;
    let MemberToAdd { node_id: id, name, peer_addr, stays_learner } = parse(&body)?;
    let new = NewMember { id, name, peer_addr, stays_learner };
    check_new_member(&new).map_err(|error| Problem::bad_request(error.to_string()))?;
    order.change(&api, Change { add: vec![new], ..Change::default() }).await
}

/// `DELETE /v1/members/{id}`.
pub(super) async fn remove<R: Replica>(
    api: Arc<Api<R>>,
    request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let order = Order::of(&api, &request, started)?;
    let id = member_of_path(&api, &request, "")?;
    order.change(&api, Change { remove: vec![id], ..Change::default() }).await
}

/// `POST /v1/members/{id}/promote`.
pub(super) async fn promote<R: Replica>(
    api: Arc<Api<R>>,
    request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let order = Order::of(&api, &request, started)?;
    let id = member_of_path(&api, &request, "/promote")?;
    order.change(&api, Change { promote: vec![id], ..Change::default() }).await
}

/// `POST /v1/members/{id}/demote`.
pub(super) async fn demote<R: Replica>(
    api: Arc<Api<R>>,
    request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let order = Order::of(&api, &request, started)?;
    let id = member_of_path(&api, &request, "/demote")?;
    order.change(&api, Change { demote: vec![id], ..Change::default() }).await
}

/// `POST /v1/leader/transfer`.
pub(super) async fn transfer<R: Replica>(
    api: Arc<Api<R>>,
    request: Request,
    started: Instant,
) -> Result<Response<Body>, Problem> {
    let order = Order::parse(&api, &request, &["timeout"], started)?;
    let (body, order) = read_json(&api, request, order).await?;
    let TransferTo { to } = if body.is_empty() { TransferTo::default() } else { parse(&body)? };
    let to = to.map(|text| find_member(&api.replica()?.status().configuration, &text)).transpose()?;
    order.carry_out(&api, AdminRequest::Transfer { to }).await
}

/// What all requests of administrators have in common.
struct Order {
    expected: Option<LogIndex>,
    time: Time,
    deadline: Instant,
}

impl Order {
    fn of<R: Replica>(api: &Api<R>, request: &Request, started: Instant) -> Result<Self, Problem> {
        Self::parse(api, request, &["timeout", "expected"], started)
    }

    fn parse<R: Replica>(
        api: &Api<R>,
        request: &Request,
        known: &[&str],
        started: Instant,
    ) -> Result<Self, Problem> {
        let parameters = Parameters::parse(request.uri().query(), known)?;
        let time = Time::new(started, parameters.timeout, api.settings.request_timeout);
        Ok(Self { expected: parameters.expected, time, deadline: time.deadline() })
    }

    async fn change<R: Replica>(self, api: &Api<R>, change: Change) -> Result<Response<Body>, Problem> {
        let expected = self.expected;
        self.carry_out(api, AdminRequest::Change { change, expected }).await
    }

    async fn carry_out<R: Replica>(
        self,
        api: &Api<R>,
        request: AdminRequest,
    ) -> Result<Response<Body>, Problem> {
        api.replica()?;
        let administer =
            api.administer().ok_or_else(|| Problem::not_serving("the node is starting".into()))?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        match administer(request, left).await {
            Ok(index) => Ok(json(&Done { index })),
            Err(error) => Err(error.into()),
        }
    }
}

/// The body; one that is not empty must be called JSON, which no form of a web page does.
async fn read_json<R: Replica>(
    api: &Api<R>,
    request: Request,
    order: Order,
) -> Result<(Bytes, Order), Problem> {
    let is_json = is_json(request.headers());
    let received = receive(request.into_body(), BODY_BYTES_MAX, order.time, &api.request_memory).await?;
    let Received { bytes: body, deadline, .. } = received;
    if !body.is_empty() && !is_json {
        return Err(Problem::unsupported_media_type());
    }
    Ok((body, Order { deadline, ..order }))
}

/// Whether the body is called `application/json`, whatever its parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter().map(HeaderValue::to_str);
    let (Some(Ok(kind)), None) = (kinds.next(), kinds.next()) else { return false };
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request(format!("the body is not what is expected: {error}")))
}

/// The member that a path names, with `suffix` behind it.
fn member_of_path<R: Replica>(api: &Api<R>, request: &Request, suffix: &str) -> Result<NodeId, Problem> {
    let path = request.uri().path();
    let text = path.strip_prefix(MEMBERS_PREFIX).and_then(|rest| rest.strip_suffix(suffix));
    let text = decode_key(text.unwrap_or_default())?;
    let text = std::str::from_utf8(&text).map_err(|_| Problem::bad_request("the path is not UTF-8"))?;
    find_member(&api.replica()?.status().configuration, text)
}

/// A member by its name, or by its id in 16 hex digits; an id need not be a member's.
fn find_member(configuration: &Configuration, text: &str) -> Result<NodeId, Problem> {
    let members = configuration.members();
    if let Some((id, _)) = members.iter().find(|(_, member)| member.name == text) {
        return Ok(*id);
    }
    match text.parse::<NodeId>() {
        Ok(id) => Ok(id),
        Err(_) => {
            Err(AdminError::new(AdminReason::NotAMember, format!("no member is called {text:?}")).into())
        }
    }
}
