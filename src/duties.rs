//! Owns what the quorum leader does of its own accord: it keeps the brokers' sessions, and proposes
//! what follows from them.
//!
//! One task a node. It works only while the node leads, in one term: when leadership is lost all it
//! knew is thrown away, and when it is won it begins anew from an image that is known to be complete.
//! Only whose process is gone it remembers from before (`departures.rs`): the node that dies first is
//! often the one that led. Everything is event-driven; the only timer is the next deadline of a session.
//!
//! The task never waits for the log: proposals run beside it and report back, so that no heartbeat is
//! late because a disk is.

use std::collections::HashMap;
use std::time::Duration;

use quorate_loop::{Node, Role};
use quorate_statemachine::{
    BrokerEpoch, BrokerId, BrokerSession as RegisteredBroker, Command, ErrorCode, Incarnation,
    Metadata, MetadataImage, RegisterBroker,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::departures::Departures;
use crate::desk::{
    CALLS_MAX, REGISTRATIONS_MAX, accepted, confirm, propose, rejected, rejected_with,
};
use crate::registration::check_directories;
use crate::sessions::{BeatFault, Flags, Heartbeat, Registered, Sessions, Transition};
use crate::wire::{
    BeatResponse, Doubt, HeartbeatRequest, Refusal, RegisterRequest, Response, ResponseKind,
};

/// While so many proposals of the duties are under way nobody is registered. Transitions are bounded by
/// the brokers, for each has one at a time.
const WORK_MAX: usize = REGISTRATIONS_MAX;

/// Pause before a new leader asks again for the confirmation that it leads.
const CONFIRM_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A request for the duties, with the place for its answer.
pub(crate) enum Call {
    Heartbeat(HeartbeatRequest, oneshot::Sender<Response>),
    Register(RegisterRequest, oneshot::Sender<Response>),
    /// Which registration, or the one that there is.
    Unregister(BrokerId, Option<BrokerEpoch>, oneshot::Sender<Response>),
}

/// The duties of one node, while it leads and while it does not.
pub(crate) struct Duties {
    node: Node<Metadata>,
    session: Duration,
    /// Sessions count time from here.
    origin: Instant,
    calls: mpsc::Receiver<Call>,
    work: JoinSet<Response>,
    /// What runs beside the task, all of it.
    begun: HashMap<task::Id, Duty>,
    departures: Departures,
    term: Term,
}

/// What this node is to the quorum, as far as the duties know.
enum Term {
    /// Another node leads, or nobody.
    Other,
    /// This node was elected in this term, and does not yet know all that was committed before.
    Beginning(u64),
    /// This node leads, and has applied all that was committed before its term.
    Leading(u64, Sessions),
}

/// Something that runs beside the task, begun in a term: what is to be ended with it, however it ends.
struct Duty {
    term: u64,
    kind: DutyKind,
}

enum DutyKind {
    Confirmation,
    Transition(Transition),
    Registration { broker: BrokerId, incarnation: Incarnation, reply: oneshot::Sender<Response> },
    Unregistration { broker: BrokerId, reply: oneshot::Sender<Response> },
}

impl Duties {
    pub(crate) fn new(
        node: Node<Metadata>,
        session: Duration,
        calls: mpsc::Receiver<Call>,
    ) -> Self {
        let (work, begun, origin) = (JoinSet::new(), HashMap::new(), Instant::now());
        let departures = Departures::default();
        Self { node, session, origin, calls, work, begun, departures, term: Term::Other }
    }

    /// Works until `stop` changes or its sender is gone.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut status = self.node.watch_status();
        let mut gone = self.node.watch_gone();
        loop {
            self.follow_term();
            if self.wake_at().is_some_and(|wake_at| wake_at <= Instant::now()) {
                self.take_waiting();
                self.tick();
            }
            let wake_at = self.wake_at();
            tokio::select! {
                // Heartbeats come before the timer: whoever was heard is not taken for dead.
                biased;
                _ = stop.changed() => return,
                changed = status.changed() => if changed.is_err() { return },
                changed = gone.changed() => match changed {
                    Ok(()) => {
                        // What it said before its end comes first.
                        self.take_waiting();
                        let gone = gone.borrow_and_update().clone();
                        self.departures.follow(&gone, &self.node);
                        self.fence_departed();
                    }
                    Err(_) => return,
                },
                call = self.calls.recv() => match call {
                    Some(call) => self.take(call),
                    None => return,
                },
                Some(ended) = self.work.join_next_with_id() => self.finish(ended),
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {
                    // What has arrived meanwhile is taken before anyone's session ends.
                    self.take_waiting();
                    self.tick();
                }
            }
        }
    }

    /// Begins or ends the duties as the node's role has it right now.
    fn follow_term(&mut self) {
        let status = self.node.status();
        let leads = status.role == Role::Leader;
        match &self.term {
            Term::Beginning(term) | Term::Leading(term, _) if leads && *term == status.term => {}
            Term::Other if !leads => {}
            _ => {
                self.term = Term::Other;
                if leads {
                    self.term = Term::Beginning(status.term);
                    self.confirm(status.term, Duration::ZERO);
                }
            }
        }
    }

    /// Runs something beside the task, until it is [finished](Self::finish).
    fn begin(&mut self, duty: Duty, work: impl Future<Output = Response> + Send + 'static) {
        let id = self.work.spawn(work).id();
        self.begun.insert(id, duty);
    }

    /// Waits, beside the task, until this node has applied all that was committed before its term.
    fn confirm(&mut self, term: u64, pause: Duration) {
        let node = self.node.clone();
        self.begin(Duty { term, kind: DutyKind::Confirmation }, async move {
            sleep(pause).await;
            match confirm(&node).await {
                Ok(index) => ResponseKind::ReadIndex(index).into(),
                Err(refusal) => refusal.into(),
            }
        });
    }

    fn take_waiting(&mut self) {
        for _ in 0..CALLS_MAX {
            match self.calls.try_recv() {
                Ok(call) => self.take(call),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, call: Call) {
        self.follow_term();
        let (reply, response) = match call {
            Call::Heartbeat(request, reply) => (reply, self.heartbeat(request)),
            Call::Register(request, reply) => match self.admit(request) {
                Ok(register) => return self.register(register, reply),
                Err(response) => (reply, response),
            },
            Call::Unregister(broker, meant, reply) => match self.release(broker, meant) {
                Ok(epoch) => return self.unregister(broker, epoch, reply),
                Err(response) => (reply, response),
            },
        };
        // Whoever asked may be gone by now.
        let _ = reply.send(response);
    }

    fn heartbeat(&mut self, request: HeartbeatRequest) -> Response {
        let now = self.now();
        let Some(sessions) = self.sessions() else { return Refusal::NotLeader.into() };
        let beat = Heartbeat {
            broker: BrokerId(request.broker),
            epoch: BrokerEpoch(request.epoch),
            applied: request.applied,
            want_fence: request.want_fence,
            want_shutdown: request.want_shutdown,
        };
        let index = sessions.index();
        match sessions.heartbeat(now, beat) {
            Ok(taken) => {
                self.propose_transition(taken.transition);
                ResponseKind::Beat(BeatResponse {
                    index: taken.index,
                    fenced: taken.fenced,
                    in_shutdown: taken.in_shutdown,
                    may_stop: taken.may_stop,
                })
                .into()
            }
            Err(BeatFault::Behind) => Refusal::NotLeader.into(),
            Err(BeatFault::NotRegistered) => rejected_with(
                ErrorCode::BrokerIdNotRegistered,
                format!("broker {} is not registered: register it", beat.broker),
                index,
            ),
            Err(BeatFault::StaleEpoch { current }) => rejected_with(
                ErrorCode::StaleBrokerEpoch,
                format!(
                    "broker {} was registered anew with epoch {current}: this one is not it any more",
                    beat.broker
                ),
                index,
            ),
        }
    }

    /// Checks a registration against the sessions and completes its vouch.
    fn admit(&mut self, request: RegisterRequest) -> Result<RegisterBroker, Response> {
        let Ok(Command::RegisterBroker(mut register)) = Command::decode(&request.command) else {
            return Err(Refusal::Unsupported.into());
        };
        self.check_room()?;
        let now = self.now();
        let image = self.node.image();
        let sessions = self.sessions().ok_or(Refusal::NotLeader)?;
        let index = sessions.index();
        check_directories(&register).map_err(|rejection| rejected(rejection, index))?;
        let follows = sessions.register(now, register.broker, register.incarnation);
        register.follows = Some(follows.map_err(|duplicate| {
            let broker = register.broker;
            let message = format!(
                "another process is registered as broker {broker} and alive, or the broker is being \
                 registered or unregistered: stop the other process, or wait {:.1?} after it has \
                 stopped",
                duplicate.ends_in
            );
            rejected_with(ErrorCode::DuplicateBrokerRegistration, message, index)
        })?);
        if request.always_vouch {
            let registered = image.image.broker(register.broker).map(|broker| broker.incarnation);
            register.vouched = registered.into_iter().collect();
        }
        Ok(register)
    }

    fn register(&mut self, register: RegisterBroker, reply: oneshot::Sender<Response>) {
        let Term::Leading(term, _) = self.term else { return };
        let (broker, incarnation) = (register.broker, register.incarnation);
        let kind = DutyKind::Registration { broker, incarnation, reply };
        self.propose(Duty { term, kind }, Command::RegisterBroker(register));
    }

    /// Checks that nobody is left whom an unregistration would stop, and says which registration that is
    /// of: another one, which may yet come before it in the log, is not to be undone.
    fn release(
        &mut self,
        broker: BrokerId,
        meant: Option<BrokerEpoch>,
    ) -> Result<BrokerEpoch, Response> {
        self.check_room()?;
        let now = self.now();
        let sessions = self.sessions().ok_or(Refusal::NotLeader)?;
        let index = sessions.index();
        sessions.unregister(now, broker, meant).map_err(|alive| {
            let message = format!(
                "broker {broker} is alive, or was a moment ago, and its process would end with its \
                 registration: stop it first, and ask again {:.1?} after it has stopped",
                alive.ends_in
            );
            rejected_with(ErrorCode::InvalidRequest, message, index)
        })
    }

    fn unregister(
        &mut self,
        broker: BrokerId,
        epoch: BrokerEpoch,
        reply: oneshot::Sender<Response>,
    ) {
        let Term::Leading(term, _) = self.term else { return };
        let kind = DutyKind::Unregistration { broker, reply };
        self.propose(Duty { term, kind }, Command::UnregisterBroker { broker, epoch: Some(epoch) });
    }

    fn propose(&mut self, duty: Duty, command: Command) {
        let node = self.node.clone();
        self.begin(duty, async move { propose(&node, &command).await });
    }

    fn check_room(&self) -> Result<(), Response> {
        if self.work.len() < WORK_MAX { Ok(()) } else { Err(Refusal::Overloaded.into()) }
    }

    fn propose_transition(&mut self, transition: Option<Transition>) {
        let (Some(transition), Term::Leading(term, _)) = (transition, &self.term) else { return };
        let whom = RegisteredBroker { broker: transition.broker, epoch: transition.epoch };
        let command = match transition.to {
            Flags::Fenced => Command::FenceBroker(whom),
            Flags::Unfenced => Command::UnfenceBroker(whom),
            Flags::InShutdown => Command::ShutdownBroker(whom),
        };
        self.propose(Duty { term: *term, kind: DutyKind::Transition(transition) }, command);
    }

    /// Ends what was begun. One that panicked, which is a bug, is ended as well, or its broker would be stuck;
    /// whoever asked for it is told that its outcome is unknown.
    fn finish(&mut self, ended: Result<(task::Id, Response), JoinError>) {
        let (id, response) = match ended {
            Ok((id, response)) => (id, response),
            Err(error) => {
                tracing::error!(%error, "a duty of the quorum leader failed");
                (error.id(), Doubt::Stopped.into())
            }
        };
        let Some(Duty { term, kind }) = self.begun.remove(&id) else { return };
        self.follow_term();
        let now = self.now();
        match kind {
            DutyKind::Confirmation => self.lead(term, &response),
            DutyKind::Transition(transition) => {
                let applied = accepted(&response);
                if applied {
                    let Transition { broker, epoch, to } = transition;
                    tracing::info!(%broker, %epoch, ?to, "broker changed");
                }
                if let Some(sessions) = self.sessions_of(term) {
                    sessions.settled(now, transition, applied);
                }
            }
            DutyKind::Registration { broker, incarnation, reply } => {
                if let Some(sessions) = self.sessions_of(term) {
                    sessions.registered(broker, incarnation);
                }
                let _ = reply.send(response);
            }
            DutyKind::Unregistration { broker, reply } => {
                if let Some(sessions) = self.sessions_of(term) {
                    sessions.unregistered(broker);
                }
                let _ = reply.send(response);
            }
        }
    }

    /// Begins with the sessions, if this node leads in that term still, and was confirmed to.
    fn lead(&mut self, term: u64, confirmed: &Response) {
        if !matches!(self.term, Term::Beginning(current) if current == term) {
            return;
        }
        if !matches!(confirmed.kind, Some(ResponseKind::ReadIndex(_))) {
            return self.confirm(term, CONFIRM_AGAIN_AFTER);
        }
        let (now, image) = (self.now(), self.node.image());
        let sessions = Sessions::new(self.session, now, image.applied, registered(&image.image));
        self.term = Term::Leading(term, sessions);
        tracing::info!(term, "this node leads the quorum and keeps its sessions");
        self.fence_departed();
    }

    fn tick(&mut self) {
        let now = self.now();
        let Some(sessions) = self.sessions() else { return };
        for transition in sessions.tick(now) {
            tracing::warn!(broker = %transition.broker, "no heartbeat in time, fencing the broker");
            self.propose_transition(Some(transition));
        }
    }

    /// Fences the brokers that went with their nodes' processes, if this node leads. What it found
    /// while another led waits until then.
    fn fence_departed(&mut self) {
        let now = self.now();
        if self.sessions().is_none() {
            return;
        }
        for broker in self.departures.take() {
            let transition = self.sessions().and_then(|sessions| sessions.depart(now, broker));
            if transition.is_some() {
                tracing::warn!(broker = %broker.broker, "its process is gone, fencing the broker");
            }
            self.propose_transition(transition);
        }
    }

    /// The sessions, after they have taken in the newest image; `None` unless this node leads.
    fn sessions(&mut self) -> Option<&mut Sessions> {
        let now = self.origin.elapsed();
        let Term::Leading(_, sessions) = &mut self.term else { return None };
        let image = self.node.image();
        if image.applied > sessions.index() {
            sessions.sync(now, image.applied, registered(&image.image));
        }
        Some(sessions)
    }

    fn sessions_of(&mut self, term: u64) -> Option<&mut Sessions> {
        match self.term {
            Term::Leading(current, _) if current == term => self.sessions(),
            _ => None,
        }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn wake_at(&self) -> Option<Instant> {
        match &self.term {
            Term::Leading(_, sessions) => Some(self.origin + sessions.wake_at()?),
            _ => None,
        }
    }
}

fn registered(image: &MetadataImage) -> impl Iterator<Item = (BrokerId, Registered)> + '_ {
    image.brokers().map(|broker| {
        let registered = Registered {
            epoch: broker.epoch,
            incarnation: broker.incarnation,
            fenced: broker.fenced,
            in_shutdown: broker.in_shutdown,
        };
        (broker.id, registered)
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;

    /// No condition of these tests takes this long on a machine that is not stuck.
    const PATIENCE: Duration = Duration::from_secs(30);

    impl Duties {
        async fn finish_next(&mut self) {
            let ended = timeout(PATIENCE, self.work.join_next_with_id()).await.unwrap().unwrap();
            self.finish(ended);
        }

        fn begin_to_fail(&mut self, kind: DutyKind) {
            let Term::Leading(term, _) = self.term else { panic!("it does not lead") };
            self.begin(Duty { term, kind }, async { panic!("as a bug would") });
        }
    }

    /// To see it fail: leave out what `finish` does for a task that panicked.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_duty_that_panics_leaves_no_broker_stuck() {
        let (_dir, quorum) = crate::tests::alone().await;
        let leads = |status: &crate::GroupStatus| status.role == Role::Leader;
        quorum.wait(PATIENCE).until("it leads", leads).await.unwrap();
        let (_calls, calls) = mpsc::channel(1);
        let mut duties = Duties::new(quorum.node().clone(), PATIENCE, calls);
        duties.follow_term();
        // Also if it was the first one that failed.
        let Term::Beginning(term) = duties.term else { panic!() };
        duties.work.abort_all();
        duties.finish_next().await;
        assert_eq!(duties.begun.len(), 1, "it asks again in term {term}");
        duties.finish_next().await;

        let (broker, now) = (BrokerId(7), duties.now());
        let [one, other] = [1, 2].map(|number| Incarnation(Uuid::from_u128(number)));
        duties.sessions().unwrap().register(now, broker, one).unwrap();
        assert!(duties.sessions().unwrap().register(now, broker, other).is_err());
        let (reply, told) = oneshot::channel();
        duties.begin_to_fail(DutyKind::Registration { broker, incarnation: one, reply });
        duties.finish_next().await;
        assert_eq!(told.await.unwrap(), Doubt::Stopped.into());

        duties.sessions().unwrap().unregister(now, broker, None).unwrap();
        assert!(duties.sessions().unwrap().register(now, broker, other).is_err());
        let (reply, told) = oneshot::channel();
        duties.begin_to_fail(DutyKind::Unregistration { broker, reply });
        duties.finish_next().await;
        assert_eq!(told.await.unwrap(), Doubt::Stopped.into());
        duties.sessions().unwrap().register(now, broker, other).unwrap();

        // A transition is proposed again: one at a time of a broker.
        let row = Registered {
            epoch: BrokerEpoch(1),
            incarnation: one,
            fenced: false,
            in_shutdown: false,
        };
        let index = duties.sessions().unwrap().index();
        let Term::Leading(_, sessions) = &mut duties.term else { panic!() };
        *sessions = Sessions::new(PATIENCE, now, index, [(broker, row)]);
        let gone = RegisteredBroker { broker, epoch: row.epoch };
        let fence = sessions.depart(now, gone).unwrap();
        assert_eq!(sessions.tick(now), [], "it is on its way");
        duties.begin_to_fail(DutyKind::Transition(fence));
        duties.finish_next().await;
        assert!(duties.begun.is_empty());
        let Term::Leading(_, sessions) = &mut duties.term else { panic!() };
        assert_eq!(sessions.tick(now + PATIENCE / 6), [fence]);
        quorum.shut_down().await;
    }
}
