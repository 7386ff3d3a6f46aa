//! Recovering the groups: each one's record against its entries, its entries against each other,
//! its snapshot against both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;

use crate::cache::CacheBudget;
use crate::damage::Damage;
use crate::disk::Disk;
use crate::engine::RecoveredGroup;
use crate::frame::FrameError;
use crate::ids::{GroupId, LogId};
use crate::log::GroupLog;
use crate::log_scan::Scan;
use crate::open::OpenError;
use crate::quarantine::Quarantine;
use crate::reader::{LogReader, ReadError, Reading};
use crate::record::{GENESIS_KEY, GroupRecord, Mark, RECORD_KEY, StoredRecord, decode_genesis};
use crate::snapshot::{SnapshotError, SnapshotMeta};
use crate::snapshot_store::SnapshotStore;
use crate::stamp::Tally;
use crate::store::Store;
use crate::write::OnDisk;
use crate::writer::Stale;

/// Bytes of entries read at a time; opening holds two such reads in memory beside the cache.
const READ_BYTES_MAX: u64 = 256 << 10;

/// Where groups are recovered from.
pub(crate) struct Source<'a, F: Disk> {
    pub store: &'a Store<F>,
    pub reader: &'a LogReader,
    pub snapshots: &'a SnapshotStore,
    pub cache: &'a CacheBudget,
    pub scan: &'a Scan,
}

/// A group as it was found, and what is left to do about it.
pub(crate) struct Recovery {
    pub recovered: RecoveredGroup,
    pub on_disk: OnDisk,
    pub stale: Option<Stale>,
}

/// What became of the groups.
pub(crate) struct Recoveries {
    /// Ascending.
    pub groups: Vec<(GroupId, Recovery)>,
    /// Those that were not in quarantine before.
    pub damaged: BTreeMap<GroupId, Vec<Damage>>,
    /// Groups in quarantine, now or before.
    pub quarantined: BTreeSet<GroupId>,
    /// What the last batch must have counted: the groups that were recovered, and those in
    /// quarantine that it still knew, as far as their records can be read.
    pub known: Tally,
    /// Those whose records cannot be read.
    pub unknown: u64,
}

/// Why a group was not recovered.
enum Fault {
    /// It is not what was written.
    Damaged(Damage),
    /// It could not be read: that says nothing about what is there.
    Failed(OpenError),
}

impl From<Damage> for Fault {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

/// Recovers every group that raft-engine knows, but for those in quarantine.
///
/// # Errors
///
/// When something could not be read.
pub(crate) fn recover_all<F: Disk>(
    source: &Source<'_, F>,
    quarantines: &[Quarantine],
) -> Result<Recoveries, OpenError> {
    let mut regions = source.store.engine().raft_groups();
    regions.sort_unstable();
    let (mut groups, mut damaged) = (Vec::with_capacity(regions.len()), BTreeMap::new());
    let mut conf_state = None;
    for group in regions.into_iter().filter_map(GroupId::new) {
        let quarantine = quarantines.iter().find(|old| old.group == Some(group));
        // One that was renewed meanwhile is a group again.
        let mark = source.mark(group);
        let quarantine = quarantine
            .filter(|quarantine| mark.is_none_or(|mark| mark.incarnation <= quarantine.sequence));
        match source.recover(group, quarantine.is_some()) {
            Ok(Some(mut recovery)) => {
                recovery.recovered.log.share_conf_state(&mut conf_state);
                groups.push((group, recovery));
            }
            Ok(None) => {}
            Err(Fault::Damaged(damage)) => {
                damaged.insert(group, vec![damage]);
            }
            Err(Fault::Failed(error)) => return Err(error),
        }
    }
    let mut known = Tally::default();
    groups.iter().for_each(|(group, found)| known.add(*group, found.on_disk.mark.sequence));
    let is_recovered = |group: &GroupId| groups.iter().any(|(found, _)| found == group);
    let last = source.scan.last.map_or(0, |last| last.sequence);
    // A batch after the quarantine does not count the group any more. A quarantine that cannot be
    // read explains nothing.
    let still_counted = quarantines.iter().filter(|old| old.sequence == last);
    let counted: BTreeSet<_> =
        still_counted.filter_map(|old| old.group).chain(damaged.keys().copied()).collect();
    let (mut quarantined, mut unknown) = (BTreeSet::new(), 0);
    let of_before = quarantines.iter().filter_map(|old| old.group);
    for group in of_before.chain(damaged.keys().copied()).filter(|group| !is_recovered(group)) {
        if quarantined.insert(group) && counted.contains(&group) {
            match source.mark(group) {
                Some(mark) => known.add(group, mark.sequence),
                None => unknown += 1,
            }
        }
    }
    Ok(Recoveries { groups, damaged, quarantined, known, unknown })
}

impl<F: Disk> Source<'_, F> {
    /// Verifies `group`. `None` if it is only a name, which raft-engine keeps for a while after
    /// the last of a group is gone, or if it is still in quarantine.
    fn recover(&self, group: GroupId, is_quarantined: bool) -> Result<Option<Recovery>, Fault> {
        if is_quarantined {
            return Ok(None);
        }
        let (engine, dir, region) = (self.store.engine(), self.store.dir(), group.get());
        let span = engine.first_index(region).zip(engine.last_index(region));
        let Some(record_bytes) = engine.get(region, RECORD_KEY) else {
            return match span {
                None => Ok(None),
                Some((first, _)) => {
                    let what = "there are entries, but no record of the group";
                    Err(self.lost(group, first, what).into())
                }
            };
        };
        let stored = StoredRecord::decode(group, &record_bytes)
            .map_err(|error| of_frame(group, dir, "the group's record", &error))?;
        let on_disk = OnDisk::of(&stored);
        let StoredRecord { mut record, mark } = stored;
        if let Some(what) = record.fault() {
            return Err(Damage::of_group(group, dir, what).into());
        }
        let genesis_bytes = engine.get(region, GENESIS_KEY);
        let genesis = self.check_genesis(group, genesis_bytes.as_deref(), mark.genesis_crc)?;
        let stale = match span {
            Some((first, _)) if first <= record.truncated.index => {
                Some(if record.last == record.truncated {
                    Stale::All { record: record_bytes, genesis: genesis_bytes }
                } else {
                    Stale::Below(record.truncated.index + 1)
                })
            }
            _ => None,
        };
        self.check_span(group, &record, span)?;
        // The commit index rides in the next batch, so that the last one may lag behind what is
        // known to be committed: the snapshot.
        record.hard_state.commit = record.hard_state.commit.max(record.snapshot.index);
        let snapshot = self.verify_snapshot(group, record.snapshot)?;
        let conf_state = snapshot.conf_state.clone();
        let log = GroupLog::recovered(group, record.clone(), conf_state, self.cache);
        let log = self.load_entries(log, &record)?;
        if log.term(record.snapshot.index) != Some(record.snapshot.term) {
            let what = format!("the snapshot {} is not of this log", record.snapshot);
            return Err(Damage::of_group(group, dir, what).at_index(record.snapshot.index).into());
        }
        let recovered = RecoveredGroup { log, genesis, snapshot, incarnation: mark.incarnation };
        Ok(Some(Recovery { recovered, on_disk, stale }))
    }

    /// What the record of `group` is marked with, if it can be read.
    fn mark(&self, group: GroupId) -> Option<Mark> {
        let bytes = self.store.engine().get(group.get(), RECORD_KEY)?;
        StoredRecord::decode(group, &bytes).ok().map(|stored| stored.mark)
    }

    /// Compares the first and the last entry with the record. Entries that are compacted by the
    /// record may be back (trap E05).
    fn check_span(
        &self,
        group: GroupId,
        record: &GroupRecord,
        span: Option<(u64, u64)>,
    ) -> Result<(), Damage> {
        let GroupRecord { truncated, last, .. } = record;
        let is_empty = last == truncated;
        let (index, what) = match span {
            Some((_, found)) if found > last.index => {
                (found, format!("there are entries up to here, recorded is {last} as the last one"))
            }
            Some((_, found)) if !is_empty && found < last.index => {
                let what = format!("entries up to {last} are recorded, and missing from here on");
                (found + 1, what)
            }
            Some((found, _)) if !is_empty && found > truncated.index + 1 => {
                let (first, before) = (truncated.index + 1, found - 1);
                (first, format!("entries up to {before} are recorded, and are missing"))
            }
            None if !is_empty => {
                let what = format!("entries up to {last} are recorded, and there is none");
                (truncated.index + 1, what)
            }
            _ => return Ok(()),
        };
        Err(self.lost(group, index, what))
    }

    fn check_genesis(
        &self,
        group: GroupId,
        bytes: Option<&[u8]>,
        expected_crc: Option<u32>,
    ) -> Result<Option<Bytes>, Damage> {
        if bytes.map(crc32fast::hash) != expected_crc {
            let what = match bytes {
                None => "the founding record that the group's record speaks of is missing",
                Some(_) => "the founding record is not the one that the group's record speaks of",
            };
            return Err(self.finding(group, None, what));
        }
        bytes
            .map(|bytes| decode_genesis(group, bytes))
            .transpose()
            .map_err(|error| of_frame(group, self.store.dir(), "the founding record", &error))
    }

    /// The finding that an entry is not there or cannot be read.
    fn lost(&self, group: GroupId, index: u64, what: impl Into<String>) -> Damage {
        self.finding(group, Some(index), what).at_index(index)
    }

    /// A finding, with the place of the bad record that explains it, where there is one.
    fn finding(&self, group: GroupId, index: Option<u64>, what: impl Into<String>) -> Damage {
        match self.scan.suspect(group, index) {
            Some((file, offset)) => Damage::of_group(group, file, what).at_offset(offset),
            None => Damage::of_group(group, self.store.dir(), what),
        }
    }

    /// Reads the whole snapshot file.
    fn verify_snapshot(&self, group: GroupId, id: LogId) -> Result<SnapshotMeta, Fault> {
        if id.index == 0 {
            return Ok(SnapshotMeta::none(group));
        }
        let path = self.snapshots.path(group, id);
        let verified = self
            .snapshots
            .verify(group, id)
            .and_then(|()| self.snapshots.open(group, id).map(|reader| reader.meta().clone()));
        verified.map_err(|error| match error {
            SnapshotError::Io { path, source } | SnapshotError::Full { path, source } => {
                Fault::Failed(OpenError::Io { path, source })
            }
            SnapshotError::Damaged(damage) => Damage { group: Some(group), ..damage }.into(),
            SnapshotError::Missing { .. } => {
                let what = "the snapshot that the state is restored from is missing";
                Damage::of_group(group, &path, what).into()
            }
            error => Damage::of_group(group, &path, error.to_string()).into(),
        })
    }

    /// Reads every live entry, in order, on the reader thread. raft-engine verifies the CRC of
    /// what it reads.
    fn load_entries(&self, mut log: GroupLog, record: &GroupRecord) -> Result<GroupLog, Fault> {
        let group = log.group();
        let end = record.last.index + 1;
        // As many as `check_span` has found: a list that grows is copied again and again.
        let first = record.truncated.index.max(record.snapshot.index);
        log.reserve(record.last.index.saturating_sub(first));
        let begin = |low| self.reader.begin_read(group, low, end, READ_BYTES_MAX);
        let mut before = record.truncated;
        let mut reading = (before.index < record.last.index).then(|| begin(before.index + 1));
        while let Some(begun) = reading {
            let low = before.index + 1;
            let entries =
                begun.and_then(Reading::wait).map_err(|error| self.of_read(group, low, error))?;
            // The next are read while these are looked at.
            let next = entries.last().map_or(end, |last| last.index.saturating_add(1));
            reading = (next < end).then(|| begin(next));
            for entry in entries {
                let found = LogId::new(entry.index, entry.term);
                let follows = found.index == before.index + 1
                    && found.term >= before.term
                    && found.term <= record.last.term;
                if !follows {
                    let what = format!("entry {found} cannot follow {before}");
                    return Err(self.lost(group, before.index + 1, what).into());
                }
                before = found;
                log.load(entry);
            }
        }
        if before != record.last {
            let what = format!("the last entry is {before}, recorded is {}", record.last);
            return Err(self.lost(group, before.index, what).into());
        }
        Ok(log)
    }

    fn of_read(&self, group: GroupId, index: u64, error: ReadError) -> Fault {
        let path = self.store.dir().to_owned();
        match error {
            ReadError::Disk { source } => Fault::Failed(OpenError::Disk { path, source }),
            ReadError::Engine { source }
                if matches!(source.as_ref(), raft_engine::Error::Io(_)) =>
            {
                Fault::Failed(OpenError::of_raft_engine(path, &source))
            }
            ReadError::Engine { source } => {
                self.lost(group, index, format!("the entry cannot be read: {source}")).into()
            }
            error => self.lost(group, index, error.to_string()).into(),
        }
    }
}

fn of_frame(group: GroupId, dir: &Path, thing: &str, error: &FrameError) -> Damage {
    Damage { group: Some(group), ..Damage::of_frame(dir, thing, error) }
}
