//! [`Wait`]: waiting for something to be so in a group, for a limited time.

use std::time::Duration;

use quorate_engine::NodeId;
use tokio::sync::watch;

use crate::members::Members;
use crate::status::{GroupStatus, Role};

/// Why something did not come to be so. Both say what was waited for, and what was seen last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The time is over.
    #[error("waited {timeout:?} for {wanted}, and saw last: {last}")]
    TimedOut {
        /// What was waited for.
        wanted: String,
        /// For how long.
        timeout: Duration,
        /// The group as it was then.
        last: Box<GroupStatus>,
    },
    /// The group has stopped: it will never be so.
    #[error("waited for {wanted}, and the group has stopped: {last}")]
    Stopped {
        /// What was waited for.
        wanted: String,
        /// The group as it ended.
        last: Box<GroupStatus>,
    },
}

/// Waits for a state of a group, as this node sees it; see [`Group::wait`](crate::Group::wait).
///
/// Every method returns at once where it is so already, gives back the status that showed it, and
/// is cancel safe. A state that came and went between two looks may be missed.
///
/// ```no_run
/// # async fn example<S: quorate_statemachine::StateMachine>(
/// #     group: quorate_loop::Group<S>,
/// # ) -> Result<(), quorate_loop::WaitError> {
/// use std::time::Duration;
///
/// let limit = Duration::from_secs(10);
/// let leader = group.wait(limit).leader().await?;
/// let status = group.wait(limit).applied(42).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is waited for yet"]
pub struct Wait {
    status: watch::Receiver<GroupStatus>,
    timeout: Duration,
}

impl Wait {
    pub(crate) fn new(status: watch::Receiver<GroupStatus>, timeout: Duration) -> Self {
        Wait { status, timeout }
    }

    /// Until somebody leads, as far as this node knows. Returns who.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub async fn leader(self) -> Result<NodeId, WaitError> {
        self.find("a leader", |status| status.leader).await
    }

    /// Until this node has `role`.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub async fn role(self, role: Role) -> Result<GroupStatus, WaitError> {
        self.until(format!("the role {role:?}"), |status| status.role == role).await
    }

    /// Until this node knows that the entry at `index` is committed.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub async fn committed(self, index: u64) -> Result<GroupStatus, WaitError> {
        self.until(format!("commit index {index}"), |status| status.commit_index >= index).await
    }

    /// Until this node has applied the entry at `index`: its image shows it.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub async fn applied(self, index: u64) -> Result<GroupStatus, WaitError> {
        self.until(format!("applied index {index}"), |status| status.applied_index >= index).await
    }

    /// Until the members are as `wanted` says; `what` tells it in words, for the error.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub async fn members(
        self,
        what: impl Into<String>,
        mut wanted: impl FnMut(&Members) -> bool,
    ) -> Result<GroupStatus, WaitError> {
        self.until(what, |status| wanted(&status.members)).await
    }

    /// Until the status is as `wanted` says; `what` tells it in words, for the error. The loop
    /// cannot publish the next status while `wanted` looks at one: let it be quick.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub async fn until(
        self,
        what: impl Into<String>,
        mut wanted: impl FnMut(&GroupStatus) -> bool,
    ) -> Result<GroupStatus, WaitError> {
        self.find(what, |status| wanted(status).then(|| status.clone())).await
    }

    async fn find<T>(
        mut self,
        what: impl Into<String>,
        mut look: impl FnMut(&GroupStatus) -> Option<T>,
    ) -> Result<T, WaitError> {
        let mut found = None;
        // A group that has stopped may be just what is waited for.
        let seen = self.status.wait_for(|status| {
            found = look(status);
            found.is_some() || status.fatal.is_some()
        });
        let is_over = tokio::time::timeout(self.timeout, async { drop(seen.await) }).await.is_err();
        if let Some(found) = found {
            return Ok(found);
        }
        let (wanted, last) = (what.into(), Box::new(self.status.borrow().clone()));
        Err(match is_over {
            true => WaitError::TimedOut { wanted, timeout: self.timeout, last },
            false => WaitError::Stopped { wanted, last },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn status(commit_index: u64) -> GroupStatus {
        GroupStatus { commit_index, ..GroupStatus::founding(0) }
    }

    #[tokio::test]
    async fn what_is_so_is_seen_at_once_and_what_comes_to_be_so_when_it_does() {
        let (publish, published) = watch::channel(status(3));
        let seen = Wait::new(published.clone(), Duration::ZERO).committed(3).await.unwrap();
        assert_eq!(seen.commit_index, 3);
        let later = tokio::spawn(Wait::new(published.clone(), LONG).committed(5));
        let leader = tokio::spawn(Wait::new(published, LONG).leader());
        publish.send_replace(status(4));
        publish.send_replace(GroupStatus { leader: NodeId::new(2), ..status(5) });
        assert_eq!(later.await.unwrap().unwrap().commit_index, 5);
        assert_eq!(leader.await.unwrap(), Ok(NodeId::new(2).unwrap()));
        // Nothing is held that the loop would wait for.
        publish.send_replace(status(6));
    }

    #[tokio::test]
    async fn the_error_says_what_was_waited_for_and_what_was_seen_last() {
        let (publish, published) = watch::channel(status(3));
        let timeout = Duration::from_millis(10);
        let error = Wait::new(published.clone(), timeout).committed(4).await.unwrap_err();
        let last = Box::new(status(3));
        let wanted = String::from("commit index 4");
        assert_eq!(error, WaitError::TimedOut { wanted: wanted.clone(), timeout, last });
        assert_eq!(
            error.to_string(),
            "waited 10ms for commit index 4, and saw last: a follower without a leader in term 0, \
             commit index 3, applied index 0, last index 0"
        );

        let fatal = GroupStatus { fatal: Some("the disk failed".to_owned()), ..status(3) };
        let waiting = tokio::spawn(Wait::new(published.clone(), LONG).committed(4));
        publish.send_replace(fatal.clone());
        let stopped = WaitError::Stopped { wanted, last: Box::new(fatal) };
        assert_eq!(waiting.await.unwrap(), Err(stopped.clone()));
        let what = "the end";
        let end = Wait::new(published.clone(), LONG).until(what, |s| s.fatal.is_some()).await;
        assert!(end.is_ok(), "the end is what is waited for");
        drop(publish);
        assert_eq!(Wait::new(published, LONG).committed(4).await, Err(stopped));
    }
}
