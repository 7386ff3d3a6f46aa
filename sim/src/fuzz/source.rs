//! [`Source`]: where the decisions of a storm come from.

use crate::random::Random;

/// Decisions, one after the other: of a seed without end, or of bytes that a fuzzer chose, as long
/// as they last.
#[derive(Debug)]
pub(super) enum Source<'a> {
    Seed(Random),
    Bytes(&'a [u8]),
}

impl Source<'_> {
    /// Whether there is nothing left to decide with; every decision is 0 then.
    pub(super) fn is_spent(&self) -> bool {
        match self {
            Source::Seed(_) => false,
            Source::Bytes(bytes) => bytes.is_empty(),
        }
    }

    /// Any number.
    pub(super) fn number(&mut self) -> u64 {
        match self {
            Source::Seed(random) => random.next(),
            Source::Bytes(_) => self.take(8),
        }
    }

    /// A number below `bound`; 0 when that is 0. Of bytes it takes no more than it needs, so that
    /// a change of one byte is a change of one decision.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        match self {
            Source::Seed(random) => random.below(bound),
            Source::Bytes(_) => {
                let bytes = if bound <= 1 << 8 { 1 } else { 8 };
                self.take(bytes).checked_rem(bound).unwrap_or(0)
            }
        }
    }

    /// Whether something happens that does so `percent` times in a hundred.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub(super) fn one_of<'a, T>(&mut self, several: &'a [T]) -> Option<&'a T> {
        several.get(self.below(several.len() as u64) as usize)
    }

    /// Up to `most` bytes.
    pub(super) fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    fn take(&mut self, count: usize) -> u64 {
        let Source::Bytes(bytes) = self else { return 0 };
        let (taken, rest) = bytes.split_at(count.min(bytes.len()));
        *bytes = rest;
        taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_decide_as_long_as_they_last() {
        let mut source = Source::Bytes(&[5, 1, 2, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(source.below(4), 1);
        assert_eq!(source.number(), 0x0201);
        assert_eq!(source.one_of(&[1, 2, 3]), Some(&1));
        assert!(source.is_spent());
        assert_eq!((source.number(), source.below(7), source.below(0)), (0, 0, 0));
    }
}
