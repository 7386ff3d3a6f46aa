//! The disk below an engine: raft-engine's [`FileSystem`] for the contents of files, and what that
//! lacks.

use std::io;
use std::path::Path;

use raft_engine::env::{DefaultFileSystem, FileSystem};

use crate::directory;

/// A [`FileSystem`] that can also make names durable.
///
/// Contents, and every name of a file that the engine creates, removes or changes, go through it,
/// but for `identity` and `LOCK`. Listing and making directories uses the real file system (trap
/// E13): what keeps contents elsewhere mirrors the names there.
///
/// Beyond what raft-engine needs: a rename replaces the file that has the name, and a file that is
/// open stays readable when its name is removed or given to another.
pub trait Disk: FileSystem {
    /// Makes the names in `dir` durable.
    ///
    /// # Errors
    ///
    /// That of the operating system; nothing may rely on any of the names then.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

impl Disk for DefaultFileSystem {
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        directory::sync_dir(dir)
    }
}
