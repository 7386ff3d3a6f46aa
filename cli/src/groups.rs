//! [`ShownGroups`]: groups that are created or removed, in an entry of a log, as it is shown.

use std::fmt;

use quorate_engine::GroupId;
use quorate_loop::{CatalogueChange, Member, catalogue_change_of};
use raft::eraftpb::Entry;
use serde::Serialize;

/// A change of which groups there are.
#[derive(Debug, Serialize)]
pub(crate) struct ShownGroups {
    /// `create` or `remove`.
    change: &'static str,
    /// First and last of each run of ids.
    ids: Vec<(u64, u64)>,
    /// Who they begin with; nobody, where groups are removed.
    founders: Vec<ShownFounder>,
}

#[derive(Debug, Serialize)]
struct ShownFounder {
    member_id: u64,
    node_id: u64,
    directory_id: String,
    addr: String,
}

impl ShownGroups {
    /// What `entry` says about which groups there are, or why that cannot be read; `None` where it says
    /// nothing about it.
    pub(crate) fn of(entry: &Entry) -> Option<Result<ShownGroups, String>> {
        let change = catalogue_change_of(entry)?.map_err(|error| error.to_string());
        Some(change.map(|change| match change {
            CatalogueChange::Create { groups, founders } => ShownGroups {
                change: "create",
                ids: runs(&groups),
                founders: founders.iter().map(ShownFounder::of).collect(),
            },
            CatalogueChange::Remove { groups } => {
                ShownGroups { change: "remove", ids: runs(&groups), founders: Vec::new() }
            }
        }))
    }
}

impl ShownFounder {
    fn of(member: &Member) -> ShownFounder {
        ShownFounder {
            member_id: member.member_id,
            node_id: member.node_id().get(),
            directory_id: member.binding.directory_id.to_string(),
            addr: member.addr.clone(),
        }
    }
}

fn runs(groups: &[GroupId]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for id in groups.iter().map(|group| group.get()) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => runs.push((id, id)),
        }
    }
    runs
}

impl fmt::Display for ShownGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} groups", self.change)?;
        for (place, (first, last)) in self.ids.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma} {first}")?,
                false => write!(f, "{comma} {first}-{last}")?,
            }
        }
        for (place, founder) in self.founders.iter().enumerate() {
            let before = if place == 0 { " on nodes" } else { "," };
            write!(f, "{before} {}", founder.node_id)?;
        }
        Ok(())
    }
}
