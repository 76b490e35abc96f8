//! Handshakes over loopback with certificates made here, and files that are wrong in every way.

mod secrets;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::metrics::Metrics;

/// An authority, and a folder for what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // No two of one name.
        params.distinguished_name.push(DnType::CommonName, folder.path().display().to_string());
        fs::write(folder.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// A certificate for these names, until 1 January of a year.
    fn sign(&self, file: &str, names: &[&str], until_year: i32) -> IdentitySettings {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(until_year, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let path = |ending: &str| self.folder.path().join(format!("{file}.{ending}"));
        fs::write(path("crt"), cert.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        IdentitySettings { cert: path("crt"), key: path("key") }
    }

    fn peer(&self, names: &[&str]) -> PeerSettings {
        let identity = self.sign("peer", names, 2100);
        PeerSettings { identity, ca: self.ca(), allowed_name: None }
    }

    fn client_port(&self, with_clients: bool) -> ClientPortSettings {
        let identity = self.sign("port", &["localhost"], 2100);
        ClientPortSettings { identity, client_ca: with_clients.then(|| self.ca()) }
    }

    fn trusting(&self) -> ConnectorSettings {
        ConnectorSettings { ca: Some(self.ca()), ..ConnectorSettings::default() }
    }
}

fn peer_tls(settings: PeerSettings, metrics: &Metrics) -> PeerTls {
    PeerTls::new(Arc::new(Port::peer(PeerSource::Files(settings), "n1", metrics).unwrap()), None, metrics)
}

/// A listener's address, and a task that answers `hello` on each connection that `acceptor` takes.
async fn greet(acceptor: Acceptor) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (tcp, from) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Some(mut wire) = acceptor.accept(tcp, from).await {
                    let _ = wire.write_all(b"hello").await;
                    let _ = wire.shutdown().await;
                }
            });
        }
    });
    address
}

/// What came over it, or why nothing did.
async fn heard(wire: std::io::Result<Wire>) -> Result<String, String> {
    let mut text = String::new();
    match wire {
        Ok(mut wire) => match wire.read_to_string(&mut text).await {
            Ok(_) => Ok(text),
            Err(error) => Err(refusal(&error).unwrap_or(error).to_string()),
        },
        Err(error) => Err(error.to_string()),
    }
}

async fn dialled(tls: &PeerTls, address: &str) -> Result<String, String> {
    let tcp = TcpStream::connect(address).await.unwrap();
    heard(tls.connect("a", address, tcp).await).await
}

async fn asked(connector: &Connector, address: &str) -> Result<String, String> {
    let tcp = TcpStream::connect(address).await.unwrap();
    heard(connector.connect("localhost", tcp).await).await
}

#[tokio::test]
async fn peers_verify_each_other_and_nobody_else() {
    let metrics = Metrics::new();
    let (ours, others) = (Authority::new(), Authority::new());
    let tls = peer_tls(ours.peer(&["127.0.0.1"]), &metrics);
    let address = greet(tls.acceptor().clone()).await;
    assert_eq!(dialled(&tls, &address).await.unwrap(), "hello");

    // The one that dials does not trust what it is shown.
    let foreign = peer_tls(others.peer(&["127.0.0.1"]), &metrics);
    let error = dialled(&foreign, &address).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    // The one that is dialled does not trust what it is shown.
    let shows_foreign = PeerSettings { ca: ours.ca(), ..others.peer(&["127.0.0.1"]) };
    let error = dialled(&peer_tls(shows_foreign, &metrics), &address).await.unwrap_err();
    assert!(error.contains("ended the handshake"), "{error}");
    // Nothing is shown.
    let nameless = Connector::new(&ours.trusting()).unwrap().expecting("127.0.0.1").unwrap();
    assert!(asked(&nameless, &address).await.is_err());
    assert!(metrics.tls_handshakes_failed_total.with_label_values(&["peer"]).get() >= 3);
}

#[tokio::test]
async fn a_peer_must_have_the_name_that_it_is_dialled_by() {
    let metrics = Metrics::new();
    let authority = Authority::new();
    let settings = authority.peer(&["*.peers.ns.svc", "peers.ns.svc"]);
    let port = Arc::new(Port::peer(PeerSource::Files(settings.clone()), "n1", &metrics).unwrap());
    let pods = |service: &'static str| -> Option<HostOf> {
        Some(Arc::new(move |pod: &str| format!("{pod}.{service}.ns.svc")))
    };
    let tls = PeerTls::new(Arc::clone(&port), pods("peers"), &metrics);
    let address = greet(tls.acceptor().clone()).await;
    assert_eq!(dialled(&tls, &address).await.unwrap(), "hello");
    for host_of in [pods("others"), None] {
        let error = dialled(&PeerTls::new(Arc::clone(&port), host_of, &metrics), &address).await;
        assert!(error.unwrap_err().contains("not valid for name"));
    }
    // The other way round only if it is asked for.
    for (name, is_allowed) in [("peers.ns.svc", true), ("other.ns.svc", false)] {
        let settings = PeerSettings { allowed_name: Some(name.into()), ..settings.clone() };
        let address = greet(peer_tls(settings, &metrics).acceptor().clone()).await;
        assert_eq!(dialled(&tls, &address).await.is_ok(), is_allowed, "{name}");
    }
}

#[tokio::test]
async fn clients_verify_the_node_and_show_a_certificate_if_it_wants_one() {
    let metrics = Metrics::new();
    let authority = Authority::new();
    let open = Port::client(authority.client_port(false), &metrics).unwrap();
    let address = greet(Acceptor::new(Arc::new(open), &metrics)).await;
    let connector = Connector::new(&authority.trusting()).unwrap();
    assert_eq!(asked(&connector, &address).await.unwrap(), "hello");
    let error = asked(&connector.expecting("elsewhere").unwrap(), &address).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    let error = asked(&Connector::new(&Authority::new().trusting()).unwrap(), &address).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");

    let closed = Port::client(authority.client_port(true), &metrics).unwrap();
    let address = greet(Acceptor::new(Arc::new(closed), &metrics)).await;
    let error = asked(&connector, &address).await.unwrap_err();
    assert!(error.contains("wants a certificate"), "{error}");
    let identity = Some(authority.sign("client", &["me"], 2100));
    let known = Connector::new(&ConnectorSettings { identity, ..authority.trusting() }).unwrap();
    assert_eq!(asked(&known, &address).await.unwrap(), "hello");
}

#[tokio::test]
async fn what_is_no_tls_is_refused_and_slowness_is_cut() {
    let metrics = Metrics::new();
    let authority = Authority::new();
    let port = Arc::new(Port::client(authority.client_port(false), &metrics).unwrap());
    let acceptor = Acceptor::with_timeout(port, &metrics, Duration::from_millis(50));
    let address = greet(acceptor).await;
    let told = async |bytes: &[u8]| {
        let mut tcp = TcpStream::connect(&address).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Both an end and a reset will do.
        let _ = tcp.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let plain = told(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 400 ") && plain.ends_with("use https\n"), "{plain}");
    let length = plain.split("\r\n\r\n").nth(1).unwrap().len();
    assert!(plain.contains(&format!("Content-Length: {length}\r\n")), "{plain}");
    assert_eq!(told(&[0xff; 100]).await, "");
    // A handshake that begins well and then is none.
    told(&[[22, 3, 1, 0, 50].as_slice(), &[7; 200]].concat()).await;
    // One that never continues, and one that never begins: they return only because they are cut.
    told(&[22, 3, 1, 2, 0, 1]).await;
    told(&[]).await;
    assert_eq!(metrics.tls_handshakes_failed_total.with_label_values(&["client"]).get(), 5);
}

#[test]
fn each_wrong_file_is_told_what_is_wrong() {
    let authority = Authority::new();
    let check = |settings: &PeerSettings, part: &str| {
        let error =
            Port::peer(PeerSource::Files(settings.clone()), "n1", &Metrics::new()).err().unwrap().to_string();
        assert!(error.contains(part), "{part}: {error}");
    };
    let good = authority.peer(&["a"]);
    let file = |name: &str, content: &[u8]| {
        let path = authority.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let with_cert =
        |cert| PeerSettings { identity: IdentitySettings { cert, ..good.identity.clone() }, ..good.clone() };
    let with_key =
        |key| PeerSettings { identity: IdentitySettings { key, ..good.identity.clone() }, ..good.clone() };
    check(&with_cert("/nowhere".into()), "cannot read /nowhere: No such file");
    check(&with_cert(file("empty", b"")), "has no certificate in PEM form");
    check(&with_cert(file("other", b"\x00\xffno text")), "has no certificate in PEM form");
    let odd = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check(&with_cert(file("odd", odd)), "cannot be understood");
    check(&with_key(good.identity.cert.clone()), "has no private key in PEM form");
    check(&with_key(authority.sign("second", &["a"], 2100).key), "cannot be used with the certificate in");
    check(&PeerSettings { ca: file("no-ca", b"x"), ..good.clone() }, "has no certificate in PEM form");
    check(&PeerSettings { ca: file("odd-ca", odd), ..good.clone() }, "cannot be understood");
    let expired = authority.sign("expired", &["a"], 2001);
    check(&PeerSettings { identity: expired, ..good.clone() }, "has expired: it was valid until Jan  1");
    check(&PeerSettings { allowed_name: Some("a b".into()), ..good.clone() }, "is no name");
    check(&with_cert(file("large", &vec![b'x'; 5 << 20])), "it is above 4194304 bytes");
}

#[test]
fn new_files_are_taken_over_and_broken_ones_are_not() {
    let metrics = Metrics::new();
    let authority = Authority::new();
    let settings = authority.peer(&["a"]);
    let port = Port::peer(PeerSource::Files(settings.clone()), "n1", &metrics).unwrap();
    let expiry = || metrics.tls_certificate_expiry_seconds.with_label_values(&["peer"]).get();
    let (before, shown) = (expiry(), port.material());
    assert_eq!(before, 4_102_444_800);
    port.reload().unwrap();
    assert!(Arc::ptr_eq(&shown, &port.material()), "nothing has changed");

    fs::write(&settings.identity.key, "half a key").unwrap();
    assert!(port.reload().unwrap_err().to_string().contains("private key"));
    assert!(Arc::ptr_eq(&shown, &port.material()) && expiry() == before);

    authority.sign("peer", &["a"], 2101);
    port.reload().unwrap();
    assert!(!Arc::ptr_eq(&shown, &port.material()) && expiry() > before);
}

#[test]
fn certificates_that_members_cannot_use_are_refused_at_the_start() {
    let authority = Authority::new();
    let refused = |settings: PeerSettings| {
        Port::peer(PeerSource::Files(settings), "peer", &Metrics::new()).err().unwrap().to_string()
    };
    let usages = [
        (vec![ExtendedKeyUsagePurpose::ServerAuth], Some("clientAuth")),
        (vec![ExtendedKeyUsagePurpose::ClientAuth], Some("serverAuth")),
        (vec![ExtendedKeyUsagePurpose::CodeSigning], Some("serverAuth and clientAuth")),
        (vec![ExtendedKeyUsagePurpose::Any], None),
        (Vec::new(), None),
    ];
    for (usages, missing) in usages {
        let settings = authority.peer(&["localhost"]);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = usages;
        let cert = params.signed_by(&key, &authority.issuer).unwrap();
        fs::write(&settings.identity.cert, cert.pem()).unwrap();
        fs::write(&settings.identity.key, key.serialize_pem()).unwrap();
        match missing {
            Some(missing) => {
                let why = refused(settings);
                assert!(why.contains(&format!("lacks the extended key usage {missing}: ")), "{why}");
            }
            None => drop(Port::peer(PeerSource::Files(settings), "peer", &Metrics::new()).unwrap()),
        }
    }
    // The authority's own certificate.
    let settings = authority.peer(&["localhost"]);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(&settings.identity.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&settings.identity.key, key.serialize_pem()).unwrap();
    assert!(refused(settings).contains("is that of an authority"));
    for pem in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
    ] {
        let settings = authority.peer(&["localhost"]);
        fs::write(&settings.identity.key, pem).unwrap();
        let why = refused(settings);
        assert!(why.contains("is encrypted") && why.contains("openssl pkey"), "{why}");
    }
}
