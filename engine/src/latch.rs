//! The fsync latch: the first failure of the disk, seen by everybody, for ever (trap E03).
//!
//! raft-engine panics when fsync fails, and while unwinding it truncates and syncs again: a
//! second fsync that succeeds would say nothing about the pages that the first one dropped.
//! [`LatchedFileSystem`] therefore keeps the failure from raft-engine: it remembers the error,
//! reports success, and refuses every later operation, so that nothing is changed any more. The
//! log writer looks at the latch before it acknowledges anything.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

use crate::directory;
use crate::disk::Disk;

/// The first fatal failure of the disk below an engine, shared by all of its parts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latch(Arc<OnceLock<Arc<io::Error>>>);

impl Latch {
    /// Remembers `error`, unless there is one already.
    pub(crate) fn set(&self, error: io::Error) -> Arc<io::Error> {
        self.0.get_or_init(|| Arc::new(error)).clone()
    }

    /// The failure, if there is one.
    pub(crate) fn error(&self) -> Option<Arc<io::Error>> {
        self.0.get().cloned()
    }

    /// An error for an operation that comes after the failure.
    fn check(&self) -> io::Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some(error) => Err(io::Error::new(
                error.kind(),
                format!("refused, because the disk failed before: {error}"),
            )),
        }
    }
}

/// A [`FileSystem`] that latches the first fsync failure of the one below it.
pub(crate) struct LatchedFileSystem<F> {
    inner: Arc<F>,
    latch: Latch,
}

impl<F> LatchedFileSystem<F> {
    pub(crate) fn new(inner: Arc<F>, latch: Latch) -> Self {
        Self { inner, latch }
    }
}

/// A handle whose `sync` never fails towards raft-engine.
pub(crate) struct LatchedHandle<H> {
    inner: Arc<H>,
    latch: Latch,
}

/// A reader or writer that refuses work after the failure.
pub(crate) struct LatchedFile<T> {
    inner: T,
    latch: Latch,
}

impl<F: Disk> FileSystem for LatchedFileSystem<F> {
    type Handle = LatchedHandle<F::Handle>;
    type Reader = LatchedFile<F::Reader>;
    type Writer = LatchedFile<F::Writer>;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<Self::Handle> {
        self.latch.check()?;
        let inner = Arc::new(self.inner.create(path)?);
        Ok(LatchedHandle { inner, latch: self.latch.clone() })
    }

    fn open<P: AsRef<Path>>(&self, path: P, perm: Permission) -> io::Result<Self::Handle> {
        self.latch.check()?;
        let inner = Arc::new(self.inner.open(path, perm)?);
        Ok(LatchedHandle { inner, latch: self.latch.clone() })
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.latch.check()?;
        let path = path.as_ref();
        self.inner.delete(path)?;
        // raft-engine removes the oldest files in their order, and syncs no directory. Were two
        // removals under way at once, a power loss could undo the first of them alone, and leave
        // a gap in the sequence that could not be told from a lost file.
        self.inner.sync_dir(&directory::parent_of(path)).map_err(|error| {
            let error = self.latch.set(error);
            io::Error::new(error.kind(), error.to_string())
        })
    }

    fn rename<P: AsRef<Path>>(&self, src_path: P, dst_path: P) -> io::Result<()> {
        self.latch.check()?;
        self.inner.rename(src_path, dst_path)
    }

    fn reuse<P: AsRef<Path>>(&self, src_path: P, dst_path: P) -> io::Result<()> {
        self.latch.check()?;
        self.inner.reuse(src_path, dst_path)
    }

    fn delete_metadata<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.latch.check()?;
        self.inner.delete_metadata(path)
    }

    fn exists_metadata<P: AsRef<Path>>(&self, path: P) -> bool {
        self.inner.exists_metadata(path)
    }

    fn new_reader(&self, handle: Arc<Self::Handle>) -> io::Result<Self::Reader> {
        self.latch.check()?;
        let inner = self.inner.new_reader(handle.inner.clone())?;
        Ok(LatchedFile { inner, latch: self.latch.clone() })
    }

    fn new_writer(&self, handle: Arc<Self::Handle>) -> io::Result<Self::Writer> {
        self.latch.check()?;
        let inner = self.inner.new_writer(handle.inner.clone())?;
        Ok(LatchedFile { inner, latch: self.latch.clone() })
    }
}

impl<H: Handle> Handle for LatchedHandle<H> {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.latch.check()?;
        self.inner.truncate(offset)
    }

    fn file_size(&self) -> io::Result<usize> {
        self.latch.check()?;
        self.inner.file_size()
    }

    fn sync(&self) -> io::Result<()> {
        // After a failure no second fsync: its success would be a lie about the first.
        if self.latch.error().is_none()
            && let Err(error) = self.inner.sync()
        {
            self.latch.set(error);
        }
        Ok(())
    }
}

impl<T: Read> Read for LatchedFile<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.latch.check()?;
        self.inner.read(buf)
    }
}

impl<T: Write> Write for LatchedFile<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.latch.check()?;
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.latch.check()?;
        self.inner.flush()
    }
}

impl<T: Seek> Seek for LatchedFile<T> {
    // Not refused: it changes nothing, and raft-engine panics when seeking back after a failed
    // write fails.
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.inner.seek(pos)
    }
}

impl<T: WriteExt> WriteExt for LatchedFile<T> {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.latch.check()?;
        self.inner.truncate(offset)
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        self.latch.check()?;
        self.inner.allocate(offset, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_stays() {
        let latch = Latch::default();
        assert!(latch.check().is_ok());
        latch.set(io::Error::other("first"));
        latch.clone().set(io::Error::other("second"));
        assert_eq!(latch.error().unwrap().to_string(), "first");
        assert!(latch.check().unwrap_err().to_string().contains("first"));
    }
}
