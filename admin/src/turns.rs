//! [`Turns`]: how many answers about the whole state are made at a time.

use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fault::Fault;
use crate::limits::WHOLE_ANSWERS_MAX;

/// Who makes an answer about the whole state: a few at a time, for each takes memory and a processor
/// in proportion to all the partitions there are. The others wait, within the time of their requests.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

/// Leave to make such an answer.
pub(crate) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(WHOLE_ANSWERS_MAX)))
    }

    /// Waits for a turn. Cancel safe.
    pub(crate) async fn next(&self) -> Turn {
        // Nobody closes the semaphore; without it an answer would be made all the same.
        Turn { _permit: Arc::clone(&self.0).acquire_owned().await.ok() }
    }
}

impl Turn {
    /// No turn, for an answer that is bounded in itself.
    pub(crate) fn free() -> Self {
        Self { _permit: None }
    }

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
        timeout(Duration::from_secs(30), turns.next()).await.unwrap();
    }
}
