//! What is wrong with a directory: where, what it means, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::frame::FrameError;
use crate::ids::GroupId;

/// What to do when one group of a node is damaged.
pub(crate) const REPLACE_GROUP: &str = "do not delete files by hand: the votes and acknowledgements of this member are lost. Keep the \
     directory for inspection, remove the node from the cluster, format an empty directory and \
     let it join as a new member";

/// What to do when the newer program wrote what this one reads.
pub(crate) const NEWER_PROGRAM: &str =
    "start the release that wrote this directory, or a newer one";

/// A finding: something on disk is not what was written, or not what belongs there.
///
/// A member with a finding must not act as the member it was: its term, vote and
/// acknowledgements cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The group it belongs to; `None` when it concerns the whole directory.
    pub group: Option<GroupId>,
    /// The file, or the directory where no single file can be named.
    pub file: PathBuf,
    /// Byte offset in the file, where it is known.
    pub offset: Option<u64>,
    /// Index in the group's log, where it is known.
    pub index: Option<u64>,
    /// What was found, and what was expected.
    pub what: String,
    /// What the operator can do.
    pub remedy: &'static str,
}

impl Damage {
    /// A finding about the whole directory or one of its files.
    pub(crate) fn of_file(file: &Path, what: impl Into<String>, remedy: &'static str) -> Self {
        let (file, what) = (file.to_owned(), what.into());
        Self { group: None, file, offset: None, index: None, what, remedy }
    }

    /// A finding about one group.
    pub(crate) fn of_group(group: GroupId, file: &Path, what: impl Into<String>) -> Self {
        Self { group: Some(group), ..Self::of_file(file, what, REPLACE_GROUP) }
    }

    /// The finding that `thing` in `file` is not the frame it must be.
    pub(crate) fn of_frame(file: &Path, thing: &str, error: &FrameError) -> Self {
        let remedy = match error {
            FrameError::Version { .. } => NEWER_PROGRAM,
            _ => REPLACE_GROUP,
        };
        Self::of_file(file, format!("{thing} is damaged: {error}"), remedy)
    }

    /// The same finding, at this index of the log.
    pub(crate) fn at_index(self, index: u64) -> Self {
        Self { index: Some(index), ..self }
    }

    /// The same finding, at this byte of the file.
    pub(crate) fn at_offset(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        if let Some(group) = self.group {
            write!(f, ", group {group}")?;
        }
        if let Some(index) = self.index {
            write!(f, ", index {index}")?;
        }
        write!(f, ": {}. Remedy: {}", self.what, self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_place_and_remedy() {
        let group = GroupId::new(3).unwrap();
        let damage = Damage::of_group(group, Path::new("/d/log"), "entry missing")
            .at_index(17)
            .at_offset(4096);
        let text = damage.to_string();
        assert!(
            text.starts_with("/d/log at byte 4096, group 3, index 17: entry missing. Remedy: "),
            "{text}"
        );
    }
}
