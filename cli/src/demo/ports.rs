//! Free loopback ports for nodes that must know each other's before any of them listens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use uuid::Uuid;

use crate::hostport::HostPort;

/// Where ports are looked for: below the range from which systems number outgoing connections (from
/// 32768 on Linux), so that none of those takes the port of a node that is down for a moment.
const RANGE: std::ops::Range<u16> = 15_000..30_000;

/// Ports tried before the search is given up.
const TRIES: usize = 1_000;

/// As many different addresses on which nobody listens at this moment.
///
/// Somebody else may take one before its node listens: the node then says so, and the caller
/// chooses again.
pub(crate) fn free(count: usize) -> io::Result<Vec<HostPort>> {
    // Held until all are found, so that no port is found twice.
    let mut held = Vec::with_capacity(count);
    for _ in 0..TRIES {
        if held.len() == count {
            break;
        }
        let width = u128::from(RANGE.end - RANGE.start);
        let offset = u16::try_from(Uuid::new_v4().as_u128() % width).unwrap_or(0);
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, RANGE.start + offset));
        held.extend(TcpListener::bind(addr));
    }
    if held.len() < count {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "no free loopback port was found"));
    }
    held.iter().map(|listener| Ok(HostPort::from(listener.local_addr()?))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_different_and_can_be_bound() {
        let ports = free(20).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 20);
        assert!(ports.iter().all(|p| RANGE.contains(&p.port())));
        TcpListener::bind(ports[0].to_string()).unwrap();
    }
}
