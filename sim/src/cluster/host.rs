//! [`Host`]: a machine with a disk, which outlives the processes that run on it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_engine::{
    ClusterId, DirectoryId, Engine, EngineConfig, Formatted, Founding, GroupLog, GroupWrite, LogId,
    Voter, format,
};
use quorate_loop::{Binding, Catalogue, Core, LoopConfig, Members, Replica};
use quorate_statemachine::Metadata;

use super::process::Process;
use super::{GROUP, SimError, node_id};
use crate::disk::{CrashDisk, Image, Moment, Phase, Survival};
use crate::random::Random;
use crate::record::LogRecord;

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// A machine: its disk, what must be on it, and the process that runs.
pub(super) struct Host {
    pub(super) id: u64,
    /// Its directories, one for each life of the disk.
    base: PathBuf,
    generation: u64,
    pub(super) disk: CrashDisk,
    /// Who its directory is.
    pub(super) binding: Binding,
    /// The name that it was given, while it waits for its first snapshot.
    pub(super) let_in: Option<(u64, Arc<Members>)>,
    /// What the disk is known to hold.
    pub(super) durable: LogRecord,
    /// What was being written when the process ended: the first of it may be there.
    doubtful: Vec<GroupWrite>,
    pub(super) process: Option<Process>,
    /// Whether a bit of it has flipped that nobody may have noticed.
    pub(super) is_rotten: bool,
    runs: u32,
}

/// What a machine's directory turned out to be.
#[derive(Debug)]
pub(super) enum Start {
    /// A process runs; and whether the disk held more than was known of.
    Running { with_more: bool },
    /// The group is damaged: it must not act as the member it was.
    Damaged(String),
    /// The directory has not been let in.
    Waiting,
    /// It is no member any more.
    Departed,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// `kill -9`: what was written is there.
    Kill,
    /// A power loss: what was not synced may be gone.
    PowerLoss(Survival),
}

impl Host {
    /// A machine with a founded group of `members` on its disk.
    pub(super) fn founded(
        id: u64,
        base: &Path,
        members: &Arc<Members>,
        config: &EngineConfig,
    ) -> Result<Host, SimError> {
        let root = base.join(format!("{id}-0"));
        let addr = |member: &quorate_loop::Member| Voter {
            node_id: member.node_id(),
            addr: member.addr.clone(),
        };
        let founding = Founding::Voters(members.iter().map(addr).collect());
        let mut host = Host::formatted(id, base, root, founding, bindings(id, 0))?;
        let mut engine = host.engine(config)?;
        let replica = Replica::<Metadata>::founding(GROUP, members.clone());
        let (meta, _) = replica.draft().write(&engine.snapshots).map_err(SimError::new)?;
        let record = GroupLog::founded(GROUP, &meta, &engine.cache).record();
        let (entries, genesis, install) = (Vec::new(), None, false);
        let write = GroupWrite { group: GROUP, number: 1, entries, record, install, genesis };
        engine.writer.write(vec![write]).map_err(SimError::new)?;
        host.durable = LogRecord::founded();
        Ok(host)
    }

    /// A machine with an empty directory, its `life`-th, that asks to be let in.
    pub(super) fn joining(
        id: u64,
        base: &Path,
        config: &EngineConfig,
        life: u64,
    ) -> Result<Host, SimError> {
        let founding = Founding::Join(vec!["127.0.0.1:1".to_owned()]);
        let root = base.join(format!("{id}-0"));
        let mut host = Host::formatted(id, base, root, founding, bindings(id, life))?;
        host.begin_blank(config)?;
        Ok(host)
    }

    fn formatted(
        id: u64,
        base: &Path,
        root: PathBuf,
        founding: Founding,
        binding: Binding,
    ) -> Result<Host, SimError> {
        format(&root, CLUSTER, node_id(id), founding).map_err(SimError::new)?;
        Ok(Host {
            id,
            base: base.to_owned(),
            generation: 0,
            disk: CrashDisk::new(&root).map_err(SimError::new)?,
            binding,
            let_in: None,
            durable: LogRecord::default(),
            doubtful: Vec::new(),
            process: None,
            is_rotten: false,
            runs: 0,
        })
    }

    fn engine(&self, config: &EngineConfig) -> Result<Engine<CrashDisk>, SimError> {
        let formatted = Formatted::open(self.disk.root()).map_err(SimError::new)?;
        Engine::open_with(formatted, config, Arc::new(self.disk.clone())).map_err(SimError::new)
    }

    /// Another disk in the place of this one: its directory is empty, and asks to be let in.
    pub(super) fn wipe(&mut self, config: &EngineConfig, life: u64) -> Result<(), SimError> {
        let root = self.next_root();
        let founding = Founding::Join(vec!["127.0.0.1:1".to_owned()]);
        let (runs, generation) = (self.runs, self.generation);
        std::fs::remove_dir_all(self.disk.root()).map_err(SimError::new)?;
        *self =
            Host::formatted(self.id, &self.base.clone(), root, founding, bindings(self.id, life))?;
        (self.runs, self.generation) = (runs, generation);
        self.begin_blank(config)
    }

    /// The group begins in this directory, with nothing.
    fn begin_blank(&mut self, config: &EngineConfig) -> Result<(), SimError> {
        let mut engine = self.engine(config)?;
        let record = GroupLog::blank(GROUP, &engine.cache).record();
        let (entries, genesis, install) = (Vec::new(), None, false);
        let write = GroupWrite { group: GROUP, number: 1, entries, record, install, genesis };
        let written = engine.writer.write(vec![write]).map_err(SimError::new)?;
        self.binding.incarnation = written.first().map_or(0, |durable| durable.sequence());
        Ok(())
    }

    fn next_root(&mut self) -> PathBuf {
        self.generation += 1;
        self.base.join(format!("{}-{}", self.id, self.generation))
    }

    /// Ends the process, if one runs, and leaves what the disk then holds. With `within`, it ends
    /// while the disk carries out what it was given: at that operation, if there are as many.
    pub(super) fn end(&mut self, end: End, within: Option<u64>) -> Result<(), SimError> {
        let mut image = None;
        if let Some(process) = &mut self.process {
            self.doubtful = std::mem::take(&mut process.kept);
        }
        if let (Some(process), Some(nth)) = (&mut self.process, within) {
            let (batch, capture) = (process.batch(), Capture::of(&self.disk, nth));
            // What comes of it nobody hears.
            let _ = process.write(batch.clone());
            image = capture.take();
            self.doubtful.extend(batch);
        }
        // Before the engine is closed: a process that is killed closes nothing.
        let image = match image {
            Some(image) => image,
            None => self.disk.image().map_err(SimError::new)?,
        };
        self.process = None;
        self.disk.heal();
        self.disk.set_capacity(None);
        self.revive(&image, end)
    }

    /// The disk that an image leaves becomes the disk.
    fn revive(&mut self, image: &Image, end: End) -> Result<(), SimError> {
        let (old, root) = (self.disk.root().to_owned(), self.next_root());
        self.disk = match end {
            End::Kill => image.kill(root),
            End::PowerLoss(survival) => image.power_loss(survival, root),
        }
        .map_err(SimError::new)?;
        std::fs::remove_dir_all(old).map_err(SimError::new)
    }

    /// Opens the disk, and ends at that operation, if there are as many.
    pub(super) fn open_and_end(
        &mut self,
        config: &EngineConfig,
        end: End,
        within: u64,
    ) -> Result<(), SimError> {
        let capture = Capture::of(&self.disk, within);
        drop(self.engine(config)?);
        match capture.take() {
            Some(image) => self.revive(&image, end),
            None => Ok(()),
        }
    }

    /// Starts a process from what the disk holds, which must be what it is known to hold.
    ///
    /// # Errors
    ///
    /// A violation: it does not open, or something is lost.
    pub(super) fn start(
        &mut self,
        config: &EngineConfig,
        loop_config: &LoopConfig,
    ) -> Result<Start, SimError> {
        let mut engine = match self.engine(config) {
            Err(error) if self.is_rotten => return Ok(Start::Damaged(error.to_string())),
            engine => engine?,
        };
        if let Some(findings) = engine.damaged.get(&GROUP) {
            let text = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Ok(Start::Damaged(text));
        }
        let recovered = engine
            .groups
            .remove(&GROUP)
            .ok_or_else(|| SimError::new(format!("node {} has no group", self.id)))?;
        let (log, snapshot) = (recovered.log, recovered.snapshot);
        let mut with_more = false;
        let (own_id, members, replica, log) = match (&self.let_in, snapshot.id.index) {
            (Some((own_id, members)), 0) => (
                *own_id,
                members.clone(),
                Replica::blank(GROUP),
                GroupLog::blank(GROUP, &engine.cache),
            ),
            (None, 0) => return Ok(Start::Waiting),
            _ => {
                with_more = self.agree(&log, snapshot.id)?;
                let restored = Replica::restore(&engine.snapshots, GROUP, snapshot.id);
                let (replica, _) = restored.map_err(SimError::new)?;
                let Some(own) = replica.members().of_binding(self.binding) else {
                    return Ok(Start::Departed);
                };
                (own.member_id, replica.members().clone(), replica, log)
            }
        };
        self.runs += 1;
        let standing = (members, Catalogue::default());
        let core = Core::new(GROUP, own_id, standing, log, loop_config.clone(), self.runs);
        let core = core.map_err(SimError::new)?;
        self.process = Some(Process::new(core, engine, replica, self.durable.clone(), self.runs));
        Ok(Start::Running { with_more })
    }

    /// Compares what was recovered with what must be there, and forgets the doubt. Whether there was more.
    fn agree(&mut self, log: &GroupLog, snapshot: LogId) -> Result<bool, SimError> {
        let found = log.hard_state();
        let is = |record: &LogRecord| {
            let commit = record.hard_state.commit.max(snapshot.index);
            record.last == log.last()
                && (record.hard_state.term, record.hard_state.vote) == (found.term, found.vote)
                && commit == found.commit
        };
        let mut record = self.durable.clone();
        let mut doubtful = std::mem::take(&mut self.doubtful).into_iter();
        while !is(&record)
            && let Some(write) = doubtful.next()
        {
            record.write(&write);
        }
        let record = Some(record).filter(is).ok_or_else(|| {
            SimError::new(format!(
                "node {} was durable up to {} with {:?}, and has {} with {found:?}",
                self.id,
                self.durable.last,
                self.durable.hard_state,
                log.last()
            ))
        })?;
        let with_more = record.last != self.durable.last;
        self.durable = record;
        Ok(with_more)
    }

    /// Flips a bit of one of its files, as time does to a disk. Which, or `None` where there is no byte.
    pub(super) fn rot(&mut self, random: &mut Random) -> Result<Option<String>, SimError> {
        let mut files = self.disk.files();
        let content =
            |path: &PathBuf| self.disk.content(path).map_or(0, |bytes| bytes.len() as u64);
        files.retain(|path| content(path) > 0);
        if files.is_empty() {
            return Ok(None);
        }
        let path = files.swap_remove(random.below(files.len() as u64) as usize);
        let (offset, bit) = (random.below(content(&path)), random.below(8) as u32);
        self.disk.flip_bit(&path, offset, bit).map_err(SimError::new)?;
        self.is_rotten = true;
        Ok(Some(format!("{} at {offset}", path.display())))
    }
}

/// Who a node is in its `life`-th directory. The first is the founding one.
pub(super) fn bindings(id: u64, life: u64) -> Binding {
    let mut directory = [id as u8; 16];
    directory[8..].copy_from_slice(&life.to_le_bytes());
    Binding {
        node_id: node_id(id),
        directory_id: DirectoryId::from_bytes(directory),
        incarnation: 0,
    }
}

/// The disk as it is at one operation of those that come.
struct Capture(Arc<Mutex<Option<Image>>>);

impl Capture {
    /// At the `nth` from now on, before it is done or while its write is torn.
    fn of(disk: &CrashDisk, nth: u64) -> Capture {
        let (count, image) = (AtomicU64::new(0), Arc::new(Mutex::new(None)));
        let seen = image.clone();
        disk.observe(move |moment: &Moment<'_>| {
            if moment.phase() != Phase::Before || count.fetch_add(1, Ordering::Relaxed) != nth {
                return;
            }
            let len = moment.operation().len;
            let torn = (nth % 2 == 1).then(|| moment.torn(len / 2).ok().flatten());
            let taken = torn.flatten().or_else(|| moment.image().ok());
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = taken;
        });
        Capture(image)
    }

    fn take(self) -> Option<Image> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
