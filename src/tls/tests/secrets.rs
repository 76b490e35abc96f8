//! Handshakes between members that share a secret, while it is replaced, and with those that have none.

use super::*;

/// Text of a secret, by its last character.
fn text(last: char) -> Vec<u8> {
    format!("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH{last}\n").into_bytes()
}

struct Secretive {
    tls: PeerTls,
    port: Arc<Port>,
    held: HeldSecret,
}

fn member(name: &str, text: &[u8], lifetime: Duration) -> Secretive {
    let (metrics, held) = (Metrics::new(), HeldSecret::new(text.to_vec()));
    let port = Port::peer_by_secret(held.clone(), name.into(), lifetime, &metrics).unwrap();
    let port = Arc::new(port);
    Secretive { tls: PeerTls::new(Arc::clone(&port), None, &metrics), port, held }
}

const DAY: Duration = Duration::from_hours(24);

/// What `server`, which is dialled as `name`, learns of `client`; `None`: the handshake failed at one of the two.
async fn meet(client: &Secretive, server: &Secretive, name: &str) -> Option<PeerCertificate> {
    shake(&client.tls, &server.tls, name).await
}

async fn shake(client: &PeerTls, server: &PeerTls, name: &str) -> Option<PeerCertificate> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = server.acceptor().clone();
    let accepted = tokio::spawn(async move {
        let (tcp, from) = listener.accept().await.unwrap();
        let mut wire = acceptor.accept(tcp, from).await?;
        wire.write_all(b"hello").await.ok()?;
        wire.certificate()
    });
    let tcp = TcpStream::connect(address).await.unwrap();
    let wire = client.connect(name, &address.to_string(), tcp).await;
    let mut greeting = [0; 5];
    let heard = match wire {
        Ok(mut wire) => wire.read_exact(&mut greeting).await.is_ok(),
        Err(_) => false,
    };
    accepted.await.unwrap().filter(|_| heard)
}

#[tokio::test]
async fn members_of_one_secret_know_each_other_by_name() {
    let [one, odd] = ["kv-0", "Node_1"].map(|name| member(name, &text('x'), DAY));
    for (client, server, name, own) in [(&one, &odd, "Node_1", "kv-0"), (&odd, &one, "kv-0", "Node_1")] {
        let shown = meet(client, server, name).await.unwrap();
        assert_eq!(server.tls.proof(&shown, own, &[]), Proof::Member);
        assert_eq!(server.tls.proof(&shown, name, &[]), Proof::Other);
        assert_eq!(server.tls.proof(&shown, "kv-7", &[]), Proof::Other);
        assert!(meet(client, server, "kv-7").await.is_none(), "not the one that was dialled");
    }
}

#[tokio::test]
async fn another_secret_opens_nothing() {
    let (member_of_it, stranger) = (member("n1", &text('x'), DAY), member("n2", &text('y'), DAY));
    assert!(meet(&stranger, &member_of_it, "n1").await.is_none());
    assert!(meet(&member_of_it, &stranger, "n2").await.is_none());
}

#[tokio::test]
async fn a_secret_is_replaced_without_a_gap() {
    let (old, new) = (text('x'), text('y'));
    let both = |first: &[u8], second: &[u8]| [first, second].concat();
    let members = ["n1", "n2"].map(|name| member(name, &old, DAY));
    for step in [both(&old, &new), both(&new, &old), new.clone()] {
        for changed in &members {
            changed.held.set(step.clone());
            changed.port.reload().unwrap();
            for (client, server, name) in [(0, 1, "n2"), (1, 0, "n1")] {
                assert!(meet(&members[client], &members[server], name).await.is_some());
            }
        }
    }
    let late = member("n3", &old, DAY);
    assert!(meet(&late, &members[0], "n1").await.is_none(), "the old secret is worth nothing any more");
    members[0].held.set(b"short".to_vec());
    assert!(members[0].port.reload().is_err());
    assert!(meet(&members[1], &members[0], "n1").await.is_some(), "what was there before stays");
}

#[tokio::test]
async fn a_certificate_is_made_again_at_half_of_its_time() {
    // No time at all: due at each look.
    let due = member("n1", &text('x'), Duration::from_nanos(1));
    let first = due.port.material().server.clone();
    due.port.reload().unwrap();
    assert!(!Arc::ptr_eq(&first, &due.port.material().server));
    let fresh = member("n1", &text('x'), DAY);
    let first = fresh.port.material().server.clone();
    fresh.port.reload().unwrap();
    assert!(Arc::ptr_eq(&first, &fresh.port.material().server));
}

#[tokio::test]
async fn certificates_from_files_name_their_member_or_none() {
    let authority = Authority::new();
    let metrics = Metrics::new();
    let others = ["n2".to_owned(), "n3".to_owned()];
    for (names, proof) in [
        (&["n1"][..], Proof::Member),
        (&["n1", "localhost"], Proof::Member),
        (&["localhost"], Proof::Unnamed),
        (&["n2", "localhost"], Proof::Other),
    ] {
        let server = peer_tls(authority.peer(&["127.0.0.1"]), &metrics);
        let shown = shake(&peer_tls(authority.peer(names), &metrics), &server, "n9").await.unwrap();
        assert_eq!(server.proof(&shown, "n1", &others), proof, "{names:?}");
    }
}
