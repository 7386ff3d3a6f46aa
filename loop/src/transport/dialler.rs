//! [`Dialler`]: keeps one connection to one peer, empties its queue into it, and hears its answers.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use quorate_engine::NodeId;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;

use super::handshake::{self, Caller, HandshakeError};
use super::outlet::Open;
use super::queue::Waiting;
use super::reading::{Ingress, Reading};
use super::roster::SharedRoster;
use super::stream::PeerStream;
use super::writing::write;
use super::{Inbound, LinkEvent, OnLink, Presence};
use crate::frame::{FrameError, Refusal, RefusalCode};

/// First and longest pause between two attempts; doubled each time, with jitter, so that a node
/// that comes back is found soon and one that stays away costs little.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Pause before the first attempts after a connection was closed, and how many they are: enough to
/// find that the peer's process is gone, also where some of them still meet its end.
const QUICK_PAUSE: Duration = Duration::from_millis(5);
const QUICK_ATTEMPTS: u32 = 6;

/// A connection that was closed sooner is no reason to be quick: a peer that closes whatever it has
/// accepted would be dialled for ever at that pace.
const QUICK_AFTER: Duration = PAUSE_MAX;

pub(super) struct Dialler {
    pub(super) peer: NodeId,
    pub(super) roster: SharedRoster,
    pub(super) timeout: Duration,
    pub(super) connected: Arc<AtomicBool>,
    pub(super) presence: Arc<Presence>,
    pub(super) inbound: Arc<Inbound>,
    pub(super) on_link: OnLink,
    /// Where goes what the peer says on the connection; gone when the node ends.
    pub(super) ingress: Weak<dyn Ingress>,
    pub(super) room_bytes: usize,
}

impl Dialler {
    /// Runs until the queue's sender is dropped or the task is aborted.
    pub(super) async fn run(self, frames: Waiting) {
        let mut pauses = Pauses::default();
        let mut last_fault = String::new();
        // Where the peer was connected, until it is known to be gone.
        let mut was_at = None;
        loop {
            match self.connect().await {
                Ok((peer, stream)) => {
                    tracing::info!(peer = %self.peer, "connected");
                    last_fault = String::new();
                    was_at = stream.peer_addr().ok();
                    self.presence.reached(self.peer);
                    let (reader, writer) = stream.split();
                    let connection = frames.outlet().open(writer).await;
                    self.connected.store(true, Ordering::Release);
                    self.inbound.relieved(self.peer);
                    let up = Up(&self);
                    let begun = Instant::now();
                    let ended = self.converse(&peer, reader, connection, &frames).await;
                    self.connected.store(false, Ordering::Release);
                    // What waited for the broken connection must not arrive on the next one:
                    // those who wait for it are told that the link is down.
                    while frames.next_now().is_some() {}
                    drop(up);
                    match ended {
                        Ok(()) => return,
                        Err(error) => tracing::info!(peer = %self.peer, %error, "disconnected"),
                    }
                    pauses = Pauses::after(begun.elapsed());
                }
                Err(error) => {
                    // Logged when it changes, not at every attempt.
                    let fault = error.to_string();
                    if fault != last_fault {
                        tracing::warn!(peer = %self.peer, %error, "cannot connect");
                        last_fault = fault;
                    }
                    if self.is_gone(&error, was_at) {
                        tracing::warn!(peer = %self.peer, "the peer's process is gone");
                        was_at = None;
                        (self.on_link)(LinkEvent::Gone(self.peer));
                    }
                    if let HandshakeError::RefusedByPeer(refusal) = error {
                        let code = RefusalCode::try_from(refusal.code).unwrap_or_default();
                        let Refusal { message, members_index, .. } = refusal;
                        let by = self.peer;
                        (self.on_link)(LinkEvent::Refused { by, code, message, members_index });
                    }
                }
            }
            tokio::time::sleep(jittered(pauses.next())).await;
        }
    }

    /// Whether a failure to connect is the last that it takes to know that the peer, which was
    /// connected at `was_at`, is gone.
    fn is_gone(&self, error: &HandshakeError, was_at: Option<SocketAddr>) -> bool {
        match (error, was_at) {
            (HandshakeError::NobodyListens(there), Some(was_at)) if there.contains(&was_at) => {
                self.presence.refused(self.peer)
            }
            _ => {
                self.presence.failed(self.peer);
                false
            }
        }
    }

    async fn connect(&self) -> Result<(Caller, PeerStream), HandshakeError> {
        dial(&self.roster, self.peer, false, self.timeout).await
    }

    /// Sends and hears until the queue or the connection ends. `Ok` means that the queue ended. A peer that
    /// cannot connect to this node, or knows no address of it, has no other connection to answer on.
    async fn converse(
        &self,
        peer: &Caller,
        reader: impl AsyncRead + Unpin,
        connection: Open<'_>,
        frames: &Waiting,
    ) -> Result<(), HandshakeError> {
        let closed = || FrameError::Io(ErrorKind::ConnectionReset.into());
        let Some(ingress) = self.ingress.upgrade() else { return Err(closed().into()) };
        let (roster, room_bytes) = (self.roster.clone(), self.room_bytes);
        let reading = Reading { roster, ingress, room_bytes, silence_max: None };
        tokio::select! {
            written = write(connection, frames, Some(self.timeout / 2)) => Ok(written?),
            read = reading.run(peer, reader) => {
                read?;
                Err(closed().into())
            }
        }
    }
}

/// A connection that is up. However that ends, by a panic too, whoever waits is told.
struct Up<'a>(&'a Dialler);

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.connected.store(false, Ordering::Release);
        (self.0.on_link)(LinkEvent::Down(self.0.peer));
    }
}

/// Connects to a peer and introduces this node. Returns who answered, too.
pub(super) async fn dial(
    roster: &SharedRoster,
    peer: NodeId,
    snapshot: bool,
    timeout: Duration,
) -> Result<(Caller, PeerStream), HandshakeError> {
    let roster = roster.load_full();
    let addr = roster.addr(peer).ok_or(HandshakeError::Protocol)?;
    let connecting = tokio::time::timeout(timeout, connect(addr));
    let stream = connecting.await.map_err(|_| HandshakeError::TimedOut)??;
    // Messages are batched by us; the kernel must not hold them back.
    stream.set_nodelay(true).map_err(FrameError::Io)?;
    // Otherwise the kernel decides when a connection into a silent network ends, and sends again
    // more and more rarely: a link that is whole again would stay mute for as long as it was cut.
    #[cfg(target_os = "linux")]
    {
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&stream, millis)
            .map_err(|error| FrameError::Io(error.into()))?;
    }
    let mut stream = PeerStream::dialled(stream, &roster, peer, timeout).await?;
    let peer = handshake::introduce(&mut stream, &roster, peer, snapshot, timeout).await?;
    Ok((peer, stream))
}

/// Connects to the first that accepts of all addresses that a name stands for.
async fn connect(addr: &str) -> Result<TcpStream, HandshakeError> {
    let mut refusing = Vec::new();
    let mut fault = None;
    for addr in tokio::net::lookup_host(addr).await.map_err(FrameError::Io)? {
        match TcpStream::connect(addr).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => refusing.push(addr),
            Err(error) => fault = Some(error),
        }
    }
    match fault {
        Some(error) => Err(FrameError::Io(error).into()),
        None if refusing.is_empty() => Err(FrameError::Io(ErrorKind::NotFound.into()).into()),
        None => Err(HandshakeError::NobodyListens(refusing)),
    }
}

/// The pauses between attempts to connect.
struct Pauses {
    quick: u32,
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses { quick: 0, next: PAUSE_MIN }
    }
}

impl Pauses {
    /// After a connection that was up for so long.
    fn after(up: Duration) -> Pauses {
        let quick = if up >= QUICK_AFTER { QUICK_ATTEMPTS } else { 0 };
        Pauses { quick, ..Pauses::default() }
    }

    fn next(&mut self) -> Duration {
        if self.quick > 0 {
            self.quick -= 1;
            return QUICK_PAUSE;
        }
        let next = self.next;
        self.next = (next * 2).min(PAUSE_MAX);
        next
    }
}

/// Between half and the whole of `pause`, so that nodes do not dial in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    pause / 2 + pause * random / 512
}

#[cfg(test)]
#[allow(non_snake_case, reason = "tests carry the numbers of the traps they owe")]
mod tests {
    use std::net::TcpListener;

    use tokio::sync::mpsc::{self, UnboundedReceiver};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::config::LoopConfig;
    use crate::frame::Frame;
    use crate::meters::Meters;
    use crate::transport::Transport;
    use crate::transport::acceptor::Acceptor;
    use crate::transport::acceptor::tests::{nobody, roster};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A port of its own, below the range from which the system takes ports for outgoing
    /// connections: none of those takes it while nobody listens there.
    fn listener() -> TcpListener {
        loop {
            let port = 15_000 + (uuid::Uuid::new_v4().as_u128() % 15_000) as u16;
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                listener.set_nonblocking(true).unwrap();
                return listener;
            }
        }
    }

    /// Serves a listener as node `own`, until the task is aborted.
    fn serve(own: u64, listener: TcpListener, presence: &Arc<Presence>) -> JoinHandle<()> {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let roster = roster(own, [1, 2, 3].map(|n| if n == own { 4 } else { n }), "127.0.0.1:1");
        let (config, meters) = (LoopConfig::default(), Arc::new(Meters::new(0)));
        let inbound = Inbound::new(1, Arc::new(|event| panic!("{event:?}")));
        let acceptor = Acceptor::new(roster, nobody(), presence.clone(), inbound, &config, meters);
        tokio::spawn(acceptor.run(listener))
    }

    /// A node that dials one peer, and what it is told.
    struct Dialling {
        transport: Transport,
        presence: Arc<Presence>,
        told: UnboundedReceiver<LinkEvent>,
        /// Kept for the transport.
        _hears: Arc<dyn Ingress>,
    }

    impl Dialling {
        async fn connected(own: u64, peer: u64, addr: &str) -> Dialling {
            let (presence, (tell, told)) = (Presence::new(), mpsc::unbounded_channel());
            let on_link: OnLink = Arc::new(move |event| {
                let _ = tell.send(event);
            });
            let (roster, config) = (roster(own, [peer], addr), LoopConfig::default());
            let meters = Arc::new(Meters::new(0));
            let transport = Transport::new(&roster, &config, &presence, &on_link, meters);
            let hears = nobody();
            transport.start(&hears);
            let up = async {
                while transport.send(node(peer), Frame::Alive).is_err() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, up).await.unwrap();
            Dialling { transport, presence, told, _hears: hears }
        }

        async fn told(&mut self) -> LinkEvent {
            tokio::time::timeout(PATIENCE, self.told.recv()).await.unwrap().unwrap()
        }

        fn takes_for_gone(&self, n: u64) -> bool {
            self.presence.watch().borrow().contains(&node(n))
        }
    }

    fn node(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn trap_R16_a_process_is_gone_when_its_connections_close_and_its_port_refuses() {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        let there = serve(1, listener, &Presence::new());
        let mut two = Dialling::connected(2, 1, &addr.to_string()).await;
        assert!(!two.takes_for_gone(1));
        there.abort();
        assert_eq!(two.told().await, LinkEvent::Down(node(1)));
        assert_eq!(two.told().await, LinkEvent::Gone(node(1)));
        assert!(two.takes_for_gone(1));
        // It comes back, and goes again: told once for each time.
        let back = TcpListener::bind(addr).unwrap();
        back.set_nonblocking(true).unwrap();
        let mut gone = two.presence.watch();
        let there = serve(1, back, &Presence::new());
        let cleared = gone.wait_for(|gone| gone.is_empty());
        tokio::time::timeout(PATIENCE, cleared).await.unwrap().unwrap();
        there.abort();
        assert_eq!(two.told().await, LinkEvent::Down(node(1)));
        assert_eq!(two.told().await, LinkEvent::Gone(node(1)));
    }

    /// To see it fail: count every failure in `is_gone`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn trap_R16_a_peer_that_resets_or_was_never_connected_is_not_gone() {
        let silent = listener();
        let addr = silent.local_addr().unwrap();
        let there = serve(1, silent.try_clone().unwrap(), &Presence::new());
        let mut two = Dialling::connected(2, 1, &addr.to_string()).await;
        there.abort();
        assert_eq!(two.told().await, LinkEvent::Down(node(1)));
        // The kernel goes on accepting; whoever listens now closes in the handshake.
        let silent = tokio::net::TcpListener::from_std(silent).unwrap();
        for _ in 0..6 {
            drop(tokio::time::timeout(PATIENCE, silent.accept()).await.unwrap().unwrap());
        }
        assert!(two.told.try_recv().is_err() && !two.takes_for_gone(1));
        // Three refusals in a row are three, whatever was before.
        drop(silent);
        assert_eq!(two.told().await, LinkEvent::Gone(node(1)));

        // Nobody has ever listened there.
        let presence = Presence::new();
        let roster = roster(3, [1], &addr.to_string());
        let connected = Arc::default();
        let on_link: OnLink = Arc::new(|event| panic!("{event:?}"));
        let timeout = PATIENCE;
        let hears = nobody();
        let dialler = Dialler {
            peer: node(1),
            roster,
            timeout,
            connected,
            presence,
            inbound: Inbound::new(1, on_link.clone()),
            on_link,
            ingress: Arc::downgrade(&hears),
            room_bytes: 1,
        };
        for _ in 0..6 {
            let error = dialler.connect().await.unwrap_err();
            assert!(matches!(&error, HandshakeError::NobodyListens(at) if *at == [addr]));
            assert!(!dialler.is_gone(&error, None));
        }
    }

    /// To see it fail: leave `arrived` out of the acceptor.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn trap_R16_a_peer_whose_own_connection_is_open_is_not_gone() {
        let (of_one, of_two) = (listener(), listener());
        let [one, two] = [&of_one, &of_two].map(|at| at.local_addr().unwrap().to_string());
        let there = serve(1, of_one, &Presence::new());
        let mut two_to_one = Dialling::connected(2, 1, &one).await;
        let mut three_to_one = Dialling::connected(3, 1, &one).await;
        let _two = serve(2, of_two, &two_to_one.presence);
        let one_to_two = Dialling::connected(1, 2, &two).await;
        // Node 1 refuses whoever dials, and still talks to node 2.
        there.abort();
        assert_eq!(three_to_one.told().await, LinkEvent::Down(node(1)));
        assert_eq!(three_to_one.told().await, LinkEvent::Gone(node(1)));
        assert_eq!(two_to_one.told().await, LinkEvent::Down(node(1)));
        let still = two_to_one.presence.refused(node(1));
        assert!(!still && two_to_one.told.try_recv().is_err() && !two_to_one.takes_for_gone(1));
        one_to_two.transport.stop();
        assert_eq!(two_to_one.told().await, LinkEvent::Gone(node(1)));
    }
}
