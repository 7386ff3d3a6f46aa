//! [`SnapshotReceiver`]: a peer's snapshot file on its way in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mutation::Bug;

use crate::files::{Files, OutFile};
use crate::ids::{GroupId, LogId};
use crate::pace::Pace;
use crate::snapshot::{REMEDY_RECEIVED, SnapshotDigest, SnapshotError, SnapshotMeta};
use crate::snapshot_parser::SnapshotParser;
use crate::temporary::Temporary;

/// Receives a peer's snapshot file, byte for byte, and verifies it as it comes.
///
/// It gets its name only after all of it is verified. Dropping it leaves nothing behind;
/// [`SnapshotStore::suspend`](crate::SnapshotStore::suspend) keeps what has come so far. Holds one
/// block in memory. Blocks on the disk.
///
/// The file is not read again before it is used: that would come from the page cache, and say
/// nothing about the disk. Whoever opens it verifies it anyway.
#[derive(Debug)]
pub struct SnapshotReceiver {
    expected: (GroupId, LogId),
    digest: SnapshotDigest,
    received: u64,
    pace: Pace,
    parser: SnapshotParser,
    target: PathBuf,
    // Before the temporary, to be closed before it is removed.
    file: Box<dyn OutFile>,
    temporary: Temporary,
}

impl SnapshotReceiver {
    pub(crate) fn create(
        files: &Arc<dyn Files>,
        expected: (GroupId, LogId),
        digest: SnapshotDigest,
        temporary: &Path,
        target: PathBuf,
    ) -> Result<Self, SnapshotError> {
        let (temporary, file) =
            Temporary::create(files, temporary).map_err(SnapshotError::io(temporary))?;
        let (path, len) = (temporary.path().to_owned(), digest.len_bytes);
        let (parser, pace) = (SnapshotParser::new(path, REMEDY_RECEIVED, len), Pace::default());
        Ok(Self { expected, digest, received: 0, pace, parser, target, file, temporary })
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.parser.capacity()
    }

    /// Which file of which snapshot is received.
    pub(crate) fn announced(&self) -> (GroupId, LogId, SnapshotDigest) {
        (self.expected.0, self.expected.1, self.digest)
    }

    /// Whether the header has come: before that there is little to save, and a part of a header is
    /// more memory than a block.
    pub(crate) fn is_begun(&self) -> bool {
        self.parser.meta().is_some()
    }

    /// Bytes received so far: all of them are written, and the sender goes on behind them.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// Adds the next bytes of the file, verified as far as they complete a block. What cannot
    /// become the announced file is refused as early as that shows.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Length`] when they are more than announced; [`SnapshotError::Damaged`],
    /// [`SnapshotError::Mismatch`], [`SnapshotError::Full`], [`SnapshotError::Io`]. Drop the
    /// receiver then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let (announced, received) = (self.digest.len_bytes, self.received + bytes.len() as u64);
        if received > announced {
            return Err(SnapshotError::Length { announced, received });
        }
        self.parser.push(bytes)?;
        self.meta()?;
        self.file.write_all(bytes).map_err(SnapshotError::io(self.temporary.path()))?;
        let kept = self.pace.keep(self.file.as_ref(), received);
        kept.map_err(SnapshotError::io(self.temporary.path()))?;
        // Not before: after a failed write the parser is ahead of the file for good, and the
        // file can never be finished.
        self.received = received;
        Ok(())
    }

    /// What is being received, when that is known, and if it is what was announced.
    fn meta(&self) -> Result<Option<&SnapshotMeta>, SnapshotError> {
        let Some(meta) = self.parser.meta() else { return Ok(None) };
        let (expected, found) = (self.expected, (meta.group, meta.id));
        if found == expected {
            Ok(Some(meta))
        } else {
            Err(SnapshotError::Mismatch { expected, found })
        }
    }

    /// Verifies that the announced file is there to its last byte; makes it and its name durable.
    /// Only then may it be installed.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]; nothing is left behind, but for a failure to make the name durable, as
    /// with [`SnapshotWriter::finish`](crate::SnapshotWriter::finish): then nothing may be
    /// installed from the file either.
    pub fn finish(mut self) -> Result<SnapshotMeta, SnapshotError> {
        let (announced, received) = (self.digest.len_bytes, self.received);
        if received != announced {
            return Err(SnapshotError::Length { announced, received });
        }
        let meta = match self.meta()? {
            Some(meta) if self.parser.is_at_end() => meta.clone(),
            _ => return Err(self.parser.ends_early()),
        };
        if self.parser.crcs() != Some(self.digest.crcs) {
            return Err(self.parser.is_another());
        }
        let Self { target, file, temporary, .. } = self;
        if !mutation::is(Bug::ReceivedSnapshotNotSynced) {
            file.sync().map_err(SnapshotError::io(temporary.path()))?;
        }
        drop(file);
        temporary.keep_as(&target).map_err(SnapshotError::io(&target))?;
        Ok(meta)
    }
}
