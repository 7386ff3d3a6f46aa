//! What is done to a store at rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::store::Store;

/// One damage to one store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RotDamage {
    /// One bit of one byte.
    Flip {
        /// The file, relative to the data directory.
        file: PathBuf,
        /// The byte.
        offset: u64,
        /// The bit, 0 to 7.
        bit: u32,
    },
    /// A file is lost.
    Delete {
        /// The file.
        file: PathBuf,
    },
    /// A file is cut off.
    Truncate {
        /// The file.
        file: PathBuf,
        /// Bytes that are left.
        len: u64,
    },
    /// Two files have each other's content.
    Swap {
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

impl RotDamage {
    /// The files that it is done to.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Flip { file, .. } | Self::Delete { file } | Self::Truncate { file, .. } => {
                vec![file]
            }
            Self::Swap { first, second } => vec![first, second],
        }
    }

    /// The damaged files with their new contents; `None` is a lost one.
    pub(super) fn apply(&self, store: &Store) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let content = |file: &Path| store.content(file).to_vec();
        match self {
            Self::Flip { file, offset, bit } => {
                let mut content = content(file);
                if let Some(byte) = content.get_mut(*offset as usize) {
                    *byte ^= 1 << (bit % 8);
                }
                [(file.clone(), Some(content))].into()
            }
            Self::Delete { file } => [(file.clone(), None)].into(),
            Self::Truncate { file, len } => {
                let mut content = content(file);
                content.truncate(*len as usize);
                [(file.clone(), Some(content))].into()
            }
            Self::Swap { first, second } => {
                [(first.clone(), Some(content(second))), (second.clone(), Some(content(first)))]
                    .into()
            }
        }
    }
}

/// Each file lost, cut off at several lengths, and swapped with each other.
pub(super) fn whole_files(store: &Store) -> Vec<RotDamage> {
    let mut damages = Vec::new();
    let files: Vec<_> = store.files().iter().collect();
    for (number, (file, content)) in files.iter().enumerate() {
        damages.push(RotDamage::Delete { file: (*file).clone() });
        let len = content.len() as u64;
        // Nothing; a part of any header; a log file's header alone; half; all but a little.
        let mut lens = vec![0, 1, 20, 69, len / 2, len.saturating_sub(20), len.saturating_sub(1)];
        lens.retain(|left| *left < len);
        lens.sort_unstable();
        lens.dedup();
        damages
            .extend(lens.into_iter().map(|len| RotDamage::Truncate { file: (*file).clone(), len }));
        for (other, other_content) in &files[number + 1..] {
            if content != other_content {
                let (first, second) = ((*file).clone(), (*other).clone());
                damages.push(RotDamage::Swap { first, second });
            }
        }
    }
    damages
}
