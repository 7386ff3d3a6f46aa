//! What survives a power loss of all that was not synced.

use crate::random::Random;

/// Which of the unsynced changes a power loss spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Survival {
    /// None: only what was synced is left.
    LoseAll,
    /// All, whole.
    KeepAll,
    /// Any of them, each by itself; a write may be cut at any byte or lack any of its sectors of
    /// 512 bytes. The seed alone decides.
    Random(u64),
}

impl Survival {
    pub(crate) fn toss(self) -> Toss {
        let Self::Random(seed) = self else { return Toss { survival: self, random: None } };
        let mut random = Random::new(seed);
        // Little, half or much survives: with one rate, long sequences would always be ragged.
        let percent = [10, 50, 90][random.below(3) as usize];
        Toss { survival: self, random: Some((random, percent)) }
    }
}

/// Decides for one change after the other.
pub(crate) struct Toss {
    survival: Survival,
    random: Option<(Random, u64)>,
}

impl Toss {
    /// Whether the next change, or sector, survives.
    pub(crate) fn survives(&mut self) -> bool {
        match &mut self.random {
            Some((random, percent)) => random.chance(*percent),
            None => self.survival == Survival::KeepAll,
        }
    }

    /// Where a surviving write of `len` bytes is cut, if it is.
    pub(crate) fn cut(&mut self, len: usize) -> Option<usize> {
        let (random, _) = self.random.as_mut()?;
        let cut = random.below(len as u64) as usize;
        random.chance(25).then_some(cut)
    }

    /// Whether a surviving write that is not cut lacks sectors.
    pub(crate) fn is_scattered(&mut self) -> bool {
        self.random.as_mut().is_some_and(|(random, _)| random.chance(30))
    }
}
