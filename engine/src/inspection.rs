//! [`Inspection`]: a look at a data directory that changes nothing, for offline tools.
//!
//! It verifies all that opening verifies, by the same code, over [frozen](crate::frozen_log) log
//! files and without a lock: a running node is not disturbed. Beside one, the parts that are read
//! one after the other may not fit each other; so a finding counts when a second look finds the
//! same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use raft::eraftpb::{ConfState, Entry, HardState};
use raft_engine::env::DefaultFileSystem;
use thiserror::Error;

use crate::cache::CacheBudget;
use crate::config::EngineConfig;
use crate::damage::Damage;
use crate::directory::{LOG, SNAPSHOTS, WITNESS};
use crate::files::DiskFiles;
use crate::frozen_log::FrozenLog;
use crate::identity::{Identity, IdentityError};
use crate::ids::{GroupId, LogId};
use crate::open::OpenError;
use crate::quarantine;
use crate::reader::{LogReader, ReadError};
use crate::record::{RECORD_KEY, StoredRecord};
use crate::recovery::{self, Recoveries, Source};
use crate::snapshot_store::SnapshotStore;
use crate::store::Store;
use crate::survey::Survey;
use crate::witness;

/// Looks at a directory that changes all the time before the last one has to do.
const LOOKS_MAX: usize = 5;
/// Bytes of entries read at a time.
const READ_BYTES_MAX: u64 = 4 << 20;

/// Why a directory could not be inspected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InspectError {
    /// It is not formatted, or its identity is damaged.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Something could not be read: that says nothing about what is there.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A running node changed the directory during every look.
    #[error(
        "{} is in use, and changes faster than it can be read: try again, or stop the node",
        dir.display()
    )]
    Busy {
        /// The directory.
        dir: PathBuf,
    },
}

/// A group as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct InspectedGroup {
    /// The group.
    pub group: GroupId,
    /// The first index that is not compacted away.
    pub first_index: u64,
    /// The last index; one below the first when the log is empty.
    pub last_index: u64,
    /// Term, vote, and commit index as far as it is known.
    pub hard_state: HardState,
    /// The snapshot that the state is restored from.
    pub snapshot: LogId,
    /// The membership.
    pub conf_state: ConfState,
}

/// What a directory holds and what is wrong with it, at one moment.
#[derive(Debug)]
pub struct Inspection {
    /// Who the directory is.
    pub identity: Identity,
    /// The last batch that is on disk; 0 when there is none.
    pub sequence: u64,
    /// Every group that is what was written, ascending.
    pub groups: Vec<InspectedGroup>,
    /// What is damaged; empty when all is well. A finding without a group concerns all of them.
    pub damage: Vec<Damage>,
    /// What is not as it was written, and takes nothing with it.
    pub notes: Vec<Damage>,
    log: Option<OpenLog>,
}

/// raft-engine over the frozen files.
struct OpenLog {
    store: Arc<Store<FrozenLog>>,
    reader: LogReader,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for OpenLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenLog").field("dir", &self.store.dir()).finish_non_exhaustive()
    }
}

impl Drop for OpenLog {
    fn drop(&mut self) {
        self.reader.close();
        if let Some(thread) = self.thread.take() {
            // A panic there ended the thread early: there is nothing to repair.
            let _ = thread.join();
        }
    }
}

impl Inspection {
    /// Inspects `dir`. Blocks on the disk, in proportion to all that is in it.
    ///
    /// # Errors
    ///
    /// [`InspectError`]. Damage is no error but a finding, except for that of the identity.
    pub fn of(dir: &Path) -> Result<Self, InspectError> {
        let identity = Identity::read(dir)?;
        let mut last = Self::look(dir, &identity);
        for _ in 1..LOOKS_MAX {
            if last.as_ref().is_ok_and(|found| found.damage.is_empty()) {
                return Ok(last?);
            }
            let next = Self::look(dir, &identity);
            let is_same = match (&last, &next) {
                (Ok(last), Ok(next)) => last.damage == next.damage,
                (Err(last), Err(next)) => last.to_string() == next.to_string(),
                _ => false,
            };
            last = next;
            if is_same {
                return Ok(last?);
            }
        }
        match last {
            Ok(found) if found.damage.is_empty() => Ok(found),
            _ => Err(InspectError::Busy { dir: dir.to_owned() }),
        }
    }

    fn look(dir: &Path, identity: &Identity) -> Result<Self, OpenError> {
        let (log, witness) = (dir.join(LOG), dir.join(WITNESS));
        let files = DiskFiles::over(Arc::new(DefaultFileSystem));
        let directory = identity.directory_id;
        let quarantines = quarantine::read_all(files.as_ref(), dir, directory)?;
        let testimony =
            witness::read(files.as_ref(), &witness, directory).map_err(OpenError::io(&witness))?;
        let frozen = Arc::new(FrozenLog::of(&log)?);
        let frozen_dir = frozen.dir().to_owned();
        let survey = Survey::of(&*frozen, &frozen_dir, directory, (&witness, testimony))?;
        let snapshots = SnapshotStore::in_dir(dir.join(SNAPSHOTS), files);
        let mut found = Self {
            identity: identity.clone(),
            sequence: survey.sequence(),
            groups: Vec::new(),
            damage: Vec::new(),
            notes: survey.notes.clone(),
            log: None,
        };
        for of_node in quarantines.iter().filter(|old| old.group.is_none()) {
            found.damage.extend(of_node.findings.iter().cloned());
        }
        found.damage.extend(survey.findings.iter().cloned());
        found.recover(&log, &frozen, &survey, &snapshots, &quarantines)?;
        for quarantine in &quarantines {
            // One whose group was renewed meanwhile is void.
            let is_void = |group| found.groups.iter().any(|found| found.group == group);
            if quarantine.group.is_some_and(|group| !is_void(group)) {
                found.damage.extend(quarantine.findings.iter().cloned());
            }
        }
        for finding in found.damage.iter_mut().chain(&mut found.notes) {
            if let Ok(name) = finding.file.strip_prefix(&frozen_dir) {
                finding.file = if name == Path::new("") { log.clone() } else { log.join(name) };
            }
        }
        found.damage = told_once(std::mem::take(&mut found.damage));
        Ok(found)
    }

    /// Recovers the groups of the log in `log` as opening does, as far as raft-engine can.
    fn recover(
        &mut self,
        log: &Path,
        frozen: &Arc<FrozenLog>,
        survey: &Survey,
        snapshots: &SnapshotStore,
        quarantines: &[quarantine::Quarantine],
    ) -> Result<(), OpenError> {
        let (config, dir) = (EngineConfig::default(), frozen.dir());
        for path in &survey.headerless {
            raft_engine::env::FileSystem::delete(&**frozen, path).map_err(OpenError::io(path))?;
        }
        let store = match Store::open(dir.to_owned(), &config, frozen.clone(), None) {
            Ok(store) => Arc::new(store),
            Err(error) => return self.damaged_or(OpenError::store(log, error)),
        };
        let (reader, thread) =
            LogReader::start(store.clone(), config.reader_queue_max).map_err(OpenError::io(log))?;
        let (opened, asked) = (store.clone(), reader.clone());
        self.log = Some(OpenLog { store: opened, reader: asked, thread: Some(thread) });
        let cache = CacheBudget::new(0);
        let source =
            Source { store: &store, reader: &reader, snapshots, cache: &cache, scan: &survey.scan };
        let recoveries = recovery::recover_all(&source, quarantines)?;
        if self.damage.is_empty() {
            self.damage.extend(survey.check_stamp(&store));
        }
        self.damage.extend(recoveries.damaged.values().flatten().cloned());
        if self.damage.iter().all(|damage| damage.group.is_some()) {
            let tally = survey.check_tally(&recoveries, snapshots);
            let path = PathBuf::from(SNAPSHOTS);
            self.damage.extend(tally.map_err(OpenError::snapshots(&path))?);
        }
        if self.damage.is_empty() {
            self.notes.extend(survey.dead_records());
        }
        let Recoveries { groups, .. } = recoveries;
        self.groups = groups.iter().map(|(_, found)| inspected(&found.recovered.log)).collect();
        Ok(())
    }

    /// What raft-engine cannot open is explained by a finding, or is one.
    fn damaged_or(&mut self, error: OpenError) -> Result<(), OpenError> {
        match error {
            // Over files that are not what was written it may fail in any way.
            _ if !self.damage.is_empty() => Ok(()),
            OpenError::Damaged { findings } => {
                self.damage = findings;
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Whether nothing is damaged.
    pub fn is_ok(&self) -> bool {
        self.damage.is_empty()
    }

    /// The first and the last index at which there may be an entry of `group`, also of a damaged
    /// one; `None` when there is none, or nothing can be read at all.
    pub fn span(&self, group: GroupId) -> Option<(u64, u64)> {
        if let Some(found) = self.groups.iter().find(|found| found.group == group) {
            let InspectedGroup { first_index, last_index, .. } = *found;
            return (first_index <= last_index).then_some((first_index, last_index));
        }
        let (engine, region) = (self.log.as_ref()?.store.engine(), group.get());
        let (first, last) = (engine.first_index(region)?, engine.last_index(region)?);
        // Entries at or below the recorded truncation may be back (trap E05).
        let record = engine.get(region, RECORD_KEY);
        let record = record.and_then(|bytes| StoredRecord::decode(group, &bytes).ok());
        let truncated = record.map_or(0, |stored| stored.record.truncated.index);
        let first = first.max(truncated.saturating_add(1));
        (first <= last).then_some((first, last))
    }

    /// The entries of `group` from `low` on, below `high`: at least one where there is one, and
    /// no more than a few MiB. Ask again from behind the last one for more. Entries that are
    /// compacted away are left out.
    ///
    /// # Errors
    ///
    /// [`ReadError::Gone`] when there is no such entry, and others when it cannot be read.
    pub fn entries(&self, group: GroupId, low: u64, high: u64) -> Result<Vec<Entry>, ReadError> {
        let log = self.log.as_ref().ok_or(ReadError::Closed)?;
        let first = self.groups.iter().find(|found| found.group == group);
        let low = first.map_or(low, |found| low.max(found.first_index));
        log.reader.read(group, low, high, READ_BYTES_MAX)
    }
}

/// Each finding once: a quarantine tells what is found again as long as it is there, and by the
/// name that the directory had then.
fn told_once(findings: Vec<Damage>) -> Vec<Damage> {
    let mut told: Vec<Damage> = Vec::with_capacity(findings.len());
    for finding in findings {
        let is_same = |old: &&mut Damage| {
            let renamed = Damage { file: finding.file.clone(), ..(**old).clone() };
            old.file.file_name() == finding.file.file_name() && renamed == finding
        };
        match told.iter_mut().find(is_same) {
            Some(old) => *old = finding,
            None => told.push(finding),
        }
    }
    told
}

fn inspected(log: &crate::log::GroupLog) -> InspectedGroup {
    InspectedGroup {
        group: log.group(),
        first_index: log.first_index(),
        last_index: log.last_index(),
        hard_state: log.hard_state().clone(),
        snapshot: log.snapshot_id(),
        conf_state: log.conf_state().clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{copy_dir, entries, entry_of, hard_state, one, open_small, tempdir, two};

    /// Every file below `dir` with its bytes.
    fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(contents(&path));
            } else {
                found.push((path.clone(), std::fs::read(&path).unwrap()));
            }
        }
        found.sort();
        found
    }

    fn store(dir: &Path) {
        let mut node = open_small(dir);
        node.found(one());
        node.found(two());
        for index in 2..=300 {
            node.append(one(), vec![entry_of(index, 1, 100)]);
            if index % 60 == 0 {
                node.compact(one(), index, index - 20);
                node.purge().unwrap();
            }
        }
        node.close();
    }

    #[test]
    fn a_healthy_directory_is_told_as_it_is_and_left_as_it_was() {
        let dir = tempdir();
        store(dir.path());
        let before = contents(dir.path());
        let found = Inspection::of(dir.path()).unwrap();
        assert!(found.is_ok() && found.notes.is_empty(), "{found:?}");
        assert_eq!(found.groups.len(), 2);
        let InspectedGroup { group, first_index, last_index, hard_state: state, snapshot, .. } =
            &found.groups[0];
        assert_eq!((*group, *first_index, *last_index), (one(), 281, 300));
        assert_eq!((state, snapshot), (&hard_state(1, 1, 300), &LogId::new(300, 1)));
        let expected: Vec<_> = (281..=300).map(|index| entry_of(index, 1, 100)).collect();
        assert_eq!(found.entries(one(), 1, 999).unwrap(), expected);
        assert_eq!((found.span(one()), found.span(two())), (Some((281, 300)), None));
        assert!(matches!(found.entries(one(), 301, 999), Err(ReadError::Gone { .. })));
        drop(found);
        assert_eq!(contents(dir.path()), before);
    }

    #[test]
    fn a_running_node_is_inspected_beside_its_work() {
        let dir = tempdir();
        let mut node = open_small(dir.path());
        node.found(one());
        let path = dir.path().to_owned();
        let looks =
            std::thread::spawn(move || (0..40).map(|_| Inspection::of(&path)).collect::<Vec<_>>());
        let (mut index, mut keep) = (1, LogId::default());
        while !looks.is_finished() {
            index += 1;
            node.append(one(), vec![entry_of(index, 1, 100)]);
            if index % 60 == 0 {
                node.compact(one(), index, index - 20);
                node.purge().unwrap();
                // One more than it needs: thousands of snapshots a second would leave no look whole.
                node.engine.snapshots.retain(one(), keep).unwrap();
                keep = node.logs[&one()].snapshot_id();
            }
        }
        let (mut last, mut seen) = (0, 0);
        for found in looks.join().unwrap() {
            let found = match found {
                Ok(found) => found,
                Err(InspectError::Busy { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            seen += 1;
            assert!(found.is_ok(), "{:?}", found.damage);
            let group = &found.groups[0];
            assert!(group.last_index >= last, "{} after {last}", group.last_index);
            last = group.last_index;
            let (low, high) = (group.first_index, group.last_index + 1);
            if low < high {
                assert_eq!(found.entries(one(), low, high).unwrap().len() as u64, high - low);
            }
        }
        assert!(seen > 0, "none of 40");
        node.close();
    }

    #[test]
    fn a_finding_is_told_once_and_by_the_name_that_the_directory_has_now() {
        let finding = |file: &str, what: &str| Damage::of_file(Path::new(file), what, "");
        let all = vec![finding("d/log", "a"), finding("d/log", "b"), finding("/x/d/log", "a")];
        assert_eq!(told_once(all), [finding("/x/d/log", "a"), finding("d/log", "b")]);
    }

    #[test]
    fn damage_is_named_where_it_is_and_what_can_be_read_is_given() {
        let dir = tempdir();
        store(dir.path());
        // Into one file: the last record of a file is another case.
        let config = EngineConfig::default();
        let mut node = crate::testing::open(dir.path(), &config, &Arc::default()).unwrap();
        node.append(one(), entries(301..=305, 1));
        node.append(one(), entries(306..=310, 1));
        node.close();
        let (path, bytes) = contents(dir.path())
            .into_iter()
            .find(|(_, bytes)| bytes.windows(6).any(|window| window == b"303-1 "))
            .unwrap();
        let mut flipped = bytes.clone();
        let at = bytes.windows(6).position(|window| window == b"303-1 ").unwrap();
        flipped[at] ^= 1;
        std::fs::write(&path, flipped).unwrap();
        let before = contents(dir.path());
        let found = Inspection::of(dir.path()).unwrap();
        let [damage] = found.damage.as_slice() else { panic!("{:?}", found.damage) };
        assert_eq!((&damage.file, damage.group, damage.index), (&path, Some(one()), Some(301)));
        assert!(damage.offset.is_some_and(|offset| offset < at as u64), "{damage}");
        assert_eq!(found.groups.iter().map(|found| found.group).collect::<Vec<_>>(), [two()]);
        assert_eq!(found.entries(one(), 306, 307).unwrap(), entries(306..=306, 1));
        assert!(found.entries(one(), 301, 302).is_err());
        assert_eq!(found.span(one()), Some((281, 310)));
        assert_eq!(contents(dir.path()), before, "no quarantine either");
        // Once a node has put it there, the quarantine speaks.
        let copy = tempdir();
        copy_dir(dir.path(), copy.path());
        open_small(copy.path()).close();
        let found = Inspection::of(copy.path()).unwrap();
        assert_eq!(found.damage.len(), 1);
        // And a witness that is gone concerns all.
        std::fs::remove_file(dir.path().join(WITNESS)).unwrap();
        let found = Inspection::of(dir.path()).unwrap();
        assert!(found.damage.iter().any(|damage| damage.group.is_none()), "{:?}", found.damage);
    }
}
