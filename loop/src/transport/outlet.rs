//! [`Outlet`]: where the frames of one queue enter the socket.

use arc_swap::ArcSwapOption;
use bytes::{Buf as _, BytesMut};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Mutex;
use tokio_util::codec::Encoder as _;

use super::stream::Writer;
use crate::frame::{Frame, FrameCodec, FrameError};

/// Bytes of frames that share one write to the socket.
const BYTES_PER_WRITE: usize = 256 << 10;

/// Bytes of frames that whoever puts them in writes by himself.
const BYTES_AT_ONCE: usize = 16 << 10;

/// What is on its way into the connection that is up.
///
/// The task of a connection writes into it. But to wake that for a frame of a few bytes takes longer than
/// to send it, and most frames are so where little goes on: an entry, its acknowledgement. So who puts
/// short frames in writes them, too, as long as the task has nothing in hand and the socket takes them at
/// once. Whoever writes holds the lock, and takes the frames out of the queue under it: so they enter the
/// socket in the order of the queue, whoever writes them.
///
/// A connection with TLS is written by its task alone.
#[derive(Default)]
pub(super) struct Outlet {
    pending: Mutex<Pending>,
    /// The connection that is up, if more than its task may write to it.
    shared: ArcSwapOption<OwnedWriteHalf>,
}

#[derive(Default)]
struct Pending {
    /// Encoded and not written yet.
    bytes: BytesMut,
    /// Why the connection must end, for its task to find.
    fault: Option<FrameError>,
}

impl Outlet {
    /// Writes the frames that `next` has, as long as they are few. Never waits. Whether all of them were
    /// written: else it is for the task of the connection.
    pub(super) fn write_now(&self, next: impl Fn() -> Option<Frame>) -> bool {
        let Ok(mut pending) = self.pending.try_lock() else { return false };
        let Some(stream) = self.shared.load_full() else { return false };
        let Pending { bytes, fault } = &mut *pending;
        if !bytes.is_empty() || fault.is_some() {
            return false;
        }
        while bytes.len() < BYTES_AT_ONCE
            && let Some(frame) = next()
        {
            if let Err(error) = FrameCodec.encode(&frame, bytes) {
                *fault = Some(error);
                return false;
            }
        }
        // What is wrong with the connection the task finds out, with what is left.
        if !bytes.is_empty()
            && let Ok(written) = stream.try_write(bytes)
        {
            bytes.advance(written);
        }
        bytes.is_empty()
    }

    /// A connection is up, until what is returned is dropped. Nobody who writes to the one before takes a
    /// frame out of the queue any more: those that are put in from now on are for this one.
    pub(super) async fn open(&self, writer: Writer) -> Open<'_> {
        // Whatever is left is of the connection before.
        *self.pending.lock().await = Pending::default();
        if let Writer::Plain(stream) = &writer {
            self.shared.store(Some(stream.clone()));
        }
        Open { outlet: self, writer }
    }
}

/// A connection that is up.
pub(super) struct Open<'a> {
    outlet: &'a Outlet,
    writer: Writer,
}

impl Open<'_> {
    /// Writes the frames that `next` has, and what is left of others.
    ///
    /// Not cancel safe: the connection is of no use then.
    pub(super) async fn write(
        &mut self,
        mut next: impl FnMut() -> Option<Frame>,
    ) -> Result<(), FrameError> {
        let mut pending = self.outlet.pending.lock().await;
        let Pending { bytes, fault } = &mut *pending;
        loop {
            while bytes.len() < BYTES_PER_WRITE
                && let Some(frame) = next()
            {
                FrameCodec.encode(&frame, bytes)?;
            }
            if let Some(error) = fault.take() {
                return Err(error);
            }
            if bytes.is_empty() {
                return Ok(());
            }
            // Of a long frame: what is written is taken out, and the room for it does not show any more.
            let is_large = bytes.capacity() > 4 * BYTES_PER_WRITE;
            self.writer.write_all(bytes).await?;
            if is_large {
                *bytes = BytesMut::new();
            }
            // A socket that takes everything at once must not keep this task from reading.
            tokio::task::coop::consume_budget().await;
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.outlet.shared.store(None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::io::{AsyncRead, AsyncReadExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::codec::Decoder as _;

    use super::super::queue::queue;
    use super::super::stream::PeerStream;
    use super::super::writing::write;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn connection() -> (TcpStream, Writer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (here, _) = listener.accept().await.unwrap();
        // Its other half goes: nothing is read here.
        let (_, writer) = PeerStream::Plain(here).split();
        let Writer::Plain(stream) = &writer else { panic!("it is not encrypted") };
        stream.writable().await.unwrap();
        (there, writer)
    }

    fn reply(request: u64, bytes: usize) -> Frame {
        Frame::Reply { request, payload: Bytes::from(vec![7; bytes]) }
    }

    async fn next(stream: &mut (impl AsyncRead + Unpin), bytes: &mut BytesMut) -> Frame {
        loop {
            if let Some(frame) = FrameCodec.decode(bytes).unwrap() {
                return frame;
            }
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(bytes)).await;
            assert_ne!(read.unwrap().unwrap(), 0, "the connection ended");
        }
    }

    /// To see it fail: have `flush` always wake the task.
    #[tokio::test]
    async fn short_frames_are_sent_by_who_puts_them_in_and_long_ones_by_the_task() {
        let (mut there, writer) = connection().await;
        let (queue, waiting) = queue(8);
        // No task runs.
        let mut open = waiting.outlet().open(writer).await;
        let mut bytes = BytesMut::new();
        for request in 0..3 {
            queue.put(reply(request, 100)).unwrap();
        }
        queue.flush();
        assert_eq!(queue.len(), 0);
        for request in 0..3 {
            assert_eq!(next(&mut there, &mut bytes).await, reply(request, 100));
        }
        // What is short and behind it waits with it.
        for frame in [reply(3, 100), reply(4, 1 << 20), reply(5, 100)] {
            queue.put(frame).unwrap();
        }
        queue.flush();
        assert_eq!(queue.len(), 2);
        assert_eq!(next(&mut there, &mut bytes).await, reply(3, 100));
        assert!(waiting.wait().await, "the task is woken");
        let writing = open.write(|| waiting.next_now());
        let reading =
            async { [next(&mut there, &mut bytes).await, next(&mut there, &mut bytes).await] };
        let (written, read) = tokio::join!(writing, reading);
        written.unwrap();
        assert_eq!(read, [reply(4, 1 << 20), reply(5, 100)]);
        // Without a connection there is nothing to write to.
        drop(open);
        queue.put(reply(6, 100)).unwrap();
        queue.flush();
        assert_eq!(queue.len(), 1);
        // What was not written on one connection is not written on the next.
        assert_eq!(waiting.next_now(), Some(reply(6, 100)));
        let (mut next_one, writer) = connection().await;
        waiting.outlet().pending.lock().await.bytes.extend_from_slice(b"a part of a frame");
        let _open = waiting.outlet().open(writer).await;
        queue.put(reply(7, 100)).unwrap();
        queue.flush();
        assert_eq!(next(&mut next_one, &mut BytesMut::new()).await, reply(7, 100));
    }

    /// To see it fail: keep the buffer in `Open::write`.
    #[tokio::test]
    async fn the_room_for_a_long_frame_is_given_back() {
        let (mut there, writer) = connection().await;
        let (queue, waiting) = queue(8);
        let mut open = waiting.outlet().open(writer).await;
        queue.put(reply(1, 8 << 20)).unwrap();
        let mut bytes = BytesMut::new();
        let writing = open.write(|| waiting.next_now());
        let (written, read) = tokio::join!(writing, next(&mut there, &mut bytes));
        written.unwrap();
        assert_eq!(read, reply(1, 8 << 20));
        let mut pending = waiting.outlet().pending.lock().await;
        pending.bytes.reserve(1);
        assert!(pending.bytes.capacity() < 1 << 20, "{}", pending.bytes.capacity());
    }

    /// Two threads write, now one and now the other, and the socket is full most of the time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn frames_arrive_in_the_order_in_which_they_were_put_in() {
        const FRAMES: u64 = 20_000;
        let length = |request: u64| {
            if request.is_multiple_of(97) { 40_000 } else { 10 + request as usize % 900 }
        };
        let (mut there, writer) = connection().await;
        let (queue, waiting) = queue(64);
        let task = tokio::spawn(async move {
            let connection = waiting.outlet().open(writer).await;
            write(connection, &waiting, None).await
        });
        let putting = tokio::task::spawn_blocking(move || {
            for request in 0..FRAMES {
                let mut frame = reply(request, length(request));
                while let Err(back) = queue.put(frame) {
                    frame = back.into_inner();
                    std::thread::yield_now();
                }
                queue.flush();
            }
        });
        let mut bytes = BytesMut::new();
        for request in 0..FRAMES {
            let frame = next(&mut there, &mut bytes).await;
            assert!(frame == reply(request, length(request)), "another frame than {request}");
        }
        putting.await.unwrap();
        // The queue has ended, and so does the task.
        tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
        assert_eq!(there.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
