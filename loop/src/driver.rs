//! [`Driver`]: the loop thread. It feeds the cores of all groups and carries out their effects.
//!
//! It is woken by events, and once a tick by the clock; it waits for nothing else. One round: step
//! everything that waits, take the effects of every group that was touched, give all their writes to
//! the log writer in one piece, and carry out the rest.

mod founding;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use quorate_engine::{Disk, GroupId, GroupLog, Identity, LogReader, NodeId, SnapshotStore};
use quorate_statemachine::StateMachine;

use crate::apply::ApplyWork;
use crate::bootstrap::{Bootstrap, Founded};
use crate::campaigns::Campaigns;
use crate::catalogue::Catalogue;
use crate::config::LoopConfig;
use crate::core::{Apply, Core, Input};
use crate::entrances::Entrances;
use crate::error::ProposeError;
use crate::founding::Founding;
use crate::frame::{Frame, RefusalCode};
use crate::groups::Groups;
use crate::heartbeats::{Heard, Heartbeats};
use crate::inbox::{Event, Inbox, panic_text};
use crate::joining::LetIn;
use crate::log_writer::{self, LogWork};
use crate::members::{Member, Members};
use crate::message::{Envelope, PeerMessage};
use crate::meters::Meters;
use crate::purges::Purges;
use crate::reconcile::Reconcile;
use crate::registry::Registry;
use crate::slot::{GroupEffects, answer, is_request};
use crate::snapshot_worker::SnapshotWorker;
use crate::transport::{LinkEvent, Outgoing, Sending, SharedRoster, Transport};
use crate::turnover::Turnover;

/// Events stepped before the effects are taken: what is ready by then shares one batch.
const EVENTS_PER_ROUND: usize = 4_096;

/// The addresses of all voters, by node.
pub(crate) type Addresses = BTreeMap<NodeId, String>;

/// What the loop thread owns.
pub(crate) struct Driver<S: StateMachine> {
    /// The group that is founded with the node, and without which no other begins.
    pub(crate) first: GroupId,
    pub(crate) node: NodeId,
    pub(crate) identity: Identity,
    pub(crate) config: LoopConfig,
    /// Differs between two runs of the node.
    pub(crate) run: u32,
    /// Every group of this node, begun or not.
    pub(crate) groups: Groups<S>,
    pub(crate) registry: Registry<S>,
    pub(crate) turnover: Turnover,
    pub(crate) reconcile: Reconcile,
    pub(crate) members: SharedMembers,
    pub(crate) events: mpsc::Receiver<Event<S>>,
    pub(crate) inbox: Inbox<S>,
    pub(crate) apply: mpsc::Sender<(GroupId, ApplyWork<S>)>,
    pub(crate) log: mpsc::Sender<LogWork>,
    pub(crate) worker: SnapshotWorker<S>,
    pub(crate) reader: LogReader,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) entrances: Entrances<S>,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) campaigns: Campaigns,
    pub(crate) transport: Arc<Transport>,
    pub(crate) roster: SharedRoster,
    pub(crate) sending: Sending,
    pub(crate) meters: Arc<Meters>,
    pub(crate) purges: Purges,
}

/// The member table that was seen last. The groups of a node often have the same members, and there
/// may be thousands of groups: they share one table.
#[derive(Debug, Default)]
pub(crate) struct SharedMembers(Arc<Members>);

impl SharedMembers {
    pub(crate) fn shared(&mut self, members: Arc<Members>) -> Arc<Members> {
        if self.0 != members {
            self.0 = members;
        }
        self.0.clone()
    }
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
        let first = match &bootstrap.founding {
            Some(_) => match self.found(&mut bootstrap) {
                Ok(Some(founded)) => Some(founded),
                Ok(None) => return End::Stopped,
                Err(reason) => return End::Fatal(reason),
            },
            // It has joined, or waits to be let in.
            None => bootstrap.founded.take(),
        };
        let Bootstrap { writer, founding, queue, .. } = bootstrap;
        let (inbox, meters) = (self.inbox.clone(), self.meters.clone());
        let writing = std::thread::Builder::new()
            .name("quorate-log-writer".to_owned())
            .spawn(move || inbox.guard(|| log_writer::run(writer, &queue, &inbox, &meters)));
        let writing = match writing {
            Ok(writing) => writing,
            Err(error) => return End::Fatal(format!("cannot start a thread: {error}")),
        };
        // The others begin when the first one says which there are.
        match first {
            Some(first) => self.begin(first),
            None => self.begin_found(),
        }
        let end = self.serve(founding.as_ref());
        self.groups.stop_all(&end.error());
        // The writer finishes what it was given, and closes the log.
        let _ = self.log.send(LogWork::Close);
        match (end, writing.join()) {
            (End::Stopped, Ok(Some(Err(error)))) => End::Fatal(error.to_string()),
            (end, _) => end,
        }
    }

    /// A group begins, whose log and members are durable.
    pub(crate) fn begin(&mut self, founded: Founded) {
        let Founded { log, members, catalogue, own_id, restore } = founded;
        let group = log.group();
        if group == self.first {
            self.follow(&members);
        }
        self.entrances.mend_address(group, members.get(own_id));
        if let Some(id) = restore {
            // Should the apply thread be gone, its fault is in the inbox.
            let _ = self.apply.send((group, ApplyWork::Apply(Apply::Restore(id))));
        }
        let members = self.members.shared(members);
        let standing = (members, catalogue);
        match Core::new(group, own_id, standing, log, self.config.clone(), self.run) {
            Ok(core) => self.groups.begin(group, core),
            Err(reason) => self.groups.fail(group, &reason),
        }
    }

    /// These are the members of the first group, and so the nodes that this one talks to.
    fn follow(&self, members: &Members) {
        self.roster.store(Arc::new(self.roster.load().among(members)));
        self.transport.follow_roster();
    }

    /// A group that this node waited for has let it in, or will not.
    fn entered(&mut self, group: GroupId, result: Result<LetIn, String>) -> Result<(), End> {
        if self.groups.is_running(group) || !self.groups.contains(group) {
            // It was removed meanwhile.
            return Ok(());
        }
        match result {
            Ok(LetIn { member_id: own_id, members }) => {
                tracing::info!(%group, member_id = own_id, "this node was let in");
                let log = GroupLog::blank(group, self.turnover.cache());
                let catalogue = Catalogue::default();
                self.begin(Founded { log, members, catalogue, own_id, restore: None });
                Ok(())
            }
            Err(why) if group == self.first => Err(End::Fatal(why)),
            Err(why) => {
                self.groups.fail(group, &why);
                Ok(())
            }
        }
    }

    fn serve(&mut self, founding: Option<&Founding>) -> End {
        let tick = Duration::from_millis(self.config.tick_ms);
        let mut next_tick = Instant::now() + tick;
        // What comes first is all that was found committed: nothing is heard before that, and the state
        // machines go on with a part while the next is taken.
        while self.groups.is_any_beginning() {
            self.carry_out();
        }
        loop {
            self.carry_out();
            if let Some(end) = self.end_failed() {
                return end;
            }
            // Where there is more to do at once, ticks and peers are heard in between.
            let wait = match self.groups.is_any_touched() {
                true => Duration::ZERO,
                false => {
                    let next = self.campaigns.next_at().map_or(next_tick, |at| at.min(next_tick));
                    next.saturating_duration_since(Instant::now())
                }
            };
            if let Err(end) = self.next_events(founding, wait) {
                return end;
            }
            let now = Instant::now();
            while let Some(group) = self.campaigns.take_due(now) {
                self.groups.step(group, Input::Campaign);
            }
            if now >= next_tick {
                self.groups.tick(&mut self.heartbeats);
                self.tick_reconcile();
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
    fn next_events(&mut self, founding: Option<&Founding>, wait: Duration) -> Result<(), End> {
        let event = match self.events.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(End::Stopped),
        };
        self.step(founding, event)?;
        for _ in 1..EVENTS_PER_ROUND {
            let Ok(event) = self.events.try_recv() else { break };
            self.step(founding, event)?;
        }
        Ok(())
    }

    fn step(&mut self, founding: Option<&Founding>, event: Event<S>) -> Result<(), End> {
        match event {
            Event::Input(group, input) => {
                if is_request(&input) {
                    self.inbox.taken();
                }
                // The disk's fault, and the disk is that of all.
                if let Input::Fetched(fetched) = &input
                    && let Err(error) = &fetched.result
                    && error.is_fatal()
                {
                    return Err(End::Fatal(error.to_string()));
                }
                self.groups.step(group, input);
            }
            Event::LastAnswers(group, caller) => {
                self.inbox.taken();
                // A caller that has gone needs no answer.
                let _ = caller.send(self.groups.last_answers(group));
            }
            Event::Durable(receipts) => {
                for durable in receipts {
                    if !self.has_come(&durable) {
                        self.groups.step(durable.group(), Input::Durable(durable));
                    }
                }
            }
            Event::FirstSnapshot(group, taken) => self.first_snapshot_taken(group, taken),
            Event::Removed(groups) => self.removed(groups),
            Event::Discarded(group) => self.discarded(group),
            Event::Peer { from, group, message, permit } => {
                self.groups.step(group, Input::Peer { from, message });
                drop(permit);
            }
            Event::Heartbeats { from, kind, beats, permit } => {
                for beat in beats {
                    let heard = Heard { from, kind, beat };
                    self.groups.step_heartbeat(heard, &mut self.heartbeats);
                }
                drop(permit);
            }
            Event::Founding { from, news, permit, .. } => {
                drop(permit);
                if let (true, Some(founding)) = (news.asks, founding) {
                    self.tell(from, founding, false);
                }
            }
            Event::Link(LinkEvent::Down(node)) => self.groups.unreachable(node),
            Event::Link(LinkEvent::Gone(node)) => self.groups.gone(node),
            Event::Link(LinkEvent::Refused { by, code, message, members_index }) => {
                let is_out = matches!(code, RefusalCode::ReplacedDirectory | RefusalCode::Removed);
                let roster = self.roster.load();
                // Else the peer lags, or is none any more, or the dialler has logged what is wrong.
                if is_out && members_index > roster.index() && roster.knows(by) {
                    let reason = format!("refused by node {by}: {message}");
                    self.groups.expel(self.first, &reason);
                    return Err(End::Fatal(reason));
                }
            }
            Event::Entered(group, result) => self.entered(group, result)?,
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
        let disk_bytes = self.meters.log_disk_bytes();
        let mut purges = self.purges.is_due(disk_bytes);
        for (group, effects) in all {
            purges |= effects.retain.is_some();
            self.carry_out_for(group, effects);
            self.groups.carried_out(group, disk_bytes);
        }
        self.heartbeats.send(&self.transport);
        self.transport.flush();
        self.groups.publish_disk_bytes(self.first, disk_bytes);
        if purges {
            self.purge();
        }
    }

    fn carry_out_for(&mut self, group: GroupId, mut effects: GroupEffects<S>) {
        // Ahead of what is applied: who sees a later entry's effect finds the groups as of it. Only of what
        // was found committed at the start the groups come last, with the first status.
        if let Some(catalogue) = effects.catalogue.take().filter(|_| group == self.first) {
            self.reconcile(catalogue);
        }
        for envelope in effects.messages.drain(..) {
            self.send(group, envelope);
        }
        for envelope in effects.snapshots.drain(..) {
            self.send_snapshot(group, envelope);
        }
        for cause in effects.dropped.drain(..) {
            self.meters.dropped(cause);
        }
        for work in effects.apply.drain(..) {
            self.meters.apply_queued(&work);
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
        if let Some(members) = effects.members.take() {
            if group == self.first {
                // Who is none any more is let go of, and with it what is on its way there.
                self.transport.flush();
                self.follow(&members);
            }
            let own = members.of_node(self.node);
            let is_own =
                |member: &&Member| member.binding.directory_id == self.identity.directory_id;
            self.entrances.mend_address(group, own.filter(is_own));
        }
        if let Some(after) = effects.campaign_after.take() {
            self.campaigns.put_off(group, after);
        }
        let removed = effects.removed.take();
        answer(effects);
        if let Some(index) = removed {
            let reason = format!(
                "node {} is no member of group {group} any more, since entry {index}: to bring it \
                 back, join it as a new member with `quorate format --join`",
                self.node
            );
            // Of the first group it goes on voting, until those that are left refuse its connections
            // (`core/departure.rs`). Of another group nobody would tell it.
            match group == self.first {
                true => tracing::warn!(reason, "this node was removed"),
                false => self.groups.expel(group, &reason),
            }
        }
    }

    fn send(&mut self, group: GroupId, envelope: Envelope) {
        let Some(Envelope { to, message }) = self.heartbeats.gather(group, envelope) else {
            return;
        };
        let frame = Frame::Peer { group, message };
        if let Err(Frame::Peer { message, .. }) = self.transport.put(to, frame) {
            self.groups.step(group, Input::Undelivered(Envelope { to, message }));
        }
    }

    /// However it ends, the core is told, or the peer would wait for ever (trap R11).
    fn send_snapshot(&self, group: GroupId, envelope: Envelope) {
        let PeerMessage::Raft(message) = envelope.message else { return };
        let (to, inbox) = (envelope.to, self.inbox.clone());
        let report = move |received| {
            inbox.send(Event::Input(group, Input::SnapshotSent { to, received }));
        };
        self.sending.send(Outgoing { to, group, message }, report);
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
