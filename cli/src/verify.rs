//! `quorate verify`: whether a data directory is what was written, offline.

use quorate_engine::{GroupId, InspectedGroup};
use serde::Serialize;

use crate::args::{OfflineArgs, Output};
use crate::directory::{Directory, Finding};
use crate::failure::Failure;
use crate::output::{self, Rows};

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    /// The last batch that is on disk; null when nothing could be read.
    sequence: Option<u64>,
    groups: Vec<Group>,
    damage: Vec<Finding>,
    /// What is not as it was written, and takes nothing with it.
    notes: Vec<Finding>,
}

/// A group; of a damaged one nothing else may be known.
#[derive(Debug, Serialize)]
struct Group {
    group: u64,
    first_index: Option<u64>,
    last_index: Option<u64>,
    commit_index: Option<u64>,
    term: Option<u64>,
    snapshot_index: Option<u64>,
    damaged: Option<String>,
}

/// Verifies, prints what was found, and fails on damage.
pub(crate) fn run(output: Output, args: &OfflineArgs) -> Result<(), Failure> {
    let directory = Directory::look_at(&args.data_dir)?;
    let report = Report::of(&directory);
    match output {
        Output::Json => output::print_json(&report)?,
        Output::Table => output::print_text(&report.text())?,
    }
    directory.verdict(&args.data_dir)
}

impl Report {
    fn of(directory: &Directory) -> Report {
        let found = directory.inspection.as_ref();
        let group = |group: GroupId| {
            let known = found.and_then(|found| found.groups.iter().find(|one| one.group == group));
            Group::of(group, known, directory)
        };
        Report {
            ok: directory.damage.is_empty(),
            sequence: found.map(|found| found.sequence),
            groups: directory.groups().into_iter().map(group).collect(),
            damage: directory.damage.iter().map(Finding::from).collect(),
            notes: found.map_or_else(Vec::new, |f| f.notes.iter().map(Finding::from).collect()),
        }
    }

    /// For people: the groups, then each finding, then what to think of it all.
    fn text(&self) -> String {
        let mut parts = vec![output::rows_table(&self.groups)];
        let all = [("damage", &self.damage), ("note", &self.notes)];
        for (title, findings) in all {
            parts.extend(findings.iter().map(|one| output::fields_table(&one.fields(title))));
        }
        let result = if self.ok { "ok" } else { "damaged" };
        parts.push(output::fields_table(&[("result", result.to_owned())]));
        parts.join("\n\n")
    }
}

impl Group {
    fn of(group: GroupId, known: Option<&InspectedGroup>, directory: &Directory) -> Group {
        Group {
            group: group.get(),
            first_index: known.map(|known| known.first_index),
            last_index: known.map(|known| known.last_index),
            commit_index: known.map(|known| known.hard_state.commit),
            term: known.map(|known| known.hard_state.term),
            snapshot_index: known.map(|known| known.snapshot.index),
            damaged: directory.damage_of(group).map(ToString::to_string),
        }
    }
}

impl Rows for Group {
    fn header() -> &'static [&'static str] {
        &["group", "first_index", "last_index", "commit_index", "term", "snapshot_index", "damaged"]
    }

    fn cells(&self) -> Vec<String> {
        let known = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
        let damaged = if self.damaged.is_some() { "yes" } else { "no" };
        vec![
            self.group.to_string(),
            known(self.first_index),
            known(self.last_index),
            known(self.commit_index),
            known(self.term),
            known(self.snapshot_index),
            damaged.to_owned(),
        ]
    }
}
