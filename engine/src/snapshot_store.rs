//! The folder of snapshot files: `snapshots/GROUP/INDEX-TERM.snap`.
//!
//! Names are numbers, written without leading zeros, parsed strictly and ordered as numbers:
//! as text, 9637 would come after 11192 (trap I10).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::directory;
use crate::ids::{GroupId, LogId};
use crate::snapshot::{FILE_BYTES_MAX, SnapshotError, SnapshotMeta};
use crate::snapshot_file::{SnapshotReader, SnapshotReceiver, SnapshotWriter};

const SUFFIX: &str = ".snap";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// The snapshot files of all groups. Cheap to clone; every method blocks on the disk.
#[derive(Debug, Clone)]
pub struct SnapshotStore(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    /// Tells apart the temporary files of this process.
    next_temporary: AtomicU64,
}

impl SnapshotStore {
    /// Opens the folder, creates it if need be, and removes temporary files that a crash left.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub(crate) fn in_dir(dir: PathBuf) -> Result<Self, SnapshotError> {
        directory::create_dir_durable(&dir).map_err(SnapshotError::io(&dir))?;
        for (name, path) in names(&dir)? {
            if number(&name).is_none() || !path.is_dir() {
                continue;
            }
            for (name, path) in names(&path)? {
                if name.ends_with(TEMPORARY_SUFFIX) {
                    std::fs::remove_file(&path).map_err(SnapshotError::io(&path))?;
                }
            }
        }
        Ok(Self(Arc::new(Folder { dir, next_temporary: AtomicU64::new(0) })))
    }

    /// Begins the snapshot `meta`. One of the same group and position is replaced when it is
    /// finished.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub fn create(&self, meta: SnapshotMeta) -> Result<SnapshotWriter, SnapshotError> {
        let (temporary, target) = self.paths(meta.group, meta.id)?;
        SnapshotWriter::create(meta, temporary, target)
    }

    /// Opens a snapshot to be read, its header verified and its position that of its name.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Missing`], [`SnapshotError::Damaged`], [`SnapshotError::Mismatch`],
    /// [`SnapshotError::Io`].
    pub fn open(&self, group: GroupId, id: LogId) -> Result<SnapshotReader, SnapshotError> {
        let reader = SnapshotReader::open(self.path(group, id))?;
        let found = (reader.meta().group, reader.meta().id);
        if found != (group, id) {
            return Err(SnapshotError::Mismatch { expected: (group, id), found });
        }
        Ok(reader)
    }

    /// Reads a snapshot to its end and verifies every block, the footer, and that its position is
    /// that of its name. One block in memory.
    ///
    /// # Errors
    ///
    /// As [`SnapshotStore::open`].
    pub fn verify(&self, group: GroupId, id: LogId) -> Result<(), SnapshotError> {
        self.open(group, id)?.verify()
    }

    /// Begins to receive a peer's file of `file_len` bytes.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::TooLarge`], [`SnapshotError::Io`].
    pub fn receive(
        &self,
        group: GroupId,
        id: LogId,
        file_len: u64,
    ) -> Result<SnapshotReceiver, SnapshotError> {
        if file_len > FILE_BYTES_MAX {
            return Err(SnapshotError::TooLarge { announced: file_len, max: FILE_BYTES_MAX });
        }
        let (temporary, target) = self.paths(group, id)?;
        SnapshotReceiver::create((group, id), file_len, temporary, target)
    }

    /// The file of a snapshot and its length in bytes, to be sent as it is. It stays readable
    /// while it is open, also when it is superseded meanwhile. The receiver verifies it.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Missing`], [`SnapshotError::Io`].
    pub fn raw(&self, group: GroupId, id: LogId) -> Result<(File, u64), SnapshotError> {
        let path = self.path(group, id);
        match File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((len, file)) => Ok((file, len)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SnapshotError::Missing { path })
            }
            Err(source) => Err(SnapshotError::Io { path, source }),
        }
    }

    /// The positions of a group's snapshots, ascending as numbers. Other files are passed over.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub fn list(&self, group: GroupId) -> Result<Vec<LogId>, SnapshotError> {
        let mut ids: Vec<_> =
            names(&self.group_dir(group))?.iter().filter_map(|(name, _)| parse(name)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The newest of a group's snapshots by its name.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub fn latest(&self, group: GroupId) -> Result<Option<LogId>, SnapshotError> {
        Ok(self.list(group)?.pop())
    }

    /// Removes a group's snapshots that are older than `keep`, and returns how many. Call it only
    /// when a record that names `keep` is durable.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub fn retain(&self, group: GroupId, keep: LogId) -> Result<usize, SnapshotError> {
        let mut ids = self.list(group)?;
        ids.retain(|id| *id < keep);
        for id in &ids {
            let path = self.path(group, *id);
            std::fs::remove_file(&path).map_err(SnapshotError::io(&path))?;
        }
        Ok(ids.len())
    }

    /// Groups that have a folder here, ascending.
    pub(crate) fn groups(&self) -> Result<Vec<GroupId>, SnapshotError> {
        let numbers = names(&self.0.dir)?.into_iter().filter_map(|(name, _)| number(&name));
        let mut groups: Vec<_> = numbers.filter_map(GroupId::new).collect();
        groups.sort_unstable();
        Ok(groups)
    }

    /// The file of a snapshot.
    pub(crate) fn path(&self, group: GroupId, id: LogId) -> PathBuf {
        self.group_dir(group).join(format!("{}-{}{SUFFIX}", id.index, id.term))
    }

    /// The folder of one group's snapshots.
    pub(crate) fn group_dir(&self, group: GroupId) -> PathBuf {
        self.0.dir.join(group.to_string())
    }

    /// A fresh temporary name and the final one, in a group's folder that exists.
    fn paths(&self, group: GroupId, id: LogId) -> Result<(PathBuf, PathBuf), SnapshotError> {
        let dir = self.group_dir(group);
        directory::create_dir_durable(&dir).map_err(SnapshotError::io(&dir))?;
        let target = self.path(group, id);
        let number = self.0.next_temporary.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}{SUFFIX}.{number}{TEMPORARY_SUFFIX}", id.index, id.term);
        Ok((dir.join(name), target))
    }
}

/// Names in a directory that are text, with their paths; none if the directory does not exist.
fn names(dir: &Path) -> Result<Vec<(String, PathBuf)>, SnapshotError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(SnapshotError::Io { path: dir.to_owned(), source }),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(SnapshotError::io(dir))?;
        if let Some(name) = entry.file_name().to_str() {
            names.push((name.to_owned(), entry.path()));
        }
    }
    Ok(names)
}

/// A number as we write it: digits only, without a leading zero.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_plain)?;
    (text == "0" || !text.starts_with('0')).then_some(number)
}

/// The position in a file's name.
fn parse(name: &str) -> Option<LogId> {
    let (index, term) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    Some(LogId::new(number(index)?, number(term)?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn group() -> GroupId {
        GroupId::new(1).unwrap()
    }

    fn store(dir: &Path) -> SnapshotStore {
        SnapshotStore::in_dir(dir.join("snapshots")).unwrap()
    }

    fn make(store: &SnapshotStore, id: LogId) {
        let meta = SnapshotMeta {
            group: group(),
            id,
            conf_state: Default::default(),
            members: Default::default(),
        };
        let mut writer = store.create(meta).unwrap();
        writer.write_all(b"state").unwrap();
        writer.finish().unwrap();
    }

    #[test]
    fn trap_I10_snapshots_are_ordered_as_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        assert_eq!(store.latest(group()).unwrap(), None);
        let ids = [LogId::new(9637, 2), LogId::new(11192, 2), LogId::new(11192, 10)];
        ids.iter().rev().for_each(|id| make(&store, *id));
        std::fs::write(store.group_dir(group()).join("99999-1.snap.bak"), b"").unwrap();
        std::fs::write(store.group_dir(group()).join("099999-1.snap"), b"").unwrap();
        assert_eq!(store.list(group()).unwrap(), ids);
        assert_eq!(store.latest(group()).unwrap(), Some(ids[2]));
        assert_eq!(store.retain(group(), ids[1]).unwrap(), 1);
        assert_eq!(store.list(group()).unwrap(), ids[1..]);
    }

    #[test]
    fn names_are_parsed_strictly() {
        assert_eq!(parse("11192-9.snap"), Some(LogId::new(11192, 9)));
        assert_eq!(parse("0-0.snap"), Some(LogId::new(0, 0)));
        for bad in [
            "01-9.snap",
            "1-09.snap",
            "+1-9.snap",
            "1-.snap",
            "-1.snap",
            "1.snap",
            "1-9",
            "1-9.snap.tmp",
            "1-9-9.snap",
            "18446744073709551616-1.snap",
            " 1-9.snap",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn trap_I10_what_a_crash_left_is_removed_at_open() {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        make(&first, LogId::new(5, 1));
        std::mem::forget(first.receive(group(), LogId::new(9, 1), 10).unwrap());
        let count =
            |store: &SnapshotStore| std::fs::read_dir(store.group_dir(group())).unwrap().count();
        assert_eq!(count(&first), 2);
        let second = store(dir.path());
        assert_eq!(count(&second), 1);
        assert_eq!(second.latest(group()).unwrap(), Some(LogId::new(5, 1)));
    }
}
