//! The survey: everything about a directory as a whole that can be known before raft-engine opens
//! it. It changes nothing.

use std::io;
use std::path::{Path, PathBuf};

use raft_engine::env::FileSystem;

use crate::damage::{Damage, REPLACE_NODE};
use crate::directory::{LOG, WITNESS};
use crate::files::Files;
use crate::ids::DirectoryId;
use crate::log_files::LogFiles;
use crate::log_scan::Scan;
use crate::witness::{self, Testimony};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Survey {
    /// The log files, without those that have no header.
    pub files: LogFiles,
    /// Last files without a header: nothing is in them, and raft-engine would trip over them.
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
    /// Surveys the directory `dir`, whose identity says that it is `directory`.
    ///
    /// # Errors
    ///
    /// Of the file system: the file, and what it said.
    pub(crate) fn of<F: FileSystem>(
        file_system: &F,
        files: &dyn Files,
        dir: &Path,
        directory: DirectoryId,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let (log, witness) = (dir.join(LOG), dir.join(WITNESS));
        // The witness first: on a directory in use the log can only be ahead of it.
        let testimony =
            witness::read(files, &witness, directory).map_err(|error| (witness.clone(), error))?;
        let (mut log_files, mut findings) =
            LogFiles::list(&log).map_err(|error| (log.clone(), error))?;
        let headerless = log_files.take_headerless(file_system)?;
        let mut scan = Scan::run(file_system, &log_files, directory)?;
        findings.append(&mut scan.findings);
        let mut notes = Vec::new();
        let testimony = match testimony {
            Ok(testimony) => {
                let last = scan.last.map_or(0, |last| last.sequence);
                // What else is wrong explains it.
                if findings.is_empty() && last < testimony.sequence {
                    findings.push(lost_end(&log, &scan, testimony.sequence));
                }
                if testimony.is_half {
                    let what = "one of its two slots cannot be read: a power loss tore it, or it \
                                rotted; the other one speaks";
                    notes.push(Damage::of_file(&witness, what, HALF_WITNESS));
                }
                Some(testimony)
            }
            Err(fault) => {
                let what = format!("the witness of the log's end says nothing: {fault}");
                findings.push(Damage::of_file(&witness, what, REPLACE_NODE));
                None
            }
        };
        Ok(Self { files: log_files, headerless, scan, testimony, findings, notes })
    }
}

const HALF_WITNESS: &str = "none needed: it is written again with the next batch";

fn lost_end(log: &Path, scan: &Scan, witnessed: u64) -> Damage {
    let (file, offset) = match &scan.end {
        Some((file, offset)) => (file.as_path(), Some(*offset)),
        None => (log, None),
    };
    let last = scan.last.map_or(0, |last| last.sequence);
    let what = format!(
        "the log ends with batch {last}, and batch {witnessed} was durable: what is between is lost"
    );
    Damage { offset, ..Damage::of_file(file, what, REPLACE_NODE) }
}
