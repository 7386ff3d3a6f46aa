//! [`Directory`]: a data directory as the offline commands find it, and what is wrong with it.

use std::collections::BTreeSet;
use std::path::Path;

use quorate_engine::{Damage, GroupId, IdentityError, InspectError, Inspection, OpenError};
use serde::Serialize;

use crate::failure::Failure;

/// A directory that was looked at. Nothing in it was changed, and no lock was taken.
#[derive(Debug)]
pub(crate) struct Directory {
    /// What is in it; none when the damage leaves nothing to read.
    pub(crate) inspection: Option<Inspection>,
    /// What is damaged; empty when all is well.
    pub(crate) damage: Vec<Damage>,
}

impl Directory {
    /// Looks at `dir`. Damage is no failure here but a finding, that of the identity too.
    pub(crate) fn look_at(dir: &Path) -> Result<Directory, Failure> {
        let damage = match Inspection::of(dir) {
            Ok(inspection) => {
                let damage = inspection.damage.clone();
                return Ok(Directory { inspection: Some(inspection), damage });
            }
            Err(InspectError::Identity(IdentityError::Damaged(finding))) => vec![finding],
            Err(InspectError::Open(OpenError::Damaged { findings })) => findings,
            // "Format it first" would be no help to who wants to know what is in it.
            Err(InspectError::Identity(IdentityError::NotFormatted { dir })) => {
                return Err(Failure::Failed(format!(
                    "{} was never formatted, there is nothing of quorate in it: name the \
                     directory that 'quorate format' made with --data-dir",
                    dir.display()
                )));
            }
            Err(error) => return Err(Failure::Failed(error.to_string())),
        };
        Ok(Directory { inspection: None, damage })
    }

    /// Every group that is known of, damaged or not, ascending.
    pub(crate) fn groups(&self) -> BTreeSet<GroupId> {
        let whole = self.inspection.iter().flat_map(|found| &found.groups).map(|g| g.group);
        whole.chain(self.damage.iter().filter_map(|finding| finding.group)).collect()
    }

    /// The first finding that concerns `group`: its own one, or that of the whole directory.
    pub(crate) fn damage_of(&self, group: GroupId) -> Option<&Damage> {
        let own = self.damage.iter().find(|finding| finding.group == Some(group));
        own.or_else(|| self.damage.iter().find(|finding| finding.group.is_none()))
    }

    /// Fails when anything is damaged.
    pub(crate) fn verdict(&self, dir: &Path) -> Result<(), Failure> {
        let said = match self.damage.len() {
            0 => return Ok(()),
            1 => "1 thing is".to_owned(),
            count => format!("{count} things are"),
        };
        Err(Failure::Failed(format!(
            "{}: {said} damaged: change nothing by hand, and follow the remedy of each finding",
            dir.display()
        )))
    }
}

/// A finding as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    file: String,
    offset: Option<u64>,
    group: Option<u64>,
    index: Option<u64>,
    what: String,
    remedy: &'static str,
}

impl From<&Damage> for Finding {
    fn from(damage: &Damage) -> Finding {
        let Damage { group, file, offset, index, what, remedy } = damage;
        Finding {
            file: file.display().to_string(),
            offset: *offset,
            group: group.map(GroupId::get),
            index: *index,
            what: what.clone(),
            remedy,
        }
    }
}

impl Finding {
    /// Its fields, for people.
    pub(crate) fn fields(&self, title: &'static str) -> Vec<(&'static str, String)> {
        let known = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
        vec![
            (title, self.what.clone()),
            ("file", self.file.clone()),
            ("offset", known(self.offset)),
            ("group", self.group.map_or_else(|| "all".to_owned(), |group| group.to_string())),
            ("index", known(self.index)),
            ("remedy", self.remedy.to_owned()),
        ]
    }
}
