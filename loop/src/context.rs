//! [`Context`]: what stands in an entry of the log beside its data.
//!
//! An ordinary command has none. Field numbers are given once: a change of the membership has 1, what
//! is of a client session 2, which groups there are 8 ([`crate::catalogue_change`]). Every byte must be
//! understood: whoever skipped a part of it would apply something else than the others.

use bytes::Bytes;
use prost::Message as _;
use quorate_statemachine::CommandId;
use quorate_statemachine::canonical::Canonical;

use crate::change::{Change, StepWire};
use crate::proposal::SessionStep;

/// What an entry says beside its data cannot be read, or does not fit it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an entry's context cannot be read ({0}): run the version that proposed it")]
pub struct ContextError(pub(crate) String);

/// What is beside the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Context {
    /// Nothing: an ordinary command, or how a leader opens its term.
    None,
    /// A change of the membership.
    Change(Change),
    /// A step in a client session.
    Session(SessionStep),
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContextWire {
    #[prost(message, repeated, tag = "1")]
    steps: Vec<StepWire>,
    #[prost(message, optional, tag = "2")]
    session: Option<SessionWire>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct SessionWire {
    /// 1 open, 2 command, 3 close.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint64, tag = "2")]
    session: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(uint64, tag = "4")]
    lowest_unfinished: u64,
}

impl Context {
    /// The bytes; none of nothing.
    pub(crate) fn encode(&self) -> Bytes {
        let wire = match self {
            Context::None => ContextWire::default(),
            Context::Change(change) => ContextWire {
                steps: change.steps.iter().map(StepWire::from).collect(),
                session: None,
            },
            Context::Session(step) => {
                ContextWire { steps: Vec::new(), session: Some(SessionWire::from(*step)) }
            }
        };
        wire.encode_to_vec().into()
    }

    /// Reads the bytes.
    ///
    /// # Errors
    ///
    /// When not every byte is understood: this version must not go on, since others may have.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Context, ContextError> {
        if let Some(command) = command_of(bytes) {
            return Ok(Context::Session(SessionStep::Command(command)));
        }
        let wire = ContextWire::decode(bytes).map_err(|e| ContextError(e.to_string()))?;
        if !wire.is_all_of(bytes) {
            return Err(ContextError("it says more than is known here".into()));
        }
        match wire.session {
            Some(_) if !wire.steps.is_empty() => {
                Err(ContextError("it is of a session and of the membership".into()))
            }
            Some(session) => Ok(Context::Session(session.try_into()?)),
            None if wire.steps.is_empty() => Ok(Context::None),
            None => Ok(Context::Change(Change::of_wire(&wire.steps)?)),
        }
    }
}

/// The command of a session, where these bytes are one; of a log in sessions that is every entry. `None`
/// leaves it to the whole reader what they are.
fn command_of(bytes: &[u8]) -> Option<CommandId> {
    let mut context = Canonical::new(bytes);
    let mut step = Canonical::new(context.bytes(2)?);
    let is_command = context.is_empty() && step.number(1)? == 2;
    let (session, sequence) = (step.number(2)?, step.number(3)?);
    let lowest_unfinished = step.number(4)?;
    let is_whole = is_command && step.is_empty();
    is_whole.then_some(CommandId { session, sequence, lowest_unfinished })
}

impl ContextWire {
    /// Whether these bytes say what it says, in the one way in which it is said, and nothing else.
    fn is_all_of(&self, bytes: &[u8]) -> bool {
        self.encode_to_vec() == bytes
    }
}

impl From<SessionStep> for SessionWire {
    fn from(step: SessionStep) -> Self {
        let of = |kind, session| SessionWire { kind, session, ..SessionWire::default() };
        match step {
            SessionStep::Open => of(1, 0),
            SessionStep::Command(CommandId { session, sequence, lowest_unfinished }) => {
                SessionWire { sequence, lowest_unfinished, ..of(2, session) }
            }
            SessionStep::Close(session) => of(3, session),
        }
    }
}

impl TryFrom<SessionWire> for SessionStep {
    type Error = ContextError;

    fn try_from(wire: SessionWire) -> Result<Self, ContextError> {
        let SessionWire { kind, session, sequence, lowest_unfinished } = wire;
        let step = match kind {
            1 => SessionStep::Open,
            2 => SessionStep::Command(CommandId { session, sequence, lowest_unfinished }),
            3 => SessionStep::Close(session),
            other => return Err(ContextError(format!("step {other} of a session is unknown"))),
        };
        // The same numbers again, so that none was ignored.
        if SessionWire::from(step) == wire {
            Ok(step)
        } else {
            Err(ContextError("a step of a session has numbers that it cannot have".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::Entry;

    use super::*;
    use crate::meaning::session_step_of;

    const COMMAND: SessionStep =
        SessionStep::Command(CommandId { session: 7, sequence: 300, lowest_unfinished: 299 });

    fn entry(context: Bytes, data: &'static [u8]) -> Entry {
        Entry { context, data: Bytes::from_static(data), ..Entry::default() }
    }

    #[test]
    fn the_bytes_of_a_step_never_change() {
        for (step, bytes) in [
            (SessionStep::Open, &[0x12, 2, 8, 1][..]),
            (COMMAND, &[0x12, 10, 8, 2, 16, 7, 24, 0xac, 2, 32, 0xab, 2]),
            (SessionStep::Close(7), &[0x12, 4, 8, 3, 16, 7]),
        ] {
            let context = Context::Session(step);
            assert_eq!(context.encode(), bytes, "{step:?}");
            assert_eq!(Context::decode(bytes), Ok(context));
        }
        assert_eq!(Context::None.encode(), Bytes::new());
        assert_eq!(Context::decode(&[]), Ok(Context::None));
    }

    /// To see it fail: stop before the last byte, or take another kind of step.
    #[test]
    fn a_command_is_read_at_a_glance_as_it_is_read_in_whole() {
        let in_whole = |bytes: &[u8]| -> Option<CommandId> {
            let wire = ContextWire::decode(bytes).ok().filter(|wire| wire.is_all_of(bytes))?;
            match wire.session.filter(|_| wire.steps.is_empty())?.try_into() {
                Ok(SessionStep::Command(id)) => Some(id),
                _ => None,
            }
        };
        for [session, sequence, lowest_unfinished] in
            [[7, 300, 299], [0, 0, 0], [u64::MAX, 1 << 63, 127], [0, 128, 0]]
        {
            let id = CommandId { session, sequence, lowest_unfinished };
            let bytes = Context::Session(SessionStep::Command(id)).encode();
            assert_eq!((command_of(&bytes), in_whole(&bytes)), (Some(id), Some(id)));
            // And everything that is a byte away from it.
            for at in 0..bytes.len() {
                assert_eq!(command_of(&bytes[..at]), None);
                for byte in 0..=u8::MAX {
                    let mut other = bytes.to_vec();
                    other[at] = byte;
                    assert_eq!(command_of(&other), in_whole(&other), "{other:?}");
                    let mut longer = bytes.to_vec();
                    longer.insert(at, byte);
                    longer[1] += u8::from(at > 1);
                    assert_eq!(command_of(&longer), in_whole(&longer), "{longer:?}");
                }
            }
        }
    }

    #[test]
    fn a_step_stands_where_it_fits() {
        let bytes = |step| Context::Session(step).encode();
        assert_eq!(session_step_of(&entry(bytes(COMMAND), b"data")), Ok(Some(COMMAND)));
        assert!(session_step_of(&entry(bytes(COMMAND), b"")).is_err());
        for step in [SessionStep::Open, SessionStep::Close(7)] {
            assert_eq!(session_step_of(&entry(bytes(step), b"")), Ok(Some(step)));
            assert!(session_step_of(&entry(bytes(step), b"data")).is_err());
        }
        assert_eq!(session_step_of(&entry(Bytes::new(), b"data")), Ok(None));
    }

    #[test]
    fn what_is_not_understood_to_the_last_byte_is_an_error() {
        for bad in [
            &[0x12, 2, 8, 4][..],                        // a kind of a later version
            &[0x12, 0],                                  // no kind
            &[0x12, 4, 8, 1, 16, 7],                     // opens one that has a number already
            &[0x12, 6, 8, 3, 16, 7, 24, 1],              // closes a command
            &[0x12, 4, 8, 1, 40, 1],                     // a number of a later version
            &[0x12, 2, 8, 1, 0x1a, 0],                   // a field of a later version
            &[0x0a, 4, 8, 4, 16, 2, 0x12, 2, 8, 1],      // a change of the membership as well
            &[0x12, 9],                                  // cut short
            &[0x12, 4, 16, 7, 8, 3],                     // in another order
            &[0x12, 2, 8, 1, 0x12, 2, 8, 1],             // twice
            &[0x12, 3, 8, 0x81, 0],                      // at greater length than it need
            &[0x12, 6, 8, 0x81, 0x80, 0x80, 0x80, 0x10], // a kind that fits no field of 32 bits
            &[0x0a, 4, 8, 4, 16, 2, 0x1a, 0],            // a change, and a field of a later version
            &[0x0a, 6, 8, 4, 16, 2, 32, 1],              // a step with a field of a later version
            &[0x4a, 0],                                  // of a kind of a later version
        ] {
            assert!(Context::decode(bad).is_err(), "{bad:?}");
        }
    }
}
