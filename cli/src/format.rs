//! `quorate format`: makes an empty directory the disk of one voter of a new cluster, or of a node that
//! joins one.

use std::collections::BTreeMap;
use std::path::Path;

use quorate::{FormatError, Founding, Identity, NodeId, Voter};
use serde::Serialize;
use uuid::Uuid;

use crate::args::{FormatArgs, Global};
use crate::failure::Failure;
use crate::hostport::HostPort;
use crate::output;

/// What was made.
#[derive(Debug, Serialize)]
struct Formatted {
    cluster_id: String,
    node_id: u64,
    directory_id: String,
    data_dir: String,
}

/// Formats, and prints the ids of the new disk.
pub(crate) fn run(global: &Global, args: &FormatArgs) -> Result<(), Failure> {
    let identity = match args.join()? {
        Some(addrs) => {
            let founding = Founding::Join(addrs.iter().map(HostPort::to_string).collect());
            format_as(&args.data_dir, args.cluster_id, args.node_id, founding)?
        }
        None => format_voter(&args.data_dir, args.cluster_id, args.node_id, &args.voters()?)?,
    };
    let formatted = Formatted {
        cluster_id: identity.cluster_id.to_string(),
        node_id: identity.node_id.get(),
        directory_id: identity.directory_id.to_string(),
        data_dir: args.data_dir.display().to_string(),
    };
    output::print_fields(
        global.output(),
        &formatted,
        &[
            ("formatted", formatted.data_dir.clone()),
            ("cluster_id", formatted.cluster_id.clone()),
            ("node_id", formatted.node_id.to_string()),
            ("directory_id", formatted.directory_id.clone()),
        ],
    )
}

/// Formats `data_dir` for one of the initial voters. Nothing is changed when it fails.
pub(crate) fn format_voter(
    data_dir: &Path,
    cluster_id: Uuid,
    node_id: u64,
    voters: &BTreeMap<u64, HostPort>,
) -> Result<Identity, Failure> {
    let founders = voters
        .iter()
        .map(|(number, addr)| Ok(Voter { node_id: node_of(*number)?, addr: addr.to_string() }))
        .collect::<Result<Vec<Voter>, Failure>>()?;
    format_as(data_dir, cluster_id, node_id, Founding::Voters(founders))
}

fn format_as(
    data_dir: &Path,
    cluster_id: Uuid,
    node_id: u64,
    founding: Founding,
) -> Result<Identity, Failure> {
    quorate::format(data_dir, cluster_id.into(), node_of(node_id)?, founding)
        .map_err(|error| refused(&error))
}

fn node_of(number: u64) -> Result<NodeId, Failure> {
    NodeId::new(number)
        .ok_or_else(|| Failure::Usage("node id 0 means none: use one from 1 up".to_owned()))
}

/// What was asked for cannot be: wrong usage. What the directory is, or the disk does: failed.
fn refused(error: &FormatError) -> Failure {
    match error {
        FormatError::AlreadyFormatted { .. }
        | FormatError::NotEmpty { .. }
        | FormatError::InUse { .. }
        | FormatError::Io { .. } => Failure::Failed(error.to_string()),
        _ => Failure::Usage(error.to_string()),
    }
}
