//! [`Acceptor`]: takes connections in, and hands what arrives on them to the node.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::handshake::{self, Caller, HandshakeError};
use super::inbound::Inbound;
use super::join;
use super::presence::Presence;
use super::reading::{Ingress, Reading};
use super::roster::SharedRoster;
use super::stream::PeerStream;
use super::writing::write;
use crate::config::LoopConfig;
use crate::drops::CloseCause;
use crate::frame::FrameError;
use crate::meters::Meters;

/// Connections at a time, handshakes included: a few per node of the largest sensible cluster.
const CONNECTIONS_MAX: usize = 256;

/// Reasons for refusals that are remembered, so that each is logged once.
const LOGGED_MAX: usize = 1_024;

/// Accepts connections for one node.
pub(crate) struct Acceptor {
    reading: Reading,
    inbound: Arc<Inbound>,
    presence: Arc<Presence>,
    timeout: Duration,
    connections: Arc<Semaphore>,
    meters: Arc<Meters>,
    logged: Mutex<BTreeSet<String>>,
}

impl Acceptor {
    pub(crate) fn new(
        roster: SharedRoster,
        ingress: Arc<dyn Ingress>,
        presence: Arc<Presence>,
        inbound: Arc<Inbound>,
        config: &LoopConfig,
        meters: Arc<Meters>,
    ) -> Arc<Self> {
        let timeout = Duration::from_millis(config.connect_timeout_ms);
        let (room_bytes, silence_max) = (config.peer_inbox_bytes_max, Some(2 * timeout));
        Arc::new(Acceptor {
            reading: Reading { roster, ingress, room_bytes, silence_max },
            inbound,
            presence,
            timeout,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            meters,
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
            let decide =
                |request| self.reading.ingress.join(caller.node, caller.directory, request);
            if let Err(error) = join::answer(stream, self.timeout, decide).await {
                self.meters.closed((&error).into());
                tracing::info!(peer = %caller.node, %error, "a request to join was not answered");
            }
            return;
        }
        let _arrival = self.presence.arrived(caller.node);
        if caller.hello.snapshot {
            return self.reading.ingress.snapshot(caller.node, stream).await;
        }
        let peer = caller.node;
        let mut answers = self.inbound.opened(peer, caller.directory);
        let (reader, writer) = stream.split();
        let connection = answers.frames.outlet().open(writer).await;
        let ended = tokio::select! {
            read = self.reading.run(&caller, reader) => read,
            written = write(connection, &answers.frames, None) => match written {
                Ok(()) => return,
                Err(error) => Err(error.into()),
            },
            _ = &mut answers.superseded => {
                tracing::debug!(%peer, "a newer connection took over");
                return;
            }
        };
        match ended {
            // The end of a process closes its connections like any other end.
            Ok(()) => self.meters.closed(CloseCause::Broken),
            Err(error) => {
                self.meters.closed((&error).into());
                tracing::info!(%peer, %error, "a connection was closed");
            }
        }
    }

    async fn welcome(&self, stream: TcpStream) -> Result<(Caller, PeerStream), HandshakeError> {
        let roster = self.reading.roster.load_full();
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
}

#[cfg(test)]
pub(super) mod tests {
    use std::future::Future;
    use std::pin::Pin;

    use arc_swap::ArcSwap;
    use bytes::Bytes;
    use quorate_engine::{ClusterId, DirectoryId, GroupId, NodeId};
    use raft::eraftpb::MessageType;
    use tokio::io::AsyncReadExt as _;
    use tokio::sync::oneshot::error::TryRecvError;
    use tokio::sync::{OwnedSemaphorePermit, mpsc};

    use super::*;
    use crate::frame::{FoundingNews, Frame};
    use crate::heartbeat::Heartbeat;
    use crate::join_wire::{JoinAnswerWire, JoinWire};
    use crate::message::PeerMessage;
    use crate::transport::dialler::dial;
    use crate::transport::{LinkEvent, OnLink, Roster, Transport};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A node that hears nothing but replies: from whom, and to which request.
    pub(in crate::transport) struct Listener(mpsc::UnboundedSender<(NodeId, u64)>);

    pub(in crate::transport) fn listener()
    -> (Arc<dyn Ingress>, mpsc::UnboundedReceiver<(NodeId, u64)>) {
        let (tell, told) = mpsc::unbounded_channel();
        (Arc::new(Listener(tell)), told)
    }

    /// One that hears nothing.
    pub(in crate::transport) fn nobody() -> Arc<dyn Ingress> {
        listener().0
    }

    impl Ingress for Listener {
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
        fn call(&self, _: NodeId, _: u64, _: Bytes) {}
        fn reply(&self, from: NodeId, request: u64, _: Bytes) {
            let _ = self.0.send((from, request));
        }
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
        let config = LoopConfig { connect_timeout_ms: 3_000, ..LoopConfig::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let meters = Arc::new(Meters::new(0));
        let (one_of_three, presence) = (roster(1, [2, 3], &addr), Presence::new());
        let on_link: OnLink = Arc::new(|event| panic!("{event:?}"));
        let inbound = Inbound::new(1, on_link);
        let acceptor =
            Acceptor::new(one_of_three, nobody(), presence, inbound, &config, meters.clone());
        let accepting = tokio::spawn(acceptor.run(listener));
        let one = NodeId::new(1).unwrap();

        let (tell, mut told) = mpsc::unbounded_channel();
        let on_link: OnLink = Arc::new(move |event| {
            let _ = tell.send(event);
        });
        let (two, presence) = (roster(2, [1], &addr), Presence::new());
        let idle = Transport::new(&two, &config, &presence, &on_link, meters.clone());
        let hears = nobody();
        idle.start(&hears);
        let connected = async {
            while idle.send(one, Frame::Alive).is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, connected).await.unwrap();

        let three = roster(3, [1], &addr);
        for _ in 0..2 {
            let (_, mut mute) = dial(&three, one, false, PATIENCE).await.unwrap();
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
        let on_link: OnLink = Arc::new(|event| panic!("{event:?}"));
        let inbound = Inbound::new(1, on_link);
        let acceptor = Acceptor::new(
            roster(1, [2, 3], &addr),
            nobody(),
            Presence::new(),
            inbound.clone(),
            &config,
            Arc::new(Meters::new(0)),
        );
        let accepting = tokio::spawn(acceptor.clone().run(listener));
        let one = NodeId::new(1).unwrap();
        let (old, new) = (roster_in(2, 2, [1], &addr), roster_in(9, 2, [1], &addr));
        let known = async |expected: usize| {
            let reached = async {
                while inbound.len() != expected {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, reached).await.unwrap();
        };
        let (_, mut first) = dial(&old, one, false, PATIENCE).await.unwrap();
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

    /// To see it fail: never answer on a connection that the peer has made, or leave `Down` out of the
    /// drop of `Answers`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_peer_that_cannot_be_dialled_is_answered_on_its_own_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let [one, two] = [1, 2].map(|n| NodeId::new(n).unwrap());
        let (config, meters) = (LoopConfig::default(), Arc::new(Meters::new(0)));
        let (tell, mut told) = mpsc::unbounded_channel();
        let on_link: OnLink = Arc::new(move |event| {
            let _ = tell.send(event);
        });
        // Nobody listens where node 1 has node 2.
        let (presence, closed) = (Presence::new(), roster(1, [2, 3], "127.0.0.1:1"));
        let here = Transport::new(&closed, &config, &presence, &on_link, meters.clone());
        let hears = nobody();
        here.start(&hears);
        let answer = |request| Frame::Reply { request, payload: Bytes::new() };
        assert_eq!(here.send(two, answer(1)), Err(answer(1)));
        let inbound = here.inbound();
        let acceptor =
            Acceptor::new(closed, hears.clone(), presence, inbound, &config, meters.clone());
        let accepting = tokio::spawn(acceptor.run(listener));

        let ignore: OnLink = Arc::new(|_| {});
        let (listens, mut replies) = self::listener();
        let open = roster(2, [1], &addr);
        let there = Transport::new(&open, &config, &Presence::new(), &ignore, meters);
        there.start(&listens);
        let connected = async {
            while here.send(two, answer(2)).is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, connected).await.unwrap();
        let heard = tokio::time::timeout(PATIENCE, replies.recv()).await.unwrap();
        assert_eq!(heard, Some((one, 2)));

        there.stop();
        let lost = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap();
        assert_eq!(lost, Some(LinkEvent::Down(two)));
        assert_eq!(here.send(two, answer(3)), Err(answer(3)));
        accepting.abort();
    }

    /// To see it fail: take the latest connection whoever has it.
    #[tokio::test]
    async fn the_directory_that_a_member_is_bound_to_is_answered_rather_than_another() {
        let on_link: OnLink = Arc::new(|event| assert_eq!(event, LinkEvent::Down(node(2))));
        let inbound = Inbound::new(4, on_link);
        let founding = roster(1, [2], "127.0.0.1:1").load_full();
        let bound = founding.bound(&[(node(2), DirectoryId::from_bytes([2; 16]))].into());
        let member = inbound.opened(node(2), DirectoryId::from_bytes([2; 16]));
        let other = inbound.opened(node(2), DirectoryId::from_bytes([9; 16]));
        inbound.put(&bound, node(2), Frame::Alive).unwrap();
        assert_eq!(member.frames.next_now(), Some(Frame::Alive));
        drop(member);
        inbound.put(&bound, node(2), Frame::Alive).unwrap();
        assert_eq!(other.frames.next_now(), Some(Frame::Alive));
        drop(other);
        assert!(inbound.put(&bound, node(2), Frame::Alive).is_err());
    }

    /// To see it fail: tell `Down` when an older connection is dropped, or whenever one ends.
    #[tokio::test]
    async fn a_link_is_down_when_what_was_sent_on_it_is_lost_and_not_otherwise() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let inbound = Inbound::new(4, Arc::new(move |event| tell.send(event).unwrap()));
        let known = roster(1, [2], "127.0.0.1:1").load_full();
        let directory = DirectoryId::from_bytes([2; 16]);
        let mut first = inbound.opened(node(2), directory);
        inbound.put(&known, node(2), Frame::Alive).unwrap();
        // A newer connection takes over: the older ends at once, and what was on it is lost now.
        let second = inbound.opened(node(2), directory);
        assert_eq!(told.try_recv(), Ok(LinkEvent::Down(node(2))));
        assert!(first.superseded.try_recv().is_err_and(|error| error == TryRecvError::Closed));
        drop(first);
        assert!(told.try_recv().is_err());
        // This node has reached the peer itself: nobody waits for what was on the other.
        inbound.put(&known, node(2), Frame::Alive).unwrap();
        inbound.relieved(node(2));
        drop(second);
        assert!(told.try_recv().is_err());
        assert!(inbound.put(&known, node(2), Frame::Alive).is_err());
        let third = inbound.opened(node(2), directory);
        inbound.put(&known, node(2), Frame::Alive).unwrap();
        drop(third);
        assert_eq!(told.try_recv(), Ok(LinkEvent::Down(node(2))));
        inbound.close();
        let mut late = inbound.opened(node(2), directory);
        assert!(late.superseded.try_recv().is_err_and(|error| error == TryRecvError::Closed));
        assert!(inbound.put(&known, node(2), Frame::Alive).is_err());
    }

    fn node(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }
}
