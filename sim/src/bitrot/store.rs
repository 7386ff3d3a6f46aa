//! The stores that are damaged: small, with several log files, rewritten entries, two groups and
//! snapshots, and cleanly closed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_engine::{DefaultFileSystem, Formatted, Identity};

use crate::scratch::scratch;
use crate::state::StoreState;
use crate::workload::{Ledger, WorkloadError, found, run};

/// Histories whose stores have between them all that is to be damaged, and are small. In the
/// first there are many log files, and two of what a purge has rewritten. In the second the log
/// files before the purge are gone, so that what was rewritten is there only once: entries, and a
/// founding record.
pub(super) const SEEDS: [u64; 2] = [65, 42];
/// A file without content, for the lock alone.
const LOCK: &str = "LOCK";

/// A store: every file of it, and what it holds.
#[derive(Debug)]
pub(super) struct Store {
    /// Seed of its history.
    pub seed: u64,
    dirs: Vec<PathBuf>,
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// Who the directory is.
    pub identity: Identity,
    /// What the engine must recover.
    pub state: StoreState,
}

impl Store {
    /// The store that the history of `seed` leaves.
    pub(super) fn make(seed: u64) -> Result<Self, WorkloadError> {
        let dir = scratch()?;
        found(dir.path())?;
        let disk = Arc::new(DefaultFileSystem);
        let promise = run(seed, disk, dir.path(), Ledger::default())?;
        let identity = Formatted::open(dir.path())?.identity().clone();
        let state = (*promise.acknowledged).clone();
        let mut store = Self { seed, dirs: Vec::new(), files: BTreeMap::new(), identity, state };
        store.scan(dir.path(), Path::new(""))?;
        Ok(store)
    }

    fn scan(&mut self, root: &Path, dir: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(root.join(dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.dirs.push(path.clone());
                self.scan(root, &path)?;
            } else if entry.file_name() != LOCK {
                self.files.insert(path, std::fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    /// All files and their contents, in the order of their names.
    pub(super) fn files(&self) -> &BTreeMap<PathBuf, Vec<u8>> {
        &self.files
    }

    pub(super) fn content(&self, file: &Path) -> &[u8] {
        self.files.get(file).map_or(&[], Vec::as_slice)
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|content| content.len() as u64).sum()
    }

    /// The file and the offset in it of a byte of the store.
    pub(super) fn place(&self, mut byte: u64) -> (&Path, u64) {
        for (file, content) in &self.files {
            if byte < content.len() as u64 {
                return (file, byte);
            }
            byte -= content.len() as u64;
        }
        (Path::new(""), 0)
    }

    /// Writes a copy into an empty directory, with these files instead of its own; `None` is a
    /// file that is lost.
    pub(super) fn copy(
        &self,
        dir: &Path,
        changed: &BTreeMap<PathBuf, Option<Vec<u8>>>,
    ) -> io::Result<()> {
        for sub in &self.dirs {
            std::fs::create_dir(dir.join(sub))?;
        }
        for (path, content) in &self.files {
            match changed.get(path) {
                None => std::fs::write(dir.join(path), content)?,
                Some(Some(content)) => std::fs::write(dir.join(path), content)?,
                Some(None) => {}
            }
        }
        Ok(())
    }
}
