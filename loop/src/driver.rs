//! [`Driver`]: the loop thread. It feeds the core and carries out its effects.
//!
//! It is woken by events, and once a tick by the clock; it waits for nothing else.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use quorate_engine::{Disk, GroupId, LogReader, NodeId};
use quorate_statemachine::StateMachine;
use tokio::sync::watch;

use crate::apply::ApplyWork;
use crate::bootstrap::{Bootstrap, Founded};
use crate::config::LoopConfig;
use crate::core::{Apply, Core, Effects, Input};
use crate::error::ProposeError;
use crate::founding::Founding;
use crate::frame::{Frame, RefusalCode};
use crate::inbox::{Caller, Event, Inbox, ProposeCaller, ReadCaller, panic_text};
use crate::log_writer;
use crate::message::{Envelope, PeerMessage};
use crate::snapshot_worker::SnapshotWorker;
use crate::status::{GroupStatus, Role};
use crate::transport::{LinkEvent, Outgoing, Sending, SharedRoster, Transport};

/// Events stepped before the effects are taken: what is ready by then shares one batch.
const EVENTS_PER_ROUND: usize = 4_096;

type GroupCore<S> = Core<ProposeCaller<S>, ReadCaller>;

/// What the loop thread owns beside the core.
pub(crate) struct Driver<S: StateMachine> {
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) config: LoopConfig,
    /// Differs between two runs of the node.
    pub(crate) run: u32,
    pub(crate) events: mpsc::Receiver<Event<S>>,
    pub(crate) inbox: Inbox<S>,
    pub(crate) apply: mpsc::Sender<ApplyWork<S>>,
    pub(crate) worker: SnapshotWorker<S>,
    pub(crate) reader: LogReader,
    pub(crate) snapshots: quorate_engine::SnapshotStore,
    pub(crate) transport: Arc<Transport>,
    pub(crate) roster: SharedRoster,
    pub(crate) sending: Sending,
    pub(crate) status: watch::Sender<GroupStatus>,
    /// Bytes of the log on disk; the log writer sets it.
    pub(crate) log_disk_bytes: Arc<AtomicU64>,
    pub(crate) purges: Purges,
}

/// Why the loop ended.
enum End {
    Stopped,
    Fatal(String),
}

impl<S: StateMachine> Driver<S> {
    /// Founds the group if that is not done, then serves it, until it is stopped or cannot go on.
    /// Every caller that waits by then is answered.
    pub(crate) fn run<F: Disk + 'static>(mut self, bootstrap: Bootstrap<F>) {
        // raft-rs panics where it cannot go on. The panic ends this group and not the process:
        // nothing that it left half done is used again.
        let ended = catch_unwind(AssertUnwindSafe(|| self.found_and_serve(bootstrap)));
        let error = self.last_words(&ended.unwrap_or_else(|p| End::Fatal(panic_text(&*p))));
        self.transport.stop();
        while let Ok(event) = self.events.try_recv() {
            if let Event::Input(Input::Propose { caller, .. }) = event {
                // A caller that has gone needs no answer.
                let _ = caller.send(Err(error.clone()));
            }
        }
    }

    fn found_and_serve<F: Disk + 'static>(&mut self, mut bootstrap: Bootstrap<F>) -> End {
        let founded = match self.found(&mut bootstrap) {
            Ok(Some(founded)) => founded,
            Ok(None) => return End::Stopped,
            Err(reason) => return End::Fatal(reason),
        };
        let Bootstrap { writer, founding, .. } = bootstrap;
        let (writes, queue) = mpsc::channel();
        let (inbox, disk_bytes) = (self.inbox.clone(), self.log_disk_bytes.clone());
        let writing = std::thread::Builder::new()
            .name("quorate-log-writer".to_owned())
            .spawn(move || inbox.guard(|| log_writer::run(writer, &queue, &inbox, &disk_bytes)));
        let writing = match writing {
            Ok(writing) => writing,
            Err(error) => return End::Fatal(format!("cannot start a thread: {error}")),
        };
        let Founded { log, members, restore } = founded;
        if let Some(id) = restore {
            // Should the apply thread be gone, its fault is in the inbox.
            let _ = self.apply.send(ApplyWork::Apply(Apply::Restore(id)));
        }
        let core =
            Core::new(self.group, self.node, Arc::new(members), log, self.config.clone(), self.run);
        let end = match core {
            Ok(mut core) => self.serve(&mut core, &founding, &writes),
            Err(reason) => End::Fatal(reason),
        };
        // The writer finishes what it was given, and closes the log.
        drop(writes);
        match (end, writing.join()) {
            (End::Stopped, Ok(Some(Err(error)))) => End::Fatal(error.to_string()),
            (end, _) => end,
        }
    }

    /// Brings the founding to its end, however long the other voters take. `None`: stopped.
    fn found<F: Disk + 'static>(
        &mut self,
        bootstrap: &mut Bootstrap<F>,
    ) -> Result<Option<Founded>, String> {
        let mut next_tick = Instant::now();
        loop {
            bootstrap.advance::<S>(&self.snapshots)?;
            let founding = &bootstrap.founding;
            if let Some(bindings) = founding.bindings() {
                let roster = self.roster.load().bound(bindings, founding.is_complete());
                self.roster.store(Arc::new(roster));
            }
            if founding.is_complete() {
                self.tell_all(founding, false);
                return bootstrap.take_founded().map(Some);
            }
            let now = Instant::now();
            if now >= next_tick {
                self.tell_all(founding, true);
                next_tick = now + Duration::from_millis(self.config.tick_ms);
            }
            match self.events.recv_timeout(next_tick.saturating_duration_since(now)) {
                Ok(Event::Founding { from, directory, news, permit }) => {
                    drop(permit);
                    let heard = bootstrap.founding.hear(from, directory, &news);
                    heard.map_err(|error| error.to_string())?;
                    if news.asks {
                        self.tell(from, &bootstrap.founding, false);
                    }
                }
                Ok(Event::Link(LinkEvent::Refused {
                    by,
                    code: RefusalCode::ReplacedDirectory,
                    message,
                })) => {
                    return Err(format!("refused by node {by}: {message}"));
                }
                Ok(Event::Input(Input::Propose { caller, .. })) => {
                    self.inbox.taken();
                    let _ = caller.send(Err(ProposeError::NotLeader { leader: None }));
                }
                Ok(Event::Input(Input::Read { caller })) => {
                    self.inbox.taken();
                    let _ = caller.send(Err(crate::error::ReadError::TimedOut));
                }
                Ok(Event::Fault(reason)) => return Err(reason),
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn tell_all(&self, founding: &Founding, asks: bool) {
        for peer in self.transport.peers() {
            self.tell(peer, founding, asks);
        }
    }

    fn tell(&self, peer: NodeId, founding: &Founding, asks: bool) {
        // One that is not connected asks when it is.
        let _ = self.transport.send(peer, Frame::Founding(founding.news(asks)));
    }

    fn serve(
        &mut self,
        core: &mut GroupCore<S>,
        founding: &Founding,
        writes: &mpsc::Sender<quorate_engine::GroupWrite>,
    ) -> End {
        let tick = Duration::from_millis(self.config.tick_ms);
        let mut next_tick = Instant::now() + tick;
        let end = loop {
            if let Err(reason) = self.carry_out(core, writes) {
                break End::Fatal(reason);
            }
            self.publish_status(core);
            // Where there is more to do at once, ticks and peers are heard in between.
            let wait = match core.has_more() {
                true => Duration::ZERO,
                false => next_tick.saturating_duration_since(Instant::now()),
            };
            match self.next_events(core, founding, wait) {
                Ok(()) => {}
                Err(end) => break end,
            }
            let now = Instant::now();
            if now >= next_tick {
                core.step(Input::Tick);
                // A process that was suspended ticks once, not once for every tick it missed.
                next_tick = if now > next_tick + tick { now + tick } else { next_tick + tick };
            }
        };
        let error = self.last_words(&end);
        answer(core.end(&error));
        end
    }

    /// Puts the reason into the status, before anyone who asks for it is answered.
    fn last_words(&self, end: &End) -> ProposeError {
        let End::Fatal(reason) = end else { return ProposeError::ShutDown };
        self.status.send_if_modified(|status| {
            let first = status.fatal.is_none();
            if first {
                tracing::error!(group = %self.group, reason, "the group has stopped for good");
                status.fatal = Some(reason.clone());
                (status.role, status.leader) = (Role::Follower, None);
            }
            first
        });
        ProposeError::Fatal(reason.clone())
    }

    /// Waits for an event, and steps it with all that came meanwhile.
    fn next_events(
        &self,
        core: &mut GroupCore<S>,
        founding: &Founding,
        wait: Duration,
    ) -> Result<(), End> {
        let mut event = match self.events.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(End::Stopped),
        };
        for _ in 0..EVENTS_PER_ROUND {
            self.step(core, founding, event)?;
            match self.events.try_recv() {
                Ok(next) => event = next,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn step(
        &self,
        core: &mut GroupCore<S>,
        founding: &Founding,
        event: Event<S>,
    ) -> Result<(), End> {
        match event {
            Event::Input(input) => {
                if matches!(input, Input::Propose { .. } | Input::Read { .. }) {
                    self.inbox.taken();
                }
                core.step(input);
            }
            Event::Peer { from, group, message, permit } => {
                if group == self.group {
                    core.step(Input::Peer { from, message });
                }
                drop(permit);
            }
            Event::Founding { from, news, permit, .. } => {
                drop(permit);
                if news.asks {
                    self.tell(from, founding, false);
                }
            }
            Event::Link(LinkEvent::Down(node)) => {
                core.step(Input::Unreachable(node));
            }
            Event::Link(LinkEvent::Refused { .. }) => {} // The dialler has logged it.
            Event::HeldBack(groups) => {
                if groups.contains(&self.group) {
                    core.step(Input::CompactionWanted);
                }
            }
            Event::Fault(reason) => return Err(End::Fatal(reason)),
            Event::Stop => return Err(End::Stopped),
        }
        Ok(())
    }

    /// Does what the core wants.
    fn carry_out(
        &self,
        core: &mut GroupCore<S>,
        writes: &mpsc::Sender<quorate_engine::GroupWrite>,
    ) -> Result<(), String> {
        let mut effects = core.effects();
        if let Some(reason) = effects.fatal.take() {
            answer(effects);
            return Err(reason);
        }
        if let Some(write) = effects.write.take() {
            // Should the writer be gone, its fault is in the inbox.
            let _ = writes.send(write);
        }
        for envelope in effects.messages.drain(..) {
            self.send(core, envelope);
        }
        for envelope in effects.snapshots.drain(..) {
            self.send_snapshot(envelope);
        }
        for work in effects.apply.drain(..) {
            // As above.
            let _ = self.apply.send(ApplyWork::Apply(work));
        }
        if effects.snapshot_wanted {
            let _ = self.apply.send(ApplyWork::TakeSnapshot);
        }
        for fetch in effects.fetches.drain(..) {
            let inbox = self.inbox.clone();
            let done = move |fetched| inbox.send(Event::Input(Input::Fetched(fetched)));
            // A full queue: raft-rs asks again with the next heartbeat's answer.
            if let Err(error) = self.reader.fetch(fetch, done) {
                tracing::debug!(%error, "entries were not fetched");
            }
        }
        if let Some(keep) = effects.retain {
            self.worker.retain(self.group, keep);
            self.purge();
        }
        answer(effects);
        Ok(())
    }

    fn send(&self, core: &mut GroupCore<S>, envelope: Envelope) {
        let Envelope { to, message } = envelope;
        let frame = Frame::Peer { group: self.group, message };
        if let Err(Frame::Peer { message, .. }) = self.transport.send(to, frame) {
            core.step(Input::Undelivered(Envelope { to, message }));
        }
    }

    /// However it ends, the core is told, or the peer would wait for ever (trap R11).
    fn send_snapshot(&self, envelope: Envelope) {
        let PeerMessage::Raft(message) = envelope.message else { return };
        let (to, inbox) = (envelope.to, self.inbox.clone());
        let report = move |received| {
            inbox.send(Event::Input(Input::SnapshotSent { to, received }));
        };
        self.sending.send(Outgoing { to, group: self.group, message }, report);
    }

    fn purge(&self) {
        let inbox = self.inbox.clone();
        let purged = self.reader.purge(move |result| match result {
            Ok(groups) if groups.is_empty() => {}
            Ok(groups) => inbox.send(Event::HeldBack(groups)),
            Err(error) if error.is_fatal() => inbox.send(Event::Fault(error.to_string())),
            Err(error) => tracing::warn!(%error, "the log's old files could not be removed"),
        });
        if let Err(error) = purged {
            tracing::debug!(%error, "the log was not purged; the next snapshot asks again");
        }
    }

    fn publish_status(&mut self, core: &GroupCore<S>) {
        let disk_bytes = self.log_disk_bytes.load(Ordering::Relaxed);
        if self.purges.is_due(disk_bytes) {
            self.purge();
        }
        let new = GroupStatus::serving(core.status(), disk_bytes);
        self.status.send_if_modified(|status| {
            let modified = *status != new;
            if modified {
                *status = new;
            }
            modified
        });
    }
}

/// When the log's files must be looked through, beside after every snapshot: whenever they have
/// grown by a quarter of what they may take.
#[derive(Debug)]
pub(crate) struct Purges {
    threshold: u64,
    purged_at: u64,
}

impl Purges {
    /// Files may take `threshold` bytes altogether.
    pub(crate) fn new(threshold: u64) -> Self {
        Purges { threshold, purged_at: threshold - threshold / 4 }
    }

    fn is_due(&mut self, disk_bytes: u64) -> bool {
        let least = self.threshold - self.threshold / 4;
        self.purged_at = self.purged_at.min(disk_bytes).max(least);
        let is_due = disk_bytes >= self.purged_at + self.threshold / 4;
        if is_due {
            self.purged_at = disk_bytes;
        }
        is_due
    }
}

/// Tells callers what the core has to tell them. One that has gone needs no answer.
fn answer<O>(effects: Effects<Caller<O>, ReadCaller>) {
    for (caller, error) in effects.failed {
        let _ = caller.send(Err(error));
    }
    for (caller, result) in effects.reads {
        let _ = caller.send(result);
    }
}

/// The addresses of all voters, by node.
pub(crate) type Addresses = BTreeMap<NodeId, String>;
