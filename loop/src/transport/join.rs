//! A request to join, on a connection of its own.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::codec::Encoder as _;

use super::handshake::{self, HandshakeError};
use super::roster::SharedRoster;
use super::stream::PeerStream;
use super::transfer::receive_frame;
use crate::frame::{Frame, FrameCodec, FrameError};
use crate::join_wire::{JoinAnswerWire, JoinWire};

/// Longest frame of such a connection: the largest member table.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 10;

/// Asks the node at `addr`, whichever it is.
///
/// # Errors
///
/// When it cannot be reached, is of another cluster, or does not answer within `timeout`.
pub(crate) async fn ask_to_join(
    roster: &SharedRoster,
    addr: &str,
    timeout: Duration,
    request: &JoinWire,
) -> Result<JoinAnswerWire, HandshakeError> {
    let asking = async {
        let roster = roster.load_full();
        let stream = TcpStream::connect(addr).await.map_err(FrameError::Io)?;
        let mut stream = PeerStream::dialled_by_newcomer(stream, &roster).await?;
        handshake::introduce_newcomer(&mut stream, &roster).await?;
        send(&mut stream, &Frame::Join(request.clone())).await?;
        match receive_frame(&mut stream, FRAME_BYTES_MAX).await? {
            Frame::JoinAnswer(answer) => Ok(answer),
            _ => Err(HandshakeError::Protocol),
        }
    };
    tokio::time::timeout(timeout, asking).await.unwrap_or(Err(HandshakeError::TimedOut))
}

/// Answers the one request of such a connection.
pub(super) async fn answer<F: Future<Output = JoinAnswerWire>>(
    mut stream: PeerStream,
    timeout: Duration,
    decide: impl FnOnce(JoinWire) -> F,
) -> Result<(), HandshakeError> {
    let answering = async {
        let Frame::Join(request) = receive_frame(&mut stream, FRAME_BYTES_MAX).await? else {
            return Err(HandshakeError::Protocol);
        };
        let answer = decide(request).await;
        Ok(send(&mut stream, &Frame::JoinAnswer(answer)).await?)
    };
    tokio::time::timeout(timeout, answering).await.unwrap_or(Err(HandshakeError::TimedOut))
}

async fn send(stream: &mut PeerStream, frame: &Frame) -> Result<(), FrameError> {
    let mut bytes = BytesMut::new();
    FrameCodec.encode(frame, &mut bytes)?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_engine::{DirectoryId, GroupId, NodeId};
    use tokio::net::TcpListener;

    use super::*;
    use crate::joining::{Joining, NotLetIn};
    use crate::members::Binding;
    use crate::membership::{Join, MembershipError};
    use crate::transport::acceptor::tests::roster;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// To see it fail: follow every hint in `ask_once`.
    #[tokio::test]
    async fn nobody_asks_itself_to_be_let_in() {
        // It listens, and never answers: who asks there waits for as long as there is time.
        let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let (own_addr, other_addr) = (addr(&own), addr(&other));
        let one = NodeId::new(1).unwrap();
        let directory_id = DirectoryId::from_bytes([1; 16]);
        let binding = Binding { node_id: one, directory_id, incarnation: 5 };
        let join = Join { binding, addr: own_addr.clone(), was: None };

        let answering = tokio::spawn({
            let (join, two) = (join.clone(), roster(2, [1], &own_addr).load_full());
            async move {
                let (stream, _) = other.accept().await.unwrap();
                let mut stream = PeerStream::accepted(stream, &two, PATIENCE).await.unwrap();
                let caller = handshake::welcome(&mut stream, &two, PATIENCE).await.unwrap();
                assert!(caller.hello.joins);
                let leads = Err(MembershipError::NotLeader { leader: Some(one) });
                let told = JoinAnswerWire::of(&join, &leads, Some(own_addr));
                answer(stream, PATIENCE, |_| async { told }).await.unwrap();
            }
        });
        let joining = Joining {
            roster: roster(1, [2], &other_addr),
            addresses: Vec::new(),
            silence: PATIENCE,
        };
        let group = GroupId::new(1).unwrap();
        let asked = tokio::time::timeout(PATIENCE / 2, joining.ask_once(group, &join, false));
        let why = match asked.await.expect("it waits for itself").unwrap_err() {
            NotLetIn::Yet(why) => why,
            NotLetIn::Ever(why) => panic!("{why}"),
        };
        let refusal = MembershipError::NotLeader { leader: Some(one) }.to_string();
        assert_eq!(why, refusal);
        answering.await.unwrap();
    }
}
