//! [`Latencies`]: how long many operations took, in nanoseconds up to the report.

use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};

/// Longer operations count as this: a minute is a failure, not a latency.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// How long many operations of one kind took.
pub(crate) struct Latencies {
    nanos: Histogram<u64>,
    busy: Duration,
}

impl Latencies {
    /// None yet.
    pub(crate) fn new() -> Result<Latencies, CreationError> {
        // Three digits: what is compared differs by percents. And bounds: a histogram without them
        // grows when a value is recorded, but saturates at what it has when one is saturated.
        let nanos = Histogram::new_with_max(nanos(LATENCY_MAX), 3)?;
        Ok(Latencies { nanos, busy: Duration::ZERO })
    }

    /// Notes one operation.
    pub(crate) fn note(&mut self, took: Duration) {
        self.nanos.saturating_record(nanos(took));
        self.busy += took;
    }

    /// The time that this share of the operations did not exceed, in microseconds; `None` before
    /// the first.
    pub(crate) fn quantile_us(&self, quantile: f64) -> Option<f64> {
        let nanos = self.nanos.value_at_quantile(quantile) as f64;
        (!self.nanos.is_empty()).then_some(nanos / 1000.0)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.nanos.len()
    }

    /// The longest, in microseconds; `None` before the first.
    pub(crate) fn max_us(&self) -> Option<f64> {
        (!self.nanos.is_empty()).then(|| self.nanos.max() as f64 / 1000.0)
    }

    /// How many took at most so long and longer than the step before, in steps that double from
    /// `first`.
    pub(crate) fn doubling(&self, first: Duration) -> Vec<(Duration, u64)> {
        let steps = self.nanos.iter_log(nanos(first), 2.0);
        steps
            .map(|step| {
                let up_to = Duration::from_nanos(step.value_iterated_to() + 1);
                (up_to, step.count_since_last_iteration())
            })
            .collect()
    }

    /// Operations in a second of nothing else; `None` before the first.
    pub(crate) fn per_second(&self) -> Option<f64> {
        (!self.nanos.is_empty()).then(|| self.nanos.len() as f64 / self.busy.as_secs_f64())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_in_the_step_that_it_did_not_exceed() {
        let mut latencies = Latencies::new().unwrap();
        for millis in [1, 2, 3, 7, 9] {
            latencies.note(Duration::from_millis(millis));
        }
        assert_eq!((latencies.count(), latencies.max_us().unwrap().round()), (5, 9_003.0));
        let counts: Vec<u64> =
            latencies.doubling(Duration::from_millis(4)).into_iter().map(|step| step.1).collect();
        assert_eq!(counts, [3, 1, 1]);
    }

    #[test]
    fn latencies_are_told_as_they_were() {
        let mut latencies = Latencies::new().unwrap();
        assert_eq!((latencies.quantile_us(0.5), latencies.per_second()), (None, None));
        for millis in 1..=100 {
            latencies.note(Duration::from_millis(millis));
        }
        let p50 = latencies.quantile_us(0.5).unwrap();
        let p99 = latencies.quantile_us(0.99).unwrap();
        assert!((p50 / 50_000.0 - 1.0).abs() < 0.002, "{p50}");
        assert!((p99 / 99_000.0 - 1.0).abs() < 0.002, "{p99}");
        let rate = latencies.per_second().unwrap();
        assert!((rate - 100.0 / 5.05).abs() < 1e-9, "{rate}");
    }
}
