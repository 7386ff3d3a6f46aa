//! [`Ballast`]: a state machine with as much state as is wanted.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_statemachine::{ApplyError, Cause, Image, RestoreError, StateHash, StateMachine};

use crate::groups::count::{Count, Unwatched};

/// What the state grows by at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// What each command takes to apply, at least, in this process.
static APPLY_MICROS: AtomicU64 = AtomicU64::new(0);

/// The first byte of a command that makes state; any other command is only counted.
const FILL: u8 = 1;
const COUNT: u8 = 2;

/// Bytes before the chunks in a snapshot.
const HEAD_LEN: usize = 24;

/// A number of commands, what they were, and chunks of bytes that cannot be compressed. Chunks never
/// change, so an image is a pointer to them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ballast {
    chunks: Arc<Vec<Box<[u8]>>>,
    commands: u64,
    /// Of all commands and where they stood.
    digest: u64,
}

impl Ballast {
    /// A command that adds `bytes` of state, the same ones for the same `seed`.
    pub(crate) fn fill(seed: u64, bytes: u64) -> Bytes {
        [&[FILL][..], &seed.to_le_bytes(), &bytes.to_le_bytes()].concat().into()
    }

    /// A command of `len` bytes that adds none.
    pub(crate) fn command(len: usize) -> Bytes {
        vec![COUNT; len.max(1)].into()
    }

    /// Makes every command of this process take so long to apply, from now on.
    pub(crate) fn slow_down(each: Duration) {
        let micros = u64::try_from(each.as_micros()).unwrap_or(u64::MAX);
        APPLY_MICROS.store(micros, Ordering::Relaxed);
    }

    /// Bytes of state.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// Commands that were applied.
    pub(crate) fn commands(&self) -> u64 {
        self.commands
    }
}

impl StateMachine for Ballast {
    type Image = Ballast;
    type Outcome = u64;
    type Changes = Unwatched;

    fn new() -> Self {
        Ballast::default()
    }

    fn apply(&mut self, index: u64, command: &[u8], _: &mut Unwatched) -> Result<u64, ApplyError> {
        let slow = APPLY_MICROS.load(Ordering::Relaxed);
        if slow > 0 {
            wait(Duration::from_micros(slow));
        }
        if command.first() == Some(&FILL) {
            let (seed, bytes) = (word(command, 1), word(command, 9));
            let chunks = Arc::make_mut(&mut self.chunks);
            let mut random = Xorshift(seed | 1);
            let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
            while left > 0 {
                let mut chunk = vec![0; left.min(CHUNK_BYTES)];
                chunk.chunks_mut(8).for_each(|to| {
                    to.copy_from_slice(&random.next().to_le_bytes()[..to.len()]);
                });
                left -= chunk.len();
                chunks.push(chunk.into());
            }
        }
        self.commands += 1;
        self.digest = mixed(mixed(self.digest, &index.to_le_bytes()), command);
        Ok(self.commands)
    }

    fn encode_outcome(outcome: &u64) -> Bytes {
        Count::encode_outcome(outcome)
    }

    fn decode_outcome(bytes: &[u8]) -> Result<u64, Cause> {
        Count::decode_outcome(bytes)
    }

    fn image(&self) -> Ballast {
        self.clone()
    }

    fn restore(snapshot: &mut dyn io::Read) -> Result<Self, RestoreError> {
        let mut head = [0; HEAD_LEN];
        snapshot.read_exact(&mut head)?;
        let mut left = word(&head, 16);
        let mut chunks = Vec::new();
        while left > 0 {
            let len = left.min(CHUNK_BYTES as u64);
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            if snapshot.take(len).read_to_end(&mut chunk)? as u64 != len {
                return Err(RestoreError::Truncated { record: chunks.len() as u64 });
            }
            chunks.push(chunk.into_boxed_slice());
            left -= len;
        }
        if snapshot.read(&mut [0])? > 0 {
            return Err(RestoreError::Trailing { records: chunks.len() as u64 });
        }
        let (commands, digest) = (word(&head, 0), word(&head, 8));
        Ok(Ballast { chunks: Arc::new(chunks), commands, digest })
    }
}

impl Image for Ballast {
    fn write_snapshot(&self, out: &mut dyn io::Write) -> io::Result<()> {
        for word in [self.commands, self.digest, self.state_bytes()] {
            out.write_all(&word.to_le_bytes())?;
        }
        self.chunks.iter().try_for_each(|chunk| out.write_all(chunk))
    }

    fn state_hash(&self) -> StateHash {
        let of_state = self.chunks.iter().fold(0, |hash, chunk| mixed(hash, chunk));
        StateHash::new(u128::from(of_state) << 64 | u128::from(self.digest))
    }
}

/// Takes so long, however often the thread is woken.
fn wait(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now())
        && !left.is_zero()
    {
        std::thread::park_timeout(left);
    }
}

/// A hash that tells apart what differs by accident; nobody forges here.
pub(crate) fn mixed(hash: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(hash, |hash, chunk| {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        let word = u64::from_le_bytes(padded).wrapping_add(chunk.len() as u64);
        (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

/// The eight bytes at `offset`; 0 where they are not there.
fn word(bytes: &[u8], offset: usize) -> u64 {
    let word = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |word| u64::from_le_bytes(*word))
}

/// Marsaglia's generator: fast, and nothing that a disk or a network could compress.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_restored_as_it_was() {
        let mut state = Ballast::new();
        state.apply(2, &Ballast::fill(7, 3 * CHUNK_BYTES as u64 / 2), &mut Unwatched).unwrap();
        state.apply(3, &Ballast::command(128), &mut Unwatched).unwrap();
        let mut stream = Vec::new();
        state.image().write_snapshot(&mut stream).unwrap();
        let restored = Ballast::restore(&mut &stream[..]).unwrap();
        assert_eq!(restored.state_hash(), state.state_hash());
        assert_eq!((restored.commands(), restored.state_bytes()), (2, 3 << 19));
        let cut = Ballast::restore(&mut &stream[..stream.len() - 1]);
        assert!(matches!(cut, Err(RestoreError::Truncated { record: 1 })), "{cut:?}");
        stream.push(0);
        let trailing = Ballast::restore(&mut &stream[..]);
        assert!(matches!(trailing, Err(RestoreError::Trailing { .. })), "{trailing:?}");
    }

    #[test]
    fn hashes_tell_states_apart() {
        let of = |commands: [&Bytes; 2]| {
            let mut state = Ballast::new();
            for (index, command) in (2..).zip(commands) {
                state.apply(index, command, &mut Unwatched).unwrap();
            }
            state.state_hash()
        };
        let (fill, other) = (Ballast::fill(7, 64), Ballast::fill(9, 64));
        let count = Ballast::command(8);
        assert_eq!(of([&fill, &count]), of([&fill, &count]));
        assert_ne!(of([&fill, &count]), of([&other, &count]));
        assert_ne!(of([&fill, &count]), of([&count, &fill]));
    }
}
