//! [`Links`]: what the nodes send to each other passes through here, and may be held up.
//!
//! In front of each node is a port that the others know it by. Who connects says so in its first frame,
//! so that each direction between any two nodes can be treated by itself. What is held up arrives when
//! the link is whole again, as TCP would have it.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use protobuf::CodedInputStream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::plan::Way;
use crate::process::Failure;
use crate::trio::{Addrs, NODES, free_addrs};

/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The first frame of a connection, as `loop/src/frame.rs` has it: its length, its CRC, its kind, and in
/// it the field with the id of the node that speaks. It is short.
const HEADER_BYTES: usize = 8;
const HELLO_BYTES_MAX: usize = 4_096;
const HELLO: u8 = 1;
const NODE_ID: u32 = 3;

/// The links between all nodes.
pub(crate) struct Links {
    addrs: Addrs,
    acceptors: BTreeMap<u64, JoinHandle<()>>,
    ways: Arc<Ways>,
    // Dropped last: it carries all connections.
    runtime: Runtime,
}

struct Ways {
    nodes: Addrs,
    ways: BTreeMap<(u64, u64), watch::Sender<Way>>,
}

impl Links {
    /// Whole links to nodes that will listen on these addresses. None accepts.
    pub(crate) fn to(nodes: Addrs) -> Result<Links, Failure> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let pairs = NODES.into_iter().flat_map(|from| NODES.map(|to| (from, to)));
        let ways = pairs.map(|pair| (pair, watch::Sender::new(Way::Open))).collect();
        let ways = Arc::new(Ways { nodes, ways });
        Ok(Links { addrs: free_addrs()?, acceptors: BTreeMap::new(), ways, runtime })
    }

    /// Where the nodes reach each other.
    pub(crate) fn addrs(&self) -> &Addrs {
        &self.addrs
    }

    /// Accepts for a node that is about to begin.
    pub(crate) fn accept(&mut self, node: u64) -> Result<(), Failure> {
        let listener = self.runtime.block_on(TcpListener::bind(self.addrs[&node]))?;
        let ways = self.ways.clone();
        let acceptor = self.runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // One that was gone before it was accepted is no reason to end.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let ways = ways.clone();
                // Where it fails the connection is closed, and that is all.
                tokio::spawn(async move { ways.carry(stream, node).await });
            }
        });
        self.acceptors.insert(node, acceptor);
        Ok(())
    }

    /// Refuses for a node that is about to be killed, as the kernel would: nobody else could tell a
    /// process that is gone from a network that is silent. Connections end with the process.
    pub(crate) fn refuse(&mut self, node: u64) {
        if let Some(acceptor) = self.acceptors.remove(&node) {
            acceptor.abort();
            // The listener is closed when this returns. It was cancelled: there is no outcome.
            drop(self.runtime.block_on(acceptor));
        }
    }

    /// What `from` sends to `to` goes this way from now on.
    pub(crate) fn set(&self, from: u64, to: u64, way: Way) {
        if let Some(link) = self.ways.ways.get(&(from, to)) {
            link.send_replace(way);
        }
    }

    /// Whether all links are whole.
    pub(crate) fn are_whole(&self) -> bool {
        self.ways.ways.values().all(|way| *way.borrow() == Way::Open)
    }
}

impl Ways {
    async fn carry(&self, mut stream: TcpStream, to: u64) -> Result<(), Error> {
        let (hello, from) = hello(&mut stream).await?;
        let (Some(there), Some(back)) = (self.ways.get(&(from, to)), self.ways.get(&(to, from)))
        else {
            return Err(ErrorKind::InvalidData.into());
        };
        let (mut there, back) = (there.subscribe(), back.subscribe());
        // A connection is not made over a link that is cut.
        passable(&mut there).await?;
        let mut node = TcpStream::connect(self.nodes[&to]).await?;
        stream.set_nodelay(true)?;
        node.set_nodelay(true)?;
        node.write_all(&hello).await?;
        let (from_peer, to_peer) = stream.split();
        let (from_node, to_node) = node.split();
        // When either end has gone the other goes too.
        tokio::select! {
            passed = pass(from_peer, to_node, there) => passed,
            passed = pass(from_node, to_peer, back) => passed,
        }
    }
}

/// The first frame of who connects, and which node it is of.
async fn hello(stream: &mut TcpStream) -> Result<(Vec<u8>, u64), Error> {
    let mut frame = vec![0; HEADER_BYTES];
    stream.read_exact(&mut frame).await?;
    let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if !(1..=HELLO_BYTES_MAX).contains(&len) {
        return Err(ErrorKind::InvalidData.into());
    }
    frame.resize(HEADER_BYTES + len, 0);
    stream.read_exact(&mut frame[HEADER_BYTES..]).await?;
    match speaker(&frame[HEADER_BYTES..]) {
        Some(node) => Ok((frame, node)),
        None => Err(ErrorKind::InvalidData.into()),
    }
}

/// Which node the body of such a frame is of.
fn speaker(body: &[u8]) -> Option<u64> {
    let mut fields = CodedInputStream::from_bytes(body.strip_prefix(&[HELLO])?);
    while !fields.eof().ok()? {
        let (field, kind) = fields.read_tag_unpack().ok()?;
        if field == NODE_ID {
            return fields.read_uint64().ok();
        }
        fields.skip_field(kind).ok()?;
    }
    None
}

/// Passes on as the link is, until an end.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
) -> Result<(), Error> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let delay = passable(&mut way).await?;
        let len = tokio::select! {
            read = from.read(&mut piece) => read?,
            // A link that is cut takes nothing in.
            _ = way.changed() => continue,
        };
        if len == 0 {
            return Ok(());
        }
        tokio::time::sleep(delay).await;
        to.write_all(&piece[..len]).await?;
    }
}

/// Waits until something can pass, and tells how long it takes.
async fn passable(way: &mut watch::Receiver<Way>) -> Result<Duration, Error> {
    let way = way.wait_for(|way| *way != Way::Cut).await;
    // Nobody treats the link any more: the run is over.
    match *way.map_err(|_| ErrorKind::ConnectionAborted)? {
        Way::Slow(delay) => Ok(delay),
        Way::Open | Way::Cut => Ok(Duration::ZERO),
    }
}
