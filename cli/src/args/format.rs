//! The options of `quorate format`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use uuid::Uuid;

use super::{Voter, cluster_id};
use crate::failure::Failure;
use crate::hostport::HostPort;

/// The options of `format`.
#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// The directory to format; it must be empty, or not exist yet
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The cluster's id, the same for all of its nodes
    #[arg(long, value_name = "UUID", value_parser = cluster_id)]
    pub(crate) cluster_id: Uuid,
    /// This node's id, from 1 up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) node_id: u64,
    /// All voters of the new cluster and the addresses at which they reach each other
    #[arg(long, value_name = "1=HOST:PORT,..", value_delimiter = ',')]
    #[arg(required_unless_present = "join")]
    voters: Vec<Voter>,
    /// Instead: addresses of nodes of a cluster that exists. The node asks them to be let in; it takes
    /// the place of the member that it was, or observes until it is given a vote
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',', conflicts_with = "voters")]
    join: Vec<HostPort>,
}

impl FormatArgs {
    /// Whom a directory is to join; `None` if it is one of a new cluster.
    pub(crate) fn join(&self) -> Result<Option<&[HostPort]>, Failure> {
        if let Some(addr) = self.join.iter().find(|addr| addr.port() == 0) {
            return Err(Failure::Usage(format!(
                "{addr} has port 0: name the port at which that node listens for its peers"
            )));
        }
        Ok((!self.join.is_empty()).then_some(self.join.as_slice()))
    }

    /// The voters by node id, every id and every address once, and this node among them.
    pub(crate) fn voters(&self) -> Result<BTreeMap<u64, HostPort>, Failure> {
        let mut voters: BTreeMap<u64, HostPort> = BTreeMap::new();
        for Voter { node_id, addr } in &self.voters {
            if addr.port() == 0 {
                return Err(Failure::Usage(format!(
                    "voter {node_id} has port 0: the others must know its real port, give one"
                )));
            }
            if voters.contains_key(node_id) {
                return Err(Failure::Usage(format!(
                    "node id {node_id} is doubled: name every node once in --voters"
                )));
            }
            if let Some((other, _)) = voters.iter().find(|(_, taken)| *taken == addr) {
                return Err(Failure::Usage(format!(
                    "nodes {other} and {node_id} have the same address {addr}: give every voter \
                     its own in --voters"
                )));
            }
            voters.insert(*node_id, addr.clone());
        }
        if voters.contains_key(&self.node_id) {
            return Ok(voters);
        }
        let known: Vec<String> = voters.keys().map(u64::to_string).collect();
        Err(Failure::Usage(format!(
            "node {} is not among the voters ({}): add it to --voters, or choose one of them with \
             --node-id",
            self.node_id,
            known.join(", ")
        )))
    }
}
