//! Administration is for this machine and for administrators.

use super::*;
use crate::api::AdminAccess;

const ADMINISTRATION: [(&str, &str); 6] = [
    ("POST", "/v1/members"),
    ("DELETE", "/v1/members/kuberaft-1"),
    ("POST", "/v1/members/kuberaft-1/promote"),
    ("POST", "/v1/members/kuberaft-1/demote"),
    ("POST", "/v1/leader/transfer"),
    ("GET", "/v1/snapshot"),
];

/// What comes through a proxy comes from elsewhere.
const ELSEWHERE: &str = "X-Forwarded-For: 192.0.2.7";

#[tokio::test]
async fn only_this_machine_administers_by_default() {
    let server = Server::start().await;
    for (method, target) in ADMINISTRATION {
        for header in [ELSEWHERE, "Forwarded: for=192.0.2.7", "Via: 1.1 proxy", "X-Real-IP: 192.0.2.7"] {
            let reply = server.call(method, target, &[header], &[]).await;
            let (code, detail) = reply.problem(403);
            assert_eq!(code, "forbidden", "{method} {target} {header}");
            assert!(detail.contains("--admin-access network") && detail.contains("--kube"), "{detail}");
        }
        let here = server.call(method, target, &[], &[]).await;
        assert!(here.status != 403, "{method} {target}: {}", here.status);
    }
    // Keys and what only tells are for everybody.
    for target in ["/v1/members", "/v1/status", "/get?key=a&consistency=stale"] {
        assert!(server.call("GET", target, &[ELSEWHERE], &[]).await.status != 403, "{target}");
    }
    assert_eq!(server.call("PUT", "/v1/kv/a", &[ELSEWHERE], b"1").await.status, 200);
}

#[tokio::test]
async fn an_administrator_shows_a_token() {
    let server = Server::start().await;
    let with = async |authorization: &str| {
        server.call("GET", "/v1/snapshot", &[ELSEWHERE, authorization], &[]).await
    };
    let early = with("Authorization: Bearer secret").await;
    assert_eq!(early.code(401), "unauthenticated");
    server.api.verify_tokens_by(Arc::new(|token| token == "secret"));
    assert_eq!(with("Authorization: bearer secret").await.status, 200);
    let wrong = with("Authorization: Bearer other").await;
    assert_eq!(
        (wrong.code(401), wrong.header("www-authenticate")),
        ("unauthenticated".into(), Some("Bearer"))
    );
    assert_eq!(with("Authorization: Basic secret").await.code(403), "forbidden");
}

#[tokio::test]
async fn the_network_administers_where_it_is_let() {
    let settings = Settings { admin_access: AdminAccess::Network, ..Settings::default() };
    let server = Server::start_with(settings).await;
    for (method, target) in ADMINISTRATION {
        let reply = server.call(method, target, &[ELSEWHERE], &[]).await;
        assert!(!matches!(reply.status, 401 | 403), "{method} {target}: {}", reply.status);
    }
}
