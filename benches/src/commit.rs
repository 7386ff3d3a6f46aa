//! `commit`: how long one proposal takes on an idle cluster, and what the disk takes of it.
//!
//! A commit is two fdatasyncs in sequence (the leader's, then a follower's) and one round trip; so
//! its p50 beside that of one bare fdatasync says what everything else costs.

use std::path::PathBuf;

use crate::process::Failure;
use crate::report::Row;
use crate::trio::Trio;

/// Measures, with every node in a process of its own.
pub(crate) fn run(proposals: u32, dir: Option<PathBuf>) -> Result<Vec<Row>, Failure> {
    let dir = match dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut trio = Trio::start(dir.path())?;
    let leader = trio.leader()?;
    let rows = trio.ask(leader, &format!("commit {proposals}"))?;
    Ok(serde_json::from_str(&rows)?)
}
