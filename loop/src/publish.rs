//! [`Publisher`]: from the apply thread to everyone who reads the state.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use quorate_statemachine::{Changes as _, StateMachine};
use tokio::sync::{Notify, watch};

use crate::error::Stopped;

/// An image of the state, and the index up to which it was applied.
#[derive(Debug, Clone)]
pub struct Published<I> {
    /// The state; immutable.
    pub image: I,
    /// The last log index whose effect is in the image.
    pub applied: u64,
}

/// What a watcher is told: the image as of now, and what changed since it was told last.
pub struct Update<S: StateMachine> {
    /// The image after the changes.
    pub published: Arc<Published<S::Image>>,
    /// All that changed since the last update, collapsed into one.
    pub changes: S::Changes,
}

impl<S: StateMachine> std::fmt::Debug for Update<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Update").field("applied", &self.published.applied).finish_non_exhaustive()
    }
}

/// The newest image, and the watchers' mailboxes. Shared by the apply thread, which is the only
/// one that publishes, and all readers.
pub(crate) struct Publisher<S: StateMachine> {
    newest: ArcSwap<Published<S::Image>>,
    applied: watch::Sender<u64>,
    mailboxes: Mutex<Mailboxes<S>>,
}

struct Mailboxes<S: StateMachine> {
    open: Vec<Weak<Mailbox<S>>>,
    stopped: bool,
}

/// Holds at most one update, however slow its owner is.
struct Mailbox<S: StateMachine> {
    update: Mutex<Waiting<S>>,
    arrived: Notify,
}

struct Waiting<S: StateMachine> {
    update: Option<Update<S>>,
    stopped: bool,
}

impl<S: StateMachine> Publisher<S> {
    pub(crate) fn new(image: S::Image, applied: u64) -> Self {
        Publisher {
            newest: ArcSwap::from_pointee(Published { image, applied }),
            applied: watch::Sender::new(applied),
            mailboxes: Mutex::new(Mailboxes { open: Vec::new(), stopped: false }),
        }
    }

    /// The newest image. Lock-free.
    pub(crate) fn newest(&self) -> Arc<Published<S::Image>> {
        self.newest.load_full()
    }

    /// Whether all up to `index` is applied, and the watchers were told: the image is there a moment before that.
    pub(crate) fn has_applied(&self, index: u64) -> bool {
        *self.applied.borrow() >= index
    }

    /// The applied index, to wait on.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Makes an image the newest one and tells everyone, watchers only of changes.
    pub(crate) fn publish(&self, image: S::Image, applied: u64, changes: S::Changes) {
        let published = Arc::new(Published { image, applied });
        // The mailboxes are locked around the swap, so that a new watcher begins either before
        // this image, and gets its changes, or with it.
        let mut mailboxes = lock(&self.mailboxes);
        self.newest.store(published.clone());
        if !changes.is_empty() {
            mailboxes.open.retain(|mailbox| match mailbox.upgrade() {
                Some(mailbox) => {
                    mailbox.deliver(published.clone(), changes.clone());
                    true
                }
                None => false,
            });
        }
        drop(mailboxes);
        self.applied.send_replace(applied);
    }

    /// Nothing is published any more: watchers are told when they have seen what there is.
    pub(crate) fn stop(&self) {
        let mut mailboxes = lock(&self.mailboxes);
        mailboxes.stopped = true;
        for mailbox in mailboxes.open.drain(..).filter_map(|mailbox| mailbox.upgrade()) {
            lock(&mailbox.update).stopped = true;
            mailbox.arrived.notify_one();
        }
    }

    /// A watch that begins with the newest image.
    pub(crate) fn watch(&self) -> Updates<S> {
        let mut mailboxes = lock(&self.mailboxes);
        let waiting = Waiting { update: None, stopped: mailboxes.stopped };
        let mailbox = Arc::new(Mailbox { update: Mutex::new(waiting), arrived: Notify::new() });
        let start = self.newest();
        mailboxes.open.push(Arc::downgrade(&mailbox));
        Updates { start, mailbox }
    }
}

impl<S: StateMachine> Mailbox<S> {
    fn deliver(&self, published: Arc<Published<S::Image>>, changes: S::Changes) {
        let mut waiting = lock(&self.update);
        match &mut waiting.update {
            Some(update) => {
                update.published = published;
                update.changes.merge(changes);
            }
            None => waiting.update = Some(Update { published, changes }),
        }
        self.arrived.notify_one();
    }
}

/// A gap-free watch on the state: a first image, then every change after it, collapsed when the
/// watcher is slower than the changes.
pub struct Updates<S: StateMachine> {
    start: Arc<Published<S::Image>>,
    mailbox: Arc<Mailbox<S>>,
}

impl<S: StateMachine> Updates<S> {
    /// The image that the first update follows.
    pub fn start(&self) -> &Arc<Published<S::Image>> {
        &self.start
    }

    /// The next update: everything that changed since the last one.
    ///
    /// Cancel safe: an update that was not returned is merged into the next.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has stopped and every change before that was returned.
    pub async fn next(&mut self) -> Result<Update<S>, Stopped> {
        loop {
            {
                let mut waiting = lock(&self.mailbox.update);
                if let Some(update) = waiting.update.take() {
                    return Ok(update);
                }
                if waiting.stopped {
                    return Err(Stopped);
                }
            }
            self.mailbox.arrived.notified().await;
        }
    }
}

impl<S: StateMachine> std::fmt::Debug for Updates<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Updates").field("start", &self.start.applied).finish_non_exhaustive()
    }
}

/// Critical sections here move values; none can panic half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
