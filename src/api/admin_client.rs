//! Requests of administrators, from the client's side.

use std::time::Duration;

use axum::http::{HeaderValue, Method, header};
use bytes::Bytes;

use super::client::{Client, ClientError, ClientRequest, encode, parse_json, request, timeout_parameter};
use super::cluster::{Cluster, Kind};
use super::members::{Done, MEMBERS_PREFIX, MemberToAdd, MembersReport, TransferTo};
use crate::types::LogIndex;

/// What to do with members; a member is named by its name or its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Make this node a learner.
    Add(MemberToAdd),
    /// Make a learner a voter.
    Promote(String),
    /// Make a voter a learner.
    Demote(String),
    /// Remove permanently.
    Remove(String),
}

fn members_request() -> Result<ClientRequest, ClientError> {
    request(Method::GET, "/v1/members".into(), Bytes::new())
}

fn change_request(
    change: &MemberChange,
    expected: Option<LogIndex>,
    timeout: Duration,
) -> Result<ClientRequest, ClientError> {
    let path = |member: &str, suffix: &str| format!("{MEMBERS_PREFIX}{}{suffix}", encode(member.as_bytes()));
    let (method, path, body) = match change {
        MemberChange::Add(new) => (Method::POST, "/v1/members".to_owned(), json(new)),
        MemberChange::Promote(member) => (Method::POST, path(member, "/promote"), Bytes::new()),
        MemberChange::Demote(member) => (Method::POST, path(member, "/demote"), Bytes::new()),
        MemberChange::Remove(member) => (Method::DELETE, path(member, ""), Bytes::new()),
    };
    let expected = expected.map_or_else(String::new, |index| format!("&expected={index}"));
    json_request(method, format!("{path}?timeout={}{expected}", timeout_parameter(Some(timeout))), body)
}

fn transfer_request(to: Option<&str>, timeout: Duration) -> Result<ClientRequest, ClientError> {
    let body = json(&TransferTo { to: to.map(str::to_owned) });
    let timeout = timeout_parameter(Some(timeout));
    json_request(Method::POST, format!("/v1/leader/transfer?timeout={timeout}"), body)
}

/// A request whose body, if there is one, is JSON.
fn json_request(method: Method, target: String, body: Bytes) -> Result<ClientRequest, ClientError> {
    let is_empty = body.is_empty();
    let mut request = request(method, target, body)?;
    if !is_empty {
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(request)
}

fn json(body: &impl serde::Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(body).expect("these bodies have only string keys"))
}

impl Client {
    /// The members, as this node knows them.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn members(&mut self) -> Result<MembersReport, ClientError> {
        parse_json(&self.request(members_request()?).await?)
    }
}

impl Cluster {
    /// The members, as the leader knows them; without a leader, as the first node that answers does.
    ///
    /// # Errors
    /// The last one before the deadline.
    pub async fn members(&mut self) -> Result<MembersReport, ClientError> {
        let report: MembersReport = parse_json(&self.run(Kind::Read, |_| members_request()).await?)?;
        // The leader alone knows how far the others are.
        let leader = report.leader.as_ref().and_then(|leader| leader.client_addr.clone());
        if report.voters.iter().any(|voter| voter.match_index.is_some()) {
            return Ok(report);
        }
        let Some(leader) = leader else { return Ok(report) };
        let asked = async { self.connect_to(&leader).await?.members().await };
        match tokio::time::timeout(self.timeout(), asked).await {
            Ok(Ok(told)) => Ok(told),
            Ok(Err(_)) | Err(_) => Ok(report),
        }
    }

    /// Changes the members. `expected`: only if the configuration in force is that of this entry.
    ///
    /// # Errors
    /// [`ClientError::outcome`] says whether it may have been done.
    pub async fn change_members(
        &mut self,
        change: &MemberChange,
        expected: Option<LogIndex>,
    ) -> Result<Done, ClientError> {
        parse_json(&self.run(Kind::Write, |timeout| change_request(change, expected, timeout)).await?)
    }

    /// Has another member lead: this one, or whichever is furthest.
    ///
    /// # Errors
    /// As [`Cluster::change_members`].
    pub async fn transfer_leadership(&mut self, to: Option<&str>) -> Result<Done, ClientError> {
        parse_json(&self.run(Kind::Write, |timeout| transfer_request(to, timeout)).await?)
    }
}
