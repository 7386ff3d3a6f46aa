//! [`Temporary`]: a file that is there whole, or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::directory;
use crate::files::{Files, OutFile};

/// A file under a temporary name: removed when dropped, unless it is given its final name.
#[derive(Debug)]
pub(crate) struct Temporary {
    files: Arc<dyn Files>,
    path: PathBuf,
    is_kept: bool,
}

impl Temporary {
    /// Creates the file, empty. Nobody else uses its name.
    pub(crate) fn create(
        files: &Arc<dyn Files>,
        path: &Path,
    ) -> io::Result<(Self, Box<dyn OutFile>)> {
        // Before the file is: one that is created and then cannot be used is removed as well.
        let temporary = Self { files: files.clone(), path: path.to_owned(), is_kept: false };
        let file = files.create(path)?;
        Ok((temporary, file))
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file, which is synced, its final name in the same directory, and makes the name
    /// durable.
    ///
    /// When only the last fails, the final name stays. Whether a power loss undoes it is open, and
    /// it must stay all the same: it may have taken the place of a file that is relied on, and
    /// that is gone. A reader finds the whole file that was there before, or the whole new one, so
    /// that the caller has to be sure of one thing: nothing that it makes durable later may need
    /// the *new* one.
    pub(crate) fn keep_as(mut self, path: &Path) -> io::Result<()> {
        self.files.rename(&self.path, path)?;
        self.is_kept = true;
        self.files.sync_dir(&directory::parent_of(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed now is removed at the next open.
            let _ = self.files.remove(&self.path);
        }
    }
}

/// Writes a small file whole and durably: as `temporary` first, which nobody else uses, then under
/// its name in the same directory. A crash leaves the file as it was before, or as it is now.
///
/// # Errors
///
/// That of the disk. The temporary file is removed, and whether the file is the old or the new one
/// is open after a power loss: see [`Temporary::keep_as`].
pub(crate) fn write_whole(
    files: &Arc<dyn Files>,
    path: &Path,
    temporary: &Path,
    bytes: &[u8],
) -> io::Result<()> {
    let (temporary, mut file) = Temporary::create(files, temporary)?;
    file.write_all(bytes)?;
    file.sync()?;
    drop(file);
    temporary.keep_as(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Step, faulty};

    #[test]
    fn whatever_fails_the_file_is_whole_and_no_temporary_is_left() {
        for step in Step::ALL {
            let dir = tempfile::tempdir().unwrap();
            let [path, temporary] = ["file", "file.tmp"].map(|name| dir.path().join(name));
            let (faults, files) = faulty();
            // What a crash left of an earlier, longer one.
            std::fs::write(&temporary, [b'x'; 100]).unwrap();
            write_whole(&files, &path, &temporary, b"before").unwrap();
            faults.fail(step, 0);
            let result = write_whole(&files, &path, &temporary, b"now");
            let found = std::fs::read(&path).unwrap();
            match step {
                Step::Remove => assert!(result.is_ok() && found == b"now"),
                Step::SyncDir => assert!(result.is_err() && found == b"now"),
                _ => assert!(result.is_err() && found == b"before", "{step:?}"),
            }
            assert!(!temporary.exists(), "{step:?}");
            faults.heal();
            write_whole(&files, &path, &temporary, b"again").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"again");
        }
    }
}
