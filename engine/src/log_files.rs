//! The files of raft-engine: which there are, and which there must be.
//!
//! A missing file in the middle makes raft-engine drop all older ones, silently (trap E07); a
//! last file without a header, which a full disk or a crash leaves, makes a later open fail
//! (trap E06).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_engine::env::{FileSystem, Handle, Permission};

use crate::damage::{Damage, MOVE_OUT, REPLACE_NODE};

const APPEND_SUFFIX: &str = ".raftlog";
const REWRITE_SUFFIX: &str = ".rewrite";
const RESERVED_SUFFIX: &str = ".raftlog.reserved";
/// Digits of the number in a file's name.
const NUMBER_LEN: usize = 16;
const MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
const FORMAT_VERSION: u64 = 2;
/// Bytes of a whole header: magic text, version, alignment.
pub(crate) const HEADER_LEN: usize = MAGIC.len() + 8 + 8;
/// Bytes read at a time in search of something that is not zero.
const PROBE_LEN: usize = 64 * 1024;

/// raft-engine's two queues of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// What is written, in its order.
    Append,
    /// What a purge has saved from files that it removed.
    Rewrite,
}

impl Queue {
    /// The queue of a file.
    pub(crate) fn of(path: &Path) -> Self {
        let is_rewrite = path.to_string_lossy().ends_with(REWRITE_SUFFIX);
        if is_rewrite { Self::Rewrite } else { Self::Append }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Append => APPEND_SUFFIX,
            Self::Rewrite => REWRITE_SUFFIX,
        }
    }
}

/// The log files of a directory by their numbers, ascending.
#[derive(Debug)]
pub(crate) struct LogFiles {
    dir: PathBuf,
    append: Vec<u64>,
    rewrite: Vec<u64>,
}

impl LogFiles {
    /// Lists `dir`; a directory that is not there has no files.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn list(dir: &Path) -> io::Result<(Self, Vec<Damage>)> {
        let mut files = Self { dir: dir.to_owned(), append: Vec::new(), rewrite: Vec::new() };
        let mut findings = Vec::new();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((files, findings)),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.is_ascii()) else {
                findings.push(foreign(&entry.path()));
                continue;
            };
            if let Some(number) = parse(name, APPEND_SUFFIX) {
                files.append.push(number);
            } else if let Some(number) = parse(name, REWRITE_SUFFIX) {
                files.rewrite.push(number);
            } else if [APPEND_SUFFIX, REWRITE_SUFFIX, RESERVED_SUFFIX]
                .iter()
                .any(|suffix| name.ends_with(suffix))
            {
                // raft-engine would take it for one of its own.
                findings.push(foreign(&entry.path()));
            }
        }
        files.append.sort_unstable();
        files.rewrite.sort_unstable();
        findings.extend([Queue::Append, Queue::Rewrite].into_iter().filter_map(|q| files.gap(q)));
        Ok((files, findings))
    }

    /// The numbers of the files of a queue.
    pub(crate) fn numbers(&self, queue: Queue) -> &[u64] {
        match queue {
            Queue::Append => &self.append,
            Queue::Rewrite => &self.rewrite,
        }
    }

    /// The last file of a queue.
    pub(crate) fn last(&self, queue: Queue) -> Option<PathBuf> {
        self.numbers(queue).last().map(|number| self.path(queue, *number))
    }

    /// A file of a queue.
    pub(crate) fn path(&self, queue: Queue, number: u64) -> PathBuf {
        self.dir.join(file_name(number, queue.suffix()))
    }

    fn gap(&self, queue: Queue) -> Option<Damage> {
        let numbers = self.numbers(queue);
        let pair = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1)?;
        let what = format!(
            "this file is missing between {} and {}, and with it the log before",
            file_name(pair[0], queue.suffix()),
            file_name(pair[1], queue.suffix())
        );
        Some(Damage::of_file(&self.path(queue, pair[0] + 1), what, REPLACE_NODE))
    }

    /// Takes the last file of each queue out that has no header yet, and returns their paths. A
    /// file is given its header, synced, before the first record: there is none in it.
    ///
    /// # Errors
    ///
    /// Of the file system: the file, and what it said.
    pub(crate) fn take_headerless<F: FileSystem>(
        &mut self,
        file_system: &F,
    ) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
        let mut taken = Vec::new();
        for queue in [Queue::Append, Queue::Rewrite] {
            let Some(path) = self.last(queue) else { continue };
            if is_headerless(file_system, &path).map_err(|error| (path.clone(), error))? {
                match queue {
                    Queue::Append => self.append.pop(),
                    Queue::Rewrite => self.rewrite.pop(),
                };
                taken.push(path);
            }
        }
        Ok(taken)
    }
}

/// Whether `bytes` are the header of a log file as our settings have it written.
pub(crate) fn is_header(bytes: &[u8]) -> bool {
    let rest = bytes.strip_prefix(MAGIC);
    rest.is_some_and(|rest| rest[..8] == FORMAT_VERSION.to_be_bytes() && rest[8..] == [0; 8])
}

fn foreign(path: &Path) -> Damage {
    let what = "a file that does not belong here";
    Damage::of_file(path, what, MOVE_OUT)
}

fn parse(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let is_plain = digits.len() == NUMBER_LEN && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|number| is_plain && *number > 0)
}

fn file_name(number: u64, suffix: &str) -> String {
    format!("{number:0width$}{suffix}", width = NUMBER_LEN)
}

/// Whether a file has no whole header and nothing behind it, or holds nothing but the zeros of an
/// allocation.
fn is_headerless<F: FileSystem>(file_system: &F, path: &Path) -> io::Result<bool> {
    let handle = Arc::new(file_system.open(path, Permission::ReadOnly)?);
    let len = handle.file_size()?;
    let mut reader = file_system.new_reader(handle)?;
    if len <= HEADER_LEN {
        let mut header = vec![0; len];
        reader.read_exact(&mut header)?;
        return Ok(len < HEADER_LEN || !is_header(&header));
    }
    let mut probe = vec![0; PROBE_LEN.min(len)];
    loop {
        let read = match reader.read(&mut probe) {
            Ok(0) => return Ok(true),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if probe[..read].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_engine::env::DefaultFileSystem;

    use super::*;

    fn with_files(files: &[(&str, usize)]) -> (tempfile::TempDir, LogFiles, Vec<Damage>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, len) in files {
            std::fs::write(dir.path().join(name), vec![0; *len]).unwrap();
        }
        let (files, findings) = LogFiles::list(dir.path()).unwrap();
        (dir, files, findings)
    }

    fn headerless(dir: &Path) -> Vec<PathBuf> {
        LogFiles::list(dir).unwrap().0.take_headerless(&DefaultFileSystem).unwrap()
    }

    /// To see it fail: take `LogFiles::gap` out.
    #[test]
    fn trap_E07_a_missing_file_in_the_middle_is_named() {
        let (_dir, files, findings) = with_files(&[
            ("0000000000000007.raftlog", 99),
            ("0000000000000009.raftlog", 99),
            ("0000000000000001.rewrite", 99),
        ]);
        assert!(findings[0].file.ends_with("0000000000000008.raftlog"));
        assert_eq!((files.numbers(Queue::Append), findings.len()), (&[7, 9][..], 1));
        let files = [("0000000000000001.rewrite", 99), ("0000000000000003.rewrite", 99)];
        assert!(with_files(&files).2[0].file.ends_with("0000000000000002.rewrite"));
    }

    /// To see it fail: let `is_headerless` say no.
    #[test]
    fn trap_E06_a_last_file_without_a_header_is_named() {
        for len in [0, 68, 69, 4096, PROBE_LEN * 2 + 1] {
            let (dir, _, _) = with_files(&[("0000000000000003.raftlog", len)]);
            let expected = [dir.path().join("0000000000000003.raftlog")];
            assert_eq!(headerless(dir.path()), expected, "length {len}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0000000000000003.raftlog");
        let mut torn = MAGIC.to_vec();
        torn.resize(HEADER_LEN, 0);
        std::fs::write(&path, torn).unwrap();
        assert_eq!(headerless(dir.path()), std::slice::from_ref(&path), "torn");
        let mut content = vec![0; PROBE_LEN + 10];
        content[PROBE_LEN + 5] = 1;
        std::fs::write(&path, content).unwrap();
        assert!(headerless(dir.path()).is_empty(), "what holds anything is not removed");
    }

    #[test]
    fn names_that_raft_engine_would_misread_are_refused() {
        for name in [
            "0000000000000001x.raftlog",
            "0000000000000000.raftlog",
            "1.raftlog",
            "000000000000000+.rewrite",
            "0000000000000001.raftlog.reserved",
            "00000000000000ä1.raftlog",
        ] {
            let (_dir, _, findings) = with_files(&[(name, 99)]);
            assert!(findings[0].file.ends_with(name));
        }
        let allowed = [("LOCK", 0), ("0000000000000001.raftlog.bak", 3)];
        assert!(with_files(&allowed).2.is_empty());
    }

    #[test]
    fn the_header_is_the_one_that_raft_engine_writes() {
        let dir = tempfile::tempdir().unwrap();
        let config = raft_engine::Config {
            dir: dir.path().to_str().unwrap().to_owned(),
            ..Default::default()
        };
        drop(raft_engine::Engine::open(config).unwrap());
        let header = std::fs::read(dir.path().join("0000000000000001.raftlog")).unwrap();
        assert_eq!(header.len(), HEADER_LEN);
        assert!(is_header(&header));
        assert!(headerless(dir.path()).is_empty());
    }
}
