//! [`Side`]: one line of the comparison, and what its turns gave.

use std::time::Duration;

use crate::compare::contender::Contender;
use crate::compare::drive::Order;
use crate::lap::Lap;
use crate::process::Failure;
use crate::report::Row;
use crate::spread::Spread;

/// Nodes of every system.
const NODES: u32 = 3;

/// What a side is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) system: &'static str,
    pub(super) mode: &'static str,
    pub(super) what: &'static str,
}

/// One line of the comparison.
pub(super) struct Side {
    pub(super) name: Name,
    /// Whether an operation is on the disks of a majority when it is acknowledged.
    pub(super) is_durable: bool,
    /// Whether its operations carry as many bytes as are ordered; else they are what they are.
    pub(super) has_payload: bool,
    contender: Box<dyn Contender>,
    /// Its turns of what is measured now.
    turns: Vec<Turn>,
}

/// What one turn gave.
struct Turn {
    lap: Lap,
    fsyncs: Option<u64>,
    cpu: Duration,
}

impl Side {
    pub(super) fn new(name: Name, contender: impl Contender + 'static) -> Side {
        let (contender, turns) = (Box::new(contender), Vec::new());
        Side { name, is_durable: true, has_payload: true, contender, turns }
    }

    /// One that acknowledges what a power loss may take.
    pub(super) fn not_durable(self) -> Side {
        Side { is_durable: false, ..self }
    }

    /// One whose operations have a size of their own.
    pub(super) fn without_payload(self) -> Side {
        Side { has_payload: false, ..self }
    }

    /// Forgets its turns: something else is measured now.
    pub(super) fn begin(&mut self) {
        self.turns.clear();
    }

    /// Takes a turn that does not count.
    pub(super) fn warm_up(&mut self, order: &Order) -> Result<(), Failure> {
        self.contender.turn(order).map(drop)
    }

    /// Takes a turn.
    pub(super) fn turn(&mut self, order: &Order) -> Result<(), Failure> {
        let (fsyncs, cpu) = (self.contender.fsyncs()?, self.contender.cpu_time()?);
        let lap = self.contender.turn(order)?;
        let cpu = self.contender.cpu_time()?.saturating_sub(cpu);
        let fsyncs = self.contender.fsyncs()?.zip(fsyncs).map(|(now, then)| now - then);
        let Name { system, mode, what } = self.name;
        eprintln!(
            "compare: {system} {mode} {what}, {} clients: {:.0}/s, p50 {:.0} us",
            order.clients,
            lap.per_second(),
            lap.p50_us
        );
        self.turns.push(Turn { lap, fsyncs, cpu });
        Ok(())
    }

    /// What its turns gave, medians of them.
    pub(super) fn row(&self, order: &Order) -> Row {
        let median = |figure: &dyn Fn(&Turn) -> f64| {
            Spread::of(self.turns.iter().map(figure)).map(|spread| spread.median)
        };
        let Name { system, mode, what } = self.name;
        let mut row = Row::new(system, mode, NODES);
        row.what = Some(what.to_owned());
        row.clients = order.clients;
        row.rate = order.rate;
        row.payload_bytes = self.has_payload.then_some(order.payload_bytes);
        row.durable = self.is_durable;
        row.ops_per_s = median(&|turn| turn.lap.per_second());
        row.p50_us = median(&|turn| turn.lap.p50_us);
        row.p99_us = median(&|turn| turn.lap.p99_us);
        row.p999_us = median(&|turn| turn.lap.p999_us);
        row.cpu_us_per_op = median(&|turn| turn.per_op(turn.cpu.as_secs_f64() * 1e6));
        let fsyncs = self.turns.iter().filter_map(|turn| Some(turn.per_op(turn.fsyncs? as f64)));
        row.fsyncs_per_op = Spread::of(fsyncs).map(|spread| spread.median);
        row.acknowledged = Some(self.turns.iter().map(|turn| turn.lap.acknowledged).sum());
        row.refused = Some(self.turns.iter().map(|turn| turn.lap.refused).sum());
        row
    }

    /// Operations a second over those of another, of turns of the same round.
    pub(super) fn throughput_over(&self, other: &Side) -> Option<Spread> {
        self.over(other, Lap::per_second)
    }

    /// The p50 over that of another, of turns of the same round.
    pub(super) fn p50_over(&self, other: &Side) -> Option<Spread> {
        self.over(other, |lap| lap.p50_us)
    }

    fn over(&self, other: &Side, figure: impl Fn(&Lap) -> f64) -> Option<Spread> {
        let rounds = self.turns.iter().zip(&other.turns);
        Spread::of(rounds.map(|(own, other)| figure(&own.lap) / figure(&other.lap)))
    }
}

impl Turn {
    fn per_op(&self, figure: f64) -> f64 {
        figure / self.lap.acknowledged.max(1) as f64
    }
}
