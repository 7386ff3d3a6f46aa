//! The one instance of raft-engine, shared by the log writer and the reader thread.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::Disk;
use raft::eraftpb::Entry;
use raft_engine::{Config, MessageExt, ReadableSize, RecoveryMode, Version};

use crate::config::EngineConfig;
use crate::directory::Lock;
use crate::latch::{Latch, LatchedFileSystem};

type RaftEngine<F> = raft_engine::Engine<LatchedFileSystem<F>>;

/// Tells raft-engine where an entry keeps its index.
pub(crate) struct EntryExt;

impl MessageExt for EntryExt {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// Why raft-engine did not do what it was asked.
#[derive(Debug, Clone)]
pub(crate) enum StoreError {
    /// The latch is set: the disk failed, or raft-engine panicked.
    Disk(Arc<io::Error>),
    /// raft-engine returned an error.
    Engine(Arc<raft_engine::Error>),
}

/// Whether raft-engine failed for want of room on the disk.
pub(crate) fn is_full(error: &raft_engine::Error) -> bool {
    match error {
        // After "nospace" raft-engine tries a second file, and then gives up with this.
        raft_engine::Error::TryAgain(_) => true,
        raft_engine::Error::Io(error) => error.kind() == io::ErrorKind::StorageFull,
        _ => false,
    }
}

/// raft-engine behind the fsync latch. Dropping it joins a thread and syncs (trap E11), unless
/// the latch is set: then it is leaked together with the lock, since its destructor would
/// truncate and sync again what the failure left (trap E03). The directory stays locked until
/// the process ends.
pub(crate) struct Store<F: Disk> {
    /// `None` only while it is being dropped.
    engine: Option<RaftEngine<F>>,
    lock: Option<Lock>,
    latch: Latch,
    dir: PathBuf,
    purge_is_held: AtomicBool,
    has_cleaned: AtomicBool,
}

impl<F: Disk> Store<F> {
    /// Opens raft-engine in `dir`, which exists. The lock is that of the directory around it, held
    /// for as long; none where nothing is shared with anybody.
    pub(crate) fn open(
        dir: PathBuf,
        config: &EngineConfig,
        file_system: Arc<F>,
        lock: Option<Lock>,
    ) -> Result<Self, StoreError> {
        let latch = Latch::default();
        let Some(name) = dir.to_str() else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8");
            return Err(StoreError::Disk(Arc::new(error)));
        };
        let config = raft_engine_config(name, config);
        let file_system = Arc::new(LatchedFileSystem::new(file_system, latch.clone()));
        let engine = guarded(&latch, || RaftEngine::open_with_file_system(config, file_system))?;
        let store = Self {
            engine: Some(engine),
            lock,
            latch,
            dir,
            purge_is_held: AtomicBool::new(false),
            has_cleaned: AtomicBool::new(false),
        };
        // Opening syncs too, where it cuts off a torn tail.
        match store.latch.error() {
            Some(error) => Err(StoreError::Disk(error)),
            None => Ok(store),
        }
    }

    /// Where raft-engine keeps its files.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Says whether a purge may work. It would read and move the entries of a damaged group too:
    /// it would fail on them, or put them where nobody looks for them.
    pub(crate) fn hold_purge(&self, is_held: bool) {
        self.purge_is_held.store(is_held, Ordering::SeqCst);
    }

    /// Notes that a group was dropped from the log, now or by a record that is still there.
    pub(crate) fn note_clean(&self) {
        self.has_cleaned.store(true, Ordering::SeqCst);
    }

    /// Notes that a purge had no room. raft-engine forgets then which groups were dropped, and the
    /// next purge that has room would remove the records that say so, with the old entries still
    /// among the rewritten ones. No purge until the log is opened again, and the groups are known
    /// again from it.
    pub(crate) fn purge_had_no_room(&self) {
        if self.has_cleaned.load(Ordering::SeqCst) {
            self.hold_purge(true);
        }
    }

    /// Whether a purge must not work.
    pub(crate) fn is_purge_held(&self) -> bool {
        self.purge_is_held.load(Ordering::SeqCst)
    }

    /// The latch over the disk.
    pub(crate) fn latch(&self) -> &Latch {
        &self.latch
    }

    /// Runs `operation` on raft-engine. A panic in it sets the latch; a latch that is set, before
    /// or after, is the error.
    pub(crate) fn run<T>(
        &self,
        operation: impl FnOnce(&RaftEngine<F>) -> raft_engine::Result<T>,
    ) -> Result<T, StoreError> {
        if let Some(error) = self.latch.error() {
            return Err(StoreError::Disk(error));
        }
        let result = guarded(&self.latch, || operation(self.engine()));
        match self.latch.error() {
            Some(error) => Err(StoreError::Disk(error)),
            None => result,
        }
    }

    /// raft-engine, for what it answers from memory.
    pub(crate) fn engine(&self) -> &RaftEngine<F> {
        self.engine.as_ref().expect("only taken when dropped")
    }
}

impl<F: Disk> Drop for Store<F> {
    fn drop(&mut self) {
        let (engine, lock) = (self.engine.take(), self.lock.take());
        if self.latch.error().is_some() {
            std::mem::forget((engine, lock));
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
            self.latch.set(io::Error::other("raft-engine panicked when it was closed"));
        }
    }
}

/// Runs `operation`; a panic in it sets the latch, as raft-engine's state is unknown then.
fn guarded<T>(
    latch: &Latch,
    operation: impl FnOnce() -> raft_engine::Result<T>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(result) => result.map_err(|error| StoreError::Engine(Arc::new(error))),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("without a text");
            let error = io::Error::other(format!("raft-engine panicked: {text}"));
            Err(StoreError::Disk(latch.set(error)))
        }
    }
}

fn raft_engine_config(dir: &str, config: &EngineConfig) -> Config {
    Config {
        dir: dir.to_owned(),
        // The strict mode refuses a third of ordinary kills (trap E07).
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        // Entries are small and an fsync outweighs their bytes; but whoever reads one entry of a
        // compressed batch must decompress all of it, and a flipped bit costs all of it.
        batch_compression_threshold: ReadableSize(0),
        format_version: Version::V2,
        target_file_size: ReadableSize(config.target_file_size_bytes),
        purge_threshold: ReadableSize(config.purge_threshold_bytes),
        // A recycled file keeps its old name until a clean shutdown: after a kill it would come
        // back as part of the log, or leave a gap in the sequence that we could not tell from a
        // lost file. And what follows a torn tail would be old records instead of nothing.
        enable_log_recycle: false,
        ..Config::default()
    }
}
