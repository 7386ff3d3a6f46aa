//! Opening a data directory, and replacing in it what is damaged.
//!
//! What is damaged may have forgotten a vote or an acknowledgement, and never acts again as the
//! member it was. Where the cluster can do without it, it becomes another member: it gets a new
//! name, asks to be let in, and is sent everything. That needs nobody, and throws nothing away: what
//! was there is set aside (see `quorate_engine::renew_directory`).
//!
//! **It asks before it lets go.** Where a majority is damaged, what is left of each of them may be all
//! that is left. So a leader is asked first whether it would take the newcomer in: it would if the
//! other voters are a live majority without it. Only then is anything set aside. Otherwise nothing is
//! touched, and the node says what is damaged and does not start.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::{
    DirectoryId, Disk, Engine, EngineConfig, Formatted, GroupId, GroupLog, GroupWrite, Identity,
    OpenError as EngineError, renew_directory,
};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::error::{OpenError, listed};
use crate::joining::{Joining, NotLetIn, rehearsal};

/// Between two times of asking whether this node would be let in.
const PAUSE: Duration = Duration::from_millis(200);

/// The number of the write that begins a group without anything in it; a core's numbers follow.
const BLANK_WRITE: u64 = 1;

/// An open engine in which nothing is damaged that could be replaced.
pub(crate) struct Opened<F: Disk> {
    pub(crate) engine: Engine<F>,
    pub(crate) renewed: BTreeMap<GroupId, Renewed>,
}

/// A group that was set aside, and is to follow the member that it was before.
pub(crate) struct Renewed {
    /// The directory that this member is bound to.
    pub(crate) was: DirectoryId,
    /// What is wrong with what was set aside.
    pub(crate) damage: String,
}

/// How to find out whether the cluster would let this node in.
pub(crate) struct Rehearsal {
    pub(crate) joining: Joining,
    /// Where this node will be reached.
    pub(crate) addr: String,
    /// How long to ask: a leader that has just lost this node takes an election timeout to notice.
    pub(crate) patience: Duration,
    /// Whether damage is replaced at all.
    pub(crate) is_allowed: bool,
}

/// Opens a directory; what is damaged in it begins anew where the cluster can do without it. Has
/// `first` begin, blank, in a directory that was formatted to join.
///
/// # Errors
///
/// What is damaged and cannot be replaced, or why the disk cannot be used.
pub(crate) async fn open<F: Disk + 'static>(
    formatted: Formatted,
    config: &EngineConfig,
    disk: Arc<F>,
    first: GroupId,
    rehearsal: Rehearsal,
) -> Result<Opened<F>, OpenError> {
    let (identity, dir) = (formatted.identity().clone(), formatted.dir().to_owned());
    let mut renewed = BTreeMap::new();
    let mut engine = match open_engine(formatted, config, disk.clone()).await? {
        Ok(engine) => engine,
        Err(error @ EngineError::Damaged { .. }) => {
            if let Err(why) = rehearsal.would_be_let_in(first, &identity).await {
                return Err(not_replaced(OpenError::Engine(error), &why));
            }
            tracing::warn!(%error, "this directory is damaged: it becomes another member");
            let formatted = renewed_directory(&dir).await?;
            let (was, damage) = (identity.directory_id, error.to_string());
            renewed.insert(first, Renewed { was, damage });
            open_engine(formatted, config, disk).await?.map_err(OpenError::Engine)?
        }
        Err(error) => return Err(error.into()),
    };
    for group in engine.damaged.keys().copied().collect::<Vec<_>>() {
        match rehearsal.would_be_let_in(group, &engine.identity).await {
            Ok(()) => {
                let damage = engine.damaged.get(&group).map(|it| listed(it)).unwrap_or_default();
                tracing::warn!(%group, damage, "this group is damaged: it becomes another member");
                engine = renewed_group(engine, group).await?;
                renewed.insert(group, Renewed { was: identity.directory_id, damage });
            }
            Err(why) if group == first => {
                let findings = engine.damaged.remove(&group).unwrap_or_default();
                return Err(not_replaced(OpenError::DamagedGroup { group, findings }, &why));
            }
            // It stays where it is, and the other groups begin.
            Err(why) => tracing::warn!(%group, why, "a damaged group is not replaced"),
        }
    }
    let is_new = matches!(engine.identity.founding, quorate_engine::Founding::Join(_))
        && !engine.groups.contains_key(&first);
    if is_new {
        engine = blank(engine, first).await?;
    }
    Ok(Opened { engine, renewed })
}

impl Rehearsal {
    /// Asks a leader whether it would take this node's new name for the old one.
    async fn would_be_let_in(&self, group: GroupId, old: &Identity) -> Result<(), String> {
        if !self.is_allowed {
            return Err("replace_damaged is off".to_owned());
        }
        let join = rehearsal(old.node_id, self.addr.clone(), old.directory_id);
        let deadline = Instant::now() + self.patience;
        loop {
            match self.joining.ask_once(group, &join, true).await {
                Ok(_) => return Ok(()),
                Err(NotLetIn::Ever(why)) => return Err(why),
                Err(NotLetIn::Yet(why)) if Instant::now() >= deadline => return Err(why),
                Err(NotLetIn::Yet(_)) if self.joining.knows_nobody() => {
                    return Err("it is the only member".to_owned());
                }
                Err(NotLetIn::Yet(_)) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

fn not_replaced(error: OpenError, why: &str) -> OpenError {
    tracing::error!(why, "what is damaged was not replaced, and is as it was");
    error
}

async fn open_engine<F: Disk + 'static>(
    formatted: Formatted,
    config: &EngineConfig,
    disk: Arc<F>,
) -> Result<Result<Engine<F>, EngineError>, OpenError> {
    let config = config.clone();
    blocking(move || Engine::open_with(formatted, &config, disk)).await
}

async fn renewed_directory(dir: &Path) -> Result<Formatted, OpenError> {
    let dir = dir.to_owned();
    let renewing = move || {
        let renewed =
            renew_directory(&dir).map_err(|error| OpenError::Restore(error.to_string()))?;
        let (old, aside) = (renewed.old, renewed.aside.display());
        tracing::warn!(%old, new = %renewed.identity.directory_id, %aside, "the directory was renewed");
        Formatted::open(&dir).map_err(|error| OpenError::Restore(error.to_string()))
    };
    blocking(renewing).await?
}

async fn renewed_group<F: Disk + 'static>(
    mut engine: Engine<F>,
    group: GroupId,
) -> Result<Engine<F>, OpenError> {
    let renewing = move || match engine.renew_group(group) {
        Ok(renewed) => {
            let (aside, saved, lost) = (renewed.aside.display(), renewed.saved, renewed.lost);
            tracing::warn!(%group, saved, lost, %aside, "what was damaged was set aside");
            Ok(engine)
        }
        Err(error) => Err(OpenError::Restore(error.to_string())),
    };
    blocking(renewing).await?
}

/// Has a group begin without anything in it, so that it has an incarnation to be let in by.
async fn blank<F: Disk + 'static>(
    mut engine: Engine<F>,
    group: GroupId,
) -> Result<Engine<F>, OpenError> {
    let beginning = move || {
        let log = GroupLog::blank(group, &engine.cache);
        let write = GroupWrite {
            group,
            number: BLANK_WRITE,
            entries: Vec::new(),
            record: log.record(),
            install: false,
            genesis: None,
        };
        let receipts = engine.writer.write(vec![write]);
        let synced = receipts.and_then(|receipts| {
            engine.writer.sync_witness()?;
            Ok(receipts.first().map_or(0, quorate_engine::Durable::sequence))
        });
        let incarnation = synced.map_err(|error| OpenError::Restore(error.to_string()))?;
        engine.groups.insert(group, quorate_engine::RecoveredGroup::blank(log, incarnation));
        Ok(engine)
    };
    blocking(beginning).await?
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OpenError> {
    spawn_blocking(work).await.map_err(|error| OpenError::Restore(error.to_string()))
}
