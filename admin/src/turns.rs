//! [`Turns`]: how many answers about the whole state are made at a time.

use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use quorate::MetadataImage;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fault::Fault;
use crate::limits::{SMALL_ANSWER_MAX, WHOLE_ANSWERS_MAX};

/// Who makes an answer about the whole state: a few at a time, for each takes memory and a processor
/// in proportion to all the partitions there are. The others wait, within the time of their requests.
#[derive(Clone)]
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
    /// Makes the answer, to its last byte, where it delays no other request. The turn ends with
    /// that, also where nobody waits for the answer any longer.
    pub(crate) async fn answer<T: Serialize>(
        self,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<Response, Fault> {
        beside(move || {
            let _held = self;
            Ok(Json(work()?).into_response())
        })
        .await?
    }
}

/// Runs what may take a while with much metadata where it delays no other request.
pub(crate) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        Fault::bad_request(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

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
}
