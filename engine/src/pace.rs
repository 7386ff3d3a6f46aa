//! [`Pace`]: how a large file is written beside the log.

use std::io;
use std::time::{Duration, Instant};

use crate::files::OutFile;

/// Bytes that are written before they are synced. The log shares the disk, and its fsyncs wait for
/// what is written back by then: those of a file that is synced once, at its end, would wait for all
/// of it.
const UNSYNCED_BYTES_MAX: u64 = 1 << 20;

/// Longest pause: a disk that hangs is not waited for twice.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Syncs a file as it grows, and leaves the disk to others in between for as long as the sync took:
/// so a file takes half of it, whatever its speed.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    synced: u64,
    /// A sync has failed. What was written before it may be lost, whatever a later one says.
    is_given_up: bool,
}

impl Pace {
    /// To be called after each write; `written` bytes are in the file by then. Blocks.
    ///
    /// # Errors
    ///
    /// That of the sync: give the file up.
    pub(crate) fn keep(&mut self, file: &dyn OutFile, written: u64) -> io::Result<()> {
        if written - self.synced < UNSYNCED_BYTES_MAX {
            return Ok(());
        }
        let begin = Instant::now();
        self.sync(file)?;
        self.synced = written;
        // It may return early, and that would do no harm.
        std::thread::park_timeout(begin.elapsed().min(PAUSE_MAX));
        Ok(())
    }

    /// Syncs the file. Blocks.
    ///
    /// # Errors
    ///
    /// That of the sync; and always after one that has failed, which whoever writes the file may not
    /// have looked at.
    pub(crate) fn sync(&mut self, file: &dyn OutFile) -> io::Result<()> {
        if self.is_given_up {
            return Err(io::Error::other("an earlier sync of the file has failed"));
        }
        file.sync().inspect_err(|_| self.is_given_up = true)
    }
}
