//! [`PeerStream`]: a connection to a peer, encrypted or not.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use quorate_engine::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::handshake::HandshakeError;
use super::roster::Roster;
use super::tls;
use crate::frame::FrameError;

/// The bytes between two nodes. Where the node has certificates every connection is encrypted, and
/// each end has verified that of the other; where it has none, no connection is.
#[derive(Debug)]
pub(crate) enum PeerStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl PeerStream {
    /// A connection without encryption. The addresses of members change while a node runs, so where
    /// a connection leads is looked at when it is there, and before anything is said on it.
    fn plain(stream: TcpStream, roster: &Roster) -> Result<PeerStream, HandshakeError> {
        let host = stream.peer_addr().map_err(FrameError::Io)?.ip();
        match roster.may_speak_plainly_to(host) {
            true => Ok(PeerStream::Plain(stream)),
            false => Err(HandshakeError::Plaintext(host)),
        }
    }

    /// Begins a connection that this node dialled. The peer shows a certificate that names it, and
    /// no other node.
    pub(super) async fn dialled(
        stream: TcpStream,
        roster: &Roster,
        peer: NodeId,
        timeout: Duration,
    ) -> Result<PeerStream, HandshakeError> {
        let Some(tls) = &roster.tls else { return PeerStream::plain(stream, roster) };
        let name = tls::server_name(roster.cluster, peer).map_err(|_| HandshakeError::Protocol)?;
        let beginning = TlsConnector::from(tls.client.clone()).connect(name, stream);
        let begun = tokio::time::timeout(timeout, beginning).await;
        let stream = begun.map_err(|_| HandshakeError::TimedOut)?.map_err(HandshakeError::Tls)?;
        Ok(PeerStream::Tls(Box::new(stream.into())))
    }

    /// As [`PeerStream::dialled`], to a peer of which only the address is known. It shows a
    /// certificate of an authority; see [`PeerStream::is_of`].
    pub(super) async fn dialled_by_newcomer(
        stream: TcpStream,
        roster: &Roster,
    ) -> Result<PeerStream, HandshakeError> {
        let Some(tls) = &roster.tls else { return PeerStream::plain(stream, roster) };
        // Names nobody in particular: the peer's is not known, and not looked at here.
        let name =
            tls::server_name(roster.cluster, roster.node).map_err(|_| HandshakeError::Protocol)?;
        let beginning = TlsConnector::from(tls.newcomer.clone()).connect(name, stream);
        let stream = beginning.await.map_err(HandshakeError::Tls)?;
        Ok(PeerStream::Tls(Box::new(stream.into())))
    }

    /// Begins a connection that this node accepted. The peer shows a certificate of an authority;
    /// whether it names the peer shows when the peer says who it is: see [`PeerStream::is_of`].
    pub(super) async fn accepted(
        stream: TcpStream,
        roster: &Roster,
        timeout: Duration,
    ) -> Result<PeerStream, HandshakeError> {
        let Some(tls) = &roster.tls else { return PeerStream::plain(stream, roster) };
        let beginning = TlsAcceptor::from(tls.server.clone()).accept(stream);
        let begun = tokio::time::timeout(timeout, beginning).await;
        let stream = begun.map_err(|_| HandshakeError::TimedOut)?.map_err(HandshakeError::Tls)?;
        Ok(PeerStream::Tls(Box::new(stream.into())))
    }

    /// The address at the other end.
    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            PeerStream::Plain(stream) => stream.peer_addr(),
            PeerStream::Tls(stream) => stream.get_ref().0.peer_addr(),
        }
    }

    /// Its two directions.
    pub(super) fn split(self) -> (Box<dyn AsyncRead + Send + Unpin>, Writer) {
        match self {
            PeerStream::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (Box::new(reader), Writer::Plain(Arc::new(writer)))
            }
            PeerStream::Tls(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                (Box::new(reader), Writer::Tls(writer))
            }
        }
    }

    /// Whether the certificate of the other end names this node. Without encryption there is none,
    /// and every node is believed.
    pub(super) fn is_of(&self, roster: &Roster, node: NodeId) -> bool {
        let PeerStream::Tls(stream) = self else { return true };
        let certificates = stream.get_ref().1.peer_certificates();
        certificates
            .and_then(<[_]>::first)
            .is_some_and(|certificate| tls::names(certificate, roster.cluster, node))
    }
}

/// The half of a connection that is written to.
pub(super) enum Writer {
    /// More than one may write to it, each without waiting: see [`Outlet`](super::outlet::Outlet).
    Plain(Arc<OwnedWriteHalf>),
    Tls(WriteHalf<Box<TlsStream<TcpStream>>>),
}

impl Writer {
    /// Writes all of it, and takes out what was written.
    ///
    /// Not cancel safe: the connection is of no use then.
    pub(super) async fn write_all(&mut self, bytes: &mut BytesMut) -> io::Result<()> {
        match self {
            Writer::Plain(stream) => {
                while !bytes.is_empty() {
                    match stream.try_write(bytes) {
                        Ok(written) => bytes.advance(written),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            stream.writable().await?;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Writer::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await?;
                bytes.clear();
            }
        }
        Ok(())
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            PeerStream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            PeerStream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            PeerStream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            PeerStream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            PeerStream::Plain(stream) => Pin::new(stream).poll_flush(context),
            PeerStream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            PeerStream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            PeerStream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
