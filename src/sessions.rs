//! Owns what the quorum leader remembers of every broker's heartbeats, and decides who is fenced.
//!
//! Heartbeats are soft state: they live here, on the leader, and never reach the log. What reaches
//! the log is a *transition*: a broker is unfenced, fenced, or begins its controlled shutdown. An
//! idle cluster therefore writes nothing.
//!
//! The rules, each with the failure that it prevents:
//!
//! - A new leader gives every unfenced broker a whole session from now. It cannot know when they
//!   were last heard, and timers that start at zero would fence everybody after each election.
//! - A leader whose own ticks have a gap (it was stopped, or suspended) does the same: the silence
//!   was its own.
//! - Only silence that this leader itself watched ends a session.
//! - A broker whose process is known to be gone is fenced at once, by the epoch it had when that was
//!   found, and once in a registration: should it be wrong, the next heartbeat brings it back, and is
//!   not doubted again.
//! - A transition names the broker epoch it was decided for. When the broker registers anew in the
//!   meantime, the state machine refuses the transition.
//! - At most one transition of a broker is in flight.
//!
//! There is no clock in here: every call is told the time, as the time since any fixed point of a
//! monotonic clock.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_statemachine::{BrokerEpoch, BrokerId, BrokerSession as RegisteredBroker, Incarnation};

/// How long to wait until a transition that could not be proposed is proposed again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The leader wakes this many times in a session time, to notice a gap in its own ticks. Six is the
/// rhythm of the heartbeats themselves at the default settings (500 ms in 3 s).
const TICKS_PER_SESSION: u32 = 6;

/// The epoch of no registration: the log begins at index 1.
const NO_REGISTRATION: BrokerEpoch = BrokerEpoch(0);

/// What the image says of one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) epoch: BrokerEpoch,
    pub(crate) incarnation: Incarnation,
    pub(crate) fenced: bool,
    pub(crate) in_shutdown: bool,
}

/// What a broker says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    pub(crate) broker: BrokerId,
    pub(crate) epoch: BrokerEpoch,
    /// The index of the image that the broker's own node has published.
    pub(crate) applied: u64,
    pub(crate) want_fence: bool,
    pub(crate) want_shutdown: bool,
}

/// What the leader answers to a heartbeat that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    /// The index of the image that the flags were read from.
    pub(crate) index: u64,
    pub(crate) fenced: bool,
    pub(crate) in_shutdown: bool,
    /// The broker may stop now: it leads nothing, and every active broker knows.
    pub(crate) may_stop: bool,
    /// What is to be proposed because of this heartbeat.
    pub(crate) transition: Option<Transition>,
}

/// Why a heartbeat was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BeatFault {
    /// The broker knows of an index that this leader has not applied: another node leads by now.
    Behind,
    /// No broker with this id is registered.
    NotRegistered,
    /// Another incarnation registered since.
    StaleEpoch { current: BrokerEpoch },
}

/// A change of a broker's flags that goes through the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) broker: BrokerId,
    pub(crate) epoch: BrokerEpoch,
    pub(crate) to: Flags,
}

/// What a [`Transition`] leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flags {
    Unfenced,
    Fenced,
    InShutdown,
}

/// Another incarnation of the broker has a live session or is registering at this moment, or the broker
/// is being unregistered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Duplicate {
    /// How long until that session ends if nothing more is heard from it; when to ask again.
    pub(crate) ends_in: Duration,
}

/// A broker is not known to have stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alive {
    /// How long until it is known if nothing more is heard from it.
    pub(crate) ends_in: Duration,
}

/// The sessions of all registered brokers, for one term of one leader.
#[derive(Debug)]
pub(crate) struct Sessions {
    session: Duration,
    /// When this leader began, or was last stopped for long: nobody was heard before.
    began: Duration,
    /// The index of the image that was last taken in.
    index: u64,
    brokers: BTreeMap<BrokerId, Session>,
    /// Who is registering right now, one at a time for a broker, and how often: what is tried again may be
    /// on its way still.
    registering: BTreeMap<BrokerId, (Incarnation, usize)>,
    /// How many unregistrations of a broker are under way. A registration of the same incarnation keeps
    /// its epoch: one that came before them in the log would be undone.
    unregistering: BTreeMap<BrokerId, usize>,
    /// The last own tick; `None` while there is nobody to watch.
    ticked: Option<Duration>,
}

#[derive(Debug)]
struct Session {
    registered: Registered,
    /// When it was last heard (or given a fresh start); `None`: its session has ended.
    heard: Option<Duration>,
    /// Whether it registered under this leader, or was heard by it.
    known: bool,
    /// Whether its session was ended because its process is gone.
    departed: bool,
    /// The highest index that the broker said it has applied.
    applied: u64,
    /// Every active broker must have applied this index before the shutdown is granted.
    shutdown_index: u64,
    in_flight: bool,
    /// Nothing is proposed for this broker before then.
    retry_at: Duration,
}

impl Session {
    fn is_active(&self) -> bool {
        !self.registered.fenced && !self.registered.in_shutdown
    }

    fn ends_at(&self, session: Duration) -> Option<Duration> {
        self.heard.map(|heard| heard + session)
    }
}

impl Sessions {
    /// The sessions of a leader that begins now, with an image that holds all that was committed
    /// before its term.
    pub(crate) fn new(
        session: Duration,
        now: Duration,
        index: u64,
        brokers: impl IntoIterator<Item = (BrokerId, Registered)>,
    ) -> Self {
        let mut sessions = Self {
            session,
            began: now,
            index,
            brokers: BTreeMap::new(),
            registering: BTreeMap::new(),
            unregistering: BTreeMap::new(),
            ticked: None,
        };
        for (id, registered) in brokers {
            let heard = (!registered.fenced).then_some(now);
            let session = Session { known: false, ..sessions.begin(registered, heard) };
            sessions.brokers.insert(id, session);
        }
        sessions.watch_from(now);
        sessions
    }

    /// The index of the image that was last taken in.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Takes in a newer image. An older one is ignored.
    pub(crate) fn sync(
        &mut self,
        now: Duration,
        index: u64,
        brokers: impl IntoIterator<Item = (BrokerId, Registered)>,
    ) {
        if index <= self.index {
            return;
        }
        self.index = index;
        let mut old = std::mem::take(&mut self.brokers);
        for (id, registered) in brokers {
            let session = match old.remove(&id) {
                Some(session) if session.registered.epoch == registered.epoch => {
                    self.carry_over(session, registered, now)
                }
                // A registration that was just applied begins a session: its first heartbeat is on
                // its way, and until then nobody else may take the id.
                _ => self.begin(registered, Some(now)),
            };
            self.brokers.insert(id, session);
        }
        self.watch_from(now);
    }

    /// Takes one heartbeat.
    ///
    /// # Errors
    ///
    /// [`BeatFault`] when the heartbeat is not of the broker's present registration.
    pub(crate) fn heartbeat(&mut self, now: Duration, beat: Heartbeat) -> Result<Beat, BeatFault> {
        // An epoch is the index of a registration: one that lies beyond our image was given by a
        // leader after us, and nothing we think of that broker counts.
        if beat.epoch.get() > self.index {
            return Err(BeatFault::Behind);
        }
        let active_applied = self.lowest_applied_but(beat.broker);
        let session = self.brokers.get_mut(&beat.broker).ok_or(BeatFault::NotRegistered)?;
        let registered = session.registered;
        if registered.epoch != beat.epoch {
            return Err(BeatFault::StaleEpoch { current: registered.epoch });
        }
        session.heard = Some(now);
        session.known = true;
        session.applied = session.applied.max(beat.applied);

        let seen_by_all = active_applied.is_none_or(|lowest| lowest >= session.shutdown_index);
        // While a change of its flags is on the way, `fenced` is about to be untrue: a broker that
        // left on it would be unfenced after its end.
        let gone = registered.fenced && !session.in_flight;
        let may_stop = beat.want_shutdown && (gone || (registered.in_shutdown && seen_by_all));
        let to = if may_stop {
            // It is going: its id is free at once, and its flags show it.
            session.heard = None;
            (!registered.fenced).then_some(Flags::Fenced)
        } else if beat.want_shutdown {
            (!registered.in_shutdown).then_some(Flags::InShutdown)
        } else if beat.want_fence {
            (!registered.fenced).then_some(Flags::Fenced)
        } else {
            let caught_up = beat.applied >= registered.epoch.get();
            (registered.fenced && !registered.in_shutdown && caught_up).then_some(Flags::Unfenced)
        };
        let transition = to.and_then(|to| propose(session, beat.broker, to, now));
        self.watch_from(now);
        Ok(Beat {
            index: self.index,
            fenced: registered.fenced,
            in_shutdown: registered.in_shutdown,
            may_stop,
            transition,
        })
    }

    /// Ends the sessions that were silent for too long, and names the brokers to fence.
    ///
    /// Call it at [`Sessions::wake_at`], after every heartbeat that has arrived was taken.
    pub(crate) fn tick(&mut self, now: Duration) -> Vec<Transition> {
        let Some(ticked) = self.ticked.replace(now) else {
            self.watch_from(now);
            return Vec::new();
        };
        let late = now.saturating_sub(ticked) > 2 * self.tick_interval();
        if late {
            self.began = now;
        }
        let mut transitions = Vec::new();
        for (id, session) in &mut self.brokers {
            if late && session.heard.is_some() {
                session.heard = Some(now);
            }
            if session.ends_at(self.session).is_some_and(|end| end <= now) {
                session.heard = None;
            }
            if session.heard.is_none() && !session.registered.fenced {
                transitions.extend(propose(session, *id, Flags::Fenced, now));
            }
        }
        self.watch_from(now);
        transitions
    }

    /// Ends the session of a broker whose process is gone, and names it, if it is to be fenced now. What
    /// cannot be proposed now is proposed by a later [`Sessions::tick`].
    pub(crate) fn depart(&mut self, now: Duration, gone: RegisteredBroker) -> Option<Transition> {
        let session = self.brokers.get_mut(&gone.broker)?;
        if session.registered.epoch != gone.epoch || session.departed {
            return None;
        }
        session.departed = true;
        session.heard = None;
        let fenced = session.registered.fenced;
        let transition = (!fenced).then(|| propose(session, gone.broker, Flags::Fenced, now));
        self.watch_from(now);
        transition.flatten()
    }

    /// When to call [`Sessions::tick`] next; `None` while there is nobody to watch.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        let tick = self.ticked? + self.tick_interval();
        let end = self.brokers.values().filter_map(|session| session.ends_at(self.session)).min();
        Some(end.map_or(tick, |end| end.min(tick)))
    }

    /// Tells that a proposed transition has ended, with or without effect. What it did shows in the
    /// next image; what it did not do is proposed again when it is still due.
    pub(crate) fn settled(&mut self, now: Duration, transition: Transition, applied: bool) {
        let Some(session) = self.brokers.get_mut(&transition.broker) else { return };
        if session.registered.epoch == transition.epoch {
            session.in_flight = false;
            session.retry_at = if applied { now } else { now + RETRY_AFTER };
        }
    }

    /// Whether this incarnation may register now; if so, no other may until
    /// [`Sessions::registered`]. Which registration it follows, 0 for none: what comes from a leader before
    /// may be in the log in between, and is not looked at here.
    ///
    /// # Errors
    ///
    /// [`Duplicate`] while another incarnation has a live session or is registering, and while the broker
    /// is being unregistered.
    pub(crate) fn register(
        &mut self,
        now: Duration,
        broker: BrokerId,
        incarnation: Incarnation,
    ) -> Result<BrokerEpoch, Duplicate> {
        if self.unregistering.contains_key(&broker) {
            return Err(Duplicate { ends_in: RETRY_AFTER });
        }
        if self.registering.get(&broker).is_some_and(|(other, _)| *other != incarnation) {
            return Err(Duplicate { ends_in: self.session });
        }
        if let Some(session) = self.brokers.get(&broker)
            && session.registered.incarnation != incarnation
            && let Some(end) = session.ends_at(self.session)
            && end > now
        {
            return Err(Duplicate { ends_in: end - now });
        }
        self.registering.entry(broker).or_insert((incarnation, 0)).1 += 1;
        Ok(self.brokers.get(&broker).map_or(BrokerEpoch(0), |session| session.registered.epoch))
    }

    /// Ends what [`Sessions::register`] began, whether it was applied or not.
    pub(crate) fn registered(&mut self, broker: BrokerId, incarnation: Incarnation) {
        let Some((by, under_way)) = self.registering.get_mut(&broker) else { return };
        if *by != incarnation {
            return;
        }
        *under_way -= 1;
        if *under_way == 0 {
            self.registering.remove(&broker);
        }
    }

    /// Which registration of a broker to undo now: the one that is `meant`, or else the one that there is;
    /// until [`Sessions::unregistered`] none registers as the broker. What comes from a leader before, or
    /// from one that did not hear how it ended, may be in the log in between: that is another registration.
    ///
    /// One that is not fenced, or whose session lives though it is fenced, has a process that would end with
    /// its registration. One that shuts down in order has none that lives on. A new leader waits for a whole
    /// session: who lives says so by then. Nobody's process ends with a registration that is over or was
    /// never made: the state machine refuses that, and says which of the two it is.
    ///
    /// # Errors
    ///
    /// [`Alive`], also while a new incarnation is registering.
    pub(crate) fn unregister(
        &mut self,
        now: Duration,
        broker: BrokerId,
        meant: Option<BrokerEpoch>,
    ) -> Result<BrokerEpoch, Alive> {
        let current = self.brokers.get(&broker).map(|session| session.registered.epoch);
        let is_over = meant.is_some_and(|it| Some(it) != current && it.get() <= self.index);
        if !is_over {
            self.may_be_unregistered(now, broker)?;
        }
        *self.unregistering.entry(broker).or_default() += 1;
        Ok(meant.or(current).unwrap_or(NO_REGISTRATION))
    }

    /// Ends what [`Sessions::unregister`] began, whether it was applied or not.
    pub(crate) fn unregistered(&mut self, broker: BrokerId) {
        let Some(under_way) = self.unregistering.get_mut(&broker) else { return };
        *under_way -= 1;
        if *under_way == 0 {
            self.unregistering.remove(&broker);
        }
    }

    fn may_be_unregistered(&self, now: Duration, broker: BrokerId) -> Result<(), Alive> {
        if self.registering.contains_key(&broker) {
            return Err(Alive { ends_in: self.session });
        }
        let Some(session) = self.brokers.get(&broker) else { return Ok(()) };
        let heard_by = self.began + self.session;
        if !session.known && !session.departed && now < heard_by {
            return Err(Alive { ends_in: heard_by - now });
        }
        match session.ends_at(self.session) {
            Some(end) if end > now => Err(Alive { ends_in: end - now }),
            // Its fence is on its way.
            _ if session.is_active() => Err(Alive { ends_in: RETRY_AFTER }),
            _ => Ok(()),
        }
    }

    fn begin(&self, registered: Registered, heard: Option<Duration>) -> Session {
        Session {
            registered,
            heard,
            known: true,
            departed: false,
            applied: 0,
            // Whoever began its shutdown under an earlier leader did so at or before this index.
            shutdown_index: self.index,
            in_flight: false,
            retry_at: Duration::ZERO,
        }
    }

    fn carry_over(&self, mut session: Session, registered: Registered, now: Duration) -> Session {
        if registered.in_shutdown && !session.registered.in_shutdown {
            session.shutdown_index = self.index;
        }
        let is_unfenced = !registered.fenced && session.registered.fenced;
        // Whose process is gone is not heard any more: it is fenced again.
        if is_unfenced && session.heard.is_none() && !session.departed {
            session.heard = Some(now);
        }
        session.registered = registered;
        session
    }

    /// The lowest index that the active brokers, without this one, have said they applied.
    fn lowest_applied_but(&self, broker: BrokerId) -> Option<u64> {
        self.brokers
            .iter()
            .filter(|(id, session)| **id != broker && session.is_active())
            .map(|(_, session)| session.applied)
            .min()
    }

    fn tick_interval(&self) -> Duration {
        self.session / TICKS_PER_SESSION
    }

    /// Ticks go on as long as a session may end or a fence is owed, and only then.
    fn watch_from(&mut self, now: Duration) {
        let watched = self
            .brokers
            .values()
            .any(|session| session.heard.is_some() || !session.registered.fenced);
        self.ticked = if watched { self.ticked.or(Some(now)) } else { None };
    }
}

/// A transition unless one is in flight, or one has failed just now.
fn propose(
    session: &mut Session,
    broker: BrokerId,
    to: Flags,
    now: Duration,
) -> Option<Transition> {
    if session.in_flight || session.retry_at > now {
        return None;
    }
    session.in_flight = true;
    Some(Transition { broker, epoch: session.registered.epoch, to })
}
