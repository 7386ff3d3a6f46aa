//! A disk, frozen: cheap to take, and the source of as many crashed disks as one likes.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::CrashDisk;
use super::survival::Survival;
use super::volume::Volume;

/// A frozen [`CrashDisk`], with the directories and the real files beside it (`identity`, `LOCK`).
///
/// Taking and cloning one shares the contents.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    volume: Volume,
    /// Directories below the root, parents first.
    dirs: Vec<PathBuf>,
    /// Files that the disk knows nothing about, as they are.
    real: Vec<(PathBuf, Bytes)>,
}

impl Image {
    pub(super) fn new(volume: Volume, root: &Path) -> io::Result<Self> {
        let mut image = Self { volume, dirs: Vec::new(), real: Vec::new() };
        image.scan(root, Path::new(""))?;
        Ok(image)
    }

    fn scan(&mut self, root: &Path, dir: &Path) -> io::Result<()> {
        let mut entries = std::fs::read_dir(root.join(dir))?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = dir.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.dirs.push(path.clone());
                self.scan(root, &path)?;
            } else if self.volume.names().get(&path).is_none() {
                match std::fs::read(entry.path()) {
                    Ok(content) => self.real.push((path, content.into())),
                    // Removed meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Whether everything in it is durable, so that a power loss takes nothing away.
    pub fn is_synced(&self) -> bool {
        self.volume.is_synced()
    }

    /// The disk that a power loss leaves, in the empty directory `root`, which is created if
    /// need be: nothing is unsynced there. The real files are there as they are, the directories too.
    ///
    /// # Errors
    ///
    /// Those of the real file system in `root`.
    pub fn power_loss(
        &self,
        survival: Survival,
        root: impl Into<PathBuf>,
    ) -> io::Result<CrashDisk> {
        let volume = self.volume.after_power_loss(&mut survival.toss());
        self.restore(volume, root.into())
    }

    /// The disk that the end of a process leaves, in the empty directory `root`, which is created
    /// if need be: everything written is seen, and what was not synced still is not.
    ///
    /// # Errors
    ///
    /// Those of the real file system in `root`.
    pub fn kill(&self, root: impl Into<PathBuf>) -> io::Result<CrashDisk> {
        self.restore(self.volume.clone(), root.into())
    }

    fn restore(&self, mut volume: Volume, root: PathBuf) -> io::Result<CrashDisk> {
        // Handles end with their process.
        volume.collect(|_| false);
        std::fs::create_dir_all(&root)?;
        for dir in &self.dirs {
            std::fs::create_dir(root.join(dir))?;
        }
        for (path, content) in &self.real {
            std::fs::write(root.join(path), content)?;
        }
        for (path, _) in volume.visible() {
            if let Some(parent) = path.parent().filter(|parent| !root.join(parent).is_dir()) {
                std::fs::create_dir_all(root.join(parent))?;
            }
            std::fs::File::create_new(root.join(path))?;
        }
        CrashDisk::with_volume(volume, root)
    }
}
