//! Operations on a disk, and those who watch them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::image::Image;
use super::names::NodeId;
use super::volume::Volume;

/// What is done to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OperationKind {
    /// A file is created, or opened by `create` although it exists.
    Create,
    /// A file is opened.
    Open,
    /// Bytes are read.
    Read,
    /// Bytes are written.
    Write,
    /// The length of a file is set.
    Truncate,
    /// A file is made longer, with zeros.
    Allocate,
    /// A file is synced.
    Sync,
    /// A name is removed.
    Delete,
    /// A file is given another name.
    Rename,
    /// The names in a directory are synced.
    SyncDir,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Truncate => "truncate",
            Self::Allocate => "allocate",
            Self::Sync => "sync",
            Self::Delete => "delete",
            Self::Rename => "rename",
            Self::SyncDir => "sync_dir",
        })
    }
}

/// One operation that changes what is on a disk: every kind but [`OperationKind::Open`] and
/// [`OperationKind::Read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Counts the changing operations of this disk; the first is 1.
    pub number: u64,
    /// What is done.
    pub kind: OperationKind,
    /// The file or directory, relative to the root of the disk; of a rename, the old name.
    pub path: PathBuf,
    /// The new name of a rename.
    pub to: Option<PathBuf>,
    /// Where a write or an allocation begins; the new length of a truncation; else 0.
    pub offset: u64,
    /// Bytes of a write or an allocation; else 0.
    pub len: usize,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.number, self.kind, self.path.display())?;
        if let Some(to) = &self.to {
            write!(f, " to {}", to.display())?;
        }
        match self.kind {
            OperationKind::Write | OperationKind::Allocate => {
                write!(f, " at {}, {} bytes", self.offset, self.len)
            }
            OperationKind::Truncate => write!(f, " to {} bytes", self.offset),
            _ => Ok(()),
        }
    }
}

/// On which side of an operation a moment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// It was asked for, and nothing of it has happened.
    Before,
    /// It has succeeded. One that fails has no such moment.
    After,
}

/// Watches a disk: called before and after every operation that changes it, in the thread that
/// does it, while the disk is locked: an observer must not use the disk itself.
///
/// A closure `Fn(&Moment<'_>)` is one.
pub trait Observer: Send + Sync {
    /// Sees a moment.
    fn observe(&self, moment: &Moment<'_>);
}

impl<T: Fn(&Moment<'_>) + Send + Sync> Observer for T {
    fn observe(&self, moment: &Moment<'_>) {
        self(moment);
    }
}

/// A disk just before or just after one of its operations.
pub struct Moment<'a> {
    pub(super) operation: &'a Operation,
    pub(super) phase: Phase,
    pub(super) root: &'a Path,
    pub(super) volume: &'a Volume,
    /// File and bytes of a write.
    pub(super) write: Option<(NodeId, &'a [u8])>,
}

impl fmt::Debug for Moment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.phase, self.operation)
    }
}

impl Moment<'_> {
    /// The operation.
    pub fn operation(&self) -> &Operation {
        self.operation
    }

    /// Whether it is still to come, or done.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The disk as it is at this moment.
    ///
    /// # Errors
    ///
    /// Those of reading the real files beside it.
    pub fn image(&self) -> io::Result<Image> {
        Image::new(self.volume.clone(), self.root)
    }

    /// The disk with only the first `len` bytes of the write that is to come; nothing of it is
    /// synced. `None` if this is not before a write, or `len` is not less than its bytes.
    ///
    /// # Errors
    ///
    /// Those of reading the real files beside it.
    pub fn torn(&self, len: usize) -> io::Result<Option<Image>> {
        let (Some((node, data)), Phase::Before) = (self.write, self.phase) else {
            return Ok(None);
        };
        let Some(data) = data.get(..len).filter(|_| len < data.len()) else { return Ok(None) };
        let mut volume = self.volume.clone();
        volume.node_mut(node)?.write(self.operation.offset, data)?;
        Image::new(volume, self.root).map(Some)
    }
}
