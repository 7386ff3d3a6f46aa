//! [`Theirs`]: raft-engine alone, with our settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use quorate_engine::{EngineConfig, FileSystem};
use raft::eraftpb::Entry;
use raft_engine::{
    Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode, Version,
};

use crate::engine::Failure;
use crate::engine::ours::{self, Took};

/// Entries of one read, as many as our own reader asks for at once.
const READ_ENTRIES: u64 = 1024;

/// The one group of a store that is measured.
const GROUP: u64 = 1;

/// Tells raft-engine where the index of an entry is.
pub(crate) struct EntryExt;

impl MessageExt for EntryExt {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// An open raft-engine.
pub(crate) struct Theirs<F: FileSystem> {
    engine: Engine<F>,
}

impl<F: FileSystem + 'static> Theirs<F> {
    /// Opens raft-engine in `dir`, and makes it if need be.
    pub(crate) fn open(dir: &Path, file_system: Arc<F>) -> Result<Theirs<F>, Failure> {
        let dir = dir.to_str().ok_or("the path of the store is not UTF-8")?;
        let engine = Engine::open_with_file_system(config(dir, &ours::config()), file_system)?;
        Ok(Theirs { engine })
    }

    /// Fills a batch with `entries`, and writes it with an fsync.
    pub(crate) fn append(&self, entries: &[Entry]) -> Result<Took, Failure> {
        let begin = Instant::now();
        let mut batch = LogBatch::default();
        batch.add_entries::<EntryExt>(GROUP, entries)?;
        let before = Instant::now();
        self.engine.write(&mut batch, true)?;
        drop(batch);
        let end = Instant::now();
        Ok(Took { write: end - before, whole: end - begin })
    }

    /// Compacts all but the last `keep` entries.
    pub(crate) fn compact(&self, keep: u64) -> Result<(), Failure> {
        let last = self.engine.last_index(GROUP).unwrap_or_default();
        let mut batch = LogBatch::default();
        batch.add_command(GROUP, Command::Compact { index: last.saturating_sub(keep) + 1 });
        self.engine.write(&mut batch, true)?;
        Ok(())
    }

    /// Reads every entry once, and returns how many there are. Only on a thread that has read from
    /// no other engine: raft-engine caches by thread and position in a file.
    pub(crate) fn read_all(&self) -> Result<u64, raft_engine::Error> {
        let span = self.engine.first_index(GROUP).zip(self.engine.last_index(GROUP));
        let Some((first, last)) = span else { return Ok(0) };
        let (mut low, mut entries) = (first, Vec::new());
        while low <= last {
            let high = (low + READ_ENTRIES).min(last + 1);
            entries.clear();
            self.engine.fetch_entries_to::<EntryExt>(GROUP, low, high, None, &mut entries)?;
            low = high;
        }
        Ok(last + 1 - first)
    }
}

/// What our engine, with these settings, gives to raft-engine.
pub(crate) fn config(dir: &str, settings: &EngineConfig) -> Config {
    let EngineConfig { target_file_size_bytes, purge_threshold_bytes, .. } = *settings;
    Config {
        dir: dir.to_owned(),
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        batch_compression_threshold: ReadableSize(0),
        format_version: Version::V2,
        target_file_size: ReadableSize(target_file_size_bytes),
        purge_threshold: ReadableSize(purge_threshold_bytes),
        enable_log_recycle: false,
        ..Config::default()
    }
}
