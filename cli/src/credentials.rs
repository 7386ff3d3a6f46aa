//! [`Credentials`]: what the client of the admin API shows of itself, and whom it believes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tokio_rustls::rustls::crypto::ring;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::failure::Failure;
use crate::hostport::HostPort;

/// The environment's names for what no command line should show, or what stays the same.
const TOKEN: &str = "QUORATE_TOKEN";
const CA: &str = "QUORATE_CA";
const CERT: &str = "QUORATE_CERT";
const KEY: &str = "QUORATE_KEY";

/// Files of the client. A token comes from the environment only: other users of a machine see
/// command lines.
#[derive(Debug, Args)]
pub(crate) struct ClientFiles {
    /// The authority of the nodes' admin certificates, in PEM: with it they are asked over HTTPS
    /// [env: QUORATE_CA=]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A client certificate for changes, in PEM; QUORATE_TOKEN may hold a token instead
    /// [env: QUORATE_CERT=]
    #[arg(long, global = true, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The private key of --cert, in PEM [env: QUORATE_KEY=]
    #[arg(long, global = true, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Certificates and token of a client; the default is plain HTTP without any.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    tls: Option<TlsConfig>,
    token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("tls", &self.tls.is_some())
            .field("token", &self.token.is_some())
            .finish()
    }
}

impl Credentials {
    /// What the command line and the environment name, for these nodes.
    pub(crate) fn of(files: &ClientFiles, addrs: &[HostPort]) -> Result<Credentials, Failure> {
        let named = |file: &Option<PathBuf>, name: &str| {
            file.clone()
                .or_else(|| std::env::var_os(name).filter(|p| !p.is_empty()).map(Into::into))
        };
        let token = std::env::var(TOKEN).ok().map(|token| token.trim().to_owned());
        let token = token.filter(|token| !token.is_empty());
        let (cert, key) = (named(&files.cert, CERT), named(&files.key, KEY));
        let Some(ca) = named(&files.ca, CA) else {
            if cert.is_some() || key.is_some() {
                return Err(Failure::Usage(format!(
                    "a client certificate is shown over HTTPS only: name the nodes' authority with \
                     --ca or {CA}"
                )));
            }
            if let Some(addr) = addrs.iter().find(|addr| token.is_some() && !is_loopback(addr)) {
                return Err(Failure::Usage(format!(
                    "the token would travel to {addr} for everybody to read: name the nodes' \
                     authority with --ca or {CA}, or unset {TOKEN}"
                )));
            }
            return Ok(Credentials { tls: None, token });
        };
        let client_cert = match (cert, key) {
            (Some(cert), Some(key)) => {
                let key = PrivateKey::from_pem(&read(&key)?).map_err(|e| wrong(&key, &e))?;
                Some(ClientCert::new_with_certs(&certificates(&cert)?, key))
            }
            (None, None) => None,
            _ => return Err(Failure::Usage("--cert and --key go together: give both".to_owned())),
        };
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&certificates(&ca)?))
            .client_cert(client_cert)
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .build();
        Ok(Credentials { tls: Some(tls), token })
    }

    /// How the nodes are asked.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// What verifies the nodes, over HTTPS.
    pub(crate) fn tls(&self) -> Option<&TlsConfig> {
        self.tls.as_ref()
    }

    /// The header that says who asks.
    pub(crate) fn authorization(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }
}

fn is_loopback(addr: &HostPort) -> bool {
    let host = addr.host().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    let mut all = Vec::new();
    for item in parse_pem(&read(path)?) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| wrong(path, &e))? {
            all.push(certificate);
        }
    }
    if all.is_empty() { Err(wrong(path, &"it holds no certificate")) } else { Ok(all) }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| wrong(path, &e))
}

fn wrong(path: &Path, what: &dyn fmt::Display) -> Failure {
    Failure::Usage(format!("{}: {what}; name a PEM file that you may read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_told_a_token_in_the_open() {
        for (addr, is_local) in [
            ("127.0.0.1:1", true),
            ("localhost:1", true),
            ("[::1]:1", true),
            ("10.0.0.1:1", false),
            ("localhost.example.com:1", false),
        ] {
            assert_eq!(is_loopback(&addr.parse().unwrap()), is_local, "{addr}");
        }
    }
}
