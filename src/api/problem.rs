//! Errors as clients see them: `application/problem+json` (RFC 9457) with a stable `code`.

use std::borrow::Cow;
use std::fmt;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};

use super::replica::{Outcome, Refusal, RefusalReason};
use crate::membership::{AdminError, AdminReason};

/// Seconds after which a client may try again, sent with 429 and 503.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// Why a request was refused; what the server sends and the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable name of the problem, for programs.
    pub code: Cow<'static, str>,
    /// What is wrong, for people.
    pub detail: Cow<'static, str>,
    /// With 503 and 504: whether a write may still take effect.
    pub outcome: Option<Outcome>,
    /// Of a refused change of members or leader: why, as a stable name for programs.
    pub reason: Option<Cow<'static, str>>,
}

/// The JSON object on the wire.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    title: Cow<'a, str>,
    status: u16,
    detail: Cow<'a, str>,
    code: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<WireOutcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireOutcome {
    NotApplied,
    Unknown,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status: status.as_u16(),
            code: code.into(),
            detail: detail.into(),
            outcome: None,
            reason: None,
        }
    }

    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    pub(super) fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        let detail = "this path does not take this method; `Allow` lists those that it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// The request was meant for another host (RFC 9110, 15.5.20), as a web page's is that reaches this node under a
    /// name of its own.
    pub(super) fn misdirected(host: &str) -> Self {
        let detail = format!(
            "this node does not answer for the host `{host}`: use its address, or add the host to --allowed-hosts"
        );
        Self::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", detail)
    }

    /// A page of another site sent the request.
    pub(super) fn cross_site() -> Self {
        let detail =
            "a browser sent this for a page of another site, or does not say for which: nothing was changed";
        Self::new(StatusCode::FORBIDDEN, "cross_site", detail)
    }

    /// The `Authorization` is not an administrator's.
    pub(super) fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "the bearer token is not an administrator's")
    }

    /// Only administrators may do this.
    pub(super) fn not_an_administrator() -> Self {
        let detail = "administration is for requests from this node's own machine (on Kubernetes: --kube, kubectl \
            exec, kubectl port-forward) and for administrators with a client certificate or the members' secret (--peer-secret-file); \
            --admin-access network on the nodes opens it to all clients";
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// The client expects something that this node does not do (RFC 9110, 10.1.1).
    pub(super) fn expectation_failed() -> Self {
        let detail = "`Expect` asks for more than `100-continue`, which is all that is supported";
        Self::new(StatusCode::EXPECTATION_FAILED, "expectation_failed", detail)
    }

    /// The body is encoded in a way that this node does not undo.
    pub(super) fn unsupported_encoding() -> Self {
        let detail = "the body has a `Content-Encoding`; it is stored as it comes, so send it as it is";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    pub(super) fn unsupported_media_type() -> Self {
        let detail = "the body is JSON, so `Content-Type` must be `application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    pub(super) fn key_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "key_not_found", "there is no such key")
    }

    pub(super) fn precondition_failed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
    }

    pub(super) fn idempotency_conflict() -> Self {
        let detail = "the idempotency key was used for another request; nothing was done";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_conflict", detail)
    }

    pub(super) fn too_large(what: &str, bytes_max: usize) -> Self {
        let detail = format!("the {what} is longer than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    pub(super) fn overloaded(detail: &'static str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail)
    }

    pub(super) fn internal(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// The deadline passed before the request was handed to the replica.
    pub(super) fn timeout_before_proposal(detail: &'static str) -> Self {
        let outcome = Some(Outcome::NotApplied);
        Self { outcome, ..Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail) }
    }

    /// This node serves no keys yet.
    pub(super) fn not_serving(why: String) -> Self {
        let outcome = Some(Outcome::NotApplied);
        Self { outcome, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", why) }
    }

    /// A read that could not be confirmed; a read never applies anything.
    pub(super) fn read_refused(refusal: Refusal) -> Self {
        Self::from(Refusal { outcome: Outcome::NotApplied, ..refusal })
    }

    /// What a client reads from an answer's body.
    ///
    /// # Errors
    /// The body is no problem document.
    pub(super) fn parse(status: StatusCode, body: &[u8]) -> Result<Self, serde_json::Error> {
        let wire: Wire<'_> = serde_json::from_slice(body)?;
        Ok(Self {
            status: status.as_u16(),
            code: wire.code.into_owned().into(),
            detail: wire.detail.into_owned().into(),
            outcome: wire.outcome.map(|outcome| match outcome {
                WireOutcome::NotApplied => Outcome::NotApplied,
                WireOutcome::Unknown => Outcome::Unknown,
            }),
            reason: wire.reason.map(|reason| reason.into_owned().into()),
        })
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, code, detail) = match refusal.reason {
            RefusalReason::NoLeader => {
                (StatusCode::SERVICE_UNAVAILABLE, "no_leader", "no leader is known at this node")
            }
            RefusalReason::NotHeard => {
                (StatusCode::SERVICE_UNAVAILABLE, "no_leader", "the leader does not hear this node")
            }
            RefusalReason::NoQuorum => {
                (StatusCode::SERVICE_UNAVAILABLE, "no_quorum", "no majority of the voters answers the leader")
            }
            RefusalReason::LeadershipLost => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no_leader",
                "leadership moved before the request was completed",
            ),
            RefusalReason::Overloaded => {
                let detail = "too many requests wait already";
                return Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail);
            }
            RefusalReason::SpaceLow => {
                (StatusCode::SERVICE_UNAVAILABLE, "no_space", "the leader's disk is nearly full: no writes")
            }
            RefusalReason::ClusterVersion => (
                StatusCode::SERVICE_UNAVAILABLE,
                "cluster_version",
                "a member runs a version that does not know this command: upgrade all members first",
            ),
            RefusalReason::Timeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                "the deadline passed before the request was completed",
            ),
        };
        Self { outcome: Some(refusal.outcome), ..Self::new(status, code, detail) }
    }
}

impl From<AdminError> for Problem {
    fn from(AdminError { reason, detail }: AdminError) -> Self {
        let (status, code) = match reason {
            AdminReason::NoLeader
            | AdminReason::NotReady
            | AdminReason::LeadershipLost
            | AdminReason::Unknown => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            AdminReason::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            AdminReason::Unexpected => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            AdminReason::NotAMember => (StatusCode::NOT_FOUND, "member_not_found"),
            AdminReason::Invalid => (StatusCode::BAD_REQUEST, "bad_request"),
            AdminReason::InProgress
            | AdminReason::Already
            | AdminReason::Removed
            | AdminReason::NotAdmitted
            | AdminReason::NameTaken
            | AdminReason::NameInUse
            | AdminReason::NameHeld
            | AdminReason::NeedsRecovery
            | AdminReason::NoVoters
            | AdminReason::NoQuorum
            | AdminReason::NotCaughtUp
            | AdminReason::TooMany
            | AdminReason::NoTarget
            | AdminReason::FeatureLevel => (StatusCode::CONFLICT, "conflict"),
        };
        let outcome = if reason.may_be_done() { Outcome::Unknown } else { Outcome::NotApplied };
        let outcome = status.is_server_error().then_some(outcome);
        Self { outcome, reason: Some(reason.code().into()), ..Self::new(status, code, detail) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.detail)?;
        match self.outcome {
            Some(Outcome::NotApplied) => write!(f, " (not applied)"),
            Some(Outcome::Unknown) => write!(f, " (it may have been applied)"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let wire = Wire {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: self.status,
            detail: self.detail,
            code: self.code,
            outcome: self.outcome.map(|outcome| match outcome {
                Outcome::NotApplied => WireOutcome::NotApplied,
                Outcome::Unknown => WireOutcome::Unknown,
            }),
            reason: self.reason,
        };
        let body = serde_json::to_vec(&wire).expect("a problem has only string keys");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_S);
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
