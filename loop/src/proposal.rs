//! [`Proposal`]: what a caller wants to have in the log.

use bytes::Bytes;
use quorate_statemachine::CommandId;
use raft::eraftpb::Entry;

use crate::context::Context;

/// A command, and the client session that it is of, if any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The encoded command; empty where a session is opened or closed.
    pub command: Bytes,
    /// What it does in a client session.
    pub session: Option<SessionStep>,
}

/// What an entry does in a client session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionStep {
    /// Opens one, whose id is the index of the entry.
    Open,
    /// Has the entry's command applied once, however often it is in the log.
    Command(CommandId),
    /// Closes the session with this id.
    Close(u64),
}

impl SessionStep {
    /// Whether a command belongs to it.
    pub(crate) fn has_command(&self) -> bool {
        matches!(self, SessionStep::Command(_))
    }
}

impl From<Bytes> for Proposal {
    /// A command of no session.
    fn from(command: Bytes) -> Self {
        Proposal { command, session: None }
    }
}

impl From<SessionStep> for Proposal {
    /// A step without a command.
    fn from(step: SessionStep) -> Self {
        Proposal { command: Bytes::new(), session: Some(step) }
    }
}

impl Proposal {
    /// Whether it may be an entry: an ordinary one that is empty is how a leader opens its term, and
    /// one that is too long would make an append that no frame can carry.
    pub(crate) fn is_sound(&self, command_bytes_max: usize) -> bool {
        match self.session {
            Some(step) if !step.has_command() => self.command.is_empty(),
            _ => (1..=command_bytes_max).contains(&self.command.len()),
        }
    }

    /// The entry that it becomes; its index and term are Raft's to give.
    pub(crate) fn into_entry(self) -> Entry {
        let context = self.session.map_or(Context::None, Context::Session).encode();
        Entry { data: self.command, context, ..Entry::default() }
    }
}
