//! The real file system, on a disk that is full or fails whenever a test says so.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use quorate_engine::{DefaultFileSystem, Disk, FileSystem, Handle, Permission, WriteExt};

type Inner = DefaultFileSystem;

/// A disk that has no room while it is full, but for the witness, which is only overwritten.
#[derive(Default)]
pub(crate) struct FullDisk(Arc<State>);

#[derive(Default)]
struct State {
    is_full: AtomicBool,
    sync_fails: AtomicBool,
    witness_syncs: AtomicU64,
    log_syncs: AtomicU64,
    held: Mutex<bool>,
    let_go: Condvar,
}

pub(crate) struct FullHandle {
    inner: Arc<<Inner as FileSystem>::Handle>,
    state: Arc<State>,
    is_witness: bool,
    is_log: bool,
}

pub(crate) struct FullFile<T> {
    inner: T,
    state: Arc<State>,
    is_witness: bool,
}

impl FullDisk {
    /// Takes the room away, or gives it back.
    pub(crate) fn fill(&self, is_full: bool) {
        self.0.is_full.store(is_full, Ordering::SeqCst);
    }

    /// Makes every fsync fail from now on.
    pub(crate) fn break_syncs(&self) {
        self.0.sync_fails.store(true, Ordering::SeqCst);
    }

    /// Has every fsync of the log wait, or lets them go on.
    pub(crate) fn hold_syncs(&self, held: bool) {
        *self.0.held.lock().unwrap() = held;
        self.0.let_go.notify_all();
    }

    /// How often the log was made durable.
    pub(crate) fn log_syncs(&self) -> u64 {
        self.0.log_syncs.load(Ordering::SeqCst)
    }

    /// How often the witness was made durable.
    pub(crate) fn witness_syncs(&self) -> u64 {
        self.0.witness_syncs.load(Ordering::SeqCst)
    }

    fn handle(&self, path: &Path, inner: <Inner as FileSystem>::Handle) -> FullHandle {
        let is_witness = path.ends_with("witness");
        let is_log = path.parent().is_some_and(|parent| parent.ends_with("log"));
        FullHandle { inner: Arc::new(inner), state: self.0.clone(), is_witness, is_log }
    }
}

impl<T> FullFile<T> {
    fn check(&self) -> io::Result<()> {
        if self.is_witness || !self.state.is_full.load(Ordering::SeqCst) {
            return Ok(());
        }
        // raft-engine knows a full disk by this word (trap E06).
        Err(io::Error::new(io::ErrorKind::StorageFull, "nospace"))
    }
}

impl FileSystem for FullDisk {
    type Handle = FullHandle;
    type Reader = FullFile<<Inner as FileSystem>::Reader>;
    type Writer = FullFile<<Inner as FileSystem>::Writer>;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<FullHandle> {
        Ok(self.handle(path.as_ref(), DefaultFileSystem.create(&path)?))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<FullHandle> {
        Ok(self.handle(path.as_ref(), DefaultFileSystem.open(&path, permission)?))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<FullHandle>) -> io::Result<Self::Reader> {
        let inner = DefaultFileSystem.new_reader(handle.inner.clone())?;
        Ok(FullFile { inner, state: handle.state.clone(), is_witness: handle.is_witness })
    }

    fn new_writer(&self, handle: Arc<FullHandle>) -> io::Result<Self::Writer> {
        let inner = DefaultFileSystem.new_writer(handle.inner.clone())?;
        Ok(FullFile { inner, state: handle.state.clone(), is_witness: handle.is_witness })
    }
}

impl Disk for FullDisk {
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        DefaultFileSystem.sync_dir(dir)
    }
}

impl Handle for FullHandle {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.inner.truncate(offset)
    }

    fn file_size(&self) -> io::Result<usize> {
        self.inner.file_size()
    }

    fn sync(&self) -> io::Result<()> {
        if self.state.sync_fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected"));
        }
        self.state.witness_syncs.fetch_add(u64::from(self.is_witness), Ordering::SeqCst);
        if self.is_log {
            self.state.log_syncs.fetch_add(1, Ordering::SeqCst);
            let held = self.state.held.lock().unwrap();
            drop(self.state.let_go.wait_while(held, |held| *held).unwrap());
        }
        self.inner.sync()
    }
}

impl<T: Read> Read for FullFile<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl<T: Write> Write for FullFile<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Seek> Seek for FullFile<T> {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.inner.seek(pos)
    }
}

impl<T: WriteExt> WriteExt for FullFile<T> {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.inner.truncate(offset)
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        self.check()?;
        self.inner.allocate(offset, size)
    }
}
