//! [`Histogram`]: how often values of which size occurred, counted without a lock.
//!
//! Buckets are powers of two, so that a value finds its bucket by counting bits. It is our own, and
//! small, so that a program that embeds a node can put the numbers into whatever registry it has.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets with a bound; values beyond the last bound are counted beside them.
const BUCKETS: usize = 21;

/// What the values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Durations. The first bound is 16 µs, the last 16.8 s.
    Seconds,
    /// Lengths. The first bound is 64 bytes, the last 64 MiB.
    Bytes,
    /// Numbers of something. The first bound is 1, the last 1,048,576.
    Count,
}

impl Unit {
    /// The power of two that is the first bound, in microseconds where values are durations.
    const fn first_bound(self) -> u32 {
        match self {
            Unit::Seconds => 4,
            Unit::Bytes => 6,
            Unit::Count => 0,
        }
    }
}

/// Values of one kind, recorded by any thread. Recording costs two additions to atomics.
#[derive(Debug)]
pub(crate) struct Histogram {
    unit: Unit,
    /// By bucket; the last one has no bound.
    counts: [AtomicU64; BUCKETS + 1],
    /// Of all values; in nanoseconds where they are durations, which lasts for 584 years.
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(unit: Unit) -> Self {
        Histogram { unit, counts: Default::default(), sum: AtomicU64::new(0) }
    }

    /// Counts a length or a number.
    pub(crate) fn record(&self, value: u64) {
        self.count(value, value);
    }

    /// Counts a duration.
    pub(crate) fn record_time(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.count(nanos.div_ceil(1_000), nanos);
    }

    fn count(&self, value: u64, sum: u64) {
        // The smallest power of two that is not below the value.
        let bits = u64::BITS - value.saturating_sub(1).leading_zeros();
        let bucket = bits.saturating_sub(self.unit.first_bound()) as usize;
        self.counts[bucket.min(BUCKETS)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(sum, Ordering::Relaxed);
    }

    /// What was recorded until now. A value that is recorded at the same time may be in the counts
    /// and not in the sum yet.
    pub(crate) fn distribution(&self) -> Distribution {
        let mut count = 0;
        let (per_unit, sum_per_unit) = match self.unit {
            Unit::Seconds => (1e6, 1e9),
            Unit::Bytes | Unit::Count => (1.0, 1.0),
        };
        let buckets = self.counts[..BUCKETS].iter().enumerate().map(|(bucket, counted)| {
            count += counted.load(Ordering::Relaxed);
            let bound = (1_u64 << (self.unit.first_bound() as usize + bucket)) as f64 / per_unit;
            (bound, count)
        });
        let buckets = buckets.collect();
        count += self.counts[BUCKETS].load(Ordering::Relaxed);
        let sum = self.sum.load(Ordering::Relaxed) as f64 / sum_per_unit;
        Distribution { buckets, count, sum }
    }
}

/// How the values of one kind are distributed, as of a moment. Durations are in seconds, lengths in
/// bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Ascending bounds, and how many values were at most as large as each.
    pub buckets: Vec<(f64, u64)>,
    /// How many values there were.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bound of the only bucket with something in it; infinity when it has none.
    fn bound_of(distribution: &Distribution) -> f64 {
        assert_eq!(distribution.count, 1);
        let found = distribution.buckets.iter().find(|(_, count)| *count > 0);
        found.map_or(f64::INFINITY, |(bound, _)| *bound)
    }

    #[test]
    fn a_value_is_counted_under_the_first_bound_that_it_does_not_exceed() {
        for (value, bound) in [
            (0, 1.0),
            (1, 1.0),
            (2, 2.0),
            (3, 4.0),
            (1 << 20, 1_048_576.0),
            ((1 << 20) + 1, f64::INFINITY),
            (u64::MAX, f64::INFINITY),
        ] {
            let histogram = Histogram::new(Unit::Count);
            histogram.record(value);
            assert_eq!(bound_of(&histogram.distribution()), bound, "{value}");
        }
        for (nanos, bound) in [(1, 16e-6), (16_000, 16e-6), (16_001, 32e-6), (1_000_000, 1_024e-6)]
        {
            let histogram = Histogram::new(Unit::Seconds);
            histogram.record_time(Duration::from_nanos(nanos));
            assert_eq!(bound_of(&histogram.distribution()), bound, "{nanos} ns");
        }
        let histogram = Histogram::new(Unit::Bytes);
        histogram.record(65);
        assert_eq!(bound_of(&histogram.distribution()), 128.0);
    }

    #[test]
    fn counts_add_up_from_bound_to_bound() {
        let histogram = Histogram::new(Unit::Seconds);
        for millis in [1, 1, 3, 60_000] {
            histogram.record_time(Duration::from_millis(millis));
        }
        let Distribution { buckets, count, sum } = histogram.distribution();
        assert_eq!(buckets.len(), BUCKETS);
        let at_most = |bound: f64| buckets.iter().rfind(|(it, _)| *it <= bound).unwrap().1;
        assert_eq!((at_most(0.0009), at_most(0.002), at_most(0.005), at_most(20.0)), (0, 2, 3, 3));
        assert_eq!((count, sum), (4, 60.005));
    }
}
