//! [`Turns`]: how many answers about the whole state are made at a time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use quorate::MetadataImage;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::fault::Fault;
use crate::limits::{BEHIND_MAX, ON_THE_WAY_MAX, SMALL_ANSWER_MAX, WHOLE_ANSWERS_MAX};
use crate::room::{Pieces, Room};

/// Who makes an answer about the whole state: a few at a time, for each takes memory and a processor in
/// proportion to all the partitions there are. The others wait, within the time of their requests. Sending
/// takes no turn: what is made needs [`Room`], and is a matter of its reader then.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    answers: Arc<Semaphore>,
    /// Elections over everything: they wait for the quorum, and must not keep those back that do not.
    elections: Arc<Semaphore>,
    room: Room,
}

/// Leave to make an answer.
pub(crate) struct Turn {
    size: Size,
    permit: Option<OwnedSemaphorePermit>,
}

/// How much of the node's memory an answer may take.
enum Size {
    /// So little that nobody counts it.
    Small,
    /// Room, which it waits for.
    Whole(Room),
    /// Room if there is some, and otherwise more than that.
    Elected(Room),
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self::with(Room::new(ON_THE_WAY_MAX, BEHIND_MAX))
    }

    fn with(room: Room) -> Self {
        let answers = Arc::new(Semaphore::new(WHOLE_ANSWERS_MAX));
        Self { answers, elections: Arc::new(Semaphore::new(1)), room }
    }

    /// Waits for a turn. Cancel safe.
    pub(crate) async fn next(&self) -> Turn {
        // Nobody closes the semaphore; without it an answer would be made all the same.
        let permit = Arc::clone(&self.answers).acquire_owned().await.ok();
        Turn { size: Size::Whole(self.room.clone()), permit }
    }

    /// Waits for a turn where an answer about so many partitions takes one. Cancel safe.
    pub(crate) async fn about(&self, partitions: usize) -> Turn {
        match partitions <= SMALL_ANSWER_MAX {
            true => Turn::small(),
            false => self.next().await,
        }
    }

    /// As [`Turns::about`], of one topic.
    pub(crate) async fn about_topic(&self, image: &MetadataImage, name: &str) -> Turn {
        self.about(partitions_of(image, name)).await
    }

    /// Waits until no other election over everything is held. Its answer waits for nothing then: what was
    /// changed is told, beyond all room; and the turn lasts until it was read, so that there is
    /// one such answer at a time. Cancel safe.
    ///
    /// # Errors
    ///
    /// The [`Fault`] to answer with if that takes longer than `patience`: nothing was changed.
    pub(crate) async fn election(&self, patience: Duration) -> Result<Turn, Fault> {
        let permit = timeout(patience, Arc::clone(&self.elections).acquire_owned()).await;
        let permit = permit.map_err(|_| Fault::election_goes_on())?.ok();
        Ok(Turn { size: Size::Elected(self.room.clone()), permit })
    }

    /// As [`Turns::election`], of one topic; it waits only if that has as many partitions as make a whole
    /// answer.
    ///
    /// # Errors
    ///
    /// As of [`Turns::election`].
    pub(crate) async fn election_of(
        &self,
        image: &MetadataImage,
        name: &str,
        patience: Duration,
    ) -> Result<Turn, Fault> {
        match partitions_of(image, name) <= SMALL_ANSWER_MAX {
            true => Ok(Turn::small()),
            false => self.election(patience).await,
        }
    }
}

fn partitions_of(image: &MetadataImage, name: &str) -> usize {
    image.topic_by_name(name).map_or(0, |topic| topic.partition_count() as usize)
}

impl Turn {
    /// The turn of an answer that takes none.
    pub(crate) fn small() -> Self {
        Self { size: Size::Small, permit: None }
    }

    /// Makes the answer, to its last byte, where it delays no other request. The turn ends when there is room
    /// for its way; or when it is made and nobody waits for it.
    pub(crate) async fn answer<T: Serialize>(
        self,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<Response, Fault> {
        let (turn, pieces) = beside(move || {
            let mut pieces = Pieces::default();
            serde_json::to_writer(&mut pieces, &work()?).map_err(|_| cannot_be_made())?;
            Ok::<_, Fault>((self, pieces))
        })
        .await??;
        let body = match turn.size {
            Size::Small => Body::from(pieces.into_bytes()),
            Size::Whole(room) => Body::new(room.send(pieces).await),
            Size::Elected(room) => Body::new(room.send_at_once(pieces, turn.permit)),
        };
        Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
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
    use std::net::SocketAddr;
    use std::sync::mpsc;

    use axum::routing::get;
    use axum::{Extension, Router};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;
    use crate::access::Access;
    use crate::connection::{Caller, Connections};

    const PATIENCE: Duration = Duration::from_secs(30);
    const BRIEF: Duration = Duration::from_millis(100);
    /// No connection ends because its reader is slow: what is left is to give way.
    const SILENCE_MAX: Duration = Duration::from_secs(3_600);

    /// To see it fail: have elections take turns, or small answers.
    #[tokio::test]
    async fn neither_an_election_nor_a_small_answer_takes_a_turn() {
        let turns = Turns::new();
        let _both = (turns.next().await, turns.next().await);
        let _small = timeout(PATIENCE, turns.about(10_000)).await.unwrap();
        let Ok(election) = turns.election(PATIENCE).await else { panic!() };
        assert!(timeout(BRIEF, turns.about(10_001)).await.is_err());
        assert!(turns.election(BRIEF).await.is_err(), "it is told that nothing was changed");
        drop(election);
        assert!(turns.election(PATIENCE).await.is_ok());
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
        assert!(timeout(BRIEF, turns.next()).await.is_err());
        go_on.send(()).unwrap();
        timeout(PATIENCE, turns.next()).await.unwrap();
    }

    /// More than the buffers of a connection take.
    const LONG: usize = 64 << 20;

    async fn long(Extension(turns): Extension<Turns>) -> Result<Response, Fault> {
        turns.next().await.answer(|| Ok("x".repeat(LONG))).await
    }

    async fn elected(Extension(turns): Extension<Turns>) -> Result<Response, Fault> {
        turns.election(PATIENCE).await?.answer(|| Ok("x".repeat(LONG))).await
    }

    /// A server of long answers, with room for so many of them.
    async fn serve(answers: usize, behind_max: Duration) -> (Turns, SocketAddr) {
        let turns = Turns::with(Room::new(answers * (LONG + (1 << 20)), behind_max));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Connections::new(listener, SILENCE_MAX, Access::default());
        let router = Router::new()
            .route("/", get(long))
            .route("/elected", get(elected))
            .layer(Extension(turns.clone()));
        let service = router.into_make_service_with_connect_info::<Caller>();
        tokio::spawn(axum::serve(connections, service).into_future());
        (turns, addr)
    }

    /// Asks for a long answer, and reads its first byte.
    async fn begin(addr: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap(), b'H');
        stream
    }

    /// Reads on to the end, and says how many bytes of the body came.
    async fn read(mut stream: TcpStream) -> usize {
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        // A connection that was ended may be reset.
        let is_reset = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(ended.map_or_else(is_reset, |_| true));
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..end]);
        let length = format!("content-length: {}", LONG + 2);
        assert!(
            head.contains("content-type: application/json") && head.contains(&length),
            "{head}"
        );
        answer.len() - end - 4
    }

    /// To see it fail: keep the turn beside the room in `Turn::answer`, or the room beside the bytes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_reads_slowly_keeps_nobody_from_being_answered() {
        let (turns, addr) = serve(4, PATIENCE).await;
        let slow = [begin(addr, "/").await, begin(addr, "/").await, begin(addr, "/").await];
        for _ in 0..3 {
            assert_eq!(read(begin(addr, "/").await).await, LONG + 2);
        }
        assert_eq!(read(begin(addr, "/elected").await).await, LONG + 2);
        let both = (turns.next().await, turns.next().await);
        drop(both);
        // Nobody needed their room: they are not too late.
        for reader in slow {
            assert_eq!(read(reader).await, LONG + 2);
        }
    }

    /// To see it fail: have `Room::send` end nobody's way, or all that are slow, or one before its time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_reads_slowly_gives_way_where_there_is_no_room_and_no_more_than_need_be() {
        let time = Duration::from_secs(1);
        let (_turns, addr) = serve(2, time).await;
        let since = Instant::now();
        let (first, second) = (begin(addr, "/").await, begin(addr, "/").await);
        assert_eq!(read(begin(addr, "/").await).await, LONG + 2);
        assert!(since.elapsed() >= time, "both were left their time");
        let both = [read(first).await, read(second).await];
        assert_eq!(both.into_iter().filter(|read| *read == LONG + 2).count(), 1, "{both:?}");
    }

    /// To see it fail: have the answer of an election wait for room as any, also behind another that waits, or
    /// have it end others.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_came_of_an_election_is_told_at_once() {
        let (turns, addr) = serve(2, Duration::from_secs(3_600)).await;
        let (first, second) = (begin(addr, "/").await, begin(addr, "/").await);
        let third = tokio::spawn(async move { read(begin(addr, "/").await).await });
        timeout(PATIENCE, turns.room.is_waited_for()).await.unwrap();
        assert_eq!(read(begin(addr, "/elected").await).await, LONG + 2);
        // One that is not read yet keeps the next election back, which would be one more beyond all room.
        let elected = begin(addr, "/elected").await;
        assert!(turns.election(BRIEF).await.is_err());
        assert_eq!(read(elected).await, LONG + 2);
        assert!(turns.election(PATIENCE).await.is_ok());
        for reader in [first, second] {
            assert_eq!(read(reader).await, LONG + 2);
        }
        assert_eq!(third.await.unwrap(), LONG + 2);
    }
}
