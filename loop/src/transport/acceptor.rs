//! [`Acceptor`]: takes connections in, and hands what arrives on them to the node.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_engine::{DirectoryId, GroupId, NodeId};
use raft::eraftpb::MessageType;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::codec::Decoder as _;

use super::handshake::{self, Caller, HandshakeError};
use super::join;
use super::presence::Presence;
use super::roster::{Acquaintance, SharedRoster};
use super::stream::PeerStream;
use crate::config::LoopConfig;
use crate::drops::CloseCause;
use crate::frame::{FoundingNews, Frame, FrameCodec, FrameError};
use crate::heartbeat::{HEARTBEAT_BYTES, Heartbeat};
use crate::join_wire::{JoinAnswerWire, JoinWire};
use crate::message::PeerMessage;
use crate::meters::Meters;

/// Connections at a time, handshakes included: a few per node of the largest sensible cluster.
const CONNECTIONS_MAX: usize = 256;

/// Reasons for refusals that are remembered, so that each is logged once.
const LOGGED_MAX: usize = 1_024;

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 64 << 10;

/// What news of the founding weighs in the inbox.
const FOUNDING_BYTES: usize = 4 << 10;

/// Where everything goes that arrives; given by the driver.
pub(crate) trait Ingress: Send + Sync + 'static {
    /// A message for the core of a group; the permit is dropped when it was stepped.
    fn peer(
        &self,
        from: NodeId,
        group: GroupId,
        message: PeerMessage,
        permit: OwnedSemaphorePermit,
    );
    /// Heartbeats for the cores of many groups, or answers; the permit as above.
    fn heartbeats(
        &self,
        from: NodeId,
        kind: MessageType,
        beats: Vec<Heartbeat>,
        permit: OwnedSemaphorePermit,
    );
    /// News of the founding.
    fn founding(
        &self,
        from: NodeId,
        directory: DirectoryId,
        news: FoundingNews,
        permit: OwnedSemaphorePermit,
    );
    /// A request of the application; it must bound how much it takes on.
    fn call(&self, from: NodeId, request: u64, payload: Bytes);
    /// A node was let in that knows members at least as late as this one.
    fn met(&self, met: Acquaintance);
    /// The connection with this number, of a node that was met, has ended.
    fn parted(&self, connection: u64);
    /// An answer to a request of this node.
    fn reply(&self, from: NodeId, request: u64, payload: Bytes);
    /// A request to be let into a group, of a node in this directory.
    fn join(
        &self,
        from: NodeId,
        directory: DirectoryId,
        request: JoinWire,
    ) -> Pin<Box<dyn Future<Output = JoinAnswerWire> + Send + '_>>;
    /// A connection that carries a snapshot file. The future is dropped with the acceptor.
    fn snapshot(
        &self,
        from: NodeId,
        stream: PeerStream,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// What keeps the stream of each peer: a newer stream replaces it, and so ends the older. Two
/// directories of one node, while one takes the place of the other, are two peers.
#[derive(Default)]
struct Streams {
    next: u64,
    /// Not more than there are connections.
    by_peer: BTreeMap<(NodeId, DirectoryId), (u64, oneshot::Sender<()>)>,
}

/// Accepts connections for one node.
pub(crate) struct Acceptor<I> {
    roster: SharedRoster,
    ingress: Arc<I>,
    presence: Arc<Presence>,
    timeout: Duration,
    peer_inbox_bytes_max: usize,
    connections: Arc<Semaphore>,
    meters: Arc<Meters>,
    streams: Mutex<Streams>,
    logged: Mutex<BTreeSet<String>>,
}

impl<I: Ingress> Acceptor<I> {
    pub(crate) fn new(
        roster: SharedRoster,
        ingress: Arc<I>,
        presence: Arc<Presence>,
        config: &LoopConfig,
        meters: Arc<Meters>,
    ) -> Arc<Self> {
        Arc::new(Acceptor {
            roster,
            ingress,
            presence,
            timeout: Duration::from_millis(config.connect_timeout_ms),
            peer_inbox_bytes_max: config.peer_inbox_bytes_max,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            meters,
            streams: Mutex::default(),
            logged: Mutex::default(),
        })
    }

    /// Accepts until the task is aborted.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        // Ends with this future, so that no connection outlives its acceptor.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = self.connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let acceptor = self.clone();
                    connections.spawn(async move {
                        acceptor.serve(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: give others time to free some.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream) {
        let host = stream.peer_addr().map(|addr| addr.ip().to_string()).unwrap_or_default();
        let (caller, stream) = match self.welcome(stream).await {
            Ok(welcomed) => welcomed,
            Err(error) => {
                self.meters.closed((&error).into());
                return self.log_refusal(&host, &error);
            }
        };
        if caller.hello.joins {
            let decide = |request| self.ingress.join(caller.node, caller.directory, request);
            if let Err(error) = join::answer(stream, self.timeout, decide).await {
                self.meters.closed((&error).into());
                tracing::info!(peer = %caller.node, %error, "a request to join was not answered");
            }
            return;
        }
        let _arrival = self.presence.arrived(caller.node);
        if caller.hello.snapshot {
            return self.ingress.snapshot(caller.node, stream).await;
        }
        let (keep, superseded) = oneshot::channel();
        let (peer, directory) = (caller.node, caller.directory);
        let number = {
            let mut streams = self.streams();
            streams.next += 1;
            let number = streams.next;
            streams.by_peer.insert((peer, directory), (number, keep));
            number
        };
        let members_index = caller.hello.members_index;
        let is_met = members_index >= self.roster.load().index();
        if is_met {
            let (node, addr) = (peer, caller.hello.addr.clone());
            let connection = number;
            let met = Acquaintance { connection, node, directory, addr, members_index };
            self.ingress.met(met);
        }
        tokio::select! {
            ended = self.read(caller, stream) => {
                match ended {
                    // The end of a process closes its connections like any other end.
                    Ok(()) => self.meters.closed(CloseCause::Broken),
                    Err(error) => {
                        self.meters.closed((&error).into());
                        tracing::info!(%peer, %error, "a connection was closed");
                    }
                }
                let mut streams = self.streams();
                if streams.by_peer.get(&(peer, directory)).is_some_and(|(n, _)| *n == number) {
                    streams.by_peer.remove(&(peer, directory));
                }
            }
            _ = superseded => {
                tracing::debug!(%peer, "a newer connection took over");
            }
        }
        if is_met {
            self.ingress.parted(number);
        }
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Streams> {
        // Nothing in the critical sections can panic half way.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn welcome(&self, stream: TcpStream) -> Result<(Caller, PeerStream), HandshakeError> {
        let roster = self.roster.load_full();
        // What a snapshot's receiver answers is short, and waited for.
        stream.set_nodelay(true).map_err(FrameError::Io)?;
        let mut stream = PeerStream::accepted(stream, &roster, self.timeout).await?;
        let caller = handshake::welcome(&mut stream, &roster, self.timeout).await?;
        Ok((caller, stream))
    }

    /// Once for each peer and reason, however often it tries.
    fn log_refusal(&self, host: &str, error: &HandshakeError) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < LOGGED_MAX && logged.insert(format!("{host} {error}")) {
            tracing::warn!(host, %error, "a peer was refused; it is not logged again");
        }
    }

    async fn read(&self, caller: Caller, mut stream: PeerStream) -> Result<(), HandshakeError> {
        let from = caller.node;
        // Bytes of this connection that the loop has not stepped yet. When they run out the
        // connection is not read, and the peer's own queue fills: no other peer notices.
        let room = Arc::new(Semaphore::new(self.peer_inbox_bytes_max));
        let mut bytes = BytesMut::with_capacity(READ_BYTES);
        let mut members_index = self.roster.load().index();
        loop {
            let Some(frame) = FrameCodec.decode(&mut bytes)? else {
                bytes.reserve(READ_BYTES);
                // A peer that has nothing to say sends a sign of life in a quarter of this. One
                // that is mute is gone, or its network is: it must not keep its place for ever.
                let reading = tokio::time::timeout(2 * self.timeout, stream.read_buf(&mut bytes));
                let silent = |_| FrameError::Io(std::io::ErrorKind::TimedOut.into());
                if reading.await.map_err(silent)?.map_err(FrameError::Io)? == 0 {
                    return Ok(());
                }
                continue;
            };
            // The members have changed: whoever is none any more is told so when it comes back.
            let roster = self.roster.load();
            if roster.index() != members_index {
                members_index = roster.index();
                roster.check(&caller.hello).map_err(HandshakeError::Refused)?;
            }
            drop(roster);
            match frame {
                Frame::Peer { group, message } => {
                    // However many small entries weigh, one message fits into an empty room.
                    let weight = message.weight().min(self.peer_inbox_bytes_max);
                    let permit = permit(&room, weight).await?;
                    self.ingress.peer(from, group, message, permit);
                }
                Frame::Heartbeats(beats) => {
                    let permit = permit(&room, beats.len() * HEARTBEAT_BYTES).await?;
                    self.ingress.heartbeats(from, MessageType::MsgHeartbeat, beats, permit);
                }
                Frame::HeartbeatAnswers(beats) => {
                    let permit = permit(&room, beats.len() * HEARTBEAT_BYTES).await?;
                    self.ingress.heartbeats(from, MessageType::MsgHeartbeatResponse, beats, permit);
                }
                Frame::Founding(news) => {
                    let permit = permit(&room, FOUNDING_BYTES).await?;
                    self.ingress.founding(from, caller.directory, news, permit);
                }
                Frame::Alive => {}
                Frame::Call { request, payload } => self.ingress.call(from, request, payload),
                Frame::Reply { request, payload } => self.ingress.reply(from, request, payload),
                Frame::Hello(_)
                | Frame::Welcome(_)
                | Frame::Refusal(_)
                | Frame::Snapshot { .. }
                | Frame::Offset(_)
                | Frame::Join(_)
                | Frame::JoinAnswer(_)
                | Frame::Chunk(_)
                | Frame::Received => return Err(FrameError::Unexpected.into()),
            }
        }
    }
}

async fn permit(room: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, FrameError> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let closed = |_| FrameError::Io(std::io::ErrorKind::BrokenPipe.into());
    room.clone().acquire_many_owned(bytes).await.map_err(closed)
}

#[cfg(test)]
pub(super) mod tests {
    use arc_swap::ArcSwap;
    use quorate_engine::ClusterId;
    use tokio::sync::mpsc;

    use super::*;
    use crate::transport::dialler::dial;
    use crate::transport::{Roster, Transport};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A node to which nothing is said.
    pub(in crate::transport) struct Nobody;

    impl Ingress for Nobody {
        fn heartbeats(
            &self,
            _: NodeId,
            _: MessageType,
            _: Vec<Heartbeat>,
            _: OwnedSemaphorePermit,
        ) {
        }
        fn join(
            &self,
            _: NodeId,
            _: DirectoryId,
            _: JoinWire,
        ) -> Pin<Box<dyn Future<Output = JoinAnswerWire> + Send + '_>> {
            Box::pin(async { JoinAnswerWire::later("nobody decides here") })
        }

        fn peer(&self, _: NodeId, _: GroupId, _: PeerMessage, _: OwnedSemaphorePermit) {}
        fn founding(&self, _: NodeId, _: DirectoryId, _: FoundingNews, _: OwnedSemaphorePermit) {}
        fn met(&self, _: Acquaintance) {}
        fn parted(&self, _: u64) {}
        fn call(&self, _: NodeId, _: u64, _: Bytes) {}
        fn reply(&self, _: NodeId, _: u64, _: Bytes) {}
        fn snapshot(
            &self,
            _: NodeId,
            _: PeerStream,
        ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async {})
        }
    }

    /// A founder with these peers, all at one address.
    pub(in crate::transport) fn roster<const N: usize>(
        own: u64,
        peers: [u64; N],
        addr: &str,
    ) -> SharedRoster {
        roster_in(own as u8, own, peers, addr)
    }

    fn roster_in<const N: usize>(
        directory: u8,
        own: u64,
        peers: [u64; N],
        addr: &str,
    ) -> SharedRoster {
        let node = |n| NodeId::new(n).unwrap();
        let cluster = ClusterId::from_bytes([7; 16]);
        let addresses = peers.map(|n| (node(n), addr.to_owned()));
        let directory = DirectoryId::from_bytes([directory; 16]);
        Arc::new(ArcSwap::from_pointee(Roster::founding(cluster, node(own), directory, addresses)))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_mute_peer_is_disconnected_and_one_that_has_nothing_to_say_is_not() {
        let config = LoopConfig { connect_timeout_ms: 1_000, ..LoopConfig::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let meters = Arc::new(Meters::new(0));
        let (one_of_three, presence) = (roster(1, [2, 3], &addr), Presence::new());
        let acceptor =
            Acceptor::new(one_of_three, Arc::new(Nobody), presence, &config, meters.clone());
        let accepting = tokio::spawn(acceptor.run(listener));
        let one = NodeId::new(1).unwrap();

        let (tell, mut told) = mpsc::unbounded_channel();
        let on_link: crate::transport::OnLink = Arc::new(move |event| {
            let _ = tell.send(event);
        });
        let (two, presence) = (roster(2, [1], &addr), Presence::new());
        let idle = Transport::start(&two, &config, &presence, &on_link, meters.clone());
        let connected = async {
            while idle.send(one, Frame::Alive).is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, connected).await.unwrap();

        let three = roster(3, [1], &addr);
        for _ in 0..2 {
            let mut mute = dial(&three, one, false, PATIENCE).await.unwrap();
            let ended = tokio::time::timeout(PATIENCE, mute.read_u8()).await.unwrap();
            assert!(ended.is_err(), "it is closed, and nothing is said");
        }
        let counted = async {
            while !meters.metrics().closed.contains(&(CloseCause::Silent, 2)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, counted).await.unwrap();
        assert_eq!(told.try_recv().ok(), None);
        accepting.abort();
    }

    /// To see it fail: never take a stream out, or know it by its node alone.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_directories_of_a_node_are_heard_and_neither_leaves_anything_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let config = LoopConfig::default();
        let acceptor = Acceptor::new(
            roster(1, [2, 3], &addr),
            Arc::new(Nobody),
            Presence::new(),
            &config,
            Arc::new(Meters::new(0)),
        );
        let accepting = tokio::spawn(acceptor.clone().run(listener));
        let one = NodeId::new(1).unwrap();
        let (old, new) = (roster_in(2, 2, [1], &addr), roster_in(9, 2, [1], &addr));
        let known = async |expected: usize| {
            let reached = async {
                while acceptor.streams().by_peer.len() != expected {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, reached).await.unwrap();
        };
        let mut first = dial(&old, one, false, PATIENCE).await.unwrap();
        known(1).await;
        let second = dial(&new, one, false, PATIENCE).await.unwrap();
        known(2).await;
        // A newer connection of the same directory takes over, and the older one is closed.
        let third = dial(&old, one, false, PATIENCE).await.unwrap();
        assert!(tokio::time::timeout(PATIENCE, first.read_u8()).await.unwrap().is_err());
        known(2).await;
        drop((second, third));
        known(0).await;
        let closed = acceptor.meters.metrics().closed;
        assert!(closed.contains(&(CloseCause::Broken, 2)), "their peers have gone: {closed:?}");
        accepting.abort();
    }
}
