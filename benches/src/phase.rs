//! [`Phase`]: what became of the proposals to a fleet during one stretch of a run.

use std::time::Duration;

use crate::fleet::Fleet;
use crate::lap::Lap;
use crate::process::Failure;
use crate::report::Row;
use crate::spread::Spread;

/// One stretch of a run.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    pub(crate) what: &'static str,
    pub(crate) lap: Lap,
    /// Fsyncs of the leader.
    fsyncs: u64,
    /// CPU time of all nodes, the clients among them.
    cpu: Duration,
    /// Resident memory of the leader at most.
    pub(crate) peak_bytes: u64,
    /// How much that is above what it was at the beginning.
    pub(crate) growth_bytes: u64,
}

impl Phase {
    /// Counts what becomes of the proposals of the leader's process while `meanwhile` goes on.
    pub(crate) fn measure<T>(
        what: &'static str,
        fleet: &mut Fleet,
        leader: usize,
        meanwhile: impl FnOnce(&mut Fleet) -> Result<T, Failure>,
    ) -> Result<(Phase, T), Failure> {
        let memory_bytes = fleet.replicas[leader].memory()?.now_bytes;
        fleet.replicas[leader].forget_peak()?;
        let (fsyncs, cpu) = (fleet.report(leader)?.fsyncs, fleet.cpu_time()?);
        // What came between two phases belongs to none.
        let between = fleet.lap(leader)?;
        let found = meanwhile(fleet)?;
        let lap = fleet.lap(leader)?;
        let fsyncs = fleet.report(leader)?.fsyncs - fsyncs;
        let cpu = fleet.cpu_time()?.saturating_sub(cpu);
        let peak_bytes = fleet.replicas[leader].memory()?.peak_bytes;
        let growth_bytes = peak_bytes.saturating_sub(memory_bytes);
        fleet.acknowledged += between.acknowledged + lap.acknowledged;
        fleet.unknown += between.refused + lap.refused;
        eprintln!(
            "{what}: {:.0}/s for {:.1} s, {} refused, p50 {:.0} us, p99 {:.0} us, max {:.0} us",
            lap.per_second(),
            lap.seconds,
            lap.refused,
            lap.p50_us,
            lap.p99_us,
            lap.max_us,
        );
        Ok((Phase { what, lap, fsyncs, cpu, peak_bytes, growth_bytes }, found))
    }

    /// Proposals in a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.lap.per_second()
    }

    /// A row of the medians of such phases.
    pub(crate) fn row(mode: &str, nodes: u64, phases: &[&Phase]) -> Row {
        let median = |figure: fn(&Phase) -> f64| {
            let spread = Spread::of(phases.iter().map(|phase| figure(phase)));
            spread.map(|spread| spread.median)
        };
        let mut row = Row::new("quorate", mode, u32::try_from(nodes).unwrap_or(u32::MAX));
        row.what = phases.first().map(|phase| phase.what.to_owned());
        row.ops_per_s = median(Phase::per_second);
        row.p50_us = median(|phase| phase.lap.p50_us);
        row.p99_us = median(|phase| phase.lap.p99_us);
        row.p999_us = median(|phase| phase.lap.p999_us);
        row.fsyncs_per_op = median(|phase| phase.per_op(phase.fsyncs as f64));
        row.cpu_us_per_op = median(|phase| phase.per_op(phase.cpu.as_secs_f64() * 1e6));
        row.refused = Some(phases.iter().map(|phase| phase.lap.refused).sum());
        row.rss_bytes = phases.iter().map(|phase| phase.peak_bytes).max();
        row.rss_growth_bytes = phases.iter().map(|phase| phase.growth_bytes).max();
        row
    }

    fn per_op(&self, figure: f64) -> f64 {
        figure / self.lap.acknowledged.max(1) as f64
    }
}
