//! [`Lap`]: what became of the operations of one stretch of time.

use std::time::{Duration, Instant};

use hdrhistogram::CreationError;
use serde::{Deserialize, Serialize};

use crate::latency::Latencies;

/// What became of the operations that ended within it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Lap {
    pub(crate) seconds: f64,
    pub(crate) acknowledged: u64,
    /// Those that had no effect, or of which it is unknown.
    pub(crate) refused: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Lap {
    /// Operations in a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.acknowledged as f64 / self.seconds
    }
}

/// A lap that is not over yet.
pub(crate) struct Tally {
    begin: Instant,
    latencies: Latencies,
    acknowledged: u64,
    refused: u64,
}

impl Tally {
    /// One that begins now.
    pub(crate) fn new() -> Result<Tally, CreationError> {
        let (begin, latencies) = (Instant::now(), Latencies::new()?);
        Ok(Tally { begin, latencies, acknowledged: 0, refused: 0 })
    }

    /// Notes one that was acknowledged.
    pub(crate) fn acknowledged(&mut self, took: Duration) {
        self.acknowledged += 1;
        self.latencies.note(took);
    }

    /// Notes so many that were not.
    pub(crate) fn refused(&mut self, count: u64) {
        self.refused += count;
    }

    /// How long it has lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The lap as it is now.
    pub(crate) fn lap(&self) -> Lap {
        self.lap_of(self.elapsed())
    }

    /// The lap, where it was over after `took`.
    pub(crate) fn lap_of(&self, took: Duration) -> Lap {
        let quantile_us = |quantile| self.latencies.quantile_us(quantile).unwrap_or_default();
        Lap {
            seconds: took.as_secs_f64(),
            acknowledged: self.acknowledged,
            refused: self.refused,
            p50_us: quantile_us(0.5),
            p99_us: quantile_us(0.99),
            p999_us: quantile_us(0.999),
            max_us: quantile_us(1.0),
        }
    }
}
