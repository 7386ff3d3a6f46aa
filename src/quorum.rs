//! [`Quorum`]: a node of the quorum, running.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_engine::{DefaultFileSystem, Disk, Formatted, Identity};
use quorate_loop::{GroupStatus, LoopConfig, Metrics, Node, Role, Wait};
use quorate_statemachine::{
    AlterPartition, BrokerId, BrokerSession as RegisteredBroker, Command, ErrorCode, Metadata,
    PartitionAltered, ProducerId, Rejection, Reply,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::broker_session::{self, BrokerSession, LocalSessions, Rhythm};
use crate::caller::{self, Done, Repeat, Way};
use crate::config::QuorumConfig;
use crate::desk::{CALLS_MAX, Desk};
use crate::duties::Duties;
use crate::error::{OpenError, ReadError, RegisterError, Unavailable, UnknownReason, WriteError};
use crate::readiness::{NotReady, StallWatch};
use crate::registration::Registration;
use crate::upkeep::Upkeep;
use crate::watch::{Snapshot, Watch};
use crate::wire::RequestKind;

/// Pause before a broker that is refused because of a live session tries again: an eighth of the
/// session, so that it comes in soon after that session ends.
const DUPLICATE_PAUSES_PER_SESSION: u32 = 8;

/// How many may go through the log at a time: each needs as much memory as the state.
const REPLAYS_MAX: usize = 2;

/// A node of the quorum, running. Clones are the same node.
///
/// When the last clone is dropped without [`Quorum::shut_down`], the node stops as if its process had
/// been killed: nothing that was acknowledged is lost, but nothing is handed over.
#[derive(Clone, Debug)]
pub struct Quorum {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node<Metadata>,
    config: QuorumConfig,
    desk: Desk,
    /// Ends the tasks; they also end when it is dropped.
    stop: watch::Sender<bool>,
    local: LocalSessions,
    stall: Mutex<StallWatch>,
    /// Each permit is for going through the log once, with a whole state beside the live one.
    replays: Arc<Semaphore>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quorum").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The node holds the desk and the desk holds the node.
        self.desk.close();
    }
}

/// A block of producer ids, given to nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    /// The first id.
    pub first: ProducerId,
    /// How many ids there are from it.
    pub len: u32,
    /// The log index at which the block was given away.
    pub index: u64,
}

impl Quorum {
    /// Opens the node that lives in the configured directory, and starts it: when this returns, its
    /// loop runs and its listener is open. It does not wait for a leader, for that takes the others
    /// ([`Quorum::readiness`] tells).
    ///
    /// Must be called within a tokio runtime, which the node uses from then on. Not cancel safe: a
    /// cancelled call may leave the directory locked until it has finished in the background.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing runs then.
    pub async fn open(config: QuorumConfig) -> Result<Self, OpenError> {
        Self::open_with(config, Arc::new(DefaultFileSystem)).await
    }

    /// As [`Quorum::open`], with the log on another disk than that of the operating system: one that
    /// fails on purpose, for tests.
    ///
    /// # Errors
    ///
    /// As [`Quorum::open`].
    pub async fn open_with<F: Disk + 'static>(
        config: QuorumConfig,
        disk: Arc<F>,
    ) -> Result<Self, OpenError> {
        let faults = config.validate();
        if !faults.is_empty() {
            return Err(OpenError::Config(faults));
        }
        let data_dir = config.data_dir.clone();
        // The disk is read on a thread that may block.
        let formatted = tokio::task::spawn_blocking(move || Formatted::open(data_dir))
            .await
            .map_err(|error| OpenError::Interrupted(error.to_string()))?
            .map_err(OpenError::Directory)?;
        let (calls_in, calls) = mpsc::channel(CALLS_MAX);
        let desk = Desk::new(calls_in, config.election_timeout());
        // Requests find the leader by our own way: a leader that lost its leadership must not have
        // what it decided proposed by another (trap I18).
        let group = LoopConfig { forward: false, ..config.group.clone() };
        let service = Arc::new(desk.clone());
        let engine = config.engine.clone();
        let node = Node::open_with(formatted, config.listen, group, engine, service, disk)
            .await
            .map_err(OpenError::Loop)?;
        desk.open_for(node.clone());

        let (stop, stopped) = watch::channel(false);
        let duties = Duties::new(node.clone(), config.session(), calls);
        let upkeep = Upkeep::new(node.clone(), config.upkeep(), config.balance());
        tokio::spawn(Self::supervise(node.clone(), duties.run(stopped.clone())));
        tokio::spawn(Self::supervise(node.clone(), upkeep.run(stopped)));
        let (local, stall) = (LocalSessions::default(), Mutex::default());
        let replays = Arc::new(Semaphore::new(REPLAYS_MAX));
        Ok(Self { inner: Arc::new(Inner { node, config, desk, stop, local, stall, replays }) })
    }

    /// Registers a broker and keeps its session alive.
    ///
    /// While another incarnation of the broker has a live session the newcomer waits for its end, for
    /// one session time and the operation timeout altogether. Where the log has another registration before
    /// this one, which may be of a process that has died since, it waits for the end of that one's session, and
    /// for as long again. A registration of the same incarnation
    /// twice is the same as once, so an unknown outcome is tried again too: the later one says anew what
    /// the broker's listeners, rack and directories are, and keeps its epoch and flags. Every session that
    /// came of them is one of the same registration: to shut one down shuts down the broker.
    ///
    /// Not cancel safe: the broker may be registered afterwards, without heartbeats; registering the
    /// same incarnation again finds it.
    ///
    /// # Errors
    ///
    /// [`RegisterError`].
    pub async fn register_broker(
        &self,
        registration: Registration,
    ) -> Result<BrokerSession, RegisterError> {
        let config = &self.inner.config;
        let cluster = self.identity().cluster_id;
        registration.check_cluster(cluster).map_err(WriteError::from)?;
        let patience = config.session() + config.operation_timeout();
        let (mut deadline, mut is_extended) = (Instant::now() + patience, false);
        let done = loop {
            let request = RequestKind::Register(registration.to_request());
            let timeout = config.operation_timeout();
            let decided = caller::decide(self.way(), request, Repeat::Harmless, timeout);
            match decided.await {
                Ok(Ok(done)) => break done,
                // Another was registered meanwhile: its session has begun just now.
                Ok(Err(rejection)) if is_duplicate(&rejection) && !is_extended => {
                    (deadline, is_extended) = (Instant::now() + patience, true);
                }
                Ok(Err(rejection)) | Err(WriteError::Rejected(rejection))
                    if is_duplicate(&rejection) =>
                {
                    if Instant::now() >= deadline {
                        let broker = registration.broker;
                        return Err(RegisterError::SessionAlive { broker });
                    }
                }
                Ok(Err(rejection)) => return Err(WriteError::from(rejection).into()),
                Err(error) => return Err(error.into()),
            }
            sleep(config.session() / DUPLICATE_PAUSES_PER_SESSION).await;
        };
        let Reply::BrokerRegistered { epoch } = done.reply else { return Err(unreadable().into()) };
        let rhythm = Rhythm {
            heartbeat: config.heartbeat(),
            session: config.session(),
            operation_timeout: config.operation_timeout(),
        };
        Ok(broker_session::start(
            self.inner.node.clone(),
            RegisteredBroker { broker: registration.broker, epoch },
            registration.incarnation,
            rhythm,
            self.inner.local.clone(),
            self.inner.stop.subscribe(),
        ))
    }

    /// Changes the ISR of a partition, as its leader (KIP-497). The epochs in the change decide
    /// whether it still fits; see the state machine for the order of the checks. Act on the answer only
    /// after looking at the image, which shows it by now.
    ///
    /// Not cancel safe: the change may be made afterwards; the epochs tell.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub async fn alter_partition(
        &self,
        change: AlterPartition,
    ) -> Result<PartitionAltered, WriteError> {
        match self.propose_as_is(&Command::AlterPartition(change)).await?.reply {
            Reply::PartitionAltered(altered) => Ok(altered),
            _ => Err(unreadable()),
        }
    }

    /// Takes a block of producer ids for a broker that is registered through this node.
    ///
    /// Not cancel safe: a block may be taken and lost, which costs nothing but its ids.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: BROKER_ID_NOT_REGISTERED when the broker has no session on this node, and
    /// STALE_BROKER_EPOCH when it was registered anew elsewhere.
    pub async fn allocate_producer_ids(
        &self,
        broker: BrokerId,
    ) -> Result<ProducerIdBlock, WriteError> {
        let registered = self.inner.local.of(broker).ok_or_else(|| {
            let node = self.identity().node_id;
            Rejection::new(
                ErrorCode::BrokerIdNotRegistered,
                format!(
                    "broker {broker} has no session on node {node}: ask the node that registered it"
                ),
            )
        })?;
        let done = self.propose_as_is(&Command::AllocateProducerIds(registered)).await?;
        match done.reply {
            Reply::ProducerIds { first, len } => {
                Ok(ProducerIdBlock { first, len, index: done.index })
            }
            _ => Err(unreadable()),
        }
    }

    /// Proposes a command as it is: for what has no method of its own here. Returns the log index and
    /// the reply; when it returns, this node's image shows it.
    ///
    /// Not cancel safe: the command may be applied afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]. What only the leader may decide is refused with UNSUPPORTED_VERSION: registering,
    /// fencing and unfencing brokers, creating topics and partitions, and setting the feature level.
    pub async fn propose(&self, command: Command) -> Result<(u64, Reply), WriteError> {
        let done = self.propose_as_is(&command).await?;
        Ok((done.index, done.reply))
    }

    /// Every change of the metadata, in order and without gaps, as this node applies it.
    pub fn watch(&self) -> Watch {
        Watch::new(self.inner.node.updates())
    }

    /// The metadata as this node has applied it. Lock-free and O(1). It may be behind the others'; call
    /// [`Quorum::read_index`] before when it must not.
    pub fn image(&self) -> Snapshot {
        let published = self.inner.node.image();
        Snapshot { image: published.image.clone(), index: published.applied }
    }

    /// A linearizable barrier: what [`Quorum::image`] shows afterwards holds every change that was
    /// acknowledged to anybody before the call. Returns the index that was confirmed.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        caller::read_index(self.way(), self.inner.config.operation_timeout()).await
    }

    /// What this node knows of itself and its group.
    pub fn status(&self) -> GroupStatus {
        self.inner.node.status()
    }

    /// Sees every change of [`Quorum::status`]; changes that follow one another closely may be seen
    /// as one.
    pub fn watch_status(&self) -> watch::Receiver<GroupStatus> {
        self.inner.node.watch_status()
    }

    /// What this node has counted since it was opened.
    pub fn metrics(&self) -> Metrics {
        self.inner.node.metrics()
    }

    /// Waits until something is so on this node, for at most `timeout`:
    /// `quorum.wait(timeout).leader().await`.
    pub fn wait(&self, timeout: Duration) -> Wait {
        self.inner.node.wait(timeout)
    }

    /// Whether this node can be given work.
    ///
    /// # Errors
    ///
    /// Every reason why it cannot.
    pub fn readiness(&self) -> Result<(), Vec<NotReady>> {
        let mut stall = self.inner.stall.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons = stall.reasons(&self.status(), Instant::now());
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        self.inner.node.identity()
    }

    /// The configuration that the node runs with.
    pub fn config(&self) -> &QuorumConfig {
        &self.inner.config
    }

    /// The address on which the node listens for its peers.
    pub fn listen_addr(&self) -> std::net::SocketAddr {
        self.inner.node.listen_addr()
    }

    /// Stops the node in order: its sessions' heartbeats end, leadership is handed over where there
    /// is somebody to take it, and its threads end. Shut a [`BrokerSession`] down before, or its
    /// partitions are without a leader until the others find the node gone, or the session has run out.
    ///
    /// All clones are stopped by it; a second call does nothing. Not cancel safe: a cancelled call
    /// leaves a node that is stopping.
    pub async fn shut_down(&self) {
        self.hand_over().await;
        self.inner.stop.send_replace(true);
        self.inner.node.shutdown().await;
        self.inner.desk.close();
    }

    /// Gives leadership to another voter, if this node leads and there is one; gives up after an
    /// election timeout, in which the others would have elected somebody themselves.
    async fn hand_over(&self) {
        let status = self.status();
        if status.role != Role::Leader || status.fatal.is_some() || status.members.len() < 2 {
            return;
        }
        let patience = self.inner.config.election_timeout();
        let mut watch = self.watch_status();
        self.inner.node.transfer_leadership(None);
        let handed_over = watch.wait_for(|status| status.role != Role::Leader);
        if timeout(patience, handed_over).await.is_err() {
            tracing::info!("nobody took the leadership over: the others will elect a leader");
        }
    }

    /// Runs the leader's duties. Should they end by a panic, this node stops: a leader without them
    /// would look healthy, fence nobody, and let no broker in.
    async fn supervise(node: Node<Metadata>, duties: impl Future<Output = ()> + Send + 'static) {
        let ended = tokio::spawn(duties).await;
        if ended.is_err_and(|error| error.is_panic()) {
            tracing::error!("the leader's duties ended with a panic: this node stops");
            node.shutdown().await;
        }
    }

    /// Waits for leave to go through the log, which ends with what is returned. It is always there: nobody
    /// closes the semaphore.
    pub(crate) async fn turn_to_replay(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.inner.replays).acquire_owned().await.ok()
    }

    pub(crate) fn node(&self) -> &Node<Metadata> {
        &self.inner.node
    }

    pub(crate) fn way(&self) -> Way<'_> {
        Way { node: &self.inner.node, desk: &self.inner.desk }
    }

    /// This node's image, complete as of now: what is looked up here before a change is asked for.
    pub(crate) async fn newest(&self) -> Result<Snapshot, WriteError> {
        caller::refuse_if_full(&self.inner.node)?;
        self.read_index().await.map_err(nothing_was_sent)?;
        Ok(self.image())
    }

    pub(crate) async fn write(
        &self,
        kind: RequestKind,
        repeat: Repeat,
    ) -> Result<Done, WriteError> {
        let timeout = self.inner.config.operation_timeout();
        caller::write(self.way(), kind, repeat, timeout).await
    }

    pub(crate) async fn propose_as_is(&self, command: &Command) -> Result<Done, WriteError> {
        self.write(RequestKind::Propose(command.encode()), Repeat::Never).await
    }
}

fn is_duplicate(rejection: &Rejection) -> bool {
    rejection.code == ErrorCode::DuplicateBrokerRegistration
}

/// An answer of another kind than the question's: a fault of the leader's version.
pub(crate) fn unreadable() -> WriteError {
    WriteError::Unknown { reason: UnknownReason::Unreadable }
}

/// A write that ended with the read before it: nothing was changed.
fn nothing_was_sent(error: ReadError) -> WriteError {
    match error {
        ReadError::Unavailable { reason, waited } => WriteError::Unavailable { reason, waited },
        ReadError::TimedOut { waited } => {
            WriteError::Unavailable { reason: Unavailable::NotLeader, waited }
        }
        ReadError::Stopped { fatal } => WriteError::Stopped { fatal },
    }
}
