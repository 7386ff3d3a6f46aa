//! [`Node`]: an open data directory with a running loop, and what one can ask of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use quorate_engine::{
    DefaultFileSystem, Disk, Engine, EngineConfig, Formatted, Founding as FoundedBy, GroupId,
    Identity, NodeId,
};
use quorate_statemachine::StateMachine;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::apply::Applier;
use crate::bootstrap::Bootstrap;
use crate::config::LoopConfig;
use crate::driver::{Addresses, Driver};
use crate::error::{CallError, OpenError, ProposeError, ReadError, Stopped};
use crate::founding::Founding;
use crate::front::{Front, Limits};
use crate::group::Group;
use crate::groups::Groups;
use crate::inbox::{Applied, Event, Inbox};
use crate::machine::SnapshotTrigger;
use crate::membership::{MembershipChanged, MembershipError, MembershipRequest};
use crate::publish::{Published, Publisher, Updates};
use crate::purges::Purges;
use crate::recovered::Recovered;
use crate::registry::Registry;
use crate::slot::Slot;
use crate::snapshot_sends::{SendContext, SnapshotSends};
use crate::snapshot_worker::SnapshotWorker;
use crate::status::{Contact, GroupStatus};
use crate::transport::{Acceptor, Calls, LinkEvent, Roster, Service, SharedRoster, Transport};

/// The metadata quorum is group 1. It is founded with the cluster.
pub(crate) const FIRST_GROUP: GroupId = match GroupId::new(1) {
    Some(group) => group,
    None => panic!("1 is the number of a group"),
};

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
    calls: Calls,
    service: Arc<dyn Service>,
    acceptor: AbortHandle,
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
        let addresses = voters(formatted.identity())?;
        refuse_plaintext(listen, &addresses, &config)?;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| OpenError::Listen { addr: listen, source })?;
        let listen_addr =
            listener.local_addr().map_err(|source| OpenError::Listen { addr: listen, source })?;
        // The disk is read on a thread that may block.
        let opening = move || {
            let engine = Engine::open_with(formatted, &engine_config, disk)?;
            let purges = Purges::new(engine_config.purge_threshold_bytes);
            Recovered::<S, F>::new(engine, FIRST_GROUP, purges)
        };
        let recovered = tokio::task::spawn_blocking(opening)
            .await
            .map_err(|error| OpenError::Restore(error.to_string()))??;
        Self::start(recovered, addresses, listener, listen_addr, config, service)
    }

    fn start<F: Disk + 'static>(
        recovered: Recovered<S, F>,
        addresses: Addresses,
        listener: TcpListener,
        listen_addr: SocketAddr,
        config: LoopConfig,
        service: Arc<dyn Service>,
    ) -> Result<Node<S>, OpenError> {
        let Recovered { engine, genesis, first, others, machines, damaged, purges } = recovered;
        let identity = engine.identity.clone();
        let node = identity.node_id;
        let run = run_number();
        let (inbox, events) = Inbox::new(config.inbox_max);

        let founding = Founding::recover(
            (node, identity.directory_id),
            addresses.keys().copied().collect(),
            genesis.as_deref(),
        )
        .map_err(|error| OpenError::Restore(error.to_string()))?;
        let (cluster, directory) = (identity.cluster_id, identity.directory_id);
        let mut roster = Roster::new(cluster, node, directory, addresses.clone());
        if let Some(bindings) = founding.bindings() {
            roster = roster.bound(bindings, founding.is_complete());
        }
        let roster: SharedRoster = Arc::new(ArcSwap::from_pointee(roster));
        let calls =
            Calls::new(u64::from(run) << 32, Duration::from_millis(config.request_timeout_ms));
        let (links, lost) = (inbox.clone(), calls.clone());
        let on_link = move |event: LinkEvent| {
            if let LinkEvent::Down(node) = event {
                lost.disconnected(node);
            }
            links.send(Event::Link(event));
        };
        let transport = Arc::new(Transport::start(&roster, &config, &(Arc::new(on_link) as _)));

        let (log, queue) = mpsc::channel();
        let bootstrap = Bootstrap::new(
            FIRST_GROUP,
            (founding, addresses),
            engine.writer,
            engine.cache,
            queue,
            (first, others),
        );
        let disk_bytes = bootstrap.writer.disk_bytes();
        let log_disk_bytes = Arc::new(AtomicU64::new(disk_bytes));
        let (mut groups, registry) = (Groups::new(), Registry::new());
        let mut enter = |id: GroupId, publisher, fatal: Option<String>| {
            let status = GroupStatus { fatal, ..GroupStatus::founding(disk_bytes) };
            let (status, receiver) = watch::channel(status);
            groups.insert(id, Slot::new(id, status));
            let disk_bytes = log_disk_bytes.clone();
            registry.insert(Group::new(id, inbox.clone(), publisher, receiver, disk_bytes));
        };
        for (id, machine) in &machines {
            enter(*id, machine.publisher().clone(), None);
        }
        for (id, reason) in damaged {
            // Nobody may see what it holds: it stays at nothing.
            let publisher = Publisher::new(S::new().image(), 0);
            publisher.stop();
            enter(id, Arc::new(publisher), Some(reason));
        }
        let Some(first) = registry.get(FIRST_GROUP) else {
            return Err(OpenError::Restore("group 1 has no state machine".to_owned()));
        };
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
        };
        let guard = inbox.clone();
        let apply_thread = thread("quorate-apply", move || {
            guard.guard(|| applier.run(&work));
        })?;

        let connect_timeout = Duration::from_millis(config.connect_timeout_ms);
        let sends = SnapshotSends::new(SendContext {
            inbox: inbox.clone(),
            snapshots: engine.snapshots.clone(),
            runtime: tokio::runtime::Handle::current(),
            roster: roster.clone(),
            timeout: connect_timeout,
        });
        let (running, ended) = watch::channel(());
        let driver = Driver {
            first: FIRST_GROUP,
            node,
            config: config.clone(),
            run,
            groups,
            events,
            inbox: inbox.clone(),
            apply,
            log,
            worker,
            reader: engine.reader,
            snapshots: engine.snapshots.clone(),
            sends,
            transport: transport.clone(),
            roster: roster.clone(),
            purges,
            log_disk_bytes,
        };
        let loop_thread = thread("quorate-loop", move || {
            driver.run(bootstrap);
            drop(running);
        })?;

        let front = Arc::new(Front {
            registry: registry.clone(),
            inbox: inbox.clone(),
            calls: calls.clone(),
            service: service.clone(),
            transport: transport.clone(),
            snapshots: engine.snapshots,
            timeout: connect_timeout,
            limits: Limits::default(),
        });
        let acceptor = Acceptor::new(roster, front, &config);
        let mut ended = ended;
        let acceptor = tokio::spawn(async move {
            tokio::select! {
                () = acceptor.run(listener) => {}
                // The loop has ended: peers must not take this node for one that answers.
                _ = ended.changed() => {}
            }
        })
        .abort_handle();
        Ok(Node(Arc::new(Inner {
            identity,
            listen_addr,
            inbox,
            first,
            registry,
            transport,
            calls,
            service,
            acceptor,
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

    /// The newest image of this node, and the index it was applied up to. Lock-free; it may lag
    /// behind the leader: see [`Node::read_index`].
    pub fn image(&self) -> Arc<Published<S::Image>> {
        self.0.first.image()
    }

    /// A gap-free watch on the state.
    pub fn updates(&self) -> Updates<S> {
        self.0.first.updates()
    }

    /// Group 1 as this node sees it now.
    pub fn status(&self) -> GroupStatus {
        self.0.first.status()
    }

    /// The same, to wait on. Take what you need and let go: while a borrowed status is held, the
    /// loop cannot publish the next, and waits.
    pub fn watch_status(&self) -> watch::Receiver<GroupStatus> {
        self.0.first.watch_status()
    }

    /// One of the groups on this node; `None` where it is not here. One that has stopped for good is,
    /// and says why in its status.
    pub fn group(&self, id: GroupId) -> Option<Group<S>> {
        self.0.registry.get(id)
    }

    /// All groups on this node, ascending, those that have stopped or are damaged included.
    pub fn groups(&self) -> Vec<GroupId> {
        self.0.registry.ids()
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Where this node listens, with the port that the system chose when it was asked for any.
    pub fn listen_addr(&self) -> SocketAddr {
        self.0.listen_addr
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

    /// When each member of group 1 answered last; see [`Group::contacts`].
    ///
    /// Cancel safe.
    pub async fn contacts(&self) -> Vec<Contact> {
        self.0.first.contacts().await
    }

    /// Stops the node and waits until its log is closed. Callers that wait are told
    /// [`ProposeError::ShutDown`].
    pub async fn shutdown(&self) {
        self.0.stop();
        let threads =
            std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().all(|thread| thread.join().is_ok())
        });
        if !joined.await.unwrap_or(false) {
            tracing::error!("a thread of the node ended with a panic");
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

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(OpenError::Thread)
}

fn voters(identity: &Identity) -> Result<Addresses, OpenError> {
    match &identity.founding {
        FoundedBy::Voters(voters) => {
            Ok(voters.iter().map(|v| (v.node_id, v.addr.clone())).collect::<BTreeMap<_, _>>())
        }
        FoundedBy::Join(_) => Err(OpenError::Unsupported(
            "this directory was formatted to join a cluster, which this version cannot do: format \
             it with the initial voters"
                .to_owned(),
        )),
    }
}

fn refuse_plaintext(
    listen: SocketAddr,
    addresses: &Addresses,
    config: &LoopConfig,
) -> Result<(), OpenError> {
    if config.allow_plaintext {
        return Ok(());
    }
    if !listen.ip().is_loopback() {
        return Err(OpenError::Plaintext(listen.to_string()));
    }
    let is_loopback = |addr: &str| {
        addr.starts_with("localhost:")
            || addr.parse::<SocketAddr>().is_ok_and(|addr| addr.ip().is_loopback())
    };
    match addresses.values().find(|addr| !is_loopback(addr)) {
        Some(addr) => Err(OpenError::Plaintext(addr.clone())),
        None => Ok(()),
    }
}

/// A number that differs between two runs of this node, with all likelihood.
fn run_number() -> u32 {
    let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
    u32::from_le_bytes([a, b, c, d])
}
