//! Who is let in by a certificate, and who is not, over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use arc_swap::ArcSwap;
use quorate_engine::DirectoryId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::frame::FrameError;
use crate::transport::dialler::dial;
use crate::transport::handshake::{self, HandshakeError};
use crate::transport::{PeerStream, Roster};

#[path = "../../../tests/certificates/mod.rs"]
mod certificates;

use certificates::{Authority, Files};

const TIMEOUT: Duration = Duration::from_secs(10);

fn node(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

fn cluster(n: u8) -> ClusterId {
    ClusterId::from_bytes([n; 16])
}

fn config(files: &Files) -> TlsConfig {
    let Files { cert, key, ca } = files.clone();
    TlsConfig { cert, key, ca }
}

/// As it is, whomever it names.
fn tls(files: &Files) -> Tls {
    let chain = super::certificates(&files.cert).unwrap();
    Tls::new(chain, key(&files.key).unwrap(), roots(&files.ca).unwrap()).unwrap()
}

/// The same, but as a client it shows nothing.
fn without_certificate(files: &Files) -> Tls {
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots(&files.ca).unwrap())
        .with_no_client_auth();
    Tls { client: Arc::new(client), ..tls(files) }
}

/// Node `own` of cluster 7, which knows nodes 1 to 3, the others at `addr`.
fn roster(own: u64, addr: SocketAddr, tls: Option<Tls>) -> Roster {
    let directory = DirectoryId::from_bytes([own as u8; 16]);
    let addresses = [1, 2, 3].map(|n| (node(n), addr.to_string()));
    Roster::founding(cluster(7), node(own), directory, addresses).with_tls(tls, false)
}

/// Node 2 dials node 1: what each of them says.
async fn meet(
    dialler: Option<Tls>,
    acceptor: Option<Tls>,
) -> (Result<(), HandshakeError>, Result<NodeId, HandshakeError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accepting = async {
        let (stream, _) = listener.accept().await.unwrap();
        let roster = roster(1, addr, acceptor);
        let mut stream = PeerStream::accepted(stream, &roster, TIMEOUT).await?;
        let caller = handshake::welcome(&mut stream, &roster, TIMEOUT).await?;
        Ok(caller.node)
    };
    let roster = Arc::new(ArcSwap::from_pointee(roster(2, addr, dialler)));
    let dialling = async { dial(&roster, node(1), false, TIMEOUT).await.map(|_| ()) };
    tokio::join!(dialling, accepting)
}

struct Scene {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Scene {
    fn new() -> Scene {
        Scene { dir: tempfile::tempdir().unwrap(), authority: Authority::new() }
    }

    fn of(&self, cluster_id: ClusterId, n: u64) -> Files {
        self.authority.issue(self.dir.path(), &dns_name(cluster_id, node(n)))
    }

    fn expired(&self, n: u64) -> Files {
        let name = dns_name(cluster(7), node(n));
        self.authority.issue_with(self.dir.path(), &name, |params| {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        })
    }

    /// Of another authority, that takes ours.
    fn of_another_authority(&self, n: u64) -> Files {
        let other = Authority::new().issue(self.dir.path(), &dns_name(cluster(7), node(n)));
        Files { ca: self.of(cluster(7), n).ca, ..other }
    }
}

#[tokio::test]
async fn nodes_that_show_their_certificates_meet() {
    let scene = Scene::new();
    let [one, two] = [1, 2].map(|n| tls(&scene.of(cluster(7), n)));
    let (dialled, accepted) = meet(Some(two), Some(one)).await;
    dialled.unwrap();
    assert_eq!(accepted.unwrap(), node(2));
}

#[tokio::test]
async fn whoever_dials_without_the_right_certificate_is_refused() {
    let scene = Scene::new();
    let one = tls(&scene.of(cluster(7), 1));
    let two = scene.of(cluster(7), 2);
    for (what, dialler, text) in [
        ("nothing is encrypted", None, "no TLS"),
        ("no certificate", Some(without_certificate(&two)), "no certificates"),
        ("expired", Some(tls(&scene.expired(2))), "expired"),
        ("another authority", Some(tls(&scene.of_another_authority(2))), "UnknownIssuer"),
        (
            "another cluster",
            Some(tls(&scene.of(cluster(8), 2))),
            "shows the certificate of another",
        ),
        ("another node", Some(tls(&scene.of(cluster(7), 3))), "shows the certificate of another"),
    ] {
        let (dialled, accepted) = meet(dialler, Some(one.clone())).await;
        let error = accepted.unwrap_err().to_string();
        assert!(error.contains(text), "{what}: {error}");
        assert!(dialled.is_err(), "{what}");
        if text.contains("of another") {
            let told = dialled.unwrap_err().to_string();
            assert!(told.contains(&dns_name(cluster(7), node(2))), "{what}: {told}");
        }
    }
}

#[tokio::test]
async fn whoever_accepts_without_the_right_certificate_is_refused() {
    let scene = Scene::new();
    let two = tls(&scene.of(cluster(7), 2));
    for (what, acceptor, text) in [
        ("nothing is encrypted", None, "no TLS"),
        ("expired", Some(tls(&scene.expired(1))), "expired"),
        ("another authority", Some(tls(&scene.of_another_authority(1))), "UnknownIssuer"),
        ("another cluster", Some(tls(&scene.of(cluster(8), 1))), "not valid for name"),
        ("another node", Some(tls(&scene.of(cluster(7), 3))), "not valid for name"),
    ] {
        let (dialled, accepted) = meet(Some(two.clone()), acceptor).await;
        let error = dialled.unwrap_err().to_string();
        assert!(error.contains(text), "{what}: {error}");
        assert!(accepted.is_err(), "{what}");
    }
}

#[tokio::test]
async fn an_older_tls_is_refused() {
    let scene = Scene::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let roster = roster(1, addr, Some(tls(&scene.of(cluster(7), 1))));
    // A ClientHello of TLS 1.2 with one suite, one curve and one kind of signature.
    let extensions = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, extensions.len() as u8]);
    hello.extend(extensions);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(&record).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let error = PeerStream::accepted(stream, &roster, TIMEOUT).await.unwrap_err().to_string();
    assert!(error.contains("peer is incompatible"), "{error}");
    assert_eq!(client.read_u8().await.unwrap(), 21, "an alert");
}

#[tokio::test]
async fn a_stranger_gets_little_memory_and_little_time() {
    let scene = Scene::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    for tls in [None, Some(tls(&scene.of(cluster(7), 1)))] {
        let roster = roster(1, addr, tls);
        let _mute = TcpStream::connect(addr).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let short = Duration::from_millis(100);
        let welcomed = async {
            let mut stream = PeerStream::accepted(stream, &roster, short).await?;
            handshake::welcome(&mut stream, &roster, short).await
        };
        assert!(matches!(welcomed.await, Err(HandshakeError::TimedOut)));
    }
    let roster = roster(1, addr, None);
    let mut talkative = TcpStream::connect(addr).await.unwrap();
    talkative.write_all(&(5u64 << 10).to_le_bytes()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let welcomed = handshake::welcome(&mut PeerStream::Plain(stream), &roster, TIMEOUT).await;
    assert!(
        matches!(welcomed, Err(HandshakeError::Frame(FrameError::TooLong(5_120)))),
        "{welcomed:?}"
    );
}

#[test]
fn files_that_do_not_fit_are_named_with_the_remedy() {
    let scene = Scene::new();
    let good = scene.of(cluster(7), 1);
    let load = |files: &Files| match Tls::load(&config(files), cluster(7), node(1)) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    assert_eq!(load(&good), "");
    let missing = scene.dir.path().join("missing.pem");
    let text = scene.dir.path().join("text.pem");
    std::fs::write(&text, "no certificate").unwrap();
    let other = scene.of(cluster(7), 1);
    let name = dns_name(cluster(7), node(1));
    for (files, said) in [
        (Files { cert: missing, ..good.clone() }, "missing.pem: No such file"),
        (Files { cert: text.clone(), ..good.clone() }, "text.pem: it holds no certificate"),
        (Files { key: text.clone(), ..good.clone() }, "text.pem: it holds no private key"),
        (Files { ca: text, ..good.clone() }, "text.pem: it holds no certificate"),
        (Files { key: other.key, ..good.clone() }, name.as_str()),
        (scene.of(cluster(7), 2), name.as_str()),
        (scene.of(cluster(8), 1), name.as_str()),
        (scene.of_another_authority(1), "UnknownIssuer"),
        (scene.expired(1), "expired"),
    ] {
        let error = load(&files);
        assert!(error.contains(said), "{error}, not {said}");
    }
}
