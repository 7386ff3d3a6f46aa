//! The directory as the file system keeps it: durable names, and the lock of its one user.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Name of the identity file.
pub(crate) const IDENTITY: &str = "identity";
/// Name of the identity while it is being written.
pub(crate) const IDENTITY_TEMPORARY: &str = "identity.tmp";
/// Name of the lock file.
pub(crate) const LOCK: &str = "LOCK";
/// Name of the folder of raft-engine.
pub(crate) const LOG: &str = "log";
/// Name of the witness of the log's end.
pub(crate) const WITNESS: &str = "witness";
/// Name of the folder of quarantines.
pub(crate) const QUARANTINE: &str = "quarantine";
/// Name of the folder of what was replaced, kept for inspection.
pub(crate) const ASIDE: &str = "aside";
/// Name of the folder of snapshots.
pub(crate) const SNAPSHOTS: &str = "snapshots";

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The directory that holds the name of `dir`.
pub(crate) fn parent_of(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        // The root, or `..`: its own entry is as good as it gets.
        None => dir.to_owned(),
    }
}

/// Creates `dir` and what is missing above it, and makes every new name durable.
pub(crate) fn create_dir_durable(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = parent_of(dir);
    if parent != dir {
        create_dir_durable(&parent)?;
    }
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Err(error) if !dir.is_dir() => return Err(error),
        _ => {}
    }
    sync_dir(&parent)
}

/// The lock on a directory, held until dropped; the kernel releases it when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock without waiting; `None` when somebody else holds it.
    pub(crate) fn take(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(LOCK);
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        assert!(first.is_some());
        assert!(Lock::take(dir.path()).unwrap().is_none());
        drop(first);
        assert!(Lock::take(dir.path()).unwrap().is_some());
    }

    #[test]
    fn missing_parents_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_durable(&deep).unwrap();
        create_dir_durable(&deep).unwrap();
        assert!(deep.is_dir());
        std::fs::write(dir.path().join("file"), b"").unwrap();
        assert!(create_dir_durable(&dir.path().join("file")).is_err());
    }
}
