//! [`Contacts`]: whom a data directory was told about when it was formatted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use quorate_engine::{Founding as FoundedBy, Identity};

use crate::config::LoopConfig;
use crate::driver::Addresses;
use crate::error::OpenError;
use crate::founding::Founding;
use crate::joining::Joining;
use crate::renewal::Rehearsal;
use crate::transport::{Roster, Tls};

/// Election timeouts for which a damaged node asks whether it would be let in: its leader takes one
/// or two to notice that it is gone, and where the damaged node led, a new one has to be found.
const REHEARSAL_ELECTIONS: u64 = 5;

/// The addresses in the identity of a directory.
pub(crate) struct Contacts {
    /// The initial voters; none in a directory that was formatted to join.
    pub(crate) voters: Addresses,
    /// Where the cluster is reached: the other voters, or whom to join.
    pub(crate) others: Vec<String>,
}

impl Contacts {
    pub(crate) fn of(identity: &Identity) -> Self {
        match &identity.founding {
            FoundedBy::Voters(voters) => {
                let others = voters.iter().filter(|voter| voter.node_id != identity.node_id);
                Contacts {
                    others: others.map(|voter| voter.addr.clone()).collect(),
                    voters: voters.iter().map(|v| (v.node_id, v.addr.clone())).collect(),
                }
            }
            FoundedBy::Join(addrs) => Contacts { voters: Addresses::new(), others: addrs.clone() },
        }
    }

    /// Where the founding stands; `None` in a directory that was formatted to join, or where the
    /// first group has begun anew since and joins by itself.
    pub(crate) fn founding(
        &self,
        identity: &Identity,
        genesis: Option<&[u8]>,
        has_joined: bool,
    ) -> Result<Option<Founding>, OpenError> {
        if self.voters.is_empty() || has_joined {
            return Ok(None);
        }
        let own = (identity.node_id, identity.directory_id);
        Founding::recover(own, self.voters.keys().copied().collect(), genesis)
            .map(Some)
            .map_err(|error| OpenError::Restore(error.to_string()))
    }

    /// What the transport knows before any group has begun.
    pub(crate) fn roster(&self, identity: &Identity, founding: Option<&Founding>) -> Roster {
        let Identity { cluster_id, node_id, directory_id, .. } = *identity;
        let Some(founding) = founding else {
            return Roster::outside(cluster_id, node_id, directory_id);
        };
        let roster = Roster::founding(cluster_id, node_id, directory_id, self.voters.clone());
        founding.bindings().map_or(roster.clone(), |bindings| roster.bound(bindings))
    }

    /// How a directory that is damaged finds out whether it could come back.
    pub(crate) fn rehearsal(
        &self,
        identity: &Identity,
        tls: Option<Tls>,
        addr: String,
        config: &LoopConfig,
    ) -> Rehearsal {
        let Identity { cluster_id, node_id, directory_id, .. } = *identity;
        let roster = Roster::outside(cluster_id, node_id, directory_id)
            .with_tls(tls, config.allow_plaintext);
        let election_ms = config.tick_ms * u64::from(config.election_ticks);
        Rehearsal {
            joining: Joining {
                roster: Arc::new(ArcSwap::from_pointee(roster)),
                addresses: self.others.clone(),
                silence: Duration::from_millis(config.connect_timeout_ms),
            },
            addr,
            patience: Duration::from_millis(REHEARSAL_ELECTIONS * election_ms),
            is_allowed: config.replace_damaged,
        }
    }
}

/// Refuses addresses that are not loopback, where the transport has no encryption.
pub(crate) fn refuse_plaintext(
    listen: SocketAddr,
    others: &[String],
    config: &LoopConfig,
) -> Result<(), OpenError> {
    if config.allow_plaintext || config.tls.is_some() {
        return Ok(());
    }
    if !listen.ip().is_loopback() {
        return Err(OpenError::Plaintext(listen.to_string()));
    }
    let is_loopback = |addr: &str| {
        addr.starts_with("localhost:")
            || addr.parse::<SocketAddr>().is_ok_and(|addr| addr.ip().is_loopback())
    };
    match others.iter().find(|addr| !is_loopback(addr)) {
        Some(addr) => Err(OpenError::Plaintext(addr.clone())),
        None => Ok(()),
    }
}
