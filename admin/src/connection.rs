//! [`Connections`]: the listener, with a bound on connections and on their silence.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::access::Access;
use crate::limits::{CONNECTIONS_MAX, HANDSHAKE_MAX, SENDING_MAX, STUCK_MAX};
use crate::stream::Stream;

/// Pause after the system refused a connection, which mostly means that it is out of descriptors.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// A listener that accepts only while there is room. TLS is begun beside, so that a client that is
/// slow in it delays no other.
#[derive(Debug)]
pub(crate) struct Connections {
    listener: TcpListener,
    room: Arc<Semaphore>,
    silence_max: Duration,
    access: Access,
    /// Connections whose handshake is not over; each holds a place.
    beginning: JoinSet<Option<(Connection, SocketAddr)>>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Whether a certificate of an authority for clients was shown.
    pub(crate) is_verified: bool,
    /// Whether its connection waits for an answer that has a time limit of its own.
    waits: Arc<AtomicBool>,
}

/// For as long as it is there, the silence of a connection does not count.
pub(crate) struct Waiting(Arc<AtomicBool>);

impl Caller {
    /// Has the connection wait, however long its answer takes.
    pub(crate) fn wait(&self) -> Waiting {
        self.waits.store(true, Ordering::Relaxed);
        Waiting(Arc::clone(&self.waits))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Connections>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Connections>) -> Self {
        let connection = stream.io();
        Caller {
            is_verified: connection.stream.has_certificate(),
            waits: Arc::clone(&connection.waits),
        }
    }
}

impl Connections {
    /// A connection may be silent for `silence_max`; a request may take as long from its first byte
    /// to the first of its answer.
    pub(crate) fn new(listener: TcpListener, silence_max: Duration, access: Access) -> Self {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { listener, room, silence_max, access, beginning: JoinSet::new() }
    }
}

/// A connection and its place.
async fn accepted(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        // The semaphore is never closed; if it were, nobody could be let in.
        let Ok(place) = Arc::clone(room).acquire_owned().await else {
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, addr)) => return (stream, addr, place),
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin API was not accepted");
                sleep(REFUSED_PAUSE).await;
            }
        }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, addr, place) = tokio::select! {
                accepted = accepted(&self.listener, &self.room) => accepted,
                Some(begun) = self.beginning.join_next() => match begun {
                    Ok(Some(connection)) => return connection,
                    _ => continue,
                },
            };
            let silence_max = self.silence_max;
            let Some(acceptor) = self.access.acceptor() else {
                return (Connection::new(Stream::Plain(stream), place, silence_max), addr);
            };
            self.beginning.spawn(async move {
                match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let stream = Stream::Tls(Box::new(stream));
                        Some((Connection::new(stream, place, silence_max), addr))
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%addr, %error, "no TLS with a client of the admin API");
                        None
                    }
                    Err(_) => None,
                }
            });
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection: fails when the other side is silent, takes too long for a request or for an answer, or
/// takes nothing.
pub(crate) struct Connection {
    stream: Stream,
    silence_max: Duration,
    silence: Pin<Box<Sleep>>,
    /// Whether a request has begun to arrive. Its further bytes give it no more time, or one that
    /// trickles in would keep its connection for ever.
    hears: bool,
    /// Whether an answer with a time limit of its own is under way.
    waits: Arc<AtomicBool>,
    stuck: Pin<Box<Sleep>>,
    /// Whether a write waits for the other side.
    writing: bool,
    /// Until when what is being written has to be taken: an answer, or the pieces of one that the server
    /// holds.
    sent_by: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: Stream, place: OwnedSemaphorePermit, silence_max: Duration) -> Self {
        Self {
            stream,
            silence_max,
            silence: Box::pin(sleep(silence_max)),
            hears: false,
            waits: Arc::default(),
            stuck: Box::pin(sleep(STUCK_MAX)),
            writing: false,
            sent_by: None,
            _place: place,
        }
    }

    fn listen_afresh(&mut self) {
        let until = Instant::now() + self.silence_max;
        self.silence.as_mut().reset(until);
    }

    /// The outcome of a write, in the time that it and its answer may take.
    fn wrote<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.writing = false;
            // What was answered gives the client a fresh time for its next request.
            self.hears = false;
            self.listen_afresh();
            return outcome;
        }
        self.wait_for_client(context)
    }

    /// Fails when the other side has not taken anything for too long, or not the whole answer.
    fn wait_for_client<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if !self.writing {
            self.writing = true;
            let now = Instant::now();
            let sent_by = *self.sent_by.get_or_insert(now + SENDING_MAX);
            self.stuck.as_mut().reset(sent_by.min(now + STUCK_MAX));
        }
        match self.stuck.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if outcome.is_ready() {
            if !self.hears {
                self.hears = true;
                self.listen_afresh();
            } else if Instant::now() >= self.silence.deadline() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return outcome;
        }
        while self.silence.as_mut().poll(context).is_ready() {
            if !self.waits.load(Ordering::Relaxed) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.listen_afresh();
        }
        Poll::Pending
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        if outcome.is_pending() {
            return self.wait_for_client(context);
        }
        // What was to be written is: an answer, or of a whole one as much as the server takes at a time.
        (self.writing, self.sent_by) = (false, None);
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        // With TLS it has a last word, and whatever waits before that.
        if outcome.is_pending() { self.wait_for_client(context) } else { outcome }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_request_that_trickles_in_does_not_keep_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut connections =
            Connections::new(listener, Duration::from_millis(200), Access::default());
        let mut client = TcpStream::connect(addr).await.unwrap();
        let (mut served, _) = connections.accept().await;
        // The next byte comes whenever one was read: never a silence.
        let trickle = async {
            loop {
                client.write_u8(b'G').await.unwrap();
                if let Err(error) = served.read_u8().await {
                    break error.kind();
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), trickle).await.unwrap();
        assert_eq!(ended, io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_connection_is_not_silent_while_its_answer_is_made() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut connections =
            Connections::new(listener, Duration::from_millis(50), Access::default());
        let _client = TcpStream::connect(addr).await.unwrap();
        let (mut served, _) = connections.accept().await;
        let waiting = Caller { is_verified: false, waits: Arc::clone(&served.waits) }.wait();
        let heard = tokio::time::timeout(Duration::from_millis(500), served.read_u8()).await;
        assert!(heard.is_err(), "{heard:?}");
        drop(waiting);
        assert_eq!(served.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// To see it fail: have what is taken give the answer more time, or have the next answer begin with
    /// what is left of it.
    #[tokio::test]
    async fn an_answer_that_is_taken_slowly_ends_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let hour = Duration::from_secs(3_600);
        let mut connections = Connections::new(listener, hour, Access::default());
        let mut client = TcpStream::connect(addr).await.unwrap();
        let (mut served, _) = connections.accept().await;
        // More than the buffers take: the write waits, and the time of the answer has begun.
        let answer = vec![0; 64 << 20];
        let waits = tokio::time::timeout(Duration::from_millis(100), served.write_all(&answer));
        assert!(waits.await.is_err());
        let sent_by = served.sent_by.unwrap();
        assert!(sent_by > Instant::now() + SENDING_MAX - Duration::from_secs(30));
        served.flush().await.unwrap();
        assert_eq!(served.sent_by, None);

        served.sent_by = Some(Instant::now() + Duration::from_millis(200));
        let sends = async {
            loop {
                if let Err(error) = served.write_all(&answer).await {
                    break error.kind();
                }
            }
        };
        let mut taken = vec![0; 64 << 10];
        let takes = async {
            loop {
                client.read_exact(&mut taken).await.unwrap();
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), async {
            tokio::select! {
                ended = sends => ended,
                () = takes => unreachable!("it takes for ever"),
            }
        });
        assert_eq!(ended.await.unwrap(), io::ErrorKind::TimedOut);
    }

    /// To see it fail: hand `poll_shutdown` on as it is.
    #[tokio::test]
    async fn a_last_word_that_is_not_taken_ends_its_connection() {
        use tokio_rustls::rustls::pki_types::ServerName;

        use crate::access::AccessConfig;
        use crate::tests::access::{Authority, connector};

        let dir = tempfile::tempdir().unwrap();
        let files = Authority::new().issue(dir.path(), "localhost");
        let (tls_cert, tls_key) = (Some(files.cert.clone()), Some(files.key.clone()));
        let config = AccessConfig { tls_cert, tls_key, ..AccessConfig::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let hour = Duration::from_secs(3_600);
        let mut connections = Connections::new(listener, hour, Access::load(&config).unwrap());
        let dials = async {
            let stream = TcpStream::connect(addr).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            connector(&files, None).connect(name, stream).await.unwrap()
        };
        let (_client, (mut served, _)) = tokio::join!(dials, connections.accept());
        let answer = vec![0; 64 << 20];
        let waits = timeout(Duration::from_millis(100), served.write_all(&answer));
        assert!(waits.await.is_err());
        (served.writing, served.sent_by) =
            (false, Some(Instant::now() + Duration::from_millis(200)));
        let ended = timeout(Duration::from_secs(30), served.shutdown()).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
