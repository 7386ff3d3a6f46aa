//! Opening a directory: every step in its order, and every finding named.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::cache::CacheBudget;
use crate::config::{ConfigFault, EngineConfig};
use crate::damage::{Damage, REPLACE_GROUP};
use crate::directory;
use crate::disk::Disk;
use crate::engine::{Engine, RecoveredGroup};
use crate::files::DiskFiles;
use crate::identity::Formatted;
use crate::ids::GroupId;
use crate::log_files::{self, LogFilesError};
use crate::reader::{LogReader, ReadError};
use crate::record::{ENGINE_REGION, SEQUENCE_KEY, decode_sequence};
use crate::recovery::{self, Recovery};
use crate::snapshot::SnapshotError;
use crate::snapshot_store::SnapshotStore;
use crate::store::{Store, StoreError};
use crate::write::WriteError;
use crate::writer::LogWriter;

/// Why a directory could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The settings are not valid.
    #[error("the engine's settings are not valid: {}", list(.faults))]
    Config {
        /// Every fault.
        faults: Vec<ConfigFault>,
    },
    /// Something on disk is not what was written.
    #[error("{0}")]
    Damaged(Damage),
    /// A file operation failed.
    #[error("{}: {source}: check the disk and the permissions", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The disk failed while the log was opened.
    #[error("{}: the disk failed: check it, and start again: {source}", path.display())]
    Disk {
        /// The directory of the log.
        path: PathBuf,
        /// The first failure.
        source: Arc<io::Error>,
    },
    /// Compactions could not be repeated.
    #[error("{0}")]
    Write(WriteError),
}

fn list(faults: &[ConfigFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<LogFilesError> for OpenError {
    fn from(error: LogFilesError) -> Self {
        match error {
            LogFilesError::Damaged(damage) => Self::Damaged(damage),
            LogFilesError::Io { path, source } => Self::Io { path, source },
        }
    }
}

impl OpenError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn store(dir: &Path, error: StoreError) -> Self {
        let path = dir.to_owned();
        match error {
            StoreError::Disk(source) => Self::Disk { path, source },
            StoreError::Engine(error) => Self::of_raft_engine(path, &error),
        }
    }

    fn of_raft_engine(path: PathBuf, error: &raft_engine::Error) -> Self {
        match error {
            raft_engine::Error::Io(error) => {
                let source = Arc::new(io::Error::new(error.kind(), error.to_string()));
                Self::Disk { path, source }
            }
            error => Self::Damaged(Damage::of_file(&path, error.to_string(), REPLACE_GROUP)),
        }
    }

    /// The error of reading entries of `group` from `index` on.
    pub(crate) fn read(group: GroupId, index: u64, dir: &Path, error: ReadError) -> Self {
        let path = dir.to_owned();
        match error {
            ReadError::Disk { source } => Self::Disk { path, source },
            ReadError::Engine { source }
                if matches!(source.as_ref(), raft_engine::Error::Io(_)) =>
            {
                Self::of_raft_engine(path, &source)
            }
            error => Self::Damaged(Damage::of_group(group, dir, error.to_string()).at_index(index)),
        }
    }

    /// The error of listing snapshots: no file is read for that.
    fn names(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io { path, source } | SnapshotError::Full { path, source } => {
                Self::Io { path, source }
            }
            error => {
                Self::Damaged(Damage::of_file(Path::new(""), error.to_string(), REPLACE_GROUP))
            }
        }
    }

    /// The error of opening the snapshot that a group is restored from.
    pub(crate) fn snapshot(group: GroupId, path: &Path, error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io { path, source } | SnapshotError::Full { path, source } => {
                Self::Io { path, source }
            }
            SnapshotError::Damaged(damage) => {
                Self::Damaged(Damage { group: Some(group), ..damage })
            }
            SnapshotError::Missing { .. } => {
                let what = "the snapshot that the state is restored from is missing";
                Self::Damaged(Damage::of_group(group, path, what))
            }
            error => Self::Damaged(Damage::of_group(group, path, error.to_string())),
        }
    }
}

/// Opens a directory in the order of the design:
///
/// 1. the settings; leftovers of snapshots;
/// 2. the sequence of log files, a last one without a header removed;
/// 3. raft-engine, and its directory and the parent synced (trap E09);
/// 4. each group: record, entries, snapshot;
/// 5. compactions again (trap E05): the first write. What must be compared before anything is
///    written, as a witness of the last batch, belongs before it.
pub(crate) fn open<F: Disk + 'static>(
    formatted: Formatted,
    config: &EngineConfig,
    file_system: Arc<F>,
) -> Result<Engine<F>, OpenError> {
    config.validate().map_err(|faults| OpenError::Config { faults })?;
    let Formatted { dir, identity, lock } = formatted;
    let files = DiskFiles::over(file_system.clone());
    let snapshots = SnapshotStore::in_dir(dir.join(directory::SNAPSHOTS), files);
    snapshots.remove_temporaries().map_err(OpenError::names)?;
    let log_dir = dir.join(directory::LOG);
    // raft-engine neither creates parents nor syncs them.
    directory::create_dir_durable(&log_dir).map_err(OpenError::io(&log_dir))?;
    log_files::prepare(&log_dir, file_system.as_ref())?;
    let store = Store::open(log_dir.clone(), config, file_system, lock)
        .map_err(|error| OpenError::store(&log_dir, error))?;
    for dir in [&log_dir, &dir] {
        directory::sync_dir(dir).map_err(OpenError::io(dir))?;
    }
    let sequence = read_sequence(&store)?;
    let store = Arc::new(store);
    let (reader, thread) = LogReader::start(store.clone(), config.reader_queue_max)
        .map_err(OpenError::io(&log_dir))?;
    // From here on the writer's drop ends the thread and closes raft-engine.
    let mut writer = LogWriter::new(store.clone(), reader.clone(), thread, sequence);
    let cache = CacheBudget::new(config.cache_bytes_max);
    let groups = recover_groups(&store, &reader, &snapshots, &cache, &mut writer);
    // Before the error is returned: the writer's share must be the last one.
    drop(store);
    let groups = groups?;
    refuse_orphans(&snapshots, &groups)?;
    Ok(Engine { identity, writer, reader, snapshots, cache, groups })
}

fn read_sequence<F: Disk>(store: &Store<F>) -> Result<u64, OpenError> {
    match store.engine().get(ENGINE_REGION, SEQUENCE_KEY) {
        Some(bytes) => decode_sequence(&bytes).map_err(|error| {
            OpenError::Damaged(Damage::of_frame(store.dir(), "the batch sequence", &error))
        }),
        None if store.engine().is_empty() => Ok(0),
        None => Err(OpenError::Damaged(Damage::of_file(
            store.dir(),
            "there are groups but no batch sequence",
            REPLACE_GROUP,
        ))),
    }
}

/// A snapshot beyond the first one follows a group record. Without one the log is gone, and the
/// directory must not pass for one that was never used. (The first one may stand alone: a crash
/// came between it and its record.)
fn refuse_orphans(
    snapshots: &SnapshotStore,
    groups: &BTreeMap<GroupId, RecoveredGroup>,
) -> Result<(), OpenError> {
    for group in snapshots.groups().map_err(OpenError::names)? {
        if groups.contains_key(&group) {
            continue;
        }
        let latest = snapshots.latest(group).map_err(OpenError::names)?;
        if latest.is_some_and(|id| id.index > 1) {
            let what = "there is a snapshot, and no log that it belongs to: the log is lost";
            return Err(OpenError::Damaged(Damage::of_group(
                group,
                &snapshots.group_dir(group),
                what,
            )));
        }
    }
    Ok(())
}

fn recover_groups<F: Disk>(
    store: &Store<F>,
    reader: &LogReader,
    snapshots: &SnapshotStore,
    cache: &CacheBudget,
    writer: &mut LogWriter<F>,
) -> Result<BTreeMap<GroupId, RecoveredGroup>, OpenError> {
    let mut regions = store.engine().raft_groups();
    regions.sort_unstable();
    let (mut groups, mut stale) = (BTreeMap::new(), Vec::new());
    for group in regions.into_iter().filter_map(GroupId::new) {
        let recovery = recovery::recover(store, reader, snapshots, cache, group)?;
        let Some(Recovery { recovered, on_disk, stale: of_group }) = recovery else { continue };
        stale.extend(of_group.map(|stale| (group, stale)));
        writer.recovered(group, on_disk);
        groups.insert(group, recovered);
    }
    writer.repeat_compactions(stale).map_err(OpenError::Write)?;
    Ok(groups)
}
