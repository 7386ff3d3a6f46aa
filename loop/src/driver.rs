//! [`Driver`]: the loop thread. It feeds the cores of all groups and carries out their effects.
//!
//! It is woken by events, and once a tick by the clock; it waits for nothing else. One round: step
//! everything that waits, take the effects of every group that was touched, give all their writes to
//! the log writer in one piece, and carry out the rest.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use quorate_engine::{Disk, GroupId, LogReader, NodeId, SnapshotStore};
use quorate_statemachine::StateMachine;

use crate::apply::ApplyWork;
use crate::bootstrap::{Bootstrap, Founded};
use crate::config::LoopConfig;
use crate::core::{Apply, Core, Input};
use crate::error::ProposeError;
use crate::founding::Founding;
use crate::frame::{Frame, RefusalCode};
use crate::groups::Groups;
use crate::inbox::{Event, Inbox, panic_text};
use crate::log_writer::{self, LogWork};
use crate::members::Binding;
use crate::membership::MembershipError;
use crate::message::Envelope;
use crate::purges::Purges;
use crate::slot::{GroupEffects, answer};
use crate::snapshot_sends::SnapshotSends;
use crate::snapshot_worker::SnapshotWorker;
use crate::transport::{LinkEvent, SharedRoster, Transport};

/// Events stepped before the effects are taken: what is ready by then shares one batch.
const EVENTS_PER_ROUND: usize = 4_096;

/// The addresses of all voters, by node.
pub(crate) type Addresses = BTreeMap<NodeId, String>;

/// What the loop thread owns.
pub(crate) struct Driver<S: StateMachine> {
    /// The group that is founded with the node, and without which no other begins.
    pub(crate) first: GroupId,
    pub(crate) node: NodeId,
    pub(crate) config: LoopConfig,
    /// Differs between two runs of the node.
    pub(crate) run: u32,
    /// Every group of this node, begun or not.
    pub(crate) groups: Groups<S>,
    pub(crate) events: mpsc::Receiver<Event<S>>,
    pub(crate) inbox: Inbox<S>,
    pub(crate) apply: mpsc::Sender<(GroupId, ApplyWork<S>)>,
    pub(crate) log: mpsc::Sender<LogWork>,
    pub(crate) worker: SnapshotWorker<S>,
    pub(crate) reader: LogReader,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) sends: SnapshotSends<S>,
    pub(crate) transport: Arc<Transport>,
    pub(crate) roster: SharedRoster,
    /// Bytes of the log on disk; the log writer sets it.
    pub(crate) log_disk_bytes: Arc<AtomicU64>,
    pub(crate) purges: Purges,
}

/// Why the loop ended.
enum End {
    Stopped,
    Fatal(String),
}

impl End {
    /// What all who wait are told.
    fn error(&self) -> ProposeError {
        match self {
            End::Stopped => ProposeError::ShutDown,
            End::Fatal(reason) => ProposeError::Fatal(reason.clone()),
        }
    }
}

impl<S: StateMachine> Driver<S> {
    /// Founds the first group if that is not done, then serves all, until the node is stopped or
    /// cannot go on. Every caller that waits by then is answered.
    pub(crate) fn run<F: Disk + 'static>(mut self, bootstrap: Bootstrap<F>) {
        // A group's panic is caught where it is stepped; this is for the loop's own.
        let ended = catch_unwind(AssertUnwindSafe(|| self.found_and_serve(bootstrap)));
        let error = ended.unwrap_or_else(|p| End::Fatal(panic_text(&*p))).error();
        self.groups.stop_all(&error);
        self.transport.stop();
        while let Ok(event) = self.events.try_recv() {
            if let Event::Input(_, Input::Propose { caller, .. }) = event {
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
        let Bootstrap { writer, founding, queue, others, .. } = bootstrap;
        let (inbox, disk_bytes) = (self.inbox.clone(), self.log_disk_bytes.clone());
        let writing = std::thread::Builder::new()
            .name("quorate-log-writer".to_owned())
            .spawn(move || inbox.guard(|| log_writer::run(writer, &queue, &inbox, &disk_bytes)));
        let writing = match writing {
            Ok(writing) => writing,
            Err(error) => return End::Fatal(format!("cannot start a thread: {error}")),
        };
        for founded in std::iter::once(founded).chain(others) {
            self.begin(founded);
        }
        let end = self.serve(&founding);
        self.groups.stop_all(&end.error());
        // The writer finishes what it was given, and closes the log.
        let _ = self.log.send(LogWork::Close);
        match (end, writing.join()) {
            (End::Stopped, Ok(Some(Err(error)))) => End::Fatal(error.to_string()),
            (end, _) => end,
        }
    }

    /// A group begins, whose log and members are durable.
    fn begin(&mut self, founded: Founded) {
        let Founded { log, members, restore } = founded;
        let group = log.group();
        if let Some(id) = restore {
            // Should the apply thread be gone, its fault is in the inbox.
            let _ = self.apply.send((group, ApplyWork::Apply(Apply::Restore(id))));
        }
        let (node_id, directory_id) = (self.node, self.roster.load().directory);
        let own = Binding { node_id, directory_id, incarnation: 0 };
        let core = match members.of_binding(own).map(|member| member.member_id) {
            Some(own_id) => {
                Core::new(group, own_id, Arc::new(members), log, self.config.clone(), self.run)
            }
            None => Err(format!("node {node_id} is no member of group {group}")),
        };
        match core {
            Ok(core) => self.groups.begin(group, core),
            Err(reason) => self.groups.fail(group, &reason),
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
                Ok(Event::Input(_, Input::Propose { caller, .. })) => {
                    self.inbox.taken();
                    let _ = caller.send(Err(ProposeError::NotLeader { leader: None }));
                }
                Ok(Event::Input(_, Input::Read { caller })) => {
                    self.inbox.taken();
                    let _ = caller.send(Err(crate::error::ReadError::TimedOut));
                }
                Ok(Event::Input(_, Input::Membership { caller, .. })) => {
                    self.inbox.taken();
                    let _ = caller.send(Err(MembershipError::NotLeader { leader: None }));
                }
                Ok(Event::Contacts(..)) => self.inbox.taken(),
                Ok(Event::Failed(group, reason)) if group == self.first => return Err(reason),
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

    fn serve(&mut self, founding: &Founding) -> End {
        let tick = Duration::from_millis(self.config.tick_ms);
        let mut next_tick = Instant::now() + tick;
        loop {
            self.carry_out();
            if let Some(end) = self.end_failed() {
                return end;
            }
            // Where there is more to do at once, ticks and peers are heard in between.
            let wait = match self.groups.is_any_touched() {
                true => Duration::ZERO,
                false => next_tick.saturating_duration_since(Instant::now()),
            };
            if let Err(end) = self.next_events(founding, wait) {
                return end;
            }
            let now = Instant::now();
            if now >= next_tick {
                self.groups.tick();
                // A process that was suspended ticks once, not once for every tick it missed.
                next_tick = if now > next_tick + tick { now + tick } else { next_tick + tick };
            }
        }
    }

    /// Groups that have failed are gone for the apply thread too. With the last one the node ends.
    fn end_failed(&mut self) -> Option<End> {
        let failed = self.groups.take_failed();
        let (_, reason) = failed.last()?;
        let end = (!self.groups.is_any_running()).then(|| End::Fatal(reason.clone()));
        for (group, _) in failed {
            let _ = self.apply.send((group, ApplyWork::End));
        }
        end
    }

    /// Waits for an event, and steps it with all that came meanwhile.
    fn next_events(&mut self, founding: &Founding, wait: Duration) -> Result<(), End> {
        let mut event = match self.events.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(End::Stopped),
        };
        for _ in 0..EVENTS_PER_ROUND {
            self.step(founding, event)?;
            match self.events.try_recv() {
                Ok(next) => event = next,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn step(&mut self, founding: &Founding, event: Event<S>) -> Result<(), End> {
        match event {
            Event::Input(group, input) => {
                match &input {
                    Input::Propose { .. } | Input::Read { .. } | Input::Membership { .. } => {
                        self.inbox.taken();
                    }
                    // The disk's fault, and the disk is that of all.
                    Input::Fetched(fetched) => {
                        if let Err(error) = &fetched.result
                            && error.is_fatal()
                        {
                            return Err(End::Fatal(error.to_string()));
                        }
                    }
                    _ => {}
                }
                self.groups.step(group, input);
            }
            Event::Contacts(group, caller) => {
                self.inbox.taken();
                // A caller that has gone needs no answer.
                let _ = caller.send(self.groups.contacts(group));
            }
            Event::Durable(receipts) => {
                for durable in receipts {
                    self.groups.step(durable.group(), Input::Durable(durable));
                }
            }
            Event::Peer { from, group, message, permit } => {
                self.groups.step(group, Input::Peer { from, message });
                drop(permit);
            }
            Event::Founding { from, news, permit, .. } => {
                drop(permit);
                if news.asks {
                    self.tell(from, founding, false);
                }
            }
            Event::Link(LinkEvent::Down(node)) => self.groups.unreachable(node),
            Event::Link(LinkEvent::Refused { .. }) => {} // The dialler has logged it.
            Event::SnapshotSent => self.sends.ended(),
            Event::HeldBack(groups) => {
                for group in groups {
                    self.groups.step(group, Input::CompactionWanted);
                }
            }
            Event::Failed(group, reason) => self.groups.fail(group, &reason),
            Event::Fault(reason) => return Err(End::Fatal(reason)),
            Event::Stop => return Err(End::Stopped),
        }
        Ok(())
    }

    /// Does what the touched groups want, their writes first: they take longest.
    fn carry_out(&mut self) {
        let mut all = self.groups.take_effects();
        let writes: Vec<_> =
            all.iter_mut().filter_map(|(_, effects)| effects.write.take()).collect();
        if !writes.is_empty() {
            // Should the writer be gone, its fault is in the inbox.
            let _ = self.log.send(LogWork::Write(writes));
        }
        let disk_bytes = self.log_disk_bytes.load(Ordering::Relaxed);
        let mut purges = self.purges.is_due(disk_bytes);
        for (group, effects) in all {
            purges |= effects.retain.is_some();
            self.carry_out_for(group, effects);
            self.groups.carried_out(group, disk_bytes);
        }
        self.groups.publish_disk_bytes(self.first, disk_bytes);
        if purges {
            self.purge();
        }
    }

    fn carry_out_for(&mut self, group: GroupId, mut effects: GroupEffects<S>) {
        for envelope in effects.messages.drain(..) {
            self.send(group, envelope);
        }
        for envelope in effects.snapshots.drain(..) {
            self.sends.send(group, envelope);
        }
        for work in effects.apply.drain(..) {
            // As above.
            let _ = self.apply.send((group, ApplyWork::Apply(work)));
        }
        if effects.snapshot_wanted {
            let _ = self.apply.send((group, ApplyWork::TakeSnapshot));
        }
        for fetch in effects.fetches.drain(..) {
            let inbox = self.inbox.clone();
            let done = move |fetched| inbox.send(Event::Input(group, Input::Fetched(fetched)));
            // A full queue: raft-rs asks again with the next heartbeat's answer.
            if let Err(error) = self.reader.fetch(fetch, done) {
                tracing::debug!(%error, "entries were not fetched");
            }
        }
        if let Some(keep) = effects.retain {
            self.worker.retain(group, keep);
        }
        answer(effects);
    }

    fn send(&mut self, group: GroupId, envelope: Envelope) {
        let Envelope { to, message } = envelope;
        let frame = Frame::Peer { group, message };
        if let Err(Frame::Peer { message, .. }) = self.transport.send(to, frame) {
            self.groups.step(group, Input::Undelivered(Envelope { to, message }));
        }
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
}
