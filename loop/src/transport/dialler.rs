//! [`Dialler`]: keeps one connection to one peer and empties its queue into it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use quorate_engine::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::codec::Encoder as _;

use super::handshake::{self, HandshakeError};
use super::roster::SharedRoster;
use super::{LinkEvent, OnLink};
use crate::frame::{Frame, FrameCodec, FrameError, Refusal, RefusalCode};

/// First and longest pause between two attempts; doubled each time, with jitter, so that a node
/// that comes back is found soon and one that stays away costs little.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Frames and bytes that share one write to the socket.
const FRAMES_PER_WRITE: usize = 256;
const BYTES_PER_WRITE: usize = 256 << 10;

pub(super) struct Dialler {
    pub(super) peer: NodeId,
    pub(super) roster: SharedRoster,
    pub(super) timeout: Duration,
    pub(super) connected: Arc<AtomicBool>,
    pub(super) on_link: OnLink,
}

impl Dialler {
    /// Runs until the queue's sender is dropped or the task is aborted.
    pub(super) async fn run(self, mut frames: mpsc::Receiver<Frame>) {
        let mut pause = PAUSE_MIN;
        let mut last_fault = String::new();
        loop {
            match self.connect().await {
                Ok(stream) => {
                    tracing::info!(peer = %self.peer, "connected");
                    (pause, last_fault) = (PAUSE_MIN, String::new());
                    self.connected.store(true, Ordering::Release);
                    let ended = pump(stream, &mut frames).await;
                    self.connected.store(false, Ordering::Release);
                    // What waited for the broken connection must not arrive on the next one:
                    // those who wait for it are told that the link is down.
                    while frames.try_recv().is_ok() {}
                    (self.on_link)(LinkEvent::Down(self.peer));
                    match ended {
                        Ok(()) => return,
                        Err(error) => tracing::info!(peer = %self.peer, %error, "disconnected"),
                    }
                }
                Err(error) => {
                    // Logged when it changes, not at every attempt.
                    let fault = error.to_string();
                    if fault != last_fault {
                        tracing::warn!(peer = %self.peer, %error, "cannot connect");
                        last_fault = fault;
                    }
                    if let HandshakeError::RefusedByPeer(refusal) = error {
                        let code = RefusalCode::try_from(refusal.code).unwrap_or_default();
                        let Refusal { message, members_index, .. } = refusal;
                        let by = self.peer;
                        (self.on_link)(LinkEvent::Refused { by, code, message, members_index });
                    }
                }
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn connect(&self) -> Result<TcpStream, HandshakeError> {
        dial(&self.roster, self.peer, false, self.timeout).await
    }
}

/// Connects to a peer and introduces this node.
pub(super) async fn dial(
    roster: &SharedRoster,
    peer: NodeId,
    snapshot: bool,
    timeout: Duration,
) -> Result<TcpStream, HandshakeError> {
    let roster = roster.load_full();
    let addr = roster.addr(peer).ok_or(HandshakeError::Protocol)?;
    let connecting = tokio::time::timeout(timeout, TcpStream::connect(addr));
    let stream = connecting.await.map_err(|_| HandshakeError::TimedOut)?;
    let mut stream = stream.map_err(FrameError::Io)?;
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
    handshake::introduce(&mut stream, &roster, peer, snapshot, timeout).await?;
    Ok(stream)
}

/// Sends frames until the queue or the connection ends. `Ok` means that the queue ended.
async fn pump(mut stream: TcpStream, frames: &mut mpsc::Receiver<Frame>) -> Result<(), FrameError> {
    let (mut reader, mut writer) = stream.split();
    let mut waiting = Vec::with_capacity(FRAMES_PER_WRITE);
    let mut bytes = BytesMut::new();
    let mut nothing = [0; 1];
    loop {
        tokio::select! {
            taken = frames.recv_many(&mut waiting, FRAMES_PER_WRITE) => {
                if taken == 0 {
                    return Ok(());
                }
            }
            // The peer says nothing on this connection: whatever comes is its end.
            ended = reader.read(&mut nothing) => {
                ended?;
                return Err(FrameError::Io(std::io::ErrorKind::ConnectionReset.into()));
            }
        }
        for frame in waiting.drain(..) {
            FrameCodec.encode(&frame, &mut bytes)?;
            if bytes.len() >= BYTES_PER_WRITE {
                writer.write_all(&bytes).await?;
                bytes.clear();
            }
        }
        writer.write_all(&bytes).await?;
        bytes.clear();
        if bytes.capacity() > 4 * BYTES_PER_WRITE {
            bytes = BytesMut::new();
        }
    }
}

/// Between half and the whole of `pause`, so that nodes do not dial in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    pause / 2 + pause * random / 512
}
