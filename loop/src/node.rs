//! [`Node`]: an open data directory with a running loop, and what one can ask of it.

mod groups;
mod views;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use quorate_engine::{
    DefaultFileSystem, Disk, EngineConfig, Formatted, GroupId, Identity, LogReader, NodeId,
    SnapshotStore,
};
use quorate_statemachine::StateMachine;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::apply::Applier;
use crate::bootstrap::Bootstrap;
use crate::campaigns::Campaigns;
use crate::catalogue::FIRST_GROUP;
use crate::config::LoopConfig;
use crate::contacts::{Contacts, refuse_plaintext};
use crate::driver::{Driver, SharedMembers};
use crate::entrances::Entrances;
use crate::error::{CallError, OpenError, ProposeError, ReadError, Stopped};
use crate::front::{Front, Limits};
use crate::group::Group;
use crate::groups::Groups;
use crate::heartbeats::Heartbeats;
use crate::inbox::{Applied, Event, Inbox};
use crate::joining::{Joining, Wish};
use crate::machine::SnapshotTrigger;
use crate::membership::{Join, MembershipChanged, MembershipError, MembershipRequest};
use crate::meters::Meters;
use crate::publish::Publisher;
use crate::purges::Purges;
use crate::reconcile::{OnDisk, Reconcile};
use crate::recovered::Recovered;
use crate::registry::Registry;
use crate::renewal::{self, Renewed};
use crate::session::Session;
use crate::snapshot_worker::SnapshotWorker;
use crate::status::LastAnswer;
use crate::transport::{
    Acceptor, Calls, Ingress, LinkEvent, Presence, Receiving, Sending, Service, SharedRoster, Tls,
    Transport,
};
use crate::turnover::{Found, Turnover};

/// A node with a running loop. Clones are handles to the same node; it stops with the last one.
///
/// There is no way to have a node whose loop does not run: [`Node::open`] returns when it does.
///
/// What is asked of the node itself, a proposal, a read, the image, is asked of group 1; the others
/// are reached through [`Node::group`].
pub struct Node<S: StateMachine>(Arc<Inner<S>>);

impl<S: StateMachine> Clone for Node<S> {
    fn clone(&self) -> Self {
        Node(self.0.clone())
    }
}

impl<S: StateMachine> std::fmt::Debug for Node<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("identity", &self.0.identity).finish_non_exhaustive()
    }
}

struct Inner<S: StateMachine> {
    identity: Identity,
    listen_addr: SocketAddr,
    inbox: Inbox<S>,
    /// Group 1.
    first: Group<S>,
    registry: Registry<S>,
    transport: Arc<Transport>,
    presence: Arc<Presence>,
    calls: Calls,
    service: Arc<dyn Service>,
    meters: Arc<Meters>,
    reader: LogReader,
    snapshots: SnapshotStore,
    acceptor: AbortHandle,
    /// Ends with the listener; taken by whoever shuts the node down.
    accepting: Mutex<Option<tokio::task::JoinHandle<()>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<S: StateMachine> Node<S> {
    /// Opens a formatted directory, listens on `listen` and starts the loop.
    ///
    /// Returns when the loop runs and the listener is open; it does not wait for other nodes or
    /// for a leader, since they may be waiting for this one. Must be called on a tokio runtime
    /// with time and net enabled, which carries the transport from then on.
    ///
    /// Not cancel safe: if the future is dropped, the node may or may not have been started.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing is left running then.
    pub async fn open(
        formatted: Formatted,
        listen: SocketAddr,
        config: LoopConfig,
        engine_config: EngineConfig,
        service: Arc<dyn Service>,
    ) -> Result<Node<S>, OpenError> {
        let disk = Arc::new(DefaultFileSystem);
        Self::open_with(formatted, listen, config, engine_config, service, disk).await
    }

    /// As [`Node::open`], with the log on another disk: one that fails on purpose, say.
    ///
    /// # Errors
    ///
    /// As [`Node::open`].
    pub async fn open_with<F: Disk + 'static>(
        formatted: Formatted,
        listen: SocketAddr,
        config: LoopConfig,
        engine_config: EngineConfig,
        service: Arc<dyn Service>,
        disk: Arc<F>,
    ) -> Result<Node<S>, OpenError> {
        let faults = config.validate();
        if !faults.is_empty() {
            return Err(OpenError::Config(faults));
        }
        let contacts = Contacts::of(formatted.identity());
        refuse_plaintext(listen, &contacts.others, &config)?;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| OpenError::Listen { addr: listen, source })?;
        let listen_addr =
            listener.local_addr().map_err(|source| OpenError::Listen { addr: listen, source })?;
        let tls = Self::load_tls(&config, formatted.identity()).await?;
        let addr = reached_at(&config, listen_addr);
        let rehearsal = contacts.rehearsal(formatted.identity(), tls.clone(), addr, &config);
        let purges = Purges::new(engine_config.purge_threshold_bytes);
        let opened = renewal::open(formatted, &engine_config, disk, FIRST_GROUP, rehearsal).await?;
        // State machines are restored on a thread that may block.
        let restoring = move || {
            let renewed = opened.renewed;
            let recovered = Recovered::<S, F>::new(opened.engine, FIRST_GROUP, purges)?;
            Ok::<_, OpenError>((recovered, renewed))
        };
        let (recovered, renewed) = tokio::task::spawn_blocking(restoring)
            .await
            .map_err(|error| OpenError::Restore(error.to_string()))??;
        Self::start(recovered, (renewed, tls), listener, listen_addr, config, service)
    }

    async fn load_tls(config: &LoopConfig, identity: &Identity) -> Result<Option<Tls>, OpenError> {
        let Some(tls) = config.tls.clone() else { return Ok(None) };
        let (cluster, node) = (identity.cluster_id, identity.node_id);
        let loading = tokio::task::spawn_blocking(move || Tls::load(&tls, cluster, node));
        let loaded = loading.await.map_err(|error| OpenError::Restore(error.to_string()))?;
        Ok(Some(loaded?))
    }

    fn start<F: Disk + 'static>(
        recovered: Recovered<S, F>,
        (renewed, tls): (BTreeMap<GroupId, Renewed>, Option<Tls>),
        listener: TcpListener,
        listen_addr: SocketAddr,
        config: LoopConfig,
        service: Arc<dyn Service>,
    ) -> Result<Node<S>, OpenError> {
        let Recovered { engine, genesis, first, others, mut waiting, .. } = recovered;
        let Recovered { machines, damaged, quarantined, purges, .. } = recovered;
        let identity = engine.identity.clone();
        let node = identity.node_id;
        let run = run_number();
        let (inbox, events) = Inbox::new(config.inbox_max);

        let contacts = Contacts::of(&identity);
        let has_joined = match &first {
            Some(_) => genesis.is_none(),
            None => waiting.contains_key(&FIRST_GROUP),
        };
        let founding = contacts.founding(&identity, genesis.as_deref(), has_joined)?;
        let roster = contacts.roster(&identity, founding.as_ref());
        let roster = roster.with_tls(tls, config.allow_plaintext);
        let roster: SharedRoster = Arc::new(ArcSwap::from_pointee(roster));
        let addresses = contacts.voters;
        let calls =
            Calls::new(u64::from(run) << 32, Duration::from_millis(config.request_timeout_ms));
        let (links, lost) = (inbox.clone(), calls.clone());
        let on_link = move |event: LinkEvent| {
            if let LinkEvent::Down(node) = event {
                lost.disconnected(node);
            }
            links.send(Event::Link(event));
        };
        let presence = Presence::new();
        let meters = Arc::new(Meters::new(engine.writer.disk_bytes()));
        let on_link = Arc::new(on_link) as _;
        let transport = Transport::new(&roster, &config, &presence, &on_link, meters.clone());
        let transport = Arc::new(transport);

        let (log, queue) = mpsc::channel();
        let turnover = Turnover::new(engine.cache.clone(), quarantined);
        let bootstrap = Bootstrap::new(
            FIRST_GROUP,
            (founding, addresses),
            engine.writer,
            engine.cache,
            queue,
            first,
        );
        let publishers: Vec<_> =
            machines.iter().map(|(id, machine)| (*id, machine.publisher().clone())).collect();
        let (reader, snapshots) = (engine.reader.clone(), engine.snapshots.clone());
        let (worker, worker_thread) =
            SnapshotWorker::start(engine.snapshots.clone(), inbox.clone())
                .map_err(OpenError::Thread)?;
        let (apply, work) = mpsc::channel();
        let applier = Applier {
            machines,
            inbox: inbox.clone(),
            snapshots: engine.snapshots.clone(),
            worker: worker.clone(),
            trigger: SnapshotTrigger {
                entries_max: config.snapshot_entries,
                bytes_max: config.snapshot_bytes,
            },
            meters: meters.clone(),
        };
        let guard = inbox.clone();
        let apply_thread = thread("quorate-apply", move || {
            guard.guard(|| applier.run(&work));
        })?;

        let (running, ended) = watch::channel(());
        let silence = Duration::from_millis(config.connect_timeout_ms);
        let runtime = tokio::runtime::Handle::current();
        let (store, rate) = (engine.snapshots.clone(), config.snapshot_bytes_per_second);
        let sending = Sending::new(runtime, roster.clone(), store, silence, rate);
        let registry = Registry::new();
        let joining = Joining { roster: roster.clone(), addresses: contacts.others, silence };
        let entrances = Entrances::new(joining, config.advertise.clone(), inbox.clone());
        let addr = reached_at(&config, listen_addr);
        if let Some(binding) = waiting.remove(&FIRST_GROUP) {
            let was = renewed.get(&FIRST_GROUP).map(|renewed| renewed.was);
            let join = Join { binding, addr: addr.clone(), was };
            entrances.ask(FIRST_GROUP, Wish::Join(join));
        }
        let whole = others.into_iter().map(|it| (it.log.group(), OnDisk::Whole(Box::new(it))));
        let blank = waiting.into_iter().map(|(group, binding)| (group, OnDisk::Blank(binding)));
        let beyond_use = damaged.keys().map(|group| (*group, OnDisk::Damaged));
        let found = whole.chain(blank).chain(beyond_use).collect();
        let mut driver = Driver {
            first: FIRST_GROUP,
            node,
            identity: identity.clone(),
            config: config.clone(),
            run,
            groups: Groups::new(),
            registry: registry.clone(),
            turnover,
            reconcile: Reconcile::new(addr, found),
            members: SharedMembers::default(),
            events,
            inbox: inbox.clone(),
            apply,
            log,
            worker,
            reader: engine.reader,
            snapshots: engine.snapshots.clone(),
            entrances,
            heartbeats: Heartbeats::default(),
            campaigns: Campaigns::default(),
            transport: transport.clone(),
            roster: roster.clone(),
            sending,
            purges,
            meters: meters.clone(),
        };
        for (id, publisher) in publishers {
            let found = match renewed.get(&id) {
                None => Found::Sound,
                Some(Renewed { damage, .. }) => Found::SetAside(format!(
                    "{damage}; it was set aside, and this node joins anew as another member"
                )),
            };
            driver.enter(id, publisher, found);
        }
        for (id, reason) in damaged {
            // Nobody may see what it holds: it shows nothing, and ends at once.
            let publisher = Arc::new(Publisher::new(S::new().image(), 0));
            publisher.stop();
            driver.enter(id, publisher, Found::Damaged(reason));
        }
        let Some(first) = registry.get(FIRST_GROUP) else {
            return Err(OpenError::Restore("group 1 has no state machine".to_owned()));
        };
        let front: Arc<dyn Ingress> = Arc::new(Front {
            registry: registry.clone(),
            inbox: inbox.clone(),
            calls: calls.clone(),
            service: service.clone(),
            transport: transport.clone(),
            roster: roster.clone(),
            receiving: Receiving::new(engine.snapshots, silence, meters.clone()),
            limits: Limits::default(),
            meters: meters.clone(),
        });
        transport.start(&front);
        let loop_thread = thread("quorate-loop", move || {
            driver.run(bootstrap);
            drop(running);
        });
        // Or its connections, which hold it, would outlive a node that was never there.
        let loop_thread = loop_thread.inspect_err(|_| transport.stop())?;

        let inbound = transport.inbound();
        let acceptor =
            Acceptor::new(roster, front, presence.clone(), inbound, &config, meters.clone());
        let mut ended = ended;
        let accepting = tokio::spawn(async move {
            tokio::select! {
                () = acceptor.run(listener) => {}
                // The loop has ended: peers must not take this node for one that answers.
                _ = ended.changed() => {}
            }
        });
        Ok(Node(Arc::new(Inner {
            identity,
            listen_addr,
            inbox,
            first,
            registry,
            transport,
            presence,
            calls,
            service,
            meters,
            reader,
            snapshots,
            acceptor: accepting.abort_handle(),
            accepting: Mutex::new(Some(accepting)),
            threads: Mutex::new(vec![loop_thread, apply_thread, worker_thread]),
        })))
    }

    /// Proposes a command and waits until it is applied on this node.
    ///
    /// On a follower it is forwarded to the leader. When it returns `Ok`, the image of this node
    /// shows it.
    ///
    /// Not cancel safe: if the future is dropped, the command may still be applied.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]; [`ProposeError::never_applied`] tells whether it may be tried again.
    pub async fn propose(&self, command: Bytes) -> Result<Applied<S::Outcome>, ProposeError> {
        self.0.first.propose(command).await
    }

    /// Opens a client session of group 1, in which commands can be proposed again without being applied
    /// again: see [`Group::open_session`].
    ///
    /// # Errors
    ///
    /// Why the last try failed, when `within` had passed.
    pub async fn open_session(&self, within: Duration) -> Result<Session<S>, ProposeError> {
        self.0.first.open_session(within).await
    }

    /// A linearizable barrier: the image of this node shows everything that was committed, by
    /// anyone, before the call. Returns the index that was waited for.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; trying again is always safe.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        self.0.first.read_index().await
    }

    /// Waits until this node has applied `index`. Waits for ever where no quorum commits it: put
    /// a limit around it.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node stops first.
    pub async fn wait_applied(&self, index: u64) -> Result<(), Stopped> {
        self.0.first.wait_applied(index).await
    }

    /// Asks the [`Service`] of a node, this one included, and waits for its answer.
    ///
    /// Not cancel safe: if the future is dropped, the request may still be carried out.
    ///
    /// # Errors
    ///
    /// [`CallError`]; only [`CallError::Lost`] leaves the outcome unknown.
    pub async fn call(&self, to: NodeId, request: Bytes) -> Result<Bytes, CallError> {
        if to == self.0.identity.node_id {
            return Ok(self.0.service.call(to, request).await);
        }
        self.0.transport.call(&self.0.calls, to, request).await
    }

    /// Hands leadership to the voter on the node `to`, or else to the most advanced other voter, if
    /// this node leads. Returns at once; the status tells what came of it.
    pub fn transfer_leadership(&self, to: Option<NodeId>) {
        self.0.first.transfer_leadership(to);
    }

    /// Changes who belongs to group 1; see [`Group::change_membership`].
    ///
    /// Not cancel safe: if the future is dropped, the change may still be made.
    ///
    /// # Errors
    ///
    /// [`MembershipError`]; only [`MembershipError::Unknown`] leaves the outcome open.
    pub async fn change_membership(
        &self,
        request: MembershipRequest,
        dry_run: bool,
    ) -> Result<MembershipChanged, MembershipError> {
        self.0.first.change_membership(request, dry_run).await
    }

    /// When each member of group 1 answered last; see [`Group::last_answers`].
    ///
    /// Cancel safe.
    pub async fn last_answers(&self) -> Vec<LastAnswer> {
        self.0.first.last_answers().await
    }

    /// Stops the node and waits until its log and its listener are closed, so that it can be opened
    /// again at once. Callers that wait are told [`ProposeError::ShutDown`].
    pub async fn shutdown(&self) {
        self.0.stop();
        let accepting = self.0.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let threads =
            std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().all(|thread| thread.join().is_ok())
        });
        if !joined.await.unwrap_or(false) {
            tracing::error!("a thread of the node ended with a panic");
        }
        // An aborted task holds the port until the runtime comes to drop it.
        if let Some(accepting) = accepting {
            let _ = accepting.await;
        }
    }
}

impl<S: StateMachine> Inner<S> {
    fn stop(&self) {
        self.acceptor.abort();
        self.transport.stop();
        self.inbox.send(Event::Stop);
    }
}

impl<S: StateMachine> Drop for Inner<S> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where others reach a node that listens there; empty where that does not tell.
fn reached_at(config: &LoopConfig, listen: SocketAddr) -> String {
    match &config.advertise {
        Some(addr) => addr.clone(),
        None if listen.ip().is_unspecified() => String::new(),
        None => listen.to_string(),
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(OpenError::Thread)
}

/// A number that differs between two runs of this node, with all likelihood.
fn run_number() -> u32 {
    let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
    u32::from_le_bytes([a, b, c, d])
}
