//! [`Meaning`]: what an entry of the log is.
//!
//! Whoever takes an entry in or hands it out reads it once, and asks for all of it: of what it says
//! nothing may be passed over.

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeV2, Entry, EntryType};

use crate::catalogue_change::CatalogueChange;
use crate::change::{Change, Step};
use crate::context::{Context, ContextError};
use crate::proposal::SessionStep;

/// What an entry is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Meaning {
    /// A command of no session; an empty one opens a leader's term.
    Command,
    /// A step in a client session, with a command or without.
    Session(SessionStep),
    /// A change of the membership: for Raft, where it must know of it, and for us.
    Members(Option<Box<ConfChangeV2>>, Change),
    /// A change of which groups there are.
    Groups(CatalogueChange),
}

impl Meaning {
    /// Reads an entry.
    ///
    /// # Errors
    ///
    /// When it cannot be read to the last byte: this version must not go on, since others may have.
    pub(crate) fn of(entry: &Entry) -> Result<Meaning, ContextError> {
        match entry.get_entry_type() {
            EntryType::EntryNormal if entry.context.is_empty() => Ok(Meaning::Command),
            EntryType::EntryNormal if CatalogueChange::is_in(entry) => {
                CatalogueChange::decode(entry).map(Meaning::Groups)
            }
            EntryType::EntryNormal => Meaning::of_context(entry),
            EntryType::EntryConfChangeV2 => Meaning::of_conf_change(entry),
            EntryType::EntryConfChange => Err(ContextError("it is of an old kind".into())),
        }
    }

    fn of_context(entry: &Entry) -> Result<Meaning, ContextError> {
        match Context::decode(&entry.context)? {
            Context::Session(step) if step.has_command() == entry.data.is_empty() => {
                Err(ContextError("its data does not fit it".into()))
            }
            Context::Session(step) => Ok(Meaning::Session(step)),
            Context::Change(change) if !change.steps.iter().all(|step| step.raft().is_none()) => {
                Err(ContextError("Raft is not told of what it must know".into()))
            }
            Context::Change(change) => Ok(Meaning::Members(None, change)),
            // What says nothing has no bytes.
            Context::None => Ok(Meaning::Command),
        }
    }

    /// Without a context nothing changes: a joint configuration is left.
    fn of_conf_change(entry: &Entry) -> Result<Meaning, ContextError> {
        let mut raft = ConfChangeV2::default();
        raft.merge_from_bytes(&entry.data).map_err(|e| ContextError(e.to_string()))?;
        let change = match Context::decode(&raft.context)? {
            Context::Change(change) => change,
            Context::None => Change::default(),
            Context::Session(_) => {
                return Err(ContextError("a session changes no membership".into()));
            }
        };
        let expected: Vec<ConfChangeSingle> = change.steps.iter().filter_map(Step::raft).collect();
        if raft.get_changes() != expected {
            return Err(ContextError("it says one thing to Raft and another to us".into()));
        }
        Ok(Meaning::Members(Some(Box::new(raft)), change))
    }
}

/// The step in a client session that an entry of a log is, for whoever reads one; `None` of any other
/// entry.
///
/// # Errors
///
/// When it cannot be read.
pub fn session_step_of(entry: &Entry) -> Result<Option<SessionStep>, ContextError> {
    match Meaning::of(entry)? {
        Meaning::Session(step) => Ok(Some(step)),
        Meaning::Command | Meaning::Members(..) | Meaning::Groups(_) => Ok(None),
    }
}

/// The steps of an entry that changes the membership, for whoever reads a log; none of one that
/// leaves a joint configuration. `None` for an entry that changes nothing of it. That an entry is in
/// the log does not say that it took effect: one that does not fit what was before it is void.
pub fn steps_of(entry: &Entry) -> Option<Result<Vec<Step>, ContextError>> {
    match Meaning::of(entry) {
        Ok(Meaning::Members(_, change)) => Some(Ok(change.steps)),
        Ok(Meaning::Command | Meaning::Session(_) | Meaning::Groups(_)) => None,
        Err(error) => (!CatalogueChange::is_in(entry)).then_some(Err(error)),
    }
}

/// What an entry says about which groups there are, for whoever reads a log; `None` for one that says
/// nothing about it.
pub fn catalogue_change_of(entry: &Entry) -> Option<Result<CatalogueChange, ContextError>> {
    CatalogueChange::is_in(entry).then(|| CatalogueChange::decode(entry))
}
