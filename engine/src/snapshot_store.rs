//! The folder of snapshot files: `snapshots/GROUP/INDEX-TERM.snap`.
//!
//! Names are numbers, written without leading zeros, parsed strictly and ordered as numbers:
//! as text, 9637 would come after 11192 (trap I10).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::directory;
use crate::files::Files;
use crate::ids::{GroupId, LogId};
use crate::partials::Partials;
use crate::snapshot::{FILE_BYTES_MAX, SnapshotDigest, SnapshotError, SnapshotMeta};
use crate::snapshot_file::{SnapshotFile, SnapshotReader, SnapshotWriter};
use crate::snapshot_receiver::SnapshotReceiver;

const SUFFIX: &str = ".snap";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// The snapshot files of all groups. Cheap to clone; every method blocks on the disk.
///
/// # Files that nobody asked for
///
/// The group's record names the snapshot that counts; a file is never taken for it because it is
/// there. So these may be there, and change nothing:
///
/// - A file older than the record's: a power loss can bring back what was removed.
/// - A newer one: a crash came between the file and its record, or its name could not be made
///   durable.
///
/// Both go when [`SnapshotStore::retain`] is called for something newer still.
#[derive(Debug, Clone)]
pub struct SnapshotStore(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    files: Arc<dyn Files>,
    /// Tells apart the temporary files of this process.
    next_temporary: AtomicU64,
    /// Files whose transfer was cut.
    partials: Partials,
}

impl SnapshotStore {
    /// The snapshots in `dir`, which need not exist: then there are none, and the first one that
    /// is written makes it. Nothing is read or changed now.
    pub(crate) fn in_dir(dir: PathBuf, files: Arc<dyn Files>) -> Self {
        let (next_temporary, partials) = (AtomicU64::new(0), Partials::default());
        Self(Arc::new(Folder { dir, files, next_temporary, partials }))
    }

    /// Removes the temporary files that a crash left, those of cut transfers among them. Call it before anything is written.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub(crate) fn remove_temporaries(&self) -> Result<(), SnapshotError> {
        for group in self.groups()? {
            for (name, path) in names(&self.group_dir(group))? {
                if name.ends_with(TEMPORARY_SUFFIX) {
                    self.0.files.remove(&path).map_err(SnapshotError::io(&path))?;
                }
            }
        }
        Ok(())
    }

    /// Begins the snapshot `meta`. One of the same group and position is replaced when it is
    /// finished.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub fn create(&self, meta: SnapshotMeta) -> Result<SnapshotWriter, SnapshotError> {
        let (temporary, target) = self.paths(meta.group, meta.id, None)?;
        SnapshotWriter::create(&self.0.files, meta, &temporary, target)
    }

    /// Opens a snapshot to be read, its header verified and its position that of its name.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Missing`], [`SnapshotError::Damaged`], [`SnapshotError::Mismatch`],
    /// [`SnapshotError::Io`].
    pub fn open(&self, group: GroupId, id: LogId) -> Result<SnapshotReader, SnapshotError> {
        let reader = SnapshotReader::open(&self.0.files, self.path(group, id))?;
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

    /// Begins to receive a peer's file, or goes on with it where a cut transfer of exactly this
    /// file stopped: see [`SnapshotReceiver::received_bytes`]. A part of any other file of the
    /// group is removed.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::TooLarge`], [`SnapshotError::Io`].
    pub fn receive(
        &self,
        group: GroupId,
        id: LogId,
        digest: SnapshotDigest,
    ) -> Result<SnapshotReceiver, SnapshotError> {
        if digest.len_bytes > FILE_BYTES_MAX {
            let (announced, max) = (digest.len_bytes, FILE_BYTES_MAX);
            return Err(SnapshotError::TooLarge { announced, max });
        }
        if let Some(receiver) = self.0.partials.take(group, id, digest) {
            return Ok(receiver);
        }
        let (temporary, target) = self.paths(group, id, Some(digest))?;
        SnapshotReceiver::create(&self.0.files, (group, id), digest, &temporary, target)
    }

    /// Keeps what has come of a file whose transfer was cut, for the next
    /// [`SnapshotStore::receive`] of the same. Only after a cut: a receiver that gave an error is
    /// dropped. At most one file of a group is kept, and eight in all; the oldest goes.
    pub fn suspend(&self, receiver: SnapshotReceiver) {
        self.0.partials.keep(receiver);
    }

    /// The file of a snapshot, to be sent as it is.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Missing`], [`SnapshotError::Io`].
    pub fn raw(&self, group: GroupId, id: LogId) -> Result<SnapshotFile, SnapshotError> {
        SnapshotFile::open(&self.0.files, &self.path(group, id))
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

    /// The newest of a group's snapshots by its name. It need not be the one that counts: the
    /// group's record names that.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub fn latest(&self, group: GroupId) -> Result<Option<LogId>, SnapshotError> {
        Ok(self.list(group)?.pop())
    }

    /// Removes a group's snapshots that are older than `keep`, and returns how many; and the part of
    /// a peer's that is not newer. Call it only when a record that names `keep` is durable.
    ///
    /// The removals are not made durable: a power loss may bring any of the files back, whole as
    /// they were, and nothing names them. The next call lists and removes them again.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`]; what is left is removed by the next call.
    pub fn retain(&self, group: GroupId, keep: LogId) -> Result<usize, SnapshotError> {
        self.0.partials.superseded(group, keep);
        let mut ids = self.list(group)?;
        ids.retain(|id| *id < keep);
        for id in &ids {
            let path = self.path(group, *id);
            self.0.files.remove(&path).map_err(SnapshotError::io(&path))?;
        }
        Ok(ids.len())
    }

    /// Removes everything of a group, temporary files and its folder included. Call it only when the
    /// group is durably gone from the log.
    ///
    /// The removals are not made durable: a power loss may bring any of the files back, and nothing
    /// names them.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`]; what is left is removed by the next call.
    pub fn discard(&self, group: GroupId) -> Result<(), SnapshotError> {
        let dir = self.group_dir(group);
        for (_, path) in names(&dir)? {
            self.0.files.remove(&path).map_err(SnapshotError::io(&path))?;
        }
        match std::fs::remove_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SnapshotError::io(&dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes everything of the groups that are not to stay: a crash came before it was removed with
    /// the group, or after it was written for one that had yet to begin.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`]; what is left is removed by the next call.
    pub(crate) fn discard_others(
        &self,
        stays: impl Fn(&GroupId) -> bool,
    ) -> Result<(), SnapshotError> {
        self.groups()?.into_iter().filter(|group| !stays(group)).try_for_each(|it| self.discard(it))
    }

    /// Groups that have a folder here, ascending.
    pub(crate) fn groups(&self) -> Result<Vec<GroupId>, SnapshotError> {
        let names = names(&self.0.dir)?.into_iter().filter(|(_, path)| path.is_dir());
        let numbers = names.filter_map(|(name, _)| number(&name));
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
    /// The temporary name of a file of a peer also tells which file.
    fn paths(
        &self,
        group: GroupId,
        id: LogId,
        of_peer: Option<SnapshotDigest>,
    ) -> Result<(PathBuf, PathBuf), SnapshotError> {
        let dir = self.make_group_dir(group)?;
        let target = self.path(group, id);
        let number = self.0.next_temporary.fetch_add(1, Ordering::Relaxed);
        let digest = of_peer.map_or_else(String::new, |digest| format!(".{digest}"));
        let LogId { index, term } = id;
        let name = format!("{index}-{term}{SUFFIX}{digest}.{number}{TEMPORARY_SUFFIX}");
        Ok((dir.join(name), target))
    }

    /// The folder of a group, made if need be, its name durable.
    ///
    /// It is synced also when it is there: a crash or an error may have come between making it
    /// and making it durable, and a snapshot in a folder without a name is lost. Next to writing
    /// one that costs nothing.
    fn make_group_dir(&self, group: GroupId) -> Result<PathBuf, SnapshotError> {
        let dir = self.group_dir(group);
        // Nothing above: the data directory is there, or is not to be written to.
        for dir in [&self.0.dir, &dir] {
            match std::fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(SnapshotError::io(dir)(error));
                }
                _ => {
                    let parent = directory::parent_of(dir);
                    self.0.files.sync_dir(&parent).map_err(SnapshotError::io(&parent))?;
                }
            }
        }
        Ok(dir)
    }
}

/// Names in a directory that are text, with their paths; none if the directory does not exist.
fn names(dir: &Path) -> Result<Vec<(String, PathBuf)>, SnapshotError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(SnapshotError::io(dir)(error)),
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

    use raft_engine::env::DefaultFileSystem;

    use super::*;
    use crate::files::DiskFiles;
    use crate::testing::{Step, faulty};

    const ANY: SnapshotDigest = SnapshotDigest { len_bytes: 10, crcs: 1 };

    fn group() -> GroupId {
        GroupId::new(1).unwrap()
    }

    fn store(dir: &Path) -> SnapshotStore {
        store_on(dir, DiskFiles::over(Arc::new(DefaultFileSystem)))
    }

    fn store_on(dir: &Path, files: Arc<dyn Files>) -> SnapshotStore {
        SnapshotStore::in_dir(dir.join("snapshots"), files)
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
    fn trap_I10_what_a_crash_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        make(&first, LogId::new(5, 1));
        std::mem::forget(first.receive(group(), LogId::new(9, 1), ANY).unwrap());
        let count =
            |store: &SnapshotStore| std::fs::read_dir(store.group_dir(group())).unwrap().count();
        assert_eq!(count(&first), 2);
        let second = store(dir.path());
        assert_eq!(count(&second), 2, "nothing is changed unasked");
        second.remove_temporaries().unwrap();
        assert_eq!(count(&second), 1);
        assert_eq!(second.latest(group()).unwrap(), Some(LogId::new(5, 1)));
    }

    #[test]
    fn looking_at_a_folder_that_is_not_there_does_not_make_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, id) = (store(dir.path()), LogId::new(5, 1));
        store.remove_temporaries().unwrap();
        assert_eq!(store.list(group()).unwrap(), []);
        assert_eq!(store.latest(group()).unwrap(), None);
        assert_eq!(store.groups().unwrap(), []);
        assert_eq!(store.retain(group(), id).unwrap(), 0);
        assert!(matches!(store.open(group(), id), Err(SnapshotError::Missing { .. })));
        assert!(matches!(store.verify(group(), id), Err(SnapshotError::Missing { .. })));
        assert!(matches!(store.raw(group(), id), Err(SnapshotError::Missing { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        make(&store, id);
        assert_eq!(store.groups().unwrap(), [group()]);
    }

    #[test]
    fn a_folder_whose_name_was_not_made_durable_is_synced_again() {
        let dir = tempfile::tempdir().unwrap();
        let (faults, files) = faulty();
        let store = store_on(dir.path(), files);
        let meta = SnapshotMeta {
            group: group(),
            id: LogId::new(5, 1),
            conf_state: Default::default(),
            members: Default::default(),
        };
        faults.fail(Step::SyncDir, 1);
        assert!(store.create(meta.clone()).is_err());
        assert!(faults.heal() && store.group_dir(group()).is_dir());
        // It is there now, and is not taken for durable.
        faults.fail(Step::SyncDir, 1);
        assert!(store.create(meta).is_err());
        // The data directory itself is never made.
        let gone = store_on(&dir.path().join("gone"), faulty().1);
        let error = gone.receive(group(), LogId::new(5, 1), ANY).unwrap_err();
        assert!(matches!(error, SnapshotError::Io { .. }), "{error}");
        assert!(!dir.path().join("gone").exists());
    }

    #[test]
    fn what_a_power_loss_brings_back_is_removed_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let ids = [LogId::new(5, 1), LogId::new(9, 1), LogId::new(12, 2)];
        ids[..2].iter().for_each(|id| make(&store, *id));
        let (path, content) = (store.path(group(), ids[0]), dir.path().join("content"));
        std::fs::copy(&path, &content).unwrap();
        assert_eq!(store.retain(group(), ids[1]).unwrap(), 1);
        std::fs::copy(&content, &path).unwrap();
        assert_eq!(store.latest(group()).unwrap(), Some(ids[1]));
        make(&store, ids[2]);
        assert_eq!(store.retain(group(), ids[2]).unwrap(), 2);
        assert_eq!(store.list(group()).unwrap(), ids[2..]);
    }
}
