//! [`CountedDisk`]: the real file system, its fsyncs counted, and slow where that is wanted.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_engine::{DefaultFileSystem, Disk, FileSystem, Handle, Permission};

/// What raft-engine calls the files of its append queue.
const LOG_EXTENSION: &str = "raftlog";

type RealHandle = <DefaultFileSystem as FileSystem>::Handle;

/// The real file system. Both stores run over one of their own, so that it costs both the same.
#[derive(Debug, Default)]
pub(crate) struct CountedDisk {
    syncs: Arc<Syncs>,
}

#[derive(Debug, Default)]
struct Syncs {
    count: AtomicU64,
    /// Those of raft-engine's files among them.
    of_log: AtomicU64,
    /// What each takes longer.
    delay_micros: AtomicU64,
}

impl CountedDisk {
    /// Fsyncs of files until now. Those of directories are not among them.
    pub(crate) fn fsyncs(&self) -> u64 {
        self.syncs.count.load(Ordering::Relaxed)
    }

    /// Those of raft-engine's log among them: neither of the witness nor of snapshots.
    pub(crate) fn log_fsyncs(&self) -> u64 {
        self.syncs.of_log.load(Ordering::Relaxed)
    }

    /// Makes every fsync of a file take longer by so much, from now on.
    pub(crate) fn slow_down(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.syncs.delay_micros.store(micros, Ordering::Relaxed);
    }

    fn handle(&self, path: &Path, inner: RealHandle) -> CountedHandle {
        let is_log = path.extension().is_some_and(|extension| extension == LOG_EXTENSION);
        CountedHandle { inner: Arc::new(inner), is_log, syncs: self.syncs.clone() }
    }
}

/// An open file.
pub(crate) struct CountedHandle {
    inner: Arc<RealHandle>,
    is_log: bool,
    syncs: Arc<Syncs>,
}

impl FileSystem for CountedDisk {
    type Handle = CountedHandle;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = <DefaultFileSystem as FileSystem>::Writer;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<CountedHandle> {
        let handle = DefaultFileSystem.create(&path)?;
        Ok(self.handle(path.as_ref(), handle))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<CountedHandle> {
        let handle = DefaultFileSystem.open(&path, permission)?;
        Ok(self.handle(path.as_ref(), handle))
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
        self.syncs.count.fetch_add(1, Ordering::Relaxed);
        if self.is_log {
            self.syncs.of_log.fetch_add(1, Ordering::Relaxed);
        }
        let delay = Duration::from_micros(self.syncs.delay_micros.load(Ordering::Relaxed));
        let end = Instant::now() + delay;
        self.inner.sync()?;
        while let Some(left) = end.checked_duration_since(Instant::now())
            && !delay.is_zero()
        {
            std::thread::park_timeout(left);
        }
        Ok(())
    }
}
