//! What can happen to a disk that nobody uses: rot, lost files, misdirected writes.

use std::io;
use std::path::{Path, PathBuf};

use super::CrashDisk;

/// Damage at rest, and a look at what is there. Paths are relative to the root. Not observed, not
/// counted, and beyond the reach of faults.
impl CrashDisk {
    /// The names of all files, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.lock().volume.visible().map(|(path, _)| path.clone()).collect()
    }

    /// The content of a file.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn content(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        let node = state.volume.lookup(path.as_ref())?;
        Ok(state.volume.node(node)?.visible().to_vec())
    }

    /// Flips one bit (0 to 7) of the byte at `offset`. All of the file is synced.
    ///
    /// # Errors
    ///
    /// `NotFound`; `InvalidInput` beyond the end of the file.
    pub fn flip_bit(&self, path: impl AsRef<Path>, offset: u64, bit: u32) -> io::Result<()> {
        let mut state = self.0.lock();
        let node = state.volume.lookup(path.as_ref())?;
        state.volume.node_mut(node)?.alter(|content| {
            let mut byte = [0];
            if content.read_at(offset, &mut byte) == 0 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            content.write_at(offset, &[byte[0] ^ (1 << (bit % 8))])
        })
    }

    /// Cuts a file off at `len`, or makes it that long with zeros. All of the file is synced.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn truncate_file(&self, path: impl AsRef<Path>, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        let node = state.volume.lookup(path.as_ref())?;
        state.volume.node_mut(node)?.alter(|content| content.set_len(len))
    }

    /// Exchanges the contents of two files. All names are synced.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn swap_files(&self, first: impl AsRef<Path>, second: impl AsRef<Path>) -> io::Result<()> {
        let mut state = self.0.lock();
        state.volume.lookup(first.as_ref())?;
        state.volume.lookup(second.as_ref())?;
        state.volume.names_mut().swap(first.as_ref(), second.as_ref());
        Ok(())
    }

    /// Loses a file. All names are synced.
    ///
    /// # Errors
    ///
    /// `NotFound`, or that of removing its name in the root.
    pub fn drop_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let mut state = self.0.lock();
        state.volume.lookup(path)?;
        std::fs::remove_file(self.0.root.join(path))?;
        state.volume.names_mut().take(path);
        state.collect();
        Ok(())
    }
}
