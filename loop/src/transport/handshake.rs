//! The handshake: both sides name cluster, node and directory before anything else is said.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use quorate_engine::{DirectoryId, NodeId};
use tokio::io::AsyncWriteExt as _;
use tokio_util::codec::Encoder as _;

use super::roster::Roster;
use super::stream::PeerStream;
use super::tls;
use super::transfer::receive_frame;
use crate::frame::{Frame, FrameCodec, FrameError, Hello, Refusal, RefusalCode};

/// Longest frame of a handshake: whoever connects has not earned a bigger buffer yet.
const HANDSHAKE_BYTES_MAX: usize = 4 << 10;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Caller {
    pub(super) node: NodeId,
    pub(super) directory: DirectoryId,
    /// What it said of itself; of a connection that it made, also what it wants with it.
    pub(super) hello: Hello,
    /// The index of the members by which it was let in.
    pub(super) as_of: u64,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("{}", .0.message)]
    RefusedByPeer(Refusal),
    #[error("{}", .0.message)]
    Refused(Refusal),
    #[error("the peer did not answer the handshake in time")]
    TimedOut,
    /// All addresses that the peer's name stands for.
    #[error("nobody listens on {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    NobodyListens(Vec<SocketAddr>),
    #[error("the peer does not speak this protocol")]
    Protocol,
    #[error("no TLS with the peer: {0}; check its certificate, and that both nodes use TLS")]
    Tls(#[source] std::io::Error),
    #[error(
        "{0} is another host, and this node has no certificates: give it some (tls), or set \
         allow_plaintext where every host of the network is trusted"
    )]
    Plaintext(IpAddr),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Introduces this node on a connection that it dialled. Returns who answered.
pub(super) async fn introduce(
    stream: &mut PeerStream,
    roster: &Roster,
    peer: NodeId,
    snapshot: bool,
    timeout: Duration,
) -> Result<Caller, HandshakeError> {
    let exchange = async {
        send(stream, &Frame::Hello(roster.hello(Some(peer), snapshot))).await?;
        match receive_frame(stream, HANDSHAKE_BYTES_MAX).await? {
            Frame::Welcome(hello) => {
                // The peer is held to the same rules as one that connects to us.
                let (node, directory) = roster.check(&hello).map_err(HandshakeError::Refused)?;
                match node == peer {
                    true => Ok(Caller { node, directory, hello, as_of: roster.index() }),
                    false => Err(HandshakeError::Protocol),
                }
            }
            Frame::Refusal(refusal) => Err(HandshakeError::RefusedByPeer(refusal)),
            _ => Err(HandshakeError::Protocol),
        }
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(HandshakeError::TimedOut))
}

/// Introduces this node, which is to become a member, to a node of the cluster, whichever it is.
pub(super) async fn introduce_newcomer(
    stream: &mut PeerStream,
    roster: &Roster,
) -> Result<(), HandshakeError> {
    send(stream, &Frame::Hello(Hello { joins: true, ..roster.hello(None, false) })).await?;
    match receive_frame(stream, HANDSHAKE_BYTES_MAX).await? {
        Frame::Welcome(hello) if hello.cluster_id == roster.cluster.as_bytes() => {
            // Any node of the cluster will do, but it must be the one that its certificate names.
            match NodeId::new(hello.node_id) {
                Some(node) if stream.is_of(roster, node) => Ok(()),
                _ => Err(HandshakeError::Protocol),
            }
        }
        Frame::Refusal(refusal) => Err(HandshakeError::RefusedByPeer(refusal)),
        _ => Err(HandshakeError::Protocol),
    }
}

/// Answers the introduction on a connection that was accepted.
pub(super) async fn welcome(
    stream: &mut PeerStream,
    roster: &Roster,
    timeout: Duration,
) -> Result<Caller, HandshakeError> {
    let exchange = async {
        let Frame::Hello(hello) = receive_frame(stream, HANDSHAKE_BYTES_MAX).await? else {
            return Err(HandshakeError::Protocol);
        };
        match check(stream, roster, &hello) {
            Ok((node, directory)) => {
                send(stream, &Frame::Welcome(roster.hello(None, false))).await?;
                Ok(Caller { node, directory, hello, as_of: roster.index() })
            }
            Err(refusal) => {
                send(stream, &Frame::Refusal(refusal.clone())).await?;
                Err(HandshakeError::Refused(refusal))
            }
        }
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(HandshakeError::TimedOut))
}

/// What the peer says, and what its certificate says.
fn check(
    stream: &PeerStream,
    roster: &Roster,
    hello: &Hello,
) -> Result<(NodeId, DirectoryId), Refusal> {
    let (node, directory) = roster.check(hello)?;
    if stream.is_of(roster, node) {
        return Ok((node, directory));
    }
    let name = tls::dns_name(roster.cluster, node);
    let message = format!("node {node} shows the certificate of another: give it one for {name}");
    Err(roster.refusal(RefusalCode::Other, message))
}

async fn send(stream: &mut PeerStream, frame: &Frame) -> Result<(), FrameError> {
    let mut bytes = BytesMut::new();
    FrameCodec.encode(frame, &mut bytes)?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}
