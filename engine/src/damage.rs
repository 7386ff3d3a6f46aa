//! What is wrong with a directory: where, what it means, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::frame::FrameError;
use crate::ids::GroupId;

/// What to do when everything in a directory is in doubt.
pub(crate) const REPLACE_NODE: &str = "do not delete files by hand: the votes and acknowledgements of this member are lost. Keep the \
     directory for inspection, remove the node from the cluster, format an empty directory and \
     let it join as a new member";

/// What to do when one group of a node is in doubt.
pub(crate) const REPLACE_GROUP: &str = "do not delete files by hand: the votes and acknowledgements of this member of the group are \
     lost. It must be replaced by a new member; other groups of this node are not concerned";

/// What to do when the newer program wrote what this one reads.
pub(crate) const NEWER_PROGRAM: &str =
    "start the release that wrote this directory, or a newer one";

/// What to do about a file that is not ours.
pub(crate) const MOVE_OUT: &str = "move it out of the directory";

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
            _ => REPLACE_NODE,
        };
        Self::of_file(file, format!("{thing} is damaged: {error}"), remedy)
    }

    /// Whether something of what was durable may be lost, for good. A release that is too old to
    /// read the directory, or a stray file, takes nothing with it.
    pub(crate) fn is_loss(&self) -> bool {
        self.remedy != NEWER_PROGRAM && self.remedy != MOVE_OUT
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
        self.fmt_what(f)?;
        write!(f, ". Remedy: {}", self.remedy)
    }
}

/// Findings as one sentence: the first ones, how many more there are, and the remedy once.
pub(crate) struct Findings<'a>(pub &'a [Damage]);

/// Findings spelled out in one sentence.
const SPELLED_OUT_MAX: usize = 3;

impl fmt::Display for Findings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, damage) in self.0.iter().take(SPELLED_OUT_MAX).enumerate() {
            if number > 0 {
                f.write_str("; ")?;
            }
            damage.fmt_what(f)?;
        }
        if let Some(more) = self.0.len().checked_sub(SPELLED_OUT_MAX).filter(|more| *more > 0) {
            write!(f, "; and {more} more")?;
        }
        match self.0.first() {
            Some(first) => write!(f, ". Remedy: {}", first.remedy),
            None => Ok(()),
        }
    }
}

impl Damage {
    fn fmt_what(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        write!(f, ": {}", self.what)
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
        let many = vec![damage; 5];
        let all = Findings(&many).to_string();
        assert_eq!(all.matches("entry missing").count(), 3, "{all}");
        assert!(all.contains("; and 2 more. Remedy: "), "{all}");
    }
}
