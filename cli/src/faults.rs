//! A disk that fails when a test says so; in this program only in builds with the feature `faults`, and
//! in the nemesis of `benches/`.
//!
//! | variable | while the file that it names exists |
//! | --- | --- |
//! | `QUORATE_FAULT_SYNC` | every fdatasync fails with EIO |
//! | `QUORATE_FAULT_FULL` | every write that needs room fails with ENOSPC |
//!
//! The witness needs no room: it is only overwritten in place. Snapshots go to the real disk.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_engine::{DefaultFileSystem, Disk, FileSystem, Handle, Permission, WriteExt};
use rustix::io::Errno;

type Inner = DefaultFileSystem;

/// The real disk, failing as the environment says.
#[derive(Debug)]
pub(crate) struct FaultyDisk(Arc<Faults>);

/// The files that switch the faults on.
#[derive(Debug)]
struct Faults {
    sync: Option<PathBuf>,
    full: Option<PathBuf>,
}

pub(crate) struct FaultyHandle {
    inner: Arc<<Inner as FileSystem>::Handle>,
    faults: Arc<Faults>,
    needs_room: bool,
}

pub(crate) struct FaultyFile<T> {
    inner: T,
    faults: Arc<Faults>,
    needs_room: bool,
}

impl FaultyDisk {
    /// A disk whose faults the environment names.
    pub(crate) fn of_environment() -> FaultyDisk {
        let file = |name| std::env::var_os(name).map(PathBuf::from);
        FaultyDisk(Arc::new(Faults {
            sync: file("QUORATE_FAULT_SYNC"),
            full: file("QUORATE_FAULT_FULL"),
        }))
    }

    fn handle(&self, path: &Path, inner: <Inner as FileSystem>::Handle) -> FaultyHandle {
        let needs_room = !path.ends_with("witness");
        FaultyHandle { inner: Arc::new(inner), faults: self.0.clone(), needs_room }
    }
}

impl Faults {
    fn sync(&self) -> io::Result<()> {
        let fails = self.sync.as_ref().is_some_and(|file| file.exists());
        if fails { Err(io::Error::from(Errno::IO)) } else { Ok(()) }
    }

    fn room(&self) -> io::Result<()> {
        let full = self.full.as_ref().is_some_and(|file| file.exists());
        // raft-engine knows a full disk by this word.
        if full { Err(io::Error::new(io::ErrorKind::StorageFull, "nospace")) } else { Ok(()) }
    }
}

impl<T> FaultyFile<T> {
    fn room(&self) -> io::Result<()> {
        if self.needs_room { self.faults.room() } else { Ok(()) }
    }
}

impl FileSystem for FaultyDisk {
    type Handle = FaultyHandle;
    type Reader = FaultyFile<<Inner as FileSystem>::Reader>;
    type Writer = FaultyFile<<Inner as FileSystem>::Writer>;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<FaultyHandle> {
        Ok(self.handle(path.as_ref(), DefaultFileSystem.create(&path)?))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<FaultyHandle> {
        Ok(self.handle(path.as_ref(), DefaultFileSystem.open(&path, permission)?))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<FaultyHandle>) -> io::Result<Self::Reader> {
        let inner = DefaultFileSystem.new_reader(handle.inner.clone())?;
        Ok(FaultyFile { inner, faults: handle.faults.clone(), needs_room: handle.needs_room })
    }

    fn new_writer(&self, handle: Arc<FaultyHandle>) -> io::Result<Self::Writer> {
        let inner = DefaultFileSystem.new_writer(handle.inner.clone())?;
        Ok(FaultyFile { inner, faults: handle.faults.clone(), needs_room: handle.needs_room })
    }
}

impl Disk for FaultyDisk {
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync()?;
        DefaultFileSystem.sync_dir(dir)
    }
}

impl Handle for FaultyHandle {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.inner.truncate(offset)
    }

    fn file_size(&self) -> io::Result<usize> {
        self.inner.file_size()
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.sync()?;
        self.inner.sync()
    }
}

impl<T: Read> Read for FaultyFile<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl<T: Write> Write for FaultyFile<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.room()?;
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Seek> Seek for FaultyFile<T> {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.inner.seek(pos)
    }
}

impl<T: WriteExt> WriteExt for FaultyFile<T> {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.inner.truncate(offset)
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        self.room()?;
        self.inner.allocate(offset, size)
    }
}
