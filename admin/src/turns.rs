//! [`Turns`]: how many answers about the whole state there are at a time.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use quorate::MetadataImage;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fault::Fault;
use crate::limits::{SMALL_ANSWER_MAX, WHOLE_ANSWERS_MAX};

/// Who makes an answer about the whole state and sends it: a few at a time, for each takes memory and a
/// processor in proportion to all the partitions there are. The others wait, within the time of their
/// requests.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    answers: Arc<Semaphore>,
    /// Elections over everything: they wait for the quorum, and must not keep those back that do not.
    elections: Arc<Semaphore>,
}

/// Leave to make such an answer.
pub(crate) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(crate) fn new() -> Self {
        let one = Arc::new(Semaphore::new(1));
        Self { answers: Arc::new(Semaphore::new(WHOLE_ANSWERS_MAX)), elections: one }
    }

    /// Waits for a turn. Cancel safe.
    pub(crate) async fn next(&self) -> Turn {
        // Nobody closes the semaphore; without it an answer would be made all the same.
        Turn { _permit: Arc::clone(&self.answers).acquire_owned().await.ok() }
    }

    /// Waits for a turn where an answer about so many partitions takes one. Cancel safe.
    pub(crate) async fn about(&self, partitions: usize) -> Turn {
        match partitions <= SMALL_ANSWER_MAX {
            true => Turn { _permit: None },
            false => self.next().await,
        }
    }

    /// As [`Turns::about`], of one topic.
    pub(crate) async fn about_topic(&self, image: &MetadataImage, name: &str) -> Turn {
        let topic = image.topic_by_name(name);
        self.about(topic.map_or(0, |topic| topic.partition_count() as usize)).await
    }

    /// Waits until no other election over everything is held. Cancel safe.
    pub(crate) async fn election(&self) -> Turn {
        Turn { _permit: Arc::clone(&self.elections).acquire_owned().await.ok() }
    }
}

impl Turn {
    /// Makes the answer, to its last byte, where it delays no other request. The turn ends when the
    /// answer is sent or its connection has ended, which a client that reads slowly delays by
    /// [`SENDING_MAX`](crate::limits::SENDING_MAX) at most; or when it is made and nobody waits for it.
    pub(crate) async fn answer<T: Serialize>(
        self,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<Response, Fault> {
        beside(move || {
            let json = serde_json::to_vec(&work()?).map_err(|_| cannot_be_made())?;
            // The server lets go of a body before its bytes: whoever keeps these keeps the turn.
            let body = Body::from(Bytes::from_owner(Held { json, _turn: self }));
            Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
        })
        .await?
    }
}

/// The bytes of an answer, with its turn.
struct Held {
    json: Vec<u8>,
    _turn: Turn,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

/// Runs what may take a while with much metadata where it delays no other request.
pub(crate) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|_| cannot_be_made())
}

fn cannot_be_made() -> Fault {
    Fault::bad_request(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use axum::routing::get;
    use axum::{Extension, Router};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::access::Access;
    use crate::connection::{Caller, Connections};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// To see it fail: have elections take turns, or small answers.
    #[tokio::test]
    async fn neither_an_election_nor_a_small_answer_takes_a_turn() {
        let turns = Turns::new();
        let _both = (turns.next().await, turns.next().await);
        let _small = timeout(PATIENCE, turns.about(10_000)).await.unwrap();
        let election = timeout(PATIENCE, turns.election()).await.unwrap();
        let brief = Duration::from_millis(100);
        assert!(timeout(brief, turns.about(10_001)).await.is_err());
        assert!(timeout(brief, turns.election()).await.is_err());
        drop(election);
        timeout(PATIENCE, turns.election()).await.unwrap();
    }

    /// To see it fail: drop the turn before the work in `Turn::answer`.
    #[tokio::test]
    async fn a_turn_lasts_until_its_answer_is_made_also_for_nobody() {
        let turns = Turns::new();
        let (_first, second) = (turns.next().await, turns.next().await);
        let (go_on, told) = mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let asked = tokio::spawn(second.answer(move || {
            begin.send(()).unwrap();
            told.recv().unwrap();
            Ok(7)
        }));
        begun.await.unwrap();
        // Whoever asked goes away.
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        assert!(timeout(Duration::from_millis(100), turns.next()).await.is_err());
        go_on.send(()).unwrap();
        timeout(PATIENCE, turns.next()).await.unwrap();
    }

    /// More than the buffers of a connection take.
    const LONG: usize = 64 << 20;

    async fn long(Extension(turns): Extension<Turns>) -> Result<Response, Fault> {
        turns.next().await.answer(|| Ok("x".repeat(LONG))).await
    }

    /// Asks for a long answer, and reads its first byte.
    async fn begin(addr: std::net::SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        assert_eq!(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap(), b'H');
        stream
    }

    /// To see it fail: hold the turn beside the bytes of the answer, or in its body.
    #[tokio::test]
    async fn a_turn_lasts_until_its_answer_is_sent_or_its_reader_is_gone() {
        let turns = Turns::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Connections::new(listener, PATIENCE, Access::default());
        let router = Router::new().route("/", get(long)).layer(Extension(turns.clone()));
        let service = router.into_make_service_with_connect_info::<Caller>();
        tokio::spawn(axum::serve(connections, service).into_future());

        let (mut reads, goes) = (begin(addr).await, begin(addr).await);
        assert!(timeout(Duration::from_millis(200), turns.next()).await.is_err());
        let mut answer = String::new();
        timeout(PATIENCE, reads.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let length = format!("content-length: {}", LONG + 2);
        assert!(
            head.contains("content-type: application/json") && head.contains(&length),
            "{head}"
        );
        assert_eq!(body.len(), LONG + 2);
        let first = timeout(PATIENCE, turns.next()).await.unwrap();
        assert!(timeout(Duration::from_millis(200), turns.next()).await.is_err());
        drop(goes);
        timeout(PATIENCE, turns.next()).await.unwrap();
        drop(first);
    }
}
