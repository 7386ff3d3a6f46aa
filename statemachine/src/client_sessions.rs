//! [`ClientSessions`]: which commands of which client were applied, and what came of each.
//!
//! A client that does not hear what became of a command proposes it again, and the log may then hold
//! it twice. The table stands between the log and a state machine: of all entries with the same
//! (session, sequence) one is applied, and every other one is given what came of that.
//!
//! A session's id is the log index of the entry that opened it, so no id is ever given twice. Of each
//! session the table holds a *mark*, below which the client waits for nothing any more, and what came
//! of the commands from the mark on:
//!
//! ```text
//!          mark              mark + WINDOW
//!  ──────────┼───────────────────┼──────────►  sequence
//!   finished   once, and again     rejected
//!              the same outcome    without effect
//! ```
//!
//! # Invariants
//!
//! - No (session, sequence) is applied twice: what was applied is found here, or lies below the mark,
//!   or belongs to a session that is gone. Marks only grow, and an id does not come back.
//! - The table is a function of the entries alone. All replicas expire the same session at the same
//!   entry, and write the same bytes into a snapshot.
//! - It is bounded: in sessions, in commands of each, in bytes of each and of all.
//!
//! # How a session ends
//!
//! By its client, or by others that are in use: where a bound is exceeded, the session goes whose last
//! entry is the oldest *in the log*. There is no clock in it, so nobody has to measure silence for
//! others, an idle cluster writes nothing to keep sessions alive, and a new leader knows as much as
//! the old one (Ongaro, *Consensus: bridging theory and practice*, 6.3, names both ways). A client that
//! is idle for a week keeps its session while fewer than [`SESSIONS_MAX`] others were in use since. One
//! whose session has gone is told so, and is not applied.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use mutation::Bug;
use prost::Message;

use crate::contract::RestoreError;
use crate::wire::{DecodeError, decode_strict};

// The bounds decide what is applied, so they are the same on all replicas, as the format is: another
// value takes a new version of the table.

/// Sessions at a time; one more expires the least recently used.
pub const SESSIONS_MAX: usize = 4_096;

/// How far a sequence may be ahead of the lowest one that is not finished: commands that one session
/// has under way at most.
pub const WINDOW: u64 = 256;

/// Bytes of outcomes that one session holds; beyond them its further commands are rejected until its
/// mark grows.
pub const SESSION_BYTES_MAX: usize = 1 << 20;

/// Bytes of all sessions; beyond them the least recently used expire.
pub const SESSIONS_BYTES_MAX: usize = 16 << 20;

/// The longest outcome that is kept. Of a longer one is only known that its command was applied.
pub const OUTCOME_BYTES_MAX: usize = 256 << 10;

/// What a session and an outcome cost beside the outcome's bytes, roughly, and more than either takes
/// in a snapshot.
const SESSION_COST: usize = 128;
const OUTCOME_COST: usize = 64;

/// Outcomes for which a session may keep room without having them.
const ROOM: usize = 32;

/// The head of the table in a snapshot: kind and version. The length of the body follows.
const KIND: [u8; 4] = *b"QSES";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 10;

/// Names a command of a session. All tries of it have the same session and sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandId {
    /// The log index of the entry that opened the session.
    pub session: u64,
    /// The command's number in the session; the client counts up.
    pub sequence: u64,
    /// The lowest sequence that the client still waits for. It promises to propose none below it again.
    pub lowest_unfinished: u64,
}

/// Whether a command is to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// For the first time: apply it, and [`ClientSessions::keep`] what comes of it.
    Apply,
    /// It was applied before.
    Applied {
        /// At this index.
        index: u64,
        /// With this outcome, encoded.
        outcome: Bytes,
    },
}

/// Why a command of a session was not applied at its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is no such session: it was closed, or expired. The entry was not applied; whether an
    /// earlier one of the same command was, nobody knows any more.
    #[error("the session has expired: open a new one")]
    Expired,
    /// The client has said that it waits for this command no more.
    #[error("the command is one that its client has finished with")]
    Finished,
    /// The command is too far ahead of the lowest one that is not finished. It was not applied.
    #[error("more than {WINDOW} commands of the session are under way: wait for the first of them")]
    BeyondWindow,
    /// The session holds as many bytes of outcomes as it may. The command was not applied.
    #[error("the session holds too many outcomes: finish its first commands")]
    Full,
    /// The command was applied by an earlier entry, and its outcome was too long to be kept.
    #[error("the command was applied before, with an outcome too long to be kept")]
    OutcomeNotKept,
}

/// The table. Clones are O(1), as those of an image are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientSessions {
    sessions: OrdMap<u64, Arc<ClientSession>>,
    bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ClientSession {
    mark: u64,
    /// The index of its last entry, which is no other session's.
    used: u64,
    /// By sequence, none below the mark. Most commands are applied in the order of their numbers: what is
    /// new comes last, and what is finished is first.
    applied: VecDeque<Kept>,
    bytes: usize,
}

/// A command that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    sequence: u64,
    index: u64,
    /// `None` where it was too long.
    outcome: Option<Bytes>,
}

impl Kept {
    fn cost(&self) -> usize {
        OUTCOME_COST + self.outcome.as_ref().map_or(0, Bytes::len)
    }

    fn to_wire(&self) -> AppliedWire {
        let Kept { sequence, index, outcome } = self;
        AppliedWire { sequence: *sequence, index: *index, outcome: outcome.clone() }
    }
}

impl ClientSession {
    /// Forgets what the client has finished with.
    fn raise(&mut self, mark: u64) {
        if mark > self.mark {
            self.mark = mark;
            while let Some(finished) = self.applied.pop_front_if(|kept| kept.sequence < mark) {
                self.bytes -= finished.cost();
            }
            // A session that was busy once does not keep the room for it.
            if self.applied.capacity() > ROOM && self.applied.len() < self.applied.capacity() / 8 {
                self.applied.shrink_to(ROOM);
            }
        }
    }

    fn find(&self, sequence: u64) -> Result<Admission, SessionError> {
        if sequence < self.mark {
            return Err(SessionError::Finished);
        }
        let kept = self.place(sequence).ok().map(|place| &self.applied[place]);
        match kept {
            Some(Kept { index, outcome: Some(outcome), .. }) => {
                Ok(Admission::Applied { index: *index, outcome: outcome.clone() })
            }
            Some(Kept { outcome: None, .. }) => Err(SessionError::OutcomeNotKept),
            None if sequence - self.mark >= WINDOW => Err(SessionError::BeyondWindow),
            None if self.bytes >= SESSION_BYTES_MAX => Err(SessionError::Full),
            None => Ok(Admission::Apply),
        }
    }

    /// Where what came of a command is kept, or else would be.
    fn place(&self, sequence: u64) -> Result<usize, usize> {
        match self.applied.back() {
            Some(last) if sequence <= last.sequence => {
                self.applied.binary_search_by_key(&sequence, |kept| kept.sequence)
            }
            _ => Err(self.applied.len()),
        }
    }
}

impl ClientSessions {
    /// The entry at `index` opens a session, whose id that is.
    pub fn open(&mut self, index: u64) {
        let session =
            ClientSession { mark: 0, used: index, applied: VecDeque::new(), bytes: SESSION_COST };
        self.bytes += session.bytes;
        self.sessions.insert(index, Arc::new(session));
        self.shrink();
    }

    /// An entry closes a session. One that is gone already is none.
    pub fn close(&mut self, session: u64) {
        if let Some(session) = self.sessions.remove(&session) {
            self.bytes -= session.bytes;
        }
    }

    /// Whether the command of the entry at `index` is to be applied.
    ///
    /// # Errors
    ///
    /// Why it is not, nor has an outcome.
    pub fn admit(&mut self, index: u64, id: &CommandId) -> Result<Admission, SessionError> {
        let Some(session) = self.sessions.get_mut(&id.session) else {
            return Err(SessionError::Expired);
        };
        let session = Arc::make_mut(session);
        let bytes = session.bytes;
        session.used = index;
        session.raise(id.lowest_unfinished);
        self.bytes -= bytes - session.bytes;
        session.find(id.sequence)
    }

    /// Keeps what came of the command of the entry at `index`, which was admitted just now.
    pub fn keep(&mut self, index: u64, id: &CommandId, outcome: Bytes) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        let session = Arc::make_mut(session);
        let outcome = (outcome.len() <= OUTCOME_BYTES_MAX).then_some(outcome);
        let kept = Kept { sequence: id.sequence, index, outcome };
        let cost = kept.cost();
        match session.place(id.sequence) {
            Ok(_) => panic!("command {id:?} was applied twice"),
            Err(place) => session.applied.insert(place, kept),
        }
        session.bytes += cost;
        self.bytes += cost;
        self.shrink();
    }

    /// Expires the least recently used sessions, down to the bounds. The last one used stays: it alone
    /// does not exceed them.
    ///
    /// Each is searched for among all: some 4,000 looks where there are as many as may be, for each that is
    /// opened then. A session is opened and expires once, and is used all the time.
    fn shrink(&mut self) {
        while self.sessions.len() > SESSIONS_MAX || self.bytes > SESSIONS_BYTES_MAX {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used);
            let Some((&session, _)) = oldest else { return };
            self.close(session);
        }
    }

    /// Every outcome that is kept: whoever restores a table sees to it that it can read them.
    pub fn outcomes(&self) -> impl Iterator<Item = &Bytes> {
        let applied = self.sessions.values().flat_map(|session| &session.applied);
        applied.filter_map(|kept| kept.outcome.as_ref())
    }

    /// Writes the table as it stands at the head of a snapshot: equal tables, equal bytes.
    ///
    /// # Errors
    ///
    /// Only those of `out`.
    pub fn write_snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        let body = self.to_wire().encode_to_vec();
        let len = u32::try_from(body.len()).map_err(io::Error::other)?;
        out.write_all(&KIND)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(&body)
    }

    /// Reads the table at the head of a snapshot, and returns what follows it. A snapshot that begins
    /// with something else is from before there were sessions: it has none, and all of it follows.
    ///
    /// # Errors
    ///
    /// A table that is cut short, of a later version, or that cannot be.
    pub fn read_snapshot<'a>(
        snapshot: &'a mut dyn Read,
    ) -> Result<(Self, Box<dyn Read + 'a>), RestoreError> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        Read::take(&mut *snapshot, HEAD_BYTES as u64).read_to_end(&mut head)?;
        let table = match head.split_first_chunk() {
            Some((&KIND, rest)) => rest,
            _ => return Ok((Self::default(), Box::new(io::Cursor::new(head).chain(snapshot)))),
        };
        let Some(&[v0, v1, l0, l1, l2, l3]) = table.first_chunk() else {
            return Err(RestoreError::Truncated { record: 0 });
        };
        if u16::from_le_bytes([v0, v1]) != VERSION {
            return Err(RestoreError::Unknown { record: 0 });
        }
        let len = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
        let max = SESSIONS_BYTES_MAX as u64;
        if len > max {
            return Err(RestoreError::RecordTooLong { record: 0, len, max });
        }
        let mut body = Vec::new();
        if Read::take(&mut *snapshot, len).read_to_end(&mut body)? as u64 != len {
            return Err(RestoreError::Truncated { record: 0 });
        }
        let wire = decode_strict(&body).map_err(|error| match error {
            DecodeError::Unknown => RestoreError::Unknown { record: 0 },
            error => RestoreError::Malformed { record: 0, source: error.into() },
        })?;
        let table = Self::of_wire(wire)
            .map_err(|what| RestoreError::Malformed { record: 0, source: what.into() })?;
        Ok((table, Box::new(snapshot)))
    }

    fn to_wire(&self) -> TableWire {
        let session = |(&id, session): (&u64, &Arc<ClientSession>)| SessionWire {
            id,
            mark: session.mark,
            used: session.used,
            applied: session.applied.iter().map(Kept::to_wire).collect(),
        };
        TableWire { sessions: self.sessions.iter().map(session).collect() }
    }

    fn of_wire(wire: TableWire) -> Result<Self, &'static str> {
        let (mut table, mut uses) = (Self::default(), BTreeSet::new());
        let forgotten = usize::from(mutation::is(Bug::OldestSessionForgotten));
        for SessionWire { id, mark, used, applied } in wire.sessions.into_iter().skip(forgotten) {
            if table.sessions.get_max().is_some_and(|(last, _)| *last >= id) || used < id || id == 0
            {
                return Err("a session out of order");
            }
            let mut session =
                ClientSession { mark, used, applied: VecDeque::new(), bytes: SESSION_COST };
            for AppliedWire { sequence, index, outcome } in applied {
                let ascends = session.applied.back().is_none_or(|last| last.sequence < sequence);
                let is_within = sequence.checked_sub(mark).is_some_and(|ahead| ahead < WINDOW);
                let is_known = (id..=used).contains(&index);
                if !ascends || !is_within || !is_known {
                    return Err("a command that its session cannot have");
                }
                if outcome.as_ref().is_some_and(|it| it.len() > OUTCOME_BYTES_MAX) {
                    return Err("an outcome longer than any that is kept");
                }
                let kept = Kept { sequence, index, outcome };
                session.bytes += kept.cost();
                session.applied.push_back(kept);
            }
            table.bytes += session.bytes;
            if !uses.insert(used) {
                return Err("two sessions of one entry");
            }
            table.sessions.insert(id, Arc::new(session));
        }
        if table.sessions.len() > SESSIONS_MAX || table.bytes > SESSIONS_BYTES_MAX {
            return Err("more sessions than there may be");
        }
        Ok(table)
    }
}

/// The table's body in a snapshot: sessions by id.
#[derive(Clone, PartialEq, Message)]
struct TableWire {
    #[prost(message, repeated, tag = "1")]
    sessions: Vec<SessionWire>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionWire {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mark: u64,
    #[prost(uint64, tag = "3")]
    used: u64,
    /// By sequence.
    #[prost(message, repeated, tag = "4")]
    applied: Vec<AppliedWire>,
}

#[derive(Clone, PartialEq, Message)]
struct AppliedWire {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(bytes = "bytes", optional, tag = "3")]
    outcome: Option<Bytes>,
}

#[cfg(test)]
mod tests;
