//! The crash disk: contents in memory, names mirrored in a directory, and a memory of what was
//! synced.

mod at_rest;
mod content;
mod fault;
mod handle;
mod image;
mod names;
mod node;
mod operation;
mod survival;
mod volume;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_engine::{Disk, FileSystem, Permission};

use fault::Strike;
pub use fault::{Fault, FaultError};
pub use handle::{CrashFile, CrashHandle};
pub use image::Image;
pub use operation::{Moment, Observer, Operation, OperationKind, Phase};
pub use survival::Survival;

use names::NodeId;
use volume::Volume;

/// Files that the engine uses without its disk.
const REAL: [&str; 2] = ["identity", "LOCK"];

/// A disk that can crash: a [`Disk`] whose contents are in memory, and which knows what a sync
/// has made durable.
///
/// It lives in a directory of the real file system, its *root*, where its names are empty files:
/// raft-engine and the engine list directories there, and make them there. Directories count as
/// durable from the start. What the root holds when the disk is made is on it, durable, but for
/// `identity` and `LOCK`, which the engine uses without its disk: they are real, and none of its
/// business; images carry them along.
///
/// - A file's sync makes its content durable, and the *creation* of its name: raft-engine syncs the
///   directory itself, out of sight, after the first sync of a file.
/// - [`Disk::sync_dir`] makes creations, removals and renames in a directory durable.
/// - Everything else may be lost, in any combination: see [`Image::power_loss`].
///
/// Clones are the same disk. Several threads may use it, but only one engine at a time.
#[derive(Debug, Clone)]
pub struct CrashDisk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    volume: Volume,
    /// Handles of each file.
    open: BTreeMap<NodeId, usize>,
    operations: u64,
    observer: Option<Arc<dyn Observer>>,
    faults: Vec<Fault>,
    capacity_bytes: Option<u64>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("operations", &self.operations)
            .field("faults", &self.faults)
            .field("capacity_bytes", &self.capacity_bytes)
            .finish_non_exhaustive()
    }
}

impl CrashDisk {
    /// A disk in `root`, which is created if need be, with the files that are there.
    ///
    /// # Errors
    ///
    /// Those of the real file system.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let mut volume = Volume::default();
        if root.is_dir() {
            take_over(&mut volume, &root, Path::new(""))?;
        }
        Self::with_volume(volume, root)
    }

    fn with_volume(volume: Volume, root: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&root)?;
        let state = State { volume, ..State::default() };
        Ok(Self(Arc::new(Shared { root, state: Mutex::new(state) })))
    }

    /// Where its names are.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The disk as it is now.
    ///
    /// # Errors
    ///
    /// Those of reading the real files beside it.
    pub fn image(&self) -> io::Result<Image> {
        let state = self.0.lock();
        Image::new(state.volume.clone(), &self.0.root)
    }

    /// Calls `observer` before and after every operation that changes the disk, instead of the
    /// one before.
    pub fn observe(&self, observer: impl Observer + 'static) {
        self.0.lock().observer = Some(Arc::new(observer));
    }

    /// How many operations have changed the disk, or tried to.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Adds a fault. Where several strike, the first that was added does.
    pub fn fail(&self, fault: Fault) {
        self.0.lock().faults.push(fault);
    }

    /// Removes every fault.
    pub fn heal(&self) {
        self.0.lock().faults.clear();
    }

    /// Limits the bytes of all files together; `None` is no limit. What is there already stays.
    /// A write that needs more writes what there is room for, and fails as
    /// [`FaultError::NoSpace`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity_bytes = bytes;
    }

    /// Bytes of all files together.
    pub fn used_bytes(&self) -> u64 {
        self.0.lock().volume.used_bytes()
    }

    /// The path from the root on.
    fn relative(&self, path: &Path) -> io::Result<PathBuf> {
        path.strip_prefix(&self.0.root).map(Path::to_owned).map_err(|_| {
            let text =
                format!("{} is not on the disk in {}", path.display(), self.0.root.display());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }

    fn handle(
        &self,
        state: &mut State,
        node: NodeId,
        path: PathBuf,
        writable: bool,
    ) -> CrashHandle {
        *state.open.entry(node).or_default() += 1;
        CrashHandle::new(self.0.clone(), node, path, writable)
    }
}

/// Puts the files in `dir` below `root` on the disk, and leaves their names.
fn take_over(volume: &mut Volume, root: &Path, dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(dir))? {
        let entry = entry?;
        let path = dir.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            take_over(volume, root, &path)?;
        } else if !REAL.iter().any(|name| path == Path::new(name)) {
            let bytes = std::fs::read(entry.path())?;
            let id = volume.create(&path);
            volume.node_mut(id)?.write(0, &bytes)?;
            volume.sync(id)?;
            std::fs::write(entry.path(), [])?;
        }
    }
    Ok(())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // An observer that panicked was called between two changes, never within one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The fault that strikes an operation, if one does. All faults count it.
    fn strike(&mut self, kind: OperationKind, path: &Path) -> Option<Strike> {
        let strikes: Vec<_> =
            self.faults.iter_mut().filter_map(|fault| fault.strike(kind, path)).collect();
        strikes.into_iter().next()
    }

    /// Fails if a fault strikes an operation that changes nothing.
    fn check(&mut self, kind: OperationKind, path: &Path) -> io::Result<()> {
        self.strike(kind, path).and_then(Strike::error).map_or(Ok(()), Err)
    }

    /// Numbers an operation, shows it to the observer, and does it, unless a fault strikes.
    fn change<T: Default>(
        &mut self,
        root: &Path,
        mut operation: Operation,
        write: Option<(NodeId, &[u8])>,
        apply: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        self.operations += 1;
        operation.number = self.operations;
        self.show(root, &operation, Phase::Before, write);
        let strike = self.strike(operation.kind, &operation.path);
        if let Some((strike, (node, data))) = strike.zip(write) {
            let data = &data[..strike.bytes_written().min(data.len())];
            self.volume.node_mut(node)?.write(operation.offset, data)?;
        }
        let result = match strike.map(Strike::error) {
            None => apply(self)?,
            // What seems to succeed has no result: a creation never is of these.
            Some(None) => T::default(),
            Some(Some(error)) => return Err(error),
        };
        self.show(root, &operation, Phase::After, None);
        Ok(result)
    }

    fn show(
        &self,
        root: &Path,
        operation: &Operation,
        phase: Phase,
        write: Option<(NodeId, &[u8])>,
    ) {
        if let Some(observer) = &self.observer {
            observer.observe(&Moment { operation, phase, root, volume: &self.volume, write });
        }
    }

    /// How many bytes longer a file may become.
    fn room(&self) -> u64 {
        let used = || self.volume.used_bytes();
        self.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(used()))
    }

    fn collect(&mut self) {
        let open = &self.open;
        self.volume.collect(|node| open.contains_key(&node));
    }
}

fn operation(kind: OperationKind, path: &Path) -> Operation {
    Operation { number: 0, kind, path: path.to_owned(), to: None, offset: 0, len: 0 }
}

impl FileSystem for CrashDisk {
    type Handle = CrashHandle;
    type Reader = CrashFile;
    type Writer = CrashFile;

    /// Creates a file, or opens the one there is.
    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<CrashHandle> {
        let path = self.relative(path.as_ref())?;
        let (root, mut state) = (&self.0.root, self.0.lock());
        let create = operation(OperationKind::Create, &path);
        let node = state.change(root, create, None, |state| match state.volume.lookup(&path) {
            Ok(node) => Ok(node),
            Err(_) => {
                std::fs::File::create_new(root.join(&path))?;
                Ok(state.volume.create(&path))
            }
        })?;
        Ok(self.handle(&mut state, node, path, true))
    }

    fn open<P: AsRef<Path>>(&self, path: P, perm: Permission) -> io::Result<CrashHandle> {
        let path = self.relative(path.as_ref())?;
        let mut state = self.0.lock();
        state.check(OperationKind::Open, &path)?;
        let node = state.volume.lookup(&path)?;
        Ok(self.handle(&mut state, node, path, perm == Permission::ReadWrite))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        let path = self.relative(path.as_ref())?;
        let (root, mut state) = (&self.0.root, self.0.lock());
        state.volume.lookup(&path)?;
        state.change(root, operation(OperationKind::Delete, &path), None, |state| {
            std::fs::remove_file(root.join(&path))?;
            state.volume.remove(&path)?;
            state.collect();
            Ok(())
        })
    }

    fn rename<P: AsRef<Path>>(&self, src_path: P, dst_path: P) -> io::Result<()> {
        let (from, to) = (self.relative(src_path.as_ref())?, self.relative(dst_path.as_ref())?);
        let (root, mut state) = (&self.0.root, self.0.lock());
        state.volume.lookup(&from)?;
        let rename = Operation { to: Some(to.clone()), ..operation(OperationKind::Rename, &from) };
        state.change(root, rename, None, |state| {
            std::fs::rename(root.join(&from), root.join(&to))?;
            state.volume.rename(&from, &to)?;
            state.collect();
            Ok(())
        })
    }

    fn new_reader(&self, handle: Arc<CrashHandle>) -> io::Result<CrashFile> {
        Ok(CrashFile::new(handle))
    }

    fn new_writer(&self, handle: Arc<CrashHandle>) -> io::Result<CrashFile> {
        Ok(CrashFile::new(handle))
    }
}

impl Disk for CrashDisk {
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let path = self.relative(dir)?;
        let (root, mut state) = (&self.0.root, self.0.lock());
        if !root.join(&path).is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(root, operation(OperationKind::SyncDir, &path), None, |state| {
            state.volume.names_mut().sync_dir(&path);
            state.collect();
            Ok(())
        })
    }
}
