//! [`CountedDisk`]: the real file system, its fsyncs counted.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_engine::{DefaultFileSystem, Disk, FileSystem, Handle, Permission};

type RealHandle = <DefaultFileSystem as FileSystem>::Handle;

/// The real file system. Both stores run over one of their own, so that it costs both the same.
#[derive(Debug, Default)]
pub(crate) struct CountedDisk {
    fsyncs: Arc<AtomicU64>,
}

impl CountedDisk {
    /// Fsyncs of files until now. Those of directories are not among them.
    pub(crate) fn fsyncs(&self) -> u64 {
        self.fsyncs.load(Ordering::Relaxed)
    }

    fn handle(&self, inner: RealHandle) -> CountedHandle {
        CountedHandle { inner: Arc::new(inner), fsyncs: self.fsyncs.clone() }
    }
}

/// An open file.
pub(crate) struct CountedHandle {
    inner: Arc<RealHandle>,
    fsyncs: Arc<AtomicU64>,
}

impl FileSystem for CountedDisk {
    type Handle = CountedHandle;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = <DefaultFileSystem as FileSystem>::Writer;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<CountedHandle> {
        DefaultFileSystem.create(path).map(|handle| self.handle(handle))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<CountedHandle> {
        DefaultFileSystem.open(path, permission).map(|handle| self.handle(handle))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<CountedHandle>) -> io::Result<Self::Reader> {
        DefaultFileSystem.new_reader(handle.inner.clone())
    }

    fn new_writer(&self, handle: Arc<CountedHandle>) -> io::Result<Self::Writer> {
        DefaultFileSystem.new_writer(handle.inner.clone())
    }
}

impl Disk for CountedDisk {
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        DefaultFileSystem.sync_dir(dir)
    }
}

impl Handle for CountedHandle {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.inner.truncate(offset)
    }

    fn file_size(&self) -> io::Result<usize> {
        self.inner.file_size()
    }

    fn sync(&self) -> io::Result<()> {
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.inner.sync()
    }
}
