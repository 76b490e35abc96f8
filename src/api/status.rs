//! What this node knows of itself and of its cluster.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::query::Parameters;
use super::state::Peer;
use super::{Api, Problem, Replica};
use crate::driver::{Member, Status};
use crate::types::{ClusterId, FeatureLevel, LogIndex, NodeId, Revision, Term};

/// The body of `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The cluster; null before there is one.
    pub cluster_id: Option<ClusterId>,
    /// This node; null before its data directory is open.
    pub node_id: Option<NodeId>,
    /// This node's name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The highest feature level that this node's program understands.
    #[serde(default)]
    pub feature_level: FeatureLevel,
    /// The feature level of the cluster: what all its members understand.
    #[serde(default)]
    pub cluster_feature_level: FeatureLevel,
    /// `follower`, `pre_candidate`, `candidate` or `leader`.
    pub role: String,
    /// Term now.
    pub term: Term,
    /// Leader of the term, if known.
    pub leader: Option<LeaderReport>,
    /// Latest index known to be committed.
    pub commit_index: LogIndex,
    /// Latest index applied here.
    pub applied_index: LogIndex,
    /// Last entry of the log.
    pub last_log_index: LogIndex,
    /// Latest index that the durable checkpoint covers.
    pub snapshot_index: LogIndex,
    /// Revision of the store.
    pub revision: Revision,
    /// Digest of the store, 16 hex digits: equal on nodes that applied the same entries.
    pub state_hash: String,
    /// Members whose votes count.
    pub voters: Vec<MemberReport>,
    /// Members that only receive the log.
    pub learners: Vec<MemberReport>,
    /// Whether this node is ready to serve.
    pub healthy: bool,
    /// Why it is not; and at a ready leader in Kubernetes what scaling or a rollout waits for.
    pub reasons: Vec<String>,
}

/// The leader, as a follower knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderReport {
    /// Its identity.
    pub node_id: NodeId,
    /// Its name, if known.
    pub name: Option<String>,
    /// Where clients reach it, `host:port`, if known.
    pub client_addr: Option<String>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its identity.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Where clients reach it, `host:port`, if known.
    pub client_addr: Option<String>,
}

/// `GET /v1/status`.
pub(super) fn status<R: Replica>(api: &Api<R>, request: &Request) -> Result<Response<Body>, Problem> {
    Parameters::parse(request.uri().query(), &[])?;
    Ok(json(&report(api)))
}

/// `GET /readyz`: whether requests should be sent here. Query parameters of probes are not looked at.
pub(super) fn readyz<R: Replica>(api: &Api<R>) -> Response<Body> {
    probe(&reasons(api, api.running().map(Replica::status).as_ref()))
}

/// `GET /livez`: whether every thread of the process turns. A restart helps against what it names.
pub(super) fn livez<R: Replica>(api: &Api<R>) -> Response<Body> {
    probe(&api.troubles())
}

fn probe(reasons: &[String]) -> Response<Body> {
    let mut response = Response::new(Body::from(match reasons {
        [] => "ok\n".to_owned(),
        reasons => reasons.join("\n") + "\n",
    }));
    if !reasons.is_empty() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

fn report<R: Replica>(api: &Api<R>) -> StatusReport {
    let status = api.running().map(Replica::status);
    let reasons = reasons(api, status.as_ref());
    let mut report = StatusReport {
        cluster_id: None,
        node_id: api.node_id(),
        name: api.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        feature_level: api.settings.feature_level,
        cluster_feature_level: FeatureLevel(0),
        role: "follower".into(),
        term: Term(0),
        leader: None,
        commit_index: LogIndex(0),
        applied_index: LogIndex(0),
        last_log_index: LogIndex(0),
        snapshot_index: LogIndex(u64::try_from(api.metrics.raft_snapshot_index.get()).unwrap_or(0)),
        revision: Revision(0),
        state_hash: format!("{:016x}", 0),
        voters: Vec::new(),
        learners: Vec::new(),
        healthy: reasons.is_empty(),
        reasons: reasons.into_iter().chain(api.mentioned()).collect(),
    };
    if let Some(status) = status {
        report.cluster_id = Some(status.cluster_id);
        report.node_id = Some(status.node_id);
        report.role = status.role.as_str().into();
        report.term = status.term;
        report.cluster_feature_level = status.configuration.feature_level;
        report.commit_index = status.commit_index;
        report.applied_index = status.applied_index;
        report.last_log_index = status.last_log_index;
        report.leader = status.leader.map(|leader| leader_report(api, &status, leader));
        report.voters = members(api, &status, &status.configuration.voters);
        report.learners = members(api, &status, &status.configuration.learners);
    }
    if let Some(replica) = api.running() {
        let store = replica.store();
        report.revision = store.revision();
        report.state_hash = format!("{:016x}", store.hash());
    }
    report
}

fn members<R: Replica>(
    api: &Api<R>,
    status: &Status,
    members: &BTreeMap<NodeId, Member>,
) -> Vec<MemberReport> {
    let mut members: Vec<MemberReport> = members
        .iter()
        .map(|(node_id, member)| MemberReport {
            node_id: *node_id,
            name: member.name.clone(),
            client_addr: find(api, status, *node_id).and_then(|peer| peer.client_addr),
        })
        .collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
}

pub(super) fn leader_report<R: Replica>(api: &Api<R>, status: &Status, node_id: NodeId) -> LeaderReport {
    let member = status.configuration.member(node_id);
    let (name, client_addr) =
        find(api, status, node_id).map_or((None, None), |peer| (Some(peer.name), peer.client_addr));
    LeaderReport { node_id, name: member.map(|member| member.name.clone()).or(name), client_addr }
}

/// Another member from the directory, or this node itself.
pub(super) fn find<R: Replica>(api: &Api<R>, status: &Status, node_id: NodeId) -> Option<Peer> {
    if node_id == status.node_id {
        return Some(Peer { name: api.node.name.clone(), client_addr: api.node.client_addr.clone() });
    }
    (api.directory)(node_id)
}

/// Why this node is not ready; empty when it is.
fn reasons<R: Replica>(api: &Api<R>, status: Option<&Status>) -> Vec<String> {
    let mut reasons: Vec<_> = api.waiting().into_iter().collect();
    let Some(status) = status else { return reasons };
    let (astray, lost) = api.trouble();
    reasons.extend(astray);
    if status.leader.is_none() {
        reasons.push("no leader is known".into());
        reasons.extend(api.advice());
        reasons.extend(lost);
    } else if !status.has_quorum {
        reasons.push("no majority of the voters answers".into());
    } else if !status.is_heard {
        reasons
            .push("the leader does not hear this node: what it sends to the leader does not arrive".into());
    }
    let lag = status.commit_index.0.saturating_sub(status.applied_index.0);
    if lag > api.settings.ready_lag_entries_max {
        reasons.push(format!("{lag} committed entries are not applied yet"));
    }
    reasons
}

pub(super) fn json(body: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(body).expect("reports have only string keys");
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
