//! The fsync latch: the first failure of the disk, seen by everybody, for ever (trap E03).
//!
//! raft-engine panics when fsync fails, and while unwinding it truncates and syncs again: a
//! second fsync that succeeds would say nothing about the pages that the first one dropped.
//! [`LatchedFileSystem`] therefore keeps the failure from raft-engine: it remembers the error,
//! reports success, and refuses every later operation, so that nothing is changed any more. The
//! log writer looks at the latch before it acknowledges anything.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use mutation::Bug;
use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

use crate::directory;
use crate::disk::Disk;
use crate::log_files::Queue;

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

    /// Remembers `error`, and gives it back to be returned.
    fn fail(&self, error: io::Error) -> io::Error {
        if mutation::is(Bug::FailedSyncIgnored) {
            return error;
        }
        let error = self.set(error);
        io::Error::new(error.kind(), error.to_string())
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

impl<F: Disk> LatchedFileSystem<F> {
    fn handle(&self, path: &Path, inner: Arc<F::Handle>) -> LatchedHandle<F::Handle> {
        let is_rewrite = Queue::of(path) == Queue::Rewrite;
        let is_unsynced = is_rewrite.then(AtomicBool::default);
        LatchedHandle { inner, latch: self.latch.clone(), is_unsynced }
    }
}

/// A handle whose `sync` never fails towards raft-engine.
pub(crate) struct LatchedHandle<H> {
    inner: Arc<H>,
    latch: Latch,
    /// For a file of rewritten records: whether something in it is not synced.
    is_unsynced: Option<AtomicBool>,
}

/// A reader that refuses work after the failure.
pub(crate) struct LatchedReader<T> {
    inner: T,
    latch: Latch,
}

/// A writer that refuses work after the failure.
///
/// A file of rewritten records is synced before the next record is written to it. raft-engine would
/// write several, and when it recovers it verifies the entries of the last one only: a power loss
/// that takes a page out of an earlier one would put a record that cannot be read in the place of
/// a good one.
pub(crate) struct LatchedWriter<W, H> {
    inner: W,
    handle: Arc<LatchedHandle<H>>,
}

impl<F: Disk> FileSystem for LatchedFileSystem<F> {
    type Handle = LatchedHandle<F::Handle>;
    type Reader = LatchedReader<F::Reader>;
    type Writer = LatchedWriter<F::Writer, F::Handle>;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<Self::Handle> {
        self.latch.check()?;
        let inner = Arc::new(self.inner.create(&path)?);
        Ok(self.handle(path.as_ref(), inner))
    }

    fn open<P: AsRef<Path>>(&self, path: P, perm: Permission) -> io::Result<Self::Handle> {
        self.latch.check()?;
        let inner = Arc::new(self.inner.open(&path, perm)?);
        Ok(self.handle(path.as_ref(), inner))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.latch.check()?;
        let path = path.as_ref();
        // raft-engine has taken the file off its list, and would go on behind it: a failure here
        // must be the last thing that happens, or the files that stay leave a gap.
        self.inner.delete(path).map_err(|error| self.latch.fail(error))?;
        // raft-engine removes the oldest files in their order, and syncs no directory. Were two
        // removals under way at once, a power loss could undo the first of them alone, and leave
        // a gap in the sequence that could not be told from a lost file.
        self.inner.sync_dir(&directory::parent_of(path)).map_err(|error| self.latch.fail(error))
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
        Ok(LatchedReader { inner, latch: self.latch.clone() })
    }

    fn new_writer(&self, handle: Arc<Self::Handle>) -> io::Result<Self::Writer> {
        self.latch.check()?;
        let inner = self.inner.new_writer(handle.inner.clone())?;
        Ok(LatchedWriter { inner, handle })
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
        if self.latch.error().is_none() {
            if let Err(error) = self.inner.sync() {
                self.latch.set(error);
            } else if let Some(is_unsynced) = &self.is_unsynced {
                is_unsynced.store(false, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

impl<T: Read> Read for LatchedReader<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.latch.check()?;
        self.inner.read(buf)
    }
}

impl<W: Write, H: Handle> Write for LatchedWriter<W, H> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(is_unsynced) = &self.handle.is_unsynced
            && is_unsynced.swap(true, Ordering::SeqCst)
        {
            self.handle.sync()?;
            is_unsynced.store(true, Ordering::SeqCst);
        }
        self.handle.latch.check()?;
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.handle.latch.check()?;
        self.inner.flush()
    }
}

// Seeking is not refused: it changes nothing, and raft-engine panics when seeking back after a
// failed write fails.
impl<T: Seek> Seek for LatchedReader<T> {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.inner.seek(pos)
    }
}

impl<W: Seek, H> Seek for LatchedWriter<W, H> {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.inner.seek(pos)
    }
}

impl<W: WriteExt, H> WriteExt for LatchedWriter<W, H> {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.handle.latch.check()?;
        self.inner.truncate(offset)
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        self.handle.latch.check()?;
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
