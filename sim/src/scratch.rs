//! Where the files of a check live for as long as it runs.

use std::io;
use std::path::Path;

use tempfile::TempDir;

/// Memory that looks like a disk: names are made and removed a hundred thousand times.
const MEMORY: &str = "/dev/shm";

/// A directory that is removed when dropped: in memory where that can be.
pub(crate) fn scratch() -> io::Result<TempDir> {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("quorate-sim-");
        builder
    };
    if Path::new(MEMORY).is_dir()
        && let Ok(dir) = builder().tempdir_in(MEMORY)
    {
        return Ok(dir);
    }
    builder().tempdir()
}
