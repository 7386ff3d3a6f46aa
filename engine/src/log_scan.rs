//! The scan: every record of every log file, read and verified before raft-engine opens them.
//!
//! raft-engine cuts off whatever follows a bad record in the last file, whether a crash tore it or
//! it rotted after it was acknowledged, and it never reads most CRCs (traps E07, E08). The scan
//! changes nothing, and tells the two apart:
//!
//! - A record is written only after the one before it was synced. So a bad record with a good one
//!   behind it was durable once: it is damage.
//! - A bad record with nothing behind it may be torn. Then the last good one says where the log
//!   ends, and the [witness](crate::witness) whether that is far enough.
//! - The [stamps](crate::stamp) must form a row without a gap.
//!
//! A record whose *entries* alone are bad, somewhere in the middle, damages the groups that still
//! need these entries; that is known only when the groups are recovered. The scan remembers where
//! it is, for the finding. In the queue of rewritten records there is no row of stamps, and a bad
//! record says nothing about the ones before it: what is lost there is found through the tally of
//! the last stamp and the group records. (A purge may save the last stamp itself there.)

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_engine::env::{FileSystem, Handle as _, Permission};

use crate::damage::{Damage, REPLACE_NODE};
use crate::frame::FrameError;
use crate::ids::{DirectoryId, GroupId};
use crate::log_files::{HEADER_LEN, LogFiles, Queue, is_header};
use crate::log_record::{EntrySpan, LogRecord, RECORD_HEADER_LEN, RecordHeader};
use crate::record::ENGINE_REGION;
use crate::stamp::{STAMP_KEY, Stamp};

/// Bytes read ahead.
const WINDOW_LEN: usize = 1 << 20;
/// Bytes looked at together in search of one that is not zero.
const PROBE_LEN: u64 = 4096;
/// Bytes of all records tried in search of one behind a bad one. Bytes that look like a header
/// without being one are rare; a file made of them must not take for ever.
const CANDIDATE_BYTES_MAX: u64 = 256 << 20;
/// Findings kept: a disk that has gone altogether would fill the memory with them.
const FINDINGS_MAX: usize = 1024;

/// What the scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The last stamp of the log; `None` when there is no record.
    pub last: Option<Stamp>,
    /// Whether a record of the append queue drops a group.
    pub cleans: bool,
    /// Where the log ends: the end of its last good record.
    pub end: Option<(PathBuf, u64)>,
    /// What makes the whole directory damaged.
    pub findings: Vec<Damage>,
    /// Records whose entries are bad, oldest first.
    suspects: Vec<Suspect>,
    /// Where the rewritten records cannot be read any further.
    pub rewrite_ends: Option<(PathBuf, u64)>,
    /// The last append file, if there is no record in it: a full disk leaves some, and so does who
    /// cuts one off.
    empty: Option<PathBuf>,
}

#[derive(Debug)]
struct Suspect {
    file: PathBuf,
    offset: u64,
    spans: Vec<EntrySpan>,
}

impl Scan {
    /// Scans `files` of the log of `directory`.
    ///
    /// # Errors
    ///
    /// Of the file system: the file, and what it said. What was not read says nothing about what
    /// is there.
    pub(crate) fn run<F: FileSystem>(
        file_system: &F,
        files: &LogFiles,
        directory: DirectoryId,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let mut scan = Self::default();
        for queue in [Queue::Append, Queue::Rewrite] {
            let numbers = files.numbers(queue);
            for (place, number) in numbers.iter().enumerate() {
                let path = files.path(queue, *number);
                let is_last = place + 1 == numbers.len();
                let io_at = |error| (path.clone(), error);
                let mut file =
                    File::open(file_system, &path, queue, *number, is_last).map_err(io_at)?;
                scan.file(&mut file, directory).map_err(io_at)?;
            }
        }
        Ok(scan)
    }

    /// Where something of `group` may be that could not be read, the entry at `index` or anything
    /// else: file and offset.
    pub(crate) fn suspect(&self, group: GroupId, index: Option<u64>) -> Option<(&Path, u64)> {
        let holds = |span: &EntrySpan| {
            span.region == group.get() && index.is_some_and(|index| span.indexes.contains(&index))
        };
        let suspect = self.suspects.iter().rev().find(|suspect| suspect.spans.iter().any(holds));
        let rewritten = || self.rewrite_ends.as_ref().map(|(path, at)| (path.as_path(), *at));
        suspect.map(|suspect| (suspect.file.as_path(), suspect.offset)).or_else(rewritten)
    }

    /// Bad records that may not matter to any group: where they are.
    pub(crate) fn suspects(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.suspects.iter().map(|suspect| (suspect.file.as_path(), suspect.offset))
    }

    fn finding(&mut self, path: &Path, offset: u64, what: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Damage::of_file(path, what, REPLACE_NODE).at_offset(offset));
        }
    }

    fn file<R: Read + Seek>(
        &mut self,
        file: &mut File<R>,
        directory: DirectoryId,
    ) -> io::Result<()> {
        if !file.has_header()? {
            self.finding(&file.path, 0, "its header is damaged");
            return Ok(());
        }
        file.at = HEADER_LEN as u64;
        if file.queue == Queue::Append {
            self.end = Some((file.path.clone(), file.at));
        }
        let before = self.last;
        while file.at < file.window.len {
            if let Some(what) = self.record(file, directory)? {
                return self.bad_record(file, what, directory);
            }
        }
        if file.queue == Queue::Append {
            self.empty = (self.last == before).then(|| file.path.clone());
        }
        Ok(())
    }

    /// Reads the record at the file's position and goes on behind it; or says what is bad.
    fn record<R: Read + Seek>(
        &mut self,
        file: &mut File<R>,
        directory: DirectoryId,
    ) -> io::Result<Option<&'static str>> {
        let (at, number) = (file.at, file.number);
        let Some(header) = file.header(at)? else { return Ok(Some("it has no valid header")) };
        let bytes = file.window.get(at, header.len)?;
        let asked = (ENGINE_REGION, STAMP_KEY);
        let record = match LogRecord::decode(bytes, header, number, asked) {
            Ok(record) => record,
            Err(what) => return Ok(Some(what)),
        };
        let stamp = record.value.map(Stamp::decode);
        let cleans = record.cleans;
        if !record.are_entries_whole {
            let spans = record.spans;
            if file.is_end(at + header.len)? {
                return Ok(Some("the CRC of its entries is wrong"));
            }
            if self.suspects.len() < FINDINGS_MAX {
                self.suspects.push(Suspect { file: file.path.clone(), offset: at, spans });
            }
        }
        if file.queue == Queue::Append {
            let is_ours = self.stamp(&file.path, at, stamp, directory);
            if !is_ours {
                // One finding for all that follows.
                file.at = file.window.len;
                return Ok(None);
            }
            self.end = Some((file.path.clone(), at + header.len));
            self.cleans |= cleans;
        } else if let Some(Ok(stamp)) = stamp {
            // A purge saves the stamp of a record whose file it removes, and that can be the last
            // one: when the next file is begun, and nothing is in it yet.
            let is_last = self.last.is_none_or(|last| last.sequence < stamp.sequence);
            if is_last && stamp.directory == directory {
                self.last = Some(stamp);
            }
        }
        file.at += header.len;
        Ok(None)
    }

    /// Checks the stamp of a record. Returns whether the record is of this directory.
    fn stamp(
        &mut self,
        path: &Path,
        at: u64,
        stamp: Option<Result<Stamp, FrameError>>,
        directory: DirectoryId,
    ) -> bool {
        let what = match stamp {
            Some(Ok(stamp)) if stamp.directory == directory => {
                let expected = self.last.map(|last| last.sequence + 1);
                if let Some(expected) = expected.filter(|expected| *expected != stamp.sequence) {
                    let mut what =
                        format!("batch {} stands where {expected} must be", stamp.sequence);
                    if let Some(empty) = &self.empty {
                        let name = empty.file_name().unwrap_or_default().to_string_lossy();
                        what += &format!(": there is none in {name}");
                    }
                    self.finding(path, at, what);
                }
                self.last = Some(stamp);
                return true;
            }
            Some(Ok(stamp)) => {
                format!("it was written in another directory, {}", stamp.directory)
            }
            Some(Err(error)) => format!("its stamp is damaged: {error}"),
            None => "it has no stamp: it does not belong here".to_owned(),
        };
        self.finding(path, at, what);
        false
    }

    fn bad_record<R: Read + Seek>(
        &mut self,
        file: &mut File<R>,
        what: &str,
        directory: DirectoryId,
    ) -> io::Result<()> {
        let (at, path) = (file.at, file.path.clone());
        if !file.is_last {
            self.finding(&path, at, format!("a record is damaged: {what}"));
        } else if file.queue == Queue::Rewrite {
            self.rewrite_ends = Some((path, at));
        } else if let Some(behind) = file.record_behind(at + 1, |stamp| {
            // Not the bad one's own, should its entries look like a record.
            let next = self.last.map_or(0, |last| last.sequence) + 1;
            stamp.directory == directory && stamp.sequence > next
        })? {
            let what =
                format!("a record is damaged: {what}; it was durable, since one at {behind} is");
            self.finding(&path, at, what);
        }
        Ok(())
    }
}

/// A log file being scanned.
struct File<R> {
    path: PathBuf,
    queue: Queue,
    number: u64,
    is_last: bool,
    window: Window<R>,
    at: u64,
}

impl<R: Read + Seek> File<R> {
    fn open<F: FileSystem<Reader = R>>(
        file_system: &F,
        path: &Path,
        queue: Queue,
        number: u64,
        is_last: bool,
    ) -> io::Result<Self> {
        let handle = Arc::new(file_system.open(path, Permission::ReadOnly)?);
        let len = handle.file_size()? as u64;
        let reader = file_system.new_reader(handle)?;
        let window = Window { reader, len, start: 0, bytes: Vec::new() };
        Ok(Self { path: path.to_owned(), queue, number, is_last, window, at: 0 })
    }

    fn has_header(&mut self) -> io::Result<bool> {
        let len = HEADER_LEN as u64;
        Ok(self.window.len >= len && is_header(self.window.get(0, len)?))
    }

    /// The header of a record at `at`, if there can be one.
    fn header(&mut self, at: u64) -> io::Result<Option<RecordHeader>> {
        let left = self.window.len - at;
        if left < RECORD_HEADER_LEN as u64 {
            return Ok(None);
        }
        let bytes = self.window.get(at, RECORD_HEADER_LEN as u64)?;
        Ok(bytes.first_chunk().and_then(|bytes| RecordHeader::decode(bytes, left)))
    }

    /// Whether no record follows at `at`: raft-engine verifies the entries of the one before, and
    /// cuts it off if they are bad.
    fn is_end(&mut self, at: u64) -> io::Result<bool> {
        let Some(header) = self.header(at)? else { return Ok(true) };
        self.is_footer(at, header).map(|is_footer| !is_footer)
    }

    fn is_footer(&mut self, at: u64, header: RecordHeader) -> io::Result<bool> {
        let number = self.number;
        let footer = self.window.get(at + header.footer_at, header.len - header.footer_at)?;
        Ok(LogRecord::is_footer(footer, number))
    }

    /// Where the first record begins at or behind `from` whose footer is whole and whose stamp is
    /// wanted, if one is found.
    fn record_behind(
        &mut self,
        from: u64,
        is_wanted: impl Fn(&Stamp) -> bool,
    ) -> io::Result<Option<u64>> {
        let (mut bytes_left, mut at, number) = (CANDIDATE_BYTES_MAX, from, self.number);
        while at + (RECORD_HEADER_LEN as u64) < self.window.len {
            if let Some(header) = self.header(at)? {
                let Some(left) = bytes_left.checked_sub(header.len) else { return Ok(None) };
                bytes_left = left;
                let bytes = self.window.get(at, header.len)?;
                let asked = (ENGINE_REGION, STAMP_KEY);
                let record = LogRecord::decode(bytes, header, number, asked);
                let stamp = record.ok().and_then(|record| Stamp::decode(record.value?).ok());
                if stamp.is_some_and(|stamp| is_wanted(&stamp)) {
                    return Ok(Some(at));
                }
            }
            at = self.next_start(at + 1)?;
        }
        Ok(None)
    }

    /// Where a record's header can begin at the earliest, at or behind `at`: what is allocated and
    /// not written yet is zeros, and the length in the first bytes of a header is not.
    fn next_start(&mut self, at: u64) -> io::Result<u64> {
        const LENGTH_LEN: u64 = 7;
        let mut from = at;
        while from < self.window.len {
            let bytes = self.window.get(from, PROBE_LEN.min(self.window.len - from))?;
            if let Some(place) = bytes.iter().position(|byte| *byte != 0) {
                return Ok(at.max((from + place as u64).saturating_sub(LENGTH_LEN - 1)));
            }
            from += bytes.len() as u64;
        }
        Ok(self.window.len)
    }
}

/// Part of a file in memory: what was asked for, and some more.
struct Window<R> {
    reader: R,
    /// Bytes of the file.
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<R: Read + Seek> Window<R> {
    /// Bytes `[at, at + len)`, which are within the file.
    fn get(&mut self, at: u64, len: u64) -> io::Result<&[u8]> {
        let held = self.start..=self.start + self.bytes.len() as u64;
        if !held.contains(&at) || !held.contains(&(at + len)) {
            let wanted = len.max(WINDOW_LEN as u64).min(self.len - at);
            let wanted = usize::try_from(wanted).map_err(io::Error::other)?;
            self.bytes.resize(wanted, 0);
            self.start = at;
            self.reader.seek(SeekFrom::Start(at))?;
            self.reader.read_exact(&mut self.bytes)?;
        }
        let from = usize::try_from(at - self.start).map_err(io::Error::other)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        Ok(&self.bytes[from..from + len])
    }
}
