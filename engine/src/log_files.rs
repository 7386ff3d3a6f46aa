//! The files of raft-engine, looked at before raft-engine does.
//!
//! A missing file in the middle makes raft-engine drop all older ones, silently (trap E07); a
//! last file without a header, which a full disk or a crash leaves, makes a later open fail
//! (trap E06).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_engine::env::{FileSystem, Handle, Permission};

use crate::damage::{Damage, REPLACE_GROUP};
use crate::directory;

const APPEND_SUFFIX: &str = ".raftlog";
const REWRITE_SUFFIX: &str = ".rewrite";
const RESERVED_SUFFIX: &str = ".raftlog.reserved";
/// Digits of the number in a file's name.
const NUMBER_LEN: usize = 16;
/// Bytes of a whole header: magic text, version, alignment.
const HEADER_LEN: usize = 53 + 8 + 8;
/// Bytes read at a time in search of something that is not zero.
const PROBE_LEN: usize = 64 * 1024;

/// Why the log files cannot be opened.
#[derive(Debug)]
pub(crate) enum LogFilesError {
    Damaged(Damage),
    Io { path: PathBuf, source: io::Error },
}

/// Checks the names of all files in `dir`, and removes a last file that has no header yet.
pub(crate) fn prepare<F: FileSystem>(dir: &Path, file_system: &F) -> Result<(), LogFilesError> {
    let (mut append, mut rewrite) = scan(dir)?;
    let mut is_changed = false;
    for (queue, suffix) in [(&mut append, APPEND_SUFFIX), (&mut rewrite, REWRITE_SUFFIX)] {
        queue.sort_unstable();
        check_sequence(dir, queue, suffix)?;
        let Some(last) = queue.last() else { continue };
        let path = dir.join(file_name(*last, suffix));
        let io_at = |source| LogFilesError::Io { path: path.clone(), source };
        if is_headerless(file_system, &path).map_err(io_at)? {
            // A file is given its header, synced, before the first record: there is none in it.
            file_system.delete(&path).map_err(io_at)?;
            is_changed = true;
        }
    }
    if is_changed {
        let io_at = |source| LogFilesError::Io { path: dir.to_owned(), source };
        directory::sync_dir(dir).map_err(io_at)?;
    }
    Ok(())
}

/// The numbers of the files in the two queues.
fn scan(dir: &Path) -> Result<(Vec<u64>, Vec<u64>), LogFilesError> {
    let io_at = |source| LogFilesError::Io { path: dir.to_owned(), source };
    let (mut append, mut rewrite) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(dir).map_err(io_at)? {
        let entry = entry.map_err(io_at)?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.is_ascii()) else {
            return Err(foreign(&entry.path()));
        };
        if let Some(number) = parse(name, APPEND_SUFFIX) {
            append.push(number);
        } else if let Some(number) = parse(name, REWRITE_SUFFIX) {
            rewrite.push(number);
        } else if [APPEND_SUFFIX, REWRITE_SUFFIX, RESERVED_SUFFIX]
            .iter()
            .any(|suffix| name.ends_with(suffix))
        {
            // raft-engine would take it for one of its own.
            return Err(foreign(&entry.path()));
        }
    }
    Ok((append, rewrite))
}

fn foreign(path: &Path) -> LogFilesError {
    let what = "a file that does not belong here";
    LogFilesError::Damaged(Damage::of_file(path, what, "move it out of the directory"))
}

fn parse(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let is_plain = digits.len() == NUMBER_LEN && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|number| is_plain && *number > 0)
}

fn file_name(number: u64, suffix: &str) -> String {
    format!("{number:0width$}{suffix}", width = NUMBER_LEN)
}

fn check_sequence(dir: &Path, numbers: &[u64], suffix: &str) -> Result<(), LogFilesError> {
    match numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        None => Ok(()),
        Some(pair) => {
            let path = dir.join(file_name(pair[0] + 1, suffix));
            let what = format!(
                "this file is missing between {} and {}, and with it the log before",
                file_name(pair[0], suffix),
                file_name(pair[1], suffix)
            );
            Err(LogFilesError::Damaged(Damage::of_file(&path, what, REPLACE_GROUP)))
        }
    }
}

/// Whether a file is too short for a header, or holds nothing but the zeros of an allocation.
fn is_headerless<F: FileSystem>(file_system: &F, path: &Path) -> io::Result<bool> {
    let handle = Arc::new(file_system.open(path, Permission::ReadOnly)?);
    let len = handle.file_size()?;
    if len < HEADER_LEN {
        return Ok(true);
    }
    let mut reader = file_system.new_reader(handle)?;
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

    fn with_files(files: &[(&str, usize)]) -> (tempfile::TempDir, Result<(), LogFilesError>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, len) in files {
            std::fs::write(dir.path().join(name), vec![0; *len]).unwrap();
        }
        let result = prepare(dir.path(), &DefaultFileSystem);
        (dir, result)
    }

    fn damage(result: Result<(), LogFilesError>) -> Damage {
        match result {
            Err(LogFilesError::Damaged(damage)) => damage,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn trap_E07_a_missing_file_in_the_middle_is_named() {
        let (_dir, result) = with_files(&[
            ("0000000000000007.raftlog", 99),
            ("0000000000000009.raftlog", 99),
            ("0000000000000001.rewrite", 99),
        ]);
        assert!(damage(result).file.ends_with("0000000000000008.raftlog"));
        let (_dir, result) =
            with_files(&[("0000000000000001.rewrite", 99), ("0000000000000003.rewrite", 99)]);
        assert!(damage(result).file.ends_with("0000000000000002.rewrite"));
    }

    #[test]
    fn trap_E06_a_last_file_without_a_header_is_removed() {
        for len in [0, 68, 4096, PROBE_LEN * 2 + 1] {
            let (dir, result) = with_files(&[("0000000000000003.raftlog", len)]);
            result.unwrap();
            assert!(!dir.path().join("0000000000000003.raftlog").exists(), "length {len}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0000000000000003.raftlog");
        let mut content = vec![0; PROBE_LEN + 10];
        content[PROBE_LEN + 5] = 1;
        std::fs::write(&path, content).unwrap();
        prepare(dir.path(), &DefaultFileSystem).unwrap();
        assert!(path.exists(), "what holds anything is not removed");
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
            let (_dir, result) = with_files(&[(name, 99)]);
            assert!(damage(result).file.ends_with(name));
        }
        with_files(&[("LOCK", 0), ("0000000000000001.raftlog.bak", 3)]).1.unwrap();
    }

    #[test]
    fn the_header_is_as_long_as_raft_engine_says() {
        let dir = tempfile::tempdir().unwrap();
        let config = raft_engine::Config {
            dir: dir.path().to_str().unwrap().to_owned(),
            ..Default::default()
        };
        drop(raft_engine::Engine::open(config).unwrap());
        let path = dir.path().join("0000000000000001.raftlog");
        assert_eq!(std::fs::metadata(path).unwrap().len(), HEADER_LEN as u64);
    }
}
