//! [`Proxy`]: stands between nodes, counts what passes, and cuts connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::process::Failure;

/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Passes connections on to one node.
pub(crate) struct Proxy {
    addr: SocketAddr,
    counts: Arc<Counts>,
    // Dropped last: it carries all connections.
    _runtime: Runtime,
}

struct Counts {
    cut_at_bytes: u64,
    cuts_left: AtomicU64,
    /// Bytes to the node on connections that have ended.
    ended_bytes: AtomicU64,
}

impl Proxy {
    /// Listens, and passes on to `to`. A connection that has carried `cut_at_bytes` to the node is
    /// cut, until there have been so many `cuts`.
    pub(crate) fn start(to: SocketAddr, cut_at_bytes: u64, cuts: u64) -> Result<Proxy, Failure> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let addr = listener.local_addr()?;
        let (cuts_left, ended_bytes) = (AtomicU64::new(cuts), AtomicU64::new(0));
        let counts = Arc::new(Counts { cut_at_bytes, cuts_left, ended_bytes });
        let all = counts.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counts = all.clone();
                tokio::spawn(async move { counts.carry(stream, to).await });
            }
        });
        Ok(Proxy { addr, counts, _runtime: runtime })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cuts that are still to come.
    pub(crate) fn cuts_left(&self) -> u64 {
        self.counts.cuts_left.load(Ordering::Relaxed)
    }

    /// Bytes that connections brought to the node which have ended: those that carried files, while
    /// nothing fails, since the ones that carry messages stay.
    pub(crate) fn ended_bytes(&self) -> u64 {
        self.counts.ended_bytes.load(Ordering::Relaxed)
    }
}

impl Counts {
    async fn carry(&self, mut stream: TcpStream, to: SocketAddr) {
        let Ok(mut node) = TcpStream::connect(to).await else { return };
        // What the proxy delays must not be measured; where it fails, that is all.
        let _ = (stream.set_nodelay(true), node.set_nodelay(true));
        let (from_peer, to_peer) = stream.split();
        let (from_node, to_node) = node.split();
        let mut bytes = 0;
        tokio::select! {
            () = self.pass(from_peer, to_node, &mut bytes) => {}
            () = copy(from_node, to_peer) => {}
        }
        self.ended_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Passes on to the node, until an end or a cut.
    async fn pass(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        bytes: &mut u64,
    ) {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(len @ 1..) = from.read(&mut piece).await {
            if to.write_all(&piece[..len]).await.is_err() {
                return;
            }
            *bytes += len as u64;
            let take = |left: u64| left.checked_sub(1);
            let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
            if *bytes >= self.cut_at_bytes && self.cuts_left.fetch_update(set, fetch, take).is_ok()
            {
                return;
            }
        }
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    // Either end has gone: so does the other.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}
