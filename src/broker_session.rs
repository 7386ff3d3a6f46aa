//! [`BrokerSession`]: one registration of a broker, kept alive.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use quorate_loop::{GroupStatus, Node};
use quorate_statemachine::{
    BrokerEpoch, BrokerId, BrokerSession as RegisteredBroker, ErrorCode, Incarnation, Metadata,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::ShutdownNotGranted;
use crate::wire::{
    BeatResponse, HeartbeatRequest, RejectedResponse, Request, RequestKind, Response, ResponseKind,
};

/// Pause before a heartbeat that was not taken is sent again, unless heartbeats are more frequent.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What a broker may do now, as far as its own node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// It may neither lead nor be in an ISR. So it begins, and so it is after its session ran out;
    /// the next heartbeat that arrives changes it.
    Fenced,
    /// It may lead and be in ISRs.
    Active,
    /// No heartbeat was answered for a whole session: the quorum has fenced it or is about to, and
    /// other brokers may lead its partitions. Heartbeats go on, and the session may come back.
    OutOfContact,
    /// It is in controlled shutdown: it leads nothing and never will in this registration.
    ShuttingDown,
    /// Its heartbeats have stopped for good.
    Ended(SessionEnd),
}

/// Why the heartbeats of a session stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The controlled shutdown was granted.
    ShutDown,
    /// Another incarnation was registered with this id. The session does *not* register again: it
    /// would take the id back from whoever took it over, and the two would do so for ever.
    Superseded,
    /// The broker was unregistered by somebody. It does not register again by itself either: somebody
    /// wanted it gone.
    Unregistered,
    /// The node behind it has stopped.
    NodeStopped,
}

/// One registration of a broker. Heartbeats are sent for you, through whichever node leads.
///
/// Dropping it stops the heartbeats without a word: the quorum then fences the broker when the
/// session has run out, as if its host had fallen silent. [`BrokerSession::shut_down`] is the orderly way.
#[derive(Debug)]
pub struct BrokerSession {
    registered: RegisteredBroker,
    incarnation: Incarnation,
    state: watch::Receiver<SessionState>,
    shut_down: mpsc::Sender<oneshot::Sender<()>>,
    timeout: Duration,
}

impl BrokerSession {
    /// The broker's id.
    pub fn broker(&self) -> BrokerId {
        self.registered.broker
    }

    /// The epoch of this registration, which later requests carry.
    pub fn epoch(&self) -> BrokerEpoch {
        self.registered.epoch
    }

    /// The id and the epoch together, as commands want them.
    pub fn registered(&self) -> RegisteredBroker {
        self.registered
    }

    /// The incarnation that registered.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What the broker may do now.
    pub fn state(&self) -> SessionState {
        *self.state.borrow()
    }

    /// Sees every change of [`BrokerSession::state`]; changes that follow one another closely may be
    /// seen as one.
    pub fn watch(&self) -> watch::Receiver<SessionState> {
        self.state.clone()
    }

    /// Waits until the broker may lead and be in ISRs.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// Why it never will: the session has ended.
    pub async fn active(&self) -> Result<(), SessionEnd> {
        let mut watch = self.state.clone();
        let settled =
            watch.wait_for(|state| matches!(state, SessionState::Active | SessionState::Ended(_)));
        match settled.await.map(|state| *state) {
            Ok(SessionState::Ended(end)) => Err(end),
            Ok(_) => Ok(()),
            Err(_) => Err(SessionEnd::NodeStopped),
        }
    }

    /// Controlled shutdown: the leaders of the broker's partitions move first, and it returns when
    /// the broker leads nothing and every active broker knows that, or when the operation timeout of
    /// the configuration is over. Then the heartbeats stop, granted or not.
    ///
    /// Cancelling it stops the heartbeats at once.
    ///
    /// # Errors
    ///
    /// [`ShutdownNotGranted`] when time was up.
    pub async fn shut_down(self) -> Result<(), ShutdownNotGranted> {
        let (granted, grant) = oneshot::channel();
        let not_granted = ShutdownNotGranted { broker: self.broker(), waited: self.timeout };
        if self.shut_down.send(granted).await.is_err() {
            // Its heartbeats had ended before; there is nothing left to hand over.
            return Ok(());
        }
        match timeout(self.timeout, grant).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(not_granted),
        }
    }
}

/// The epochs of the sessions that were opened on this node and have not ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalSessions {
    registered: Arc<Mutex<Vec<RegisteredBroker>>>,
}

impl LocalSessions {
    pub(crate) fn of(&self, broker: BrokerId) -> Option<RegisteredBroker> {
        self.with(|all| all.iter().find(|one| one.broker == broker).copied())
    }

    fn add(&self, registered: RegisteredBroker) {
        self.with(|all| {
            all.retain(|one| one.broker != registered.broker);
            all.push(registered);
        });
    }

    fn remove(&self, registered: RegisteredBroker) {
        self.with(|all| all.retain(|one| *one != registered));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Vec<RegisteredBroker>) -> T) -> T {
        // A list of copies: no panic can leave it half changed.
        change(&mut self.registered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How a session is kept alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhythm {
    pub(crate) heartbeat: Duration,
    pub(crate) session: Duration,
    pub(crate) operation_timeout: Duration,
}

/// Begins to keep a registration alive.
pub(crate) fn start(
    node: Node<Metadata>,
    registered: RegisteredBroker,
    incarnation: Incarnation,
    rhythm: Rhythm,
    local: LocalSessions,
    stop: watch::Receiver<bool>,
) -> BrokerSession {
    let (state_in, state) = watch::channel(SessionState::Fenced);
    let (shut_down, wishes) = mpsc::channel(1);
    local.add(registered);
    let keeper = Keeper {
        node,
        registered,
        rhythm,
        state: state_in,
        known: Known::default(),
        heard_at: Instant::now(),
        going: None,
    };
    tokio::spawn(async move {
        keeper.run(wishes, stop).await;
        local.remove(registered);
    });
    BrokerSession { registered, incarnation, state, shut_down, timeout: rhythm.operation_timeout }
}

/// The task behind a session: sends heartbeats, and tells what they bring.
struct Keeper {
    node: Node<Metadata>,
    registered: RegisteredBroker,
    rhythm: Rhythm,
    state: watch::Sender<SessionState>,
    known: Known,
    /// When a heartbeat was last answered by a leader.
    heard_at: Instant,
    /// Whoever waits for the grant of the shutdown.
    going: Option<oneshot::Sender<()>>,
}

/// The newest that is known of the broker's flags, and the index at which they were so.
#[derive(Clone, Copy, Debug)]
struct Known {
    index: u64,
    fenced: bool,
    in_shutdown: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self { index: 0, fenced: true, in_shutdown: false }
    }
}

/// What an answered or unanswered heartbeat means for the next one.
enum Next {
    InTime,
    Soon,
    End(SessionEnd),
}

impl Keeper {
    async fn run(
        mut self,
        mut wishes: mpsc::Receiver<oneshot::Sender<()>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut updates = self.node.updates();
        let mut status = self.node.watch_status();
        let mut next_beat = Instant::now();
        let end = loop {
            if let Some(end) = self.look_at_image() {
                break end;
            }
            self.tell();
            tokio::select! {
                biased;
                _ = stop.changed() => break SessionEnd::NodeStopped,
                // Its metadata stands still from here on: others are to lead what it leads.
                () = fatal(&mut status) => break SessionEnd::NodeStopped,
                wish = wishes.recv(), if self.going.is_none() => match wish {
                    Some(granted) => {
                        self.going = Some(granted);
                        next_beat = Instant::now();
                    }
                    // The handle was dropped: whoever held it wants no heartbeats any more.
                    None => break SessionEnd::ShutDown,
                },
                // Whoever waited for the grant gave up.
                () = gone(&mut self.going) => break SessionEnd::ShutDown,
                () = sleep_until(next_beat) => match self.beat().await {
                    Next::InTime => next_beat = Instant::now() + self.pause(),
                    Next::Soon => {
                        next_beat = Instant::now() + self.rhythm.heartbeat.min(AGAIN_AFTER);
                    }
                    Next::End(end) => break end,
                },
                update = updates.next() => if update.is_err() {
                    break SessionEnd::NodeStopped;
                },
            }
        };
        if let (Some(granted), SessionEnd::ShutDown) = (self.going.take(), end) {
            let _ = granted.send(());
        }
        self.state.send_replace(SessionState::Ended(end));
    }

    /// Between heartbeats; a broker on its way out asks more often, for it has nothing else to do.
    fn pause(&self) -> Duration {
        match self.going {
            Some(_) => self.rhythm.heartbeat.min(AGAIN_AFTER),
            None => self.rhythm.heartbeat,
        }
    }

    async fn beat(&mut self) -> Next {
        let Some(leader) = self.node.status().leader else { return Next::Soon };
        let request = Request::from(RequestKind::Heartbeat(HeartbeatRequest {
            broker: self.registered.broker.get(),
            epoch: self.registered.epoch.get(),
            applied: self.node.image().applied,
            want_fence: false,
            want_shutdown: self.going.is_some(),
        }));
        let call = self.node.call(leader, request.encode_to_vec().into());
        // A heartbeat that takes longer than its interval is replaced by the next one.
        let Ok(Ok(answer)) = timeout(self.rhythm.heartbeat, call).await else {
            return Next::Soon;
        };
        match Response::decode(answer).ok().and_then(|response| response.kind) {
            Some(ResponseKind::Beat(beat)) => self.heard(beat),
            Some(ResponseKind::Rejected(rejected)) => refused(&rejected),
            _ => Next::Soon,
        }
    }

    fn heard(&mut self, beat: BeatResponse) -> Next {
        self.heard_at = Instant::now();
        if beat.index > self.known.index {
            let BeatResponse { index, fenced, in_shutdown, .. } = beat;
            self.known = Known { index, fenced, in_shutdown };
        }
        if beat.may_stop && self.going.is_some() {
            Next::End(SessionEnd::ShutDown)
        } else {
            Next::InTime
        }
    }

    /// Takes in what this node has applied; whether that ends the session.
    fn look_at_image(&mut self) -> Option<SessionEnd> {
        let published = self.node.image();
        if published.applied <= self.known.index {
            return None;
        }
        let epoch = self.registered.epoch;
        match published.image.broker(self.registered.broker) {
            Some(broker) if broker.epoch == epoch => {
                let (fenced, in_shutdown) = (broker.fenced, broker.in_shutdown);
                self.known = Known { index: published.applied, fenced, in_shutdown };
                None
            }
            Some(broker) if broker.epoch > epoch => Some(SessionEnd::Superseded),
            // An image from before the registration says nothing.
            Some(_) => None,
            None => (published.applied >= epoch.get()).then_some(SessionEnd::Unregistered),
        }
    }

    fn tell(&self) {
        let state = if self.known.in_shutdown {
            SessionState::ShuttingDown
        } else if self.heard_at.elapsed() >= self.rhythm.session {
            SessionState::OutOfContact
        } else if self.known.fenced {
            SessionState::Fenced
        } else {
            SessionState::Active
        };
        self.state.send_if_modified(|old| std::mem::replace(old, state) != state);
    }
}

/// Which refusals end a session; the others are another leader's business.
fn refused(rejected: &RejectedResponse) -> Next {
    let code = i16::try_from(rejected.code).ok().and_then(ErrorCode::from_code);
    match code {
        Some(ErrorCode::StaleBrokerEpoch) => Next::End(SessionEnd::Superseded),
        Some(ErrorCode::BrokerIdNotRegistered) => Next::End(SessionEnd::Unregistered),
        _ => Next::Soon,
    }
}

/// Ends when the node has stopped for good.
async fn fatal(status: &mut watch::Receiver<GroupStatus>) {
    // A status that is told no more is that of a node that has stopped.
    let _ = status.wait_for(|status| status.fatal.is_some()).await;
}

/// Ends when whoever waits for the grant is gone; never without one.
async fn gone(going: &mut Option<oneshot::Sender<()>>) {
    match going {
        Some(granted) => granted.closed().await,
        None => std::future::pending().await,
    }
}
