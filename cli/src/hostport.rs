//! `HOST:PORT` as people write it on the command line and in files.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A host name or address with a port, checked for its form only: no name is looked up here.
///
/// IPv6 addresses stand in brackets, as in `[::1]:7001`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is not a `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostPortError {
    /// There is no colon, or nothing on one side of it.
    #[error("an address is HOST:PORT, such as 127.0.0.1:7001")]
    Shape,
    /// An IPv6 address without brackets, or something that is no host.
    #[error("{0:?} is no host: use a name, an IPv4 address, or an IPv6 address in brackets")]
    Host(String),
    /// The port is no number from 0 to 65535.
    #[error("{0:?} is no port: use a number from 0 to 65535")]
    Port(String),
}

/// Why an address could not be turned into one that can be bound or dialled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// The system's resolver said no.
    #[error("cannot look up {addr}: {source}; use an address, or a name that this machine knows")]
    Lookup {
        /// What was asked for.
        addr: HostPort,
        /// What the resolver answered.
        source: std::io::Error,
    },
    /// The name exists and has no address.
    #[error("{0} has no address; use an address, or another name")]
    Empty(HostPort),
}

impl HostPort {
    /// The first address this name stands for. Blocks while a name is looked up.
    pub(crate) fn resolve(&self) -> Result<SocketAddr, ResolveError> {
        let mut found = self
            .to_string()
            .to_socket_addrs()
            .map_err(|source| ResolveError::Lookup { addr: self.clone(), source })?;
        found.next().ok_or_else(|| ResolveError::Empty(self.clone()))
    }

    /// The host as written.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The port as written; 0 asks the system for a free one.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for HostPort {
    fn from(addr: SocketAddr) -> Self {
        let host = match addr {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        HostPort { host, port: addr.port() }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError::Shape)?;
        if host.is_empty() || port.is_empty() {
            return Err(HostPortError::Shape);
        }
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let sound = match bracketed {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            }
        };
        if !sound {
            return Err(HostPortError::Host(host.to_owned()));
        }
        // `u16::from_str` takes a leading plus, which no address has.
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(HostPortError::Port(port.to_owned()));
        }
        let port = port.parse().map_err(|_| HostPortError::Port(port.to_owned()))?;
        Ok(HostPort { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_address_survives_a_round_trip() {
        for text in ["127.0.0.1:7001", "localhost:0", "[::1]:65535", "kafka-1.internal:9092"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        let host = |h: &str| HostPortError::Host(h.to_owned());
        let port = |p: &str| HostPortError::Port(p.to_owned());
        for (text, why) in [
            ("", HostPortError::Shape),
            ("127.0.0.1", HostPortError::Shape),
            (":7001", HostPortError::Shape),
            ("127.0.0.1:", HostPortError::Shape),
            ("::1:7001", host("::1")),
            ("a b:7001", host("a b")),
            ("[nonsense]:7001", host("[nonsense]")),
            ("127.0.0.1:70000", port("70000")),
            ("127.0.0.1:+7", port("+7")),
            ("127.0.0.1:seven", port("seven")),
        ] {
            assert_eq!(text.parse::<HostPort>(), Err(why), "{text:?}");
        }
    }
}
