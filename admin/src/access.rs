//! [`Access`]: how the admin API is reached, and who may change something through it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method};
use subtle::ConstantTimeEq as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, version};

use crate::connection::Caller;
use crate::fault::Fault;

/// What browsers tell of the page that a request is for.
const FETCH_SITE: &str = "sec-fetch-site";

/// The shortest token: shorter ones can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The longest token, so that a wrong file is noticed.
const TOKEN_BYTES_MAX: u64 = 4_096;

/// Where the certificates and the token of the admin API are; nothing of it for a loopback address
/// that every user of this machine may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// The server's certificate and its chain, in PEM. It names what clients dial: a host name or
    /// an IP address. With it the API speaks HTTPS only.
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    pub tls_key: Option<PathBuf>,
    /// The authorities of clients, in PEM: whoever shows a certificate of theirs may change
    /// something.
    pub tls_client_ca: Option<PathBuf>,
    /// A file with a secret of 16 bytes and more: whoever names it as a bearer token may change
    /// something. White space around it does not count.
    pub token_file: Option<PathBuf>,
    /// A name under which a loopback address is dialled, beside `localhost`. Over plain HTTP no
    /// other name is answered to.
    pub host: Option<String>,
}

/// Why the certificates or the token of the admin API cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// One of a pair is missing, or what makes no sense alone.
    #[error("{0}")]
    Incomplete(&'static str),
    /// A file cannot be read, or holds something else.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what it should be.
        what: String,
    },
}

/// A secret that is compared in constant time, and never printed.
#[derive(Clone)]
struct Token(Arc<[u8]>);

/// Who reaches the admin API how, read and ready. The default is plain HTTP for a loopback address.
#[derive(Clone, Default)]
pub struct Access {
    tls: Option<Arc<ServerConfig>>,
    takes_certificates: bool,
    token: Option<Token>,
    host: Option<String>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("tls", &self.tls.is_some())
            .field("takes_certificates", &self.takes_certificates)
            .field("token", &self.token.is_some())
            .field("host", &self.host)
            .finish()
    }
}

impl Access {
    /// Reads the files. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`AccessError`].
    pub fn load(config: &AccessConfig) -> Result<Access, AccessError> {
        let tls = match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => Some(server(cert, key, config.tls_client_ca.as_deref())?),
            (None, None) if config.tls_client_ca.is_some() => {
                return Err(AccessError::Incomplete(
                    "an authority for clients of the admin API needs its own certificate and key: \
                     give both",
                ));
            }
            (None, None) => None,
            _ => {
                return Err(AccessError::Incomplete(
                    "the admin API has a certificate without a key, or a key without a \
                     certificate: give both",
                ));
            }
        };
        let token = config.token_file.as_deref().map(token).transpose()?;
        let takes_certificates = config.tls_client_ca.is_some();
        Ok(Access { tls, takes_certificates, token, host: config.host.clone() })
    }

    /// Whether an address may be used: one that others reach needs encryption, and something that
    /// tells who may change what.
    pub(crate) fn suits(&self, addr: SocketAddr) -> bool {
        addr.ip().is_loopback() || (self.tls.is_some() && self.asks_who())
    }

    /// What makes TLS of a connection, when there is to be any.
    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls.clone().map(TlsAcceptor::from)
    }

    /// Lets in what only reads, and of the rest what comes from somebody who may change something.
    ///
    /// A browser of this machine reaches its loopback addresses for every page that it shows. So
    /// nothing is taken from a page (which the browser marks with `Origin`), a `POST` is marked as
    /// JSON (which a page may not do unasked), and over plain HTTP nothing is answered to a name
    /// that may be the page's own, pointed here. Over TLS the certificate tells the browser as much.
    ///
    /// # Errors
    ///
    /// What the request is answered with instead.
    pub(crate) fn admit(
        &self,
        caller: &Caller,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<(), Fault> {
        if self.tls.is_none() && !headers.get(HOST).is_none_or(|host| self.goes_by(host)) {
            return Err(Fault::forbidden(
                "the admin API does not answer to this name over plain HTTP: dial 127.0.0.1, \
                 localhost or the name that --admin gives",
            ));
        }
        // Of what it loads for a page of another site a browser says so.
        if headers.get(FETCH_SITE).is_some_and(|site| site == "cross-site") {
            return Err(Fault::forbidden(
                "pages of other sites may not ask the admin API: open its address by itself, or use \
                 the program quorate",
            ));
        }
        if only_reads(method) {
            return Ok(());
        }
        if headers.contains_key(ORIGIN) {
            return Err(Fault::forbidden(
                "pages in browsers may change nothing: use the program quorate, or send no Origin",
            ));
        }
        let bearer = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        if !self.may_change(caller, bearer.and_then(|value| value.strip_prefix(b"Bearer "))) {
            return Err(Fault::unauthorized());
        }
        if *method == Method::POST && !headers.get(CONTENT_TYPE).is_some_and(is_json) {
            return Err(Fault::not_json());
        }
        Ok(())
    }

    /// Whether a `Host` is an address, or one of our names.
    fn goes_by(&self, host: &HeaderValue) -> bool {
        let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let ours = ["localhost"].into_iter().chain(self.host.as_deref());
        name.parse::<IpAddr>().is_ok() || ours.into_iter().any(|it| it.eq_ignore_ascii_case(name))
    }

    /// Whether this caller, with the token it names, may change something.
    fn may_change(&self, caller: &Caller, bearer: Option<&[u8]>) -> bool {
        let knows_the_token = match (&self.token, bearer) {
            (Some(token), Some(bearer)) => bool::from(token.0.ct_eq(bearer)),
            _ => false,
        };
        !self.asks_who() || caller.is_verified || knows_the_token
    }

    fn asks_who(&self) -> bool {
        self.takes_certificates || self.token.is_some()
    }
}

/// Whether a request of this method changes nothing.
pub(crate) fn only_reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether a content type is JSON; what it says beside that does not matter.
fn is_json(content_type: &HeaderValue) -> bool {
    let kind = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// TLS 1.3; a client may show a certificate, and need not for reading.
fn server(
    cert: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, AccessError> {
    let unfit = |error: rustls::Error| wrong(cert, format!("{error}; it must fit the key"));
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(unfit)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| wrong(path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .allow_unauthenticated()
                .build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| wrong(path, error.to_string()))?,
            )
        }
    };
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| wrong(key, format!("no private key ({error}): give it in PEM form")))?;
    let mut server = builder.with_single_cert(certificates(cert)?, key_der).map_err(unfit)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Every connection begins with a certificate that is valid then.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Arc::new(server))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(wrong(path, "no certificate: give it in PEM form".to_owned())),
        Err(error) => Err(wrong(path, format!("no certificate ({error}): give it in PEM form"))),
    }
}

fn token(path: &Path) -> Result<Token, AccessError> {
    let unread = |error: std::io::Error| wrong(path, format!("{error}: name a readable file"));
    let length = std::fs::metadata(path).map_err(unread)?.len();
    if length > TOKEN_BYTES_MAX {
        return Err(wrong(path, format!("a token has at most {TOKEN_BYTES_MAX} bytes")));
    }
    let bytes = std::fs::read(path).map_err(unread)?;
    let token = bytes.trim_ascii();
    let is_sendable = token.iter().all(u8::is_ascii_graphic);
    if token.len() < TOKEN_BYTES_MIN || !is_sendable {
        let what = format!(
            "a token has at least {TOKEN_BYTES_MIN} visible ASCII characters: make one with \
             `openssl rand -hex 32`"
        );
        return Err(wrong(path, what));
    }
    Ok(Token(token.into()))
}

fn wrong(path: &Path, what: String) -> AccessError {
    AccessError::File { path: path.to_owned(), what }
}
