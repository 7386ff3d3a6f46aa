//! Who reaches the API over TLS, and who may change something.

use std::path::Path;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::*;
use crate::{Access, AccessConfig};

#[path = "../../../loop/tests/certificates/mod.rs"]
mod certificates;

pub(crate) use certificates::{Authority, Files};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const WISH: &str = r#"{"name":"t","partitions":0,"replication_factor":1}"#;

fn token_file(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("token");
    std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
    path
}

/// What a client knows and shows over TLS.
pub(crate) fn connector(believes: &Files, shows: Option<&Files>) -> TlsConnector {
    use tokio_rustls::rustls::RootCertStore;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&believes.ca).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shows {
        None => config.with_no_client_auth(),
        Some(files) => {
            let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
            let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    TlsConnector::from(Arc::new(config))
}

/// One request on a connection of its own, and the status it was answered with.
async fn ask(
    addr: SocketAddr,
    tls: &TlsConnector,
    method: &str,
    header: &str,
) -> std::io::Result<u16> {
    let stream = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tls.connect(name, stream).await?;
    let (path, body) = if method == "GET" { ("/status", "") } else { ("/v1/topics", WISH) };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}content-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap()?;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other(answer))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_token_reading_is_open_and_changing_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let token_file = Some(token_file(dir.path()));
    let access = Access::load(&AccessConfig { token_file, ..AccessConfig::default() }).unwrap();
    assert!(!format!("{access:?}").contains(TOKEN));
    let server = Server::start_with(access).await;
    server.get::<Status>("/status").await;
    let wrong = TOKEN.replace('0', "1");
    for header in ["", "Bearer", "Bearer ", &wrong, &format!("Bearer {wrong}"), TOKEN] {
        let (status, error) = server.refused_as(header, "POST", "/v1/topics", Some(WISH)).await;
        assert_eq!((status, error.error.as_str()), (401, "UNAUTHORIZED"), "{header}");
        assert_eq!((error.outcome, error.retryable), (FailureOutcome::Rejected, false));
        let (status, _) = server.refused_as(header, "DELETE", "/v1/topics/t", None).await;
        assert_eq!(status, 401, "{header}");
    }
    // What is wrong with it is said to those who may ask for it.
    let header = format!("Bearer {TOKEN}");
    let (status, _) = server.refused_as(&header, "POST", "/v1/topics", Some(WISH)).await;
    assert_eq!(status, 400);
}

/// To see it fail: have `Access::admit` look at the method alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_a_browser_changes_nothing() {
    let (server, _session) = Server::with_broker().await;
    let before = server.quorum.image().index;
    let json = "content-type: application/json\r\n";
    let here = "host: 127.0.0.1:9201\r\n";
    let page = format!("{here}origin: https://page.example\r\n");
    let routes = [
        ("POST", "/v1/brokers/1/fence"),
        ("POST", "/v1/brokers/1/unregister"),
        ("POST", "/v1/topics"),
        ("POST", "/v1/leader/transfer"),
        ("DELETE", "/v1/topics/t"),
        // What a browser asks first, where it asks.
        ("OPTIONS", "/v1/brokers/1/fence"),
    ];
    for (method, path) in routes {
        for headers in [
            format!("{page}{json}"),
            format!("{here}origin: null\r\n{json}"),
            format!("host: page.example:9201\r\n{json}"),
            format!("host: localhost.page.example\r\n{json}"),
            format!("host: 127.0.0.1.page.example\r\n{json}"),
        ] {
            let (status, body) = server.ask_with(&headers, method, path, "{}").await;
            let said = (status, body["error"].as_str(), body["outcome"].as_str());
            assert_eq!(said, (403, Some("FORBIDDEN"), Some("rejected")), "{path} {headers}");
        }
    }
    // What a page may send without asking first, from a browser that does not say who sends it.
    for kind in
        ["", "content-type: text/plain\r\n", "content-type: text/plain;application/json\r\n"]
    {
        for (_, path) in &routes[..4] {
            let headers = format!("{here}{kind}");
            let (status, body) = server.ask_with(&headers, "POST", path, "{}").await;
            assert_eq!((status, body["error"].as_str()), (415, Some("BAD_REQUEST")), "{headers}");
        }
    }
    // Nor does it read, under a name of its own.
    let (status, _) = server.ask_with("host: page.example\r\n", "GET", "/v1/topics", "").await;
    assert_eq!(status, 403);
    // Nor has it what it cannot read made, or sent, for nothing.
    for (site, expected) in [("cross-site", 403), ("same-origin", 200), ("none", 200)] {
        let headers = format!("{here}sec-fetch-site: {site}\r\n");
        let (status, _) = server.ask_with(&headers, "GET", "/v1/topics", "").await;
        assert_eq!(status, expected, "{site}");
    }
    assert_eq!(server.quorum.image().index, before);

    for host in ["", "host: [::1]:9201\r\n", "host: LOCALHOST:9201\r\n", here] {
        let headers = format!("{host}content-type: Application/JSON; charset=utf-8\r\n");
        let (status, body) = server.ask_with(&headers, "POST", "/v1/brokers/1/fence", "{}").await;
        assert_eq!((status, &body["id"]), (200, &json!(1)), "{headers}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_that_the_address_was_given_by_is_answered_to() {
    let host = Some("node-1.internal".to_owned());
    let access = Access::load(&AccessConfig { host, ..AccessConfig::default() }).unwrap();
    let server = Server::start_with(access).await;
    for (host, expected) in [("node-1.internal:9201", 200), ("node-2.internal:9201", 403)] {
        let headers = format!("host: {host}\r\n");
        assert_eq!(server.ask_with(&headers, "GET", "/status", "").await.0, expected, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_a_certificate_or_a_token_lets_change() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, clients) = (Authority::new(), Authority::new());
    let node = nodes.issue(dir.path(), "localhost");
    let client = clients.issue(dir.path(), "somebody");
    let stranger = Authority::new().issue(dir.path(), "somebody");
    let access = Access::load(&AccessConfig {
        tls_cert: Some(node.cert.clone()),
        tls_key: Some(node.key.clone()),
        tls_client_ca: Some(client.ca.clone()),
        token_file: Some(token_file(dir.path())),
        host: None,
    });
    let server = Server::start_with(access.unwrap()).await;
    // Two that say nothing, and one without TLS, keep nobody out.
    let _mute = [
        TcpStream::connect(server.addr).await.unwrap(),
        TcpStream::connect(server.addr).await.unwrap(),
    ];
    let mut plain = TcpStream::connect(server.addr).await.unwrap();
    plain.write_all(b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut said)).await.unwrap();
    assert!(!String::from_utf8_lossy(&said).contains("HTTP"), "{said:?}");

    let anybody = connector(&node, None);
    assert_eq!(ask(server.addr, &anybody, "GET", "").await.unwrap(), 200);
    assert_eq!(ask(server.addr, &anybody, "POST", "").await.unwrap(), 401);
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(server.addr, &anybody, "POST", &bearer).await.unwrap(), 400);
    let known = connector(&node, Some(&client));
    assert_eq!(ask(server.addr, &known, "POST", "").await.unwrap(), 400);
    let unknown = connector(&node, Some(&stranger));
    assert!(ask(server.addr, &unknown, "GET", "").await.is_err());
    let deceived = connector(&client, None);
    let error = ask(server.addr, &deceived, "GET", "").await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn an_address_for_everybody_needs_encryption_and_to_know_who_asks() {
    let dir = tempfile::tempdir().unwrap();
    let Files { cert, key, ca } = Authority::new().issue(dir.path(), "localhost");
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let token_file = Some(token_file(dir.path()));
    let (tls_cert, tls_key, tls_client_ca) = (Some(cert), Some(key), Some(ca));
    let none = AccessConfig::default();
    let token = AccessConfig { token_file, ..none.clone() };
    let tls = AccessConfig { tls_cert, tls_key, ..none.clone() };
    for config in [&none, &token, &tls] {
        let refused = Admin::bind_with(everywhere, Access::load(config).unwrap()).await;
        assert!(matches!(refused, Err(BindError::Exposed { .. })), "{config:?}");
    }
    let by_token = AccessConfig { token_file: token.token_file.clone(), ..tls.clone() };
    let by_certificate = AccessConfig { tls_client_ca, ..tls.clone() };
    for config in [by_token, by_certificate] {
        Admin::bind_with(everywhere, Access::load(&config).unwrap()).await.unwrap();
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = Authority::new().issue(dir.path(), "localhost");
    let other = Authority::new().issue(dir.path(), "localhost");
    let short = dir.path().join("short");
    std::fs::write(&short, "secret").unwrap();
    let (cert, key) = (Some(files.cert.clone()), Some(files.key.clone()));
    let none = AccessConfig::default();
    for (config, said) in [
        (AccessConfig { tls_cert: cert.clone(), ..none.clone() }, "give both"),
        (AccessConfig { tls_key: key.clone(), ..none.clone() }, "give both"),
        (AccessConfig { tls_client_ca: cert.clone(), ..none.clone() }, "give both"),
        (AccessConfig { token_file: Some(short), ..none.clone() }, "at least 16"),
        (AccessConfig { token_file: Some(dir.path().join("gone")), ..none.clone() }, "gone"),
        (AccessConfig { tls_cert: cert.clone(), tls_key: cert, ..none.clone() }, "no private key"),
        (AccessConfig { tls_cert: key.clone(), tls_key: key, ..none.clone() }, "no certificate"),
        (
            AccessConfig { tls_cert: Some(files.cert), tls_key: Some(other.key), ..none },
            "must fit the key",
        ),
    ] {
        let error = Access::load(&config).unwrap_err().to_string();
        assert!(error.contains(said), "{error}, not {said}");
    }
}
