//! The survey: everything about a directory as a whole that can be known before raft-engine opens
//! it. It changes nothing.

use std::io;
use std::path::{Path, PathBuf};

use mutation::Bug;
use raft_engine::env::FileSystem;

use crate::damage::{Damage, REPLACE_NODE};
use crate::disk::Disk;
use crate::ids::{DirectoryId, GroupId};
use crate::log_files::{LogFiles, Queue};
use crate::log_scan::Scan;
use crate::record::ENGINE_REGION;
use crate::recovery::Recoveries;
use crate::snapshot::SnapshotError;
use crate::snapshot_store::SnapshotStore;
use crate::stamp::{STAMP_KEY, Stamp};
use crate::store::Store;
use crate::witness::{Testimony, WitnessFault};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Survey {
    /// Where the log files are.
    log: PathBuf,
    /// Last files without a header, which are left out: nothing is in them, and raft-engine would trip over them.
    pub headerless: Vec<PathBuf>,
    /// The records.
    pub scan: Scan,
    /// What the witness says, if it says anything.
    pub testimony: Option<Testimony>,
    /// What makes the whole directory damaged.
    pub findings: Vec<Damage>,
    /// What is not as it was written, and takes nothing with it.
    pub notes: Vec<Damage>,
}

impl Survey {
    /// Surveys the log files in `log`, which are those of `directory`. What its witness says must
    /// have been read before: on a directory in use the log can then only be ahead of it.
    ///
    /// # Errors
    ///
    /// Of the file system: the file, and what it said.
    pub(crate) fn of<F: FileSystem>(
        file_system: &F,
        log: &Path,
        directory: DirectoryId,
        (witness, mut testimony): (&Path, Result<Testimony, WitnessFault>),
    ) -> Result<Self, (PathBuf, io::Error)> {
        let (mut files, mut findings) =
            LogFiles::list(log).map_err(|error| (log.to_owned(), error))?;
        let headerless = files.take_headerless(file_system)?;
        let mut scan = Scan::run(file_system, &files, directory)?;
        for path in &headerless {
            // Should anything be missing, it was there.
            match Queue::of(path) {
                Queue::Append => scan.end = Some((path.clone(), 0)),
                Queue::Rewrite => scan.rewrite_ends = Some((path.clone(), 0)),
            }
        }
        findings.append(&mut scan.findings);
        let mut notes = Vec::new();
        match &mut testimony {
            Ok(testimony) => {
                let last = scan.last.map_or(0, |last| last.sequence);
                if mutation::is(Bug::DamagedTailAccepted) {
                    testimony.sequence = testimony.sequence.min(last);
                }
                // What else is wrong explains it.
                if findings.is_empty() && last < testimony.sequence {
                    findings.push(lost_end(log, &scan, testimony.sequence));
                }
                if testimony.is_half {
                    let what = "one of its two slots cannot be read: a power loss tore it, or it \
                                rotted; the other one speaks";
                    notes.push(Damage::of_file(witness, what, NONE_NEEDED));
                }
            }
            Err(fault) => {
                let what = format!("the witness of the log's end says nothing: {fault}");
                findings.push(Damage::of_file(witness, what, REPLACE_NODE));
            }
        }
        let testimony = testimony.ok();
        Ok(Self { log: log.to_owned(), headerless, scan, testimony, findings, notes })
    }

    /// The last batch; 0 when there is none.
    pub(crate) fn sequence(&self) -> u64 {
        self.scan.last.map_or(0, |last| last.sequence)
    }

    /// What is wrong if raft-engine has not found the same last batch.
    pub(crate) fn check_stamp<F: Disk>(&self, store: &Store<F>) -> Option<Damage> {
        let found = store.engine().get(ENGINE_REGION, STAMP_KEY);
        let what = match found.map(|bytes| Stamp::decode(&bytes)).transpose() {
            Ok(found) if found == self.scan.last => return None,
            Ok(found) => format!(
                "raft-engine recovered batch {}, and the last one on disk is {}",
                found.map_or(0, |stamp| stamp.sequence),
                self.sequence(),
            ),
            Err(error) => format!("raft-engine's stamp is damaged: {error}"),
        };
        Some(Damage::of_file(&self.log, what, REPLACE_NODE))
    }

    /// What is wrong if the groups that were found are not those that the last batch counted.
    ///
    /// # Errors
    ///
    /// Of listing the snapshots.
    pub(crate) fn check_tally(
        &self,
        found: &Recoveries,
        snapshots: &SnapshotStore,
    ) -> Result<Vec<Damage>, SnapshotError> {
        let Recoveries { groups, quarantined, known, unknown, .. } = found;
        let Some(last) = self.scan.last.filter(|last| !last.tally.is_of(*known, *unknown)) else {
            return Ok(Vec::new());
        };
        let holds = |group: &GroupId| {
            quarantined.contains(group) || groups.iter().any(|(found, _)| found == group)
        };
        let mut findings = Vec::new();
        for group in snapshots.groups()?.into_iter().filter(|group| !holds(group)) {
            let what = "there is a snapshot, and no log that it belongs to: the log is lost";
            findings.push(Damage::of_group(group, &snapshots.group_dir(group), what));
        }
        let what = format!(
            "the last batch counted {} groups, {} are found, or one of them is older than it was",
            last.tally.groups(),
            known.groups() + unknown
        );
        findings.push(Damage::of_file(&self.log, what, REPLACE_NODE));
        Ok(findings)
    }

    /// Records with bad entries that no group needs any more, once all groups are recovered.
    pub(crate) fn dead_records(&self) -> Vec<Damage> {
        let note = |(file, offset)| {
            let what = "the entries of this record are damaged, and no group needs them any more";
            Damage::of_file(file, what, NONE_NEEDED).at_offset(offset)
        };
        self.scan.suspects().map(note).collect()
    }
}

/// What to do about what takes nothing with it.
const NONE_NEEDED: &str = "none is needed, but a disk that loses bytes should be replaced";

fn lost_end(log: &Path, scan: &Scan, witnessed: u64) -> Damage {
    let (file, offset) = match &scan.end {
        Some((file, offset)) => (file.as_path(), Some(*offset)),
        None => (log, None),
    };
    let last = scan.last.map_or(0, |last| last.sequence);
    let what = format!(
        "the log ends here with batch {last}, and batch {witnessed} was durable: what is between is \
         lost, or a file that follows"
    );
    Damage { offset, ..Damage::of_file(file, what, REPLACE_NODE) }
}
