//! [`FrozenLog`]: the log files of a directory as they are at one moment, for offline tools.
//!
//! raft-engine takes a lock, cuts off torn tails and creates files, even when it is only to be
//! read. Offline it gets this [`FileSystem`] instead: contents come from the real files, opened
//! once and cut to their length at that time; every change stays in memory; and names are those of
//! empty files in a temporary directory, since raft-engine lists with the real file system
//! (trap E13). Nothing of the directory itself is changed, and no lock is taken, so that it works
//! beside a running node. What a purge removes meanwhile stays readable while it is open.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

use crate::disk::Disk;
use crate::log_files::{LogFiles, Queue};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct FrozenLog {
    mirror: tempfile::TempDir,
    files: Mutex<HashMap<PathBuf, Arc<Frozen>>>,
}

/// A file: as it was, or as it would be now.
#[derive(Debug)]
pub(crate) struct Frozen(Mutex<Contents>);

#[derive(Debug)]
enum Contents {
    Disk { file: File, len: u64 },
    Memory(Vec<u8>),
}

impl FrozenLog {
    /// Freezes the files in `dir`.
    ///
    /// # Errors
    ///
    /// Of the file system: the file, and what it said. `NotFound` when a running node removes a
    /// file at this very moment.
    pub(crate) fn of(dir: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let mirror = tempfile::tempdir().map_err(|error| (std::env::temp_dir(), error))?;
        let mut files = HashMap::new();
        let (names, _) = LogFiles::list(dir).map_err(|error| (dir.to_owned(), error))?;
        // What is appended before what a purge saves from it: beside a running purge an entry is
        // then found twice rather than not at all.
        for queue in [Queue::Append, Queue::Rewrite] {
            for number in names.numbers(queue) {
                let path = names.path(queue, *number);
                let is_last = names.last(queue).as_ref() == Some(&path);
                let frozen = Frozen::open(&path, is_last).map_err(|error| (path.clone(), error))?;
                let name = mirror.path().join(path.file_name().unwrap_or_default());
                File::create(&name).map_err(|error| (name.clone(), error))?;
                files.insert(name, Arc::new(frozen));
            }
        }
        Ok(Self { mirror, files: Mutex::new(files) })
    }

    /// The directory in which raft-engine finds the names.
    pub(crate) fn dir(&self) -> &Path {
        self.mirror.path()
    }

    fn files(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Frozen>>> {
        // Whoever panicked with it held whole files.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Frozen {
    fn open(path: &Path, is_last: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let contents = Contents::Disk { file, len };
        let frozen = Self(Mutex::new(contents));
        if is_last {
            // A running node writes into what it has allocated: the length alone freezes nothing.
            frozen.change(|_| ())?;
        }
        Ok(frozen)
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> u64 {
        match &*self.contents() {
            Contents::Disk { len, .. } => *len,
            Contents::Memory(bytes) => bytes.len() as u64,
        }
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        match &*self.contents() {
            Contents::Disk { file, len } => {
                let left = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX);
                let wanted = buf.len().min(left);
                file.read_at(&mut buf[..wanted], at)
            }
            Contents::Memory(bytes) => {
                let at = usize::try_from(at).map_err(io::Error::other)?.min(bytes.len());
                (&bytes[at..]).read(buf)
            }
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
        let mut contents = self.contents();
        if let Contents::Disk { file, len } = &*contents {
            let mut bytes = vec![0; usize::try_from(*len).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, 0)?;
            *contents = Contents::Memory(bytes);
        }
        match &mut *contents {
            Contents::Memory(bytes) => Ok(change(bytes)),
            Contents::Disk { .. } => Err(io::Error::other("a file that was just read into memory")),
        }
    }
}

/// A reader or writer of a frozen file.
#[derive(Debug)]
pub(crate) struct FrozenFile {
    frozen: Arc<Frozen>,
    position: u64,
}

/// A handle to a frozen file.
#[derive(Debug)]
pub(crate) struct FrozenHandle(Arc<Frozen>);

impl FileSystem for FrozenLog {
    type Handle = FrozenHandle;
    type Reader = FrozenFile;
    type Writer = FrozenFile;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<FrozenHandle> {
        File::create(&path)?;
        let fresh = || Arc::new(Frozen(Mutex::new(Contents::Memory(Vec::new()))));
        let mut files = self.files();
        let frozen = files.entry(path.as_ref().to_owned()).or_insert_with(fresh);
        Ok(FrozenHandle(frozen.clone()))
    }

    fn open<P: AsRef<Path>>(&self, path: P, _: Permission) -> io::Result<FrozenHandle> {
        let frozen = self.files().get(path.as_ref()).cloned();
        frozen.map(FrozenHandle).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.files().remove(path.as_ref());
        std::fs::remove_file(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        let mut files = self.files();
        if let Some(frozen) = files.remove(from.as_ref()) {
            files.insert(to.as_ref().to_owned(), frozen);
        }
        std::fs::rename(from, to)
    }

    fn new_reader(&self, handle: Arc<FrozenHandle>) -> io::Result<FrozenFile> {
        Ok(FrozenFile { frozen: handle.0.clone(), position: 0 })
    }

    fn new_writer(&self, handle: Arc<FrozenHandle>) -> io::Result<FrozenFile> {
        Ok(FrozenFile { frozen: handle.0.clone(), position: 0 })
    }
}

impl Disk for FrozenLog {
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl Handle for FrozenHandle {
    fn truncate(&self, len: usize) -> io::Result<()> {
        self.0.change(|bytes| bytes.resize(len, 0))
    }

    fn file_size(&self) -> io::Result<usize> {
        usize::try_from(self.0.len()).map_err(io::Error::other)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for FrozenFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.frozen.read_at(self.position, buf)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Write for FrozenFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let at = usize::try_from(self.position).map_err(io::Error::other)?;
        self.frozen.change(|bytes| {
            bytes.resize(bytes.len().max(at + buf.len()), 0);
            bytes[at..at + buf.len()].copy_from_slice(buf);
        })?;
        self.position += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for FrozenFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.frozen.len().checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl WriteExt for FrozenFile {
    fn truncate(&mut self, len: usize) -> io::Result<()> {
        self.frozen.change(|bytes| bytes.resize(len, 0))?;
        self.position = len as u64;
        Ok(())
    }

    fn allocate(&mut self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_frozen_stays_as_it_was_and_what_is_changed_stays_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let (old, last) = ("0000000000000001.raftlog", "0000000000000002.raftlog");
        std::fs::write(dir.path().join(old), "first").unwrap();
        std::fs::write(dir.path().join(last), "second").unwrap();
        let log = FrozenLog::of(dir.path()).unwrap();
        std::fs::write(dir.path().join(last), "another").unwrap();
        std::fs::remove_file(dir.path().join(old)).unwrap();
        let text = |name: &str| {
            let handle = log.open(log.dir().join(name), Permission::ReadOnly).unwrap();
            let mut text = String::new();
            log.new_reader(Arc::new(handle)).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!((text(old), text(last)), ("first".to_owned(), "second".to_owned()));
        let handle = Arc::new(log.open(log.dir().join(last), Permission::ReadWrite).unwrap());
        let mut writer = log.new_writer(handle.clone()).unwrap();
        writer.seek(SeekFrom::End(-1)).unwrap();
        writer.write_all(b"ts").unwrap();
        assert_eq!(text(last), "seconts");
        handle.truncate(3).unwrap();
        assert_eq!((text(last), handle.file_size().unwrap()), ("sec".to_owned(), 3));
        assert_eq!(std::fs::read(dir.path().join(last)).unwrap(), b"another");
    }
}
