//! [`Tls`]: what this node shows of itself, and what it takes from peers, on encrypted connections.
//!
//! # What a certificate says
//!
//! Its subject alternative name is the DNS name `node-N.CLUSTER.quorate`, with the node's number and
//! the cluster's id: `node-3.3f1c0a52-6a55-4d3b-9d0e-5f0a4b1d2c33.quorate`. Nobody looks it up; it
//! has the form of a DNS name since that is what TLS libraries can verify. Both ends of a connection
//! show one, so it is for servers and for clients. It says who a node is; where it is reached, the
//! cluster knows, so that an address may change without a new certificate.
//!
//! A wildcard (`*.CLUSTER.quorate`) names every node, and so protects none from another.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_engine::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{
    Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime,
};
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    version,
};

/// Longest PEM file, in bytes: a chain or a bundle of authorities has a few thousand.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a node's certificates are: PEM files. Both ends of a connection between nodes show theirs.
///
/// They are read when a node opens; a node takes new ones with a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The node's certificate, for server and client authentication, and after it the chain up to
    /// the authority. It names the node by the DNS name `node-N.CLUSTER.quorate`, with the number
    /// of the node and the id of the cluster.
    pub cert: PathBuf,
    /// The certificate's private key. Nobody else may be able to read it.
    pub key: PathBuf,
    /// The authorities whose certificates are taken from peers; several while one is replaced.
    /// Whoever they sign for is taken for the node that the certificate names: use an authority
    /// that signs for this purpose only.
    pub ca: PathBuf,
}

/// Why a node's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {source}: name a PEM file that this user may read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{}: {what}: give it in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The certificate, its key and the authority do not fit each other, or not this node.
    #[error("{}: {what}: this node needs a certificate for {name}, valid now", path.display())]
    Unfit {
        /// The file of the certificate.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// The DNS name that it must have.
        name: String,
    },
}

/// Certificates, read and ready for connections.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(super) client: Arc<ClientConfig>,
    /// For a peer of which only the address is known.
    pub(super) newcomer: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files of a node, and sees that its peers will take what it shows. Blocks on the
    /// disk.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub(crate) fn load(
        config: &TlsConfig,
        cluster: ClusterId,
        node: NodeId,
    ) -> Result<Tls, TlsError> {
        let unfit = |error: rustls::Error| TlsError::Unfit {
            path: config.cert.clone(),
            what: error.to_string(),
            name: dns_name(cluster, node),
        };
        let chain = certificates(&config.cert)?;
        let roots = roots(&config.ca)?;
        let name = server_name(cluster, node).map_err(|error| TlsError::Unfit {
            path: config.cert.clone(),
            what: error.to_string(),
            name: dns_name(cluster, node),
        })?;
        if let [own, others @ ..] = chain.as_slice() {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots.clone(), provider()).build();
            let verifier = verifier.map_err(|error| TlsError::Pem {
                path: config.ca.clone(),
                what: error.to_string(),
            })?;
            verifier.verify_server_cert(own, others, &name, &[], UnixTime::now()).map_err(unfit)?;
        }
        Tls::new(chain, key(&config.key)?, roots).map_err(unfit)
    }

    /// TLS 1.3 only, certificates from both ends. Nothing is resumed: a connection lasts for days,
    /// and each begins with a certificate that is valid then.
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Arc<RootCertStore>,
    ) -> Result<Tls, rustls::Error> {
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain, key)?;
        client.resumption = Resumption::disabled();
        let mut newcomer = client.clone();
        newcomer.dangerous().set_certificate_verifier(Arc::new(OfAuthority(roots)));
        let (client, newcomer) = (Arc::new(client), Arc::new(newcomer));
        Ok(Tls { client, newcomer, server: Arc::new(server) })
    }
}

/// Takes the certificate of any peer that an authority has signed. Whoever asks to join knows an
/// address and not whose it is; that the certificate names the peer, is checked as soon as the peer
/// has said who it is.
#[derive(Debug)]
struct OfAuthority(Arc<RootCertStore>);

impl ServerCertVerifier for OfAuthority {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(own)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.0, others, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The name that the certificate of a node has.
pub(super) fn dns_name(cluster: ClusterId, node: NodeId) -> String {
    format!("node-{node}.{cluster}.quorate")
}

/// The same, to be verified.
pub(super) fn server_name(
    cluster: ClusterId,
    node: NodeId,
) -> Result<ServerName<'static>, InvalidDnsNameError> {
    ServerName::try_from(dns_name(cluster, node))
}

/// Whether a certificate, which is verified, names this node of this cluster.
pub(super) fn names(certificate: &CertificateDer<'_>, cluster: ClusterId, node: NodeId) -> bool {
    let parsed = ParsedCertificate::try_from(certificate);
    match (parsed, server_name(cluster, node)) {
        (Ok(parsed), Ok(name)) => verify_server_name(&parsed, &name).is_ok(),
        _ => false,
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    // Before it is read: it may be a device, or a mistake of any length.
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        let what = format!("it has {length} bytes, more than the limit of {FILE_BYTES_MAX}");
        return Err(TlsError::Pem { path: path.to_owned(), what });
    }
    std::fs::read(path).map_err(failed)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |what: String| TlsError::Pem { path: path.to_owned(), what };
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let all = all.map_err(|error| wrong(error.to_string()))?;
    if all.is_empty() { Err(wrong("it holds no certificate".to_owned())) } else { Ok(all) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let wrong = |error: pem::Error| TlsError::Pem {
        path: path.to_owned(),
        what: format!("it holds no private key ({error})"),
    };
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(wrong)
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Pem {
            path: path.to_owned(),
            what: format!("a certificate in it is none of an authority ({error})"),
        })?;
    }
    Ok(Arc::new(roots))
}

#[cfg(test)]
mod tests;
