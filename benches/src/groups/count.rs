//! [`Count`]: the smallest state machine there is, so that the loop is what is measured.

use std::io;

use bytes::Bytes;
use quorate_statemachine::{
    ApplyError, Cause, Changes, Image, RestoreError, StateHash, StateMachine,
};

/// How many commands were applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Count(u64);

/// Nobody watches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unwatched;

impl StateMachine for Count {
    type Image = Count;
    type Outcome = u64;
    type Changes = Unwatched;

    fn new() -> Self {
        Count::default()
    }

    fn apply(&mut self, _: u64, _: &[u8], _: &mut Unwatched) -> Result<u64, ApplyError> {
        self.0 += 1;
        Ok(self.0)
    }

    fn encode_outcome(outcome: &u64) -> Bytes {
        Bytes::copy_from_slice(&outcome.to_le_bytes())
    }

    fn decode_outcome(bytes: &[u8]) -> Result<u64, Cause> {
        Ok(u64::from_le_bytes(bytes.try_into()?))
    }

    fn image(&self) -> Count {
        self.clone()
    }

    fn restore(snapshot: &mut dyn io::Read) -> Result<Self, RestoreError> {
        let mut bytes = [0; 8];
        snapshot.read_exact(&mut bytes)?;
        Ok(Count(u64::from_le_bytes(bytes)))
    }
}

impl Image for Count {
    fn write_snapshot(&self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }

    fn state_hash(&self) -> StateHash {
        StateHash::new(self.0.into())
    }
}

impl<I> Changes<I> for Unwatched {
    fn merge(&mut self, _: Self) {}

    fn between(_: &I, _: &I) -> Self {
        Unwatched
    }

    fn is_empty(&self) -> bool {
        true
    }
}
