//! [`Connection`]: the little of the protocol of NATS that a publisher needs.
//!
//! Clients on one connection share its writes and reads: what they publish while a write is under way
//! goes out with the next. Each has a reply subject of its own, and one message under way.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::process::Failure;

/// How a client introduces itself, and that it wants its answers.
const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1,\
    \"lang\":\"rust\",\"version\":\"0\",\"name\":\"compare\"}\r\n";

/// Bytes that are written at once, about, and room for what is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Lines of a server, and payloads, are shorter.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Messages that wait to be written: more than clients have under way.
const QUEUE_MAX: usize = 16_384;

/// Answers that wait for one client, which has one message under way.
const ANSWERS_MAX: usize = 2;

/// What one client is answered; it ends with the connection.
pub(super) type Answers = mpsc::Receiver<Bytes>;

/// A connection that several clients share. It is closed with the last handle.
#[derive(Clone)]
pub(super) struct Connection {
    out: mpsc::Sender<Out>,
}

/// What is written.
enum Out {
    /// A client's message.
    Publish { subject: &'static str, client: usize, payload: Bytes },
    /// The answer to a sign of life.
    Pong,
}

impl Connection {
    /// Connects so many clients, and returns what each of them hears.
    pub(super) async fn open(
        addr: SocketAddr,
        clients: usize,
    ) -> io::Result<(Connection, Vec<Answers>)> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        // No other connection has it.
        let inbox = format!("reply.{}", uuid::Uuid::new_v4().simple());
        write.write_all(CONNECT).await?;
        write.write_all(format!("SUB {inbox}.* 1\r\n").as_bytes()).await?;
        let (out, outs) = mpsc::channel(QUEUE_MAX);
        let (told, answers) = (0..clients).map(|_| mpsc::channel(ANSWERS_MAX)).unzip();
        let pong = out.downgrade();
        tokio::spawn(async move {
            // Either ends with the other, and with the last handle. The clients hear of it.
            let ended = tokio::select! {
                ended = write_on(write, outs, &inbox) => ended,
                ended = read_on(read, told, pong) => ended,
            };
            if let Err(error) = ended {
                eprintln!("compare: a connection to {addr} ended: {error}");
            }
        });
        Ok((Connection { out }, answers))
    }

    /// Sends a client's message. The answer comes later.
    pub(super) async fn publish(
        &self,
        subject: &'static str,
        client: usize,
        payload: Bytes,
    ) -> Result<(), Failure> {
        let sent = self.out.send(Out::Publish { subject, client, payload }).await;
        sent.map_err(|_| "the connection was closed".into())
    }
}

async fn write_on(
    mut stream: OwnedWriteHalf,
    mut outs: mpsc::Receiver<Out>,
    inbox: &str,
) -> io::Result<()> {
    let mut chunk = BytesMut::with_capacity(2 * CHUNK_BYTES);
    while let Some(first) = outs.recv().await {
        let mut next = Some(first);
        while let Some(out) = next {
            match out {
                Out::Publish { subject, client, payload } => {
                    // A BytesMut takes whatever is written into it.
                    let len = payload.len();
                    let _ = write!(chunk, "PUB {subject} {inbox}.{client} {len}\r\n");
                    chunk.extend_from_slice(&payload);
                    chunk.extend_from_slice(b"\r\n");
                }
                Out::Pong => chunk.extend_from_slice(b"PONG\r\n"),
            }
            next = if chunk.len() < CHUNK_BYTES { outs.try_recv().ok() } else { None };
        }
        stream.write_all(&chunk).await?;
        chunk.clear();
    }
    Ok(())
}

async fn read_on(
    mut stream: OwnedReadHalf,
    told: Vec<mpsc::Sender<Bytes>>,
    out: mpsc::WeakSender<Out>,
) -> io::Result<()> {
    let mut read = BytesMut::with_capacity(CHUNK_BYTES);
    loop {
        while let Some(message) = message(&mut read)? {
            match message {
                // Nobody waits for more than one.
                In::Answer { client, payload } => {
                    told.get(client).map(|client| client.try_send(payload));
                }
                In::Ping => {
                    if let Some(out) = out.upgrade() {
                        // A queue that is full has signs of life enough.
                        let _ = out.try_send(Out::Pong);
                    }
                }
                In::Other => {}
            }
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
}

/// What is read.
#[derive(Debug, PartialEq)]
enum In {
    Answer {
        client: usize,
        payload: Bytes,
    },
    Ping,
    /// INFO, PONG, +OK.
    Other,
}

/// Takes the first message off what was read; `None` while it is not complete.
fn message(read: &mut BytesMut) -> io::Result<Option<In>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let Some(end) = read.windows(2).position(|pair| pair == b"\r\n") else {
        return match read.len() > MESSAGE_BYTES_MAX {
            true => Err(invalid("a line without an end")),
            false => Ok(None),
        };
    };
    let line =
        std::str::from_utf8(&read[..end]).map_err(|_| invalid("a line that is not UTF-8"))?;
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    if kind == "-ERR" {
        return Err(invalid(line));
    }
    if kind != "MSG" {
        let message = if kind == "PING" { In::Ping } else { In::Other };
        read.advance(end + 2);
        return Ok(Some(message));
    }
    // MSG subject sid [reply] bytes
    let client = words.next().and_then(|subject| subject.rsplit('.').next()?.parse().ok());
    let bytes = words.last().and_then(|bytes| bytes.parse::<usize>().ok());
    let (Some(client), Some(bytes)) = (client, bytes) else { return Err(invalid(line)) };
    if bytes > MESSAGE_BYTES_MAX {
        return Err(invalid("a message that is too long"));
    }
    if read.len() < end + 2 + bytes + 2 {
        return Ok(None);
    }
    read.advance(end + 2);
    let payload = read.split_to(bytes).freeze();
    read.advance(2);
    Ok(Some(In::Answer { client, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_come_in() {
        let whole =
            b"INFO {}\r\nPING\r\nMSG reply.x.7 1 4\r\n\r\nab\r\nMSG reply.x.12 1 back 0\r\n\r\n";
        let answer = |client, payload: &'static [u8]| In::Answer {
            client,
            payload: Bytes::from_static(payload),
        };
        let expected = [In::Other, In::Ping, answer(7, b"\r\nab"), answer(12, b"")];
        for cut in 0..=whole.len() {
            let (mut read, mut found) = (BytesMut::new(), Vec::new());
            for part in [&whole[..cut], &whole[cut..]] {
                read.extend_from_slice(part);
                while let Some(message) = message(&mut read).unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, expected, "cut at {cut}");
        }
        let mut refusal = BytesMut::from(&b"-ERR 'no'\r\n"[..]);
        assert!(message(&mut refusal).is_err());
    }
}
