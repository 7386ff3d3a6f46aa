//! What the tests share: a file system that counts and fails, and a node without Raft.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft::GetEntriesContext;
use raft::eraftpb::{ConfState, Entry, HardState};
use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission, WriteExt};

use crate::files::{DiskFiles, Files};
use crate::{
    ClusterId, Damage, Disk, Durable, Engine, EngineConfig, Fetch, Formatted, Founding, GroupId,
    GroupLog, GroupWrite, LogId, NodeId, OpenError, ReadError, SnapshotMeta, Voter, WriteError,
};

/// Group 1.
pub(crate) fn one() -> GroupId {
    GroupId::new(1).unwrap()
}

/// Group 2.
pub(crate) fn two() -> GroupId {
    GroupId::new(2).unwrap()
}

/// An entry whose data tell its position.
pub(crate) fn entry(index: u64, term: u64) -> Entry {
    entry_of(index, term, 32)
}

/// As [`entry`], with this many bytes of data.
pub(crate) fn entry_of(index: u64, term: u64, len: usize) -> Entry {
    let mut data = format!("{index}-{term} ").into_bytes();
    data.resize(len.max(data.len()), b'.');
    Entry { index, term, data: data.into(), ..Entry::default() }
}

/// Entries of one term.
pub(crate) fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    indexes.map(|index| entry(index, term)).collect()
}

pub(crate) fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit, ..HardState::default() }
}

pub(crate) fn voters() -> ConfState {
    ConfState::from((vec![1, 2, 3], vec![]))
}

/// What happens in the middle of a read.
pub(crate) struct BeforeRead(pub Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for BeforeRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BeforeRead")
    }
}

/// What is counted and what fails.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub syncs: AtomicU64,
    pub written: AtomicU64,
    /// Of files; those of directories are a [`Step`].
    pub sync_fails: AtomicBool,
    /// Runs once, before the next read.
    pub before_read: Mutex<Option<BeforeRead>>,
    pub disk_is_full: AtomicBool,
    pub read_fails: AtomicBool,
    /// Steps that fail once, and how many of their kind succeed before.
    failing: Mutex<Vec<(Step, u64)>>,
}

/// A step of writing a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

impl Step {
    pub(crate) const ALL: [Step; 6] =
        [Step::Create, Step::Write, Step::Sync, Step::Rename, Step::Remove, Step::SyncDir];
}

/// Files that fail when told to.
pub(crate) fn faulty() -> (Arc<Faults>, Arc<dyn Files>) {
    let faults = Arc::<Faults>::default();
    (faults.clone(), DiskFiles::over(Arc::new(TestFileSystem(faults))))
}

impl Faults {
    /// Lets one `step` fail, after `skipped` of its kind that succeed.
    pub(crate) fn fail(&self, step: Step, skipped: u64) {
        self.failing.lock().unwrap().push((step, skipped));
    }

    /// Lets no step fail any more. Returns whether all that were to fail have.
    pub(crate) fn heal(&self) -> bool {
        std::mem::take(&mut *self.failing.lock().unwrap()).is_empty()
    }

    fn step(&self, step: Step) -> io::Result<()> {
        let mut failing = self.failing.lock().unwrap();
        let Some(at) = failing.iter().position(|(other, _)| *other == step) else { return Ok(()) };
        if failing[at].1 > 0 {
            failing[at].1 -= 1;
            return Ok(());
        }
        failing.remove(at);
        Err(io::Error::other("injected"))
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }

    fn check(flag: &AtomicBool, kind: io::ErrorKind) -> io::Result<()> {
        if flag.load(Ordering::SeqCst) { Err(io::Error::new(kind, "injected")) } else { Ok(()) }
    }
}

/// The real file system, counting and failing.
#[derive(Default)]
pub(crate) struct TestFileSystem(pub Arc<Faults>);

pub(crate) struct TestHandle {
    inner: Arc<<DefaultFileSystem as FileSystem>::Handle>,
    faults: Arc<Faults>,
    /// It has all its room already, and is only overwritten.
    is_witness: bool,
}

pub(crate) struct TestFile<T> {
    inner: T,
    faults: Arc<Faults>,
    is_witness: bool,
}

impl TestFileSystem {
    fn handle(&self, path: &Path, inner: <DefaultFileSystem as FileSystem>::Handle) -> TestHandle {
        let is_witness = path.ends_with("witness");
        TestHandle { inner: Arc::new(inner), faults: self.0.clone(), is_witness }
    }
}

impl FileSystem for TestFileSystem {
    type Handle = TestHandle;
    type Reader = TestFile<<DefaultFileSystem as FileSystem>::Reader>;
    type Writer = TestFile<<DefaultFileSystem as FileSystem>::Writer>;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<TestHandle> {
        self.0.step(Step::Create)?;
        Ok(self.handle(path.as_ref(), DefaultFileSystem.create(&path)?))
    }

    fn open<P: AsRef<Path>>(&self, path: P, perm: Permission) -> io::Result<TestHandle> {
        Ok(self.handle(path.as_ref(), DefaultFileSystem.open(&path, perm)?))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.0.step(Step::Remove)?;
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        self.0.step(Step::Rename)?;
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<TestHandle>) -> io::Result<Self::Reader> {
        let inner = DefaultFileSystem.new_reader(handle.inner.clone())?;
        let (faults, is_witness) = (handle.faults.clone(), handle.is_witness);
        Ok(TestFile { inner, faults, is_witness })
    }

    fn new_writer(&self, handle: Arc<TestHandle>) -> io::Result<Self::Writer> {
        let inner = DefaultFileSystem.new_writer(handle.inner.clone())?;
        let (faults, is_witness) = (handle.faults.clone(), handle.is_witness);
        Ok(TestFile { inner, faults, is_witness })
    }
}

impl Disk for TestFileSystem {
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.step(Step::SyncDir)?;
        DefaultFileSystem.sync_dir(dir)
    }
}

impl Handle for TestHandle {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.inner.truncate(offset)
    }

    fn file_size(&self) -> io::Result<usize> {
        self.inner.file_size()
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        Faults::check(&self.faults.sync_fails, io::ErrorKind::Other)?;
        self.faults.step(Step::Sync)?;
        self.inner.sync()
    }
}

impl<T: Read> Read for TestFile<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Faults::check(&self.faults.read_fails, io::ErrorKind::Other)?;
        let before = self.faults.before_read.lock().unwrap().take();
        if let Some(BeforeRead(before)) = before {
            before();
        }
        self.inner.read(buf)
    }
}

impl<T: Write> Write for TestFile<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if !self.is_witness {
            Faults::check(&self.faults.disk_is_full, io::ErrorKind::StorageFull)?;
        }
        if let Err(error) = self.faults.step(Step::Write) {
            // As a disk does: a part of it may be there.
            self.inner.write_all(&buf[..buf.len() / 2])?;
            return Err(error);
        }
        let written = self.inner.write(buf)?;
        self.faults.written.fetch_add(written as u64, Ordering::SeqCst);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Seek> Seek for TestFile<T> {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.inner.seek(pos)
    }
}

impl<T: WriteExt> WriteExt for TestFile<T> {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.inner.truncate(offset)
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        self.inner.allocate(offset, size)
    }
}

/// Small files and an early purge, so that tests see both.
pub(crate) fn small_files() -> EngineConfig {
    EngineConfig {
        cache_bytes_max: 0,
        target_file_size_bytes: 4096,
        purge_threshold_bytes: 16384,
        ..EngineConfig::default()
    }
}

/// Formats `dir` as the only voter.
pub(crate) fn format(dir: &Path) {
    let voter = Voter { node_id: NodeId::new(1).unwrap(), addr: "localhost:9001".to_owned() };
    let founding = Founding::Voters(vec![voter]);
    crate::format(dir, ClusterId::random(), NodeId::new(1).unwrap(), founding).unwrap();
}

/// An open engine and its logs, driven by hand instead of by Raft.
pub(crate) struct Node<F: Disk> {
    pub engine: Engine<F>,
    pub logs: BTreeMap<GroupId, GroupLog>,
    pub number: u64,
}

/// Opens `dir`, formatted if need be, with a file system that counts.
pub(crate) fn open(
    dir: &Path,
    config: &EngineConfig,
    faults: &Arc<Faults>,
) -> Result<Node<TestFileSystem>, OpenError> {
    if !dir.join("identity").exists() {
        format(dir);
    }
    let formatted = Formatted::open(dir).unwrap();
    let file_system = Arc::new(TestFileSystem(faults.clone()));
    let mut engine = Engine::open_with(formatted, config, file_system)?;
    let groups = std::mem::take(&mut engine.groups);
    let logs = groups.into_iter().map(|(group, recovered)| (group, recovered.log)).collect();
    Ok(Node { engine, logs, number: 0 })
}

/// A directory for a test, in memory where there is such a file system: tests count syncs, and do
/// not wait for them.
pub(crate) fn tempdir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// What is found wrong with a copy of `dir`, for one group or for all; nothing, if nothing is. A
/// copy, since a finding puts a directory into quarantine for good.
pub(crate) fn findings(dir: &Path) -> Vec<Damage> {
    let copy = tempdir();
    copy_dir(dir, copy.path());
    let mut findings = match open(copy.path(), &small_files(), &Arc::default()) {
        Ok(node) => node.engine.damaged.values().flatten().cloned().collect(),
        Err(OpenError::Damaged { findings }) => findings,
        Err(error) => panic!("{error}"),
    };
    for finding in &mut findings {
        let path = finding.file.strip_prefix(copy.path()).unwrap_or(&finding.file);
        finding.file = dir.join(path);
    }
    findings
}

/// The one thing that is wrong with `dir`.
pub(crate) fn damage(dir: &Path) -> Damage {
    match findings(dir).as_slice() {
        [damage] => damage.clone(),
        other => panic!("{other:?}"),
    }
}

/// Copies all that is in a directory.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// As [`open`], with small files, and nothing that fails.
pub(crate) fn open_small(dir: &Path) -> Node<TestFileSystem> {
    open(dir, &small_files(), &Arc::default()).unwrap()
}

impl<F: Disk + 'static> Node<F> {
    pub(crate) fn log(&mut self, group: GroupId) -> &mut GroupLog {
        self.logs.get_mut(&group).unwrap()
    }

    /// Writes a snapshot file.
    pub(crate) fn snapshot(&self, group: GroupId, id: LogId) -> SnapshotMeta {
        let members = Bytes::from(format!("members at {id}"));
        let meta = SnapshotMeta { group, id, conf_state: voters(), members };
        let mut writer = self.engine.snapshots.create(meta).unwrap();
        writer.write_all(format!("state at {id}").as_bytes()).unwrap();
        writer.finish().unwrap()
    }

    /// Founds a group at (1, 1).
    pub(crate) fn found(&mut self, group: GroupId) -> Durable {
        let meta = self.snapshot(group, LogId::new(1, 1));
        let log = GroupLog::founded(group, &meta, &self.engine.cache);
        self.logs.insert(group, log);
        let mut write = self.part(group, vec![]);
        write.genesis = Some(Bytes::from_static(b"genesis"));
        self.commit(vec![write]).unwrap().pop().unwrap()
    }

    /// The next write of a group: its record as it is now, and these entries.
    pub(crate) fn part(&mut self, group: GroupId, entries: Vec<Entry>) -> GroupWrite {
        self.number += 1;
        let (number, record) = (self.number, self.log(group).record());
        GroupWrite { group, number, entries, record, install: false, genesis: None }
    }

    /// Writes, and notes what is durable.
    pub(crate) fn commit(&mut self, writes: Vec<GroupWrite>) -> Result<Vec<Durable>, WriteError> {
        let lasts: Vec<_> = writes.iter().map(|write| (write.group, write.record.last)).collect();
        let receipts = self.engine.writer.write(writes)?;
        for (group, last) in lasts {
            self.log(group).persisted_to(last);
        }
        Ok(receipts)
    }

    /// Appends entries, commits and applies all of them, and writes it.
    pub(crate) fn append(&mut self, group: GroupId, entries: Vec<Entry>) -> Durable {
        let log = self.log(group);
        log.append(&entries);
        let last = log.last();
        let term = log.hard_state().term.max(last.term);
        log.set_hard_state(hard_state(term, 1, last.index));
        let write = self.part(group, entries);
        let receipt = self.commit(vec![write]).unwrap().pop().unwrap();
        self.log(group).applied_to(last.index);
        receipt
    }

    /// Makes a snapshot at `index`, compacts to `to`, and writes it.
    pub(crate) fn compact(&mut self, group: GroupId, index: u64, to: u64) {
        let id = LogId::new(index, self.log(group).term(index).unwrap());
        let meta = self.snapshot(group, id);
        assert!(self.log(group).set_snapshot(id, meta.conf_state));
        self.log(group).compact_to(to);
        let write = self.part(group, vec![]);
        self.commit(vec![write]).unwrap();
    }

    /// Purges, and waits for it.
    pub(crate) fn purge(&self) -> Result<Vec<GroupId>, ReadError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.engine.reader.purge(move |result| sender.send(result).unwrap()).unwrap();
        receiver.recv().unwrap()
    }

    /// Reads from disk, and waits for it.
    pub(crate) fn fetch(
        &self,
        group: GroupId,
        low: u64,
        high: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let context = GetEntriesContext::empty(true);
        let fetch = Fetch { group, low, high, bytes_max: u64::MAX, context };
        self.engine.reader.fetch(fetch, move |f| sender.send(f.result).unwrap()).unwrap();
        receiver.recv().unwrap()
    }

    pub(crate) fn close(self) {
        self.engine.writer.close().unwrap();
    }
}
