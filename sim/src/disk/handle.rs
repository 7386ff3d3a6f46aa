//! Open files of a crash disk.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use quorate_engine::{Handle, WriteExt};

use super::fault::FaultError;
use super::names::NodeId;
use super::operation::{Operation, OperationKind};
use super::{Shared, operation};

/// An open file. It reaches its content also when its name is gone.
#[derive(Debug)]
pub struct CrashHandle {
    disk: Arc<Shared>,
    node: NodeId,
    /// Its name when it was opened.
    path: PathBuf,
    writable: bool,
}

impl CrashHandle {
    pub(super) fn new(disk: Arc<Shared>, node: NodeId, path: PathBuf, writable: bool) -> Self {
        Self { disk, node, path, writable }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().volume.node(self.node)?.visible().len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let truncate = Operation { offset: len, ..operation(OperationKind::Truncate, &self.path) };
        self.disk.lock().change(&self.disk.root, truncate, None, |state| {
            let node = state.volume.node(self.node)?;
            if len.saturating_sub(node.visible().len()) > state.room() {
                return Err(FaultError::NoSpace.into());
            }
            state.volume.node_mut(self.node)?.set_len(len)
        })
    }

    fn allocate(&self, offset: u64, len: usize) -> io::Result<()> {
        self.check_writable()?;
        let allocate = Operation { offset, len, ..operation(OperationKind::Allocate, &self.path) };
        self.disk.lock().change(&self.disk.root, allocate, None, |state| {
            let end = offset.saturating_add(len as u64);
            let longer = end.saturating_sub(state.volume.node(self.node)?.visible().len());
            if longer > state.room() {
                return Err(FaultError::NoSpace.into());
            }
            state.volume.node_mut(self.node)?.extend_to(end)
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        let write =
            Operation { offset, len: data.len(), ..operation(OperationKind::Write, &self.path) };
        let mut state = self.disk.lock();
        state.change(&self.disk.root, write, Some((self.node, data)), |state| {
            let len = state.volume.node(self.node)?.visible().len();
            let end = offset.saturating_add(data.len() as u64);
            let lacking = end.saturating_sub(len.saturating_add(state.room()));
            if lacking == 0 {
                return state.volume.node_mut(self.node)?.write(offset, data);
            }
            // As the kernel does: as much as there is room for, and then the error.
            let fits = data.len().saturating_sub(usize::try_from(lacking).unwrap_or(usize::MAX));
            state.volume.node_mut(self.node)?.write(offset, &data[..fits])?;
            Err(FaultError::NoSpace.into())
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.lock();
        state.check(OperationKind::Read, &self.path)?;
        Ok(state.volume.node(self.node)?.visible().read_at(offset, buf))
    }
}

impl Drop for CrashHandle {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if let Some(handles) = state.open.get_mut(&self.node) {
            *handles -= 1;
            if *handles == 0 {
                state.open.remove(&self.node);
                state.collect();
            }
        }
    }
}

impl Handle for CrashHandle {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.set_len(offset as u64)
    }

    fn file_size(&self) -> io::Result<usize> {
        usize::try_from(self.len()?).map_err(|_| io::ErrorKind::FileTooLarge.into())
    }

    fn sync(&self) -> io::Result<()> {
        let sync = operation(OperationKind::Sync, &self.path);
        self.disk.lock().change(&self.disk.root, sync, None, |state| state.volume.sync(self.node))
    }
}

/// A position in an open file, to read or write there.
#[derive(Debug)]
pub struct CrashFile {
    handle: Arc<CrashHandle>,
    position: u64,
}

impl CrashFile {
    pub(super) fn new(handle: Arc<CrashHandle>) -> Self {
        Self { handle, position: 0 }
    }
}

impl Read for CrashFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.handle.read_at(self.position, buf)?;
        self.position += len as u64;
        Ok(len)
    }
}

impl Write for CrashFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.handle.write_at(self.position, buf)?;
        self.position += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for CrashFile {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        let position = match pos {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.handle.len()?.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl WriteExt for CrashFile {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.handle.set_len(offset as u64)?;
        self.position = offset as u64;
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        self.handle.allocate(offset as u64, size)
    }
}
