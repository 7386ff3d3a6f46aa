//! The handshake: both sides name cluster, node and directory before anything else is said.

use std::time::Duration;

use bytes::BytesMut;
use quorate_engine::{DirectoryId, NodeId};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::codec::Encoder as _;

use super::roster::Roster;
use super::transfer::receive_frame;
use crate::frame::{Frame, FrameCodec, FrameError, Hello, Refusal};

/// Longest frame of a handshake: whoever connects has not earned a bigger buffer yet.
const HANDSHAKE_BYTES_MAX: usize = 4 << 10;

/// Who is at the other end of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) node: NodeId,
    pub(super) directory: DirectoryId,
    /// Whether the connection carries one snapshot file.
    pub(super) snapshot: bool,
    /// Whether it carries one request to join.
    pub(super) joins: bool,
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
    #[error("the peer does not speak this protocol")]
    Protocol,
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Introduces this node on a connection that it dialled.
pub(super) async fn introduce(
    stream: &mut TcpStream,
    roster: &Roster,
    peer: NodeId,
    snapshot: bool,
    timeout: Duration,
) -> Result<(), HandshakeError> {
    let exchange = async {
        send(stream, &Frame::Hello(roster.hello(Some(peer), snapshot))).await?;
        match receive_frame(stream, HANDSHAKE_BYTES_MAX).await? {
            Frame::Welcome(hello) => {
                // The peer is held to the same rules as one that connects to us.
                let (node, _) = roster.check(&hello).map_err(HandshakeError::Refused)?;
                if node == peer { Ok(()) } else { Err(HandshakeError::Protocol) }
            }
            Frame::Refusal(refusal) => Err(HandshakeError::RefusedByPeer(refusal)),
            _ => Err(HandshakeError::Protocol),
        }
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(HandshakeError::TimedOut))
}

/// Introduces this node, which is to become a member, to a node of the cluster, whichever it is.
pub(super) async fn introduce_newcomer(
    stream: &mut TcpStream,
    roster: &Roster,
) -> Result<(), HandshakeError> {
    send(stream, &Frame::Hello(Hello { joins: true, ..roster.hello(None, false) })).await?;
    match receive_frame(stream, HANDSHAKE_BYTES_MAX).await? {
        Frame::Welcome(hello) if hello.cluster_id == roster.cluster.as_bytes() => Ok(()),
        Frame::Refusal(refusal) => Err(HandshakeError::RefusedByPeer(refusal)),
        _ => Err(HandshakeError::Protocol),
    }
}

/// Answers the introduction on a connection that was accepted.
pub(super) async fn welcome(
    stream: &mut TcpStream,
    roster: &Roster,
    timeout: Duration,
) -> Result<Caller, HandshakeError> {
    let exchange = async {
        let Frame::Hello(hello) = receive_frame(stream, HANDSHAKE_BYTES_MAX).await? else {
            return Err(HandshakeError::Protocol);
        };
        match roster.check(&hello) {
            Ok((node, directory)) => {
                send(stream, &Frame::Welcome(roster.hello(None, false))).await?;
                let Hello { snapshot, joins, .. } = hello;
                Ok(Caller { node, directory, snapshot, joins })
            }
            Err(refusal) => {
                send(stream, &Frame::Refusal(refusal.clone())).await?;
                Err(HandshakeError::Refused(refusal))
            }
        }
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(HandshakeError::TimedOut))
}

async fn send(stream: &mut TcpStream, frame: &Frame) -> Result<(), FrameError> {
    let mut bytes = BytesMut::new();
    FrameCodec.encode(frame, &mut bytes)?;
    stream.write_all(&bytes).await?;
    Ok(())
}
