//! Opening a directory: every step in its order, and every finding named.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_engine::env::{Handle as _, Permission};
use thiserror::Error;

use crate::cache::CacheBudget;
use crate::config::{ConfigFault, EngineConfig};
use crate::damage::{Damage, Findings, REPLACE_NODE};
use crate::directory::{self, LOG, SNAPSHOTS, WITNESS};
use crate::disk::Disk;
use crate::engine::Engine;
use crate::files::{DiskFiles, Files};
use crate::identity::{Formatted, Identity};
use crate::ids::GroupId;
use crate::log_files::{LogFiles, Queue};
use crate::quarantine::{self, Quarantine};
use crate::reader::LogReader;
use crate::recovery::{self, Recoveries, Source};
use crate::snapshot::SnapshotError;
use crate::snapshot_store::SnapshotStore;
use crate::store::{Store, StoreError};
use crate::survey::Survey;
use crate::witness::{self, Witness};
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
    /// Something on disk is not what was written, and concerns every group.
    #[error("{}", Findings(.findings))]
    Damaged {
        /// Every finding, never none.
        findings: Vec<Damage>,
    },
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
    /// What opening has to write could not be written.
    #[error("{0}")]
    Write(WriteError),
}

fn list(faults: &[ConfigFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<(PathBuf, io::Error)> for OpenError {
    fn from((path, source): (PathBuf, io::Error)) -> Self {
        Self::Io { path, source }
    }
}

impl From<Damage> for OpenError {
    fn from(finding: Damage) -> Self {
        Self::Damaged { findings: vec![finding] }
    }
}

impl OpenError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn store(dir: &Path, error: StoreError) -> Self {
        let path = dir.to_owned();
        match error {
            StoreError::Disk(source) => Self::Disk { path, source },
            StoreError::Engine(error) => Self::of_raft_engine(path, &error),
        }
    }

    pub(crate) fn of_raft_engine(path: PathBuf, error: &raft_engine::Error) -> Self {
        match error {
            raft_engine::Error::Io(error) => {
                let source = Arc::new(io::Error::new(error.kind(), error.to_string()));
                Self::Disk { path, source }
            }
            error => Damage::of_file(&path, error.to_string(), REPLACE_NODE).into(),
        }
    }

    /// The error of what touches names only.
    pub(crate) fn snapshots(dir: &Path) -> impl FnOnce(SnapshotError) -> Self {
        let dir = dir.to_owned();
        move |error| match error {
            SnapshotError::Io { path, source } | SnapshotError::Full { path, source } => {
                Self::Io { path, source }
            }
            error => Damage::of_file(&dir, error.to_string(), REPLACE_NODE).into(),
        }
    }
}

/// Opens a directory in this order:
///
/// 1. the settings;
/// 2. quarantines of earlier times; one for the whole directory ends it here;
/// 3. the [survey](Survey): log files, every record, the witness. Nothing is written so far; a
///    finding puts the directory into quarantine, before anything else;
/// 4. leftovers: log files without a header, temporary snapshots;
/// 5. raft-engine, which cuts off what is torn;
/// 6. each group: record, entries, snapshot. A finding puts it into quarantine. The tally of the
///    last stamp says whether a group is missing;
/// 7. what was found is made durable, since all that follows relies on it: after a kill it may be
///    in memory only. Then the witness says so;
/// 8. compactions again (trap E05), and the files of groups that are gone.
pub(crate) fn open<F: Disk + 'static>(
    formatted: Formatted,
    config: &EngineConfig,
    disk: Arc<F>,
) -> Result<Engine<F>, OpenError> {
    config.validate().map_err(|faults| OpenError::Config { faults })?;
    let Formatted { dir, identity, lock } = formatted;
    let files = DiskFiles::over(disk.clone());
    let quarantines = quarantine::read_all(files.as_ref(), &dir, identity.directory_id)?;
    if let Some(of_node) = quarantines.iter().find(|quarantine| quarantine.group.is_none()) {
        return Err(OpenError::Damaged { findings: of_node.findings.clone() });
    }
    let (log_dir, witness_path) = (dir.join(LOG), dir.join(WITNESS));
    let testimony = witness::read(files.as_ref(), &witness_path, identity.directory_id)
        .map_err(OpenError::io(&witness_path))?;
    let testimony = (witness_path.as_path(), testimony);
    let survey = Survey::of(disk.as_ref(), &log_dir, identity.directory_id, testimony)?;
    let opening = Opening {
        dir: &dir,
        identity: &identity,
        disk: disk.as_ref(),
        files: &files,
        survey: &survey,
        quarantines: &quarantines,
    };
    opening.condemn_if(&survey.findings)?;
    let snapshots = opening.clear_leftovers()?;
    let store = Store::open(log_dir.clone(), config, disk.clone(), Some(lock))
        .map_err(|error| OpenError::store(&log_dir, error))?;
    let store = Arc::new(store);
    let testimony = survey.testimony.expect("without one there was a finding");
    let witness_path = dir.join(WITNESS);
    let witness = Witness::open(files.as_ref(), &witness_path, identity.directory_id, &testimony)
        .map_err(OpenError::io(&witness_path))?;
    let (reader, thread) = LogReader::start(store.clone(), config.reader_queue_max)
        .map_err(OpenError::io(&log_dir))?;
    // From here on the writer's drop ends the thread and closes raft-engine.
    let sequence = survey.sequence();
    let mut writer = LogWriter::new(
        store.clone(),
        reader.clone(),
        thread,
        witness,
        identity.directory_id,
        sequence,
    );
    let cache = CacheBudget::new(config.cache_bytes_max);
    let source = Source {
        store: &store,
        reader: &reader,
        snapshots: &snapshots,
        cache: &cache,
        scan: &survey.scan,
    };
    let recovered = opening.recover(&source, &mut writer);
    // Before an error is returned: the writer's share must be the last one.
    drop(store);
    let Recovered { groups, damaged, notes } = recovered?;
    Ok(Engine { identity, dir, files, writer, reader, snapshots, cache, groups, damaged, notes })
}

/// What every step of opening looks at.
struct Opening<'a, F> {
    dir: &'a Path,
    identity: &'a Identity,
    disk: &'a F,
    files: &'a Arc<dyn Files>,
    survey: &'a Survey,
    quarantines: &'a [Quarantine],
}

struct Recovered {
    groups: BTreeMap<GroupId, crate::engine::RecoveredGroup>,
    damaged: BTreeMap<GroupId, Vec<Damage>>,
    notes: Vec<Damage>,
}

impl<F: Disk + 'static> Opening<'_, F> {
    /// Puts the whole directory into quarantine for what was found, if anything was.
    fn condemn_if(&self, findings: &[Damage]) -> Result<(), OpenError> {
        if findings.is_empty() {
            return Ok(());
        }
        if findings.iter().any(Damage::is_loss) {
            self.quarantine(None, findings)?;
        }
        Err(OpenError::Damaged { findings: findings.to_vec() })
    }

    fn quarantine(&self, group: Option<GroupId>, findings: &[Damage]) -> Result<(), OpenError> {
        let sequence = self.survey.sequence();
        let (directory, findings) = (self.identity.directory_id, findings.to_vec());
        let quarantine = Quarantine { group, directory, sequence, findings };
        let path = quarantine.path(self.dir);
        quarantine.write(self.files, self.dir).map_err(OpenError::io(&path))
    }

    /// Removes what a crash or a full disk left, and makes the directories.
    fn clear_leftovers(&self) -> Result<SnapshotStore, OpenError> {
        let log_dir = self.dir.join(LOG);
        // raft-engine neither creates parents nor syncs them (trap E09).
        directory::create_dir_durable(&log_dir).map_err(OpenError::io(&log_dir))?;
        for path in &self.survey.headerless {
            self.files.remove(path).map_err(OpenError::io(path))?;
        }
        self.disk.sync_dir(&log_dir).map_err(OpenError::io(&log_dir))?;
        let dir = self.dir.join(SNAPSHOTS);
        let snapshots = SnapshotStore::in_dir(dir.clone(), self.files.clone());
        snapshots.remove_temporaries().map_err(OpenError::snapshots(&dir))?;
        Ok(snapshots)
    }

    /// Recovers the groups, puts into quarantine what is damaged, and makes durable what is not.
    fn recover(
        &self,
        source: &Source<'_, F>,
        writer: &mut LogWriter<F>,
    ) -> Result<Recovered, OpenError> {
        let Self { survey, quarantines, .. } = self;
        self.condemn_if(survey.check_stamp(source.store).as_slice())?;
        let found = recovery::recover_all(source, quarantines)?;
        for (group, findings) in &found.damaged {
            if !findings.iter().any(Damage::is_loss) {
                return Err(OpenError::Damaged { findings: findings.clone() });
            }
            self.quarantine(Some(*group), findings)?;
        }
        let findings = survey.check_tally(&found, source.snapshots);
        let findings = findings.map_err(OpenError::snapshots(&self.dir.join(SNAPSHOTS)))?;
        self.condemn_if(&findings)?;
        let Recoveries { groups, mut damaged, quarantined, .. } = found;
        let still_counted = |old: &Quarantine| old.sequence >= survey.sequence();
        let counts_damaged = !damaged.is_empty() || quarantines.iter().any(still_counted);
        // Maps that are made in one go have no half empty nodes.
        writer.recovered(groups.iter().map(|(group, found)| (*group, found.on_disk)).collect());
        writer.quarantine(quarantined);
        let mut stale = Vec::new();
        let recovered: BTreeMap<_, _> = groups
            .into_iter()
            .map(|(group, recovery)| {
                stale.extend(recovery.stale.map(|stale| (group, stale)));
                (group, recovery.recovered)
            })
            .collect();
        for quarantine in *quarantines {
            // One that was renewed meanwhile is a group again.
            if let Some(group) = quarantine.group.filter(|group| !recovered.contains_key(group)) {
                damaged.insert(group, quarantine.findings.clone());
            }
        }
        let mut notes = survey.notes.clone();
        if damaged.is_empty() {
            notes.extend(survey.dead_records());
        }
        for note in &notes {
            tracing::warn!(%note, "something on disk is not as it was written; nothing is lost");
        }
        source.store.hold_purge(!damaged.is_empty());
        if survey.scan.cleans {
            source.store.note_clean();
        }
        self.make_durable(source.store)?;
        writer.vouch().map_err(OpenError::Write)?;
        if counts_damaged {
            writer.count_anew().map_err(OpenError::Write)?;
        }
        writer.repeat_compactions(stale).map_err(OpenError::Write)?;
        // The log has lost no group, and is durable: what it does not name is left of one that is gone.
        let stays = |group: &GroupId| recovered.contains_key(group) || damaged.contains_key(group);
        let discarded = source.snapshots.discard_others(stays);
        discarded.map_err(OpenError::snapshots(&self.dir.join(SNAPSHOTS)))?;
        Ok(Recovered { groups: recovered, damaged, notes })
    }

    /// After a kill the end of the log may be in memory only.
    fn make_durable(&self, store: &Store<F>) -> Result<(), OpenError> {
        // Listed again: raft-engine begins a queue without a file, and syncs its header only with
        // the first record.
        let (files, _) = LogFiles::list(store.dir()).map_err(OpenError::io(store.dir()))?;
        for path in [Queue::Append, Queue::Rewrite].into_iter().filter_map(|q| files.last(q)) {
            let handle =
                self.disk.open(&path, Permission::ReadWrite).map_err(OpenError::io(&path))?;
            handle
                .sync()
                .map_err(|error| OpenError::Disk { path, source: store.latch().set(error) })?;
        }
        // What raft-engine made, and the directory of the log itself (trap E09).
        for dir in [store.dir(), self.dir] {
            self.disk.sync_dir(dir).map_err(OpenError::io(dir))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
