//! The quarantine: what was found damaged stays so, over restarts and whatever is found later.
//!
//! The file `quarantine/node`, or `quarantine/GROUP`, is made durable before anything else is
//! written after a finding. As long as it is there, nothing is written for what it names, and it
//! does not act: it could have forgotten a vote or an acknowledgement. Only replacement ends it
//! ([`renew`](crate::renew)), and never the finding's being gone.
//!
//! A file is a frame of kind `QQTN`. It names the directory id and the batch sequence of its
//! time, and so ends to count when the directory is renewed, or the group.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;

use crate::damage::{Damage, REPLACE_GROUP, REPLACE_NODE};
use crate::directory::{self, QUARANTINE};
use crate::files::Files;
use crate::frame;
use crate::ids::{DirectoryId, GroupId};
use crate::temporary::write_whole;

const KIND: [u8; 4] = *b"QQTN";
const VERSION: u16 = 1;
const NODE: &str = "node";
const TEMPORARY_SUFFIX: &str = "tmp";
/// Findings kept in a file: the first ones tell enough.
const FINDINGS_MAX: usize = 64;
/// Files beyond this are not ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quarantine {
    /// What is damaged; `None` for everything in the directory.
    pub group: Option<GroupId>,
    /// The directory that it was in.
    pub directory: DirectoryId,
    /// The last batch by then.
    pub sequence: u64,
    /// Why.
    pub findings: Vec<Damage>,
}

#[derive(Clone, PartialEq, Message)]
struct QuarantineBody {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(bytes = "vec", tag = "2")]
    directory: Vec<u8>,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(message, repeated, tag = "4")]
    findings: Vec<FindingBody>,
}

#[derive(Clone, PartialEq, Message)]
struct FindingBody {
    #[prost(string, tag = "1")]
    file: String,
    #[prost(uint64, optional, tag = "2")]
    offset: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    index: Option<u64>,
    #[prost(string, tag = "4")]
    what: String,
}

/// Every quarantine of a directory that counts.
///
/// # Errors
///
/// Of the file system: the file, and what it said.
pub(crate) fn read_all(
    files: &dyn Files,
    dir: &Path,
    directory: DirectoryId,
) -> Result<Vec<Quarantine>, (PathBuf, io::Error)> {
    let folder = dir.join(QUARANTINE);
    let io_at = |error| (folder.clone(), error);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_at(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_at)?.path();
        // A temporary one never took effect, and its finding is found again.
        let Some(group) = group_of(&path) else { continue };
        let bytes = read(files, &path).map_err(|error| (path.clone(), error))?;
        let quarantine = Quarantine::decode(&path, group, directory, &bytes);
        if quarantine.directory == directory {
            found.push(quarantine);
        }
    }
    Ok(found)
}

/// What the name of a file says that it is of.
fn group_of(path: &Path) -> Option<Option<GroupId>> {
    match path.file_name()?.to_str()? {
        NODE => Some(None),
        name => name.parse().ok().and_then(GroupId::new).map(Some),
    }
}

fn read(files: &dyn Files, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    files.open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Quarantine {
    /// Makes it durable.
    ///
    /// # Errors
    ///
    /// Of the file system. Nothing else may be written then: the finding is found again.
    pub(crate) fn write(&self, files: &Arc<dyn Files>, dir: &Path) -> io::Result<()> {
        directory::create_dir_durable(&dir.join(QUARANTINE))?;
        let path = self.path(dir);
        write_whole(files, &path, &path.with_extension(TEMPORARY_SUFFIX), &self.encode())
    }

    /// Its file in the directory `dir`.
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        let name = self.group.map_or_else(|| NODE.to_owned(), |group| group.to_string());
        dir.join(QUARANTINE).join(name)
    }

    fn encode(&self) -> Vec<u8> {
        let finding = |damage: &Damage| FindingBody {
            file: damage.file.to_string_lossy().into_owned(),
            offset: damage.offset,
            index: damage.index,
            what: damage.what.clone(),
        };
        let body = QuarantineBody {
            group: self.group.map_or(0, GroupId::get),
            directory: self.directory.as_bytes().to_vec(),
            sequence: self.sequence,
            findings: self.findings.iter().take(FINDINGS_MAX).map(finding).collect(),
        };
        frame::seal_message(KIND, VERSION, &body)
    }

    /// The quarantine in `bytes`. What cannot be read is in force: it was made for a reason.
    fn decode(path: &Path, group: Option<GroupId>, directory: DirectoryId, bytes: &[u8]) -> Self {
        let remedy = if group.is_some() { REPLACE_GROUP } else { REPLACE_NODE };
        let body = frame::unseal(KIND, VERSION, bytes)
            .map_err(|error| error.to_string())
            .and_then(|body| QuarantineBody::decode(body).map_err(|error| error.to_string()));
        let read = body.and_then(|body| {
            let id = <[u8; 16]>::try_from(body.directory.as_slice());
            let id = id.map_err(|_| "the length of an id".to_owned())?;
            Ok((DirectoryId::from_bytes(id), body))
        });
        match read {
            Ok((directory, QuarantineBody { sequence, findings, .. })) => {
                let findings = findings.into_iter().map(|finding| {
                    let FindingBody { file, offset, index, what } = finding;
                    Damage { group, file: file.into(), offset, index, what, remedy }
                });
                Self { group, directory, sequence, findings: findings.collect() }
            }
            Err(error) => {
                let what = format!("the quarantine itself cannot be read, and stays: {error}");
                let finding = Damage { group, ..Damage::of_file(path, what, remedy) };
                Self { group, directory, sequence: u64::MAX, findings: vec![finding] }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_engine::env::DefaultFileSystem;

    use super::*;
    use crate::files::DiskFiles;

    fn files() -> Arc<dyn Files> {
        DiskFiles::over(Arc::new(DefaultFileSystem))
    }

    fn quarantine(group: Option<GroupId>) -> Quarantine {
        let remedy = if group.is_some() { REPLACE_GROUP } else { REPLACE_NODE };
        let finding = Damage::of_file(Path::new("/d/log/7"), "a record is damaged", remedy);
        let findings = vec![Damage { group, ..finding.at_offset(4096).at_index(17) }];
        let directory = DirectoryId::from_bytes([3; 16]);
        Quarantine { group, directory, sequence: 900, findings }
    }

    #[test]
    fn a_quarantine_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let directory = DirectoryId::from_bytes([3; 16]);
        assert_eq!(read_all(files().as_ref(), dir.path(), directory).unwrap(), []);
        for group in [None, GroupId::new(4)] {
            quarantine(group).write(&files(), dir.path()).unwrap();
            // Once more, over what a crash left.
            std::fs::write(quarantine(group).path(dir.path()).with_extension("tmp"), b"x").unwrap();
            quarantine(group).write(&files(), dir.path()).unwrap();
        }
        let mut found = read_all(files().as_ref(), dir.path(), directory).unwrap();
        found.sort_by_key(|quarantine| quarantine.group);
        assert_eq!(found, [quarantine(None), quarantine(GroupId::new(4))]);
        let renewed = DirectoryId::from_bytes([4; 16]);
        assert_eq!(read_all(files().as_ref(), dir.path(), renewed).unwrap(), []);
    }

    #[test]
    fn a_quarantine_that_rots_stays_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let written = quarantine(GroupId::new(4));
        written.write(&files(), dir.path()).unwrap();
        let path = written.path(dir.path());
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            std::fs::write(&path, &flipped).unwrap();
            let found = read_all(files().as_ref(), dir.path(), written.directory).unwrap();
            assert_eq!((found.len(), found[0].group), (1, GroupId::new(4)), "byte {at}");
            assert!(found[0].findings[0].what.contains("cannot be read"), "byte {at}");
        }
    }
}
