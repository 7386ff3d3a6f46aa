//! [`Random`]: the same numbers in every run.

use quorate_statemachine::PartitionKey;

/// SplitMix64, seeded by a constant.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Random {
        Random(0)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `len` places, which is not 0.
    pub(super) fn place(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        usize::try_from(self.next() % len).unwrap_or_default()
    }

    /// Shuffles (Fisher-Yates).
    pub(super) fn shuffle(&mut self, keys: &mut [PartitionKey]) {
        for at in (1..keys.len()).rev() {
            keys.swap(at, self.place(at + 1));
        }
    }
}
