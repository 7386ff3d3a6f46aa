//! [`ShownSession`]: what an entry of a log does in a client session, as it is shown.

use std::fmt;

use quorate_loop::SessionStep;
use raft::eraftpb::Entry;
use serde::Serialize;

/// A step in a client session.
#[derive(Debug, Serialize)]
pub(crate) struct ShownSession {
    step: &'static str,
    id: u64,
    /// Of a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// The lowest sequence that the client still waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    lowest_unfinished: Option<u64>,
}

impl ShownSession {
    pub(crate) fn of(step: SessionStep, entry: &Entry) -> ShownSession {
        let of = |step, id| ShownSession { step, id, sequence: None, lowest_unfinished: None };
        match step {
            // The entry gives it its id.
            SessionStep::Open => of("open", entry.index),
            SessionStep::Close(id) => of("close", id),
            SessionStep::Command(command) => ShownSession {
                sequence: Some(command.sequence),
                lowest_unfinished: Some(command.lowest_unfinished),
                ..of("command", command.session)
            },
        }
    }
}

impl fmt::Display for ShownSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, id, sequence, lowest_unfinished } = self;
        match (sequence, lowest_unfinished) {
            (Some(sequence), Some(lowest)) => {
                write!(f, "{step} {sequence} of session {id}, waiting from {lowest} on")
            }
            _ => write!(f, "{step} session {id}"),
        }
    }
}
