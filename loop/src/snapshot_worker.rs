//! [`SnapshotWorker`]: writes images to snapshot files, off the apply path.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};

use quorate_engine::{GroupId, LogId, SnapshotMeta, SnapshotStore};
use quorate_statemachine::StateMachine;

use crate::core::Input;
use crate::inbox::{Event, Inbox};
use crate::replica::{Draft, TakeFailure, described};

/// Images that wait, those of all groups together; more are refused, and come again with the next
/// entries. Each group waits with one at most, which shares what has not changed with the group's
/// newest. Of the other jobs there is no more than one of each kind for a group: the loop founds few
/// groups at a time, and a group has files to be removed only after it was written, or when it ends.
const IMAGES_MAX: usize = 1_024;

/// An image to be written.
pub(crate) struct Take<S: StateMachine> {
    pub(crate) draft: Draft<S>,
    /// Dropped when the file is written, or will not be.
    pub(crate) writing: Arc<()>,
    /// Set to the bytes of the state when the file is written.
    pub(crate) state_bytes: Arc<AtomicU64>,
}

enum Job<S: StateMachine> {
    Take(Take<S>),
    Found(Take<S>),
    Retain(GroupId, LogId),
    Discard(GroupId),
}

/// A handle to the worker's thread. The thread ends with the last handle.
pub(crate) struct SnapshotWorker<S: StateMachine> {
    jobs: Sender<Job<S>>,
    /// Images that wait.
    images: Arc<AtomicUsize>,
}

impl<S: StateMachine> Clone for SnapshotWorker<S> {
    fn clone(&self) -> Self {
        SnapshotWorker { jobs: self.jobs.clone(), images: self.images.clone() }
    }
}

impl<S: StateMachine> SnapshotWorker<S> {
    /// Starts the thread.
    pub(crate) fn start(
        store: SnapshotStore,
        inbox: Inbox<S>,
    ) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel();
        let images = Arc::<AtomicUsize>::default();
        let waiting = images.clone();
        let thread =
            std::thread::Builder::new().name("quorate-snapshot".to_owned()).spawn(move || {
                inbox.guard(|| run(&store, &inbox, &queue, &waiting));
            })?;
        Ok((SnapshotWorker { jobs, images }, thread))
    }

    /// Writes an image. Returns false when the worker is busy: ask again later.
    pub(crate) fn take(&self, take: Take<S>) -> bool {
        if self.images.fetch_add(1, Ordering::Relaxed) >= IMAGES_MAX {
            self.images.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.submit(Job::Take(take));
        true
    }

    /// Writes the first snapshot of a group.
    pub(crate) fn found(&self, take: Take<S>) {
        self.submit(Job::Found(take));
    }

    /// Removes all files of a group.
    pub(crate) fn discard(&self, group: GroupId) {
        self.submit(Job::Discard(group));
    }

    /// Removes the snapshots of a group before `keep`.
    pub(crate) fn retain(&self, group: GroupId, keep: LogId) {
        self.submit(Job::Retain(group, keep));
    }

    fn submit(&self, job: Job<S>) {
        // Should the worker be gone, its fault is in the inbox.
        let _ = self.jobs.send(job);
    }
}

fn run<S: StateMachine>(
    store: &SnapshotStore,
    inbox: &Inbox<S>,
    queue: &mpsc::Receiver<Job<S>>,
    images: &AtomicUsize,
) {
    while let Ok(job) = queue.recv() {
        match job {
            Job::Take(take) => {
                images.fetch_sub(1, Ordering::Relaxed);
                match write(store, take) {
                    Ok(meta) => {
                        inbox.send(Event::Input(meta.group, Input::SnapshotTaken(meta)));
                    }
                    // Also on a full disk, and on one that fails: the log keeps what the snapshot
                    // would have replaced. Nothing is lost, nothing is left behind, and the next
                    // trigger tries again. A disk that fails the log too ends the node by that.
                    Err(error) => tracing::error!(%error, "a snapshot could not be written"),
                }
            }
            Job::Found(take) => {
                let group = take.draft.head.group;
                let taken = write(store, take).map_err(|error| described(&error));
                inbox.send(Event::FirstSnapshot(group, taken));
            }
            Job::Discard(group) => {
                // What is left nobody names: it takes room, and no more.
                if let Err(error) = store.discard(group) {
                    tracing::warn!(%group, %error, "files of a removed group are left");
                }
                inbox.send(Event::Discarded(group));
            }
            Job::Retain(group, keep) => {
                if let Err(error) = store.retain(group, keep) {
                    tracing::warn!(%error, "old snapshots could not be removed");
                }
            }
        }
    }
}

/// Writes a draft, and makes it durable.
pub(crate) fn write<S: StateMachine>(
    store: &SnapshotStore,
    take: Take<S>,
) -> Result<SnapshotMeta, TakeFailure> {
    let Take { draft, writing: _writing, state_bytes } = take;
    let (meta, written) = draft.write(store)?;
    state_bytes.store(written, Ordering::Relaxed);
    Ok(meta)
}
