//! Single files on a [`Disk`], for those who need not know which disk it is.
//!
//! raft-engine's `FileSystem` is not object safe and fits the files of a log. [`Files`] is the
//! little that all other files need, so that a disk of the tests can lose, tear and fail them as
//! well. It has no latch: whoever writes a file decides what a failure means. What is the same for
//! all is that a file whose `sync` failed is never synced again; it is given up, and what it was to
//! hold goes to a new file, whose pages are all still to be written.
//!
//! Directories are made and listed with `std::fs` (trap E13).

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_engine::env::{Handle, Permission};

use crate::disk::Disk;

/// The files of a disk. Every error is that of the disk, its kind kept: `NotFound` where there is
/// no such file.
pub(crate) trait Files: fmt::Debug + Send + Sync {
    /// A new and empty file to be written. One of this name is cut to nothing, so that no byte of
    /// it is left behind what is written now. Its name is durable after [`Files::sync_dir`].
    fn create(&self, path: &Path) -> io::Result<Box<dyn OutFile>>;

    /// A file that exists, to be changed, at its beginning.
    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn OutFile>>;

    /// A file that exists, to be read, at its beginning.
    fn open(&self, path: &Path) -> io::Result<Box<dyn InFile>>;

    /// Gives a file another name, which may be taken: then the other one is gone. Durable after
    /// [`Files::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Files::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A file that is written. What was written is durable after [`OutFile::sync`], and not before.
pub(crate) trait OutFile: fmt::Debug + Send {
    /// Writes at the position, and moves it behind what was written. After an error the position
    /// is as it was, and any part of the bytes may be in the file.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Writes at `offset`; the position stays.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes contents and length durable. After an error nobody knows what is on disk, and a
    /// second sync that succeeds would not tell either: give the file up.
    fn sync(&self) -> io::Result<()>;
}

/// A file that is read. It stays readable when its name is removed or given to another.
pub(crate) trait InFile: Read + Seek + fmt::Debug + Send {
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;
}

/// The [`Files`] of a [`Disk`].
pub(crate) struct DiskFiles<F>(Arc<F>);

impl<F: Disk + 'static> DiskFiles<F> {
    /// The files of `disk`.
    pub(crate) fn over(disk: Arc<F>) -> Arc<dyn Files> {
        Arc::new(Self(disk))
    }

    fn writer(&self, path: &Path, handle: F::Handle) -> io::Result<Box<DiskFile<F, F::Writer>>> {
        let (handle, path) = (Arc::new(handle), path.to_owned());
        let io = self.0.new_writer(handle.clone()).map_err(told)?;
        Ok(Box::new(DiskFile { path, handle, io, position: 0 }))
    }
}

impl<F> fmt::Debug for DiskFiles<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskFiles").finish_non_exhaustive()
    }
}

impl<F: Disk + 'static> Files for DiskFiles<F> {
    fn create(&self, path: &Path) -> io::Result<Box<dyn OutFile>> {
        let handle = self.0.create(path).map_err(told)?;
        // A `FileSystem` opens a file that exists as it is.
        if handle.file_size().map_err(told)? > 0 {
            handle.truncate(0).map_err(told)?;
        }
        Ok(self.writer(path, handle)?)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn OutFile>> {
        let handle = self.0.open(path, Permission::ReadWrite).map_err(told)?;
        Ok(self.writer(path, handle)?)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn InFile>> {
        let handle = Arc::new(self.0.open(path, Permission::ReadOnly).map_err(told)?);
        let io = self.0.new_reader(handle.clone()).map_err(told)?;
        Ok(Box::new(DiskFile::<F, _> { path: path.to_owned(), handle, io, position: 0 }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to).map_err(told)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.delete(path).map_err(told)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir).map_err(told)
    }
}

/// An open file: its handle, and the reader or writer over it.
struct DiskFile<F: Disk, T> {
    path: PathBuf,
    handle: Arc<F::Handle>,
    io: T,
    /// Where a writer writes next; a reader keeps its own.
    position: u64,
}

impl<F: Disk, T> fmt::Debug for DiskFile<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<F: Disk> OutFile for DiskFile<F, F::Writer> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_at(self.position, bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.io.seek(SeekFrom::Start(offset)).map_err(told)?;
        self.io.write_all(bytes).map_err(told)
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync().map_err(told)
    }
}

impl<F: Disk> InFile for DiskFile<F, F::Reader> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.handle.file_size().map_err(told)? as u64)
    }
}

impl<F: Disk, T: Read> Read for DiskFile<F, T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.io.read(buf).map_err(told)
    }
}

impl<F: Disk, T: Seek> Seek for DiskFile<F, T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.io.seek(to).map_err(told)
    }
}

/// raft-engine's files keep the kind of an error, and say "pwrite" or "open" for its text: an
/// operator must read what is wrong.
fn told(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() || error.get_ref().is_none() {
        return error;
    }
    io::Error::new(error.kind(), format!("{} ({error})", error.kind()))
}

#[cfg(test)]
mod tests {
    use raft_engine::env::DefaultFileSystem;

    use super::*;
    use crate::testing::{Step, faulty};

    fn real() -> (tempfile::TempDir, PathBuf, Arc<dyn Files>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        (dir, path, DiskFiles::over(Arc::new(DefaultFileSystem)))
    }

    #[test]
    fn what_is_created_is_empty_and_is_read_as_it_was_written() {
        let (_dir, path, files) = real();
        std::fs::write(&path, "a longer content of another time").unwrap();
        let mut file = files.create(&path).unwrap();
        file.write_all(b"one ").unwrap();
        file.write_all(b"two").unwrap();
        file.sync().unwrap();
        let mut file = files.open(&path).unwrap();
        assert_eq!(file.len().unwrap(), 7);
        let mut text = String::new();
        file.seek(SeekFrom::Start(4)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "two");
    }

    #[test]
    fn a_file_is_changed_in_place() {
        let (_dir, path, files) = real();
        std::fs::write(&path, "one two").unwrap();
        let mut file = files.open_to_write(&path).unwrap();
        file.write_at(4, b"six").unwrap();
        file.write_all(b"ten").unwrap();
        file.write_at(9, b"!").unwrap();
        file.write_all(b",").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"ten,six\0\0!");
    }

    #[test]
    fn a_file_that_is_not_there_is_told_apart() {
        let (_dir, path, files) = real();
        let kinds = [
            files.open(&path).unwrap_err(),
            files.open_to_write(&path).unwrap_err(),
            files.remove(&path).unwrap_err(),
            files.rename(&path, &path.with_extension("b")).unwrap_err(),
        ];
        for error in kinds {
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        }
        let error = files.open(&path).unwrap_err();
        assert_eq!(error.to_string(), "entity not found (open)");
    }

    #[test]
    fn what_is_open_stays_readable_without_its_name() {
        let (_dir, path, files) = real();
        std::fs::write(&path, "content").unwrap();
        let mut file = files.open(&path).unwrap();
        files.remove(&path).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
    }

    #[test]
    fn after_a_failed_write_the_position_is_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (faults, files) = faulty();
        let mut file = files.create(&dir.path().join("file")).unwrap();
        file.write_all(b"one ").unwrap();
        faults.fail(Step::Write, 0);
        assert!(file.write_all(b"lost").is_err());
        file.write_all(b"two").unwrap();
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"one two");
    }
}
