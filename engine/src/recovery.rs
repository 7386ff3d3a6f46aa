//! Recovering one group: its record against its entries, its entries against each other, its
//! snapshot against both.

use std::path::Path;

use crate::disk::Disk;
use bytes::Bytes;
use raft::eraftpb::ConfState;

use crate::cache::CacheBudget;
use crate::damage::Damage;
use crate::engine::RecoveredGroup;
use crate::ids::{GroupId, LogId};
use crate::log::GroupLog;
use crate::open::OpenError;
use crate::reader::LogReader;
use crate::record::{GENESIS_KEY, GroupRecord, RECORD_KEY, decode_genesis};
use crate::snapshot::SnapshotMeta;
use crate::snapshot_store::SnapshotStore;
use crate::store::Store;
use crate::write::OnDisk;
use crate::writer::Stale;

/// Bytes of entries read at a time: what opening holds in memory beside the cache.
const READ_BYTES_MAX: u64 = 4 << 20;

/// A group as it was found, and what is left to do about it.
pub(crate) struct Recovery {
    pub recovered: RecoveredGroup,
    pub on_disk: OnDisk,
    pub stale: Option<Stale>,
}

/// Verifies `group`. `None` if it is only a name: raft-engine keeps one for a while after the
/// last of a group is gone.
pub(crate) fn recover<F: Disk>(
    store: &Store<F>,
    reader: &LogReader,
    snapshots: &SnapshotStore,
    cache: &CacheBudget,
    group: GroupId,
) -> Result<Option<Recovery>, OpenError> {
    let (engine, dir, region) = (store.engine(), store.dir(), group.get());
    let span = engine.first_index(region).zip(engine.last_index(region));
    let Some(record_bytes) = engine.get(region, RECORD_KEY) else {
        return match span {
            None => Ok(None),
            Some((first, _)) => {
                let what = "there are entries, but no record of the group";
                Err(OpenError::Damaged(Damage::of_group(group, dir, what).at_index(first)))
            }
        };
    };
    let mut record = decode_record(group, dir, &record_bytes)?;
    let genesis_bytes = engine.get(region, GENESIS_KEY);
    let genesis = genesis_bytes
        .as_deref()
        .map(|bytes| decode_genesis(group, bytes))
        .transpose()
        .map_err(|error| of_frame(group, dir, "the founding record", &error))?;
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
    check_span(group, dir, &record, span)?;
    let on_disk = OnDisk { truncated: record.truncated.index, last: record.last, number: None };
    // The commit index rides in the next batch, so that the last one may lag behind what is
    // known to be committed: the snapshot, and a membership that was applied.
    let committed = record.snapshot.index.max(record.conf_index);
    record.hard_state.commit = record.hard_state.commit.max(committed);
    let snapshot = open_snapshot(group, snapshots, record.snapshot)?;
    let conf_state = snapshot.conf_state.clone();
    let log = GroupLog::recovered(group, record.clone(), conf_state, cache);
    let log = load_entries(log, &record, reader, dir)?;
    if log.term(record.snapshot.index) != Some(record.snapshot.term) {
        let what = format!("the snapshot {} is not of this log", record.snapshot);
        let damage = Damage::of_group(group, dir, what).at_index(record.snapshot.index);
        return Err(OpenError::Damaged(damage));
    }
    let recovered = RecoveredGroup { log, genesis, snapshot };
    Ok(Some(Recovery { recovered, on_disk, stale }))
}

fn of_frame(
    group: GroupId,
    dir: &Path,
    thing: &str,
    error: &crate::frame::FrameError,
) -> OpenError {
    let damage = Damage::of_frame(dir, thing, error);
    OpenError::Damaged(Damage { group: Some(group), ..damage })
}

fn decode_record(group: GroupId, dir: &Path, bytes: &[u8]) -> Result<GroupRecord, OpenError> {
    let record = GroupRecord::decode(group, bytes)
        .map_err(|error| of_frame(group, dir, "the group's record", &error))?;
    match record.fault() {
        None => Ok(record),
        Some(what) => Err(OpenError::Damaged(Damage::of_group(group, dir, what))),
    }
}

/// Compares the first and the last entry with the record. Entries that are compacted by the
/// record may be back (trap E05).
fn check_span(
    group: GroupId,
    dir: &Path,
    record: &GroupRecord,
    span: Option<(u64, u64)>,
) -> Result<(), OpenError> {
    let GroupRecord { truncated, last, .. } = record;
    let is_empty = last == truncated;
    let (index, what) = match span {
        Some((_, found)) if found > last.index => {
            (found, format!("there are entries up to here, beyond the recorded last one {last}"))
        }
        Some((_, found)) if !is_empty && found < last.index => {
            (found + 1, format!("entries up to {last} are recorded, and are missing from here on"))
        }
        Some((found, _)) if !is_empty && found > truncated.index + 1 => {
            let (first, before) = (truncated.index + 1, found - 1);
            (first, format!("entries up to {before} are recorded, and are missing"))
        }
        None if !is_empty => {
            (truncated.index + 1, format!("entries up to {last} are recorded, and there is none"))
        }
        _ => return Ok(()),
    };
    Err(OpenError::Damaged(Damage::of_group(group, dir, what).at_index(index)))
}

fn open_snapshot(
    group: GroupId,
    snapshots: &SnapshotStore,
    id: LogId,
) -> Result<SnapshotMeta, OpenError> {
    if id.index == 0 {
        let (conf_state, members) = (ConfState::default(), Bytes::new());
        return Ok(SnapshotMeta { group, id, conf_state, members });
    }
    let reader = snapshots
        .open(group, id)
        .map_err(|error| OpenError::snapshot(group, &snapshots.path(group, id), error))?;
    Ok(reader.meta().clone())
}

/// Reads every live entry, in order, on the reader thread.
fn load_entries(
    mut log: GroupLog,
    record: &GroupRecord,
    reader: &LogReader,
    dir: &Path,
) -> Result<GroupLog, OpenError> {
    let group = log.group();
    let mut before = record.truncated;
    while before.index < record.last.index {
        let low = before.index + 1;
        let entries = reader
            .fetch_now(group, low, record.last.index + 1, READ_BYTES_MAX)
            .map_err(|error| OpenError::read(group, low, dir, error))?;
        for entry in entries {
            let found = LogId::new(entry.index, entry.term);
            let follows = found.index == before.index + 1
                && found.term >= before.term
                && found.term <= record.last.term;
            if !follows {
                let what = format!("entry {found} cannot follow {before}");
                let damage = Damage::of_group(group, dir, what).at_index(before.index + 1);
                return Err(OpenError::Damaged(damage));
            }
            before = found;
            log.load(entry);
        }
    }
    if before != record.last {
        let what = format!("the last entry is {before}, recorded is {}", record.last);
        return Err(OpenError::Damaged(Damage::of_group(group, dir, what).at_index(before.index)));
    }
    Ok(log)
}
