//! Renewal: the engine's part of replacing what is damaged.
//!
//! What is in quarantine never acts again as the member it was: it may have forgotten a vote or an
//! acknowledgement. It can be *replaced*, by a member that nobody remembers anything of. For that
//! it gets a new name, and loses everything that it still has: a directory gets a new directory
//! id, a group another incarnation. What was there is kept for inspection, in `aside/`.
//!
//! **Order, for a directory.** Everything is moved aside; then the new witness and the new identity
//! are made durable; then the quarantine, which names the old directory id, is moved aside. Until
//! the identity changes the quarantine is in force, and a renewal that was interrupted is done
//! again; from then on it is void. At no moment does the old identity stand without its
//! quarantine over a log that is gone.
//!
//! **Order, for a group.** What can be read is copied aside, durably; then one batch drops it from
//! the log and begins it anew, blank; then the quarantine is moved aside. The group is of a later
//! batch than the quarantine, which is void for it from then on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protobuf::Message as _;
use raft_engine::env::DefaultFileSystem;
use thiserror::Error;

use crate::damage::Damage;
use crate::directory::{self, ASIDE, LOCK, LOG, Lock, QUARANTINE, SNAPSHOTS, WITNESS};
use crate::disk::Disk;
use crate::engine::{Engine, RecoveredGroup};
use crate::files::{DiskFiles, OutFile};
use crate::frame;
use crate::identity::{Founding, Identity, IdentityError, write_identity};
use crate::ids::{DirectoryId, GroupId};
use crate::log::GroupLog;
use crate::quarantine::{self, Quarantine};
use crate::reader::ReadError;
use crate::record::{GENESIS_KEY, RECORD_KEY};
use crate::write::WriteError;

const ENTRY_KIND: [u8; 4] = *b"QENT";
const ENTRY_VERSION: u16 = 1;
/// The file of what could be read of a group's log.
const EXPORT: &str = "log";
/// Bytes of entries read at a time.
const READ_BYTES_MAX: u64 = 4 << 20;

/// A directory under its new name.
#[derive(Debug)]
pub struct Renewed {
    /// Who it is now: the same cluster and node, a new directory id, formatted to join.
    pub identity: Identity,
    /// Which directory it was.
    pub old: DirectoryId,
    /// Where everything is that it held.
    pub aside: PathBuf,
    /// Why.
    pub findings: Vec<Damage>,
}

/// A group that can begin anew.
#[derive(Debug)]
pub struct RenewedGroup {
    /// Where everything is that could be read of it.
    pub aside: PathBuf,
    /// Entries that could be read.
    pub saved: u64,
    /// Entries that could not.
    pub lost: u64,
    /// Why.
    pub findings: Vec<Damage>,
}

/// Why nothing was renewed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RenewError {
    /// The identity cannot be read, or somebody uses the directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is no quarantine: what is not damaged is not thrown away.
    #[error("{} is not in quarantine: nothing to renew", path.display())]
    NotDamaged {
        /// The directory, or the folder of the group's quarantine.
        path: PathBuf,
    },
    /// There is nobody whom it could join.
    #[error(
        "{} is the only member of its cluster, and nobody has what it has lost: inspect it, and \
         format a new cluster",
        dir.display()
    )]
    Alone {
        /// The directory.
        dir: PathBuf,
    },
    /// The log could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// What is left could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file operation failed. Renew again: what is done stays done.
    #[error("{}: {source}: check the disk, and try again", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl From<(PathBuf, io::Error)> for RenewError {
    fn from((path, source): (PathBuf, io::Error)) -> Self {
        Self::Io { path, source }
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> RenewError {
    let path = path.to_owned();
    move |source| RenewError::Io { path, source }
}

/// Gives a directory that is in quarantine as a whole a new directory id, so that it can join its
/// cluster as a new member. Interrupted, it is done again. Blocks on the disk.
///
/// The caller must not lead anybody to take it for the member it was: the new id has to become
/// a member by a change of the membership, and the old one must go by the same.
///
/// # Errors
///
/// [`RenewError`]; a directory without a quarantine is left alone.
pub fn renew_directory(dir: &Path) -> Result<Renewed, RenewError> {
    let old = Identity::read(dir)?;
    let _lock = Lock::take(dir)
        .map_err(io_at(&dir.join(LOCK)))?
        .ok_or_else(|| IdentityError::InUse { dir: dir.to_owned() })?;
    let files = DiskFiles::over(Arc::new(DefaultFileSystem));
    let found = quarantine::read_all(files.as_ref(), dir, old.directory_id)?;
    let Some(Quarantine { findings, .. }) = found.into_iter().find(|found| found.group.is_none())
    else {
        return Err(RenewError::NotDamaged { path: dir.to_owned() });
    };
    let Some(founding) = joining(&old) else {
        return Err(RenewError::Alone { dir: dir.to_owned() });
    };
    let aside = dir.join(ASIDE).join(old.directory_id.to_string());
    directory::create_dir_durable(&aside).map_err(io_at(&aside))?;
    for name in [LOG, SNAPSHOTS, WITNESS] {
        set_aside(&dir.join(name), &aside.join(name))?;
    }
    sync(&[&aside, dir])?;
    let identity = Identity { directory_id: DirectoryId::random(), founding, ..old.clone() };
    write_identity(dir, &identity)?;
    set_aside(&dir.join(QUARANTINE), &aside.join(QUARANTINE))?;
    sync(&[&aside, dir])?;
    Ok(Renewed { identity, old: old.directory_id, aside, findings })
}

/// How the renewed directory finds its cluster: through everybody that the old one knew.
fn joining(old: &Identity) -> Option<Founding> {
    let addrs: Vec<_> = match &old.founding {
        Founding::Join(addrs) => addrs.clone(),
        Founding::Voters(voters) => {
            let others = voters.iter().filter(|voter| voter.node_id != old.node_id);
            others.map(|voter| voter.addr.clone()).collect()
        }
    };
    (!addrs.is_empty()).then_some(Founding::Join(addrs))
}

/// Moves `from` to `to`. What an earlier attempt has moved there is the original, and stays.
fn set_aside(from: &Path, to: &Path) -> Result<(), RenewError> {
    if to.exists() {
        return Ok(());
    }
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(from)(error)),
        _ => Ok(()),
    }
}

fn sync(dirs: &[&Path]) -> Result<(), RenewError> {
    dirs.iter().try_for_each(|dir| directory::sync_dir(dir).map_err(io_at(dir)))
}

impl<F: Disk + 'static> Engine<F> {
    /// Drops a group that is in quarantine, after all that can be read of it was copied aside, and
    /// has it begin anew: it is among [`Engine::groups`] then, with a blank log and another
    /// incarnation, to become another member. Interrupted, it is done again. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`RenewError`]; a group that is not damaged is left alone.
    pub fn renew_group(&mut self, group: GroupId) -> Result<RenewedGroup, RenewError> {
        let (dir, directory) = (self.dir.clone(), self.identity.directory_id);
        let found = quarantine::read_all(self.files.as_ref(), &dir, directory)?;
        let quarantine = found.into_iter().find(|found| found.group == Some(group));
        let (Some(quarantine), true) = (quarantine, self.damaged.contains_key(&group)) else {
            return Err(RenewError::NotDamaged { path: dir.join(QUARANTINE) });
        };
        let aside = dir
            .join(ASIDE)
            .join(directory.to_string())
            .join(format!("{group}-{}", self.writer.sequence().min(quarantine.sequence)));
        directory::create_dir_durable(&aside).map_err(io_at(&aside))?;
        let (saved, lost) = self.export(group, &aside)?;
        let snapshots = self.snapshots.group_dir(group);
        set_aside(&snapshots, &aside.join(SNAPSHOTS))?;
        sync(&[&aside, &directory::parent_of(&snapshots)])?;
        let incarnation = self.writer.begin_anew(group)?;
        let path = quarantine.path(&dir);
        let target = aside.join(QUARANTINE);
        self.files.rename(&path, &target).map_err(io_at(&path))?;
        for dir in [&aside, &dir.join(QUARANTINE)] {
            self.files.sync_dir(dir).map_err(io_at(dir))?;
        }
        let findings = self.damaged.remove(&group).unwrap_or_default();
        self.writer.store().hold_purge(!self.damaged.is_empty());
        let log = GroupLog::blank(group, &self.cache);
        self.groups.insert(group, RecoveredGroup::blank(log, incarnation));
        Ok(RenewedGroup { aside, saved, lost, findings })
    }

    /// Copies record, founding record and every entry that can be read. Once it is done it is not
    /// done again: the log may be gone by then.
    fn export(&self, group: GroupId, aside: &Path) -> Result<(u64, u64), RenewError> {
        let path = aside.join(EXPORT);
        if path.exists() {
            return Ok((0, 0));
        }
        let temporary = aside.join(format!("{EXPORT}.tmp"));
        let mut file = self.files.create(&temporary).map_err(io_at(&temporary))?;
        let counts = self.export_to(group, file.as_mut(), &temporary)?;
        file.sync().map_err(io_at(&temporary))?;
        self.files.rename(&temporary, &path).map_err(io_at(&path))?;
        self.files.sync_dir(aside).map_err(io_at(aside))?;
        Ok(counts)
    }

    fn export_to(
        &self,
        group: GroupId,
        file: &mut dyn OutFile,
        path: &Path,
    ) -> Result<(u64, u64), RenewError> {
        let (engine, region) = (self.writer.store().engine(), group.get());
        for key in [RECORD_KEY, GENESIS_KEY] {
            if let Some(bytes) = engine.get(region, key) {
                file.write_all(&bytes).map_err(io_at(path))?;
            }
        }
        let span = engine.first_index(region).zip(engine.last_index(region));
        let Some((mut index, last)) = span else { return Ok((0, 0)) };
        let (mut saved, mut lost) = (0, 0);
        while index <= last {
            match self.reader.read(group, index, last + 1, READ_BYTES_MAX) {
                Ok(entries) => {
                    for entry in &entries {
                        let body = entry.write_to_bytes().map_err(io::Error::other);
                        let body = body.map_err(io_at(path))?;
                        let framed = frame::seal(ENTRY_KIND, ENTRY_VERSION, &body);
                        file.write_all(&framed).map_err(io_at(path))?;
                    }
                    saved += entries.len() as u64;
                    index += entries.len() as u64;
                }
                Err(error @ (ReadError::Disk { .. } | ReadError::Closed)) => {
                    return Err(error.into());
                }
                Err(_) => (lost, index) = (lost + 1, index + 1),
            }
        }
        Ok((saved, lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        Node, copy_dir, entries, entry, findings, one, open, open_small, small_files, tempdir, two,
    };
    use crate::{ClusterId, Formatted, GroupWrite, LogId, NodeId, Voter, format};

    fn three_voters(dir: &Path) {
        let voter = |node| {
            let node_id = NodeId::new(node).unwrap();
            Voter { node_id, addr: format!("localhost:900{node}") }
        };
        let founding = Founding::Voters([1, 2, 3].map(voter).to_vec());
        format(dir, ClusterId::random(), NodeId::new(2).unwrap(), founding).unwrap();
    }

    /// A directory with a log, and without its witness.
    fn damaged() -> tempfile::TempDir {
        let dir = tempdir();
        three_voters(dir.path());
        let mut node = open_small(dir.path());
        node.found(one());
        node.append(one(), entries(2..=9, 1));
        node.close();
        std::fs::remove_file(dir.path().join(WITNESS)).unwrap();
        assert!(open(dir.path(), &small_files(), &Arc::default()).is_err());
        dir
    }

    #[test]
    fn a_damaged_directory_gets_a_new_name_and_keeps_what_it_had_aside() {
        let dir = damaged();
        let before = Formatted::open(dir.path()).unwrap().identity().clone();
        let renewed = renew_directory(dir.path()).unwrap();
        assert_eq!(renewed.old, before.directory_id);
        assert!(renewed.findings[0].what.contains("witness"), "{:?}", renewed.findings);
        let after = Formatted::open(dir.path()).unwrap().identity().clone();
        assert_eq!(after, renewed.identity);
        assert_eq!((after.cluster_id, after.node_id), (before.cluster_id, before.node_id));
        assert_ne!(after.directory_id, before.directory_id);
        let others = ["localhost:9001", "localhost:9003"].map(str::to_owned).to_vec();
        assert_eq!(after.founding, Founding::Join(others));
        assert!(renewed.aside.join("log/0000000000000001.raftlog").exists());
        assert!(renewed.aside.join("quarantine/node").exists());
        let node = open_small(dir.path());
        assert!(node.logs.is_empty() && node.engine.damaged.is_empty());
        assert_eq!(node.engine.writer.sequence(), 0);
        node.close();
        let again = renew_directory(dir.path()).unwrap_err();
        assert!(matches!(again, RenewError::NotDamaged { .. }), "{again}");
    }

    /// What each step leaves behind is either still in quarantine, or a fresh directory; never the
    /// old identity without a log.
    #[test]
    fn a_renewal_that_is_interrupted_is_done_again() {
        let dir = damaged();
        let old = Formatted::open(dir.path()).unwrap().identity().clone();
        let aside = dir.path().join(ASIDE).join(old.directory_id.to_string());
        let in_quarantine = |step: &str| {
            let error = open(dir.path(), &small_files(), &Arc::default()).err().unwrap();
            assert!(error.to_string().contains("witness"), "{step}: {error}");
        };
        std::fs::create_dir_all(&aside).unwrap();
        in_quarantine("made a folder");
        std::fs::rename(dir.path().join(LOG), aside.join(LOG)).unwrap();
        in_quarantine("moved the log");
        std::fs::rename(dir.path().join(SNAPSHOTS), aside.join(SNAPSHOTS)).unwrap();
        in_quarantine("moved the snapshots");
        let fresh = crate::witness::fresh(DirectoryId::random());
        std::fs::write(dir.path().join(WITNESS), fresh).unwrap();
        in_quarantine("wrote the new witness");
        let identity = Identity { directory_id: DirectoryId::random(), ..old };
        write_identity(dir.path(), &identity).unwrap();
        open_small(dir.path()).close();
        assert!(aside.join(LOG).join("0000000000000001.raftlog").exists());
    }

    #[test]
    fn the_only_member_is_left_alone() {
        let dir = tempdir();
        let mut node = open_small(dir.path());
        node.found(one());
        node.close();
        let error = renew_directory(dir.path()).unwrap_err();
        assert!(matches!(error, RenewError::NotDamaged { .. }), "{error}");
        std::fs::remove_dir_all(dir.path().join(LOG)).unwrap();
        assert!(open(dir.path(), &small_files(), &Arc::default()).is_err());
        let error = renew_directory(dir.path()).unwrap_err();
        assert!(matches!(error, RenewError::Alone { .. }), "{error}");
    }

    fn with_a_bad_entry() -> tempfile::TempDir {
        let dir = tempdir();
        let mut node = open_small(dir.path());
        node.found(one());
        node.found(two());
        for index in 2..=9 {
            node.append(two(), vec![entry(index, 1)]);
        }
        node.close();
        let path = dir.path().join("log/0000000000000001.raftlog");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(4).position(|window| window == b"5-1 ").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        dir
    }

    /// The renewed group gets a snapshot, as it would from its leader, and goes on.
    fn go_on<F: Disk + 'static>(node: &mut Node<F>) {
        let RecoveredGroup { log, .. } = node.engine.groups.remove(&two()).unwrap();
        assert_eq!(log.record(), crate::GroupRecord::default());
        node.logs.insert(two(), log);
        let id = LogId::new(1, 1);
        let meta = node.snapshot(two(), id);
        node.log(two()).install_snapshot(id, meta.conf_state);
        let write = GroupWrite { install: true, ..node.part(two(), vec![]) };
        node.commit(vec![write]).unwrap();
        node.append(two(), entries(2..=3, 1));
    }

    #[test]
    fn a_damaged_group_begins_anew_and_what_could_be_read_is_kept() {
        let dir = with_a_bad_entry();
        let mut node = open_small(dir.path());
        let finding = &node.engine.damaged[&two()][0];
        assert_eq!((finding.index, finding.offset.is_some()), (Some(5), true), "{finding}");
        let error = node.engine.renew_group(one()).unwrap_err();
        assert!(matches!(error, RenewError::NotDamaged { .. }), "{error}");
        let renewed = node.engine.renew_group(two()).unwrap();
        assert_eq!((renewed.saved, renewed.lost), (7, 1));
        let export = std::fs::read(renewed.aside.join(EXPORT)).unwrap();
        assert_eq!(export.windows(4).filter(|window| window == b"QENT").count(), 7);
        assert!(renewed.aside.join("snapshots/1-1.snap").exists());
        assert!(node.engine.damaged.is_empty());
        go_on(&mut node);
        node.close();
        assert_eq!(findings(dir.path()), []);
        let formatted = Formatted::open(dir.path()).unwrap();
        let engine = Engine::open(formatted, &small_files()).unwrap();
        let group = &engine.groups[&two()];
        assert_eq!(group.log.last(), LogId::new(3, 1));
        assert!(group.incarnation > engine.groups[&one()].incarnation + 8);
    }

    #[test]
    fn a_group_whose_renewal_was_interrupted_is_renewed_again() {
        let dir = with_a_bad_entry();
        let mut node = open_small(dir.path());
        let quarantine = std::fs::read(dir.path().join("quarantine/2")).unwrap();
        let renewed = node.engine.renew_group(two()).unwrap();
        node.close();
        // As a crash before the last step leaves it: the group has begun anew, and the quarantine
        // is void.
        std::fs::write(dir.path().join("quarantine/2"), &quarantine).unwrap();
        std::fs::remove_file(renewed.aside.join(QUARANTINE)).unwrap();
        let mut node = open_small(dir.path());
        assert!(node.engine.damaged.is_empty());
        let log = node.logs.remove(&two()).unwrap();
        assert_eq!(log.record(), crate::GroupRecord::default());
        node.engine.groups.insert(two(), RecoveredGroup::blank(log, 0));
        go_on(&mut node);
        node.close();
        let node = open_small(dir.path());
        assert!(node.engine.damaged.is_empty());
        assert_eq!(node.logs[&two()].last(), LogId::new(3, 1));
        node.close();
    }

    /// Before the batch that begins it anew the group is in quarantine, and what was exported
    /// stays as it was first.
    #[test]
    fn a_group_whose_renewal_has_not_come_to_its_batch_is_renewed_from_the_start() {
        let dir = with_a_bad_entry();
        let copy = tempdir();
        copy_dir(dir.path(), copy.path());
        let mut node = open_small(copy.path());
        let renewed = node.engine.renew_group(two()).unwrap();
        let name = renewed.aside.strip_prefix(copy.path()).unwrap().to_owned();
        node.close();
        drop(open_small(dir.path()));
        copy_dir(&renewed.aside, &dir.path().join(name));
        let mut node = open_small(dir.path());
        assert!(node.engine.damaged.contains_key(&two()));
        let again = node.engine.renew_group(two()).unwrap();
        assert!(std::fs::read(again.aside.join(EXPORT)).unwrap().len() > 100, "the first one");
        go_on(&mut node);
        node.close();
    }
}
